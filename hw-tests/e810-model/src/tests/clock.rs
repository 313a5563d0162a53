//! The clock: what starts it, what is refused, and the stamps.

use super::*;
use crate::{ClockOwner, Fault, Reset};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
const NOMINAL: u64 = 0x1_3b13_b13b;

const ENA: u32 = 0x8_8808;
const CMD: u32 = 0x8_8810;
const SYNC: u32 = 0x8_8814;
const SEM: u32 = 0x8_8880;
const TIME_L: u32 = 0x8_88d0;
const TIME_H: u32 = 0x8_88d8;
const SHTIME: [u32; 3] = [0x8_88e0, 0x8_88e8, 0x8_88f0];
const SHADJ: [u32; 2] = [0x8_8908, 0x8_8910];
const PHY_CMD: u32 = 0x0300_0344;
const PHY_ENA: u32 = 0x0300_0348;
const PHY_TIME: u32 = 0x0300_0368;
const PHY_ADJ: u32 = 0x0300_0378;

fn owned(timer: u8) -> Personality {
    Personality {
        clock: ClockOwner::This(timer),
        ..Personality::default()
    }
}

/// With a queue that asks for stamps, or does not.
fn ready(personality: Personality, stamps: bool) -> Driver {
    let mut driver = Driver::new(personality);
    let vsi = driver.add_vsi(0, 1);
    driver.add_mac(vsi, MAC);
    queue(&driver, stamps);
    driver
}

fn queue(driver: &Driver, stamps: bool) {
    let setup = Setup {
        rxdid: 2 | u32::from(stamps) << 11,
        ..Setup::default()
    };
    assert!(driver.start(0, setup), "{:?}", driver.card.refusals());
}

impl Driver {
    /// Sends a message as it is; the answer.
    fn message(&mut self, message: &[u8]) -> Answer {
        let mut params = [0; 16];
        params[..2].copy_from_slice(&(message.len() as u16).to_le_bytes());
        self.send(0x0c00, params, message, true)
    }

    fn packed(kind: u8, address: u32, value: u32) -> Vec<u8> {
        let mut message = vec![2, 0, kind, 0x40, 0x0f, 0];
        message.extend(address.to_le_bytes()[..2].iter());
        message.extend((address >> 16).to_le_bytes());
        if kind != 0 {
            message.extend(value.to_le_bytes());
        }
        message
    }

    fn phy(&mut self, address: u32, value: u32) {
        let answer = self.message(&Self::packed(1, address, value));
        assert_eq!(answer.code, 0, "{:?}", self.card.refusals());
    }

    /// Both of a pair of registers 4 bytes apart, as drivers write them.
    fn phy_pair(&mut self, address: u32, value: u64) {
        self.phy(address, value as u32);
        self.phy(address + 4, (value >> 32) as u32);
    }

    fn both_on(&mut self, timer: u32) {
        self.card.write32(ENA + timer * 4, 1);
        self.phy(PHY_ENA + timer * 4, 1);
    }

    fn command(&mut self, timer: u32, command: u32) {
        self.card.write32(CMD, timer << 8 | command);
        self.phy(PHY_CMD, command);
        self.card.write32(SYNC, 3);
    }

    fn prepare_adjust(&mut self, timer: u32, value: u64) {
        self.card.write32(SHADJ[0] + timer * 4, value as u32);
        self.card
            .write32(SHADJ[1] + timer * 4, (value >> 32) as u32);
        self.phy_pair(PHY_ADJ + timer * 32, value);
    }

    fn prepare_time(&mut self, timer: u32, time: u64) {
        for (register, value) in SHTIME
            .into_iter()
            .zip([0, time as u32, (time >> 32) as u32])
        {
            self.card.write32(register + timer * 4, value);
        }
        self.phy_pair(PHY_TIME + timer * 32, time << 32);
    }

