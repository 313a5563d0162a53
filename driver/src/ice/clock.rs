//! The card's clock: source timers, which software reads, and timers of the PHY, which stamp packets. One command sets and starts both.
//!
//! The order is that of `ice_timesync_enable` in DPDK's `ice_ethdev.c`, with the semaphore held for all of it; the steps are the E810's in its `base/ice_ptp_hw.c`. The clock begins
//! with `CLOCK_REALTIME`, as both drivers have it, and is not slewed from then on: what its stamps are in `CLOCK_REALTIME` is [`Clock`](crate::clock::Clock)'s matter.
//!
//! It is set up for the first queue that asks for its stamps since this driver opened or reset the function. A clock that runs is set anew then, as after a reset of the
//! function, which leaves it running: whether source timer and PHY are still together nobody can tell by reading. To another function that reads it this is a jump.
//!
//! One function of the card owns a timer. Where that is another, whoever drives that function runs it, and it is only read here.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::admin::{Admin, phy};
use super::regs::{
    GLTSYN_CMD, GLTSYN_CMD_SYNC, GLTSYN_CMD_SYNC_EXECUTE, GLTSYN_ENA, GLTSYN_ENA_ON,
    GLTSYN_SHADJ_H, GLTSYN_SHADJ_L, GLTSYN_SHTIME_0, GLTSYN_SHTIME_H, GLTSYN_SHTIME_L, GLTSYN_STAT,
    GLTSYN_SYNC_DLAY, GLTSYN_TIME_H, GLTSYN_TIME_L, PF_FUNC_RID, PF_FUNC_RID_NUMBER, PFTSYN_SEM,
    PFTSYN_SEM_BUSY, clock_command,
};
use super::shared::Shared;
use crate::DriverError;
use crate::clock::real;
use crate::device::{Device, Registers};
use crate::ring::{pause, wait};

/// What a tick of the card's 812.5 MHz adds, nanoseconds in parts of 2^-32 (`ICE_PTP_NOMINAL_INCVAL_E810`).
const INCREMENT: u64 = 0x1_3b13_b13b;
/// How long another function may hold the semaphore.
const SEMAPHORE_PATIENCE: Duration = Duration::from_millis(250);
/// How long a clock is watched to see whether it runs, and the most that it may show then: it may be watched for longer than that.
const WATCH: Duration = Duration::from_millis(2);
const WATCHED: u64 = 10_000_000_000;

/// The timer that this function's stamps are of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Timer {
    /// Which of the card's two.
    pub index: u32,
    /// It is this function's to run.
    pub owned: bool,
}

impl Timer {
    /// By the number of capability 0x46 (`ICE_TS_*` in DPDK's `ice_type.h`); `None` without a clock.
    pub(super) const fn of_capability(number: u32) -> Option<Self> {
        let (there, owned) = (number & 1 << 0 != 0, number & 1 << 1 != 0);
        // Which is owned, and which is used.
        let index = if owned { number >> 4 } else { number >> 24 } & 1;
        if there {
            Some(Self { index, owned })
        } else {
            None
        }
    }
}

/// What the timer shows, nanoseconds; `None` where the device does not answer.
pub(super) fn read<R: Registers>(registers: &R, timer: u32) -> Option<u64> {
    // The high half changes every four seconds: not twice in a row.
    for _ in 0..3 {
        let high = registers.read32(GLTSYN_TIME_H.at(timer));
        let low = registers.read32(GLTSYN_TIME_L.at(timer));
        if registers.read32(GLTSYN_TIME_H.at(timer)) == high {
            return (high != u32::MAX || low != u32::MAX)
                .then_some(u64::from(high) << 32 | u64::from(low));
        }
    }
    None
}

impl<D: Device> Shared<D> {
    /// Relates what the clock shows to `CLOCK_REALTIME`, if somebody wants its stamps.
    pub(super) fn relate(&self) {
        let timer = self.timer.load(Ordering::Relaxed);
        let nic = self.device.address();
        self.clock.relate(nic, || read(&*self.registers, timer));
    }
}

/// Has the clock run: sets it up where it is this function's, and sees that it does. Under the control lock.
pub(super) fn start<D: Device>(
    shared: &Shared<D>,
    admin: &mut Admin<D::Registers>,
    timer: Timer,
) -> Result<(), DriverError> {
    if timer.owned {
        let Some(_held) = Semaphore::take(shared) else {
            return Err(unsupported(
                shared,
                "another function of the card holds the clock's semaphore and does not give it back; see what drives the card's other ports, or turn the machine off and on",
            ));
        };
        set_up(shared, admin, timer.index)?;
    }
    if runs(shared, timer.index) {
        shared.timer.store(timer.index, Ordering::Relaxed);
        shared.clock.start();
        shared.relate();
        return Ok(());
    }
    Err(unsupported(
        shared,
        if timer.owned {
            "the clock was set up and does not run; see that the card's firmware is current"
        } else {
            "the clock is another function's of the card, and nobody runs it: have a driver with a PTP clock on the port that owns it (Linux's ice), or bind that port"
        },
    ))
}

