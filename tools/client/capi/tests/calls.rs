//! The functions as C calls them, and what they refuse.
#![expect(unsafe_code, reason = "calls the functions that C calls")]

use std::ffi::{CStr, CString, c_int};
use std::ptr::{null, null_mut};

use common::daemon;
use common::wire::{send, udp};
use devrx::*;

#[path = "../../tests/common/mod.rs"]
mod common;

fn error() -> Error {
    Error {
        code: 0,
        message: [0; DEVRX_MESSAGE_SIZE],
    }
}

fn message(error: &Error) -> String {
    let bytes: Vec<u8> = error.message.iter().map(|byte| *byte as u8).collect();
    let text = CStr::from_bytes_until_nul(&bytes).expect("closed by 0");
    text.to_str().expect("UTF-8").to_owned()
}

#[test]
fn a_batch_from_open_to_close() {
    let frames: Vec<_> = (0..3_u8).map(|at| udp(&[at; 100])).collect();
    let (daemon, path, _folder) = daemon(1, move |daemon| send(daemon, &frames, 42));
    let path = CString::new(path.to_str().expect("text")).expect("no 0");
    let mut said = error();
    let mut rx = null_mut();
    let mut batch = null_mut();
    // SAFETY: all pointers are to what lives here, and handles are used as the header says.
    unsafe {
        let opened = devrx_open(
            DEVRX_ABI_VERSION,
            path.as_ptr(),
            c"camera".as_ptr(),
            &mut rx,
            &mut said,
        );
        assert_eq!(opened, 0, "{}", message(&said));
        let mut batches = Vec::new();
        let mut packets = Vec::new();
        while packets.len() < 3 {
            let count = devrx_recv(rx, -1, &mut batch, &mut said);
            assert!(count > 0, "{}", message(&said));
            for index in 0..count as usize {
                let mut packet = Packet::default();
                assert_eq!(devrx_batch_packet(batch, index, &mut packet, &mut said), 0);
                packets.push((batch, index, packet));
            }
            batches.push(batch);
        }
        let mut size = 0;
        assert!(devrx_region_fd(rx) >= 0);
        assert_eq!(devrx_export_fd(rx), -libc::EOPNOTSUPP, "a memfd is none");
        let region = devrx_region(rx, &mut size).cast::<u8>();
        assert_eq!(size, u64::from(common::CHUNK * common::CHUNKS));
        for (number, (batch, index, packet)) in packets.iter().enumerate() {
            assert_eq!((packet.header_length, packet.payload_length), (42, 100));
            assert_eq!((packet.flow, packet.queue, packet.segments), (7, 0, 1));
            assert_eq!(packet.flags, DEVRX_SPLIT | DEVRX_TIMESTAMP_SW);
            assert_eq!(packet.timestamp, 1_000_000 + number as u64);
            let mut segment = Segment::default();
            assert_eq!(
                devrx_batch_segment(*batch, *index, 0, &mut segment, &mut said),
                0
            );
            assert_eq!(
                (segment.offset, segment.length),
                (packet.payload_offset, 100)
            );
            assert_eq!(
                region.add(segment.offset as usize).read_volatile(),
                number as u8
            );
            let mut bytes = [9; 120];
            assert_eq!(
                devrx_batch_payload(*batch, *index, bytes.as_mut_ptr(), 120, &mut said),
                100
            );
            assert_eq!(
                bytes,
                [[number as u8; 100].as_slice(), &[9; 20]].concat()[..]
            );
            assert_eq!(
                devrx_batch_header(*batch, *index, bytes.as_mut_ptr(), 14, &mut said),
                14
            );
            assert_eq!(bytes[12..15], [8, 0, number as u8]);
        }
        let mut stats = Stats::default();
        assert_eq!(devrx_read_stats(rx, &mut stats, &mut said), 0);
        assert_eq!(stats.held, 3);

        // What is refused.
        let (first, index, _) = packets[0];
        assert_eq!(
            devrx_batch_packet(first, 99, &mut Packet::default(), &mut said),
            -libc::EINVAL
        );
        assert!(message(&said).contains("none of index 99"));
        assert_eq!(
            devrx_batch_segment(first, index, 1, &mut Segment::default(), &mut said),
            -libc::EINVAL
        );
        assert_eq!(
            devrx_batch_header(first, index, null_mut(), 10, &mut said),
            -i64::from(libc::EINVAL)
        );
        assert_eq!(
            devrx_batch_payload(null(), 0, null_mut(), 0, null_mut()),
            -i64::from(libc::EINVAL)
        );
        assert_eq!(devrx_batch_give_back_packet(rx, first, index, &mut said), 1);
        assert_eq!(devrx_batch_give_back_packet(rx, first, index, &mut said), 0);
        assert_eq!(
            devrx_batch_header(first, index, null_mut(), 0, &mut said),
            -i64::from(libc::EINVAL)
        );
        assert_eq!(message(&said), format!("packet {index} was given back"));

        let mut back = 1;
        for batch in batches {
            back += devrx_batch_give_back(rx, batch, &mut said);
        }
        assert_eq!(back, 3);
        assert_eq!(devrx_batch_give_back(rx, null_mut(), &mut said), 0);
        assert_eq!(
            devrx_recv(rx, -1, &mut batch, &mut said),
            -i64::from(libc::ESHUTDOWN)
        );
        assert!(batch.is_null());
        assert_eq!(said.code, libc::ESHUTDOWN);
        assert_eq!(message(&said), "attachment camera has ended: all was sent");
        devrx_close(rx);
    }
    assert_eq!(daemon.join().expect("no panic"), (3, 3));
}

