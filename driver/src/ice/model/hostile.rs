//! An E810 that answers with whatever it likes: registers, admin answers and descriptors from arbitrary bytes, and the driver driven by the same bytes.
//!
//! [`exercise`] is the body of a property test and of the fuzz target in `driver/fuzz`; `driver/src/hostile.rs` says what must hold.

use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::thread::ThreadId;

use devrx_e810_model::small_package;

use super::{Chip, Fault, IceModel, Personality, locked};
use crate::clock::real;
use crate::hostile::{Bytes, Device, Held, common, configs, frame};
use crate::ice::regs::{ADMIN_SEND, QRX_TAIL, rx_context};
use crate::ice::{IceNic, IceOptions, IceQueue, PackageSource};
use crate::{QueueConfig, Timestamps};

/// Bytes that replace some of an admin answer.
#[derive(Debug)]
struct Spoil {
    /// Within the descriptor, or within the buffer it names.
    in_buffer: bool,
    offset: u64,
    bytes: [u8; 4],
}

/// What becomes of the next admin answers to one thread, a command each: nothing, or something else in them.
#[derive(Debug, Default)]
pub(super) struct Spoils {
    next: VecDeque<Option<Spoil>>,
    of: Option<ThreadId>,
}

impl Chip {
    /// The admin queue's tail was written, and the command has been answered: something else is in the answer.
    pub(super) fn spoil(&self, tail: u32) {
        let spoil = {
            let mut spoils = locked(&self.spoils);
            if spoils.of != Some(std::thread::current().id()) {
                return;
            }
            spoils.next.pop_front().flatten()
        };
        let Some(spoil) = spoil else {
            return;
        };
        let [low, high] = [ADMIN_SEND.base_low, ADMIN_SEND.base_high]
            .map(|register| u64::from(self.card.read32(register)));
        let ring = low | high << 32;
        let at = ring.wrapping_add(u64::from(tail.wrapping_sub(1) % 32) * 32);
        let target = if spoil.in_buffer {
            // The buffer's address, high half first.
            let mut words = [0; 8];
            if !self.iommu.read(at.wrapping_add(24), &mut words) {
                return;
            }
            u64::from_le_bytes(words)
                .rotate_left(32)
                .wrapping_add(spoil.offset)
        } else {
            at.wrapping_add(spoil.offset % 29)
        };
        let _ = self.iommu.write(target, &spoil.bytes);
    }
}

impl IceModel {
    /// The next register reads of this thread are answered with `words`.
    pub fn answer(&self, words: impl IntoIterator<Item = u32>) {
        locked(&self.chip.tape).extend(words);
    }

    /// After so many more admin commands of this thread one is answered with something else: `bytes` at `offset` of its descriptor, or of its buffer.
    pub fn spoil(&self, after: u8, in_buffer: bool, offset: u16, bytes: [u8; 4]) {
        let mut spoils = locked(&self.chip.spoils);
        spoils.of = Some(std::thread::current().id());
        spoils.next.extend((0..after).map(|_| None));
        spoils.next.push_back(Some(Spoil {
            in_buffer,
            offset: u64::from(offset),
            bytes,
        }));
    }

    /// Descriptors and address of a ring, as the queue's context has them.
    fn ring(&self, queue: u32) -> (u32, u64) {
        let word = |at: u32| u64::from(self.card().read32(rx_context(queue, at)));
        let base = (word(1) | (word(2) & 0x1ff_ffff) << 32) << 7;
        ((word(2) >> 25 | (word(3) & 0x3f) << 7) as u32, base)
    }
}

impl Device for IceModel {
    fn tail(&self, queue: u32) -> u32 {
        self.card().read32(QRX_TAIL.at(queue))
    }

