//! The card's clock: a source timer that software reads, and the PHY's timer, which stamps packets. Both are set and started by one command, so that they
//! show the same; from then on each counts by itself.
//!
//! Registers: DPDK `ice_hw_autogen.h` (GLTSYN_*, PFTSYN_SEM). Commands, the PHY's registers and the order of things: `ice_ptp_hw.c` and `ice_ptp_hw.h`, the functions for the
//! E810. What the silicon does where a driver leaves that order no source says: the model refuses the command and carries nothing out.

mod counter;
mod phy;

use std::time::{Duration, Instant};

use counter::{Counter, INCREMENT};
use phy::Phy;
pub(crate) use phy::{NEIGHBOUR, message};

use crate::fault::Fault;
use crate::personality::ClockOwner;
use crate::regs;
use crate::state::State;

/// Timers that the card has.
pub(crate) const TIMERS: u32 = 2;
/// What drivers give an E810 for each tick: 1 / 0.8125 nanoseconds.
const NOMINAL: u64 = 0x1_3b13_b13b;
/// What the stamps of another timer are ahead, in the fault of that name: nanoseconds.
const ASTRAY: u64 = 1_500_000_000;

/// Commands, of the source timer and of the PHY alike.
const INIT_TIME: u32 = 1;
const INIT_INCREMENT: u32 = 1 << 1;
const INIT_BOTH: u32 = INIT_TIME | INIT_INCREMENT;
const ADJUST: u32 = 1 << 2;
const READ_TIME: u32 = 1 << 7;
/// What GLTSYN_CMD_SYNC takes.
const EXECUTE: u32 = 3;
const ENABLE: u32 = 1;
const SEMAPHORE_BUSY: u32 = 1;

/// When a packet came, as its descriptor tells it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Stamp {
    /// Bit 0: it is valid. Above that seven bits of a nanosecond's fraction.
    pub(crate) low: u8,
    /// The lower half of the nanoseconds.
    pub(crate) high: u32,
}

/// One of the timers.
#[derive(Debug, Default)]
struct Timer {
    source: Counter,
    phy: Counter,
    /// Source and PHY were set to the same, by one command.
    together: bool,
}

/// All of the clock.
#[derive(Debug)]
pub(crate) struct Clock {
    begun: Instant,
    timers: [Timer; TIMERS as usize],
    phy: Phy,
    /// The function has taken the semaphore.
    held: bool,
    /// When the packet came from the wire that is on its way.
    pub(crate) arrival: Option<Stamp>,
}

impl Clock {
    pub(crate) fn new(owner: ClockOwner) -> Self {
        let mut clock = Self {
            begun: Instant::now(),
            timers: <[Timer; TIMERS as usize]>::default(),
            phy: Phy::default(),
            held: false,
            arrival: None,
        };
        clock.reset(owner);
        clock
    }

    /// With the core. Another function that has the timer starts it again.
    pub(crate) fn reset(&mut self, owner: ClockOwner) {
        self.timers = <[Timer; TIMERS as usize]>::default();
        self.phy = Phy::default();
        self.held = false;
        let now = self.now();
        if let ClockOwner::Other { timer, runs: true } = owner
            && let Some(timer) = self.timers.get_mut(usize::from(timer))
        {
            for counter in [&mut timer.source, &mut timer.phy] {
                counter.set_increment(NOMINAL, now);
                counter.turn(true, now);
            }
            timer.together = true;
        }
    }

    /// With the function.
    pub(crate) const fn function_reset(&mut self) {
        self.held = false;
    }

    fn now(&self) -> Duration {
        self.begun.elapsed()
    }
}

/// What a register shows of a counter.
type Read = fn(&Counter, Duration) -> u32;

/// Which register of which timer an offset is: arrays of two words each.
fn of_timer(offset: u32, base: u32) -> Option<usize> {
    regs::index(offset, base, TIMERS).map(|timer| timer as usize)
}