#[test]
fn a_batch_outlives_its_attachment() {
    let (daemon, path, _folder) = daemon(1, |mut daemon| {
        let entry = devrx_client::proto::completion::Completion {
            length: 10,
            ..Default::default()
        };
        assert!(daemon.queues[0].completions.push(&[entry]));
        daemon.queues[0].completions.publish();
        daemon.events[0].wake.notify();
        drop(daemon.session.recv());
    });
    let path = CString::new(path.to_str().expect("text")).expect("no 0");
    let (mut rx, mut batch) = (null_mut(), null_mut());
    // SAFETY: as above.
    unsafe {
        assert_eq!(
            devrx_open(
                DEVRX_ABI_VERSION,
                path.as_ptr(),
                c"camera".as_ptr(),
                &mut rx,
                null_mut()
            ),
            0
        );
        assert_eq!(devrx_recv(rx, -1, &mut batch, null_mut()), 1);
        devrx_close(rx);
        let mut byte = 1;
        assert_eq!(devrx_batch_payload(batch, 0, &mut byte, 1, null_mut()), 1);
        assert_eq!(devrx_batch_give_back(null_mut(), batch, null_mut()), 0);
    }
    daemon.join().expect("no panic");
}

#[test]
fn opening_is_refused_with_a_reason() {
    let refused = |version, name: *const i8, expected: c_int, words: &str| {
        let (mut said, mut rx) = (error(), std::ptr::dangling_mut());
        // SAFETY: as above.
        let result = unsafe {
            devrx_open(
                version,
                c"/nonexistent/devrx.sock".as_ptr(),
                name.cast(),
                &mut rx,
                &mut said,
            )
        };
        assert_eq!((result, said.code), (-expected, expected));
        assert!(message(&said).contains(words), "{}", message(&said));
    };
    let name = c"camera".as_ptr().cast();
    refused(
        DEVRX_ABI_VERSION + 1,
        name,
        libc::EPROTONOSUPPORT,
        "compile it with the devrx.h",
    );
    refused(DEVRX_ABI_VERSION, null(), libc::EINVAL, "name is NULL");
    refused(
        DEVRX_ABI_VERSION,
        c"\xff".as_ptr().cast(),
        libc::EINVAL,
        "name is no UTF-8",
    );
    refused(DEVRX_ABI_VERSION, name, libc::ECONNREFUSED, "is it running");
    // SAFETY: as above; NULL is a handle that every function refuses.
    unsafe {
        assert_eq!(
            devrx_open(1, null(), name.cast(), null_mut(), null_mut()),
            -libc::EINVAL
        );
        assert_eq!(devrx_arm(null_mut()), -libc::EINVAL);
        assert_eq!(devrx_wake_fd(null_mut()), -libc::EINVAL);
        assert_eq!(devrx_region_fd(null_mut()), -libc::EINVAL);
        assert_eq!(devrx_export_fd(null_mut()), -libc::EINVAL);
        assert!(devrx_region(null_mut(), null_mut()).is_null());
        devrx_disarm(null_mut());
        devrx_close(null_mut());
    }
    assert_eq!(devrx_abi_version(), DEVRX_ABI_VERSION);
}

