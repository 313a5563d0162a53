//! Flow Director: filters that are programmed with a descriptor and a packet that shows what they match.
//!
//! Descriptor and status: DPDK `ice_lan_tx_rx.h` (`ICE_FXD_FLTR_*`); how a profile's words, their swapping and masks are set up: `ice_update_fd_swap` in
//! `ice_flex_pipe.c`.

use std::collections::BTreeMap;

use super::fields;
use crate::bytes;
use crate::fault::Fault;
use crate::frame::Frame;
use crate::regs;
use crate::rx::{Choice, DESCRIPTOR};
use crate::state::State;
use crate::switch::Direction;

const REPORT_FAILURES: u64 = 1;
const REPORT_ALL: u64 = 2;

/// A filter descriptor of a transmit ring.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Program {
    low: u64,
    high: u64,
}

impl Program {
    pub(crate) fn new(low: u64, high: u64) -> Self {
        Self { low, high }
    }

    fn low(self, at: u32, width: u32) -> u64 {
        self.low >> at & ((1 << width) - 1)
    }

    fn high(self, at: u32, width: u32) -> u64 {
        self.high >> at & ((1 << width) - 1)
    }

    fn removes(self) -> bool {
        self.high(4, 1) == 1
    }

    fn vsi(self) -> u16 {
        self.high(14, 10) as u16
    }

    /// The packet is one of the flow as it is sent: words change places. It is so with the bit clear, as both drivers program.
    fn swaps(self) -> bool {
        self.high(24, 1) == 0
    }
}

/// What a filter does.
#[derive(Clone, Copy, Debug)]
struct Filter {
    /// Of the VSI; 2^`region` queues from there on.
    queue: u16,
    region: u8,
    drop: bool,
    flow: u32,
    /// Counter, and what is counted: bit 0 packets, bit 1 bytes.
    counter: u32,
    counts: u8,
}

/// The filter table, by VSI, profile and words.
#[derive(Debug, Default)]
pub(crate) struct Filters {
    table: BTreeMap<(u16, u8, Vec<u16>), Filter>,
}

/// Why a filter was not programmed: for the status descriptor and the log.
enum Failed {
    Filter(String),
    Profile(String),
}

impl State {
    /// Flow Director filters go.
    pub(crate) fn clear_filters(&mut self) {
        self.filters = Filters::default();
        self.count_filters();
    }

    fn count_filters(&mut self) {
        let count = self.filters.table.len() as u32;
        self.regs.set(regs::PFQF_FD_CNT, count);
    }

    /// The words of a packet that a profile compares; none if the profile compares nothing.
    fn compared(&self, profile: u8, frame: &Frame<'_>, swap: bool) -> Option<Vec<u16>> {
        let vector = self.package.director.vector(profile);
        let words = fields::words(vector, frame, Direction::Receive);
        let mut out = Vec::new();
        for i in 0..words.len() {
            if self.byte_of(regs::GLQF_FDINSET, profile, i) & 0x80 == 0 {
                continue;
            }
            let swapped = self.byte_of(regs::GLQF_FDSWAP, profile, i);
            let from = if swap && swapped & 0x80 != 0 {
                usize::from(swapped & 0x1f)
            } else {
                i
            };
            let mask = self.mask(regs::GLQF_FDMASK, regs::GLQF_FDMASK_SEL, profile, i);
            out.push(words.get(from).copied().unwrap_or(0) & mask);
        }
        // Words that no protocol has are compared as zeros; with none of a protocol there is nothing to match.
        let any = vector
            .iter()
            .any(|word| fields::value(*word, frame, Direction::Receive).is_some());
        any.then_some(out).filter(|words| !words.is_empty())
    }

    /// A filter is programmed by a VSI, with a packet that shows what it matches.
    pub(crate) fn program(&mut self, by: u16, program: Program, packet: &[u8]) {
        let outcome = self.try_program(by, program, packet);
        let failed = outcome.is_err();
        let profile_failed = matches!(outcome, Err(Failed::Profile(_)));
        if let Err(Failed::Filter(why) | Failed::Profile(why)) = outcome {
            self.refuse(format!("a Flow Director filter: {why}"));
        }
        self.count_filters();
        let report = program.low(12, 2);
        if report == REPORT_ALL || report == REPORT_FAILURES && failed {
            self.report(by, program, failed, profile_failed);
        }
    }

