//! A frame as a list of copies, for a device that gathers it in one launch.

use super::frame::{EMPTY, Frame, Pieces, in_slot};
use crate::{ClientError, Memory};

/// [`Piece::source`]: bytes of the region.
pub const FROM_REGION: u32 = 0;
/// [`Piece::source`]: bytes of the daemon-written memory, where header slots are.
pub const FROM_HEADERS: u32 = 1;
/// [`Piece::source`]: no bytes; the frame is filled there.
pub const FILL: u32 = 2;

/// One copy of those that gather a frame. It is `devrx_piece` of `devrx.h` and `devrx_placement.cuh`, whose `devrx_gather_pieces` does them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Piece {
    /// Offset of its first byte in its source.
    pub from: u64,
    /// Its place in the frame in one piece, in bytes.
    pub to: u64,
    /// How many bytes.
    pub length: u32,
    /// [`FROM_REGION`], [`FROM_HEADERS`] or [`FILL`].
    pub source: u32,
}

impl Piece {
    /// The first byte of the frame behind it.
    fn end(&self) -> u64 {
        self.to + u64::from(self.length)
    }
}

impl Memory {
    /// Does one copy of a packet's data, on the CPU.
    pub(super) fn copy_piece(&self, piece: &Piece, out: &mut [u8]) -> Result<(), ClientError> {
        match piece.source {
            FROM_HEADERS if self.daemon.copy_out(piece.from, out) => Ok(()),
            FROM_HEADERS => Err(ClientError::broken("a header lies outside of its slot")),
            _ => self.copy_region(piece.from, out),
        }
    }
}

impl Frame {
    /// The copies that gather the data of the packet at place `index`, in order: what lies in the header slot, then what lies in the region. None
    /// where it is missing.
    pub(super) fn data(&self, index: usize) -> impl Iterator<Item = Piece> {
        let (place, chunks) = self.body().get(index).unwrap_or((&EMPTY, &[]));
        let header = chunks.first().and_then(|first| {
            // Chunks were checked when they were received: there is a slot.
            let slot = self.memory.layout.header_slot(first.chunk())?;
            Some((
                FROM_HEADERS,
                slot + u64::from(place.span.start),
                in_slot(place, chunks),
            ))
        });
        let region = Pieces::new(place, chunks).map(|piece| (FROM_REGION, piece.offset, piece.len));
        let mut to = index as u64 * self.place_bytes as u64;
        let pieces = header
            .filter(|(.., len)| *len > 0)
            .into_iter()
            .chain(region);
        pieces.map(move |(source, from, len)| {
            let piece = Piece {
                from,
                to,
                // A place has at most 2^32 bytes.
                length: len as u32,
                source,
            };
            to += len as u64;
            piece
        })
    }

    /// Writes the list of copies that gather the frame to `out`, whose memory is used again. Offsets hold for every mapping, a GPU's included. The
    /// pieces cover each of the frame's [`size`](Self::size) bytes once, in order.
    pub fn pieces_into(&self, out: &mut Vec<Piece>) {
        out.clear();
        for index in 0..self.places() {
            let begin = index as u64 * self.place_bytes as u64;
            let end = begin + self.place_bytes as u64;
            let mut to = begin;
            out.extend(self.data(index).inspect(|piece| to = piece.end()));
            if to < end {
                out.push(Piece {
                    from: 0,
                    to,
                    length: (end - to) as u32,
                    source: FILL,
                });
            }
        }
    }

    /// Where in the region the frame lies in one piece already: all of its packets are there, each as long as a place and right behind the one before
    /// it. `None`: it has to be gathered.
    ///
    /// So it is while chunks are handed out in order, with a split behind the UDP header and payload as long as a chunk.
    #[must_use]
    pub fn in_place(&self) -> Option<u64> {
        let mut begin = None;
        let mut next = 0;
        for index in 0..self.places() {
            let (place, chunks) = self.body().get(index)?;
            let mut left = self.place_bytes;
            for piece in Pieces::new(place, chunks) {
                let first = *begin.get_or_insert(piece.offset);
                if piece.offset != first + next {
                    return None;
                }
                next += piece.len as u64;
                left = left.checked_sub(piece.len)?;
            }
            if left != 0 {
                return None;
            }
        }
        begin
    }
}
