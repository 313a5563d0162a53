//! One packet of a batch.

use devrx_proto::completion::{Completion, CompletionFlags};

use crate::{Batch, ClientError, Held};

/// A packet. Its header and payload stay where they are until the batch ends, or longer with [`hold`](Self::hold).
#[derive(Clone, Copy)]
pub struct Packet<'batch> {
    pub(crate) batch: &'batch Batch<'batch>,
    pub(crate) first: usize,
    pub(crate) entries: &'batch [Completion],
}

/// A piece of a packet's payload: `len` bytes in one chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// The chunk's index in the region.
    pub chunk: u32,
    /// The generation it was delivered under.
    pub generation: u16,
    /// Where the payload begins in the region, in bytes.
    pub offset: u64,
    /// Bytes of payload. May be 0.
    pub len: usize,
}

/// A header copied out: at most [`Header::MAX`] bytes.
#[derive(Clone, Copy)]
pub struct Header {
    bytes: [u8; Self::MAX],
    len: usize,
}

impl Header {
    /// Most bytes it holds: a header slot of default size.
    pub const MAX: usize = 256;
}

impl std::ops::Deref for Header {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl std::fmt::Debug for Header {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Header").field(&&**self).finish()
    }
}

impl<'batch> Packet<'batch> {
    fn first(&self) -> &Completion {
        &self.entries[0]
    }

    /// The completions, as the daemon wrote them: one a chunk.
    #[must_use]
    pub fn entries(&self) -> &'batch [Completion] {
        self.entries
    }

    /// The number of the flow rule that matched.
    #[must_use]
    pub fn flow(&self) -> u16 {
        self.first().flow
    }

    /// The VLAN tag (TCI) that the NIC took off the frame.
    #[must_use]
    pub fn vlan(&self) -> Option<u16> {
        self.flags()
            .contains(CompletionFlags::VLAN)
            .then(|| self.first().vlan)
    }

    /// The RSS hash, if the NIC made one.
    #[must_use]
    pub fn rss_hash(&self) -> Option<u32> {
        self.flags()
            .contains(CompletionFlags::HASH)
            .then(|| self.first().rss_hash)
    }

    /// When the packet came, in nanoseconds. Which clock that is, say the [`flags`](Self::flags).
    #[must_use]
    pub fn timestamp(&self) -> Option<u64> {
        let stamped = CompletionFlags::TIMESTAMP_SW | CompletionFlags::TIMESTAMP_HW;
        self.flags()
            .intersects(stamped)
            .then(|| self.first().timestamp)
    }

    /// What else is known of the packet.
    #[must_use]
    pub fn flags(&self) -> CompletionFlags {
        self.first().flags()
    }

    /// Bytes of header that were split off. 0: everything is payload.
    #[must_use]
    pub fn header_len(&self) -> usize {
        self.first().header_length.into()
    }

    /// Bytes of payload.
    #[must_use]
    pub fn payload_len(&self) -> usize {
        self.entries
            .iter()
            .map(|entry| usize::from(entry.length))
            .sum()
    }

    /// Copies the header to `out`, as much as fits; answers how many bytes.
    pub fn copy_header(&self, out: &mut [u8]) -> usize {
        self.batch
            .memory()
            .header(self.first().chunk, self.header_len(), out)
    }

    /// The header, its first [`Header::MAX`] bytes.
    #[must_use]
    pub fn header(&self) -> Header {
        let mut header = Header {
            bytes: [0; Header::MAX],
            len: 0,
        };
        header.len = self.copy_header(&mut header.bytes);
        header
    }

    /// Where the payload is: one segment a chunk.
    pub fn segments(&self) -> impl ExactSizeIterator<Item = Segment> + use<'batch> {
        let chunk_size = u64::from(self.batch.chunk_size());
        self.entries.iter().map(move |entry| Segment {
            chunk: entry.chunk,
            generation: entry.generation,
            offset: u64::from(entry.chunk) * chunk_size + u64::from(entry.offset),
            len: entry.length.into(),
        })
    }

    /// Appends the payload to `out`.
    ///
    /// # Errors
    /// This process cannot read the region.
    pub fn copy_payload_to(&self, out: &mut Vec<u8>) -> Result<(), ClientError> {
        self.segments().try_for_each(|segment| {
            self.batch
                .memory()
                .append_region(segment.offset, segment.len, out)
        })
    }

    /// Copies the payload to `out`, as much as fits; answers how many bytes.
    ///
    /// # Errors
    /// This process cannot read the region.
    pub fn copy_payload(&self, out: &mut [u8]) -> Result<usize, ClientError> {
        let mut done = 0;
        for segment in self.segments() {
            let len = segment.len.min(out.len() - done);
            self.batch
                .memory()
                .copy_region(segment.offset, &mut out[done..done + len])?;
            done += len;
        }
        Ok(done)
    }

    /// Appends the whole frame to `out`: header and payload rejoined, and a VLAN tag that the NIC took off put back.
    ///
    /// # Errors
    /// This process cannot read the region.
    pub fn copy_frame_to(&self, out: &mut Vec<u8>) -> Result<(), ClientError> {
        let start = out.len();
        out.resize(start + self.header_len(), 0);
        self.copy_header(&mut out[start..]);
        self.copy_payload_to(out)?;
        // Behind the two MAC addresses.
        let at = start + 12;
        if let Some(vlan) = self.vlan().filter(|_| out.len() >= at) {
            let [high, low] = vlan.to_be_bytes();
            out.splice(at..at, [0x81, 0x00, high, low]);
        }
        Ok(())
    }

    /// Keeps the packet's chunks beyond the batch: one [`Held`] each, to be given back with [`crate::Attachment::give_back`].
    /// Chunks that were held before are not answered again. They are held even where the iterator is not used up: what it did not
    /// answer, and every [`Held`] that is dropped, is lost until the attachment closes ([`crate::Attachment::held`] counts them).
    #[must_use = "the packet's chunks are held now: those not given back are lost until the attachment closes"]
    pub fn hold(&self) -> impl Iterator<Item = Held> + use<'batch> {
        let batch = self.batch;
        let entries = self.entries;
        // Marked now, not as the iterator goes: what is not consumed must not be given back behind the caller's back.
        let first = self.first;
        let fresh = batch.mark_held(first..first + entries.len());
        entries
            .iter()
            .filter(move |_| fresh)
            .map(move |entry| batch.held(entry))
    }
}

impl std::fmt::Debug for Packet<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Packet")
            .field("entries", &self.entries)
            .finish_non_exhaustive()
    }
}
