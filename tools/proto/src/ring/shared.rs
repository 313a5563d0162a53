//! The rings in the two memfds of an attachment.

use std::sync::Arc;

use super::{Consumer, ConsumerParts, Group, Producer, ProducerParts, Word};
use crate::completion::Completion;
use crate::layout::{Layout, LayoutError};
use crate::refill::RefillEntry;
use crate::shm::{Shared, Shm, ShmError};

/// Daemon: writes completions.
pub type CompletionProducer = Producer<Shared, Completion, 4>;
/// Daemon: completions that will be published together.
pub type CompletionGroup<'ring> = Group<'ring, Shared, Completion, 4>;
/// Client: reads completions.
pub type CompletionConsumer = Consumer<Shared, Completion, 4>;
/// Daemon: reads the chunks that a client gives back.
pub type RefillConsumer = Consumer<Shared, RefillEntry, 1>;
/// Client: gives chunks back.
pub type RefillProducer = Producer<Shared, RefillEntry, 1>;

/// The indices that both sides of a queue's rings begin with. 0 for a new attachment; where the daemon stands for a new consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Start {
    /// Of the completion ring.
    pub completion: u32,
    /// Of the refill ring.
    pub refill: u32,
}

/// The daemon's ends of one queue's rings.
pub struct DaemonQueue {
    /// Packets to the client.
    pub completions: CompletionProducer,
    /// Chunks from the client.
    pub refills: RefillConsumer,
}

impl DaemonQueue {
    /// Takes the daemon's ends of queue `queue` (counted from 0 within the attachment) and writes all index and sleep words
    /// anew. To be done before the client gets `client`. For a change of consumer: a fresh `client` memfd, and
    /// [`DaemonQueue::start`] of the old ends.
    ///
    /// # Errors
    /// The queue does not exist, a memfd is shorter than the layout, or `daemon` or `client` was not mapped for writing.
    pub fn new(
        layout: &Layout,
        queue: u32,
        daemon: &Arc<Shm>,
        client: &Arc<Shm>,
        start: Start,
    ) -> Result<Self, ShmError> {
        let place = layout
            .queue(queue)
            .ok_or(LayoutError::NoSuchQueue { queue })?;
        let completion_consumer = client.word(place.completion_consumer)?;
        let sleeping = client.word(place.sleeping)?;
        let refill_producer = client.word(place.refill_producer)?;
        for (word, value) in [
            (&completion_consumer, start.completion),
            (&sleeping, 0),
            (&refill_producer, start.refill),
        ] {
            if !word.writable() {
                return Err(ShmError::ReadOnly);
            }
            word.store(value);
        }
        let completion_producer = daemon.word_to_write(place.completion_producer)?;
        completion_producer.store(start.completion);
        let refill_consumer = daemon.word_to_write(place.refill_consumer)?;
        refill_consumer.store(start.refill);
        let need_kick = daemon.word_to_write(place.need_kick)?;
        need_kick.store(0);
        Ok(Self {
            completions: Producer::new(ProducerParts {
                own: completion_producer,
                peer: completion_consumer,
                sleep: sleeping,
                slots: daemon.slots_to_write(place.completions, layout.params().completions)?,
                start: start.completion,
            }),
            refills: Consumer::new(ConsumerParts {
                own: refill_consumer,
                peer: refill_producer,
                sleep: need_kick,
                slots: client.slots(place.refills, layout.refill_capacity())?,
                start: start.refill,
            }),
        })
    }

    /// Where a new consumer's rings begin.
    #[must_use]
    pub fn start(&self) -> Start {
        Start {
            completion: self.completions.position(),
            refill: self.refills.position(),
        }
    }
}

/// The client's ends of one queue's rings.
pub struct ClientQueue {
    /// Packets from the daemon.
    pub completions: CompletionConsumer,
    /// Chunks to the daemon.
    pub refills: RefillProducer,
}

impl ClientQueue {
    /// Takes the client's ends of queue `queue` (counted from 0 within the attachment). Writes nothing.
    ///
    /// # Errors
    /// The queue does not exist, a memfd is shorter than the layout, or `client` was not mapped for writing.
    pub fn new(
        layout: &Layout,
        queue: u32,
        daemon: &Arc<Shm>,
        client: &Arc<Shm>,
        start: Start,
    ) -> Result<Self, ShmError> {
        let place = layout
            .queue(queue)
            .ok_or(LayoutError::NoSuchQueue { queue })?;
        Ok(Self {
            completions: Consumer::new(ConsumerParts {
                own: client.word_to_write(place.completion_consumer)?,
                peer: daemon.word(place.completion_producer)?,
                sleep: client.word_to_write(place.sleeping)?,
                slots: daemon.slots(place.completions, layout.params().completions)?,
                start: start.completion,
            }),
            refills: Producer::new(ProducerParts {
                own: client.word_to_write(place.refill_producer)?,
                peer: daemon.word(place.refill_consumer)?,
                sleep: daemon.word(place.need_kick)?,
                slots: client.slots_to_write(place.refills, layout.refill_capacity())?,
                start: start.refill,
            }),
        })
    }
}
