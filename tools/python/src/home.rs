//! An attachment as Python's threads and objects share it.
//!
//! One lock, held for as long as a look at the rings takes: never while sleeping, and never while Python's lock is wanted. So whoever drops the
//! last view of a packet, in any thread, gives its chunks back at once, also while another thread sleeps in `recv`.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use devrx_client::placement::{Placement, PlacementOptions, PlacementStats};
use devrx_client::{Attachment, Held, Memory};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::eventfd::{EfdFlags, EventFd};
use nix::sys::time::TimeSpec;
use pyo3::prelude::*;

use crate::error::Failure;
use crate::payload::Device;

/// The longest sleep without a look at Python's signals: one that comes between that look and the sleep does not end it, and one that another
/// thread of the process was chosen for does not either.
const SLICE: Duration = Duration::from_millis(200);
/// For how long all chunks of a queue may be held here before waiting for packets is given up.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is not closed.
pub(crate) struct Open {
    pub(crate) attachment: Attachment,
    pub(crate) placement: Option<Placement>,
    start: Instant,
    /// Since when all chunks of a queue have been held here, and nothing was found to receive.
    full: Option<Instant>,
}

impl Open {
    /// Nanoseconds of the clock that frames are timed by.
    pub(crate) fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// The shared attachment. Packets and frames hold it, too.
pub(crate) struct Home {
    open: Mutex<Option<Open>>,
    /// Everything to wait on, and the bell.
    wake: Epoll,
    /// Rings when it is closed.
    bell: EventFd,
    /// How many threads sleep.
    sleepers: AtomicU32,
    /// The process it belongs to.
    process: u32,
    pub(crate) memory: Memory,
    device: Mutex<Option<Arc<Device>>>,
}

enum Step<T> {
    Found(T),
    Over,
    Again,
}

impl Home {
    pub(crate) fn new(attachment: Attachment) -> Result<Self, Failure> {
        let wake = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)
            .map_err(|errno| Failure::system("epoll_create1", errno))?;
        let bell = EventFd::from_value_and_flags(0, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|errno| Failure::system("eventfd", errno))?;
        let event = || EpollEvent::new(EpollFlags::EPOLLIN, 0);
        for fd in attachment.wake_fds() {
            wake.add(fd, event())
                .map_err(|errno| Failure::system("epoll_ctl", errno))?;
        }
        wake.add(&bell, event())
            .map_err(|errno| Failure::system("epoll_ctl", errno))?;
        Ok(Self {
            wake,
            bell,
            sleepers: AtomicU32::new(0),
            process: std::process::id(),
            memory: attachment.memory().clone(),
            device: Mutex::default(),
            open: Mutex::new(Some(Open {
                attachment,
                placement: None,
                start: Instant::now(),
                full: None,
            })),
        })
    }

