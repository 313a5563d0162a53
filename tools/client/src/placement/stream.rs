//! One stream's packets, put to their places.

use std::sync::Arc;

use super::bin::Bin;
use super::frame::Frame;
use super::options::{ByteOrder, PlacementError, PlacementOptions};
use super::stats::{PlacementStats, Verdict};
use super::udp;
use super::window::{Body, FrameEnd, Span, Window};
use crate::{Attachment, Batch, ClientError, CompletionFlags, Held, Memory, Packet};

/// How much of a frame's begin is looked at for the UDP header.
const HEAD: usize = 256;
/// Ethernet, IPv4 and UDP: what lies before a datagram's bytes at least, where nothing is split off.
const LEAST_HEADERS: u64 = 42;

/// Puts one stream's packets to their places, by the caller's clock: any that never goes back, in nanoseconds.
///
/// [`FrameReceiver`](super::FrameReceiver) does the waiting as well. This is for a program that has a loop of its own, a clock of its own (the
/// packets' timestamps, for one), or several streams in one attachment: one placement a stream, told apart by [`Packet::flow`].
pub struct Placement {
    pub(super) window: Window<Held>,
    pub(super) bin: Arc<Bin>,
    dropped: Vec<Body<Held>>,
    memory: Memory,
    offset: usize,
    width: usize,
    order: ByteOrder,
    data_at: usize,
    place_bytes: u32,
}

impl Placement {
    /// For a stream that `attachment` receives.
    ///
    /// # Errors
    /// The options contradict one another, or the open frames would leave no room for a packet in the smallest of the attachment's queues; or the
    /// system has no eventfd left.
    pub fn new(
        attachment: &Attachment,
        options: &PlacementOptions,
    ) -> Result<Self, PlacementError> {
        let rule = options.rule()?;
        check_room(attachment, options)?;
        Ok(Self {
            window: Window::new(rule, options.deadline),
            bin: Arc::new(Bin::new().map_err(PlacementError::Event)?),
            dropped: Vec::new(),
            memory: attachment.memory().clone(),
            offset: options.offset.into(),
            width: options.width.into(),
            order: options.order,
            data_at: options.data_at().into(),
            place_bytes: options.place_bytes,
        })
    }

    /// Puts all packets of a batch to their places. Those that have none go back with the batch.
    pub fn place_batch(&mut self, batch: &Batch<'_>, now: u64) {
        for packet in batch {
            self.place(&packet, now);
        }
    }

    /// Puts a packet to its place, which holds its chunks; without a place it stays with its batch, and goes back with it.
    pub fn place(&mut self, packet: &Packet<'_>, now: u64) -> Verdict {
        let damaged = CompletionFlags::ERROR | CompletionFlags::CSUM_BAD;
        let found = if packet.flags().intersects(damaged) {
            None
        } else {
            self.read(packet)
        };
        let verdict = match found {
            None => Verdict::Unreadable,
            Some((_, span)) if span.len > self.place_bytes => Verdict::Oversize,
            Some((sequence, span)) => {
                return self.window.place(sequence, span, now, || packet.hold());
            }
        };
        self.window.stats.count(verdict);
        verdict
    }

    /// The sequence number, and where the data is.
    fn read(&self, packet: &Packet<'_>) -> Option<(u64, Span)> {
        let mut head = [0; HEAD];
        let split = packet.header_len();
        let have = if split > 0 {
            packet.copy_header(&mut head)
        } else {
            let have = packet.payload_len().min(HEAD);
            self.payload(packet, 0, &mut head[..have])?;
            have
        };
        let udp = udp::find(&head[..have])?;
        let whole = split + packet.payload_len();
        // A datagram that was cut off somewhere has no whole data.
        if udp.end + udp.len > whole || self.data_at > udp.len {
            return None;
        }
        let at = udp.end + self.offset;
        if self.offset + self.width > udp.len {
            return None;
        }
        let mut number = [0; 8];
        let number = &mut number[..self.width];
        if at + self.width <= have {
            number.copy_from_slice(&head[at..at + self.width]);
        } else {
            let here = split.saturating_sub(at).min(self.width);
            let (header, payload) = number.split_at_mut(here);
            let slot = packet.entries().first()?.chunk;
            if here > 0 && !self.memory.header_at(slot, at, header) {
                return None;
            }
            if !payload.is_empty() {
                self.payload(packet, at + here - split, payload)?;
            }
        }
        let span = Span {
            start: (udp.end + self.data_at) as u32,
            len: (udp.len - self.data_at) as u32,
        };
        Some((self.order.read(number), span))
    }

