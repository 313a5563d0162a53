//! Receiving frames.

use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use super::frame::Frame;
use super::options::{PlacementError, PlacementOptions};
use super::stats::PlacementStats;
use super::stream::Placement;
use crate::{Attachment, ClientError};

/// An attachment that is received as frames: waits for packets, places them, closes frames whose time is over, and gives the chunks of dropped
/// frames back.
#[derive(Debug)]
pub struct FrameReceiver {
    attachment: Attachment,
    placement: Placement,
    start: Instant,
}

impl FrameReceiver {
    /// Takes an attachment that carries one stream.
    ///
    /// # Errors
    /// As [`Placement::new`].
    pub fn new(attachment: Attachment, options: &PlacementOptions) -> Result<Self, PlacementError> {
        let placement = Placement::new(&attachment, options)?;
        Ok(Self {
            attachment,
            placement,
            start: Instant::now(),
        })
    }

    /// The next frame. Waits for one, at most for `timeout` (None: as long as it takes); then it is None. The packets that lie in the rings
    /// when the time is over are placed still; those that come after that are not, so that a flood of packets that complete no frame does not
    /// keep the caller.
    ///
    /// # Errors
    /// The attachment has ended, and all frames were received, the open ones too; or the daemon broke the protocol; or waiting failed.
    pub fn recv(&mut self, timeout: Option<Duration>) -> Result<Option<Frame>, ClientError> {
        let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        // The first look does not ask after the daemon, which takes a system call; one after a sleep does.
        let mut slept = false;
        // Once the time is over: how many chunks with packets are looked at still.
        let mut rest: Option<usize> = None;
        loop {
            if let Some(frame) = self.placement.next_frame() {
                return Ok(Some(frame));
            }
            self.placement.give_back(&mut self.attachment)?;
            let now = self.now();
            let found = match self.look(slept, now) {
                Err(error @ ClientError::Ended { .. }) => {
                    self.placement.flush();
                    return self.placement.next_frame().map(Some).ok_or(error);
                }
                found => found?,
            };
            self.placement.expire(now);
            slept = false;
            if let Some(frame) = self.placement.next_frame() {
                return Ok(Some(frame));
            }
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                let still = match rest {
                    _ if found == 0 => 0,
                    None => self.attachment.pending(),
                    Some(still) => still.saturating_sub(found),
                };
                if still == 0 {
                    return Ok(None);
                }
                rest = Some(still);
            } else if found == 0 {
                slept = self.sleep(left)?;
            }
        }
    }

    /// Places the next packets. Answers how many chunks they took.
    fn look(&mut self, ask: bool, now: u64) -> Result<usize, ClientError> {
        let batch = if ask {
            self.attachment.recv(Some(Duration::ZERO))?
        } else {
            self.attachment.poll()?
        };
        self.placement.place_batch(&batch, now);
        Ok(batch.entries().len())
    }

    /// Waits for packets, the next deadline, or a dropped frame. `false`: there was something already.
    fn sleep(&mut self, left: Option<Duration>) -> Result<bool, ClientError> {
        let bin = std::sync::Arc::clone(&self.placement.bin);
        if !bin.arm() {
            return Ok(false);
        }
        if !self.attachment.arm() {
            bin.disarm();
            return Ok(false);
        }
        let deadline = self
            .placement
            .next_deadline()
            .map(|at| Duration::from_nanos(at.saturating_sub(self.now())));
        let left = [left, deadline].into_iter().flatten().min();
        let mut fds: Vec<_> = self
            .attachment
            .wake_fds()
            .chain([bin.wake_fd()])
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        let waited = ppoll(&mut fds, left.map(TimeSpec::from_duration), None);
        drop(fds);
        self.attachment.disarm();
        bin.disarm();
        match waited {
            Ok(_) | Err(nix::Error::EINTR) => Ok(true),
            Err(errno) => Err(ClientError::Wait(errno.into())),
        }
    }

    /// Closes all open frames; they are received next.
    pub fn flush(&mut self) {
        self.placement.flush();
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> PlacementStats {
        self.placement.stats()
    }

    /// The attachment.
    #[must_use]
    pub fn attachment(&self) -> &Attachment {
        &self.attachment
    }

    /// Nanoseconds of this receiver's clock.
    fn now(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}
