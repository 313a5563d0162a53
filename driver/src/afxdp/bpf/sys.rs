//! The bpf(2) and membarrier(2) system calls (uapi/linux/bpf.h, uapi/linux/membarrier.h).
#![expect(
    unsafe_code,
    reason = "system calls that take addresses, and file descriptors that only the kernel's answer makes valid"
)]

use super::asm::Insn;
use std::ffi::CStr;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

const BPF_MAP_CREATE: libc::c_int = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_int = 2;
const BPF_MAP_DELETE_ELEM: libc::c_int = 3;
const BPF_PROG_LOAD: libc::c_int = 5;
const BPF_PROG_TEST_RUN: libc::c_int = 10;
const BPF_LINK_CREATE: libc::c_int = 28;
const BPF_LINK_UPDATE: libc::c_int = 29;

const BPF_PROG_TYPE_XDP: u32 = 6;
/// The attach type of an XDP program on an interface.
const BPF_XDP: u32 = 37;

/// Program flag: the program is told of the first piece of a frame that lies in several (Linux 5.18).
pub const BPF_F_XDP_HAS_FRAGS: u32 = 1 << 5;
/// Map flag: the map's values can be mapped into a process.
pub const BPF_F_MMAPABLE: u32 = 1 << 10;
/// Link flag: in the kernel's generic hook, behind the driver; works on every interface.
pub const XDP_FLAGS_SKB_MODE: u32 = 1 << 1;
/// Link flag: in the driver.
pub const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;

/// Kinds of maps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum MapKind {
    /// Values by index.
    Array = 2,
    /// Maps by index.
    ArrayOfMaps = 12,
    /// AF_XDP sockets by queue.
    Xsk = 17,
}

/// `struct bpf_attr` of BPF_MAP_CREATE.
#[derive(Default)]
#[repr(C)]
struct MapCreate {
    kind: u32,
    key_size: u32,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner_map_fd: RawFd,
    numa_node: u32,
    name: [u8; 16],
}

/// `struct bpf_attr` of BPF_MAP_*_ELEM.
#[derive(Default)]
#[repr(C)]
struct MapElement {
    map_fd: RawFd,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `struct bpf_attr` of BPF_PROG_LOAD.
#[derive(Default)]
#[repr(C)]
struct ProgLoad {
    kind: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log_buf: u64,
    kern_version: u32,
    flags: u32,
    name: [u8; 16],
    ifindex: u32,
    expected_attach_type: u32,
}

/// `struct bpf_attr` of BPF_PROG_TEST_RUN.
#[derive(Default)]
#[repr(C)]
struct TestRun {
    prog_fd: RawFd,
    retval: u32,
    data_size_in: u32,
    data_size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration: u32,
    ctx_size_in: u32,
    ctx_size_out: u32,
    ctx_in: u64,
    ctx_out: u64,
    flags: u32,
    cpu: u32,
    batch_size: u32,
    pad: u32,
}

/// `struct xdp_md`.
#[derive(Default)]
#[repr(C)]
struct XdpMd {
    data: u32,
    data_end: u32,
    data_meta: u32,
    ingress_ifindex: u32,
    rx_queue_index: u32,
    egress_ifindex: u32,
}

/// `struct bpf_attr` of BPF_LINK_CREATE.
#[derive(Default)]
#[repr(C)]
struct LinkCreate {
    prog_fd: RawFd,
    target_ifindex: u32,
    attach_type: u32,
    flags: u32,
}

/// `struct bpf_attr` of BPF_LINK_UPDATE.
#[derive(Default)]
#[repr(C)]
struct LinkUpdate {
    link_fd: RawFd,
    new_prog_fd: RawFd,
    flags: u32,
    old_prog_fd: RawFd,
}

/// One of the attributes above.
///
/// # Safety
///
/// `Self` is `repr(C)`, without padding, and laid out as the kernel's attribute of the commands it is used with.
unsafe trait Attribute {}
// SAFETY: see the structures; all fields are integers that fill them.
unsafe impl Attribute for MapCreate {}
// SAFETY: as above.
unsafe impl Attribute for MapElement {}
// SAFETY: as above.
unsafe impl Attribute for ProgLoad {}
// SAFETY: as above.
unsafe impl Attribute for TestRun {}
// SAFETY: as above.
unsafe impl Attribute for LinkCreate {}
// SAFETY: as above.
unsafe impl Attribute for LinkUpdate {}

/// bpf(2).
///
/// # Safety
///
/// Every address in `attr` must be valid for what `command` does with it, until the call returns.
unsafe fn bpf<A: Attribute>(command: libc::c_int, attr: &mut A) -> io::Result<libc::c_int> {
    // SAFETY: `attr` is as long as it says and exclusively borrowed (BPF_PROG_TEST_RUN writes to it); the addresses in it are
    // the caller's promise.
    let answer = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            command,
            std::ptr::from_mut(attr),
            size_of::<A>(),
        )
    };
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(answer as libc::c_int)
    }
}

