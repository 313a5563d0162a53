//! When there is nothing to do.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use devrx_driver::RxQueue;
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use super::Worker;

/// How often returns are looked for on behalf of a client that cannot write an eventfd, while chunks are short.
const LOOK: Duration = Duration::from_millis(1);

impl<Q: RxQueue> Worker<Q> {
    /// Sleeps until there is a packet, a command, a client that must be woken, or, when chunks are short, a return.
    ///
    /// The order is that of the sleep protocol: announce (NEED_KICK, the NIC's interrupt), look once more, wait. Whoever acts
    /// after the look sees the announcement.
    pub(super) fn sleep(&mut self) {
        // Everything returned so far is taken in, so that the numbers are right while nothing moves.
        if self.take_returns(usize::MAX) > 0 {
            self.refill(true);
            self.refresh();
        }
        let short = self.queue.posted() < self.low;
        if short && !self.rings.refills.arm() {
            return;
        }
        if self.queue.arm() {
            self.wait(short);
        }
        self.rings.refills.disarm();
    }

    fn wait(&mut self, short: bool) {
        let mut timeout = self
            .wake
            .deadline()
            .map(|by| by.saturating_duration_since(Instant::now()));
        if short && self.manners.polls_refill {
            timeout = Some(timeout.map_or(LOOK, |timeout| timeout.min(LOOK)));
        }
        let timeout = timeout.map(TimeSpec::from_duration);
        let readable = PollFlags::POLLIN;
        let mut waits = [
            PollFd::new(self.queue.wait_fd(), readable),
            PollFd::new(self.shared.doorbell.as_fd(), readable),
            PollFd::new(self.client.kick.as_fd(), readable),
        ];
        // Interrupted is awake. No other error is possible with descriptors that are open.
        let _ = ppoll(&mut waits, timeout, None);
        if waits[2].any().unwrap_or(false) {
            // Before the next announcement, never between it and the wait.
            // Never blocking, whatever the client made of it.
            crate::sys::drain_eventfd(self.client.kick.as_fd());
        }
    }
}
