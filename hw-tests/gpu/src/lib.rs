//! The GPU lane: what an NVIDIA GPU and its driver do, on the machine at hand. `cargo xtask test gpu` runs it.
//!
//! Its tests, in `tests/`, are ignored elsewhere. They print what the driver answers, for docs/src/gpu.md. The NIC is the 82576's register model, in
//! this process: it writes by ordinary stores, through the mapping that a NIC's IOMMU would be given. So what is shown is that the mapping
//! is the GPU's memory, and that its kernels see what was stored; what is not shown is that a PCI device reaches it.

pub mod peer;
pub mod rig;

use anyhow::{Context, Result};
use devrx_gpu::cuda::{Device, Driver};

/// The GPUs of this machine.
///
/// # Errors
/// No library, or no GPU: the lane is not run on such a machine.
pub fn devices() -> Result<Vec<Device>> {
    let driver = Driver::load()?;
    let count = driver.devices()?;
    let devices: Result<Vec<Device>, _> = (0..count).map(|index| driver.device(index)).collect();
    let devices = devices?;
    devices.first().context("the driver finds no GPU")?;
    Ok(devices)
}

/// Bytes that differ from those at every other place, and from those of another `seed`.
#[must_use]
pub fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len)
        .map(|at| (at as u32).wrapping_mul(2_654_435_761).rotate_left(9) as u8 ^ seed)
        .collect()
}
