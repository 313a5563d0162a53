//! An attachment: one client's hold on one queue, or on a range of queues. Region, rings, workers and flow rules, made together and
//! ended together.
//!
//! | module | what it does |
//! |---|---|
//! | `wanted` | what is asked for, from a request or the configuration |
//! | `memory` | the region, and the two memfds |
//! | `bar` | a BAR of another function as the region |
//! | `gpu` | memory of a GPU as the region |
//! | `build` | making one, step by step; what was made is ended when a step fails |
//! | `end` | ending one, in the order that keeps memory safe |
//! | `consumer` | the client that reads it, and the change of that client |

mod bar;
mod build;
mod consumer;
mod end;
mod gpu;
mod memory;
mod wanted;

use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use devrx_driver::flow::FlowRule;
use devrx_proto::layout::Layout;
use devrx_proto::message::FlowInfo;
use devrx_proto::ring::Start;
use devrx_proto::shm::Shm;
use devrx_provider::Region;

pub use bar::{BarName, Lenders};
pub use build::{Builder, Made};
pub use end::Ended;
pub use gpu::{GpuName, Gpus};
pub use wanted::{Source, Wanted};

use crate::closers::Closers;
use crate::keeper::HoldId;
use crate::sys::Watched;
use crate::worker::Handle;
use crate::worker::snapshot::Snapshot;

/// A connection of a client, by number; never used again.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SessionId(pub u64);

/// Who owns an attachment.
#[derive(Clone, Copy, Debug)]
pub struct Owner {
    /// Its user: limits are counted for it.
    pub uid: u32,
    /// The session it ends with; none for one that stays.
    pub session: Option<SessionId>,
}

/// Who reads an attachment.
#[derive(Clone, Copy, Debug)]
pub struct Consumer {
    /// Its session.
    pub session: SessionId,
    /// Its user: what is slow to close of what it was given is that user's.
    pub uid: u32,
    /// Its process, for messages.
    pub pid: i32,
}

/// A flow rule of an attachment.
#[derive(Clone, Debug)]
pub struct Flow {
    /// Its number within the attachment.
    pub id: u16,
    /// The rule.
    pub rule: FlowRule,
}

/// One queue of an attachment.
#[derive(Debug)]
pub(crate) struct Queue {
    /// Its number on the NIC.
    number: u32,
    /// Its worker.
    worker: Handle,
    /// Its share of the region.
    first_chunk: u32,
    chunks: u32,
}

/// A living attachment.
#[derive(Debug)]
pub struct Attachment {
    /// Its name.
    pub name: String,
    /// The NIC's place in the daemon's table.
    pub nic: usize,
    /// The NIC's name.
    pub nic_name: String,
    /// Its queues on the NIC.
    pub queues: RangeInclusive<u32>,
    /// The kind of memory, as it was asked for.
    pub memory: String,
    /// Who owns it.
    pub owner: Owner,
    /// Who reads it.
    pub consumer: Option<Consumer>,
    /// Its rules, the same on each of its queues.
    pub flows: Vec<Flow>,
    next_flow: u16,
    split: bool,
    /// Whether its workers look at the refill rings by themselves.
    pub polls_refill: bool,
    region: Arc<Region>,
    lender: Option<bar::Lender>,
    layout: Layout,
    daemon_fd: OwnedFd,
    daemon_memory: Arc<Shm>,
    watched: Arc<Watched>,
    client: consumer::ClientEnd,
    /// Duplicates of what clients can have of the region and be slow to have closed, dma-bufs: where the region is dropped is never the
    /// last close.
    given: Vec<OwnedFd>,
    /// Where the last close is.
    closers: Closers,
    hold: Option<HoldId>,
    live: Vec<Queue>,
}

impl Attachment {
    /// Whether it shares a queue with others.
    #[must_use]
    pub fn overlaps(&self, nic: usize, queues: &RangeInclusive<u32>) -> bool {
        self.nic == nic
            && self.queues.start() <= queues.end()
            && queues.start() <= self.queues.end()
    }

    /// Bytes of its region, its rings and its header slots.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.region.size() + self.layout.daemon_size() + self.layout.client_size()
    }

    /// Chunks of its region.
    #[must_use]
    pub fn chunks(&self) -> u32 {
        self.region.chunks()
    }

    /// Its rules, for a reply.
    #[must_use]
    pub fn flow_infos(&self) -> Vec<FlowInfo> {
        let info = |flow: &Flow| FlowInfo {
            name: self.name.clone(),
            id: flow.id,
            rule: flow.rule.to_string(),
        };
        self.flows.iter().map(info).collect()
    }

    /// Why it must end, if a worker says so or its memory is wanted back.
    #[must_use]
    pub fn fault(&self) -> Option<String> {
        let of_worker = self.live.iter().find_map(|queue| queue.worker.fault());
        of_worker
            .map(str::to_owned)
            .or_else(|| self.lender.as_ref()?.trouble())
    }

    /// The numbers of its queues now, by queue. The workers answer side by side.
    pub fn numbers(&mut self) -> Vec<(u32, Snapshot)> {
        let asked: Vec<_> = self.live.iter().map(|queue| queue.worker.ask()).collect();
        let answers = self.live.iter_mut().zip(&asked);
        answers
            .map(|(queue, asked)| (queue.number, queue.worker.collect(asked)))
            .collect()
    }

    /// Where the rings of a new consumer begin.
    fn starts(&self) -> &[Start] {
        &self.client.starts
    }
}
