//! Eventfds: how one side wakes the other.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// A non-blocking eventfd.
///
/// Both processes share one file description: the other side can make it blocking, and can fill or drain its counter. Writing
/// when the counter is full would then block, so a thread that writes an event must not be one that others depend on, and
/// whoever wants to stop it [`drain`](Event::drain)s the event, which lets it go on.
#[derive(Debug)]
pub struct Event(OwnedFd);

impl Event {
    /// Makes an event.
    ///
    /// # Errors
    /// Out of descriptors or memory.
    pub fn new() -> std::io::Result<Self> {
        let event =
            EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?;
        Ok(Self(event.into()))
    }

    /// Takes an eventfd that came from the other side.
    #[must_use]
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// Makes the event readable. A full counter is readable already, so that is no error.
    pub fn notify(&self) {
        // EAGAIN: full. EINTR: the counter was full and somebody made it block; it is readable. Nothing else can happen.
        let _ = nix::unistd::write(&self.0, &1_u64.to_ne_bytes());
    }

    /// Makes the event unreadable.
    pub fn drain(&self) {
        let mut count = [0; 8];
        let _ = nix::unistd::read(&self.0, &mut count);
    }

    /// The descriptor number, for `epoll` and the like.
    #[must_use]
    pub fn raw(&self) -> i32 {
        self.0.as_raw_fd()
    }

    /// A second descriptor of the same event.
    ///
    /// # Errors
    /// Out of descriptors.
    pub fn try_clone(&self) -> std::io::Result<Self> {
        self.0.try_clone().map(Self)
    }
}

impl AsFd for Event {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
