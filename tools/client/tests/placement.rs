//! Frames over a real client and its rings: the stream's bytes, at three places of the cut between header and payload.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::{Arc, LazyLock, mpsc};
use std::thread;
use std::time::Duration;

use common::wire::{send, send_at, udp};
use common::{CHUNK, Passed, attach, daemon, daemon_passing};
use devrx_client::placement::{
    FROM_HEADERS, FROM_REGION, Frame, FrameEnd, FrameReceiver, Piece, Placement, PlacementError,
    PlacementOptions,
};
use devrx_client::proto::shm::Shm;
use devrx_client::{Attachment, ClientError};

mod common;

const PLACES: usize = 8;
const BYTES: usize = 100;

/// What packet `position` carries: 4 bytes of something, its number in 2 bytes, its data. Every 5th is short, some far below what an Ethernet
/// frame is filled up to.
fn packet(position: u64) -> Vec<u8> {
    let mut bytes = vec![0xab, 0xcd, 0xef, 0x01];
    bytes.extend((position as u16).to_le_bytes());
    bytes.extend(data(position));
    udp(&bytes)
}

fn data(position: u64) -> Vec<u8> {
    let len = if position.is_multiple_of(5) {
        (position % BYTES as u64) as usize
    } else {
        BYTES
    };
    (0..len as u64)
        .map(|at| (position * 31 + at * 7) as u8)
        .collect()
}

fn options() -> PlacementOptions {
    PlacementOptions::new(PLACES as u32, BYTES as u32)
        .sequence(4, 2)
        .byte_order(devrx_client::placement::ByteOrder::Little)
        .window(3)
}

/// The positions as they arrive: from shortly before the wrap, with loss, swaps and duplicates, by a generator with a seed.
fn arrivals(count: u64, seed: u64) -> Vec<u64> {
    let mut state = seed;
    let mut random = move |below: u64| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % below
    };
    let mut order = Vec::new();
    for position in 65_536 - 200..65_536 - 200 + count {
        if random(20) > 0 {
            order.push(position);
        }
        if random(20) == 0 {
            order.push(position);
        }
    }
    for at in 0..order.len() {
        if random(4) == 0 {
            let far = if random(30) == 0 { 70 } else { 6 };
            let other = (at + random(far) as usize).min(order.len() - 1);
            order.swap(at, other);
        }
    }
    order
}

/// Gathers frames by their lists of copies, as a device does; some of them by the code that is for one.
struct Gathering {
    memory: devrx_client::Memory,
    daemon: Arc<Shm>,
    pieces: Vec<Piece>,
    count: usize,
}

impl Gathering {
    fn of(attachment: &Attachment) -> Self {
        Self {
            memory: attachment.memory().clone(),
            daemon: Arc::clone(attachment.daemon_memory()),
            pieces: Vec::new(),
            count: 0,
        }
    }

    fn gather(&mut self, frame: &Frame, fill: u8) -> Vec<u8> {
        frame.pieces_into(&mut self.pieces);
        let region = self.memory.region().expect("mapped");
        let mut image = vec![!fill; frame.size()];
        let mut next = 0;
        for piece in &self.pieces {
            assert_eq!(piece.to, next, "each byte once, in order");
            next += u64::from(piece.length);
            let out = &mut image[piece.to as usize..next as usize];
            match piece.source {
                FROM_REGION => assert!(region.copy_out(piece.from, out)),
                FROM_HEADERS => assert!(self.daemon.copy_out(piece.from, out)),
                _ => out.fill(fill),
            }
        }
        assert_eq!(next, image.len() as u64);
        if self.count.is_multiple_of(16) {
            assert_eq!(self.on_device(fill, image.len()), image);
        }
        self.count += 1;
        image
    }