    /// The order of DPDK's `ice_timesync_enable`.
    fn start_clock(&mut self, timer: u32, time: u64) {
        self.both_on(timer);
        self.prepare_adjust(timer, NOMINAL);
        self.command(timer, 2);
        assert_eq!(self.card.read32(SEM) & 1, 0);
        self.prepare_time(timer, time);
        self.command(timer, 1);
        self.card.write32(SEM, 0);
    }

    fn time(&self, timer: u32) -> u64 {
        loop {
            let [high, low, again] =
                [TIME_H, TIME_L, TIME_H].map(|register| self.card.read32(register + timer * 4));
            // Else the low half has begun anew between the two.
            if high == again {
                return u64::from(high) << 32 | u64::from(low);
            }
        }
    }

    /// The stamp of the next packet: whether it is valid, and its nanoseconds.
    fn stamp(&self, index: u64) -> (bool, u32) {
        assert!(self.card.receive(&udp(MAC, (1, 2), &[7; 64])));
        let descriptor = self.descriptor(0, index);
        let high = descriptor[28..].try_into().unwrap();
        (descriptor[19] & 1 != 0, u32::from_le_bytes(high))
    }

    fn refused(&self) -> String {
        self.card.refusals().pop().unwrap_or_default()
    }
}

#[test]
fn capabilities_say_who_has_the_timer() {
    for (owner, function, device) in [
        (ClockOwner::None, None, None),
        (ClockOwner::This(0), Some(0x7), Some(0x0300_0008)),
        (ClockOwner::This(1), Some(0x0100_0017), Some(0x0500_0080)),
        (
            ClockOwner::Other {
                timer: 1,
                runs: true,
            },
            Some(0x0100_0005),
            Some(0x0500_0090),
        ),
    ] {
        let mut driver = Driver::new(Personality {
            clock: owner,
            ..Personality::default()
        });
        for (opcode, number) in [(0x000a, function), (0x000b, device)] {
            let answer = driver.done(opcode, [0; 16], &[0; 4096]);
            let mut elements = answer.buffer.chunks_exact(32);
            let found = elements.find(|element| element[..2] == [0x46, 0]);
            let found = found.map(|element| u32::from_le_bytes(element[4..8].try_into().unwrap()));
            assert_eq!(found, number, "{owner:?} {opcode:#x}");
        }
    }
}

#[test]
fn a_clock_that_was_started_in_order_stamps_packets() {
    for timer in [0, 1] {
        let mut driver = ready(owned(timer as u8), true);
        driver.start_clock(timer, 0x12_ffff_0000);
        let mut last = 0;
        for index in 0..3 {
            let before = driver.time(timer);
            let (valid, stamp) = driver.stamp(index);
            let after = driver.time(timer);
            assert!(valid && before >= 0x12_ffff_0000);
            let since = stamp.wrapping_sub(before as u32);
            assert!(u64::from(since) <= after - before, "{since}");
            assert!(before > last);
            last = before;
        }
        let refusals = driver.card.refusals();
        assert!(refusals.is_empty(), "{refusals:?}");
    }
}

#[test]
fn the_clock_is_adjusted_forward_and_back() {
    let mut driver = ready(owned(0), true);
    driver.start_clock(0, 1_000_000_000_000);
    for (by, least) in [
        (1_500_000_000_i64, 1_001_500_000_000),
        (-1_000_000_000, 1_000_500_000_000),
    ] {
        driver.prepare_adjust(0, (by << 32) as u64);
        driver.command(0, 4);
        let time = driver.time(0);
        assert!((least..least + 500_000_000).contains(&time), "{time}");
        let (valid, stamp) = driver.stamp(u64::from(by < 0));
        assert!(valid && stamp.wrapping_sub(time as u32) < 500_000_000);
    }
    assert!(driver.card.refusals().is_empty());
}

