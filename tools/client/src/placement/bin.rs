//! How a dropped frame's chunks find back to the receiver, from any thread.

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};

use super::window::Body;
use crate::Held;

/// Bodies of frames that were dropped. One lock a frame, not a packet.
#[derive(Debug)]
pub(super) struct Bin {
    bodies: Mutex<Vec<Body<Held>>>,
    /// Whether there are any: a look without the lock.
    some: AtomicBool,
    /// Whether the receiver sleeps.
    sleeper: AtomicBool,
    wake: EventFd,
}

impl Bin {
    pub(super) fn new() -> std::io::Result<Self> {
        let flags = EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK;
        Ok(Self {
            bodies: Mutex::default(),
            some: AtomicBool::new(false),
            sleeper: AtomicBool::new(false),
            wake: EventFd::from_value_and_flags(0, flags)?,
        })
    }

    /// From whoever drops a frame.
    pub(super) fn put(&self, body: Body<Held>) {
        let mut bodies = self.bodies.lock().unwrap_or_else(PoisonError::into_inner);
        bodies.push(body);
        self.some.store(true, Ordering::SeqCst);
        drop(bodies);
        // Either the receiver's look after `arm` saw it, or this sees that it sleeps.
        if self.sleeper.swap(false, Ordering::SeqCst) {
            // The counter cannot be full: the receiver empties it before each sleep.
            let _ = self.wake.write(1);
        }
    }

    /// Moves what is there to `to`, which is empty.
    pub(super) fn take(&self, to: &mut Vec<Body<Held>>) {
        if self.some.load(Ordering::SeqCst) {
            let mut bodies = self.bodies.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::swap(&mut *bodies, to);
            self.some.store(false, Ordering::SeqCst);
        }
    }

    /// The receiver is about to sleep. `false`: there is something, do not.
    pub(super) fn arm(&self) -> bool {
        let _ = self.wake.read();
        self.sleeper.store(true, Ordering::SeqCst);
        if !self.some.load(Ordering::SeqCst) {
            return true;
        }
        self.disarm();
        false
    }

    /// The receiver is awake.
    pub(super) fn disarm(&self) {
        self.sleeper.store(false, Ordering::SeqCst);
    }

    /// Readable when something came while the receiver slept.
    pub(super) fn wake_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}
