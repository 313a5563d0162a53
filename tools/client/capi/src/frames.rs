//! Frames: a numbered stream, received as frames instead of packets.
#![expect(unsafe_code, reason = "pointers of a C program")]

use std::ffi::{c_char, c_int};
use std::ptr;
use std::time::Duration;

use devrx_client::placement::{
    ByteOrder, Frame, FrameEnd, FrameReceiver, PlacementError, PlacementOptions,
};

use crate::attachment::attach;
use crate::batch::buffer;
use crate::error::{Error, Failure, guard};
use crate::{FrameInfo, FrameStats, Placement, Segment};
pub use devrx_client::placement::Piece;

/// What `devrx_frames` is.
pub struct FramesHandle(FrameReceiver);

/// What `devrx_frame` is.
pub struct FrameHandle(Frame);

impl From<PlacementError> for Failure {
    fn from(error: PlacementError) -> Self {
        match error {
            PlacementError::Client(error) => error.into(),
            PlacementError::Event(cause) => Self::new(
                cause.raw_os_error().unwrap_or(libc::EIO),
                format!("cannot make an eventfd: {cause}"),
            ),
            other => Self::new(libc::EINVAL, other.to_string()),
        }
    }
}

fn options(placement: &Placement) -> PlacementOptions {
    let order = if placement.little_endian == 0 {
        ByteOrder::Big
    } else {
        ByteOrder::Little
    };
    let mut options = PlacementOptions::new(placement.frame_packets, placement.place_bytes)
        .sequence(placement.offset, placement.width)
        .byte_order(order)
        .stride(placement.stride)
        .first(placement.first)
        .window(placement.window);
    if let Ok(offset) = u16::try_from(placement.data_offset) {
        options = options.data_offset(offset);
    }
    if placement.deadline_us > 0 {
        options = options.deadline(Duration::from_micros(placement.deadline_us));
    }
    options
}

/// Fills in what most streams are.
///
/// # Safety
/// `out` is NULL or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn devrx_placement_init(
    out: *mut Placement,
    frame_packets: u32,
    place_bytes: u32,
) {
    if !out.is_null() {
        let placement = Placement {
            frame_packets,
            place_bytes,
            stride: 1,
            first: 0,
            deadline_us: 0,
            window: 4,
            data_offset: -1,
            offset: 0,
            width: 8,
            little_endian: 0,
            reserved: [0; 4],
        };
        // SAFETY: by the contract.
        unsafe { out.write(placement) };
    }
}

/// Becomes the consumer of the attachment `name`, as frames.
///
/// # Safety
/// As `devrx_open`; `placement` is NULL or valid.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn devrx_frames_open(
    abi_version: u32,
    socket: *const c_char,
    name: *const c_char,
    placement: *const Placement,
    out: *mut *mut FramesHandle,
    error: *mut Error,
) -> c_int {
    let body = || {
        if out.is_null() {
            return Err(Failure::null("out"));
        }
        // SAFETY: by the contract.
        unsafe { out.write(ptr::null_mut()) };
        // SAFETY: by the contract.
        let placement = unsafe { placement.as_ref() }.ok_or_else(|| Failure::null("placement"));
        // SAFETY: by the contract.
        let attachment = unsafe { attach(abi_version, socket, name)? };
        let receiver = FrameReceiver::new(attachment, &options(placement?))?;
        // SAFETY: as above.
        unsafe { out.write(Box::into_raw(Box::new(FramesHandle(receiver)))) };
        Ok(0)
    };
    // SAFETY: by the contract.
    unsafe { guard(error, body) as c_int }
}

/// Ends the consumption. Frames that are left can still be read, and are to be dropped.
///
/// # Safety
/// `frames` is NULL, or came from `devrx_frames_open` and is used no more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn devrx_frames_close(frames: *mut FramesHandle) {
    if !frames.is_null() {
        let body = || {
            // SAFETY: by the contract it is a box of ours, and nobody else's.
            drop(unsafe { Box::from_raw(frames) });
            Ok(0)
        };
        // SAFETY: there is no error to write.
        unsafe { guard(ptr::null_mut(), body) };
    }
}

/// # Safety
/// `frames` is NULL, or came from `devrx_frames_open`, and no other thread uses it.
unsafe fn receiver<'a>(frames: *mut FramesHandle) -> Result<&'a mut FrameReceiver, Failure> {
    // SAFETY: by the contract.
    let frames = unsafe { frames.as_mut() }.ok_or_else(|| Failure::null("frames"))?;
    Ok(&mut frames.0)
}

