//! Memory a NIC may write: regions, chunks and the providers that hand them out.
//!
//! A [`Region`] is one span of memory held by file descriptor and cut into chunks of one size. A [`MemoryProvider`] hands its
//! chunks to a page pool and takes them back; it knows nothing of NICs, and NICs know nothing of it. One file a kind of memory:
//! [`memfd`], [`hugetlb`], [`udmabuf`], [`dmabuf`], [`pci`], [`cuda`], [`hip`].
//!
//! The bytes of a region are written by NICs and by other processes while this one looks at them, so no reference is ever formed
//! to them: [`Mapping`] copies them in and out with volatile accesses. Memory that a client owns can lose pages under a
//! mapping; [`guard`] lets the process survive that.

mod chunk;
pub mod cuda;
pub mod dmabuf;
mod error;
pub mod guard;
pub mod hip;
pub mod hugetlb;
mod ioctl;
mod kind;
mod mapping;
pub mod memfd;
pub mod pci;
mod provider;
mod region;
mod region_provider;
pub mod udmabuf;

pub use devrx_gpu::{self as gpu, GpuError};

pub use chunk::{CHUNK_BATCH, ChunkIndex};
pub use error::ProviderError;
pub use kind::MemoryKind;
pub use mapping::Mapping;
pub use provider::{Flush, MapWay, MemoryProvider, ProviderStats, QueueNeeds};
pub use region::{MAX_CHUNK, MIN_CHUNK, Region, RegionSpec, page_size};
pub use region_provider::RegionProvider;
