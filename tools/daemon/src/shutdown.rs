//! How the daemon is told to end: by signals, or by a handle.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use devrx_proto::event::Event;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

/// What the daemon watches for its end.
#[derive(Debug)]
pub struct Shutdown(Source);

#[derive(Debug)]
enum Source {
    Signals(SignalFd),
    Handle(Arc<Event>),
}

/// Ends a daemon.
#[derive(Clone, Debug)]
pub struct ShutdownHandle(Arc<Event>);

impl Shutdown {
    /// SIGTERM, SIGINT and SIGHUP (the terminal it was started from is gone). They are blocked for the calling thread, and threads it starts, from now on: call this before any thread is
    /// started.
    ///
    /// # Errors
    ///
    /// What signalfd(2) answers.
    pub fn signals() -> std::io::Result<Self> {
        let mut set = SigSet::empty();
        set.add(Signal::SIGTERM);
        set.add(Signal::SIGINT);
        set.add(Signal::SIGHUP);
        set.thread_block()?;
        let fd = SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        Ok(Self(Source::Signals(fd)))
    }

    /// A handle, for a daemon within another program.
    ///
    /// # Errors
    ///
    /// What eventfd(2) answers.
    pub fn handle() -> std::io::Result<(Self, ShutdownHandle)> {
        let event = Arc::new(Event::new()?);
        Ok((Self(Source::Handle(event.clone())), ShutdownHandle(event)))
    }
}

impl AsFd for Shutdown {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Source::Signals(fd) => fd.as_fd(),
            Source::Handle(event) => event.as_fd(),
        }
    }
}

impl ShutdownHandle {
    /// Ends the daemon in order.
    pub fn shut_down(&self) {
        self.0.notify();
    }
}
