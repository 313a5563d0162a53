//! A BAR of another device as memory that a NIC may write: peer to peer.
//!
//! VFIO's type1 driver maps what this process maps, and does not know when that goes away: the mapping outlives `munmap` and even the close
//! of the device's file, and the NIC goes on writing into the BAR. So [`BarMemory`] keeps the device open, and whoever gave a NIC
//! access keeps the [`BarMemory`]'s owner until that access is gone.

use std::any::Any;
use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use vfio_bindings::bindings::vfio as uapi;

use super::config::{Command, Config};
use super::function::Options;
use super::owned::Owned;
use super::{PciAddress, sys};
use crate::DriverError;

/// The devices that are open as memory. A group can be opened once, and a device may serve several attachments.
static OPEN: Mutex<Option<HashMap<PciAddress, Weak<Owned>>>> = Mutex::new(None);

/// A BAR, whole.
#[derive(Debug)]
pub struct BarMemory {
    /// The device's file, to map the BAR from.
    pub device: OwnedFd,
    /// Where the BAR begins in it, bytes.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
    /// The BAR as a dma-buf, for other drivers to import, where the kernel exports it (Linux 6.19, `CONFIG_VFIO_PCI_DMABUF`). It
    /// cannot be mapped by a process.
    pub dmabuf: Option<OwnedFd>,
    /// Keeps the device open, in its group and container. While it lives, the device is not reset and its memory is decoded.
    pub owner: Arc<dyn Any + Send + Sync>,
}

/// Opens BAR `bar` (0 to 5) of a device that is bound to vfio-pci, in a container of its own. Memory decoding is turned on, bus
/// mastering stays off: the device itself does nothing.
///
/// # Errors
///
/// As [`Function::open`](super::Function::open); [`DriverError::BadConfig`] for a BAR that cannot be mapped.
pub fn open_bar(
    address: PciAddress,
    bar: u32,
    options: &Options,
) -> Result<BarMemory, DriverError> {
    let bad = |why: String| DriverError::BadConfig {
        what: "PCI memory",
        value: format!("{address}/{bar}"),
        why,
    };
    if bar > 5 {
        return Err(bad("a function has BARs 0 to 5".to_owned()));
    }
    let owned = open_shared(address, options)?;
    let region = owned.region(uapi::VFIO_PCI_BAR0_REGION_INDEX + bar)?;
    if region.size == 0 || !region.mappable {
        let function = options.sysfs.function(address)?;
        let page = devrx_provider::page_size();
        let there: Vec<String> = function
            .bars
            .iter()
            .enumerate()
            .filter(|&(_, &size)| size >= page)
            .map(|(at, size)| format!("{at} ({size} bytes)"))
            .collect();
        let there = if there.is_empty() {
            "none of its BARs can".to_owned()
        } else {
            format!("those large enough are {}", there.join(", "))
        };
        return Err(bad(format!(
            "this BAR is no memory that can be mapped; {there}"
        )));
    }
    let dmabuf = sys::has_dmabuf_export(owned.fd())
        .then(|| sys::export_dmabuf(owned.fd(), bar, 0, region.size))
        .transpose()
        .unwrap_or_else(|error| {
            tracing::debug!(%error, %address, bar, "the BAR is not exported as a dma-buf");
            None
        });
    let device = owned.fd().try_clone_to_owned().map_err(|error| {
        let fix = "the process has no descriptors left: raise RLIMIT_NOFILE, or close attachments";
        DriverError::sys("dup of a device's file", error, fix)
    })?;
    Ok(BarMemory {
        device,
        offset: region.offset,
        size: region.size,
        dmabuf,
        owner: owned,
    })
}

/// The device, opened now or before.
fn open_shared(address: PciAddress, options: &Options) -> Result<Arc<Owned>, DriverError> {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let open = open.get_or_insert_default();
    open.retain(|_, owned| owned.strong_count() > 0);
    if let Some(owned) = open.get(&address).and_then(Weak::upgrade) {
        return Ok(owned);
    }
    let owned = Owned::open(&options.sysfs, address)?;
    let config = Config::new(&owned);
    config.set_command(Command::BUS_MASTER, false)?;
    config.set_command(Command::MEMORY, true)?;
    open.insert(address, Arc::downgrade(&owned));
    Ok(owned)
}