    /// By `devrx_gather_pieces`, which a thread of the CPU runs as three groups of five.
    fn on_device(&self, fill: u8, size: usize) -> Vec<u8> {
        static PROGRAM: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
            let folder = tempfile::tempdir().expect("a folder");
            let source = folder.path().join("gather.cpp");
            std::fs::write(&source, GATHER).expect("written");
            let include = concat!("-I", env!("CARGO_MANIFEST_DIR"), "/capi/include");
            let output = Command::new("c++")
                .args([
                    "-std=c++11",
                    "-Wall",
                    "-Werror",
                    "-Wno-unused-function",
                    include,
                ])
                .args(["-fsanitize=address,undefined", "-fno-sanitize-recover=all"])
                .arg(source)
                .arg("-o")
                .arg(folder.path().join("gather"))
                .output()
                .expect("a C++ compiler");
            assert!(output.status.success(), "{output:?}");
            folder
        });
        let whole = |memory: &Shm| {
            let mut bytes = vec![0; memory.size() as usize];
            assert!(memory.copy_out(0, &mut bytes));
            bytes
        };
        let region = whole(self.memory.region().expect("mapped"));
        let daemon = whole(&self.daemon);
        let mut input = Vec::new();
        let count = self.pieces.len();
        for number in [count, region.len(), daemon.len(), size, fill.into()] {
            input.extend((number as u64).to_ne_bytes());
        }
        for piece in &self.pieces {
            input.extend(piece.from.to_ne_bytes());
            input.extend(piece.to.to_ne_bytes());
            input.extend(piece.length.to_ne_bytes());
            input.extend(piece.source.to_ne_bytes());
        }
        input.extend(region);
        input.extend(daemon);
        let mut child = Command::new(PROGRAM.path().join("gather"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("it starts");
        let mut stdin = child.stdin.take().expect("a pipe");
        stdin.write_all(&input).expect("it reads");
        drop(stdin);
        let output = child.wait_with_output().expect("it ends");
        assert!(output.status.success(), "{output:?}");
        output.stdout
    }
}

/// Reads counts, pieces and memories, and writes the frame.
const GATHER: &str = r"
#include <devrx_placement.cuh>
#include <cstdio>
#include <vector>
int main()
{
    devrx_u64 n[5];
    if (fread(n, 8, 5, stdin) != 5)
        return 2;
    std::vector<devrx_piece> pieces(n[0]);
    std::vector<devrx_u8> region(n[1]), daemon(n[2]), out(n[3], (devrx_u8)~n[4]);
    if (fread(pieces.data(), sizeof(devrx_piece), n[0], stdin) != n[0] || fread(region.data(), 1, n[1], stdin) != n[1] ||
        fread(daemon.data(), 1, n[2], stdin) != n[2])
        return 3;
    for (devrx_u32 group = 0; group < 3; group++)
        for (devrx_u32 lane = 0; lane < 5; lane++)
            devrx_gather_pieces(pieces.data(), n[0], out.data(), (devrx_u8)n[4], region.data(), daemon.data(), group, 3, lane, 5);
    return fwrite(out.data(), 1, n[3], stdout) != n[3];
}
";

/// Receives a stream cut at byte `split` of each frame, and checks every byte of every frame.
fn run(split: usize) {
    let order = arrivals(2_000, 0x5eed);
    let frames: Vec<_> = order.iter().map(|position| packet(*position)).collect();
    let (daemon, path, _folder) = daemon(1, move |daemon| send(daemon, &frames, split));
    let (_client, attachment) = attach(&path);
    let mut gathering = Gathering::of(&attachment);
    let mut receiver = FrameReceiver::new(attachment, &options()).expect("sound");
    // Frames are looked at, and dropped, in another thread.
    let (sender, inbox) = mpsc::channel();
    let worker = thread::spawn(move || {
        let mut image = vec![0; PLACES * BYTES];
        let mut seen = BTreeMap::new();
        for frame in inbox {
            let frame: Frame = frame;
            let missing = frame.copy_into(&mut image, 0x55).expect("readable");
            assert_eq!(missing, frame.missing());
            assert_eq!(gathering.gather(&frame, 0x55), image);
            assert_eq!(frame.in_place(), None, "each payload has a chunk to itself");
            for index in 0..PLACES {
                let position = frame.number() * PLACES as u64 + index as u64;
                let place = &image[index * BYTES..(index + 1) * BYTES];
                let has = frame.present()[0] >> index & 1 == 1;
                assert_eq!(has, frame.has(index));
                let mut expected = if has { data(position) } else { vec![] };
                assert_eq!(frame.data_len(index), has.then_some(expected.len()));
                if split <= 48 {
                    let in_region: usize = frame.segments(index).map(|piece| piece.len).sum();
                    assert_eq!(in_region, expected.len());
                }
                expected.resize(BYTES, 0x55);
                assert_eq!(place, expected, "frame {} place {index}", frame.number());
                if has {
                    seen.insert(position, ());
                }
            }
        }
        seen
    });
    let error = loop {
        match receiver.recv(Some(Duration::from_secs(1))) {
            Ok(Some(frame)) => sender.send(frame).expect("the worker runs"),
            // The stream's end: the daemon waits for the chunks of frames that nothing completes.
            Ok(None) => receiver.flush(),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, ClientError::Ended { .. }), "{error}");
    drop(sender);
    let seen = worker.join().expect("no panic");
    let stats = receiver.stats();
    assert_eq!(stats.packets, order.len() as u64);
    assert_eq!(stats.placed, seen.len() as u64);
    assert_eq!(stats.placed + stats.late + stats.duplicate, stats.packets);
    assert!(
        stats.duplicate > 0 && stats.late > 0 && stats.missing > 0 && stats.frames_complete > 0
    );
    drop(receiver);
    let (delivered, returned) = daemon.join().expect("no panic");
    assert_eq!((delivered, returned), (order.len() as u64, delivered));
    println!("cut at {split}: {stats:?}");
}

