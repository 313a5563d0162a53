//! Chunks that a device still reads: they go back when it has passed them.

use std::collections::VecDeque;

use thiserror::Error;

use crate::{Attachment, Batch, ClientError, Held};

/// A point in a device's stream of work, recorded behind the work that reads a batch: a CUDA event, for example. A closure that answers as
/// [`passed`](Self::passed) does is one.
pub trait Mark {
    /// Why the device cannot say.
    type Error;

    /// Whether all work before the mark is done. It is not asked again after it said yes.
    ///
    /// # Errors
    /// The device cannot say: its work has failed, or the device is gone.
    fn passed(&mut self) -> Result<bool, Self::Error>;
}

impl<F, E> Mark for F
where
    F: FnMut() -> Result<bool, E>,
{
    type Error = E;

    fn passed(&mut self) -> Result<bool, E> {
        self()
    }
}

/// Why chunks could not be given back.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum InFlightError<E> {
    /// The device cannot say whether it has passed. The batch, and those after it, are still in flight.
    #[error(
        "the device that reads the packets failed; their chunks stay with this program until the attachment closes"
    )]
    Device(#[source] E),
    /// They are another attachment's.
    #[error(transparent)]
    Client(ClientError),
}

/// Batches that were handed to a device's stream of work, oldest first: the common way to use a GPU. A batch is received, work that reads it is given to the stream, a mark is
/// recorded behind that, and the next batch is received at once; what the stream has passed goes back.
///
/// ```no_run
/// # use devrx_client::{Attachment, InFlight};
/// # struct Stream;
/// # impl Stream { fn launch(&self, _: &[(u64, usize)]) {} fn record(&self) -> impl FnMut() -> Result<bool, std::io::Error> + use<> { || Ok(true) } }
/// # fn consume(mut camera: Attachment, stream: Stream) -> Result<(), Box<dyn std::error::Error>> {
/// let mut in_flight = InFlight::new();
/// loop {
///     let batch = camera.recv(None)?;
///     let pieces: Vec<_> = batch.packets().flat_map(|packet| packet.segments()).map(|piece| (piece.offset, piece.len)).collect();
///     stream.launch(&pieces);
///     in_flight.hand_over(batch, stream.record());
///     in_flight.give_back(&mut camera)?;
/// }
/// # }
/// ```
///
/// A stream passes its marks in order, so a batch goes back after those before it. Chunks in flight are chunks that no packet can be received into: with all of them in flight, nothing comes, so
/// that a receiver that waits should give back now and then. Dropping this gives nothing back: what is in flight is lost until the attachment closes.
#[derive(Debug)]
pub struct InFlight<M> {
    batches: VecDeque<(M, Vec<Held>)>,
    spare: Vec<Vec<Held>>,
}

impl<M> Default for InFlight<M> {
    fn default() -> Self {
        Self {
            batches: VecDeque::new(),
            spare: Vec::new(),
        }
    }
}

impl<M: Mark> InFlight<M> {
    /// Nothing in flight.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Keeps a batch until the stream has passed `mark`, which is behind the work that reads it. Packets of it that were [held](crate::Packet::hold) before are whoever has them.
    pub fn hand_over(&mut self, batch: Batch<'_>, mark: M) {
        let mut held = self.spare.pop().unwrap_or_default();
        held.extend(batch.packets().flat_map(|packet| packet.hold()));
        self.batches.push_back((mark, held));
    }

    /// Gives back what the stream has passed. Answers how many chunks. Does not wait.
    ///
    /// # Errors
    /// The device failed, or the chunks are another attachment's.
    pub fn give_back(
        &mut self,
        attachment: &mut Attachment,
    ) -> Result<usize, InFlightError<M::Error>> {
        let mut count = 0;
        while let Some((mark, _)) = self.batches.front_mut() {
            if !mark.passed().map_err(InFlightError::Device)? {
                break;
            }
            let Some((_, mut held)) = self.batches.pop_front() else {
                break;
            };
            count += attachment
                .give_back(held.drain(..))
                .map_err(InFlightError::Client)?;
            self.spare.push(held);
        }
        Ok(count)
    }

    /// How many batches are in flight.
    #[must_use]
    pub fn batches(&self) -> usize {
        self.batches.len()
    }

    /// How many chunks are in flight.
    #[must_use]
    pub fn chunks(&self) -> usize {
        self.batches.iter().map(|(_, held)| held.len()).sum()
    }
}