    fn check_posted(&self, queue: u32, before: u32, count: u32, chunk: u32, slot: u32) {
        let (entries, base) = self.ring(queue);
        let tail = self.tail(queue);
        // A card that is gone, or was reset since.
        if entries == 0 || entries > 4096 || tail >= entries || before >= entries {
            return;
        }
        // The tail goes in steps of 8, so some of those that were just posted may not be told yet, and some that are were posted before: the device may have
        // written over those since.
        let told = (tail + entries - before) % entries;
        let sure = count.saturating_sub(7).min(told);
        let mut at = (tail + entries - sure) % entries;
        while at != tail {
            let mut words = [0; 16];
            let descriptor = base.wrapping_add(u64::from(at) * 32);
            if !self.iommu.read(descriptor, &mut words) {
                return;
            }
            let [packet, header] = [0, 8].map(|at| {
                let mut half = [0; 8];
                half.copy_from_slice(&words[at..at + 8]);
                u64::from_le_bytes(half)
            });
            let fits = |iova, len: u32| self.iommu.covers(iova, len as usize);
            assert!(fits(packet, chunk), "a packet buffer within reach");
            assert!(
                header == 0 || header.is_multiple_of(2) && fits(header, slot),
                "a header buffer within reach"
            );
            at = (at + 1) % entries;
        }
    }

    fn behave(&self) {
        self.set_fault(Fault::None);
        self.set_reset_fails(false);
    }
}

/// The package, made once.
fn package() -> Arc<[u8]> {
    static PACKAGE: OnceLock<Arc<[u8]>> = OnceLock::new();
    Arc::clone(PACKAGE.get_or_init(|| small_package().into()))
}

/// What can be wrong for a while.
fn fault(bytes: &mut Bytes<'_>) -> Fault {
    let faults: Vec<Fault> = Fault::all().collect();
    match usize::from(bytes.byte()) {
        kind if kind < 128 => Fault::None,
        kind if kind < 224 => faults[kind % faults.len()],
        _ => {
            let [command, code] = bytes.take();
            let commands = [
                0x0001, 0x0008, 0x0009, 0x000a, 0x0107, 0x0200, 0x0208, 0x0209, 0x0210, 0x0211,
                0x0213, 0x0290, 0x0291, 0x0293, 0x02a0, 0x02a2, 0x02a4, 0x0603, 0x0607, 0x0613,
                0x0b02, 0x0b03, 0x0c00, 0x0c40, 0x0c42, 0x0c43,
            ];
            let opcode = commands[usize::from(command) % commands.len()];
            Fault::FailCommandWith(opcode, u16::from(code % 32))
        }
    }
}

/// Lies about what the driver asks next: registers, or admin answers.
fn lie(bytes: &mut Bytes<'_>, model: &IceModel) {
    let kind = bytes.byte();
    for _ in 0..kind % 8 {
        if kind & 0x80 == 0 {
            model.answer([u32::from_le_bytes(bytes.take())]);
        } else {
            let [after, target, low, high] = bytes.take();
            let offset = u16::from_le_bytes([low, high % 8]);
            model.spoil(after % 64, target & 1 != 0, offset, bytes.take());
        }
    }
}

