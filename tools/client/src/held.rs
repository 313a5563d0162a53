//! A chunk that the client keeps beyond its batch.

/// A chunk of a packet that was taken with [`crate::Packet::hold`]: the client's until it goes to
/// [`crate::Attachment::give_back`]. Small, and free to move between threads.
///
/// Dropping one does not give it back: it may be in any thread, and only the attachment has the ring. One that is dropped stays with
/// the client, and no packet is received into it, until the attachment is closed. [`crate::Attachment::held`] counts what is out, and
/// `devrx stats` shows it as held by the client.
#[must_use = "a chunk that is dropped is lost until the attachment closes: hand it to Attachment::give_back"]
#[derive(Debug, PartialEq, Eq)]
pub struct Held {
    pub(crate) attachment: u32,
    pub(crate) queue: u16,
    pub(crate) generation: u16,
    pub(crate) chunk: u32,
    pub(crate) offset: u16,
    pub(crate) length: u16,
    pub(crate) header_length: u16,
    pub(crate) chunk_size: u32,
}

impl Held {
    /// The chunk's index in the region.
    #[must_use]
    pub fn chunk(&self) -> u32 {
        self.chunk
    }

    /// The generation it was delivered under.
    #[must_use]
    pub fn generation(&self) -> u16 {
        self.generation
    }

    /// The queue it came from, counted from 0 within the attachment.
    #[must_use]
    pub fn queue(&self) -> usize {
        self.queue.into()
    }

    /// Where its payload begins in the region, in bytes.
    #[must_use]
    pub fn offset(&self) -> u64 {
        u64::from(self.chunk) * u64::from(self.chunk_size) + u64::from(self.offset)
    }

    /// Bytes of payload.
    #[must_use]
    pub fn len(&self) -> usize {
        self.length.into()
    }

    /// Whether it has no payload.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Bytes of header in its header slot: those of the packet, if it is the packet's first chunk.
    #[must_use]
    pub fn header_len(&self) -> usize {
        self.header_length.into()
    }
}
