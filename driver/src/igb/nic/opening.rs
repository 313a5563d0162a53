//! Opening a queue: what can be had, and how the hardware is told.

use std::ops::RangeInclusive;
use std::time::Duration;

use devrx_provider::ChunkIndex;

use super::IgbNic;
use crate::device::Device;
use crate::igb::descriptor::SIZE;
use crate::igb::queue::{STOP_PATIENCE, STOP_SETTLE};
use crate::igb::regs::{RXDCTL_ENABLE, RXDCTL_THRESHOLDS, RxQueueRegs, srrctl};
use crate::igb::shared::Shared;
use crate::igb::write_back::{Ring, Split};
use crate::ring::{pause, wait};
use crate::{DriverError, Nic, QueueConfig, Timestamps};

/// Descriptors of a ring: RDLEN is a multiple of 128 bytes, and 4096 is what everybody has tried.
const RING: RangeInclusive<u32> = 8..=4096;
/// Chunk sizes, bytes: BSIZEPACKET counts kilobytes.
pub(super) const CHUNK: RangeInclusive<u32> = 1024..=16384;
/// Header slots, bytes: BSIZEHEADER counts 64 bytes, and has 4 bits in QEMU.
const SLOT: RangeInclusive<u32> = 64..=960;
/// Header slots with a stamp in front of the header, at least, bytes: more than 128 (I210 datasheet 7.1.6).
const STAMPED_SLOT: u32 = 192;
/// How long a queue may take to be enabled.
const ENABLE_PATIENCE: Duration = Duration::from_millis(10);

/// SRRCTL for a configuration that has been checked.
pub(super) fn srrctl(config: &QueueConfig) -> u32 {
    let sizes = config.provider.region().chunk_size() / 1024;
    let headers = (config.headers.slot_size / 64) << srrctl::HEADER_SHIFT;
    // An eighth of the ring free: soon enough to say so.
    let threshold = (config.ring / 8 / 16).min(0x1f) << srrctl::THRESHOLD_SHIFT;
    sizes
        | threshold
        | match config.timestamps {
            Timestamps::Software => 0,
            Timestamps::Nic => srrctl::TIMESTAMP,
        }
        | match Split::of(config) {
            Split::No => srrctl::ONE_BUFFER,
            Split::Headers => srrctl::SPLIT | headers,
            Split::Always => srrctl::SPLIT_ALWAYS | headers,
        }
}

/// Turns a queue off, and sees that it is.
fn off<D: Device>(shared: &Shared<D>, regs: RxQueueRegs) -> bool {
    shared.write(regs.rxdctl(), 0);
    let off = wait(STOP_PATIENCE, || {
        // All ones, when it is gone, has the bit set too.
        shared.read(regs.rxdctl()) & RXDCTL_ENABLE == 0
    });
    pause(STOP_SETTLE);
    off
}

impl<D: Device> IgbNic<D> {
    /// Everything about a configuration that can be known without the NIC.
    pub(super) fn check(&self, config: &QueueConfig) -> Result<(), DriverError> {
        if !config.ring.is_power_of_two() || !RING.contains(&config.ring) {
            return Err(Self::bad(
                "ring",
                config.ring,
                format!("use a power of two from {} to {}", RING.start(), RING.end()),
            ));
        }
        if let Err(error) = self.needs().check(config.provider.region()) {
            return Err(DriverError::UnfitMemory {
                nic: self.name().to_owned(),
                why: error.to_string(),
            });
        }
        let chunks = config.provider.chunks();
        if chunks.is_empty() {
            return Err(Self::bad(
                "memory share",
                "of no chunks",
                "use a larger region",
            ));
        }
        self.check_stamps(config)?;
        let headers = &config.headers;
        if !config.split {
            return Ok(());
        }
        if !SLOT.contains(&headers.slot_size) || !headers.slot_size.is_multiple_of(64) {
            return Err(Self::bad(
                "header slot",
                headers.slot_size,
                format!(
                    "use {} to {} bytes, in multiples of 64",
                    SLOT.start(),
                    SLOT.end()
                ),
            ));
        }
        let covers = |chunk| {
            let slot = headers.offset_of(ChunkIndex(chunk));
            slot.is_some_and(|slot| slot.is_multiple_of(64))
        };
        if !headers.memory.writable() || !covers(chunks.start) || !covers(chunks.end - 1) {
            let why = format!(
                "they must be writable, begin at a multiple of 64 bytes, and there must be one for each of the chunks {} to {}",
                chunks.start, chunks.end
            );
            return Err(Self::bad("header slots", headers.memory.len(), why));
        }
        if config.split_extra > 0 {
            return Err(Self::bad(
                "payload bytes with the header",
                config.split_extra,
                "this NIC splits exactly behind the header; use 0",
            ));
        }
        Ok(())
    }

