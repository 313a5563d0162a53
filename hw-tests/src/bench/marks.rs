//! Markers: where the guest's instructions are counted from and to.
#![cfg_attr(
    target_arch = "x86_64",
    expect(unsafe_code, reason = "one instruction that does nothing")
)]

use std::collections::BTreeMap;

/// What is counted between one section's marker and the next one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Section {
    /// DPDK linked statically, 32 packets a burst.
    DpdkStatic32,
    /// The same, 256 packets a burst.
    DpdkStatic256,
    /// DPDK in shared libraries as Debian has it, 32 packets a burst.
    DpdkShared32,
    /// The same, 256 packets a burst.
    DpdkShared256,
    /// devrx with the rule `any`.
    DevrxAny,
    /// devrx with a rule that needs each header to be looked at.
    DevrxRule,
    /// What is not to be counted.
    Nothing,
    /// DPDK's net_ice, 32 packets a burst.
    DpdkIce32,
    /// The same, 256 packets a burst.
    DpdkIce256,
    /// The same with headers split off, 32 packets a burst.
    DpdkIceSplit32,
    /// The same, 256 packets a burst.
    DpdkIceSplit256,
}

impl Section {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::DpdkStatic32,
        Self::DpdkStatic256,
        Self::DpdkShared32,
        Self::DpdkShared256,
        Self::DevrxAny,
        Self::DevrxRule,
        Self::Nothing,
        Self::DpdkIce32,
        Self::DpdkIce256,
        Self::DpdkIceSplit32,
        Self::DpdkIceSplit256,
    ];

    /// Executes the section's marker.
    pub fn begin(self) {
        match self {
            Self::DpdkStatic32 => mark::<64>(),
            Self::DpdkStatic256 => mark::<65>(),
            Self::DpdkShared32 => mark::<66>(),
            Self::DpdkShared256 => mark::<67>(),
            Self::DevrxAny => mark::<68>(),
            Self::DevrxRule => mark::<69>(),
            Self::Nothing => mark::<70>(),
            Self::DpdkIce32 => mark::<71>(),
            Self::DpdkIce256 => mark::<72>(),
            Self::DpdkIceSplit32 => mark::<73>(),
            Self::DpdkIceSplit256 => mark::<74>(),
        }
    }

    fn of(id: u8) -> Option<Self> {
        Self::ALL.get(usize::from(id.checked_sub(64)?)).copied()
    }
}

/// Before DPDK's loop, as `dpdk_rx.c` has it.
const DPDK_BEGINS: u8 = 1;
/// After it.
const DPDK_ENDS: u8 = 2;
/// The worker's markers, as `tools/daemon/src/worker/marks.rs` has them: before the queue is polled, and after each phase.
const LOOK: u8 = 16;
const PHASES: [(u8, &str); 4] = [
    (17, "receive"),
    (19, "publish"),
    (20, "refill"),
    (21, "count"),
];
/// Before the client takes packets.
pub const CLIENT_BEGINS: u8 = 32;
/// It has given them back.
pub const CLIENT_ENDS: u8 = 33;

/// A marker, `0f 1f 84 00 ID 00 54 51`: a no-operation of eight bytes, for `bench/mark.c`.
#[inline(always)]
pub fn mark<const ID: u8>() {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a no-operation.
    unsafe {
        std::arch::asm!(
            ".byte 0x0f, 0x1f, 0x84, 0x00, {id}, 0x00, 0x54, 0x51",
            id = const ID,
            options(nostack, preserves_flags)
        );
    }
}

/// The instructions of one section: a number a round.
#[derive(Debug, Default, Clone)]
pub struct Counted {
    /// Of the receiver: DPDK's loop, or devrx's worker.
    pub receiver: Vec<u64>,
    /// Of devrx's client.
    pub client: Vec<u64>,
    /// Of the phases of devrx's worker.
    pub phases: BTreeMap<&'static str, Vec<u64>>,
}

/// Reads what the plugin wrote: `mark ID VCPU TOTAL DELTA` lines.
#[must_use]
pub fn read(text: &str) -> BTreeMap<Section, Counted> {
    let mut sections: BTreeMap<Section, Counted> = BTreeMap::new();
    let mut section = Section::Nothing;
    let mut worker = Worker::default();
    for line in text.lines() {
        let mut words = line.split(' ');
        let (Some("mark"), Some(id)) = (words.next(), words.next()) else {
            continue;
        };
        let (Ok(id), Some(Ok(delta))) = (id.parse::<u8>(), words.nth(2).map(str::parse::<u64>))
        else {
            continue;
        };
        if let Some(next) = Section::of(id) {
            section = next;
            worker = Worker::default();
            continue;
        }
        let counted = sections.entry(section).or_default();
        match id {
            DPDK_ENDS => counted.receiver.push(delta),
            CLIENT_BEGINS => worker.end_round(counted),
            CLIENT_ENDS => counted.client.push(delta),
            DPDK_BEGINS => {}
            _ => worker.mark(id, delta),
        }
    }
    sections.remove(&Section::Nothing);
    sections
}

/// What one round cost the worker: from the look that found the first packets to the end of the pass that found the last.
#[derive(Debug, Default)]
struct Worker {
    phases: BTreeMap<&'static str, u64>,
    /// From the end of a pass to the next look: counted if that look finds something.
    between: u64,
    passed: bool,
}

impl Worker {
    fn mark(&mut self, id: u8, delta: u64) {
        if id == LOOK {
            self.between = if self.passed { delta } else { 0 };
            self.passed = false;
            return;
        }
        let Some((_, phase)) = PHASES.iter().find(|(phase, _)| *phase == id) else {
            return;
        };
        if *phase == "receive" {
            *self.phases.entry("loop").or_default() += std::mem::take(&mut self.between);
        }
        *self.phases.entry(phase).or_default() += delta;
        self.passed = *phase == "count";
    }

    fn end_round(&mut self, counted: &mut Counted) {
        let phases = std::mem::take(self).phases;
        counted.receiver.push(phases.values().sum());
        for (phase, count) in phases {
            counted.phases.entry(phase).or_default().push(count);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two passes of the worker, then looks that find nothing, then the client.
    #[test]
    fn a_round_is_what_its_packets_cost_and_not_the_waiting() {
        let text = "mark 68 0 0 5\nmark 16 0 0 900\nmark 17 0 0 150\nmark 19 0 0 5\nmark 20 0 0 40\nmark 21 0 0 3\n\
                    mark 16 0 0 7\nmark 17 0 0 150\nmark 19 0 0 5\nmark 20 0 0 40\nmark 21 0 0 3\n\
                    mark 16 0 0 7\nmark 16 0 0 60\nmark 16 0 0 60\nmark 32 0 0 7777\nmark 33 0 0 99\n";
        let counted = &read(text)[&Section::DevrxAny];
        assert_eq!(counted.receiver, [2 * 198 + 7]);
        assert_eq!(counted.client, [99]);
        assert_eq!(counted.phases["loop"], [7]);
        assert_eq!(counted.phases["receive"], [300]);
    }

    #[test]
    fn dpdk_counts_between_its_two_markers() {
        let text = "mark 64 0 0 1\nmark 1 0 0 500\nmark 2 0 0 80\nmark 65 0 0 9\nmark 1 0 0 5\nmark 2 0 0 70\n";
        let sections = read(text);
        assert_eq!(sections[&Section::DpdkStatic32].receiver, [80]);
        assert_eq!(sections[&Section::DpdkStatic256].receiver, [70]);
    }
}
