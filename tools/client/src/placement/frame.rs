//! A closed frame.

use std::sync::Arc;

use super::bin::Bin;
use super::options::PlacementError;
use super::window::{Body, Done, FrameEnd, Place};
use crate::{Held, Memory, Segment};

/// A frame of a stream: packets by their places, and the chunks they lie in. Dropping it sends the chunks home: the placement gives
/// them back when it is called the next time, or wakes up for it. A frame may move to another thread and be dropped there.
#[must_use = "dropping a frame gives its chunks back"]
pub struct Frame {
    /// Some until it is dropped.
    body: Option<Body<Held>>,
    number: u64,
    restarts: u64,
    end: FrameEnd,
    pub(super) place_bytes: usize,
    pub(super) memory: Memory,
    bin: Arc<Bin>,
}

impl Frame {
    pub(super) fn new(done: Done<Held>, place_bytes: u32, memory: Memory, bin: Arc<Bin>) -> Self {
        Self {
            body: Some(done.body),
            number: done.number,
            restarts: done.restarts,
            end: done.end,
            place_bytes: place_bytes as usize,
            memory,
            bin,
        }
    }

    pub(super) fn body(&self) -> &Body<Held> {
        self.body.as_ref().expect("it is taken by drop alone")
    }

    /// The frame's number: that of its first packet, from [`first`](super::PlacementOptions::first) on, in frames. It goes on where
    /// the sequence numbers wrap. After a restart it may be one that was before.
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// How often the stream had started again before this frame.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.restarts
    }

    /// Why it was closed.
    #[must_use]
    pub fn end(&self) -> FrameEnd {
        self.end
    }

    /// Whether every place has its packet.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.end == FrameEnd::Complete
    }

    /// How many places it has.
    #[must_use]
    pub fn places(&self) -> usize {
        self.body().places.len()
    }

    /// How many packets are missing.
    #[must_use]
    pub fn missing(&self) -> usize {
        self.places() - self.body().placed as usize
    }

    /// The presence bitmap: bit `i % 64` of word `i / 64` is set where place `i` has its packet.
    #[must_use]
    pub fn present(&self) -> &[u64] {
        &self.body().present
    }

    /// Whether place `index` has its packet.
    #[must_use]
    pub fn has(&self, index: usize) -> bool {
        self.body().get(index).is_some()
    }

    /// The chunks of the packet at place `index`. None: it is missing.
    #[must_use]
    pub fn chunks(&self, index: usize) -> Option<&[Held]> {
        self.body().get(index).map(|(_, chunks)| chunks)
    }

    /// Bytes of data at place `index`. None: it is missing.
    #[must_use]
    pub fn data_len(&self, index: usize) -> Option<usize> {
        self.body()
            .get(index)
            .map(|(place, _)| place.span.len as usize)
    }

    /// Where in the region the data at place `index` lies, as offsets that hold for every mapping of it, a GPU's included: no segments where
    /// it is missing. Data that a split behind the UDP header took into the header slot is not in the region, and so in none of them.
    pub fn segments(&self, index: usize) -> impl Iterator<Item = Segment> {
        let (place, chunks) = self.body().get(index).unwrap_or((&EMPTY, &[]));
        Pieces::new(place, chunks)
    }

    /// Bytes of a frame in one piece: its places, as many bytes each as the options say.
    #[must_use]
    pub fn size(&self) -> usize {
        self.places() * self.place_bytes
    }

    /// Gathers the frame into `out`: place after place, `fill` where a packet is missing or shorter than its place. Answers how many
    /// packets are missing.
    ///
    /// # Errors
    /// `out` is shorter than [`size`](Self::size), or this process cannot read the region.
    pub fn copy_into(&self, out: &mut [u8], fill: u8) -> Result<usize, PlacementError> {
        let (need, have) = (self.size(), out.len());
        let Some(out) = out.get_mut(..need) else {
            return Err(PlacementError::Buffer { need, have });
        };
        for (index, place) in out.chunks_exact_mut(self.place_bytes).enumerate() {
            let mut done = 0;
            for piece in self.data(index) {
                let (part, end) = (done, done + piece.length as usize);
                self.memory.copy_piece(&piece, &mut place[part..end])?;
                done = end;
            }
            place[done..].fill(fill);
        }
        Ok(self.missing())
    }
}

pub(super) const EMPTY: Place = Place {
    span: super::window::Span { start: 0, len: 0 },
    first: 0,
    count: 0,
};

/// How many bytes of a packet's data a split behind the UDP header took into the header slot.
pub(super) fn in_slot(place: &Place, chunks: &[Held]) -> usize {
    let header = chunks.first().map_or(0, Held::header_len);
    header
        .saturating_sub(place.span.start as usize)
        .min(place.span.len as usize)
}

/// The pieces of a packet's data that lie in the region.
pub(super) struct Pieces<'a> {
    chunks: std::slice::Iter<'a, Held>,
    /// Bytes of payload before the data.
    skip: usize,
    /// Bytes of data to come.
    left: usize,
}

impl<'a> Pieces<'a> {
    pub(super) fn new(place: &Place, chunks: &'a [Held]) -> Self {
        let header = chunks.first().map_or(0, Held::header_len);
        Self {
            chunks: chunks.iter(),
            skip: (place.span.start as usize).saturating_sub(header),
            left: place.span.len as usize - in_slot(place, chunks),
        }
    }
}

impl Iterator for Pieces<'_> {
    type Item = Segment;

    fn next(&mut self) -> Option<Segment> {
        loop {
            let held = self.chunks.next()?;
            let skip = self.skip.min(held.len());
            self.skip -= skip;
            let len = (held.len() - skip).min(self.left);
            self.left -= len;
            if len > 0 {
                return Some(Segment {
                    chunk: held.chunk(),
                    generation: held.generation(),
                    offset: held.offset() + skip as u64,
                    len,
                });
            }
        }
    }
}

impl Drop for Frame {
    fn drop(&mut self) {
        if let Some(body) = self.body.take() {
            self.bin.put(body);
        }
    }
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Frame")
            .field("number", &self.number)
            .field("end", &self.end)
            .field("places", &self.places())
            .field("missing", &self.missing())
            .finish_non_exhaustive()
    }
}