/// Drives a NIC whose answers, and what is asked of it, come from `input`. Panics if the driver does what it must not.
pub fn exercise(input: &[u8]) {
    let mut bytes = Bytes::new(input);
    let Some(configs) = configs(&mut bytes, [64, 64, 128, 256]) else {
        return;
    };
    let manner = bytes.byte();
    let model = IceModel::new(Personality {
        vectors: 5,
        queues: 8,
        ddp: manner & 0x10 == 0,
        api: [(1, 5, 9), (1, 7, 6)][usize::from(manner & 1)],
        ..Personality::default()
    });
    if manner & 0x80 != 0 {
        lie(&mut bytes, &model);
    }
    if manner & 0x40 != 0 {
        model.set_fault(fault(&mut bytes));
    }
    let options = IceOptions {
        vlan_strip: manner & 0x20 != 0,
        package: if manner & 0x0c == 0x0c {
            PackageSource::None
        } else {
            PackageSource::Bytes(package())
        },
    };
    let Ok(mut nic) = IceNic::open(Arc::clone(&model), options) else {
        return;
    };
    let mut held: Vec<Held<_>> = (0..)
        .zip(&configs)
        .filter_map(|(index, config)| {
            let stamped = QueueConfig {
                timestamps: Timestamps::Nic,
                ..config.clone()
            };
            // Where the card's clock does not run, without.
            let stamped = (manner & 2 != 0).then(|| Held::open(&mut nic, index, &stamped));
            stamped
                .flatten()
                .or_else(|| Held::open(&mut nic, index, config))
        })
        .collect();
    while !bytes.is_empty() && !held.is_empty() {
        let op = bytes.byte();
        let at = usize::from(op >> 7) % held.len();
        step(op & 0x7f, &mut bytes, &model, &mut nic, &mut held, at);
    }
    for held in held {
        held.end(&mut nic, &*model);
    }
    model.behave();
    drop(nic);
    assert_eq!(model.mapped(), 0, "all memory is taken from the card");
}

/// One thing that the device or the daemon does.
fn step(
    op: u8,
    bytes: &mut Bytes<'_>,
    model: &IceModel,
    nic: &mut IceNic<IceModel>,
    all: &mut Vec<Held<IceQueue<IceModel>>>,
    at: usize,
) {
    let held = &mut all[at];
    let ring = held.config.ring;
    match op % 19 {
        op @ 0..=10 => common(op, bytes, model, nic, held),
        11 => {
            // Anything at all.
            let words: [[u8; 8]; 4] = std::array::from_fn(|_| bytes.take());
            model.scribble(held.index, bytes.below(ring), words.map(u64::from_le_bytes));
        }
        12..=13 => {
            // Nearly a packet: done, lengths of about the buffers' sizes.
            let [kind, flags, status, step] = bytes.take();
            let first = u64::from(2_u8)
                | u64::from(kind) << 16
                | u64::from(bytes.below(4200)) << 32
                | u64::from(bytes.below(1024)) << 48
                | u64::from(flags & 1) << 59;
            // Rarely a time of just now.
            let third = u64::from(flags >> 7) << 24;
            let fourth = match flags & 2 {
                0 => real() << 32,
                _ => u64::from(u32::from_le_bytes(bytes.take())) << 32,
            };
            let start = bytes.below(ring);
            let count = u32::from(step % 12);
            for more in 0..=count {
                // One packet of several descriptors, or a row of packets.
                let last = flags & 0x40 != 0 || more == count;
                let done = if last { 3 } else { 1 };
                // Rarely errors: else nothing would arrive.
                let status = match flags & 0x30 {
                    0x30 => u64::from(status) << 2,
                    _ => 0,
                };
                let second = done | status | u64::from(kind) << 32;
                let words = [first, second, third, fourth | u64::from(u32::MAX)];
                model.scribble(held.index, (start + more) % ring, words);
            }
        }
        14..=15 => {
            let frame = frame(bytes, model.station());
            model.card().receive(&frame);
        }
        16 => lie(bytes, model),
        17 => {
            let [kind, code] = bytes.take();
            match kind % 6 {
                0 => model.card().reset(),
                1 => model.card().write32(0x000b_8190, 1 << (code % 3)),
                2 => model.card().set_link(code & 1 != 0),
                3 => model
                    .card()
                    .report_health(u16::from(code), u16::from(code % 5)),
                4 => model
                    .card()
                    .write32(ADMIN_SEND.length, u32::from(code) << 26),
                _ => model.say(&[(u32::from(code) << 8, u32::MAX)]),
            }
        }
        _ => {
            model.set_fault(fault(bytes));
            let kind = bytes.byte();
            model.set_reset_fails(kind & 24 == 24);
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
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn a_hostile_device_does_no_harm(input in proptest::collection::vec(any::<u8>(), 0..600)) {
            exercise(&input);
        }
    }
}