/// # Safety
/// `frame` is NULL, or came from `devrx_frames_recv` and was not dropped.
unsafe fn frame_of<'a>(frame: *const FrameHandle) -> Result<&'a Frame, Failure> {
    // SAFETY: by the contract.
    let frame = unsafe { frame.as_ref() }.ok_or_else(|| Failure::null("frame"))?;
    Ok(&frame.0)
}

/// Receives the next frame: 1, and `*out` is the frame; or 0 when the time is over.
///
/// # Safety
/// `frames` is NULL or a handle, `out` and `error` NULL or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn devrx_frames_recv(
    frames: *mut FramesHandle,
    timeout_us: i64,
    out: *mut *mut FrameHandle,
    error: *mut Error,
) -> c_int {
    let body = || {
        if out.is_null() {
            return Err(Failure::null("out"));
        }
        // SAFETY: by the contract.
        unsafe { out.write(ptr::null_mut()) };
        let timeout = u64::try_from(timeout_us).ok().map(Duration::from_micros);
        // SAFETY: by the contract.
        let Some(frame) = unsafe { receiver(frames)? }.recv(timeout)? else {
            return Ok(0);
        };
        // SAFETY: as above.
        unsafe { out.write(Box::into_raw(Box::new(FrameHandle(frame)))) };
        Ok(1)
    };
    // SAFETY: by the contract.
    unsafe { guard(error, body) as c_int }
}

/// Closes all open frames; they are received next.
///
/// # Safety
/// `frames` is NULL or a handle.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn devrx_frames_flush(frames: *mut FramesHandle) {
    // SAFETY: by the contract; there is no error to write.
    unsafe {
        guard(ptr::null_mut(), || {
            receiver(frames)?.flush();
            Ok(0)
        });
    }
}

/// The counters.
///
/// # Safety
/// `frames` is NULL or a handle, `out` and `error` NULL or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn devrx_frames_read_stats(
    frames: *mut FramesHandle,
    out: *mut FrameStats,
    error: *mut Error,
) -> c_int {
    let body = || {
        // SAFETY: by the contract.
        let stats = unsafe { receiver(frames)? }.stats();
        if out.is_null() {
            return Err(Failure::null("out"));
        }
        let stats = FrameStats {
            packets: stats.packets,
            placed: stats.placed,
            late: stats.late,
            duplicate: stats.duplicate,
            out_of_range: stats.out_of_range,
            oversize: stats.oversize,
            unreadable: stats.unreadable,
            restarts: stats.restarts,
            frames_complete: stats.frames_complete,
            frames_incomplete: stats.frames_incomplete,
            frames_missed: stats.frames_missed,
            missing: stats.missing,
        };
        // SAFETY: by the contract.
        unsafe { out.write(stats) };
        Ok(0)
    };
    // SAFETY: by the contract.
    unsafe { guard(error, body) as c_int }
}

/// What is known of a frame.
///
/// # Safety
/// `frame` is NULL or a frame, `out` and `error` NULL or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn devrx_frame_read(
    frame: *const FrameHandle,
    out: *mut FrameInfo,
    error: *mut Error,
) -> c_int {
    let body = || {
        // SAFETY: by the contract.
        let frame = unsafe { frame_of(frame)? };
        if out.is_null() {
            return Err(Failure::null("out"));
        }
        let info = FrameInfo {
            number: frame.number(),
            restarts: frame.restarts(),
            size: frame.size() as u64,
            places: frame.places() as u32,
            missing: frame.missing() as u32,
            end: match frame.end() {
                FrameEnd::Complete => crate::DEVRX_FRAME_COMPLETE,
                FrameEnd::Expired => crate::DEVRX_FRAME_EXPIRED,
                FrameEnd::Pushed => crate::DEVRX_FRAME_PUSHED,
                FrameEnd::Restarted => crate::DEVRX_FRAME_RESTARTED,
                // Flushed, and what a later version adds.
                _ => crate::DEVRX_FRAME_FLUSHED,
            },
            reserved: 0,
        };
        // SAFETY: by the contract.
        unsafe { out.write(info) };
        Ok(0)
    };
    // SAFETY: by the contract.
    unsafe { guard(error, body) as c_int }
}