/// A bpf(2) command that makes a file descriptor.
///
/// # Safety
///
/// As [`bpf`], and `command` must answer with a new file descriptor.
unsafe fn bpf_fd<A: Attribute>(command: libc::c_int, attr: &mut A) -> io::Result<OwnedFd> {
    // SAFETY: passed on.
    let fd = unsafe { bpf(command, attr)? };
    // SAFETY: the kernel just made it for this process (close-on-exec, as all of bpf's), and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn address<T: ?Sized>(of: &T) -> u64 {
    std::ptr::from_ref(of).cast::<u8>().addr() as u64
}

/// A name as the kernel keeps it: at most 15 bytes.
fn short_name(name: &str) -> [u8; 16] {
    let mut short = [0; 16];
    for (to, from) in short[..15].iter_mut().zip(name.bytes()) {
        *to = from;
    }
    short
}

/// Makes a map with 4-byte keys. `inner` is an example of what a map of maps holds.
///
/// # Errors
///
/// EPERM without CAP_BPF, EINVAL for what this kernel does not know, ENOMEM, E2BIG.
pub fn map_create(
    kind: MapKind,
    value_size: u32,
    max_entries: u32,
    flags: u32,
    inner: Option<BorrowedFd<'_>>,
    name: &str,
) -> io::Result<OwnedFd> {
    let mut attr = MapCreate {
        kind: kind as u32,
        key_size: 4,
        value_size,
        max_entries,
        flags,
        inner_map_fd: inner.map_or(0, |fd| fd.as_raw_fd()),
        name: short_name(name),
        ..MapCreate::default()
    };
    // SAFETY: no addresses; answers with a descriptor.
    unsafe { bpf_fd(BPF_MAP_CREATE, &mut attr) }
}

/// Puts the file descriptor `value` (a socket, or a map) at `key`.
///
/// # Errors
///
/// E2BIG for a key the map does not have, EOPNOTSUPP or EINVAL for a descriptor of the wrong kind.
pub fn map_put_fd(map: BorrowedFd<'_>, key: u32, value: BorrowedFd<'_>) -> io::Result<()> {
    let value = value.as_raw_fd();
    let mut attr = MapElement {
        map_fd: map.as_raw_fd(),
        key: address(&key),
        value: address(&value),
        ..MapElement::default()
    };
    // SAFETY: both addresses are of local integers of the 4 bytes that key and value have in such maps.
    unsafe { bpf(BPF_MAP_UPDATE_ELEM, &mut attr).map(drop) }
}

/// Empties `key`.
///
/// # Errors
///
/// ENOENT if it was empty, EINVAL for a key the map does not have.
pub fn map_delete(map: BorrowedFd<'_>, key: u32) -> io::Result<()> {
    let mut attr = MapElement {
        map_fd: map.as_raw_fd(),
        key: address(&key),
        ..MapElement::default()
    };
    // SAFETY: the address is of a local integer of the 4 bytes that all keys here have.
    unsafe { bpf(BPF_MAP_DELETE_ELEM, &mut attr).map(drop) }
}

