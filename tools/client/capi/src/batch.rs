//! Batches: packets, their headers and payload, giving back.
#![expect(unsafe_code, reason = "pointers of a C program")]

use std::ffi::c_int;
use std::ptr;
use std::time::Duration;

use devrx_client::proto::completion::CompletionFlags;
use devrx_client::{ClientError, Held, Memory};

use crate::attachment::{AttachmentHandle, handle};
use crate::error::{Error, Failure, guard};
use crate::{Packet, Segment};

/// What `devrx_batch` is: packets that were received, and their chunks until they are given back.
pub struct BatchHandle {
    /// The attachment it came from.
    owner: u64,
    memory: Memory,
    packets: Vec<Entry>,
    held: Vec<Option<Held>>,
}

struct Entry {
    packet: Packet,
    /// Its first chunk in `held`.
    first: usize,
}

impl BatchHandle {
    fn entry(&self, index: usize) -> Result<&Entry, Failure> {
        self.packets.get(index).ok_or_else(|| {
            let count = self.packets.len();
            Failure::new(
                libc::EINVAL,
                format!("the batch has {count} packets, and none of index {index}"),
            )
        })
    }

    /// The chunks of a packet.
    fn chunks(&self, index: usize) -> Result<impl Iterator<Item = &Held>, Failure> {
        let entry = self.entry(index)?;
        let chunks = &self.held[entry.first..entry.first + entry.packet.segments as usize];
        if chunks.iter().any(Option::is_none) {
            return Err(Failure::new(
                libc::EINVAL,
                format!("packet {index} was given back"),
            ));
        }
        Ok(chunks.iter().flatten())
    }
}

/// Receives the next packets. Answers how many; `*out` is the batch, or NULL where there are none. `timeout_us`: how long to wait;
/// 0: not at all; negative: as long as it takes.
///
/// # Safety
/// `attachment` is NULL or a handle, `out` and `error` NULL or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn devrx_recv(
    attachment: *mut AttachmentHandle,
    timeout_us: i64,
    out: *mut *mut BatchHandle,
    error: *mut Error,
) -> i64 {
    let body = || {
        if out.is_null() {
            return Err(Failure::null("out"));
        }
        // SAFETY: by the contract.
        unsafe { out.write(ptr::null_mut()) };
        // SAFETY: by the contract.
        let handle = unsafe { handle(attachment)? };
        let Some(batch) = receive(handle, timeout_us)? else {
            return Ok(0);
        };
        let count = batch.packets.len() as i64;
        // SAFETY: as above.
        unsafe { out.write(Box::into_raw(batch)) };
        Ok(count)
    };
    // SAFETY: by the contract.
    unsafe { guard(error, body) }
}

fn receive(
    handle: &mut AttachmentHandle,
    timeout_us: i64,
) -> Result<Option<Box<BatchHandle>>, ClientError> {
    let AttachmentHandle {
        attachment,
        spare,
        id,
        slept,
        ..
    } = handle;
    if spare.is_empty() {
        spare.push(Box::new(BatchHandle {
            owner: *id,
            memory: attachment.memory().clone(),
            packets: Vec::new(),
            held: Vec::new(),
        }));
    }
    let received = match u64::try_from(timeout_us) {
        // Who polls asks after the daemon once in a while; who was woken asks now, since it may have been the daemon's end.
        Ok(0) if !*slept => attachment.poll()?,
        Ok(wait) => attachment.recv(Some(Duration::from_micros(wait)))?,
        Err(_) => attachment.recv(None)?,
    };
    *slept = false;
    if received.is_empty() {
        return Ok(None);
    }
    let Some(mut batch) = spare.pop() else {
        return Ok(None);
    };
    for packet in &received {
        let first = batch.held.len();
        let length = packet.payload_len();
        let offset = packet.segments().next().map_or(0, |segment| segment.offset);
        batch.packets.push(Entry {
            first,
            packet: Packet {
                timestamp: packet.timestamp().unwrap_or(0),
                payload_offset: offset,
                payload_length: length as u32,
                segments: packet.segments().len() as u32,
                flags: (packet.flags() - CompletionFlags::MORE).bits(),
                rss_hash: packet.rss_hash().unwrap_or(0),
                header_length: packet.header_len() as u16,
                vlan: packet.vlan().unwrap_or(0),
                flow: packet.flow(),
                queue: received.queue() as u16,
            },
        });
        batch.held.extend(packet.hold().map(Some));
    }
    Ok(Some(batch))
}