    /// Copies payload from its byte `at` on. None: it ends before, or this process cannot read it.
    fn payload(&self, packet: &Packet<'_>, mut at: usize, out: &mut [u8]) -> Option<()> {
        let mut done = 0;
        for segment in packet.segments() {
            let skip = at.min(segment.len);
            at -= skip;
            let len = (segment.len - skip).min(out.len() - done);
            self.memory
                .copy_region(segment.offset + skip as u64, &mut out[done..done + len])
                .ok()?;
            done += len;
        }
        (done == out.len()).then_some(())
    }

    /// Closes the frames whose time is over.
    pub fn expire(&mut self, now: u64) {
        self.window.expire(now);
    }

    /// When that will be for the next one, on the caller's clock. None: no frame is open, or there is no deadline.
    #[must_use]
    pub fn next_deadline(&self) -> Option<u64> {
        self.window.next_deadline()
    }

    /// Closes all open frames.
    pub fn flush(&mut self) {
        self.window.close_all(FrameEnd::Flushed);
    }

    /// The next closed frame, in order.
    #[must_use]
    pub fn next_frame(&mut self) -> Option<Frame> {
        let done = self.window.next()?;
        let (memory, bin) = (self.memory.clone(), Arc::clone(&self.bin));
        Some(Frame::new(done, self.place_bytes, memory, bin))
    }

    /// Gives the chunks of dropped frames back to the attachment that they came from. Answers how many. To be called once a batch or so.
    ///
    /// # Errors
    /// It is another attachment; the chunks of one frame are lost, the others are still there for the right one.
    pub fn give_back(&mut self, attachment: &mut Attachment) -> Result<usize, ClientError> {
        // What another attachment's chunk left behind comes first.
        if self.dropped.is_empty() {
            self.bin.take(&mut self.dropped);
        }
        let mut count = 0;
        while let Some(mut body) = self.dropped.pop() {
            count += attachment.give_back(body.chunks.drain(..))?;
            self.window.reuse(body);
        }
        Ok(count)
    }

    /// The counters.
    #[must_use]
    pub fn stats(&self) -> PlacementStats {
        self.window.stats
    }
}

/// Refuses open frames that leave no room for one more packet, which nothing would ever end. A stream may come on any one of the queues, and each
/// has chunks of its own; so the one with the fewest decides.
fn check_room(attachment: &Attachment, options: &PlacementOptions) -> Result<(), PlacementError> {
    let Some(queue) = attachment.queues().min_by_key(|queue| queue.chunks) else {
        return Ok(());
    };
    let opened = attachment.opened();
    // What is split off ends with the UDP header; the number is the datagram's.
    let headers = if opened.split { 0 } else { LEAST_HEADERS };
    let before = headers + u64::from(options.data_at());
    let chunk = u64::from(opened.region.chunk_size).max(1);
    let each = (before + u64::from(options.place_bytes)).div_ceil(chunk);
    // Both factors have been checked: 2^36 packets at most.
    let packets = u64::from(options.frame_packets) * u64::from(options.window);
    let held = packets.saturating_mul(each);
    if held.saturating_add(each) <= queue.chunks.into() {
        return Ok(());
    }
    Err(PlacementError::Options(format!(
        "{} open frames of {} packets can hold {held} chunks ({each} a packet: {} bytes of data behind {before}, and a chunk has {chunk}), and queue {} has {}: \
         nothing could be received any more; open fewer frames, or attach with more memory",
        options.window, options.frame_packets, options.place_bytes, queue.queue, queue.chunks
    )))
}

impl std::fmt::Debug for Placement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Placement")
            .field("stats", &self.window.stats)
            .finish_non_exhaustive()
    }
}
