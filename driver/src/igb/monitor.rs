//! The monitor: a thread for each NIC that hears of everything but packets.
//!
//! It waits for the vector of other causes, for notice from the system, and for a second to pass; then it looks at causes, link and counters. It takes no
//! lock that a queue or control takes while a queue waits for it.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::clock;
use super::regs::{STATUS, status};
use super::shared::{Fault, Shared};
use crate::DriverError;
use crate::device::{Device, stays_silent};
use crate::ring::{Vectors, drain, ring};

/// How often counters are read, milliseconds.
const TICK: u16 = 1000;

/// The running thread; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Monitor {
    quit: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

impl Monitor {
    /// Starts watching a NIC that is set up. Under the control lock.
    pub(super) fn start<D: Device>(
        shared: Arc<Shared<D>>,
        vectors: Arc<Vectors>,
    ) -> Result<Self, DriverError> {
        let quit: OwnedFd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|error| {
                DriverError::sys(
                    "eventfd",
                    error.into(),
                    "raise the limit of open files (`ulimit -n`)",
                )
            })?
            .into();
        let theirs = quit
            .try_clone()
            .map_err(|error| DriverError::sys("dup", error, "raise the limit of open files"))?;
        // As set up now: by the time the thread runs there may have been a reset.
        let epoch = shared.epoch.load(Ordering::Acquire);
        let thread = std::thread::Builder::new()
            .name("igb-monitor".to_owned())
            .spawn(move || watch(&shared, &vectors, epoch, &theirs))
            .map_err(|error| DriverError::sys("clone", error, "raise the limit of threads"))?;
        Ok(Self {
            quit,
            thread: Some(thread),
        })
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        ring(self.quit.as_fd());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the monitor of a NIC had panicked; this is a fault in this program");
        }
    }
}

fn watch<D: Device>(shared: &Shared<D>, vectors: &Vectors, epoch: u32, quit: &OwnedFd) {
    let nic = shared.device.address();
    let mut up = None;
    // Which fault the queues have been woken for: whoever saw it first need not have been this thread.
    let mut told = 0;
    let mut troubled = false;
    let mut overruns = shared.overruns.load(Ordering::Relaxed);
    loop {
        let mut fds = vec![
            PollFd::new(quit.as_fd(), PollFlags::POLLIN),
            PollFd::new(vectors.other(), PollFlags::POLLIN),
        ];
        // Once reported it stays readable: no longer waited for.
        if let Some(trouble) = shared.device.trouble()
            && !troubled
        {
            fds.push(PollFd::new(trouble, PollFlags::POLLIN));
        }
        // An interrupted wait is as good as a tick.
        let _ = poll(&mut fds, PollTimeout::from(TICK));
        let readable = |fd: Option<&PollFd<'_>>| fd.is_some_and(|fd| fd.any().unwrap_or(false));
        if readable(fds.first()) {
            return;
        }
        if readable(fds.get(2)) {
            tracing::error!(nic, why = shared.device.trouble_text(), "the NIC must end");
            troubled = true;
            shared.fail(Fault::Trouble);
        }
        drain(vectors.other());
        shared.take_causes();
        let now = shared.overruns.load(Ordering::Relaxed);
        if overruns == 0 && now > 0 {
            tracing::warn!(
                nic,
                "receive overrun: packets were lost, and the NIC may not say how many; its numbers are not exact from here on. More chunks, \
                 larger rings or faster clients leave it room"
            );
        }
        overruns = now;
        let mut state = 0;
        let silent = stays_silent(|| {
            state = shared.read(STATUS);
            state == u32::MAX
        });
        let gone = silent || shared.device.gone();
        if shared.epoch.load(Ordering::Acquire) != epoch {
            // It is being reset, or was, and is not set up: what it answers says nothing.
        } else if gone {
            if told < Fault::Gone as u32 {
                tracing::error!(nic, "the NIC does not answer any more");
            }
            shared.fail(Fault::Gone);
        } else if !shared.look_for_reset(epoch) {
            let now = state & status::LU != 0;
            if up.replace(now) != Some(now) {
                tracing::info!(nic, up = now, "link");
            }
            shared.collect();
            clock::relate(shared);
        }
        let failed = shared.failed();
        if failed != told {
            told = failed;
            vectors.wake_all();
        }
    }
}