/// Whether place `index` has its packet: 1 or 0.
///
/// # Safety
/// `frame` is NULL or a frame.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn devrx_frame_has(frame: *const FrameHandle, index: usize) -> c_int {
    // SAFETY: by the contract; there is no error to write.
    unsafe { guard(ptr::null_mut(), || Ok(frame_of(frame)?.has(index).into())) as c_int }
}

/// Where in the region the data of place `index` lies: piece `segment` of it.
///
/// # Safety
/// `frame` is NULL or a frame, `out` and `error` NULL or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn devrx_frame_segment(
    frame: *const FrameHandle,
    index: usize,
    segment: usize,
    out: *mut Segment,
    error: *mut Error,
) -> c_int {
    let body = || {
        // SAFETY: by the contract.
        let piece = unsafe { frame_of(frame)? }.segments(index).nth(segment);
        let piece = piece.ok_or_else(|| {
            Failure::new(
                libc::EINVAL,
                format!("place {index} has no segment {segment}"),
            )
        })?;
        if out.is_null() {
            return Err(Failure::null("out"));
        }
        let segment = Segment {
            offset: piece.offset,
            length: piece.len as u32,
            chunk: piece.chunk,
            generation: piece.generation,
            reserved: [0; 3],
        };
        // SAFETY: by the contract.
        unsafe { out.write(segment) };
        Ok(0)
    };
    // SAFETY: by the contract.
    unsafe { guard(error, body) as c_int }
}

/// Gathers a frame. Answers how many packets are missing.
///
/// # Safety
/// `frame` is NULL or a frame; `out` is valid for writes of `size` bytes; `error` is NULL or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn devrx_frame_copy(
    frame: *const FrameHandle,
    out: *mut u8,
    size: usize,
    fill: u8,
    error: *mut Error,
) -> i64 {
    let body = || {
        // SAFETY: by the contract.
        let frame = unsafe { frame_of(frame)? };
        // SAFETY: by the contract; no more of it is used than the frame has.
        let out = unsafe { buffer(out, size.min(frame.size()))? };
        Ok(frame.copy_into(out, fill)? as i64)
    };
    // SAFETY: by the contract.
    unsafe { guard(error, body) }
}

/// What a device has to copy to gather a frame. Writes the first `room` pieces, and answers how many there are.
///
/// # Safety
/// `frame` is NULL or a frame; `pieces` is valid for writes of `room` pieces, or `room` is 0; `error` is NULL or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn devrx_frame_pieces(
    frame: *const FrameHandle,
    pieces: *mut Piece,
    room: usize,
    error: *mut Error,
) -> i64 {
    let body = || {
        let mut all = Vec::new();
        // SAFETY: by the contract.
        unsafe { frame_of(frame)? }.pieces_into(&mut all);
        if pieces.is_null() && room > 0 {
            return Err(Failure::null("pieces"));
        }
        for (at, piece) in all.iter().take(room).enumerate() {
            // SAFETY: within `room`, by the contract.
            unsafe { pieces.add(at).write(*piece) };
        }
        Ok(all.len() as i64)
    };
    // SAFETY: by the contract.
    unsafe { guard(error, body) }
}

/// Whether the frame lies in the region in one piece already.
///
/// # Safety
/// `frame` is NULL or a frame, `offset` and `error` NULL or valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn devrx_frame_in_place(
    frame: *const FrameHandle,
    offset: *mut u64,
    error: *mut Error,
) -> c_int {
    let body = || {
        // SAFETY: by the contract.
        let found = unsafe { frame_of(frame)? }.in_place();
        if offset.is_null() {
            return Err(Failure::null("offset"));
        }
        if let Some(found) = found {
            // SAFETY: by the contract.
            unsafe { offset.write(found) };
        }
        Ok(found.is_some().into())
    };
    // SAFETY: by the contract.
    unsafe { guard(error, body) as c_int }
}

/// Ends a frame: its chunks go back. In any thread.
///
/// # Safety
/// `frame` is NULL, or came from `devrx_frames_recv` and is used no more.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn devrx_frame_drop(frame: *mut FrameHandle) {
    if !frame.is_null() {
        let body = || {
            // SAFETY: by the contract it is a box of ours, and nobody else's.
            drop(unsafe { Box::from_raw(frame) });
            Ok(0)
        };
        // SAFETY: there is no error to write.
        unsafe { guard(ptr::null_mut(), body) };
    }
}
