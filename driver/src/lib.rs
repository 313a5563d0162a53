//! What a NIC is, how to own one, and the NICs.
//!
//! A [`Nic`] opens receive queues and steers flows to them; an [`RxQueue`] is polled for a batch of packets and refilled from a
//! page pool. What packets look like ([`packet`]) and which of them a flow rule takes ([`flow`]) is the same for every NIC.
//! The NICs: [`afxdp`] (queues of a NIC that Linux drives), [`igb`] and [`ice`] (owned as a whole). How to own one: [`vfio`].

pub mod afxdp;
mod chunk;
mod clock;
pub mod device;
mod error;
pub mod flow;
#[cfg(any(test, feature = "igb-model", feature = "ice-model"))]
mod hostile;
pub mod ice;
pub mod igb;
#[cfg(target_arch = "x86_64")]
mod lanes;
mod nic;
mod owned;
pub mod packet;
mod queue;
mod ring;
mod sink;
pub mod vfio;

pub use chunk::{NO_FLOW, RxBatch, RxChunk, RxFlags, RxWords};
pub use devrx_provider::QueueNeeds;
pub use error::DriverError;
pub use nic::{Flows, Interrupts, Link, LinkState, Nic, NicStatistics, PortLosses, Statistics};
pub use owned::{Owned, Transmit};
pub use queue::{
    HeaderSlots, MAX_CHUNKS, QueueConfig, QueueCounters, RxQueue, Timestamps, Unsplit, ZeroCopy,
};
pub use sink::{Row, RxSink};
