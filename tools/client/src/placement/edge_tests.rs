//! Restarts, leaps, numbers between packets; options that cannot be.

use super::options::{ByteOrder, PlacementOptions};
use super::stats::Verdict;
use super::window::{FrameEnd, Span, Window};

fn window(options: &PlacementOptions) -> Window<u64> {
    Window::new(options.rule().expect("sound"), options.deadline)
}

fn put(window: &mut Window<u64>, sequence: u64) -> Verdict {
    window.place(sequence, Span::default(), 0, || std::iter::once(sequence))
}

fn ends(window: &mut Window<u64>) -> Vec<(u64, u32, FrameEnd, u64)> {
    std::iter::from_fn(|| window.next())
        .map(|done| (done.number, done.body.placed, done.end, done.restarts))
        .collect()
}

#[test]
fn a_stream_that_starts_again_is_followed() {
    let options = PlacementOptions::new(4, 1).sequence(0, 4).window(2);
    let mut window = window(&options);
    for sequence in 1_000_000..1_000_006 {
        assert_eq!(put(&mut window, sequence), Verdict::Placed);
    }
    // A damaged one, and again; then the stream goes on.
    assert_eq!(put(&mut window, 5), Verdict::OutOfRange);
    assert_eq!(put(&mut window, 5), Verdict::OutOfRange);
    assert_eq!(put(&mut window, 3_000_000_000), Verdict::OutOfRange);
    assert_eq!(put(&mut window, 1_000_006), Verdict::Placed);
    assert_eq!(window.stats.restarts, 0);
    // It starts from 0: the first is the price of being sure.
    assert_eq!(put(&mut window, 0), Verdict::OutOfRange);
    assert_eq!(put(&mut window, 1), Verdict::Placed);
    assert_eq!(put(&mut window, 2), Verdict::Placed);
    window.close_all(FrameEnd::Flushed);
    assert_eq!(
        ends(&mut window),
        [
            (250_000, 4, FrameEnd::Complete, 0),
            (250_001, 3, FrameEnd::Restarted, 0),
            (0, 2, FrameEnd::Flushed, 1),
        ]
    );
    let stats = window.stats;
    assert_eq!((stats.restarts, stats.out_of_range), (1, 4));
    assert_eq!((stats.placed, stats.missing), (9, 3));
}

#[test]
fn a_leap_within_reach_counts_what_is_missed() {
    let options = PlacementOptions::new(10, 1).sequence(0, 2).window(4);
    let mut window = window(&options);
    assert_eq!(put(&mut window, 65_530), Verdict::Placed);
    // 300 packets on, over the wrap.
    assert_eq!(put(&mut window, 294), Verdict::Placed);
    assert_eq!(ends(&mut window), [(6553, 1, FrameEnd::Pushed, 0)]);
    let stats = window.stats;
    // Frame 6583 is the last of four open ones.
    assert_eq!((stats.frames_incomplete, stats.frames_missed), (1, 26));
    assert_eq!(stats.missing, 9 + 260);
}

#[test]
fn numbers_between_packets_have_no_place() {
    let options = PlacementOptions::new(4, 1)
        .sequence(0, 8)
        .stride(100)
        .first(7);
    let mut window = window(&options);
    assert_eq!(put(&mut window, 8), Verdict::OutOfRange);
    assert_eq!(put(&mut window, 407), Verdict::Placed);
    assert_eq!(put(&mut window, 508), Verdict::OutOfRange);
    assert_eq!(put(&mut window, 406), Verdict::OutOfRange);
    assert_eq!(put(&mut window, 507), Verdict::Placed);
    assert_eq!(put(&mut window, 307), Verdict::Late);
    window.close_all(FrameEnd::Flushed);
    assert_eq!(ends(&mut window), [(1, 2, FrameEnd::Flushed, 0)]);
}

#[test]
fn bytes_are_read_in_their_order() {
    let bytes = [1, 2, 3, 4, 5, 6, 7, 8];
    assert_eq!(ByteOrder::Big.read(&bytes), 0x0102_0304_0506_0708);
    assert_eq!(ByteOrder::Little.read(&bytes), 0x0807_0605_0403_0201);
    assert_eq!(ByteOrder::Big.read(&bytes[..3]), 0x0001_0203);
    assert_eq!(ByteOrder::Little.read(&bytes[..3]), 0x0003_0201);
}

#[test]
fn options_that_cannot_be_are_refused() {
    let sound = || PlacementOptions::new(16, 100).sequence(0, 2);
    assert!(sound().rule().is_ok());
    for (options, words) in [
        (sound().sequence(0, 0), "1 to 8 bytes"),
        (sound().sequence(0, 9), "1 to 8 bytes"),
        (PlacementOptions::new(0, 100), "1 to 16777216 packets"),
        (sound().window(0), "frames can be open"),
        (sound().stride(0), "at least 1"),
        (sound().sequence(0, 1).window(9), "more than half"),
        (sound().stride(1 << 63), "more than half"),
        (sound().reach(10, 10), "more than the open frames"),
        (sound().reach(65_000, 1_000), "at most the 65536 numbers"),
    ] {
        let error = options.rule().expect_err(words).to_string();
        assert!(error.contains(words), "{error}");
    }
    // The widest and the narrowest.
    for width in 1..=8 {
        let rule = PlacementOptions::new(2, 1).sequence(0, width).rule();
        assert_eq!(
            rule.expect("sound").mask,
            u64::MAX >> (64 - 8 * u32::from(width))
        );
    }
}