#[test]
fn what_is_out_of_order_is_refused_and_makes_no_stamp_valid() {
    type Mistake = fn(&mut Driver);
    let mistakes: [(&str, Mistake); 8] = [
        ("(GLTSYN_ENA)", |driver| {
            driver.phy(PHY_ENA, 1);
            driver.prepare_adjust(0, NOMINAL);
            driver.command(0, 2);
        }),
        ("(ETH_GLTSYN_ENA, in the PHY)", |driver| {
            driver.card.write32(ENA, 1);
            driver.prepare_adjust(0, NOMINAL);
            driver.command(0, 2);
        }),
        ("they would part", |driver| {
            driver.both_on(0);
            driver.prepare_adjust(0, NOMINAL);
            driver.card.write32(CMD, 2);
            driver.card.write32(SYNC, 3);
        }),
        ("the PHY would change by", |driver| {
            driver.both_on(0);
            driver.prepare_adjust(0, NOMINAL);
            driver.phy(PHY_ADJ, 7);
            driver.command(0, 2);
        }),
        ("the PHY would be set to", |driver| {
            driver.start_clock(0, 77);
            driver.both_on(0);
            driver.prepare_time(0, 99);
            driver.phy(PHY_TIME + 4, 98);
            driver.command(0, 1);
            // What went before holds.
            assert!(driver.stamp(0).0 && driver.time(0) < 1_000_000_000);
            driver.card.write32(ENA, 0);
        }),
        ("has no increment", |driver| {
            driver.both_on(0);
            driver.prepare_time(0, 99);
            driver.command(0, 1);
        }),
        ("an increment of 0", |driver| {
            driver.both_on(0);
            driver.prepare_adjust(0, 0);
            driver.command(0, 2);
        }),
        ("3 is taken", |driver| {
            driver.both_on(0);
            driver.prepare_adjust(0, NOMINAL);
            driver.card.write32(CMD, 2);
            driver.phy(PHY_CMD, 2);
            driver.card.write32(SYNC, 1);
        }),
    ];
    for (why, mistake) in mistakes {
        let mut driver = ready(owned(0), true);
        mistake(&mut driver);
        let refused = driver.refused();
        assert!(
            refused.starts_with("GLTSYN_CMD_SYNC") && refused.contains(why),
            "{why}: {refused}"
        );
        let index = u64::from(why == "the PHY would be set to");
        assert!(!driver.stamp(index).0, "{why}");
    }
}

#[test]
fn timers_that_were_not_set_together_make_no_stamp_valid() {
    let mut driver = ready(owned(0), true);
    driver.both_on(0);
    driver.prepare_adjust(0, NOMINAL);
    driver.command(0, 2);
    // Both run, from wherever they were.
    assert!(!driver.stamp(0).0);
    driver.prepare_time(0, 5);
    driver.command(0, 1);
    assert!(driver.stamp(1).0);
    // The PHY was off meanwhile.
    driver.phy(PHY_ENA, 0);
    assert_eq!(driver.stamp(2), (false, 0));
    driver.phy(PHY_ENA, 1);
    assert!(!driver.stamp(3).0);
    driver.prepare_time(0, 5);
    driver.command(0, 1);
    assert!(driver.stamp(4).0);
    assert!(driver.card.refusals().is_empty());
}

#[test]
fn messages_that_make_no_sense_are_refused() {
    let good = Driver::packed(1, PHY_ENA, 1);
    let with = |at: usize, value: u8| {
        let mut message = good.clone();
        message[at] = value;
        message
    };
    for (message, why) in [
        (with(0, 3), "there is no device 3"),
        (with(2, 9), "a message of kind 9"),
        (with(3, 0), "its flags"),
        (with(4, 1), "its flags"),
        (with(6, 0x46), "the PHY has no register at 0x03000346"),
        (with(9, 4), "the PHY has no register"),
        (Driver::packed(1, 0x0300_0350, 0), "the PHY has no register"),
        (Driver::packed(1, 0, 0), "the PHY has no register"),
        (good[..12].to_vec(), "has 16 bytes"),
        (good[..4].to_vec(), "its buffer has 4 bytes"),
    ] {
        let mut driver = Driver::new(owned(0));
        assert_ne!(driver.message(&message).code, 0, "{why}");
        let refused = driver.refused();
        assert!(refused.contains(why), "{refused}");
    }
    let mut driver = Driver::new(owned(0));
    driver.phy(PHY_ADJ + 4, 0x1234_5678);
    let answer = driver.message(&Driver::packed(0, PHY_ADJ + 4, 0));
    assert_eq!(answer.buffer[..8], [0, 2, 0, 0x40, 0x78, 0x56, 0x34, 0x12]);
    // How newer Linux waits until all has arrived.
    assert_eq!(driver.message(&Driver::packed(0, 0, 0)).code, 0);
}