impl State {
    /// The time that counters have reached; where it stands still, that of the beginning.
    fn clock_now(&self) -> Duration {
        match self.fault {
            Fault::ClockStands => Duration::ZERO,
            _ => self.clock.now(),
        }
    }

    /// A register of the clock is read; `None` if it is none with a will of its own.
    pub(crate) fn read_clock(&mut self, offset: u32) -> Option<u32> {
        if offset == regs::PFTSYN_SEM {
            let busy = self.clock.held || self.fault == Fault::SemaphoreHeld;
            self.clock.held |= !busy;
            // The function that has it: this one, 0, or the fault's.
            let holder = if self.fault == Fault::SemaphoreHeld {
                1
            } else {
                0
            };
            return Some(if busy {
                SEMAPHORE_BUSY | holder << 4
            } else {
                0
            });
        }
        if !(regs::GLTSYN_FIRST..=regs::GLTSYN_LAST).contains(&offset) {
            return None;
        }
        let now = self.clock_now();
        let source = |timer: usize| &self.clock.timers[timer].source;
        let reads: [(u32, Read); 6] = [
            (regs::GLTSYN_ENA, |source, _| source.is_on().into()),
            (regs::GLTSYN_TIME_0, |source, now| source.shows(now) as u32),
            (regs::GLTSYN_TIME_L, |source, now| {
                source.nanoseconds(now) as u32
            }),
            (regs::GLTSYN_TIME_H, |source, now| {
                (source.nanoseconds(now) >> 32) as u32
            }),
            (regs::GLTSYN_INCVAL_L, |source, _| source.increment() as u32),
            (regs::GLTSYN_INCVAL_H, |source, _| {
                (source.increment() >> 32) as u32
            }),
        ];
        reads
            .iter()
            .find_map(|(base, read)| Some(read(source(of_timer(offset, *base)?), now)))
    }

    /// A register of the clock is written; false if it is plain storage.
    pub(crate) fn write_clock(&mut self, offset: u32, value: u32) -> bool {
        if offset == regs::PFTSYN_SEM {
            if !std::mem::take(&mut self.clock.held) {
                self.refuse("PFTSYN_SEM is written by a function that does not hold it".to_owned());
            }
            return true;
        }
        if !(regs::GLTSYN_FIRST..=regs::GLTSYN_LAST).contains(&offset) {
            return false;
        }
        if let Err(why) = self.owns_clock() {
            self.refuse(format!(
                "GLTSYN: register {offset:#x} is written, and {why}"
            ));
            return true;
        }
        if let Some(timer) = of_timer(offset, regs::GLTSYN_ENA) {
            let now = self.clock_now();
            self.clock.timers[timer]
                .source
                .turn(value & ENABLE != 0, now);
            return true;
        }
        if offset == regs::GLTSYN_CMD_SYNC {
            if let Err(why) = self.execute(value) {
                self.refuse(format!("GLTSYN_CMD_SYNC: nothing is done: {why}"));
            }
            return true;
        }
        // Read-only: what the timers show.
        [
            regs::GLTSYN_TIME_0,
            regs::GLTSYN_TIME_L,
            regs::GLTSYN_TIME_H,
            regs::GLTSYN_INCVAL_L,
            regs::GLTSYN_INCVAL_H,
        ]
        .into_iter()
        .any(|base| of_timer(offset, base).is_some())
    }