/// The batch behind a pointer.
///
/// # Safety
/// `batch` is NULL, or came from `devrx_recv` and was not given back.
unsafe fn batch_of<'a>(batch: *const BatchHandle) -> Result<&'a BatchHandle, Failure> {
    // SAFETY: by the contract.
    unsafe { batch.as_ref() }.ok_or_else(|| Failure::null("batch"))
}

/// What is known of packet `index`.
///
/// # Safety
/// `batch` is NULL or a batch, `out` and `error` NULL or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn devrx_batch_packet(
    batch: *const BatchHandle,
    index: usize,
    out: *mut Packet,
    error: *mut Error,
) -> c_int {
    let body = || {
        // SAFETY: by the contract.
        let packet = unsafe { batch_of(batch)? }.entry(index)?.packet;
        if out.is_null() {
            return Err(Failure::null("out"));
        }
        // SAFETY: by the contract.
        unsafe { out.write(packet) };
        Ok(0)
    };
    // SAFETY: by the contract.
    unsafe { guard(error, body) as c_int }
}

/// Segment `segment` of packet `index`.
///
/// # Safety
/// As `devrx_batch_packet`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn devrx_batch_segment(
    batch: *const BatchHandle,
    index: usize,
    segment: usize,
    out: *mut Segment,
    error: *mut Error,
) -> c_int {
    let body = || {
        // SAFETY: by the contract.
        let held = unsafe { batch_of(batch)? }.chunks(index)?.nth(segment);
        let held = held.ok_or_else(|| {
            Failure::new(
                libc::EINVAL,
                format!("packet {index} has no segment {segment}"),
            )
        })?;
        if out.is_null() {
            return Err(Failure::null("out"));
        }
        let segment = Segment {
            offset: held.offset(),
            length: held.len() as u32,
            chunk: held.chunk(),
            generation: held.generation(),
            reserved: [0; 3],
        };
        // SAFETY: by the contract.
        unsafe { out.write(segment) };
        Ok(0)
    };
    // SAFETY: by the contract.
    unsafe { guard(error, body) as c_int }
}

/// The caller's buffer.
///
/// # Safety
/// `out` is valid for writes of `size` bytes, or `size` is 0.
pub(crate) unsafe fn buffer<'a>(out: *mut u8, size: usize) -> Result<&'a mut [u8], Failure> {
    if size == 0 {
        return Ok(&mut []);
    }
    if out.is_null() || size > isize::MAX as usize {
        return Err(Failure::new(
            libc::EINVAL,
            "the buffer is NULL, or larger than memory",
        ));
    }
    // A slice wants bytes that have a value; a C program's buffer may have none yet.
    // SAFETY: by the contract; nobody else has it while this runs.
    unsafe {
        out.write_bytes(0, size);
        Ok(std::slice::from_raw_parts_mut(out, size))
    }
}

/// Copies the header of packet `index` to `out`, as much as `size` takes. Answers how many bytes.
///
/// # Safety
/// `batch` is NULL or a batch; `out` is valid for writes of `size` bytes; `error` is NULL or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn devrx_batch_header(
    batch: *const BatchHandle,
    index: usize,
    out: *mut u8,
    size: usize,
    error: *mut Error,
) -> i64 {
    let body = || {
        // SAFETY: by the contract.
        let batch = unsafe { batch_of(batch)? };
        let first = batch.chunks(index)?.next();
        let Some(held) = first else { return Ok(0) };
        // SAFETY: by the contract; no more of it is used than the header has.
        let out = unsafe { buffer(out, size.min(held.header_len()))? };
        Ok(batch.memory.copy_header(held, out) as i64)
    };
    // SAFETY: by the contract.
    unsafe { guard(error, body) }
}

