//! System calls that neither the standard library nor nix wraps: AF_PACKET sending, ethtool's offloads, and the probes of `doctor`.
#![expect(
    unsafe_code,
    reason = "raw system calls with plain structures of the kernel's ABI"
)]

use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};

use nix::net::if_::if_nametoindex;

/// The most frames that one [`PacketSocket::send`] hands to the kernel.
pub const SEND_BATCH: usize = 32;

/// A socket that sends whole frames through one interface (`packet(7)`).
pub struct PacketSocket {
    fd: OwnedFd,
}

impl PacketSocket {
    /// Opens the socket in the calling thread's network namespace.
    ///
    /// # Errors
    /// No such interface, or no right to do so (CAP_NET_RAW).
    pub fn open(interface: &str) -> io::Result<Self> {
        let index = if_nametoindex(interface)?;
        // Protocol 0: this socket receives nothing.
        // SAFETY: socket() takes no pointers.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        let fd = owned(fd)?;
        // SAFETY: an all-zero sockaddr_ll is a valid value.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = index as i32;
        // SAFETY: the address points to a sockaddr_ll of the length given, which outlives the call.
        let result = unsafe {
            libc::bind(
                fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of::<libc::sockaddr_ll>() as u32,
            )
        };
        check(result)?;
        Ok(Self { fd })
    }

    /// Sends frames in order, at most [`SEND_BATCH`]; answers how many the kernel took, at least one.
    ///
    /// # Errors
    /// Why the first one was not taken. EAGAIN, ENOBUFS: try again; EMSGSIZE: longer than the interface's MTU allows.
    pub fn send(&self, frames: &[&[u8]]) -> io::Result<usize> {
        let frames = &frames[..frames.len().min(SEND_BATCH)];
        let mut parts: [libc::iovec; SEND_BATCH] = [libc::iovec {
            iov_base: std::ptr::null_mut(),
            iov_len: 0,
        }; SEND_BATCH];
        // SAFETY: an all-zero mmsghdr is a valid value (no name, no parts, no control data).
        let mut messages: [libc::mmsghdr; SEND_BATCH] = unsafe { std::mem::zeroed() };
        for (part, frame) in parts.iter_mut().zip(frames) {
            *part = libc::iovec {
                iov_base: frame.as_ptr().cast_mut().cast(),
                iov_len: frame.len(),
            };
        }
        for (message, part) in messages.iter_mut().zip(&mut parts) {
            message.msg_hdr.msg_iov = part;
            message.msg_hdr.msg_iovlen = 1;
        }
        // SAFETY: the first `frames.len()` messages each point to one iovec over a frame; all outlive the call, which only reads
        // the frames.
        let sent = unsafe {
            libc::sendmmsg(
                self.fd.as_raw_fd(),
                messages.as_mut_ptr(),
                frames.len() as u32,
                0,
            )
        };
        usize::try_from(sent).map_err(|_| io::Error::last_os_error())
    }
}

/// What an interface does to packets before AF_XDP sees them; each part is none where the driver does not say.
#[derive(Debug, Default)]
pub struct Offloads {
    /// Whether ntuple filters are on.
    pub ntuple: Option<bool>,
    /// Whether the NIC takes VLAN tags off.
    pub rx_vlan: Option<bool>,
    /// Whether large receive offload is on.
    pub lro: Option<bool>,
    /// Whether generic receive offload is on.
    pub gro: Option<bool>,
}

// include/uapi/linux/ethtool.h
const ETHTOOL_GFLAGS: u32 = 0x25;
const ETHTOOL_GGRO: u32 = 0x2b;
const ETH_FLAG_RXVLAN: u32 = 1 << 8;
const ETH_FLAG_LRO: u32 = 1 << 15;
const ETH_FLAG_NTUPLE: u32 = 1 << 27;

/// Asks ethtool's ioctls about an interface.
///
/// # Errors
/// Only what keeps a socket from being made; what a driver does not answer is none.
pub fn offloads(interface: &str) -> io::Result<Offloads> {
    // SAFETY: socket() takes no pointers.
    let socket =
        owned(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })?;
    let ask = |command: u32| -> Option<u32> {
        // struct ethtool_value: {cmd, data}
        let mut value = [command, 0];
        // SAFETY: an all-zero ifreq is a valid value.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        for (to, from) in request
            .ifr_name
            .iter_mut()
            .take(libc::IFNAMSIZ - 1)
            .zip(interface.bytes())
        {
            *to = from as libc::c_char;
        }
        request.ifr_ifru.ifru_data = value.as_mut_ptr().cast();
        // SAFETY: the request names an interface with a terminating zero and points to an ethtool_value, which is what the commands
        // used here read and write; both outlive the call.
        let result =
            unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCETHTOOL as _, &raw mut request) };
        (result >= 0).then_some(value[1])
    };
    let flags = ask(ETHTOOL_GFLAGS);
    let on = |flag: u32| flags.map(|flags| flags & flag != 0);
    Ok(Offloads {
        ntuple: on(ETH_FLAG_NTUPLE),
        rx_vlan: on(ETH_FLAG_RXVLAN),
        lro: on(ETH_FLAG_LRO),
        gro: ask(ETHTOOL_GGRO).map(|on| on != 0),
    })
}

