//! Queues of a NIC that Linux drives, through AF_XDP sockets.
//!
//! [`AfXdpNic`] attaches an XDP program to the interface, opens a socket for each receive queue, and steers flows: the program within
//! a queue ([`bpf`]), the NIC's receive rules between queues, where it has them. [`AfXdpQueue`] splits headers in software: they are copied out to their
//! slot, the payload stays where the kernel, or in zero-copy mode the NIC, put it.
//!
//! # What counts
//!
//! The program counts the packets it sends to a socket. In copy mode each of them ends in exactly one counter (net/xdp/xsk.c): it is in the rx
//! ring, or in `rx_dropped` (no posted chunk; or longer than a chunk and no multi-buffer), or in `rx_ring_full`. In zero-copy mode what the
//! NIC drops for want of a chunk never reaches the program and is in the NIC's own statistics, for the port: [`exact`](crate::QueueCounters::exact)
//! is false then.
//!
//! # VLAN tags
//!
//! Tags that are in the frame when the program sees it stay in the frame. A tag the NIC took out is lost to AF_XDP; [`Nic::warnings`](crate::Nic::warnings) says so
//! where the NIC is set to do that.

mod bind;
pub mod bpf;
mod discover;
mod ethtool_sys;
mod features;
mod frame;
mod memory;
mod nic;
mod ntuple;
mod queue;
mod receive;
mod ring;
mod teardown;
mod xsk_sys;

pub use discover::{Interface, discover};
pub use nic::{AfXdpNic, AfXdpOptions, remove_leftover_rule};
pub use queue::AfXdpQueue;
