//! Comparing what arrives with what was sent.

use super::synthetic;
use super::traffic::Source;

/// How many faults are described; the rest are counted.
const DESCRIBED: usize = 5;

/// What the comparison came to.
#[derive(Debug, Default)]
pub struct Checked {
    /// Frames that arrived.
    pub delivered: u64,
    /// Frames that arrived in order with every byte as it was sent, split where it must be.
    pub verified: u64,
    /// Their payload.
    pub payload_bytes: u64,
    /// What was wrong with the others.
    pub faults: Vec<String>,
}

/// Compares frames in the order of their arrival.
pub struct Checker<'a> {
    source: &'a Source,
    next: u64,
    checked: Checked,
}

impl<'a> Checker<'a> {
    /// Expects the frames of `source` from the first on.
    pub fn new(source: &'a Source) -> Self {
        Self {
            source,
            next: 0,
            checked: Checked::default(),
        }
    }

    /// Takes in one frame that was split behind `header` bytes.
    pub fn see(&mut self, frame: &[u8], header: usize) {
        self.checked.delivered += 1;
        self.checked.payload_bytes += (frame.len() - header) as u64;
        match self.judge(frame, header) {
            Ok(number) => {
                self.checked.verified += 1;
                self.next = number + 1;
            }
            Err(fault) => {
                if self.checked.faults.len() < DESCRIBED {
                    self.checked.faults.push(fault);
                }
            }
        }
    }

    /// How far it is.
    pub fn so_far(&self) -> &Checked {
        &self.checked
    }

    /// What it came to.
    pub fn finish(self) -> Checked {
        self.checked
    }

    /// The frame's number, or what is wrong with it.
    fn judge(&self, frame: &[u8], header: usize) -> Result<u64, String> {
        let number = match self.source {
            Source::Synthetic => synthetic::number(frame)
                .map(u64::from)
                .ok_or("a frame that nobody sent")?,
            Source::Capture { frames, .. } => {
                // A lost frame shows as one of those after the expected one.
                let ahead = (self.next..)
                    .take(frames.len())
                    .find(|&number| *self.source.frame(number) == *frame);
                ahead.ok_or_else(|| {
                    format!(
                        "a frame of {} bytes that is none of the capture's; frame {} was due",
                        frame.len(),
                        self.next + 1
                    )
                })?
            }
        };
        if number < self.next {
            return Err(format!(
                "frame {number} came again, or too late; frame {} was due",
                self.next
            ));
        }
        let (expected, split) = self.source.expected(number);
        if let Some(at) = frame
            .iter()
            .zip(expected.iter())
            .position(|(one, other)| one != other)
        {
            let part = if at < header { "header" } else { "payload" };
            return Err(format!(
                "frame {number}: byte {at}, in its {part}, is not what was sent"
            ));
        }
        if frame.len() != expected.len() {
            return Err(format!(
                "frame {number} has {} bytes instead of {}",
                frame.len(),
                expected.len()
            ));
        }
        if split.is_some_and(|split| split != header) {
            let shape = synthetic::shape(number);
            return Err(format!(
                "frame {number} ({shape}) was split behind {header} bytes instead of {}",
                split.unwrap_or(0)
            ));
        }
        Ok(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn see(checker: &mut Checker<'_>, number: u64) {
        let (frame, header) = checker.source.expected(number);
        let frame = frame.into_owned();
        checker.see(&frame, header.unwrap_or(14));
    }

    #[test]
    fn good_frames_are_verified_and_gaps_allowed() {
        let source = Source::synthetic();
        let mut checker = Checker::new(&source);
        for number in [0, 1, 2, 5, 6] {
            see(&mut checker, number);
        }
        let checked = checker.finish();
        assert_eq!(
            (checked.delivered, checked.verified),
            (5, 5),
            "{:?}",
            checked.faults
        );
    }

    #[test]
    fn every_kind_of_fault_is_seen() {
        let source = Source::synthetic();
        let (good, header) = source.expected(0);
        let (good, header) = (good.into_owned(), header.unwrap());
        let mut wrong_byte = good.clone();
        *wrong_byte.last_mut().unwrap() ^= 1;
        let short = &good[..good.len() - 1];
        for (frame, header) in [
            (&wrong_byte[..], header),
            (short, header),
            (&good[..], header - 1),
            (&[0; 60][..], 14),
        ] {
            let mut checker = Checker::new(&source);
            checker.see(frame, header);
            assert_eq!(checker.finish().verified, 0);
        }
        let mut checker = Checker::new(&source);
        see(&mut checker, 1);
        see(&mut checker, 1);
        see(&mut checker, 0);
        assert_eq!(checker.finish().verified, 1, "repeated and late frames");
    }

    #[test]
    fn a_capture_is_compared_in_order_across_its_end_and_over_gaps() {
        let frames: Vec<Vec<u8>> = (0..5_u8).map(|n| vec![n; 20 + usize::from(n)]).collect();
        let source = Source::Capture {
            frames,
            name: "test".into(),
        };
        let mut checker = Checker::new(&source);
        for number in [0, 1, 3, 4, 5, 6, 9] {
            see(&mut checker, number);
        }
        checker.see(&[9; 20], 14);
        let checked = checker.finish();
        assert_eq!(
            (checked.delivered, checked.verified),
            (8, 7),
            "{:?}",
            checked.faults
        );
    }
}
