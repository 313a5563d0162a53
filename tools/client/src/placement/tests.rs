//! The window against a plain reference: streams with loss, reordering and duplicates, at any width, over the wrap.

use std::collections::{BTreeMap, VecDeque};

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{RngAlgorithm, TestCaseError, TestRng, TestRunner};

use super::options::PlacementOptions;
use super::stats::{PlacementStats, Verdict};
use super::window::{FrameEnd, Span, Window};

/// A packet as it arrives. Its true place in the stream is known here; the window sees its number, cut to the width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Arrival {
    /// Counted from the stream's begin, without a wrap.
    pub(super) position: u64,
    /// Which of its copies it is, and so its chunk's name.
    pub(super) copy: u64,
    pub(super) now: u64,
}

#[derive(Debug, Clone)]
pub(super) struct Stream {
    width: u8,
    stride: u64,
    /// The number of position 0.
    origin: u64,
    frame: u32,
    window: u32,
    pub(super) deadline: Option<u64>,
    pub(super) arrivals: Vec<Arrival>,
    /// What was done: sent, lost, sent twice.
    sent: u64,
    lost: u64,
    doubled: u64,
}

/// A frame that came out: number, taken places with the chunk in them, how it ended.
type Out = (u64, BTreeMap<u64, u64>, FrameEnd);

/// The same, in the plainest way: maps of positions, no numbers that wrap.
#[derive(Default)]
struct Reference {
    open: BTreeMap<u64, (u64, BTreeMap<u64, u64>)>,
    head: Option<u64>,
    whole: BTreeMap<u64, ()>,
    out: Vec<Out>,
    stats: PlacementStats,
}

impl Reference {
    fn close_to(&mut self, stream: &Stream, head: u64, end: FrameEnd) {
        let places = u64::from(stream.frame);
        while self.head.is_some_and(|at| at < head) {
            let at = self.head.expect("started");
            match self.open.remove(&at) {
                None => {
                    self.stats.frames_missed += 1;
                    self.stats.missing += places;
                }
                Some((_, taken)) => {
                    let missing = places - taken.len() as u64;
                    let end = if missing == 0 {
                        self.whole.insert(at, ());
                        self.stats.frames_complete += 1;
                        FrameEnd::Complete
                    } else {
                        self.stats.frames_incomplete += 1;
                        self.stats.missing += missing;
                        end
                    };
                    self.out.push((at, taken, end));
                }
            }
            self.head = Some(at + 1);
        }
        while let Some(head) = self.head
            && self
                .open
                .get(&head)
                .is_some_and(|(_, taken)| taken.len() as u64 == places)
        {
            self.close_to(stream, head + 1, FrameEnd::Complete);
        }
    }

    fn arrive(&mut self, stream: &Stream, packet: Arrival) -> Verdict {
        let places = u64::from(stream.frame);
        let (frame, index) = (packet.position / places, packet.position % places);
        let head = *self.head.get_or_insert(frame);
        let verdict = if frame < head {
            // The window remembers 64 frames.
            if self.whole.contains_key(&frame) && head - frame <= 64 {
                Verdict::Duplicate
            } else {
                Verdict::Late
            }
        } else {
            if frame >= head + u64::from(stream.window) {
                self.close_to(
                    stream,
                    frame + 1 - u64::from(stream.window),
                    FrameEnd::Pushed,
                );
            }
            let (_, taken) = self
                .open
                .entry(frame)
                .or_insert_with(|| (packet.now, BTreeMap::new()));
            if let std::collections::btree_map::Entry::Vacant(place) = taken.entry(index) {
                place.insert(packet.copy);
                self.close_to(stream, 0, FrameEnd::Complete);
                Verdict::Placed
            } else {
                Verdict::Duplicate
            }
        };
        self.stats.count(verdict);
        verdict
    }

    fn expire(&mut self, stream: &Stream, now: u64) {
        let Some(deadline) = stream.deadline else {
            return;
        };
        let over = self
            .open
            .iter()
            .filter(|(_, (opened, _))| now - opened >= deadline)
            .map(|(frame, _)| *frame)
            .max();
        if let Some(frame) = over {
            self.close_to(stream, frame + 1, FrameEnd::Expired);
        }
    }
}

pub(super) fn options(stream: &Stream) -> PlacementOptions {
    let mut options = PlacementOptions::new(stream.frame, 1)
        .sequence(0, stream.width)
        .stride(stream.stride)
        .first(stream.origin)
        .window(stream.window);
    options.deadline = stream.deadline.map(std::time::Duration::from_nanos);
    options
}

