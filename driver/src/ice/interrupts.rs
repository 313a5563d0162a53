//! MSI-X: a vector for each queue, one for the rest.
//!
//! A vector that fires masks itself. While a queue is polled its vector is masked and told to write descriptors back when its throttle expires: without that
//! the device holds them until it has a cache line of them (`ice_set_wb_on_itr` in Linux). Interrupt registers are those of DPDK's `ice_hw_autogen.h`, the handling as in
//! `ice_ethdev.c` (`__vsi_queues_bind_intr`, `ice_vsi_enable_queues_intr`).

use super::regs::{
    CAUSE_ENABLE, CAUSE_SECOND_THROTTLE, GLINT_CTL, GLINT_DYN_CTL, GLINT_ITR, GLINT_ITR_MOST,
    GLINT_ITR_SECOND, GLINT_RATE, PFINT_FW_CTL, PFINT_OICR, PFINT_OICR_CTL, PFINT_OICR_ENA,
    QINT_RQCTL, QINT_TQCTL, cause, vector,
};
use super::shared::Shared;
use crate::device::{Device, Registers};

/// Causes that are listened to.
const CAUSES: u32 =
    cause::ECC | cause::MALICIOUS | cause::RESET | cause::PCI | cause::HMC | cause::CRITICAL;
/// The throttle at first, in its units.
const THROTTLE: u32 = 1;

/// How often a queue that sends may raise its vector at most, microseconds.
const TRANSMIT_THROTTLE: u32 = 200;

/// No interrupt of any kind.
pub(super) fn mask_all<D: Device>(shared: &Shared<D>, queues: u32) {
    shared.write(PFINT_OICR_ENA, 0);
    for index in 0..=queues {
        mask(shared, index);
    }
}

/// Queue `q` to vector `q`, everything else to vector `queues`. Queues stay masked until they sleep.
pub(super) fn setup<D: Device>(shared: &Shared<D>, queues: u32) {
    // As both drivers have it: 2 us, 4 us up to 25 Gbit/s.
    shared.write(GLINT_CTL, 2 << 16 | 2 << 20 | 2 << 24 | 4 << 28);
    for index in 0..=queues {
        shared.write(GLINT_ITR.at(index), THROTTLE);
        shared.write(GLINT_RATE.at(index), 0);
        mask(shared, index);
    }
    for queue in 0..queues {
        shared.write(QINT_RQCTL.at(queue), CAUSE_ENABLE | queue);
    }
    shared.write(PFINT_OICR_ENA, 0);
    // Clears what was there.
    shared.read(PFINT_OICR);
    shared.write(PFINT_OICR_ENA, CAUSES);
    shared.write(PFINT_OICR_CTL, CAUSE_ENABLE | queues);
    shared.write(PFINT_FW_CTL, CAUSE_ENABLE | queues);
    unmask(shared, queues);
}

/// The transmit queue's descriptors are written back when the throttle of `vector` expires, which raises that; see the module's remarks.
pub(super) fn begin_transmit<D: Device>(shared: &Shared<D>, queue: u32, vector: u32) {
    let interval = TRANSMIT_THROTTLE / shared.throttle_unit;
    shared.write(GLINT_ITR_SECOND.at(vector), interval);
    let cause = CAUSE_ENABLE | CAUSE_SECOND_THROTTLE | vector;
    shared.write(QINT_TQCTL.at(queue), cause);
}

/// The transmit queue raises nothing.
pub(super) fn end_transmit<D: Device>(shared: &Shared<D>, queue: u32) {
    shared.write(QINT_TQCTL.at(queue), 0);
}

/// Lets a vector through, once.
#[inline]
pub(super) fn unmask<D: Device>(shared: &Shared<D>, index: u32) {
    let value = vector::ENABLE | vector::CLEAR_PENDING | vector::ITR_NONE;
    shared.registers.write32(GLINT_DYN_CTL.at(index), value);
}

/// Lets a vector through, and sees that what came before is in memory, to be looked at.
#[inline]
pub(super) fn listen<D: Device>(shared: &Shared<D>, index: u32) {
    unmask(shared, index);
    // Writes wait on the way. The answer to a read comes behind them, and behind packets whose cause was cleared.
    shared.registers.read32(GLINT_DYN_CTL.at(index));
}

/// Holds a vector back; descriptors are still written back in time.
#[inline]
pub(super) fn mask<D: Device>(shared: &Shared<D>, index: u32) {
    shared.registers.write32(
        GLINT_DYN_CTL.at(index),
        vector::ITR_NONE | vector::WRITE_BACK,
    );
}

/// Raises a vector by software: to see that interrupts arrive.
pub(super) fn raise<D: Device>(shared: &Shared<D>, index: u32) {
    let value = vector::TRIGGER
        | vector::TRIGGER_ITR_VALID
        | vector::TRIGGER_ITR_NONE
        | vector::ITR_NONE
        | vector::ENABLE_KEEP;
    shared.write(GLINT_DYN_CTL.at(index), value);
}

/// The shortest time between two interrupts of a vector, microseconds; the largest that the register holds where it is more.
pub(super) fn moderate<D: Device>(
    shared: &Shared<D>,
    index: u32,
    microseconds: u32,
) -> Result<(), u32> {
    let most = GLINT_ITR_MOST * shared.throttle_unit;
    if microseconds > most {
        return Err(most);
    }
    let value = microseconds.div_ceil(shared.throttle_unit);
    shared.write(GLINT_ITR.at(index), value);
    Ok(())
}