/// Loads an XDP program. `log`, if not empty, is filled with the verifier's text, ended by a zero byte.
///
/// # Errors
///
/// EINVAL or EACCES when the verifier rejects it, EINVAL for flags this kernel does not know, EPERM without CAP_BPF and
/// CAP_NET_ADMIN, ENOSPC when the log was longer than `log`.
pub fn prog_load(
    insns: &[Insn],
    license: &CStr,
    flags: u32,
    log: &mut [u8],
) -> io::Result<OwnedFd> {
    let mut attr = ProgLoad {
        kind: BPF_PROG_TYPE_XDP,
        insn_cnt: insns.len() as u32,
        insns: address(insns),
        license: address(license),
        log_level: u32::from(!log.is_empty()),
        log_size: log.len() as u32,
        log_buf: if log.is_empty() {
            0
        } else {
            log.as_mut_ptr().expose_provenance() as u64
        },
        flags,
        name: short_name("devrx"),
        expected_attach_type: BPF_XDP,
        ..ProgLoad::default()
    };
    // SAFETY: the kernel reads `insn_cnt` instructions and a zero-terminated string, and writes up to `log_size` bytes to `log`,
    // which is exclusively borrowed.
    unsafe { bpf_fd(BPF_PROG_LOAD, &mut attr) }
}

/// What a test run of a program came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TestVerdict {
    /// What the program returned (uapi/linux/bpf.h, `enum xdp_action`).
    pub action: u32,
    /// Nanoseconds one run took, the average of all.
    pub nanoseconds: u32,
}

/// Runs an XDP program `repeat` times on `frame` (at least 14 bytes), as if it had come in on queue `queue` of interface `ifindex` of
/// this network namespace; `None`: queue 0 of the loopback interface. Nothing is sent anywhere.
///
/// # Errors
///
/// EINVAL for a frame that is too short or a queue the interface does not have.
pub fn prog_test_run(
    prog: BorrowedFd<'_>,
    frame: &[u8],
    from: Option<(u32, u32)>,
    repeat: u32,
) -> io::Result<TestVerdict> {
    let (ingress_ifindex, rx_queue_index) = from.unwrap_or((0, 0));
    let md = XdpMd {
        data_end: frame.len() as u32,
        ingress_ifindex,
        rx_queue_index,
        ..XdpMd::default()
    };
    let mut attr = TestRun {
        prog_fd: prog.as_raw_fd(),
        data_size_in: frame.len() as u32,
        data_in: address(frame),
        repeat,
        ..TestRun::default()
    };
    if from.is_some() {
        attr.ctx_size_in = size_of::<XdpMd>() as u32;
        attr.ctx_in = address(&md);
    }
    // SAFETY: the kernel reads `data_size_in` bytes of `frame` and the whole of `md`, and writes to `attr` alone.
    unsafe { bpf(BPF_PROG_TEST_RUN, &mut attr)? };
    Ok(TestVerdict {
        action: attr.retval,
        nanoseconds: attr.duration,
    })
}

/// Attaches an XDP program to an interface for as long as the link is held.
///
/// # Errors
///
/// EBUSY when another program is attached, EOPNOTSUPP when the driver has no XDP (driver mode), ERANGE or EINVAL when it cannot with
/// the interface's present settings.
pub fn link_create(prog: BorrowedFd<'_>, ifindex: u32, flags: u32) -> io::Result<OwnedFd> {
    let mut attr = LinkCreate {
        prog_fd: prog.as_raw_fd(),
        target_ifindex: ifindex,
        attach_type: BPF_XDP,
        flags,
    };
    // SAFETY: no addresses; answers with a descriptor.
    unsafe { bpf_fd(BPF_LINK_CREATE, &mut attr) }
}

/// Swaps the program of a link. Each packet meets the old one or the new one.
///
/// # Errors
///
/// ENOLINK when the interface is gone.
pub fn link_update(link: BorrowedFd<'_>, prog: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = LinkUpdate {
        link_fd: link.as_raw_fd(),
        new_prog_fd: prog.as_raw_fd(),
        ..LinkUpdate::default()
    };
    // SAFETY: no addresses.
    unsafe { bpf(BPF_LINK_UPDATE, &mut attr).map(drop) }
}

/// membarrier(2) with MEMBARRIER_CMD_GLOBAL, which is `synchronize_rcu` in the kernel.
///
/// # Errors
///
/// EINVAL on a kernel with full dynticks CPUs (`nohz_full=`), which does not offer it.
pub fn membarrier_global() -> io::Result<()> {
    // SAFETY: takes no addresses and changes nothing.
    let answer = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if answer < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}
