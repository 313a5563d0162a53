//! Opening a queue: what can be had, and how the hardware is told.

use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use devrx_provider::ChunkIndex;

use super::IceNic;
use crate::clock::Clock;
use crate::device::Device;
use crate::ice::admin::LONGEST;
use crate::ice::clock;
use crate::ice::context::{MOST_BUFFERS, RxContext};
use crate::ice::descriptor::PROFILE;
use crate::ice::queue::{TAIL_STEP, off};
use crate::ice::regs::{
    QRX_CTRL, QRX_TAIL, QRXFLXP_CNTXT, QRXFLXP_PRIORITY, QRXFLXP_STAMPS, enable, rx_context,
};
use crate::ice::shared::Control;
use crate::ice::write_back::Ring;
use crate::queue::Unsplit;
use crate::ring::{Manner, wait};
use crate::{DriverError, Nic, QueueConfig};

/// Descriptors of a ring: both drivers say at least 64, in multiples of 32; 4096 is what everybody has tried.
const RING: RangeInclusive<u32> = 64..=4096;
/// Chunk sizes, bytes: the context counts 128 bytes, in 7 bits; DPDK takes no less than 1024.
pub(super) const CHUNK: RangeInclusive<u32> = 1024..=127 * 128;
/// Header slots, bytes: the context counts 64 bytes, in 5 bits.
const SLOT: RangeInclusive<u32> = 64..=31 * 64;
/// How long a queue may take to be enabled.
const ENABLE_PATIENCE: Duration = Duration::from_millis(100);

/// The context for a configuration that has been checked.
pub(super) fn context(config: &QueueConfig, ring: &Ring, manner: Manner) -> RxContext {
    let chunk = config.provider.region().chunk_size();
    RxContext {
        ring: ring.iova(),
        entries: ring.entries(),
        chunk,
        slot: if manner.splits {
            config.headers.slot_size
        } else {
            0
        },
        longest: (chunk * MOST_BUFFERS).min(u32::from(LONGEST)),
    }
}

impl<D: Device> IceNic<D> {
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
            let safe = if self.facts.parser.splits() {
                ""
            } else {
                "; with its package (DDP) this NIC splits headers, and none is loaded: install it (Debian: firmware-intel-misc) and start again"
            };
            return Err(DriverError::UnfitMemory {
                nic: self.name().to_owned(),
                why: format!("{error}{safe}"),
            });
        }
        let chunks = config.provider.chunks();
        if chunks.end - chunks.start < 2 * TAIL_STEP {
            return Err(Self::bad(
                "memory share of chunks",
                chunks.end - chunks.start,
                format!(
                    "the NIC takes {TAIL_STEP} at a time, so use a region of at least {} chunks for each queue",
                    2 * TAIL_STEP
                ),
            ));
        }
        let headers = &config.headers;
        if !config.split {
            return Ok(());
        }
        match config.unsplit {
            Unsplit::Deliver => {}
            Unsplit::Drop if self.facts.parser.splits() => {}
            Unsplit::Drop => {
                return Err(Self::bad(
                    "what becomes of packets that are not split",
                    "drop",
                    "without its package (DDP) this NIC splits none, so all would be dropped; install the package (Debian: firmware-intel-misc)",
                ));
            }
            Unsplit::Header => {
                return Err(Self::bad(
                    "what becomes of packets that are not split",
                    "header",
                    "this NIC puts at least the Ethernet header into the slot of every packet; use `deliver` or `drop`",
                ));
            }
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

    /// The card's clock, which runs from now on until the next reset. Under the control lock.
    pub(super) fn clock(
        &mut self,
        control: &mut Control<D::Registers>,
    ) -> Result<Arc<Clock>, DriverError> {
        let Some(timer) = self.facts.capabilities.timer else {
            return Err(clock::unsupported(&self.shared, clock::NONE));
        };
        if self.clock_of != Some(self.epoch) {
            clock::start(&self.shared, &mut control.admin, timer)?;
            self.clock_of = Some(self.epoch);
        }
        Ok(Arc::clone(&self.shared.clock))
    }

    /// Sets queue `index` up and enables it. Where that fails, `ring` stays the device's unless the queue is off. Under the control lock.
    pub(super) fn enable(
        &self,
        index: u32,
        ring: &mut Ring,
        context: &RxContext,
        stamps: bool,
    ) -> Result<(), DriverError> {
        let (shared, queue) = (&self.shared, index);
        let busy = |why: &str| DriverError::QueueBusy {
            nic: self.name().to_owned(),
            queue: index,
            why: why.to_owned(),
        };
        if !off(shared, index) {
            return Err(busy(
                "it is still on, with the memory it had before; detach everything, which resets the NIC, and try again",
            ));
        }
        for (at, word) in (0..).zip(context.words()) {
            shared.write(rx_context(queue, at), word);
        }
        let stamps = if stamps { QRXFLXP_STAMPS } else { 0 };
        let profile = PROFILE | QRXFLXP_PRIORITY | stamps;
        shared.write(QRXFLXP_CNTXT.at(queue), profile);
        shared.write(QRX_TAIL.at(queue), 0);
        let control = QRX_CTRL.at(queue);
        shared.write(control, enable::REQUEST);
        if !wait(ENABLE_PATIENCE, || {
            let value = shared.read(control);
            // All ones is no answer.
            value != u32::MAX && value & enable::STATUS != 0
        }) {
            if !off(shared, index) {
                // It may go on yet, and then it writes.
                ring.leak();
            }
            return Err(busy(
                "the NIC does not enable it; detach everything, which resets the NIC, and try again",
            ));
        }
        Ok(())
    }
}
