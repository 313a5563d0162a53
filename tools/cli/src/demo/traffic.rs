//! What the demo sends.

use std::borrow::Cow;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};

use super::synthetic;
use crate::capture::Capture;
use crate::commands::send::Limit;

/// The MTU of made frames.
const MTU: usize = 1500;
/// Two VLAN tags, bytes.
const TAGS: usize = 8;
/// The largest MTU a veth pair is given; frames of captures may need it.
const LARGEST_MTU: usize = 65_535;
/// Made with this seed; any would do, and the same one every time makes runs comparable.
const SEED: u64 = 0x6465_7672_7821;
/// How much longer than asked for the sender may take for the packets asked for.
const GRACE: Duration = Duration::from_millis(500);
/// The bytes of an Ethernet header.
const ETHERNET: usize = 14;

/// Where frames come from.
pub enum Source {
    /// Made from their number.
    Synthetic,
    /// A capture's, again and again.
    Capture {
        /// Its frames.
        frames: Vec<Vec<u8>>,
        /// Its file.
        name: String,
    },
}

impl Source {
    /// Made frames.
    pub fn synthetic() -> Self {
        Self::Synthetic
    }

    /// The frames of a capture.
    ///
    /// # Errors
    /// A file that is no capture, or holds what cannot be sent.
    pub fn capture(path: &Path) -> Result<Self> {
        let capture = Capture::read(path)?;
        if let Some(at) = capture
            .frames
            .iter()
            .position(|frame| frame.len() < ETHERNET)
        {
            bail!(
                "frame {} of {} is shorter than an Ethernet header and cannot be sent",
                at + 1,
                path.display()
            );
        }
        Ok(Self::Capture {
            frames: capture.frames,
            name: path.display().to_string(),
        })
    }

    /// Frame `number`.
    pub fn frame(&self, number: u64) -> Cow<'_, [u8]> {
        match self {
            // 32 bits number the frames of some days.
            Self::Synthetic => Cow::Owned(synthetic::frame(SEED, number as u32, MTU).bytes),
            Self::Capture { frames, .. } => {
                Cow::Borrowed(&frames[(number % frames.len() as u64) as usize])
            }
        }
    }

    /// Frame `number`, and where its headers end if that is known.
    pub fn expected(&self, number: u64) -> (Cow<'_, [u8]>, Option<usize>) {
        match self {
            Self::Synthetic => {
                let made = synthetic::frame(SEED, number as u32, MTU);
                (Cow::Owned(made.bytes), Some(made.header))
            }
            Self::Capture { .. } => (self.frame(number), None),
        }
    }

    /// What to send in `time` at `rate`; a capture at least once. On a machine too slow for the rate, the time ends it.
    pub fn limit(&self, rate: f64, time: Duration) -> Limit {
        let paced = ((rate * time.as_secs_f64()) as u64).max(1);
        let least = match self {
            Self::Synthetic => 1,
            Self::Capture { frames, .. } => frames.len() as u64,
        };
        // The number of a made frame has 32 bits.
        let count = paced.max(least).min(u64::from(u32::MAX));
        // What is due at the very end may be sent a little later.
        Limit {
            count,
            time: Some((time + GRACE, least)),
        }
    }

    /// The MTU the veth pair needs.
    pub fn mtu(&self) -> usize {
        match self {
            // As a provider's network does: the tags of QinQ come on top.
            Self::Synthetic => MTU + TAGS,
            Self::Capture { frames, .. } => {
                let longest = frames.iter().map(Vec::len).max().unwrap_or(0);
                longest.saturating_sub(ETHERNET).clamp(MTU, LARGEST_MTU)
            }
        }
    }

    /// A line for people.
    pub fn describe(&self) -> String {
        match self {
            Self::Synthetic => {
                let shapes: Vec<&str> = (0..synthetic::SHAPES).map(synthetic::shape).collect();
                format!("made frames ({})", shapes.join(", "))
            }
            Self::Capture { frames, name } => {
                format!("the {} frames of {name}, again and again,", frames.len())
            }
        }
    }
}
