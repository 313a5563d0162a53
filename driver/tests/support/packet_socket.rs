//! Sending frames as they are.
#![expect(
    unsafe_code,
    reason = "sockaddr_ll has no safe constructor that names an interface"
)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// An AF_PACKET socket on an interface of the calling thread's network namespace.
pub struct PacketSocket(OwnedFd);

impl PacketSocket {
    pub fn new(interface: &str) -> Self {
        // SAFETY: no memory is passed. Protocol 0: it only sends.
        let fd = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        assert!(fd >= 0, "AF_PACKET: {}", io::Error::last_os_error());
        // SAFETY: new, and nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: integers only.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex =
            nix::net::if_::if_nametoindex(interface).expect("the interface is there") as i32;
        // SAFETY: the kernel reads the address, whose size is given.
        let rc = unsafe {
            libc::bind(
                fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of_val(&address) as u32,
            )
        };
        assert_eq!(rc, 0, "bind: {}", io::Error::last_os_error());
        Self(fd)
    }

    /// Sends one frame; waits where the interface's queue is full.
    pub fn send(&self, frame: &[u8]) {
        loop {
            // SAFETY: the kernel reads the frame.
            let sent =
                unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
            if sent == frame.len() as isize {
                return;
            }
            let error = io::Error::last_os_error();
            assert_eq!(
                error.raw_os_error(),
                Some(libc::ENOBUFS),
                "send of {} bytes: {error}",
                frame.len()
            );
            std::thread::yield_now();
        }
    }
}
