//! `devrx_placement.cuh` against the window: the same streams, the same verdicts, frames and counters. A C++ compiler builds it for the CPU.

use std::io::Write as _;
use std::mem::offset_of;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{RngAlgorithm, TestRng, TestRunner};

use super::options::PlacementOptions;
use super::rule::{Cursor, Rule};
use super::stats::{PlacementStats, Verdict};
use super::tests::{number, options, stream};
use super::udp;
use super::window::{FrameEnd, Span, Window};

/// The program, built once.
static PROGRAM: LazyLock<tempfile::TempDir> = LazyLock::new(|| {
    let folder = tempfile::tempdir().expect("a folder");
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    let output = Command::new("c++")
        .args([
            "-std=c++11",
            "-O1",
            "-g",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-Wno-unused-function",
        ])
        // A byte read too far, or an overflow of what has a sign, ends the program.
        .args(["-fsanitize=address,undefined", "-fno-sanitize-recover=all"])
        .arg(format!("-I{}", package.join("capi/include").display()))
        .arg(package.join("src/placement/device_tests.cpp"))
        .arg("-o")
        .arg(folder.path().join("device"))
        .output()
        .expect("c++ runs (apt install g++)");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    folder
});

/// Runs the program on what was written; what it answers.
fn on_device(input: &[u64]) -> Vec<u64> {
    let mut child = Command::new(PROGRAM.path().join("device"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let bytes: Vec<u8> = input.iter().flat_map(|word| word.to_le_bytes()).collect();
    let mut stdin = child.stdin.take().expect("piped");
    let writer = std::thread::spawn(move || stdin.write_all(&bytes));
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{}", output.status);
    writer.join().expect("no panic").expect("all was taken");
    let words = output.stdout.chunks_exact(8);
    words
        .map(|word| u64::from_le_bytes(word.try_into().expect("eight")))
        .collect()
}

/// A packet: its number, its name, and when it came.
type Packet = (u64, u64, u64);

/// Writes a stream for the program, and what it must answer: what the window does.
fn add(
    rule: Rule,
    deadline: Option<u64>,
    packets: &[Packet],
    input: &mut Vec<u64>,
    want: &mut Vec<u64>,
) -> PlacementStats {
    let Rule {
        mask,
        first,
        stride,
        frame_packets,
        window,
        ahead,
        behind,
        restart_after,
    } = rule;
    input.extend([
        1,
        mask,
        first,
        stride,
        frame_packets,
        window,
        ahead,
        behind,
        restart_after.into(),
    ]);
    // As few bodies as there can be, and frames are taken after every packet.
    let bodies = 2 * window + 1;
    input.extend([deadline.unwrap_or(u64::MAX), bodies, packets.len() as u64]);
    let mut reference = Window::<u64>::new(rule, deadline.map(std::time::Duration::from_nanos));
    let drain = |reference: &mut Window<u64>, want: &mut Vec<u64>| {
        while let Some(done) = reference.next() {
            want.extend([2, done.number, done.restarts, end(done.end)]);
            let places = 0..done.body.places.len();
            want.extend(
                places.map(|index| done.body.get(index).map_or(0, |(_, names)| names[0] + 1)),
            );
            reference.reuse(done.body);
        }
    };
    for &(sequence, name, now) in packets {
        input.extend([sequence, name, now]);
        let verdict = reference.place(sequence, Span::default(), now, || std::iter::once(name));
        want.extend([1, code(verdict)]);
        reference.expire(now);
        drain(&mut reference, want);
    }
    reference.close_all(FrameEnd::Flushed);
    drain(&mut reference, want);
    let stats = reference.stats;
    let PlacementStats {
        packets,
        placed,
        late,
        duplicate,
        out_of_range,
        oversize,
        unreadable,
        restarts,
        frames_complete,
        frames_incomplete,
        frames_missed,
        missing,
    } = stats;
    want.extend([
        3,
        packets,
        placed,
        late,
        duplicate,
        out_of_range,
        oversize,
        unreadable,
        restarts,
        frames_complete,
        frames_incomplete,
        frames_missed,
        missing,
    ]);
    stats
}

fn code(verdict: Verdict) -> u64 {
    match verdict {
        Verdict::Placed => 0,
        Verdict::Late => 1,
        Verdict::Duplicate => 2,
        Verdict::OutOfRange => 3,
        Verdict::Oversize => 4,
        Verdict::Unreadable => 5,
    }
}

fn end(end: FrameEnd) -> u64 {
    match end {
        FrameEnd::Complete => 0,
        FrameEnd::Expired => 1,
        FrameEnd::Pushed => 2,
        FrameEnd::Restarted => 3,
        FrameEnd::Flushed => 4,
    }
}

fn compare(found: &[u64], want: &[u64]) {
    let different = found
        .iter()
        .zip(want)
        .position(|(found, want)| found != want);
    if let Some(at) = different {
        let from = at.saturating_sub(20);
        panic!(
            "word {at} of {}: {:?} instead of {:?}",
            want.len(),
            &found[from..found.len().min(at + 20)],
            &want[from..want.len().min(at + 20)]
        );
    }
    assert_eq!(found.len(), want.len());
}

fn runner() -> TestRunner {
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    TestRunner::new_with_rng(ProptestConfig::default(), rng)
}

/// The streams that the window itself is tested with: loss, reordering, duplicates, at all widths, over the wrap, at 1, 4 and 64 open frames.
#[test]
fn streams_are_placed_as_the_window_places_them() {
    let (mut input, mut want) = (Vec::new(), Vec::new());
    let mut runner = runner();
    let mut total = PlacementStats::default();
    for open in [1, 4, 64] {
        for _ in 0..150 {
            let stream = stream(open)
                .new_tree(&mut runner)
                .expect("a stream")
                .current();
            let packets: Vec<Packet> = stream
                .arrivals
                .iter()
                .map(|packet| (number(&stream, packet.position), packet.copy, packet.now))
                .collect();
            let rule = options(&stream).rule().expect("sound");
            let stats = add(rule, stream.deadline, &packets, &mut input, &mut want);
            total.late += stats.late;
            total.duplicate += stats.duplicate;
            total.frames_complete += stats.frames_complete;
            total.frames_incomplete += stats.frames_incomplete;
            total.frames_missed += stats.frames_missed;
        }
    }
    assert!(
        total.late > 100
            && total.duplicate > 100
            && total.frames_complete > 100
            && total.frames_incomplete > 100
            && total.frames_missed > 0,
        "{total:?}"
    );
    compare(&on_device(&input), &want);
}

/// Numbers that jump anywhere: streams that start again, numbers between two packets', numbers far off, windows that move by more than they are wide.
#[test]
fn numbers_that_jump_are_placed_as_the_window_places_them() {
    let jump = prop_oneof![
        6 => (0..4_u64).prop_map(|up| up),
        2 => (0..60_u64).prop_map(|down| down.wrapping_neg()),
        2 => 0..3000_u64,
        1 => any::<u64>(),
    ];
    let shape = (
        1..=8_u8,
        1..=3_u64,
        1..=9_u32,
        prop_oneof![Just(1_u32), Just(4), Just(13)],
        any::<u64>(),
        any::<u64>(),
    );
    let streams = (
        shape,
        prop::option::of(0..200_u64),
        prop::collection::vec((jump, 0..20_u64), 0..300),
        1..4_u32,
    );
    let (mut input, mut want) = (Vec::new(), Vec::new());
    let mut runner = runner();
    let mut total = PlacementStats::default();
    for _ in 0..300 {
        let ((width, stride, frame, window, first, start), deadline, jumps, restart_after) =
            streams.new_tree(&mut runner).expect("a stream").current();
        let rule = PlacementOptions::new(frame, 1)
            .sequence(0, width)
            .stride(stride)
            .first(first)
            .window(window)
            .restart_after(restart_after);
        // With one byte some of the shapes take more than half of the numbers.
        let Ok(rule) = rule.rule() else { continue };
        let (mut sequence, mut now) = (start, 0);
        let packets: Vec<Packet> = (0..)
            .zip(jumps)
            .map(|(name, (by, pause))| {
                sequence =
                    sequence.wrapping_add(by.wrapping_mul(if by % 7 == 3 { 1 } else { stride }));
                now += pause;
                (sequence, name, now)
            })
            .collect();
        let stats = add(rule, deadline, &packets, &mut input, &mut want);
        total.restarts += stats.restarts;
        total.out_of_range += stats.out_of_range;
        total.frames_missed = total.frames_missed.saturating_add(stats.frames_missed);
    }
    assert!(
        total.restarts > 100 && total.out_of_range > 100 && total.frames_missed > 100,
        "{total:?}"
    );
    compare(&on_device(&input), &want);
}

/// Whole frames, cut off ones, and ones with wrong bytes: the header is found where the client finds it, and nothing is read behind the end.
#[test]
fn udp_is_found_where_the_client_finds_it() {
    let mut frames: Vec<Vec<u8>> = udp::tests::frames();
    let whole = frames.clone();
    let mut runner = runner();
    let wrong = (
        any::<prop::sample::Index>(),
        any::<prop::sample::Index>(),
        any::<u8>(),
    );
    let wrong = prop::collection::vec(wrong, 1..4);
    for frame in &whole {
        for len in 0..frame.len() {
            frames.push(frame[..len].to_vec());
        }
        for _ in 0..400 {
            let mut frame = frame.clone();
            for (at, _, byte) in wrong.new_tree(&mut runner).expect("wrong bytes").current() {
                let at = at.index(frame.len());
                frame[at] = byte;
            }
            frames.push(frame);
        }
    }
    let (mut input, mut want) = (Vec::new(), Vec::new());
    let mut found = 0;
    for frame in &frames {
        input.extend([2, frame.len() as u64]);
        for word in frame.chunks(8) {
            let mut bytes = [0; 8];
            bytes[..word.len()].copy_from_slice(word);
            input.push(u64::from_le_bytes(bytes));
        }
        let head = &frame[..frame.len().min(256)];
        match udp::find(head) {
            Some(udp) => {
                found += 1;
                want.extend([4, 1, udp.end as u64, udp.len as u64]);
            }
            None => want.extend([4, 0, 0, 0]),
        }
    }
    assert!(
        found > 1000 && frames.len() - found > 1000,
        "{found} of {}",
        frames.len()
    );
    compare(&on_device(&input), &want);
}

/// Rule and cursor go to a device as they are.
#[test]
fn rule_and_cursor_lie_as_in_the_header() {
    let mut text = String::from("#include <devrx_placement.cuh>\n#include <stddef.h>\n");
    macro_rules! held {
        ($($rust:ident $c:literal { $($field:ident),* })*) => {$(
            text += &format!("static_assert(sizeof({0}) == {1}, \"{0}\");\n", $c, size_of::<$rust>());
            $(text += &format!("static_assert(offsetof({0}, {1}) == {2}, \"{0}.{1}\");\n", $c, stringify!($field), offset_of!($rust, $field));)*
        )*};
    }
    held! {
        Rule "devrx_rule" { mask, first, stride, frame_packets, window, ahead, behind, restart_after }
        Cursor "devrx_cursor" { head, strange, strange_run, started }
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("held.cpp");
    std::fs::write(&file, text).expect("written");
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("capi/include");
    let output = Command::new("c++")
        .args(["-std=c++11", "-fsyntax-only"])
        .arg(format!("-I{}", include.display()))
        .arg(file)
        .output()
        .expect("c++ runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
