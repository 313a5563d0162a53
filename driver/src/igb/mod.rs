//! Intel's 82576 and its family, owned through [`Device`](crate::device::Device): registers, rings, header split by the NIC.
//!
//! [`IgbNic`] controls, an [`IgbQueue`] receives: the NIC writes headers into the queue's header slots and payload into its chunks, and
//! no payload byte is looked at here, but for what the NIC puts in front of a packet that is stamped and not split.
//!
//! # What has been run
//!
//! The 82576 as QEMU models it, and the register model in `model`, which follows the datasheet where QEMU leaves it. **Not run on silicon**,
//! none of the parts. Register facts are from Intel's datasheets (82576 revision 2.87, I350, I210), section numbers in `regs`; where QEMU
//! differs, the driver satisfies both, and says so at the place.
//!
//! # Which packet comes to which queue
//!
//! See `steer`: by destination address or by hash. Whatever else a rule asks is decided by the queue's thread from the header slot; packets no
//! rule takes are counted as `unwanted` and their chunks used again. Packets that could not be split lie in the payload as a whole,
//! where the CPU may not look: only the rule `any` takes them.
//!
//! # Timestamps
//!
//! See `clock`: the I350 and the I210 put a stamp in front of every packet; where it goes is known for some ways of splitting, and the others are refused.
//!
//! # What counts
//!
//! Each packet the NIC put into a queue ends in exactly one counter. What it dropped for want of a descriptor is in RQDPC; what its FIFO lost is
//! in MPC, for the port, and raises the overrun interrupt: from then on [`exact`](crate::QueueCounters::exact) is false. QEMU raises the interrupt and
//! counts neither.

mod clock;
mod descriptor;
mod init;
mod interrupts;
mod link;
mod loopback;
#[cfg(any(test, feature = "igb-model"))]
pub mod model;
mod monitor;
mod nic;
mod parts;
#[cfg(target_arch = "x86_64")]
mod quads;
mod queue;
mod regs;
mod semaphore;
mod shared;
mod statistics;
mod steer;
#[cfg(test)]
mod tests;
mod transmit;
mod write_back;

pub use nic::{IgbNic, IgbOptions};
pub use parts::{Part, supports};
pub use queue::IgbQueue;
pub use transmit::Transmitter;