    /// Only where this process made it: a child of fork has the same rings mapped, and must not touch them.
    fn lock(&self) -> Result<MutexGuard<'_, Option<Open>>, Failure> {
        if std::process::id() != self.process {
            return Err(Failure::forked());
        }
        Ok(self.open.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Does something with it unless it is closed.
    pub(crate) fn with<T>(
        &self,
        work: impl FnOnce(&mut Open) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        work(self.lock()?.as_mut().ok_or_else(Failure::closed)?)
    }

    /// Gives chunks back. Where it is closed they went back with it.
    pub(crate) fn give_back(&self, chunks: impl IntoIterator<Item = Held>) {
        let _ = self.with(|open| {
            open.full = None;
            Ok(open.attachment.give_back(chunks)?)
        });
    }

    /// Gives the chunks of dropped frames back.
    pub(crate) fn give_frames_back(&self) {
        let _ = self.with(|open| {
            open.full = None;
            match &mut open.placement {
                Some(placement) => Ok(placement.give_back(&mut open.attachment)?),
                None => Ok(0),
            }
        });
    }

    /// Ends the consumption. Who waits wakes up and is told.
    pub(crate) fn close(&self) {
        if let Ok(mut open) = self.lock() {
            drop(open.take());
            // The counter cannot be full: it is written once for a close.
            let _ = self.bell.write(1);
        }
    }

    /// Looks for something until there is some, or `timeout` is over. Python's other threads go on meanwhile, and its signals are seen.
    pub(crate) fn wait<T: Send>(
        &self,
        py: Python<'_>,
        timeout: Option<f64>,
        look: impl Fn(&mut Open) -> Result<Option<T>, Failure> + Sync,
    ) -> PyResult<Option<T>> {
        let end = match timeout {
            None => None,
            Some(seconds) => Instant::now().checked_add(
                // Less than none is none; what is no number is refused.
                Duration::try_from_secs_f64(if seconds < 0.0 { 0.0 } else { seconds })
                    .map_err(|_| Failure::invalid(format!("{seconds} is no number of seconds")))?,
            ),
        };
        loop {
            match py.detach(|| self.step(end, &look))? {
                Step::Found(found) => return Ok(Some(found)),
                Step::Over => return Ok(None),
                Step::Again => py.check_signals()?,
            }
        }
    }

    /// One look, and one sleep if it finds nothing.
    fn step<T>(
        &self,
        end: Option<Instant>,
        look: impl Fn(&mut Open) -> Result<Option<T>, Failure>,
    ) -> Result<Step<T>, Failure> {
        let left = {
            let mut guard = self.lock()?;
            let open = guard.as_mut().ok_or_else(Failure::closed)?;
            if let Some(found) = look(open)? {
                // Another queue may go on where one is full.
                open.full = None;
                return Ok(Step::Found(found));
            }
            let left = end.map_or(SLICE, |end| end.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                return Ok(Step::Over);
            }
            self.check_full(open)?;
            if !open.attachment.arm() {
                return Ok(Step::Again);
            }
            self.sleepers.fetch_add(1, Ordering::Relaxed);
            let deadline = open.placement.as_ref().and_then(Placement::next_deadline);
            let deadline = deadline.map(|at| Duration::from_nanos(at.saturating_sub(open.now())));
            left.min(SLICE).min(deadline.unwrap_or(SLICE))
        };
        let mut fds = [PollFd::new(
            std::os::fd::AsFd::as_fd(&self.wake.0),
            PollFlags::POLLIN,
        )];
        let waited = ppoll(&mut fds, Some(TimeSpec::from_duration(left)), None);
        let last = self.sleepers.fetch_sub(1, Ordering::Relaxed) == 1;
        if let Some(open) = self.lock()?.as_mut().filter(|_| last) {
            open.attachment.disarm();
        }
        match waited {
            Ok(_) | Err(nix::Error::EINTR) => Ok(Step::Again),
            Err(errno) => Err(Failure::system("waiting for packets", errno)),
        }
    }

    /// Waiting for a packet that no memory is left for would be for ever. Each queue has chunks of its own, and a stream may come on one of them.
    pub(crate) fn check_full(&self, open: &mut Open) -> Result<(), Failure> {
        let Some(queue) = open.attachment.full_queue() else {
            open.full = None;
            return Ok(());
        };
        if open.full.get_or_insert_with(Instant::now).elapsed() < PATIENCE {
            return Ok(());
        }
        Err(Failure::exhausted(queue.queue, queue.chunks))
    }

    /// The descriptor that becomes readable: for an event loop, after `arm`.
    pub(crate) fn wake_fd(&self) -> i32 {
        std::os::fd::AsRawFd::as_raw_fd(&self.wake.0)
    }

    /// Takes frames from here on.
    pub(crate) fn place(&self, options: &PlacementOptions) -> Result<(), Failure> {
        self.with(|open| {
            if open.placement.is_some() {
                return Err(Failure::invalid(
                    "this attachment is received as frames already, and carries one stream",
                ));
            }
            open.placement = Some(Placement::new(&open.attachment, options)?);
            Ok(())
        })
    }

    /// The counters of the frames, if it is received as frames.
    pub(crate) fn placed(&self) -> Result<Option<PlacementStats>, Failure> {
        self.with(|open| Ok(open.placement.as_ref().map(Placement::stats)))
    }

    /// Where a device has the region, if that was said.
    pub(crate) fn device(&self) -> Option<Arc<Device>> {
        let device = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        device.clone()
    }

    pub(crate) fn set_device(&self, device: Option<Device>) {
        let mut slot = self.device.lock().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::replace(&mut *slot, device.map(Arc::new));
        // Its end may run Python code, which may come back here.
        drop(slot);
        drop(before);
    }
}