/// Copies the payload of packet `index` to `out`, as much as `size` takes. Answers how many bytes.
///
/// # Safety
/// As `devrx_batch_header`.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn devrx_batch_payload(
    batch: *const BatchHandle,
    index: usize,
    out: *mut u8,
    size: usize,
    error: *mut Error,
) -> i64 {
    let body = || {
        // SAFETY: by the contract.
        let batch = unsafe { batch_of(batch)? };
        let size = size.min(batch.entry(index)?.packet.payload_length as usize);
        let region = batch.memory.region().ok_or_else(|| {
            Failure::new(
                libc::EOPNOTSUPP,
                "this process cannot read the region: use the offsets on the device, or attach with memory that a CPU can map, such as \
                 memfd",
            )
        })?;
        // SAFETY: by the contract.
        let out = unsafe { buffer(out, size)? };
        let mut done = 0;
        for held in batch.chunks(index)? {
            let len = held.len().min(size - done);
            if !region.copy_out(held.offset(), &mut out[done..done + len]) {
                return Err(Failure::new(
                    libc::EPROTO,
                    "the payload lies outside of the region",
                ));
            }
            done += len;
        }
        Ok(done as i64)
    };
    // SAFETY: by the contract.
    unsafe { guard(error, body) }
}

/// Gives the chunks of packet `index` back before the rest of its batch. Answers how many.
///
/// # Safety
/// `attachment` is NULL or a handle, `batch` NULL or a batch, `error` NULL or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn devrx_batch_give_back_packet(
    attachment: *mut AttachmentHandle,
    batch: *mut BatchHandle,
    index: usize,
    error: *mut Error,
) -> i64 {
    let body = || {
        // SAFETY: by the contract.
        let (handle, batch) = unsafe { (handle(attachment)?, batch.as_mut()) };
        let batch = batch.ok_or_else(|| Failure::null("batch"))?;
        own(handle, batch)?;
        let entry = batch.entry(index)?;
        let range = entry.first..entry.first + entry.packet.segments as usize;
        let chunks = batch.held[range].iter_mut().filter_map(Option::take);
        Ok(handle.attachment.give_back(chunks)? as i64)
    };
    // SAFETY: by the contract.
    unsafe { guard(error, body) }
}

/// Gives a batch's chunks back, and ends the batch. Answers how many chunks. `attachment` may be NULL where it was closed: then the batch is
/// only freed.
///
/// # Safety
/// `attachment` is NULL or a handle; `batch` is NULL, or a batch that is used no more where this succeeds; `error` is NULL or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn devrx_batch_give_back(
    attachment: *mut AttachmentHandle,
    batch: *mut BatchHandle,
    error: *mut Error,
) -> i64 {
    let body = || {
        if batch.is_null() {
            return Ok(0);
        }
        // SAFETY: by the contract.
        let handle = match unsafe { attachment.as_mut() } {
            Some(handle) => handle,
            None => {
                // SAFETY: by the contract it is a box of ours, and nobody else's.
                drop(unsafe { Box::from_raw(batch) });
                return Ok(0);
            }
        };
        // SAFETY: by the contract it is a batch of ours, and nobody else uses it.
        let still = unsafe { &mut *batch };
        own(handle, still)?;
        // Taken one by one: where this fails, the batch is the caller's as before, with what was not given back.
        let chunks = still.held.iter_mut().filter_map(Option::take);
        let count = handle.attachment.give_back(chunks)?;
        // SAFETY: by the contract it is a box of ours, and the caller uses it no more.
        let mut batch = unsafe { Box::from_raw(batch) };
        batch.held.clear();
        batch.packets.clear();
        handle.spare.push(batch);
        Ok(count as i64)
    };
    // SAFETY: by the contract.
    unsafe { guard(error, body) }
}

fn own(handle: &AttachmentHandle, batch: &BatchHandle) -> Result<(), Failure> {
    if batch.owner == handle.id {
        Ok(())
    } else {
        Err(Failure::new(
            libc::EINVAL,
            "the batch comes from another attachment",
        ))
    }
}