#[test]
fn the_number_lies_in_the_header_slot() {
    run(42 + 6);
}

#[test]
fn the_number_lies_in_the_payload() {
    run(42);
}

#[test]
fn the_number_lies_on_the_cut() {
    run(42 + 5);
}

#[test]
fn data_lies_in_the_header_slot_as_well() {
    run(42 + 20);
}

#[test]
fn nothing_is_split() {
    run(0);
}

#[test]
fn a_frame_that_lies_in_one_piece_is_told() {
    // Payload as long as a chunk, from its first byte on. Chunks are taken from the last one down, and so are the packets sent.
    let whole = |position: u64| {
        let mut bytes = vec![0, 0, 0, 0];
        bytes.extend((position as u16).to_le_bytes());
        bytes.extend((0..CHUNK).map(|at| (u64::from(at) * 7 + position) as u8));
        udp(&bytes)
    };
    let mut frames: Vec<_> = (0..8).rev().map(whole).collect();
    // In the second frame two packets change places, and so do their chunks.
    frames.extend([15, 14, 13, 11, 12, 10, 9, 8].map(whole));
    let (daemon, path, _folder) = daemon(1, move |daemon| send_at(daemon, &frames, 48, 0));
    let (_client, attachment) = attach(&path);
    let mut gathering = Gathering::of(&attachment);
    let options = PlacementOptions::new(8, CHUNK)
        .sequence(4, 2)
        .byte_order(devrx_client::placement::ByteOrder::Little)
        .window(2);
    let mut receiver = FrameReceiver::new(attachment, &options).expect("sound");
    let mut next = || {
        let frame = receiver.recv(Some(Duration::from_secs(10)));
        frame.expect("no error").expect("a frame")
    };
    let (first, second) = (next(), next());
    let at = u64::from(CHUNK) * 56;
    assert_eq!(first.in_place(), Some(at));
    let mut lies = vec![0; first.size()];
    let region = gathering.memory.region().expect("mapped");
    assert!(region.copy_out(at, &mut lies));
    assert_eq!(gathering.gather(&first, 0), lies);
    assert_eq!(second.in_place(), None);
    drop((first, second));
    assert!(receiver.recv(None).is_err(), "the end");
    drop(receiver);
    assert_eq!(daemon.join().expect("no panic"), (16, 16));
}

