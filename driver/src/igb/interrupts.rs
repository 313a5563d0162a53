//! MSI-X: a vector for each queue, one for the rest (82576 datasheet 7.3 and 8.8).
//!
//! Causes of queues clear themselves when the message is sent (EIAC); EICR is never read, which would clear it in QEMU. A cause that comes while
//! its vector is masked stays in EICR, and is cleared before the vector is let through. Nothing is masked automatically: QEMU's EIAM does
//! nothing, so a queue masks its vector itself at the first poll after a sleep. A cause that is latched raises no second interrupt: ICR is
//! cleared before anything is enabled, and each time it is looked at.

use super::parts::IvarLayout;
use super::regs::{
    EIAC, EICR, EICS, EIMC, EIMS, EITR, EITR_COUNT_IGNORE, EITR_INTERVAL_SHIFT, EITR_MOST, GPIE,
    IMC, IMS, IVAR, IVAR_MISC, IVAR_VALID, gpie, icr,
};
use super::shared::Shared;
use crate::device::{Device, Registers};

/// No interrupt of any kind.
pub(super) fn mask_all<D: Device>(shared: &Shared<D>) {
    shared.write(EIMC, u32::MAX);
    shared.write(IMC, u32::MAX);
}

/// Where the byte for the receive causes of `queue` lies: which register, and the shift in it.
const fn ivar_place(layout: IvarLayout, queue: u32) -> (u32, u32) {
    match layout {
        IvarLayout::Eights => (queue % 8, queue / 8 * 16),
        IvarLayout::Pairs => (queue / 2, queue % 2 * 16),
    }
}

/// Queue `q` to vector `q`, other causes to vector `queues`; queues stay masked until they sleep.
pub(super) fn setup<D: Device>(shared: &Shared<D>, queues: u32) {
    shared.write(
        GPIE,
        gpie::NSICR | gpie::MULTIPLE_MSIX | gpie::EIAME | gpie::PBA_SUPPORT,
    );
    for index in 0..IVAR.count() {
        let mut value = 0;
        for queue in 0..queues {
            let (register, shift) = ivar_place(shared.part.ivar, queue);
            if register == index {
                value |= (IVAR_VALID | queue) << shift;
            }
        }
        shared.write(IVAR.at(index), value);
    }
    shared.write(IVAR_MISC, (IVAR_VALID | queues) << 8);
    // Each vector, the other one too.
    shared.write(EIAC, (2 << queues) - 1);
    shared.take_causes();
    shared.write(IMS, icr::LSC | icr::RXO | icr::FER | icr::DRSTA);
    unmask(shared, queues);
}

/// Lets a vector through.
#[inline]
pub(super) fn unmask<D: Device>(shared: &Shared<D>, vector: u32) {
    shared.registers.write32(EIMS, 1 << vector);
}

/// Lets a vector through for what comes from now on: a cause that was latched while the vector was masked is forgotten, for the packet is dealt with.
/// Afterwards everything that came before is in memory, to be looked at.
#[inline]
pub(super) fn listen<D: Device>(shared: &Shared<D>, vector: u32) {
    shared.registers.write32(EICR, 1 << vector);
    unmask(shared, vector);
    // Writes wait on the way. The answer to a read comes behind them, and behind packets whose cause was cleared.
    shared.registers.read32(EIMS);
}

/// Holds a vector back.
#[inline]
pub(super) fn mask<D: Device>(shared: &Shared<D>, vector: u32) {
    shared.registers.write32(EIMC, 1 << vector);
}

/// Raises a vector by software: to see that interrupts arrive.
pub(super) fn raise<D: Device>(shared: &Shared<D>, vector: u32) {
    shared.write(EICS, 1 << vector);
}

/// The shortest time between two interrupts of a vector, microseconds. False when it is more than the register holds.
pub(super) fn moderate<D: Device>(shared: &Shared<D>, vector: u32, microseconds: u32) -> bool {
    if microseconds > EITR_MOST {
        return false;
    }
    shared.write(
        EITR.at(vector),
        microseconds << EITR_INTERVAL_SHIFT | EITR_COUNT_IGNORE,
    );
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn receive_causes_lie_where_each_part_has_them() {
        assert_eq!(ivar_place(IvarLayout::Eights, 3), (3, 0));
        assert_eq!(ivar_place(IvarLayout::Eights, 9), (1, 16));
        assert_eq!(ivar_place(IvarLayout::Pairs, 3), (1, 16));
        assert_eq!(ivar_place(IvarLayout::Pairs, 6), (3, 0));
    }
}
