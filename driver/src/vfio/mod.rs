//! Owning a PCI function through VFIO: the device's registers, interrupts and configuration space in this process, and an IOMMU that lets
//! the device reach the memory it was given, and no other.
//!
//! [`Sysfs`] finds functions, a [`Binder`] gives them to vfio-pci and back to Linux, [`Function`] opens one. [`peer`] opens a BAR of another
//! device as memory that a NIC may write. What stands on the
//! kernel is VFIO's group, container and type1 IOMMU driver, as distributions ship it (linux/vfio.h); iommufd is only
//! detected ([`support`]). VFIO's mode without an IOMMU is always refused: it would let the device write to all memory.

mod address;
mod bar;
mod bind;
mod config;
mod container;
mod faults;
mod function;
mod group;
mod in_use;
mod iommu;
mod iova;
mod irq;
mod mapper;
mod owned;
pub mod peer;
mod support;
mod sys;
mod sysfs;

pub use address::PciAddress;
pub use bar::Bar;
pub use bind::{Binder, Bound, Unbound};
pub use config::{Command, Config, Status};
pub use container::ContainerKind;
pub use faults::{FaultWatcher, IommuFault};
pub use function::{Function, Options};
pub use iommu::IommuInfo;
pub use mapper::ContainerMapper;
pub use support::{Support, device_file, support};
pub use sysfs::{GroupMember, PciFunction, Sysfs};
