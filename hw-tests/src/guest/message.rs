//! What guest and host say to each other on the control channel: one JSON array a line, `[id, request]` and `[id, reply]`.
//!
//! The guest asks, the host answers. The id lets a process of the guest pass over an answer meant for one that was killed.

use serde::{Deserialize, Serialize};

/// How many bytes one [`Request::BarRead`] may ask for.
pub const BAR_READ: u64 = 64 << 10;

/// Frames to inject.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Frames {
    /// `count` frames of [`crate::frame::numbered_to`], to the NIC's own address, numbers from `first`.
    Numbered {
        /// UDP destination port.
        port: u16,
        /// Number of the first frame.
        first: u64,
        /// How many.
        count: u64,
        /// UDP payload bytes.
        payload: usize,
    },
    /// The same to another address.
    NumberedTo {
        /// Where to.
        mac: [u8; 6],
        /// UDP destination port.
        port: u16,
        /// Number of the first frame.
        first: u64,
        /// How many.
        count: u64,
        /// UDP payload bytes.
        payload: usize,
    },
    /// One frame of each in turn; all must have equally many.
    Mixed(Vec<Frames>),
    /// A capture that both sides have, by its name without `.pcap`.
    Capture(String),
    /// The frames given by [`Request::Stage`] since the last injection of staged frames.
    Staged,
}

/// What the guest asks for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Nothing; the answer shows that both sides are in step.
    Sync,
    /// A test begins, and must end within this many seconds.
    Starting(String, u64),
    /// A test has ended, after this many milliseconds.
    Finished(String, Verdict, u64),
    /// All tests have ended; the guest goes away next.
    Done,
    /// Start sending frames to a NIC.
    Inject {
        /// The NIC's id.
        nic: String,
        /// What.
        frames: Frames,
        /// Frames a second; `None`: as fast as the NIC takes them.
        rate: Option<u32>,
        /// How often to send the whole of it.
        rounds: u32,
    },
    /// How the injection into this NIC goes.
    Injection(String),
    /// End the injection into this NIC.
    StopInjection(String),
    /// One frame, in hexadecimal, for [`Frames::Staged`].
    Stage(String),
    /// What this NIC has sent.
    Seen(String),
    /// One frame that this NIC has sent, by its index.
    SeenFrame(String, usize),
    /// Forget what this NIC has sent.
    ForgetSeen(String),
    /// Bytes of the file behind the ivshmem BAR: offset, length (at most [`BAR_READ`]).
    BarRead(u64, u64),
    /// [`sum`] over a span of that file: offset, length.
    BarSum(u64, u64),
    /// Write one byte over a span of that file: offset, length, value.
    BarFill(u64, u64, u8),
    /// Plug the NIC's cable in, or pull it.
    SetLink(String, bool),
    /// A command for QEMU's human monitor.
    Monitor(String),
    /// What QEMU says has happened since this was last asked: a JSON array of its events.
    Events,
    /// A request to the model of this NIC: `devrx_e810_model::server::Control` says which there are.
    Card(String, String),
}

/// How a test ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// As it should.
    Passed,
    /// It did not hold, and why.
    Failed(String),
    /// It could not run, and why.
    Skipped(String),
}

/// What the host answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Done.
    Done,
    /// It could not be done, and why.
    Failed(String),
    /// The state of an injection: frames QEMU has taken, and whether it goes on.
    Injection {
        /// Frames QEMU has taken.
        sent: u64,
        /// Whether more are to come.
        running: bool,
    },
    /// What a NIC has sent.
    Seen {
        /// Frames, all of them.
        frames: u64,
        /// Those kept for [`Request::SeenFrame`].
        kept: usize,
    },
    /// Bytes, in hexadecimal.
    Bytes(String),
    /// A [`sum`].
    Sum(u64),
    /// Text.
    Text(String),
}

/// FNV-1a over `bytes`, 64 bits: what both sides compare large spans with.
#[must_use]
pub fn sum(bytes: impl IntoIterator<Item = u8>) -> u64 {
    bytes.into_iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Bytes as hexadecimal text.
#[must_use]
pub fn to_hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").ok();
    }
    text
}

/// The bytes of hexadecimal text; `None` if it is not that.
#[must_use]
pub fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let (pairs, rest) = text.as_bytes().as_chunks::<2>();
    let pair = |[high, low]: &[u8; 2]| u8::try_from(digit(*high)? * 16 + digit(*low)?).ok();
    rest.is_empty().then(|| pairs.iter().map(pair).collect())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hexadecimal_text_survives_the_way_there_and_back() {
        let bytes: Vec<u8> = (0..=255).collect();
        assert_eq!(from_hex(&to_hex(&bytes)), Some(bytes));
        assert_eq!(from_hex("abc"), None);
        assert_eq!(from_hex("+1"), None);
    }

    /// The published test vectors of FNV-1a, 64 bits.
    #[test]
    fn the_sum_is_fnv_1a() {
        assert_eq!(sum([]), 0xcbf2_9ce4_8422_2325);
        assert_eq!(sum(*b"foobar"), 0x8594_4171_f739_67e8);
    }
}
