//! The eventfds that interrupts come by.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

/// The eventfds of the device's vectors: one for each queue, the last for everything else.
#[derive(Debug)]
pub(crate) struct Vectors(Vec<OwnedFd>);

impl Vectors {
    /// `fds`: at least two.
    pub(crate) const fn new(fds: Vec<OwnedFd>) -> Self {
        Self(fds)
    }

    /// Queue `index`'s.
    pub(crate) fn queue(&self, index: u32) -> BorrowedFd<'_> {
        self.0[index as usize].as_fd()
    }

    /// That of everything else.
    pub(crate) fn other(&self) -> BorrowedFd<'_> {
        self.0[self.0.len() - 1].as_fd()
    }

    /// Makes every queue's readable, so that whoever sleeps looks at [`RxQueue::fault`](crate::RxQueue::fault).
    pub(crate) fn wake_all(&self) {
        for fd in &self.0[..self.0.len() - 1] {
            ring(fd.as_fd());
        }
    }
}

/// Makes an eventfd readable.
pub(crate) fn ring(fd: BorrowedFd<'_>) {
    // Full is readable too.
    let _ = nix::unistd::write(fd, &1_u64.to_ne_bytes());
}

/// Makes an eventfd unreadable.
pub(crate) fn drain(fd: BorrowedFd<'_>) {
    let mut count = [0; 8];
    let _ = nix::unistd::read(fd, &mut count);
}
