//! A NIC that answers with whatever it likes: registers and descriptors from arbitrary bytes, and the driver driven by the same bytes.
//!
//! [`exercise`] is the body of a property test and of the fuzz target in `driver/fuzz`; `driver/src/hostile.rs` says what must hold.

use std::sync::Arc;

use super::{Fault, IgbModel};
use crate::flow::FlowRule;
use crate::hostile::{Bytes, CHUNKS, Device, Held, common, configs, frame};
use crate::igb::{IgbNic, IgbOptions, IgbQueue};
use crate::{Flows, QueueConfig, Timestamps};

impl IgbModel {
    /// The next register reads of this thread are answered with `words`.
    pub fn answer(&self, words: impl IntoIterator<Item = u32>) {
        self.chip.state().tape.extend(words);
    }
}

impl Device for IgbModel {
    fn tail(&self, queue: u32) -> u32 {
        self.tail(queue)
    }

    fn check_posted(&self, queue: u32, _before: u32, count: u32, chunk: u32, slot: u32) {
        self.check_posted(queue, count, chunk, slot);
    }

    fn behave(&self) {
        self.set_fault(Fault::default());
    }
}

/// Drives a NIC whose answers, and what is asked of it, come from `input`. Panics if the driver does what it must not.
pub fn exercise(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    let Some(configs) = configs(&mut bytes, [8, 16, 32, 64]) else {
        return;
    };
    let manner = bytes.byte();
    let device = [0x10c9, 0x1521, 0x1533, 0x1539][manner as usize % 4];
    let model = IgbModel::new(device);
    if manner & 0x80 != 0 {
        let words: [[u8; 4]; 8] = std::array::from_fn(|_| bytes.take());
        model.answer(words.map(u32::from_le_bytes));
    }
    let options = IgbOptions {
        promiscuous: manner & 0x40 != 0,
        vlan_strip: manner & 0x20 != 0,
    };
    let Ok(mut nic) = IgbNic::open(Arc::clone(&model), options) else {
        return;
    };
    let mut held: Vec<Held<_>> = (0..)
        .zip(&configs)
        .filter_map(|(index, config)| {
            let stamped = QueueConfig {
                timestamps: Timestamps::Nic,
                ..config.clone()
            };
            // Where the part, the slots or the way of splitting do not let it be, without.
            let stamped = (manner & 0x10 != 0).then(|| Held::open(&mut nic, index, &stamped));
            stamped
                .flatten()
                .or_else(|| Held::open(&mut nic, index, config))
        })
        .collect();
    if manner & 8 != 0 {
        for held in &held {
            let _ = nic.add_flow(held.index..=held.index, 0, &FlowRule::ANY);
        }
    }
    while !bytes.is_empty() && !held.is_empty() {
        let op = bytes.byte();
        let at = usize::from(op >> 7) % held.len();
        step(op & 0x7f, &mut bytes, &model, &mut nic, &mut held, at);
    }
    for held in held {
        held.end(&mut nic, &*model);
    }
}

/// One thing that the device or the daemon does.
fn step(
    op: u8,
    bytes: &mut Bytes<'_>,
    model: &IgbModel,
    nic: &mut IgbNic<IgbModel>,
    all: &mut Vec<Held<IgbQueue<IgbModel>>>,
    at: usize,
) {
    let held = &mut all[at];
    let ring = held.config.ring;
    match op % 20 {
        op @ 0..=10 => common(op, bytes, model, nic, held),
        11 => {
            // Anything at all.
            let words = [
                u64::from_le_bytes(bytes.take()),
                u64::from_le_bytes(bytes.take()),
            ];
            model.scribble(held.index, bytes.below(ring), words);
        }
        12..=13 => {
            // Nearly a packet: done, lengths of about the buffers' sizes.
            let [flags, high, info, step] = bytes.take();
            let status = u64::from(flags)
                | u64::from(high) << 24
                | u64::from(step >> 7) << 15
                | u64::from(bytes.below(4200)) << 32;
            let word = u64::from(bytes.below(1024)) << 21
                | u64::from(info & 15)
                | u64::from(info >> 7) << 31;
            let start = bytes.below(ring);
            for more in 0..=u32::from(step % 12) {
                // One packet of several descriptors, or a row of packets.
                let last = info & 0x40 != 0 || more == u32::from(step % 12);
                let status = if last { status | 3 } else { (status | 1) & !2 };
                model.scribble(held.index, (start + more) % ring, [word, status]);
            }
        }
        14 => model.receive(&frame(bytes, IgbModel::STATION)),
        15 => {
            let count = bytes.byte() % 16;
            for _ in 0..count {
                model.answer([u32::from_le_bytes(bytes.take())]);
            }
        }
        16 => held.refill(0, model),
        17 => {
            // A stamp, or what is nearly one, in front of packets to come or in place of one that came.
            let [kind, stamp @ ..]: [u8; 9] = bytes.take();
            let mut front = [0; 16];
            front[8..].copy_from_slice(&stamp);
            front[usize::from(kind % 8)] |= kind >> 6;
            model.set_front(Some(front).filter(|_| kind & 0x20 != 0));
            let slot = bytes.below(CHUNKS) as usize * held.config.headers.slot_size as usize;
            let _ = held.config.headers.memory.copy_in(slot, &front);
            let region = held.config.provider.region();
            let chunk = bytes.below(region.chunks()) as usize * region.chunk_size() as usize;
            if let Some(memory) = region.mapping() {
                let _ = memory.copy_in(chunk, &front);
            }
        }
        18 => {
            let how = bytes.byte();
            model.set_time(u64::from_le_bytes(bytes.take()), how & 1 != 0);
            if how & 0x82 == 0x82 {
                model.reset_from_outside();
            }
        }
        _ => {
            let kind = bytes.byte();
            model.set_fault(Fault {
                will_not_stop: kind & 1 != 0,
                gone: kind & 6 == 6,
                reset_fails: kind & 24 == 24,
                gone_when_enabled: kind & 0xc1 == 0xc1,
                ..Fault::default()
            });
            if kind & 32 != 0 {
                let held = all.swap_remove(at);
                let (index, config) = (held.index, held.config.clone());
                held.end(nic, model);
                all.extend(Held::open(nic, index, &config));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::exercise;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn a_hostile_device_does_no_harm(input in proptest::collection::vec(any::<u8>(), 0..600)) {
            exercise(&input);
        }
    }
}
