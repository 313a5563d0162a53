//! Memory a NIC may write: regions, chunks and the providers that hand them out.
//!
//! A [`Region`] is one span of memory held by file descriptor and cut into chunks of one size. A [`MemoryProvider`] hands its
//! chunks to a page pool and takes them back; it knows nothing of NICs, and NICs know nothing of it. One file a kind of memory:
//! [`memfd`], [`hugetlb`], [`udmabuf`], [`dmabuf`].

mod chunk;
pub mod dmabuf;
mod error;
pub mod hugetlb;
mod kind;
mod mapping;
pub mod memfd;
mod provider;
mod region;
mod region_provider;
pub mod udmabuf;

pub use chunk::{CHUNK_BATCH, ChunkIndex};
pub use error::ProviderError;
pub use kind::MemoryKind;
pub use mapping::Mapping;
pub use provider::{Flush, MapWay, MemoryProvider, ProviderStats, QueueNeeds};
pub use region::{Region, RegionSpec};
pub use region_provider::RegionProvider;