pub(super) fn number(stream: &Stream, position: u64) -> u64 {
    let number = stream
        .origin
        .wrapping_add(position.wrapping_mul(stream.stride));
    number & (u64::MAX >> (64 - 8 * u32::from(stream.width)))
}

/// Runs a stream through both, and compares everything. Answers the counters.
fn compare(stream: &Stream) -> Result<PlacementStats, TestCaseError> {
    let rule = options(stream).rule().expect("the options are sound");
    let mut window = Window::<u64>::new(rule, options(stream).deadline);
    let mut reference = Reference::default();
    let mut out = Vec::<Out>::new();
    let mut drained = Vec::new();
    // Where in the numbers the stream begins: frame numbers are counted from there, and go on over the wrap.
    let mut held = 0_u64;
    for packet in &stream.arrivals {
        let sequence = number(stream, packet.position);
        let mut asked = false;
        let verdict = window.place(sequence, Span::default(), packet.now, || {
            asked = true;
            std::iter::once(packet.copy)
        });
        prop_assert_eq!(verdict, reference.arrive(stream, *packet), "{:?}", packet);
        // Chunks are taken for a place, and for nothing else.
        prop_assert_eq!(asked, verdict == Verdict::Placed);
        held += u64::from(asked);
        window.expire(packet.now);
        reference.expire(stream, packet.now);
        while let Some(done) = window.next() {
            drained.push(done);
        }
        for done in drained.drain(..) {
            let taken = (0..done.body.places.len())
                .filter_map(|index| Some((index as u64, done.body.get(index)?.1[0])))
                .collect();
            out.push((done.number, taken, done.end));
            held -= done.body.chunks.len() as u64;
            window.reuse(done.body);
        }
    }
    window.close_all(FrameEnd::Flushed);
    let last = reference.open.keys().max().map_or(0, |last| last + 1);
    reference.close_to(stream, last, FrameEnd::Flushed);
    while let Some(done) = window.next() {
        let taken = (0..done.body.places.len())
            .filter_map(|index| Some((index as u64, done.body.get(index)?.1[0])))
            .collect();
        out.push((done.number, taken, done.end));
        held -= done.body.chunks.len() as u64;
    }
    prop_assert_eq!(held, 0, "chunks that no frame brought back");
    let first = number_of_first(stream);
    let expected: Vec<Out> = reference
        .out
        .iter()
        .map(|(frame, taken, end)| (first + frame, taken.clone(), *end))
        .collect();
    prop_assert_eq!(out, expected);
    prop_assert_eq!(window.stats, reference.stats);
    check_against_deeds(stream, &window.stats)?;
    Ok(window.stats)
}

/// The first position may lie after a wrap: then the window counts from what it sees.
fn number_of_first(stream: &Stream) -> u64 {
    let Some(packet) = stream.arrivals.first() else {
        return 0;
    };
    let seen = number(stream, packet.position).wrapping_sub(stream.origin)
        & (u64::MAX >> (64 - 8 * u32::from(stream.width)));
    let frame = u64::from(stream.frame);
    (seen / stream.stride / frame).wrapping_sub(packet.position / frame)
}

/// The counters against what was done to the stream, where that is exact.
fn check_against_deeds(stream: &Stream, stats: &PlacementStats) -> Result<(), TestCaseError> {
    let arrived = stream.sent - stream.lost + stream.doubled;
    prop_assert_eq!(stats.packets, arrived);
    prop_assert_eq!(stats.placed + stats.late + stats.duplicate, arrived);
    prop_assert_eq!((stats.out_of_range, stats.restarts), (0, 0));
    // Each distinct packet that arrived is placed once, or was late; each further copy is a duplicate, or late.
    prop_assert!(stats.placed <= stream.sent - stream.lost);
    prop_assert!(stats.duplicate <= stream.doubled);
    let closed = stats.frames_complete + stats.frames_incomplete + stats.frames_missed;
    prop_assert_eq!(
        stats.placed + stats.missing,
        closed * u64::from(stream.frame)
    );
    Ok(())
}

/// What is done to a packet.
#[derive(Debug, Clone)]
struct Deed {
    lost: bool,
    doubled: bool,
    /// By how many packets it comes later, and its copy after it.
    delay: u64,
    copy_delay: u64,
    pause: u64,
}

