//! The descriptors that the consumer of an attachment gets with an `Attach` or `Open` reply, and their order in the message.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use crate::event::Event;
use crate::layout::MAX_QUEUES;

/// The two events of one queue.
#[derive(Debug)]
pub struct QueueEndpoints {
    /// The daemon writes it to wake the client (SLEEPING).
    pub wake: Event,
    /// The client writes it to wake the daemon (NEED_KICK).
    pub kick: Event,
}

impl QueueEndpoints {
    /// Two new events.
    ///
    /// # Errors
    /// Out of descriptors or memory.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            wake: Event::new()?,
            kick: Event::new()?,
        })
    }
}

/// Everything one consumer gets. In a message: daemon-written memfd, client-written memfd, then wake and kick of each queue, then
/// the region if it can be passed, then its dma-buf if it has one. Which of the last two come is said in
/// [`RegionInfo`](crate::message::RegionInfo); the number of descriptors is exact.
#[derive(Debug)]
pub struct Endpoints {
    /// The daemon-written memfd.
    pub daemon_memory: OwnedFd,
    /// The client-written memfd.
    pub client_memory: OwnedFd,
    /// The queues of the attachment, in order.
    pub queues: Vec<QueueEndpoints>,
    /// The region's memory: what a CPU maps.
    pub region: Option<OwnedFd>,
    /// The dma-buf that the region's memory is exported as, where that is another descriptor than `region`: what another driver
    /// imports.
    pub export: Option<OwnedFd>,
}

/// Most descriptors of one message.
pub const MAX_FDS: usize = 2 + 2 * MAX_QUEUES as usize + 2;

impl Endpoints {
    /// How many descriptors a reply carries.
    #[must_use]
    pub const fn count(queues: usize, region: bool, export: bool) -> usize {
        2 + 2 * queues + region as usize + export as usize
    }

    /// The descriptors in the order of the message.
    #[must_use]
    pub fn fds(&self) -> Vec<BorrowedFd<'_>> {
        let mut fds = vec![self.daemon_memory.as_fd(), self.client_memory.as_fd()];
        for queue in &self.queues {
            fds.push(queue.wake.as_fd());
            fds.push(queue.kick.as_fd());
        }
        fds.extend(self.region.as_ref().map(AsFd::as_fd));
        fds.extend(self.export.as_ref().map(AsFd::as_fd));
        fds
    }

    /// Sorts out the received descriptors of an attachment whose region is not exported; [`Opened::endpoints`] takes any. `None`: not
    /// the number that this attachment takes.
    ///
    /// [`Opened::endpoints`]: crate::message::Opened::endpoints
    #[must_use]
    pub fn from_fds(fds: Vec<OwnedFd>, queues: usize, region: bool) -> Option<Self> {
        Self::sort(fds, queues, region, false)
    }

    pub(crate) fn sort(
        fds: Vec<OwnedFd>,
        queues: usize,
        region: bool,
        export: bool,
    ) -> Option<Self> {
        if fds.len() != Self::count(queues, region, export)
            && !devrx_sabotage::removed("endpoint-count")
        {
            return None;
        }
        let mut fds = fds.into_iter();
        let daemon_memory = fds.next()?;
        let client_memory = fds.next()?;
        let mut ends = Vec::with_capacity(queues);
        for _ in 0..queues {
            ends.push(QueueEndpoints {
                wake: Event::from_fd(fds.next()?),
                kick: Event::from_fd(fds.next()?),
            });
        }
        Some(Self {
            daemon_memory,
            client_memory,
            queues: ends,
            region: if region { fds.next() } else { None },
            export: if export { fds.next() } else { None },
        })
    }
}
