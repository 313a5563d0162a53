//! What the code of a NIC sees of the PCI function it drives: registers, memory it can reach by DMA, interrupts, reset.
//!
//! A NIC's driver is generic over [`Device`], so that the same code drives hardware that this process owns through VFIO
//! ([`crate::vfio`]) and a model of it in tests. It contains no unsafe code: that is in the implementations, and in [`DmaBuffer`].
//!
//! Memory that a device may write leaves its reach only after the device is proven to write there no more. A [`DmaMapping`] keeps
//! what it maps alive, and undoes the mapping when it is dropped: so a queue drops its mappings after it has been stopped, and
//! [leaks](DmaMapping::leak) them where that could not be proven.

mod buffer;
mod mapping;
mod silence;

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::Arc;

pub use buffer::DmaBuffer;
use devrx_provider::MapWay;
pub use mapping::{DmaMapping, Mapper, Memory};
pub(crate) use silence::stays_silent;

use crate::DriverError;

/// Access to one BAR's registers. Shared by control and queues; who may touch which register is the driver's business.
pub trait Registers: Send + Sync + 'static {
    /// Reads the 32-bit register at `offset` bytes. All ones when the device is gone.
    ///
    /// # Panics
    ///
    /// When `offset` is not a multiple of 4, or not in the BAR: offsets come from register definitions and checked indices, never from outside.
    fn read32(&self, offset: u32) -> u32;

    /// Writes the 32-bit register at `offset` bytes. Everything this thread wrote to memory before is visible to the device before the
    /// register is.
    ///
    /// # Panics
    ///
    /// As [`read32`](Self::read32).
    fn write32(&self, offset: u32, value: u32);
}

/// Which part a function is (PCI Local Bus Specification 3.0, 6.2.1 and 6.2.4).
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct PciId {
    /// Vendor.
    pub vendor: u16,
    /// Device.
    pub device: u16,
    /// Subsystem vendor.
    pub subsystem_vendor: u16,
    /// Subsystem.
    pub subsystem: u16,
    /// Revision.
    pub revision: u8,
}

/// A PCI function that this process owns. Everything here is for control; a queue keeps the [`Registers`] and its mappings.
pub trait Device: Send + Sync + 'static {
    /// Access to BAR 0.
    type Registers: Registers;

    /// The PCI address, as in `0000:03:00.0`.
    fn address(&self) -> &str;

    /// Which part it is.
    fn id(&self) -> PciId;

    /// The registers of BAR 0.
    fn registers(&self) -> Arc<Self::Registers>;

    /// Gives the device access to memory.
    fn mapper(&self) -> Arc<dyn Mapper>;

    /// Lets the device do DMA, or no more. Off after it was opened.
    ///
    /// # Errors
    ///
    /// What the system refused.
    fn set_bus_master(&self, on: bool) -> Result<(), DriverError>;

    /// Resets the function. After it returned `Ok`, everything the device had begun to write has been written, it writes nothing more, its registers
    /// are as after power-on, bus mastering is off and its interrupts are disarmed. One that is [`gone`](Self::gone) is not reset: `Ok` then means that it writes
    /// nothing more, and no more than that.
    ///
    /// # Errors
    ///
    /// What the system refused; nothing is proven then.
    fn reset(&self) -> Result<(), DriverError>;

    /// How many MSI-X vectors it has.
    fn vectors(&self) -> u32;

    /// Arms vectors 0 to `count`, exclusive, and returns an eventfd for each, non-blocking, which the device's interrupt writes. What was armed before is disarmed.
    ///
    /// # Errors
    ///
    /// What the system refused.
    fn arm_vectors(&self, count: u32) -> Result<Vec<OwnedFd>, DriverError>;

    /// Becomes readable when the device has reported an error that cannot be corrected, or somebody wants it back (hot-unplug): the NIC must end.
    /// `None` where there is no such notice.
    fn trouble(&self) -> Option<BorrowedFd<'_>>;

    /// What [`trouble`](Self::trouble) was about, once it is readable: a sentence with what to do.
    fn trouble_text(&self) -> String;

    /// Whether there is nothing any more where the device was: it was pulled without a word, or its slot lost power. What is gone writes nothing, and when it comes
    /// back it is as after power-on. A system call, and a quarter of a second where nobody answers, so not for the packet path.
    fn gone(&self) -> bool {
        false
    }

    /// The ways its [`mapper`](Self::mapper) can execute.
    fn ways(&self) -> &'static [MapWay];
}