#[test]
fn the_semaphore_is_taken_by_reading_it() {
    let driver = Driver::new(owned(0));
    assert_eq!(
        (driver.card.read32(SEM), driver.card.read32(SEM) & 1),
        (0, 1)
    );
    driver.card.write32(SEM, 0);
    assert!(driver.card.refusals().is_empty());
    driver.card.write32(SEM, 0);
    assert!(driver.refused().starts_with("PFTSYN_SEM"));
    assert_eq!(driver.card.read32(SEM), 0);
    // A reset of the function gives it back.
    driver.card.write32(0x9_1000, 1);
    assert_eq!(driver.card.read32(SEM), 0);
    driver.card.write32(SEM, 0);
    driver.card.set_fault(Fault::SemaphoreHeld);
    assert_eq!(driver.card.read32(SEM), 1 | 1 << 4);
}

#[test]
fn only_the_owner_drives_the_timer() {
    for owner in [
        ClockOwner::None,
        ClockOwner::Other {
            timer: 0,
            runs: false,
        },
        ClockOwner::Other {
            timer: 0,
            runs: true,
        },
    ] {
        let mut driver = ready(
            Personality {
                clock: owner,
                ..Personality::default()
            },
            true,
        );
        driver.card.write32(ENA, 1);
        assert!(driver.refused().starts_with("GLTSYN: register 0x88808"));
        let answer = driver.message(&Driver::packed(1, PHY_ENA, 1));
        assert_eq!(answer.code, 1, "EPERM");
        let runs = matches!(owner, ClockOwner::Other { runs: true, .. });
        assert_eq!(driver.card.read32(ENA) & 1 != 0, runs);
        assert_eq!(driver.stamp(0).0, runs, "{owner:?}");
    }
}

#[test]
fn stamps_are_for_queues_that_ask_and_packets_from_the_wire() {
    let mut driver = ready(owned(0), false);
    driver.start_clock(0, 5);
    assert_eq!(driver.stamp(0), (false, 0));
    driver.card.write32(0x12_0000, 0);
    queue(&driver, true);
    assert!(driver.stamp(0).0);
}

#[test]
fn a_reset_of_the_function_leaves_the_clock_and_one_of_the_core_ends_it() {
    let mut driver = ready(owned(0), true);
    driver.start_clock(0, 1 << 40);
    driver.card.write32(0x9_1000, 1);
    let shown = driver.time(0);
    assert!(shown >= 1 << 40 && driver.time(0) > shown);
    driver.card.reset();
    assert!(driver.time(0) > shown);
    driver.card.start_reset(Reset::Core);
    for _ in 0..10 {
        let _ = driver.card.read32(0xb_8188);
    }
    assert_eq!((driver.time(0), driver.card.read32(ENA)), (0, 0));
}

#[test]
fn faults_of_the_clock() {
    let mut driver = ready(owned(0), true);
    driver.start_clock(0, 1 << 40);
    driver.card.set_fault(Fault::StampInvalid);
    assert!(!driver.stamp(0).0);
    driver.card.set_fault(Fault::StampOfOtherTimer);
    let before = driver.time(0) as u32;
    let (valid, stamp) = driver.stamp(1);
    let ahead = stamp.wrapping_sub(before);
    assert!(
        valid && (1_500_000_000..2_000_000_000).contains(&ahead),
        "{ahead}"
    );
    driver.card.set_fault(Fault::ClockStands);
    let stands = driver.time(0);
    assert_eq!(
        (driver.time(0), driver.stamp(2)),
        (stands, (true, stands as u32))
    );
}
