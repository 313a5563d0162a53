//! What was done to a stream.

/// What became of a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// It has its place, and its chunks are held by the frame.
    Placed,
    /// Its frame had left the window, incomplete.
    Late,
    /// Its place was taken, in an open frame or in one that left the window complete.
    Duplicate,
    /// Its number is out of reach, or between two packets' numbers.
    OutOfRange,
    /// More data than a place takes.
    Oversize,
    /// It is damaged, a fragment, no UDP, too short for a sequence number, or the number lies where this process cannot read.
    Unreadable,
}

/// Counters of a placement, from its beginning.
///
/// `packets` is the sum of what became of them: `placed + late + duplicate + out_of_range + oversize + unreadable`. Of the frames that were
/// closed, every place is either `placed` or `missing`; what is placed in open frames is not in `missing` yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PlacementStats {
    /// Packets looked at.
    pub packets: u64,
    /// [`Verdict::Placed`].
    pub placed: u64,
    /// [`Verdict::Late`].
    pub late: u64,
    /// [`Verdict::Duplicate`].
    pub duplicate: u64,
    /// [`Verdict::OutOfRange`].
    pub out_of_range: u64,
    /// [`Verdict::Oversize`].
    pub oversize: u64,
    /// [`Verdict::Unreadable`].
    pub unreadable: u64,
    /// How often the stream started again.
    pub restarts: u64,
    /// Frames closed with all of their packets.
    pub frames_complete: u64,
    /// Frames closed with some of them.
    pub frames_incomplete: u64,
    /// Frames that the window passed without a single packet. They are not handed out.
    pub frames_missed: u64,
    /// Places without a packet in the frames that were closed or missed. A frame that a restart cut off counts as closed; what
    /// was lost between the end of one stream and the start of the next, nobody knows.
    pub missing: u64,
}

impl PlacementStats {
    pub(super) fn count(&mut self, verdict: Verdict) {
        self.packets += 1;
        *match verdict {
            Verdict::Placed => &mut self.placed,
            Verdict::Late => &mut self.late,
            Verdict::Duplicate => &mut self.duplicate,
            Verdict::OutOfRange => &mut self.out_of_range,
            Verdict::Oversize => &mut self.oversize,
            Verdict::Unreadable => &mut self.unreadable,
        } += 1;
    }
}
