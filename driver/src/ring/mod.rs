//! What NICs have in common that are owned as a whole and take chunks by rings of descriptors: the ring itself, the path from write-backs to batches, and what stands
//! around both. What a descriptor says is the NIC's: see [`WriteBack`].

mod buffers;
mod counts;
mod descriptors;
mod manner;
mod plain;
#[cfg(target_arch = "x86_64")]
mod quads;
mod receive;
mod write_back;

pub(crate) use buffers::Buffers;
pub(crate) use counts::Counts;
pub(crate) use descriptors::Ring;
pub(crate) use manner::{Manner, Unseen};
#[cfg(target_arch = "x86_64")]
pub(crate) use quads::{Lanes, flag};
pub(crate) use receive::Receive;
pub(crate) use write_back::{Header, WriteBack};