    fn try_program(&mut self, by: u16, program: Program, packet: &[u8]) -> Result<(), Failed> {
        let refused = |why: &str| Err(Failed::Filter(why.to_owned()));
        if !self.vsis.get(&by).is_some_and(|vsi| vsi.flow_director().1) {
            return refused(
                "the VSI that sent it may not program filters (its context, bit 3 of the options)",
            );
        }
        let number = program.vsi();
        let Some(vsi) = self.vsis.get(&number) else {
            return Err(Failed::Filter(format!("VSI {number} is not there")));
        };
        if !self.package.is_loaded() {
            return refused("no package is loaded");
        }
        let frame = Frame::parse(packet);
        let profile = self.package.director.profile(frame.packet_type(), number);
        let Some(words) = self.compared(profile, &frame, program.swaps()) else {
            return Err(Failed::Profile(format!(
                "profile {profile}, of packet type {} for VSI {number}, compares nothing",
                frame.packet_type()
            )));
        };
        let key = (number, profile, words);
        if program.removes() {
            return match self.filters.table.remove(&key) {
                Some(_) => Ok(()),
                None => refused("there is no such filter to remove"),
            };
        }
        let queue = program.low(0, 11) as u16;
        let region = program.low(32, 3) as u8;
        let drop = program.low(40, 1) == 1;
        if !drop && vsi.queue(queue).is_none() {
            return Err(Failed::Filter(format!("VSI {number} has no queue {queue}")));
        }
        let (guaranteed, shared) = self.card.flow_director;
        let full = self.filters.table.len() >= usize::from(guaranteed) + usize::from(shared);
        if full && !self.filters.table.contains_key(&key) {
            return refused("the table is full");
        }
        self.filters.table.insert(
            key,
            Filter {
                queue,
                region,
                drop,
                flow: program.high(32, 32) as u32,
                counter: program.low(16, 13) as u32,
                counts: program.low(29, 2) as u8,
            },
        );
        Ok(())
    }

    /// Writes what became of a filter to a receive queue of the VSI that programmed it.
    fn report(&mut self, by: u16, program: Program, failed: bool, profile: bool) {
        let index = if program.low(11, 1) == 1 {
            program.low(0, 11) as u16
        } else {
            0
        };
        let Some(queue) = self.vsis.get(&by).and_then(|vsi| vsi.queue(index)) else {
            return;
        };
        let number = u32::from(queue);
        let Some(running) = self.rx.get(&number) else {
            return;
        };
        let (base, head, len) = (running.context.base, running.head, running.context.len);
        let tail = self.regs.get(regs::QRX_TAIL + number * 4) as u16;
        if head == tail {
            return;
        }
        let mut status = [0; DESCRIPTOR];
        let word = 1
            | u64::from(program.removes()) << 1
            | u64::from(failed && !profile) << 4
            | u64::from(profile) << 5;
        bytes::put64(&mut status, 8, word);
        let at = base + u64::from(head) * DESCRIPTOR as u64;
        if let Err(error) = self.dma_write(at, &status) {
            self.refuse(format!(
                "receive queue {number}: a filter's status: {error}"
            ));
        }
        if let Some(running) = self.rx.get_mut(&number) {
            running.head = (head + 1) % len;
        }
        self.cause(regs::QINT_RQCTL + number * 4);
    }

    /// A filter may choose a packet's queue.
    pub(super) fn direct(&mut self, number: u16, frame: &Frame<'_>, choice: &mut Choice) {
        let enabled = self.regs.get(regs::PFQF_FD_ENA) & 1 != 0
            && self.fault != Fault::NoFlowDirector
            && !self.filters.table.is_empty();
        let Some(vsi) = self.vsis.get(&number) else {
            return;
        };
        if !enabled || !vsi.flow_director().0 {
            return;
        }
        let profile = self.package.director.profile(frame.packet_type(), number);
        let Some(words) = self.compared(profile, frame, false) else {
            return;
        };
        let Some(filter) = self.filters.table.get(&(number, profile, words)).copied() else {
            return;
        };
        let spread = choice.hash.unwrap_or(0) & ((1 << filter.region) - 1);
        if let Some(queue) = vsi.queue(filter.queue.saturating_add(spread as u16)) {
            choice.queue = queue;
        }
        choice.flow = Some(filter.flow);
        choice.drop = filter.drop;
        let counter = regs::GLSTAT_FD_CNT0 + (filter.counter & 0xfff) * 8;
        match filter.counts {
            0 => {}
            2 => self.add40(counter, frame.bytes.len() as u64),
            _ => self.add40(counter, 1),
        }
    }
}
