//! The kinds of memory, as the command line spells them.

use std::fmt;

/// The kind of memory behind a region.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum MemoryKind {
    /// Shared host memory.
    Memfd,
    /// Shared host memory in huge pages.
    Hugetlb,
    /// Shared host memory that is also exported as a dma-buf.
    Udmabuf,
    /// A dma-buf somebody handed over.
    Dmabuf,
    /// A BAR of a PCI function.
    Pci,
    /// Memory of an NVIDIA GPU.
    Cuda,
    /// Memory of an AMD GPU.
    Hip,
}

impl fmt::Display for MemoryKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Memfd => "memfd",
            Self::Hugetlb => "hugetlb",
            Self::Udmabuf => "udmabuf",
            Self::Dmabuf => "dmabuf",
            Self::Pci => "pci",
            Self::Cuda => "cuda",
            Self::Hip => "hip",
        })
    }
}
