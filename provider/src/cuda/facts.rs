//! What is true of a GPU on this machine, and the way to its memory that follows.

use std::fs;
use std::path::Path;

use devrx_gpu::bar;
use devrx_gpu::cuda::{Attribute, Device, Ordering};

use super::{HOST_MEMORY, Options};
use crate::{Flush, ProviderError};

/// The BAR through which an NVIDIA GPU shows its memory.
const MEMORY_BAR: usize = 1;

/// What a GPU, its driver and this machine answer.
#[derive(Clone, Debug)]
pub struct Facts {
    /// `cuda:0 (NAME at PCI)`, for messages.
    pub device: String,
    /// Its address on the PCI buses.
    pub pci: String,
    /// The CUDA version of the driver: 13030 for 13.3.
    pub version: i32,
    /// Its memory is the host's.
    pub integrated: bool,
    /// Its memory can be exported as a dma-buf (attribute 124).
    pub dmabuf: bool,
    /// Such a dma-buf can be mapped (attribute 152).
    pub mmap: bool,
    /// `nvidia_p2p_get_pages` works, which gdrdrv uses (attribute 116).
    pub rdma: bool,
    /// Who sees a NIC's writes without a flush (attribute 118).
    pub ordering: Ordering,
    /// Bytes of BAR1; `None` where the kernel does not show it.
    pub bar1: Option<u64>,
    /// The other kernel module that maps a GPU's memory.
    pub gdrdrv: Gdrdrv,
}

/// Whether gdrdrv can be used.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Gdrdrv {
    /// It is not loaded, or has no device file.
    Absent,
    /// What it maps ends with the process whose memory it is: a NIC would write on, into a window that somebody else has by then.
    NotPersistent,
    /// What it maps stays until its descriptor is closed.
    Persistent,
}

/// A way to an address that a VFIO type1 container maps.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Way {
    /// mmap of the dma-buf.
    DmabufMmap,
    /// gdrdrv.
    Gdrdrv,
}

impl Gdrdrv {
    /// Looks at the module.
    #[must_use]
    pub fn find(options: &Options) -> Self {
        if !options.gdrdrv.exists() {
            return Self::Absent;
        }
        if persistent(&options.gdrdrv_params) {
            Self::Persistent
        } else {
            Self::NotPersistent
        }
    }
}

fn persistent(params: &Path) -> bool {
    let text = fs::read_to_string(params).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.strip_prefix("Use persistent mapping:"))
        .any(|value| value.trim() == "yes")
}

impl Facts {
    /// Asks everybody.
    ///
    /// # Errors
    ///
    /// What the driver answers.
    pub fn of(device: &Device, options: &Options) -> Result<Self, ProviderError> {
        let pci = device.pci_address()?;
        Ok(Self {
            device: format!("cuda:{} ({} at {pci})", device.index(), device.name()?),
            version: device.driver_version(),
            integrated: device.can(Attribute::Integrated)?,
            dmabuf: device.can(Attribute::DmaBuf)?,
            mmap: device.can(Attribute::DmaBufMmap)?,
            rdma: device.can(Attribute::Rdma)?,
            ordering: device.ordering()?,
            bar1: bar::bar_size(&options.sysfs, &pci, MEMORY_BAR),
            gdrdrv: Gdrdrv::find(options),
            pci,
        })
    }

    /// The driver's CUDA version, as people write it.
    #[must_use]
    pub fn version(&self) -> String {
        format!("{}.{}", self.version / 1000, self.version % 1000 / 10)
    }

    /// The way that this machine offers.
    ///
    /// # Errors
    ///
    /// [`ProviderError::Unfit`] when it offers none: what each would take, and what does without.
    pub fn way(&self) -> Result<Way, ProviderError> {
        if self.integrated {
            return Err(ProviderError::Unfit(format!(
                "{} has no memory of its own: {HOST_MEMORY}, which is all its memory",
                self.device
            )));
        }
        if self.dmabuf && self.mmap {
            return Ok(Way::DmabufMmap);
        }
        if self.rdma && self.gdrdrv == Gdrdrv::Persistent {
            return Ok(Way::Gdrdrv);
        }
        let [mmap, gdrdrv] = self.lacks();
        Err(ProviderError::Unfit(format!(
            "no NIC can be given access to the memory of {}. {mmap}. {gdrdrv}. Where neither can be had, {HOST_MEMORY}",
            self.device
        )))
    }

    /// What mapping the dma-buf lacks here, and what gdrdrv lacks, where [`way`](Self::way) finds none.
    #[must_use]
    pub fn lacks(&self) -> [String; 2] {
        let mmap = if self.dmabuf {
            format!(
                "Its dma-bufs cannot be mapped (attribute 152; the driver has CUDA {}): that takes a driver of CUDA 13.3 (R610) or later",
                self.version()
            )
        } else {
            format!(
                "Its memory cannot be exported as a dma-buf (attribute 124; the driver has CUDA {}): that takes NVIDIA's open kernel modules, CUDA 11.7 \
                 or later, and to be mapped CUDA 13.3 (R610)",
                self.version()
            )
        };
        let gdrdrv = match self.gdrdrv {
            _ if !self.rdma => {
                "gdrdrv cannot map it either (attribute 116): GeForce cards lack it".to_owned()
            }
            Gdrdrv::Absent => {
                "gdrdrv is not loaded (/dev/gdrdrv): build GDRCopy's kernel module, and load it with use_persistent_mapping=1".to_owned()
            }
            _ => "gdrdrv would let go of the memory under the NIC when this process is killed: load it with use_persistent_mapping=1".to_owned(),
        };
        [mmap, gdrdrv]
    }

    /// Whether so many bytes fit the GPU's window on the bus. What else uses the window is only seen when it is mapped.
    ///
    /// # Errors
    ///
    /// [`ProviderError::BadSize`], with the window's size and how it is made larger.
    pub fn check_size(&self, bytes: u64) -> Result<(), ProviderError> {
        match self.bar1 {
            Some(bar1) if bytes > bar1 && !devrx_sabotage::removed("cuda-bar-size") => {
                Err(ProviderError::BadSize {
                    what: "the region's size",
                    value: bytes,
                    why: format!(
                        "{} shows {} MiB of its memory on the bus (BAR1): ask for less than that, or turn on resizable BAR (Above 4G Decoding) in \
                         the machine's firmware; for more, {HOST_MEMORY}",
                        self.device,
                        bar1 >> 20
                    ),
                })
            }
            _ => Ok(()),
        }
    }

    /// What must happen before a kernel of the GPU reads what a NIC wrote. The read that [`Flush::ReadPerBatch`] makes goes the way of the writes, and
    /// comes back after them: what `cuFlushGPUDirectRDMAWrites` does, without a call of the driver's in the packet's way.
    #[must_use]
    pub fn flush(&self) -> Flush {
        match self.ordering {
            Ordering::NeedsFlush => Flush::ReadPerBatch,
            Ordering::Owner | Ordering::AllDevices => Flush::None,
        }
    }
}
