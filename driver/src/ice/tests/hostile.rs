//! A NIC whose registers, answers and descriptors may say anything: errors and counted drops, no panic, no hang, and no chunk lost.

use std::collections::BTreeSet;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use devrx_pool::{Pool, PoolConfig};
use devrx_provider::{ChunkIndex, MapWay, MemoryProvider};

use super::rig::{Setup, udp};
use crate::device::{Device, Mapper, PciId, Registers};
use crate::ice::IceNic;
use crate::ice::model::IceModel;
use crate::ice::regs::ADMIN_SEND;
use crate::{DriverError, Flows, Link, Nic, RxBatch, RxQueue, Statistics};

/// Numbers that are different each time, and the same for a seed.
#[derive(Debug)]
struct Dice(AtomicU64);

impl Dice {
    fn roll(&self) -> u64 {
        let mut x = self.0.load(Ordering::Relaxed);
        x ^= x << 13;
        x ^= x >> 7;
        x ^= x << 17;
        self.0.store(x, Ordering::Relaxed);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 7
    }
}

/// The model, but for what it says now and then.
#[derive(Debug)]
struct Liar {
    model: Arc<IceModel>,
    registers: Arc<LyingRegisters>,
}

#[derive(Debug)]
struct LyingRegisters {
    model: Arc<IceModel>,
    dice: Dice,
    /// One answer in so many is a lie.
    odds: u64,
}

impl Registers for LyingRegisters {
    fn read32(&self, offset: u32) -> u32 {
        let roll = self.dice.roll();
        let true_value = self.model.registers().read32(offset);
        match roll % self.odds {
            0 => (roll >> 16) as u32,
            1 => true_value ^ 1 << (roll >> 16 & 31),
            _ => true_value,
        }
    }

    fn write32(&self, offset: u32, value: u32) {
        self.model.registers().write32(offset, value);
        if offset == ADMIN_SEND.tail && self.dice.roll().is_multiple_of(self.odds) {
            // Something else is in the answer: in its descriptor, or in what it points to.
            let low = self.model.registers().read32(ADMIN_SEND.base_low);
            let high = self.model.registers().read32(ADMIN_SEND.base_high);
            let ring = u64::from(low) | u64::from(high) << 32;
            let roll = self.dice.roll();
            // The buffer is mapped a page and a hole behind the ring.
            let at = if roll & 1 == 0 {
                ring + u64::from(value.wrapping_sub(1) % 32) * 32 + (roll >> 8) % 32
            } else {
                ring + 0x2000 + (roll >> 8) % 256
            };
            self.model.corrupt(at, &roll.to_le_bytes()[..1]);
        }
    }
}

impl Device for Liar {
    type Registers = LyingRegisters;

    fn address(&self) -> &str {
        "liar"
    }

    fn id(&self) -> PciId {
        self.model.id()
    }

    fn registers(&self) -> Arc<LyingRegisters> {
        Arc::clone(&self.registers)
    }

    fn mapper(&self) -> Arc<dyn Mapper> {
        self.model.mapper()
    }

    fn set_bus_master(&self, on: bool) -> Result<(), DriverError> {
        self.model.set_bus_master(on)
    }

    fn reset(&self) -> Result<(), DriverError> {
        self.model.reset()
    }

    fn vectors(&self) -> u32 {
        self.model.vectors()
    }

    fn arm_vectors(&self, count: u32) -> Result<Vec<OwnedFd>, DriverError> {
        self.model.arm_vectors(count)
    }

    fn trouble(&self) -> Option<BorrowedFd<'_>> {
        None
    }

    fn trouble_text(&self) -> String {
        String::new()
    }

    fn gone(&self) -> bool {
        self.model.gone()
    }

    fn ways(&self) -> &'static [MapWay] {
        self.model.ways()
    }
}

/// A queue's life with such a NIC. Whether it got as far as receiving.
fn life(seed: u64, odds: u64) -> bool {
    let setup = Setup::default();
    let model = IceModel::new(setup.personality.clone());
    let registers = Arc::new(LyingRegisters {
        model: Arc::clone(&model),
        dice: Dice(AtomicU64::new(seed | 1)),
        odds,
    });
    let liar = Arc::new(Liar {
        model: Arc::clone(&model),
        registers: Arc::clone(&registers),
    });
    let Ok(mut nic) = IceNic::open(liar, setup.options.clone()) else {
        return false;
    };
    let (_region, configs) = setup.configs();
    let config = configs[0].clone();
    config.provider.init(&nic.needs()).unwrap();
    let provider: Arc<dyn MemoryProvider> = config.provider.clone();
    let (mut pool, _) = Pool::new(provider, PoolConfig::default());
    let Ok(mut queue) = nic.open_queue(0, config) else {
        return false;
    };
    for (id, rule) in (0..).zip(["udp,dst-port=5000", "any", "dst-mac=02:00:00:00:00:07"]) {
        let _ = nic.add_flow(0..=0, id, &rule.parse().unwrap());
    }
    let mut held = BTreeSet::new();
    for round in 0..50_u32 {
        queue.refill(&mut pool);
        model
            .card()
            .receive(&udp(1, 5000, 100 + round as usize * 100));
        for _ in 0..3 {
            let words = std::array::from_fn(|_| registers.dice.roll());
            model.scribble(0, (registers.dice.roll() % 64) as u32, words);
        }
        let mut batch = RxBatch::new();
        queue.poll(&mut batch);
        for entry in &batch {
            assert!(entry.length <= 2048 && entry.header_length <= 256);
            assert!(held.insert(entry.chunk), "no chunk comes twice");
        }
        if round % 3 == 0 {
            for chunk in std::mem::take(&mut held) {
                pool.recycle(chunk);
            }
        }
        let _ = (queue.arm(), queue.counters(), nic.link(), nic.statistics());
        let _ = nic.port_losses();
    }
    let _ = nic.remove_flow(0..=0, 1);
    let _ = nic.close_queue(0);
    if queue.stop().is_err() {
        // Nothing is proven, and nothing is given back.
        return true;
    }
    let mut batch = RxBatch::new();
    while queue.poll(&mut batch) > 0 {
        held.extend(batch.drain(..).map(|entry| entry.chunk));
    }
    for chunk in held {
        pool.recycle(chunk);
    }
    queue.reclaim(&mut pool);
    let mut all = [ChunkIndex(0); 128];
    let mut got = 0;
    while got < 128 {
        match pool.take(&mut all[got..]) {
            0 => break,
            more => got += more,
        }
    }
    assert_eq!(got, 128, "seed {seed}: every chunk is there");
    for chunk in all {
        pool.recycle(chunk);
    }
    true
}

#[test]
pub(super) fn a_nic_that_lies_is_survived() {
    let start = Instant::now();
    let (mut lives, mut received) = (0, 0);
    // As many as there is time for, and enough in any case.
    for seed in 1..2000 {
        for odds in [20, 200, 2000] {
            lives += 1;
            received += u32::from(life(seed * 0x9e37_79b9, odds));
        }
        if start.elapsed() > Duration::from_secs(4) && lives >= 12 {
            break;
        }
    }
    println!("{lives} lives, {received} of which received");
    assert!(received > lives / 10, "{received} of {lives}");
    assert!(start.elapsed() < Duration::from_secs(120));
}
