//! Where a sequence number belongs. One function without memory of its own, so that it can be written again, line by line, for a GPU:
//! no allocation, no loop, integers of 64 bits that wrap.

/// What a stream's sequence numbers mean. All distances are in sequence numbers unless said otherwise.
///
/// What must hold, and is checked by [`PlacementOptions`](super::PlacementOptions): `stride`, `frame_packets` and `window` are not 0; a window
/// (`stride * frame_packets * window`) is at most half of the numbers; `ahead` is more than a window; `ahead + behind` is at most as many as there
/// are numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(C)]
pub struct Rule {
    /// The bits a sequence number has: `2^(8 * width) - 1`.
    pub mask: u64,
    /// The number of the first packet of frame 0.
    pub first: u64,
    /// From one packet's number to the next one's.
    pub stride: u64,
    /// Packets of a frame.
    pub frame_packets: u64,
    /// Frames open at once.
    pub window: u64,
    /// Numbers that are fewer than this ahead of the window's begin move the window.
    pub ahead: u64,
    /// Numbers that are at most this far behind the window's begin are late.
    pub behind: u64,
    /// After so many packets in a row that are neither, close to each other, the stream has started again.
    pub restart_after: u32,
}

/// Where a stream is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[repr(C)]
pub struct Cursor {
    /// The oldest open frame. It goes on where the sequence numbers wrap.
    pub head: u64,
    /// The number of the last packet that fitted nowhere.
    pub strange: u64,
    /// How many such there were in a row.
    pub strange_run: u32,
    /// 0 until the first packet.
    pub started: u32,
}

/// What is to be done with a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Close `moved` frames, oldest first; then put it to place `index` of the open frame `slot`, counted from the oldest.
    Place {
        /// Frames that the window moves by.
        moved: u64,
        /// The open frame, after that.
        slot: u64,
        /// The place in it.
        index: u64,
    },
    /// Close all frames: the stream has started again. Then put it to place `index` of the oldest open frame.
    Restart {
        /// The place.
        index: u64,
    },
    /// Its frame left the window: it is `frames` before the oldest open one (1: the one before).
    Late {
        /// How many.
        frames: u64,
    },
    /// Too far from the window. If the next ones are as well, the stream has started again.
    Strange,
    /// Between two packets' numbers.
    Stray,
}

/// Where `sequence` belongs, and where the stream is after it.
#[must_use]
pub fn step(rule: &Rule, cursor: Cursor, sequence: u64) -> (Cursor, Step) {
    let sequence = sequence & rule.mask;
    if cursor.started == 0 {
        return match start(rule, sequence) {
            Some((cursor, index)) => (
                cursor,
                Step::Place {
                    moved: 0,
                    slot: 0,
                    index,
                },
            ),
            None => (cursor, Step::Stray),
        };
    }
    let span = rule.stride.wrapping_mul(rule.frame_packets);
    // The head counts on where the numbers wrap, so that this wraps with them: all of it is arithmetic modulo a power of 2.
    let begin = rule.first.wrapping_add(cursor.head.wrapping_mul(span));
    let ahead = sequence.wrapping_sub(begin) & rule.mask;
    let behind = begin.wrapping_sub(sequence) & rule.mask;
    if ahead < rule.ahead {
        if !ahead.is_multiple_of(rule.stride) {
            return (cursor, Step::Stray);
        }
        let packet = ahead / rule.stride;
        let frame = packet / rule.frame_packets;
        let index = packet - frame * rule.frame_packets;
        let moved = (frame + 1).saturating_sub(rule.window);
        let cursor = Cursor {
            head: cursor.head.wrapping_add(moved),
            strange_run: 0,
            ..cursor
        };
        let slot = frame - moved;
        return (cursor, Step::Place { moved, slot, index });
    }
    if behind <= rule.behind {
        if !behind.is_multiple_of(rule.stride) {
            return (cursor, Step::Stray);
        }
        let cursor = Cursor {
            strange_run: 0,
            ..cursor
        };
        let frames = (behind / rule.stride).div_ceil(rule.frame_packets);
        return (cursor, Step::Late { frames });
    }
    let run = strange_run(rule, &cursor, sequence, span);
    if run >= rule.restart_after
        && let Some((cursor, index)) = start(rule, sequence)
    {
        return (cursor, Step::Restart { index });
    }
    let cursor = Cursor {
        strange: sequence,
        strange_run: run,
        ..cursor
    };
    (cursor, Step::Strange)
}

/// The frame that a stream begins in, and the place. None: `sequence` is between two packets' numbers.
fn start(rule: &Rule, sequence: u64) -> Option<(Cursor, u64)> {
    let number = sequence.wrapping_sub(rule.first) & rule.mask;
    if !number.is_multiple_of(rule.stride) {
        return None;
    }
    let packet = number / rule.stride;
    let head = packet / rule.frame_packets;
    let cursor = Cursor {
        head,
        strange: 0,
        strange_run: 0,
        started: 1,
    };
    Some((cursor, packet - head * rule.frame_packets))
}

/// How many strange packets there were in a row, this one included, that lie within a window of one another.
fn strange_run(rule: &Rule, cursor: &Cursor, sequence: u64, span: u64) -> u32 {
    let up = sequence.wrapping_sub(cursor.strange) & rule.mask;
    let down = cursor.strange.wrapping_sub(sequence) & rule.mask;
    if cursor.strange_run == 0 || up.min(down) >= span * rule.window {
        1
    } else if up == 0 {
        // A duplicate is no second witness.
        cursor.strange_run
    } else {
        cursor.strange_run.saturating_add(1)
    }
}