    /// Whether the function may drive the timer; why not.
    fn owns_clock(&self) -> Result<(), &'static str> {
        match self.card.clock {
            ClockOwner::This(_) => Ok(()),
            ClockOwner::Other { .. } => Err("the timer is another function's"),
            ClockOwner::None => Err("the function has no timer (capability 0x46)"),
        }
    }

    /// The prepared command happens, to source timer and PHY at once.
    fn execute(&mut self, value: u32) -> Result<(), String> {
        if value != EXECUTE {
            return Err(format!("{value:#x} is written, {EXECUTE} is taken"));
        }
        let prepared = self.regs.get(regs::GLTSYN_CMD);
        let (command, number) = (prepared & 0xff, (prepared >> 8 & 1) as usize);
        let of_phy = self.clock.phy.command();
        if command != of_phy {
            return Err(format!(
                "the source timer's command is {command:#x} and the PHY's is {of_phy:#x}: they would part"
            ));
        }
        let timer = &self.clock.timers[number];
        for (counter, what) in [
            (&timer.source, "GLTSYN_ENA"),
            (&timer.phy, "ETH_GLTSYN_ENA, in the PHY"),
        ] {
            if !counter.is_on() {
                return Err(format!("timer {number} is not enabled ({what})"));
            }
        }
        let word = |base: u32| self.regs.get(base + number as u32 * 4);
        let time =
            u64::from(word(regs::GLTSYN_SHTIME_H)) << 32 | u64::from(word(regs::GLTSYN_SHTIME_L));
        let time = u128::from(time) << 32 | u128::from(word(regs::GLTSYN_SHTIME_0));
        let adjust =
            u64::from(word(regs::GLTSYN_SHADJ_H)) << 32 | u64::from(word(regs::GLTSYN_SHADJ_L));
        let (phy_time, phy_adjust) = (self.clock.phy.time(number), self.clock.phy.adjust(number));
        if command & INIT_TIME != 0 && time as u64 != phy_time {
            return Err(format!(
                "the PHY would be set to {phy_time:#x} and the source timer to {:#x}",
                time as u64
            ));
        }
        if command & (INIT_INCREMENT | ADJUST) != 0 && adjust != phy_adjust {
            return Err(format!(
                "the PHY would change by {phy_adjust:#x} and the source timer by {adjust:#x}"
            ));
        }
        let now = self.clock_now();
        let timer = &mut self.clock.timers[number];
        if command == READ_TIME {
            let shows = timer.source.shows(now);
            for (base, shift) in [
                (regs::GLTSYN_SHTIME_0, 0),
                (regs::GLTSYN_SHTIME_L, 32),
                (regs::GLTSYN_SHTIME_H, 64),
            ] {
                self.regs
                    .set(base + number as u32 * 4, (shows >> shift) as u32);
            }
            return Ok(());
        }
        if !matches!(command, 0 | INIT_TIME | INIT_INCREMENT | INIT_BOTH | ADJUST) {
            return Err(format!("command {command:#x} is not modelled"));
        }
        if command & INIT_INCREMENT != 0 {
            if adjust & INCREMENT == 0 {
                return Err("an increment of 0 does not count".to_owned());
            }
            timer.source.set_increment(adjust, now);
            timer.phy.set_increment(adjust, now);
        }
        if command & INIT_TIME != 0 {
            if !timer.source.runs() || !timer.phy.runs() {
                return Err(format!("timer {number} is to begin, and has no increment"));
            }
            timer.source.set(time, now);
            timer.phy.set(u128::from(phy_time), now);
            timer.together = true;
        }
        if command == ADJUST {
            timer.source.adjust(adjust as i64, now);
            timer.phy.adjust(adjust as i64, now);
        }
        Ok(())
    }

    /// A packet comes from the wire, and the PHY stamps it. What it says is valid only if the PHY was set together with the source timer, and both run.
    pub(crate) fn stamp(&self) -> Option<Stamp> {
        let timer = self
            .clock
            .timers
            .get(usize::from(self.card.clock.timer()?))?;
        if !timer.phy.is_on() {
            return None;
        }
        let shows = timer.phy.shows(self.clock_now());
        let mut nanoseconds = (shows >> 32) as u64;
        if self.fault == Fault::StampOfOtherTimer {
            nanoseconds = nanoseconds.wrapping_add(ASTRAY);
        }
        let valid = timer.together
            && timer.source.runs()
            && timer.phy.runs()
            && self.fault != Fault::StampInvalid;
        Some(Stamp {
            low: (shows >> 24) as u8 & 0xfe | u8::from(valid),
            high: nanoseconds as u32,
        })
    }
}
