//! One thread a queue: polls the NIC, publishes completions, takes back what the client returns, posts chunks again.
//!
//! The thread owns its queue, its pool and its ends of the rings; nothing a packet needs is shared with another thread, and per
//! packet there is no lock, allocation, system call, dynamic call or log line. What is paid once a batch: one index published,
//! one look at the client's sleep word, the counters in shared memory, one look for commands.
//!
//! | module | what it does |
//! |---|---|
//! | `run` | the loop |
//! | `deliver`, `sink` | packets become completions |
//! | `returns` | what the client gives back |
//! | `sleep` | when there is nothing to do |
//! | `marks` | nothing, but for who counts instructions |
//! | `finish` | the end of a queue, in the order that keeps memory safe |
//! | `snapshot` | the numbers |

mod deliver;
mod finish;
mod handle;
mod marks;
mod returns;
mod run;
mod sink;
mod sleep;
pub mod snapshot;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::Duration;

use devrx_driver::RxQueue;
use devrx_pool::Pool;
use devrx_proto::event::Event;
use devrx_proto::layout::Layout;
use devrx_proto::ring::{DaemonQueue, Start};
use devrx_proto::shm::Shm;
use devrx_provider::{Mapping, Region};

use crate::config::PollMode;
use crate::sys::Watched;
pub use finish::Finished;
pub use handle::{Handle, Seat, Shared, commands};
pub use run::can_pin;
use snapshot::{Snapshot, Words};

/// The client's half of an attachment, which changes with the consumer.
#[derive(Debug)]
pub struct ClientSide {
    /// The client-written memfd.
    pub memory: Arc<Shm>,
    /// Whether all of it is still there.
    pub watched: Arc<Watched>,
    /// Written to wake the client. Not blocking.
    pub wake: Event,
    /// Written by the client to wake this thread. Not blocking.
    pub kick: Event,
}

/// What control asks of a worker.
#[derive(Debug)]
pub enum Command {
    /// Take back everything the client held, and start again with this one. Answered with where its rings begin.
    Consumer(ClientSide, SyncSender<Start>),
    /// Read everything the client has returned, and say the numbers.
    Report(SyncSender<Snapshot>),
}

/// How a worker behaves.
#[derive(Clone, Debug)]
pub struct Manners {
    /// The thread's name.
    pub name: String,
    /// The processor to stay on.
    pub cpu: Option<u32>,
    /// How it waits.
    pub poll_mode: PollMode,
    /// Completions after which a sleeping client is woken.
    pub wake_batch: u32,
    /// Time after which it is woken with fewer.
    pub wake_timeout: Duration,
    /// The client cannot write an eventfd: look at its returns every millisecond when chunks are short.
    pub polls_refill: bool,
}

/// What a worker is made of, but for its queue.
pub struct Parts {
    /// How it behaves.
    pub manners: Manners,
    /// The chunks.
    pub pool: Pool,
    /// The region they are of.
    pub region: Arc<Region>,
    /// Where the rings lie.
    pub layout: Layout,
    /// The queue's place in the attachment.
    pub place: u32,
    /// The daemon-written memfd.
    pub memory: Arc<Shm>,
    /// Whether all of it is still there.
    pub watched: Arc<Watched>,
    /// The header slots, as the queue writes them.
    pub headers: Arc<Mapping>,
    /// The daemon's ends of the rings.
    pub rings: DaemonQueue,
    /// The client's half.
    pub client: ClientSide,
    /// What control shares with it.
    pub shared: Arc<Shared>,
    /// Commands.
    pub commands: Receiver<Command>,
}

/// A queue with everything its thread needs.
pub(crate) struct Worker<Q: RxQueue> {
    queue: Q,
    pool: Pool,
    region: Arc<Region>,
    /// It wants a read a batch.
    flushes: bool,
    rings: DaemonQueue,
    layout: Layout,
    place: u32,
    memory: Arc<Shm>,
    watched: Arc<Watched>,
    headers: Arc<Mapping>,
    client: ClientSide,
    wake: devrx_proto::wake::WakePolicy,
    manners: Manners,
    words: Words,
    numbers: Snapshot,
    shared: Arc<Shared>,
    commands: Receiver<Command>,
    /// Fewer chunks posted than this is short.
    low: u32,
}

#[cfg(test)]
mod cost;
#[cfg(test)]
mod tests;
