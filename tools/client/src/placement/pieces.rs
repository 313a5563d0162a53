//! A frame as a list of copies, for a device that gathers it in one launch.

use super::frame::{Frame, Pieces};

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

impl Frame {
    /// Writes the list of copies that gather the frame to `out`, whose memory is used again. Offsets hold for every mapping, a GPU's included. The
    /// pieces cover each of the frame's [`size`](Self::size) bytes once, in order.
    pub fn pieces_into(&self, out: &mut Vec<Piece>) {
        out.clear();
        for index in 0..self.places() {
            let begin = index as u64 * self.place_bytes as u64;
            let mut done = 0;
            let mut push = |from, length: usize, source| {
                if length > 0 {
                    out.push(Piece {
                        from,
                        to: begin + done as u64,
                        // A place has at most 2^32 bytes.
                        length: length as u32,
                        source,
                    });
                    done += length;
                }
                done
            };
            if let Some((place, chunks)) = self.body().get(index)
                && let Some(first) = chunks.first()
            {
                let start = place.span.start as usize;
                let in_slot = first.header_len().saturating_sub(start);
                // Chunks were checked when they were received.
                if let Some(slot) = self.memory.layout.header_slot(first.chunk()) {
                    let in_slot = in_slot.min(place.span.len as usize);
                    push(slot + start as u64, in_slot, FROM_HEADERS);
                }
                for piece in Pieces::new(place, chunks) {
                    push(piece.offset, piece.len, FROM_REGION);
                }
            }
            let done = push(0, 0, FILL);
            push(0, self.place_bytes - done, FILL);
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
