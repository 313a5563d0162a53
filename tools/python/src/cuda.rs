//! The region in a CUDA device's address space: imported where it is a GPU's memory, registered where it is the host's. Not run on a GPU.

use devrx_client::Attachment;
use devrx_gpu::cuda::{Allocation, Driver, HostMemory};
use devrx_gpu::{Access, GpuError};

use crate::error::Failure;
use crate::payload::Device;

/// What this process has of the region on the device; dropping it takes it from there.
pub(crate) enum Mapped {
    Imported(Allocation),
    Registered(HostMemory),
}

impl Mapped {
    pub(crate) fn address(&self) -> u64 {
        match self {
            Self::Imported(memory) => memory.device_address(),
            Self::Registered(memory) => memory.device_address(),
        }
    }
}

/// Gives the region to the device of that number.
pub(crate) fn map(attachment: &Attachment, index: u32) -> Result<Device, Failure> {
    let region = &attachment.opened().region;
    let none = || {
        Failure::invalid(format!(
            "the daemon has no descriptor of this {} memory for a CUDA device: cuda, memfd and hugetlb can be given to one",
            region.memory
        ))
    };
    let context = Driver::load()?.device(index)?.context()?;
    let mapped = match region.memory.split(':').next() {
        Some("cuda") => {
            let exported = attachment.export_fd().ok_or_else(none)?;
            Mapped::Imported(Allocation::import(&context, exported, region.size)?)
        }
        Some("memfd" | "hugetlb" | "udmabuf") => {
            let fd = attachment.region_fd().ok_or_else(none)?;
            let register = |access| HostMemory::register(&context, fd, 0, region.size, access);
            // What the daemon made can be had for reading alone.
            let registered = match register(Access::ReadWrite) {
                Err(GpuError::Sys { .. }) => register(Access::Read),
                registered => registered,
            };
            Mapped::Registered(registered?)
        }
        _ => return Err(none()),
    };
    let id = i32::try_from(index).map_err(|_| Failure::invalid("there is no such device"))?;
    Ok(Device::cuda(id, mapped))
}
