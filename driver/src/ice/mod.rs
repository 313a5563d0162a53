//! Intel's E810 (`ice`), owned through [`Device`](crate::device::Device): registers, firmware, rings, header split by the NIC.
//!
//! [`IceNic`] controls, an [`IceQueue`] receives: the NIC writes headers into the queue's header slots and payload into its chunks, and
//! no payload byte is looked at here, but where a packet was not split and its memory is the CPU's to read.
//!
//! # What has been run
//!
//! A model of the E810 (`hw-tests/e810-model`), which shares no definitions with this driver and on which Linux's `ice` and DPDK's `net_ice` run. **Not run on
//! silicon.** Facts are from DPDK's base code (BSD), named at the place, and from reading what both drivers do; the datasheet (Intel 613875) was not at hand. What only a
//! driver's source says is said to be so.
//!
//! # The package
//!
//! What headers look like the NIC learns from a package (DDP), a file that Linux's driver uses too. Without one there is safe mode: nothing is split, so memory
//! that the CPU does not read is refused; nothing is hashed; only destination addresses steer packets. See [`PackageSource`].
//!
//! # Which packet comes to which queue
//!
//! See `steer`: each attachment has a VSI, and rules of the NIC's switch bring packets to it by destination address or by what the package's parser finds. Whatever else a
//! rule asks is decided by the queue's thread from the header slot; packets no rule takes are counted as `unwanted` and their chunks used again.
//!
//! # What counts
//!
//! Each packet the NIC put into a queue ends in exactly one counter. What was discarded on the way to a queue is counted for its VSI: as `no_descriptor` where the VSI has
//! that queue alone. Where an attachment has several queues the NIC does not say whose packets those were; they are with the port's losses, and
//! [`exact`](crate::QueueCounters::exact) is false. So it is once the port's packet buffer has overflowed.

mod admin;
mod clock;
mod context;
mod descriptor;
mod fault;
mod fields;
mod hash;
mod init;
mod interrupts;
mod lookup;
#[cfg(any(test, feature = "ice-model"))]
pub mod model;
mod monitor;
mod nic;
mod options;
mod package;
mod parts;
#[cfg(target_arch = "x86_64")]
mod quads;
mod queue;
mod recipe;
mod regs;
mod rules;
mod scheduler;
mod shared;
mod statistics;
mod steer;
mod switch;
#[cfg(test)]
mod tests;
mod transmit;
mod vsi;
mod write_back;

pub use nic::IceNic;
pub use options::{IceOptions, PackageSource};
pub use package::system_package;
pub use parts::{Part, supports};
pub use queue::IceQueue;
pub use transmit::Transmitter;