/// Why there can be none.
pub(super) const NONE: &str = "its firmware says that the function has no clock (capability 0x46); see whether the card's configuration turns PTP off";

/// The reason, and what does without.
pub(super) fn without(why: &str) -> String {
    format!(
        "{why}; or attach without `--timestamps nic`, and packets carry the time at which they were taken from the ring"
    )
}

/// Why there are no stamps, and what to do.
pub(super) fn unsupported<D: Device>(shared: &Shared<D>, why: &str) -> DriverError {
    DriverError::Unsupported {
        nic: shared.device.address().to_owned(),
        driver: "ice".to_owned(),
        what: "stamp packets with its own clock",
        why: without(why),
    }
}

/// It is on, and its time goes on.
fn runs<D: Device>(shared: &Shared<D>, timer: u32) -> bool {
    let registers = &*shared.registers;
    let enabled = shared.read(GLTSYN_ENA.at(timer));
    if enabled == u32::MAX || enabled & GLTSYN_ENA_ON == 0 {
        return false;
    }
    let before = read(registers, timer);
    pause(WATCH);
    let after = read(registers, timer);
    (before.zip(after))
        .is_some_and(|(before, after)| (1..WATCHED).contains(&after.wrapping_sub(before)))
}

/// Sets source timer and PHY. The semaphore is held.
fn set_up<D: Device>(
    shared: &Shared<D>,
    admin: &mut Admin<D::Registers>,
    timer: u32,
) -> Result<(), DriverError> {
    let refused = |error| shared.refused(error);
    shared.write(GLTSYN_ENA.at(timer), GLTSYN_ENA_ON);
    // Forgets what its pins have seen.
    shared.read(GLTSYN_STAT.at(timer));
    shared.write(GLTSYN_SYNC_DLAY, 0);
    admin
        .write_phy(phy::enable(timer), GLTSYN_ENA_ON)
        .map_err(refused)?;

    let (low, high) = (INCREMENT as u32, (INCREMENT >> 32) as u32);
    shared.write(GLTSYN_SHADJ_L.at(timer), low);
    shared.write(GLTSYN_SHADJ_H.at(timer), high);
    admin
        .write_phy(phy::adjust_low(timer), low)
        .map_err(refused)?;
    admin
        .write_phy(phy::adjust_high(timer), high)
        .map_err(refused)?;
    execute(shared, admin, timer, clock_command::INIT_INCREMENT)?;

    let now = real();
    let (low, high) = (now as u32, (now >> 32) as u32);
    shared.write(GLTSYN_SHTIME_L.at(timer), low);
    shared.write(GLTSYN_SHTIME_H.at(timer), high);
    shared.write(GLTSYN_SHTIME_0.at(timer), 0);
    // Its own has 32 bits of nanoseconds.
    admin
        .write_phy(phy::time_fraction(timer), 0)
        .map_err(refused)?;
    admin
        .write_phy(phy::time_low(timer), low)
        .map_err(refused)?;
    execute(shared, admin, timer, clock_command::INIT_TIME)
}

/// Has source timer and PHY do what was prepared, both at once.
fn execute<D: Device>(
    shared: &Shared<D>,
    admin: &mut Admin<D::Registers>,
    timer: u32,
    command: u32,
) -> Result<(), DriverError> {
    shared.write(GLTSYN_CMD, timer << clock_command::TIMER_SHIFT | command);
    admin
        .write_phy(phy::COMMAND, command)
        .map_err(|error| shared.refused(error))?;
    shared.write(GLTSYN_CMD_SYNC, GLTSYN_CMD_SYNC_EXECUTE);
    // The answer to a read comes behind the write.
    shared.read(GLTSYN_CMD_SYNC);
    Ok(())
}

/// Held while this function drives the timers; given back when dropped.
struct Semaphore<'a, D: Device> {
    shared: &'a Shared<D>,
    register: u32,
}

impl<'a, D: Device> Semaphore<'a, D> {
    /// Reading takes it, if nobody has it. `None` if it could not be had in time.
    fn take(shared: &'a Shared<D>) -> Option<Self> {
        let register = PFTSYN_SEM.at(shared.read(PF_FUNC_RID) & PF_FUNC_RID_NUMBER);
        wait(SEMAPHORE_PATIENCE, || {
            shared.read(register) & PFTSYN_SEM_BUSY == 0
        })
        .then_some(Self { shared, register })
    }
}

impl<D: Device> Drop for Semaphore<'_, D> {
    fn drop(&mut self) {
        self.shared.write(self.register, 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_capability_says_which_timer_and_whose() {
        let of = Timer::of_capability;
        assert_eq!(of(0), None);
        let timer = |index, owned| Some(Timer { index, owned });
        assert_eq!(of(0x7), timer(0, true));
        assert_eq!(of(0x0100_0017), timer(1, true));
        assert_eq!(of(0x0100_0005), timer(1, false));
        assert_eq!(of(0x15), timer(0, false), "an index that is not owned");
    }
}