/// Makes an AF_XDP socket and throws it away.
///
/// # Errors
/// EAFNOSUPPORT: a kernel without CONFIG_XDP_SOCKETS; EPERM: no CAP_NET_RAW.
pub fn probe_af_xdp() -> io::Result<()> {
    // SAFETY: socket() takes no pointers.
    owned(unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) }).map(drop)
}

// include/uapi/linux/bpf.h
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
// include/uapi/linux/if_link.h
const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;

/// The first fields of `union bpf_attr` for BPF_PROG_LOAD, up to `expected_attach_type`.
#[repr(C)]
#[derive(Default)]
struct ProgLoad {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    prog_flags: u32,
    prog_name: [u8; 16],
    prog_ifindex: u32,
    expected_attach_type: u32,
}

/// The first fields of `union bpf_attr` for BPF_LINK_CREATE.
#[repr(C)]
struct LinkCreate {
    prog_fd: u32,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// Loads an XDP program that passes everything; it is attached nowhere.
///
/// # Errors
/// EPERM: no CAP_BPF and CAP_NET_ADMIN, or unprivileged BPF is off; ENOSYS, EINVAL: a kernel without it.
pub fn probe_xdp_program() -> io::Result<OwnedFd> {
    // r0 = XDP_PASS; exit
    let program: [u64; 2] = [0x0000_0002_0000_00b7, 0x0000_0000_0000_0095];
    let attributes = ProgLoad {
        prog_type: BPF_PROG_TYPE_XDP,
        insn_cnt: 2,
        insns: program.as_ptr() as u64,
        license: c"MIT".as_ptr() as u64,
        expected_attach_type: BPF_XDP,
        ..ProgLoad::default()
    };
    // SAFETY: the attributes are laid out as the kernel wants them, of the length given, and the program and the licence they point
    // to outlive the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw const attributes,
            size_of::<ProgLoad>(),
        )
    };
    owned(fd as RawFd)
}

/// Attaches a program that passes everything to an interface by a link (Linux 5.9), and takes it off again. Meant for the
/// loopback interface of a network namespace of its own.
///
/// # Errors
/// As [`probe_xdp_program`]; EINVAL where the kernel knows no such link.
pub fn probe_xdp_link(interface: u32) -> io::Result<()> {
    let program = probe_xdp_program()?;
    let attributes = LinkCreate {
        prog_fd: program.as_raw_fd() as u32,
        target_ifindex: interface,
        attach_type: BPF_XDP,
        flags: XDP_FLAGS_SKB_MODE,
    };
    // SAFETY: the attributes are laid out as the kernel wants them, of the length given, and outlive the call.
    let fd = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_LINK_CREATE,
            &raw const attributes,
            size_of::<LinkCreate>(),
        )
    };
    // The program is off again when its link is closed.
    owned(fd as RawFd).map(drop)
}

/// The commands that `membarrier(2)` offers, as bits.
///
/// # Errors
/// ENOSYS: a kernel without it.
pub fn membarrier_commands() -> io::Result<u32> {
    // SAFETY: MEMBARRIER_CMD_QUERY (0) takes no pointers.
    let commands = unsafe { libc::syscall(libc::SYS_membarrier, 0, 0, 0) };
    u32::try_from(commands).map_err(|_| io::Error::last_os_error())
}

/// Takes a copy of a file descriptor of another process (`pidfd_getfd(2)`).
///
/// # Errors
/// No such process or descriptor, or no right to trace that process.
pub fn fd_of(pid: i32, fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: pidfd_open takes no pointers.
    let process = owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as RawFd)?;
    // SAFETY: pidfd_getfd takes no pointers.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), fd, 0) } as RawFd)
}

/// Takes a copy of one of this process's own file descriptors, one that was inherited.
///
/// # Errors
/// No such descriptor.
pub fn inherited_fd(fd: i32) -> io::Result<OwnedFd> {
    // SAFETY: fcntl(F_DUPFD_CLOEXEC) takes no pointers and leaves `fd` alone.
    owned(unsafe { libc::fcntl(fd, libc::F_DUPFD_CLOEXEC, 3) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

/// Owns what a system call answered.
fn owned(fd: RawFd) -> io::Result<OwnedFd> {
    check(fd)?;
    // SAFETY: the kernel just made this descriptor for the caller, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn descriptors_of_this_and_other_processes() {
        assert!(inherited_fd(0).is_ok());
        assert_eq!(
            inherited_fd(987_654).unwrap_err().raw_os_error(),
            Some(libc::EBADF)
        );
        assert!(fd_of(i32::MAX, 0).is_err());
    }

    #[test]
    fn the_loopback_interface_answers_or_stays_silent() {
        let lo = offloads("lo").unwrap();
        assert!(lo.gro.is_some());
        assert!(offloads("no-such-if").unwrap().gro.is_none());
        assert!(PacketSocket::open("no-such-if").is_err());
    }
}
