//! What NICs have in common that are owned as a whole and take chunks by rings of descriptors: the ring itself, the path from write-backs to batches, and what stands
//! around both. What a descriptor says is the NIC's: see [`WriteBack`].

mod buffers;
mod counts;
mod descriptors;
#[cfg(any(test, feature = "igb-model", feature = "ice-model"))]
mod iommu;
mod manner;
mod patience;
mod plain;
#[cfg(target_arch = "x86_64")]
mod quads;
mod receive;
#[cfg(test)]
pub(crate) mod rig;
mod stamps;
mod vectors;
mod write_back;

pub(crate) use buffers::Buffers;
pub(crate) use counts::Counts;
pub(crate) use descriptors::Ring;
#[cfg(any(test, feature = "igb-model", feature = "ice-model"))]
pub(crate) use iommu::{Iommu, WAYS};
pub(crate) use manner::{Manner, Unseen};
pub(crate) use patience::{pause, wait};
#[cfg(target_arch = "x86_64")]
pub(crate) use quads::{Lanes, flag};
pub(crate) use receive::{Receive, UNTOLD};
pub(crate) use stamps::{FRONT, Stamp};
pub(crate) use vectors::{Vectors, drain, ring};
pub(crate) use write_back::{Header, WriteBack};