#[test]
fn a_numbered_stream_comes_as_frames() {
    let packet = |number: u32| udp(&[&number.to_be_bytes()[..], &[number as u8; 10]].concat());
    // Two frames of four packets: one of the second is lost, and one comes twice.
    let frames: Vec<_> = [1, 0, 2, 3, 3, 4, 7, 6].map(packet).into();
    let (daemon, path, _folder) = daemon(1, move |daemon| send(daemon, &frames, 46));
    let path = CString::new(path.to_str().expect("text")).expect("no 0");
    let (mut said, mut frames, mut frame) = (error(), null_mut(), null_mut());
    // SAFETY: as above.
    unsafe {
        let mut placement = Placement::default();
        devrx_placement_init(&mut placement, 4, 12);
        (placement.width, placement.deadline_us) = (4, 50_000);
        let opened = devrx_frames_open(
            DEVRX_ABI_VERSION,
            path.as_ptr(),
            c"camera".as_ptr(),
            &placement,
            &mut frames,
            &mut said,
        );
        assert_eq!(opened, 0, "{}", message(&said));
        for (number, missing, end) in [(0, 0, DEVRX_FRAME_COMPLETE), (1, 1, DEVRX_FRAME_EXPIRED)] {
            assert_eq!(devrx_frames_recv(frames, -1, &mut frame, &mut said), 1);
            let mut info = FrameInfo::default();
            assert_eq!(devrx_frame_read(frame, &mut info, &mut said), 0);
            assert_eq!(
                (info.number, info.missing, info.end),
                (number, missing, end)
            );
            assert_eq!((info.places, info.size), (4, 48));
            let mut image = [1; 50];
            let result = devrx_frame_copy(frame, image.as_mut_ptr(), 50, 0xff, &mut said);
            assert_eq!(result, i64::from(missing));
            for index in 0..4 {
                let has = number == 0 || index != 1;
                assert_eq!(devrx_frame_has(frame, index) == 1, has);
                let byte = if has {
                    number as u8 * 4 + index as u8
                } else {
                    0xff
                };
                let place = &image[12 * index..12 * index + 12];
                assert_eq!(place[..10], [byte; 10]);
                assert_eq!(place[10..], [0xff; 2]);
                let mut segment = Segment::default();
                let found = devrx_frame_segment(frame, index, 0, &mut segment, &mut said);
                assert_eq!(found, if has { 0 } else { -libc::EINVAL });
                assert_eq!(segment.length, if has { 10 } else { 0 });
            }
            assert_eq!(image[48..], [1; 2]);
            let none = Piece {
                from: 9,
                to: 9,
                length: 9,
                source: 9,
            };
            // Data and a filled end a place, or a filled place.
            let mut pieces = [none; 9];
            let count = devrx_frame_pieces(frame, pieces.as_mut_ptr(), 8, &mut said);
            assert_eq!(count, if number == 0 { 8 } else { 7 });
            assert_eq!(pieces[count as usize..], vec![none; 9 - count as usize]);
            let lengths: u32 = pieces[..count as usize].iter().map(|one| one.length).sum();
            assert_eq!(lengths, 48);
            assert_eq!(
                devrx_frame_pieces(frame, std::ptr::null_mut(), 0, &mut said),
                count
            );
            let refused = devrx_frame_pieces(frame, std::ptr::null_mut(), 1, &mut said);
            assert_eq!(refused, -i64::from(libc::EINVAL));
            let mut at = 9;
            assert_eq!(devrx_frame_in_place(frame, &mut at, &mut said), 0);
            assert_eq!(at, 9, "nothing is written where there is nothing to say");
            let short = devrx_frame_copy(frame, image.as_mut_ptr(), 47, 0, &mut said);
            assert_eq!(short, -i64::from(libc::EINVAL));
            devrx_frame_drop(frame);
        }
        assert_eq!(
            devrx_frames_recv(frames, -1, &mut frame, &mut said),
            -libc::ESHUTDOWN
        );
        let mut stats = FrameStats::default();
        assert_eq!(devrx_frames_read_stats(frames, &mut stats, &mut said), 0);
        assert_eq!((stats.packets, stats.placed, stats.duplicate), (8, 7, 1));
        assert_eq!((stats.missing, stats.frames_complete), (1, 1));
        devrx_frames_flush(frames);
        devrx_frames_close(frames);
        devrx_frame_drop(null_mut());
        devrx_frames_close(null_mut());
    }
    assert_eq!(daemon.join().expect("no panic"), (8, 8));
}