fn deed() -> impl Strategy<Value = Deed> {
    let delay = || prop_oneof![12 => Just(0_u64), 4 => 0..6_u64, 1 => 0..200_u64];
    (
        prop::bool::weighted(0.08),
        prop::bool::weighted(0.08),
        delay(),
        delay(),
        prop_oneof![8 => Just(0_u64), 1 => 1..50_u64],
    )
        .prop_map(|(lost, doubled, delay, copy_delay, pause)| Deed {
            lost,
            doubled,
            delay,
            copy_delay,
            pause,
        })
}

pub(super) fn stream(window: u32) -> impl Strategy<Value = Stream> {
    // A frame and a window that the width has room for: with one byte, half of 256 numbers.
    let frame = move |width: u8| {
        1..=if width == 1 {
            (128 / window).min(9)
        } else {
            13
        }
    };
    (1..=8_u8)
        .prop_flat_map(move |width| {
            let stride = if width == 1 { 1..=1_u64 } else { 1..=3_u64 };
            (Just(width), stride, frame(width), any::<u64>(), 0..400_u64)
        })
        .prop_flat_map(move |(width, stride, frame, origin, before)| {
            let most = if width == 1 { 900 } else { 600 };
            let deeds = prop::collection::vec(deed(), 0..most);
            let deadline = prop_oneof![Just(None), (1..300_u64).prop_map(Some)];
            let origin = prop_oneof![
                Just(origin),
                // Just before the wrap.
                Just(0_u64.wrapping_sub(before * stride)),
            ];
            (Just((width, stride, frame)), origin, deadline, deeds)
        })
        .prop_map(move |((width, stride, frame), origin, deadline, deeds)| {
            generate(width, stride, frame, window, origin, deadline, &deeds)
        })
}

fn generate(
    width: u8,
    stride: u64,
    frame: u32,
    window: u32,
    origin: u64,
    deadline: Option<u64>,
    deeds: &[Deed],
) -> Stream {
    // One byte has so few numbers that what comes very late cannot be told from what is far ahead: no placement could.
    let most = if width == 1 { 20 } else { 200 };
    let mut order = Vec::new();
    let (mut lost, mut doubled, mut now) = (0, 0, 0);
    for (position, deed) in (0_u64..).zip(deeds) {
        now += 1 + deed.pause;
        let (delay, again) = (deed.delay.min(most), deed.copy_delay.min(most));
        if deed.lost {
            lost += 1;
            continue;
        }
        order.push((position + delay, position, 2 * position));
        if deed.doubled {
            doubled += 1;
            order.push((position + delay + again, position, 2 * position + 1));
        }
    }
    order.sort_by_key(|(at, ..)| *at);
    let step = now / (order.len() as u64 + 1) + 1;
    let arrivals = (0_u64..)
        .zip(order)
        .map(|(turn, (_, position, copy))| Arrival {
            position,
            copy,
            now: turn * step,
        });
    Stream {
        width,
        stride,
        origin,
        frame,
        window,
        deadline,
        arrivals: arrivals.collect(),
        sent: deeds.len() as u64,
        lost,
        doubled,
    }
}

/// The same streams in each run.
fn run(window: u32, cases: u32) {
    let config = ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    };
    let rng = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut total = PlacementStats::default();
    let mut runner = TestRunner::new_with_rng(config, rng);
    runner
        .run(&stream(window), |stream| compare(&stream).map(|_| ()))
        .unwrap_or_else(|error| panic!("{window} open frames: {error}"));
    // The streams have everything in them that they are for.
    let mut seen = VecDeque::new();
    let mut runner = TestRunner::deterministic();
    for _ in 0..40 {
        let stream = stream(window)
            .new_tree(&mut runner)
            .expect("a stream")
            .current();
        let stats = compare(&stream).expect("as above");
        total.late += stats.late;
        total.duplicate += stats.duplicate;
        total.frames_complete += stats.frames_complete;
        total.frames_incomplete += stats.frames_incomplete;
        total.missing += stats.missing;
        seen.push_back(stats);
    }
    assert!(
        total.late > 0
            && total.duplicate > 0
            && total.frames_complete > 0
            && total.frames_incomplete > 0
            && total.missing > 0,
        "{total:?}"
    );
}

#[test]
fn one_open_frame_is_as_the_reference() {
    run(1, 200);
}

#[test]
fn four_open_frames_are_as_the_reference() {
    run(4, 200);
}

#[test]
fn sixty_four_open_frames_are_as_the_reference() {
    run(64, 200);
}