#[test]
fn a_frame_whose_time_is_over_comes_alone() {
    let frames: Vec<_> = (0..4).map(packet).collect();
    let (daemon, path, _folder) = daemon(1, move |daemon| send(daemon, &frames, 48));
    let (_client, attachment) = attach(&path);
    let options = options().deadline(Duration::from_millis(30));
    let mut receiver = FrameReceiver::new(attachment, &options).expect("sound");
    let frame = receiver
        .recv(Some(Duration::from_secs(10)))
        .expect("no error")
        .expect("a frame");
    assert_eq!((frame.end(), frame.missing()), (FrameEnd::Expired, 4));
    // The daemon ends when the chunks are back: dropped by another thread, while this one waits for packets.
    let dropper = thread::spawn(move || {
        thread::sleep(Duration::from_millis(100));
        drop(frame);
    });
    let error = receiver.recv(None).expect_err("the daemon ends");
    assert!(matches!(error, ClientError::Ended { .. }), "{error}");
    assert_eq!(receiver.attachment().held(), 0);
    drop(receiver);
    dropper.join().expect("no panic");
    assert_eq!(daemon.join().expect("no panic"), (4, 4));
}

#[test]
fn an_end_that_is_told_before_it_is_written_is_seen() {
    let (sender, inbox) = mpsc::channel::<()>();
    let (daemon, path, _folder) = daemon(1, move |daemon| {
        // The event alone: what the shared memory says comes later, here only after the client has noticed.
        daemon.tell_end("all was sent");
        inbox.recv_timeout(Duration::from_secs(20)).is_ok()
    });
    let (_client, mut attachment) = attach(&path);
    // A short look reads the event, or one of the next does: none may swallow it.
    let start = std::time::Instant::now();
    let told = loop {
        match attachment.recv(Some(Duration::ZERO)) {
            Ok(batch) => assert!(batch.is_empty()),
            Err(error) => break error,
        }
        assert!(attachment.arm(), "nothing was told so far");
        attachment.disarm();
        assert!(
            start.elapsed() < Duration::from_secs(10),
            "the end was swallowed"
        );
    };
    assert!(matches!(told, ClientError::Ended { .. }), "{told}");
    assert!(
        !attachment.arm(),
        "whoever would wait now waits for nothing"
    );
    let _ = sender.send(());
    assert!(daemon.join().expect("no panic"));
}

#[test]
fn a_receiver_of_frames_that_sleeps_sees_an_end_that_is_told_before_it_is_written() {
    let (sender, inbox) = mpsc::channel::<()>();
    let (daemon, path, _folder) = daemon(1, move |daemon| {
        std::thread::sleep(Duration::from_millis(50));
        daemon.tell_end("all was sent");
        inbox.recv_timeout(Duration::from_secs(20)).is_ok()
    });
    let (_client, attachment) = attach(&path);
    let mut receiver = FrameReceiver::new(attachment, &options()).expect("sound");
    let start = std::time::Instant::now();
    let error = receiver
        .recv(Some(Duration::from_secs(10)))
        .expect_err("the end");
    assert!(matches!(error, ClientError::Ended { .. }), "{error}");
    assert!(
        start.elapsed() < Duration::from_secs(8),
        "it slept until its own time was up"
    );
    let _ = sender.send(());
    assert!(daemon.join().expect("no panic"));
}

#[test]
fn what_is_no_packet_of_the_stream_is_counted() {
    let mut tcp = packet(1);
    tcp[23] = 6;
    let mut long = vec![0; 6 + BYTES + 1];
    long[4] = 2;
    let frames = vec![packet(0), tcp, udp(&long), udp(&[1, 2, 3, 4, 5]), packet(3)];
    let (daemon, path, _folder) = daemon(1, move |daemon| send(daemon, &frames, 42));
    let (_client, attachment) = attach(&path);
    let options = options().deadline(Duration::from_millis(30));
    let mut receiver = FrameReceiver::new(attachment, &options).expect("sound");
    let frame = receiver
        .recv(Some(Duration::from_secs(10)))
        .expect("no error")
        .expect("a frame");
    assert_eq!(frame.present(), [0b1001]);
    let error = frame.copy_into(&mut [0; 10], 0).expect_err("too small");
    assert_eq!(
        error.to_string(),
        "a frame takes 800 bytes, and the buffer has 10"
    );
    drop(frame);
    assert!(receiver.recv(None).is_err());
    let stats = receiver.stats();
    assert_eq!((stats.unreadable, stats.oversize, stats.placed), (2, 1, 2));
    drop(receiver);
    assert_eq!(daemon.join().expect("no panic"), (5, 5));
}