    /// Whether packets can be stamped as they are to come.
    fn check_stamps(&self, config: &QueueConfig) -> Result<(), DriverError> {
        self.check_timestamps(config.timestamps)?;
        if config.timestamps == Timestamps::Software {
            return Ok(());
        }
        let known = self.shared.part.stamps_when(Split::of(config));
        known.map_err(|why| DriverError::Unsupported {
            nic: self.name().to_owned(),
            driver: self.driver().to_owned(),
            what: "stamp packets with its own clock",
            why,
        })?;
        if config.split && config.headers.slot_size < STAMPED_SLOT {
            return Err(Self::bad(
                "header slot",
                config.headers.slot_size,
                format!(
                    "the NIC puts the timestamp in front of the header, for which it wants {STAMPED_SLOT} bytes or more"
                ),
            ));
        }
        if !config.split && !config.provider.region().cpu_readable() {
            return Err(DriverError::UnfitMemory {
                nic: self.name().to_owned(),
                why: "the NIC puts the timestamp in front of the packet, and no CPU reads this memory; attach with header split, which puts it into the header slot, or \
                      without `--timestamps nic`"
                    .to_owned(),
            });
        }
        Ok(())
    }

    /// Sets queue `index` up and enables it (82576 datasheet 4.6.9). Where that fails, `ring` stays the device's unless the queue is off.
    pub(super) fn enable(
        &self,
        index: u32,
        ring: &mut Ring,
        value: u32,
    ) -> Result<(), DriverError> {
        let (regs, shared) = (RxQueueRegs::of(index), &self.shared);
        let busy = |why: &str| DriverError::QueueBusy {
            nic: self.name().to_owned(),
            queue: index,
            why: why.to_owned(),
        };
        if !off(shared, regs) {
            return Err(busy(
                "it is still on, with the memory it had before; detach everything, which resets the NIC, and try again",
            ));
        }
        // 64 bits; RDBAL takes the low half.
        shared.write(regs.rdbal(), ring.iova() as u32);
        shared.write(regs.rdbah(), (ring.iova() >> 32) as u32);
        shared.write(regs.rdlen(), ring.entries() * SIZE as u32);
        shared.write(regs.srrctl(), value);
        shared.write(regs.rdh(), 0);
        shared.write(regs.rdt(), 0);
        shared.write(regs.rxdctl(), RXDCTL_ENABLE | RXDCTL_THRESHOLDS);
        if !wait(ENABLE_PATIENCE, || {
            let value = shared.read(regs.rxdctl());
            // All ones is no answer.
            value != u32::MAX && value & RXDCTL_ENABLE != 0
        }) {
            if !off(shared, regs) {
                // It may go on yet, and then it writes.
                ring.leak();
            }
            return Err(busy(
                "the NIC does not enable it; detach everything, which resets the NIC, and try again",
            ));
        }
        // Head and tail once more, since silicon may take them only from an enabled queue.
        shared.write(regs.rdt(), 0);
        Ok(())
    }

    /// With several queues each drops for itself what finds no descriptor, so that one that is not polled does not hold the others up.
    pub(super) fn set_drop_enable(&self) {
        let drop = if self.open.len() > 1 {
            srrctl::DROP_EN
        } else {
            0
        };
        for (&queue, open) in &self.open {
            if open.epoch == self.epoch {
                self.shared
                    .write(RxQueueRegs::of(queue).srrctl(), open.srrctl | drop);
            }
        }
    }
}
