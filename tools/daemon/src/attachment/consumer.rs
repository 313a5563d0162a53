//! The client that reads an attachment, and the change of that client.
//!
//! There is always a client-written memfd, whether anybody reads it or not: while nobody does, packets queue in the completion ring as
//! for a slow client, and whoever opens the attachment next starts with them. When a consumer is gone, everything it held, read or
//! not, is taken back, and its memory is replaced at once, so that nothing it still has mapped means anything any more.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;

use devrx_proto::endpoints::{Endpoints, QueueEndpoints};
use devrx_proto::layout::Layout;
use devrx_proto::message::{Opened, OpenedQueue, RegionInfo};
use devrx_proto::ring::Start;
use devrx_proto::shm::Shm;
use devrx_provider::Region;

use super::{Attachment, Consumer, SessionId};
use crate::closers::Closers;
use crate::error::Refused;
use crate::policy::Peer;
use crate::sys::Watched;
use crate::worker::ClientSide;

/// The client's half: what a consumer gets, kept until there is one.
#[derive(Debug)]
pub(crate) struct ClientEnd {
    fd: OwnedFd,
    pub(super) memory: Arc<Shm>,
    watched: Arc<Watched>,
    events: Vec<QueueEndpoints>,
    /// Where the rings begin, by queue.
    pub(super) starts: Vec<Start>,
}

impl ClientEnd {
    /// A fresh one. `starts` is filled in by whoever makes the daemon's ends of the rings.
    pub(super) fn new(name: &str, layout: &Layout) -> Result<Self, Refused> {
        let (fd, memory) = Shm::create_client_written(name, layout.client_size())?;
        let queues = layout.params().queues;
        let events = (0..queues)
            .map(|_| QueueEndpoints::new())
            .collect::<std::io::Result<_>>()?;
        Ok(Self {
            fd,
            watched: Arc::new(Watched::new(&memory)?),
            memory,
            events,
            starts: vec![Start::default(); queues as usize],
        })
    }

    /// Lets go of it, for the user who had it. The events are in whatever epoll that user has put them, and their last close waits for
    /// who holds that; memfds are in none.
    pub(super) fn let_go(self, closers: &Closers, uid: u32) {
        closers.close(uid, self.events);
    }

    /// A worker's share of it.
    pub(super) fn side(&self, place: usize) -> Result<ClientSide, Refused> {
        let events = self
            .events
            .get(place)
            .ok_or_else(|| Refused::invalid("no such queue"))?;
        Ok(ClientSide {
            memory: self.memory.clone(),
            watched: self.watched.clone(),
            wake: events.wake.try_clone()?,
            kick: events.kick.try_clone()?,
        })
    }
}

/// What a consumer gets of the region: its memory, and the dma-buf that it is exported as. Never what is mapped here as such: that may be a
/// device, and who has its descriptor has all of it.
fn passed(region: &Region) -> std::io::Result<(Option<OwnedFd>, Option<OwnedFd>)> {
    let own = |fd: BorrowedFd<'_>| fd.try_clone_to_owned();
    Ok((
        region.shareable().map(own).transpose()?,
        region.export_fd().map(own).transpose()?,
    ))
}

impl Attachment {
    /// Makes a session its consumer, and says what that gets.
    ///
    /// # Errors
    ///
    /// When there is a consumer already.
    pub fn open(
        &mut self,
        session: SessionId,
        peer: &Peer,
    ) -> Result<(Opened, Endpoints), Refused> {
        if let Some(consumer) = &self.consumer
            && !devrx_sabotage::removed("one-consumer")
        {
            return Err(Refused::busy(format!(
                "{:?} has a consumer: process {}; end that first, or attach another queue",
                self.name, consumer.pid
            )));
        }
        let zero_copy = !self.numbers().iter().any(|(_, numbers)| numbers.copied);
        let events = self.client.events.iter().map(|events| {
            Ok(QueueEndpoints {
                wake: events.wake.try_clone()?,
                kick: events.kick.try_clone()?,
            })
        });
        let (region, export) = passed(&self.region)?;
        let endpoints = Endpoints {
            daemon_memory: self.daemon_fd.try_clone()?,
            client_memory: self.client.fd.try_clone()?,
            queues: events.collect::<std::io::Result<_>>()?,
            region,
            export,
        };
        let queue = |(queue, start): (&super::Queue, &Start)| OpenedQueue {
            queue: queue.number,
            first_chunk: queue.first_chunk,
            chunks: queue.chunks,
            completion_start: start.completion,
            refill_start: start.refill,
        };
        let opened = Opened {
            name: self.name.clone(),
            nic: self.nic_name.clone(),
            layout: *self.layout.params(),
            queues: self.live.iter().zip(self.starts()).map(queue).collect(),
            region: RegionInfo {
                memory: self.memory.clone(),
                size: self.region.size(),
                chunk_size: self.region.chunk_size(),
                chunks: self.region.chunks(),
                fd: endpoints.region.is_some(),
                export: endpoints.export.is_some(),
                mappable: self.region.cpu_readable(),
            },
            split: self.split,
            zero_copy,
            polls_refill: self.polls_refill,
            warnings: Vec::new(),
        };
        self.consumer = Some(Consumer {
            session,
            uid: peer.uid,
            pid: peer.pid,
        });
        Ok((opened, endpoints))
    }