#[test]
fn chunks_that_are_shown_to_another_attachment_stay_for_their_own() {
    let frames: Vec<_> = (0..24).map(packet).collect();
    // It is not waited for: the chunks of one frame do not come back.
    let (_sending, path, _folder) = daemon(1, move |daemon| send(daemon, &frames, 48));
    let (_client, mut own) = attach(&path);
    let (idle, path, _folder) = daemon(1, |daemon| drop(daemon.session.recv()));
    let (_client, mut other) = attach(&path);
    let mut placement = Placement::new(&own, &options()).expect("sound");
    let mut seen = 0;
    while seen < 24 {
        let batch = own.recv(Some(Duration::from_secs(10))).expect("no end");
        seen += batch.len();
        placement.place_batch(&batch, 0);
    }
    let mut frames: Vec<_> = std::iter::from_fn(|| placement.next_frame()).collect();
    assert_eq!(frames.len(), 3);
    let last = frames.pop();
    drop(frames);
    let error = placement.give_back(&mut other).expect_err("not its own");
    assert!(matches!(error, ClientError::Foreign { .. }), "{error}");
    assert_eq!(own.held(), 24);
    // One frame is lost, one was left, and one more comes.
    drop(last);
    let mut back = || placement.give_back(&mut own).expect("its own");
    assert_eq!(back() + back(), 16);
    assert_eq!(own.held(), 8);
    drop(other);
    idle.join().expect("no panic");
}

#[test]
fn a_window_that_would_hold_everything_is_refused() {
    let (daemon, path, _folder) = daemon(1, |daemon| drop(daemon.session.recv()));
    let (_client, attachment) = attach(&path);
    let error = FrameReceiver::new(attachment, &options().window(8)).expect_err("refused");
    assert!(matches!(error, PlacementError::Options(_)));
    assert!(
        error
            .to_string()
            .contains("8 open frames of 8 packets can hold 64 chunks (1 a packet: 100 bytes of data behind 6, and a chunk has 2048), and queue 0 has 64"),
        "{error}"
    );
    daemon.join().expect("no panic");
}

/// Whether open frames of `packets` packets with `bytes` bytes each are taken, with the region's chunks on `queues` queues, and what is said if not.
fn room(queues: u32, split: bool, packets: u32, bytes: u32, window: u32) -> Option<String> {
    let passed = Passed {
        unsplit: !split,
        ..Passed::default()
    };
    let (daemon, path, _folder) =
        daemon_passing(passed, queues, |daemon| drop(daemon.session.recv()));
    let (_client, attachment) = attach(&path);
    let options = PlacementOptions::new(packets, bytes).window(window);
    let refused = FrameReceiver::new(attachment, &options).err();
    daemon.join().expect("no panic");
    refused.map(|error| error.to_string())
}

#[test]
fn open_frames_leave_room_for_a_packet() {
    // 64 chunks of 2048 bytes: 12 packets of 9000 bytes, at five chunks each, and four left.
    assert_eq!(room(1, true, 11, 9000, 1), None);
    let error = room(1, true, 12, 9000, 1).expect("refused");
    assert!(
        error.contains("60 chunks (5 a packet: 9000 bytes"),
        "{error}"
    );
    // The number is in the chunk as well, eight bytes.
    assert_eq!(room(1, true, 63, CHUNK - 8, 1), None);
    assert!(room(1, true, 64, CHUNK - 8, 1).is_some());
    assert!(room(1, true, 32, CHUNK - 7, 1).is_some());
    assert_eq!(room(1, true, 31, CHUNK - 7, 1), None);
    // What is not split off takes room as well: 42 bytes of headers.
    assert_eq!(room(1, false, 63, CHUNK - 50, 1), None);
    assert!(room(1, false, 63, CHUNK - 49, 1).is_some());
}

#[test]
fn open_frames_fit_one_queue() {
    assert_eq!(room(4, true, 5, 100, 3), None);
    let error = room(4, true, 4, 100, 4).expect("refused");
    assert!(error.contains("16 chunks"), "{error}");
    assert!(error.contains("queue 0 has 16"), "{error}");
}
