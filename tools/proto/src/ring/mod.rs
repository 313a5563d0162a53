//! The rings between daemon and client: one producer, one consumer, each distrusting the other's index.
//!
//! Both rings are the same ring. Indices are free-running `u32`; the slot of an index is its low bits. The producer publishes
//! with its index, the consumer frees with its own; either keeps a copy of the other's and looks again only when it must.
//! Entries are copied in and out as 64-bit words; nobody holds a reference into the ring, but to atomics for the length of a loop.
//!
//! # Batches, and packets of several entries
//!
//! A producer makes room for a whole group ([`Producer::reserve`], [`Producer::push`]) or for nothing of it; a group shows to
//! the consumer only with [`Producer::publish`], once a batch. So the entries of a packet are published together, or dropped
//! together.
//!
//! # The sleep protocol
//!
//! A consumer that finds nothing and wants to wait on an eventfd calls [`Consumer::arm`]: it writes a sleep number (never 0) to
//! the sleep word in its own memory, fences, and looks once more. A producer fences after publishing and then reads that word:
//! if it holds a number that was not answered yet, the consumer sleeps, and the producer writes the eventfd, once for that number.
//! Either the consumer's second look sees the entries, or the producer's read sees the number: no wake-up is lost. The number
//! spares the producer a write to the consumer's memory.
//!
//! On the completion ring the word is called SLEEPING (client memory), on the refill ring NEED_KICK (daemon memory).
//! A consumer drains its eventfd *before* it arms, never between arming and waiting.
//!
//! # The other side's index
//!
//! An honest index never moves back and never lies further than the ring is long. One that does is not used: the last good one
//! stays, and [`Producer::faults`] or [`Consumer::faults`] rises. Whatever the other side writes, a producer never sees more
//! room than the ring has, and a consumer never more entries; every loop is bounded by the slice it was given.

mod backing;
mod consumer;
mod producer;
mod shared;

pub use backing::{Backing, Entry, ReadSlots, Word, WriteSlots};
pub use consumer::{Consumer, ConsumerParts};
pub use producer::{Group, Producer, ProducerParts, Published};
pub use shared::{
    ClientQueue, CompletionConsumer, CompletionGroup, CompletionProducer, DaemonQueue,
    RefillConsumer, RefillProducer, Start,
};

/// The fence of this build: loom's in a model, the processor's otherwise.
#[inline]
pub(crate) fn fence(order: std::sync::atomic::Ordering) {
    #[cfg(loom)]
    loom::sync::atomic::fence(order);
    #[cfg(not(loom))]
    std::sync::atomic::fence(order);
}