    /// The consumer is gone: everything it held is taken back, and the next one gets fresh memory.
    ///
    /// # Errors
    ///
    /// When no fresh memory is to be had or a worker does not answer; the attachment must then end.
    pub fn drop_consumer(&mut self) -> Result<(), Refused> {
        let consumer = self.consumer.take();
        let mut fresh = ClientEnd::new(&self.name, &self.layout)?;
        for (place, queue) in self.live.iter_mut().enumerate() {
            let start = queue
                .worker
                .change_consumer(fresh.side(place)?)
                .ok_or_else(|| {
                    Refused::busy(format!(
                        "the thread of queue {} does not answer",
                        queue.number
                    ))
                })?;
            fresh.starts[place] = start;
        }
        std::mem::replace(&mut self.client, fresh)
            .let_go(&self.closers, consumer.map_or(self.owner.uid, |c| c.uid));
        Ok(())
    }

    /// The daemon's memory of rings and headers.
    pub(super) fn daemon_fd(&self) -> BorrowedFd<'_> {
        self.daemon_fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use devrx_provider::{RegionSpec, dmabuf, memfd, pci, udmabuf};
    use nix::sys::stat::fstat;

    use super::*;

    fn spec() -> RegionSpec {
        RegionSpec {
            size: 1 << 16,
            chunk_size: 4096,
        }
    }

    #[test]
    fn memory_without_a_dmabuf_is_passed_alone() {
        let region = memfd::create("test", spec()).unwrap();
        let (memory, export) = passed(&region).unwrap();
        assert!(memory.is_some() && export.is_none());
    }

    /// What the client is to import is the dma-buf, not the memfd under it.
    #[test]
    fn a_udmabuf_is_passed_with_its_dmabuf() {
        if !std::path::Path::new(udmabuf::DEVICE).exists() {
            println!("skipped: there is no {}", udmabuf::DEVICE);
            return;
        }
        let region = udmabuf::create("test", spec()).unwrap();
        let (memory, export) = passed(&region).unwrap();
        let (memory, export) = (memory.unwrap(), export.unwrap());
        assert!(dmabuf::exporter(memory.as_fd()).is_err());
        assert_eq!(dmabuf::exporter(export.as_fd()).unwrap(), "udmabuf");
    }

    /// Shared memory that plays a device.
    fn file(size: i64) -> OwnedFd {
        let fd = nix::sys::memfd::memfd_create(c"test", nix::sys::memfd::MFdFlags::MFD_CLOEXEC);
        let fd = fd.unwrap();
        nix::unistd::ftruncate(&fd, size).unwrap();
        fd
    }

    #[test]
    fn a_device_is_passed_to_nobody() {
        let bar = |export| pci::PciBar {
            fd: file(1 << 17),
            offset: 1 << 16,
            len: 1 << 16,
            export,
            owner: Box::new(()),
        };
        let bare = pci::region(bar(None), spec()).unwrap();
        let (memory, export) = passed(&bare).unwrap();
        assert!(memory.is_none() && export.is_none());

        let exported = pci::region(bar(Some(file(1 << 16))), spec()).unwrap();
        let (memory, export) = passed(&exported).unwrap();
        let passed = fstat(memory.unwrap()).unwrap().st_ino;
        assert_ne!(passed, fstat(exported.mapped_fd()).unwrap().st_ino);
        assert!(export.is_none());
    }
}
