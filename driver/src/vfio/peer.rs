//! A BAR of another device as memory that a NIC may write: peer to peer.
//!
//! VFIO's type1 driver maps what this process maps, and does not know when that goes away: the mapping outlives `munmap` and even the close
//! of the device's file, and the NIC goes on writing into the BAR. So what [`BarMemory::into_bar`] gives keeps the device open, and is kept
//! itself until no NIC has access any more. And who uses one must end that when the kernel wants the device back ([`PeerWatch`]): whoever
//! unbinds or unplugs it waits until then.

use std::collections::HashMap;
use std::os::fd::BorrowedFd;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use devrx_provider::pci::PciBar;
use vfio_bindings::bindings::vfio as uapi;

use super::config::{Command, Config};
use super::function::Options;
use super::irq::{self, Trouble};
use super::owned::{Owned, RegionInfo};
use super::{PciAddress, sys};
use crate::DriverError;

/// The devices that are open as memory. A group can be opened once, and a device may serve several attachments.
static OPEN: Mutex<Option<HashMap<PciAddress, Weak<Peer>>>> = Mutex::new(None);

/// A device that is open as memory.
#[derive(Debug)]
struct Peer {
    trouble: Option<Trouble>,
    owned: Arc<Owned>,
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Err(error) = irq::disarm_trouble(&self.owned) {
            tracing::debug!(%error, device = self.owned.name(), "notices of a device were not taken off; closing it does");
        }
    }
}

/// What the kernel has to say of a device whose BAR is in use as memory. Keeps the device open: drop it with what it watches.
#[derive(Debug)]
pub struct PeerWatch(Arc<Peer>);

impl PeerWatch {
    /// Readable as long as there is [trouble](Self::trouble); `None` of a device that tells nothing.
    #[must_use]
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        self.0.trouble.as_ref().map(Trouble::fd)
    }

    /// Why the memory must be given up, once the kernel wants the device back or it has reported an error; `None` until then. What has
    /// come stays.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        let trouble = self.0.trouble.as_ref()?;
        trouble.text(self.0.owned.name())
    }
}

/// A BAR, whole.
#[derive(Debug)]
pub struct BarMemory {
    address: PciAddress,
    bar: u32,
    region: RegionInfo,
    peer: Arc<Peer>,
}

impl BarMemory {
    /// Bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.region.size
    }

    /// Whether the kernel exports BARs as dma-bufs, for other drivers to import (Linux 6.19, `CONFIG_VFIO_PCI_DMABUF`).
    #[must_use]
    pub fn exports_dmabuf(&self) -> bool {
        sys::has_dmabuf_export(self.peer.owned.fd())
    }

    /// What tells when the device is wanted back.
    #[must_use]
    pub fn watch(&self) -> PeerWatch {
        PeerWatch(self.peer.clone())
    }

    /// What a memory provider makes a region of the BAR's first `len` bytes from: a multiple of the page size, at most
    /// [`size`](Self::size). Its owner keeps the device open, in its group and container: while it lives, the device is not reset and
    /// its memory is decoded.
    ///
    /// # Errors
    ///
    /// When the process has no descriptors left.
    pub fn into_bar(self, len: u64) -> Result<PciBar, DriverError> {
        let device = self.peer.owned.fd();
        let export = if self.exports_dmabuf() {
            match sys::export_dmabuf(device, self.bar, 0, len) {
                Ok(dmabuf) => Some(dmabuf),
                Err(error) => {
                    let (address, bar) = (self.address, self.bar);
                    tracing::warn!(%error, %address, bar, len, "VFIO_DEVICE_FEATURE_DMA_BUF failed; the BAR is not exported");
                    None
                }
            }
        } else {
            None
        };
        let fd = device.try_clone_to_owned().map_err(|error| {
            let fix =
                "the process has no descriptors left: raise RLIMIT_NOFILE, or close attachments";
            DriverError::sys("dup of a device's file", error, fix)
        })?;
        Ok(PciBar {
            fd,
            offset: self.region.offset,
            len: self.region.size,
            export,
            owner: Box::new(self.peer),
        })
    }
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
    let peer = open_shared(address, options)?;
    let region = peer.owned.region(uapi::VFIO_PCI_BAR0_REGION_INDEX + bar)?;
    let page = devrx_provider::page_size();
    // A smaller one can be mapped where nothing else is in its page, but holds no chunks.
    if region.size < page || !region.mappable {
        let function = options.sysfs.function(address)?;
        let there: Vec<String> = function
            .bars
            .iter()
            .enumerate()
            .filter(|&(_, &size)| size >= page)
            .map(|(at, size)| format!("{at} ({size} bytes)"))
            .collect();
        let there = if there.is_empty() {
            "the device has none that can".to_owned()
        } else {
            format!("those large enough are {}", there.join(", "))
        };
        return Err(bad(format!(
            "this BAR of {} bytes cannot be mapped in whole pages; {there}",
            region.size
        )));
    }
    Ok(BarMemory {
        address,
        bar,
        region,
        peer,
    })
}

/// The device, opened now or before.
fn open_shared(address: PciAddress, options: &Options) -> Result<Arc<Peer>, DriverError> {
    let mut open = OPEN.lock().unwrap_or_else(PoisonError::into_inner);
    let open = open.get_or_insert_default();
    open.retain(|_, peer| peer.strong_count() > 0);
    if let Some(peer) = open.get(&address).and_then(Weak::upgrade) {
        return Ok(peer);
    }
    let owned = Owned::open(&options.sysfs, address)?;
    let config = Config::new(&owned);
    config.set_command(Command::BUS_MASTER, false)?;
    config.set_command(Command::MEMORY, true)?;
    let peer = Arc::new(Peer {
        trouble: Trouble::arm(&owned)?,
        owned,
    });
    open.insert(address, Arc::downgrade(&peer));
    Ok(peer)
}
