//! A PCI function that this process owns.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::sleep;
use std::time::{Duration, Instant};

use devrx_provider::MapWay;
use nix::errno::Errno;
use vfio_bindings::bindings::vfio as uapi;

use super::bar::Bar;
use super::config::{Command, Config};
use super::container::ContainerKind;
use super::iommu::IommuInfo;
use super::irq::{self, Trouble, Vectors};
use super::mapper::{self, ContainerMapper};
use super::owned::Owned;
use super::sysfs::Sysfs;
use super::{PciAddress, sys};
use crate::DriverError;
use crate::device::{Device, Mapper, PciId, stays_silent};

/// How long a reset waits for others who have the device's lock (the kernel's own reset, a change of power state).
const RESET_PATIENCE: Duration = Duration::from_secs(2);

/// How a function is opened.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Options {
    /// Where the kernel shows its devices.
    pub sysfs: Sysfs,
}

/// A function bound to vfio-pci and opened, in a container of its own.
///
/// Dropping it disarms its interrupts and turns bus mastering off. The device file is closed, which resets the function, when the last of
/// its registers and mappings is gone too: so nothing that still maps memory for the device outlives the IOMMU's knowledge of it.
#[derive(Debug)]
pub struct Function {
    trouble: Option<Trouble>,
    /// Held while interrupts or the command register change.
    armed: Mutex<Vectors>,
    id: PciId,
    vectors: u32,
    bar: Arc<Bar>,
    mapper: Arc<ContainerMapper>,
    owned: Arc<Owned>,
}

impl Function {
    /// Opens a function: group, container, device, BAR 0. Interrupts are disarmed, bus mastering is off, memory decoding is on.
    ///
    /// # Errors
    ///
    /// [`DriverError::NoNic`] when the function cannot be owned: not bound to vfio-pci, no IOMMU, a group shared with what Linux drives;
    /// [`DriverError::Sys`] with the call that failed. The text says what to do.
    pub fn open(address: PciAddress, options: &Options) -> Result<Arc<Self>, DriverError> {
        let owned = Owned::open(&options.sysfs, address)?;
        let config = Config::new(&owned);
        let id = config.id()?;
        config.set_command(Command::BUS_MASTER, false)?;
        config.set_command(Command::MEMORY, true)?;
        no_intx(config);
        let trouble = Trouble::arm(&owned)?;
        let bar = Arc::new(Bar::map(owned.clone(), 0)?);
        Ok(Arc::new(Self {
            trouble,
            armed: Mutex::default(),
            id,
            vectors: owned.irqs(uapi::VFIO_PCI_MSIX_IRQ_INDEX),
            bar,
            mapper: Arc::new(ContainerMapper::new(owned.clone())),
            owned,
        }))
    }

    /// Its configuration space.
    #[must_use]
    pub fn config(&self) -> Config<'_> {
        Config::new(&self.owned)
    }

    /// What its IOMMU can do.
    #[must_use]
    pub fn iommu(&self) -> IommuInfo {
        self.owned.container().iommu()
    }

    /// Who answers behind `/dev/vfio/vfio`.
    #[must_use]
    pub fn container_kind(&self) -> ContainerKind {
        self.owned.container().kind()
    }

    fn changing(&self) -> MutexGuard<'_, Vectors> {
        self.armed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Keeps the function from raising INTx while MSI-X is off; a virtual function has none and does not take the bit.
fn no_intx(config: Config<'_>) {
    if let Err(error) = config.set_command(Command::INTX_DISABLE, true) {
        tracing::debug!(%error, "INTx is not turned off");
    }
}

impl Device for Function {
    type Registers = Bar;

    fn address(&self) -> &str {
        self.owned.name()
    }

    fn id(&self) -> PciId {
        self.id
    }

    fn registers(&self) -> Arc<Bar> {
        self.bar.clone()
    }

    fn mapper(&self) -> Arc<dyn Mapper> {
        self.mapper.clone()
    }

    fn set_bus_master(&self, on: bool) -> Result<(), DriverError> {
        let _guard = self.changing();
        self.config().set_command(Command::BUS_MASTER, on)
    }

    fn reset(&self) -> Result<(), DriverError> {
        let mut vectors = self.changing();
        // The kernel would wait a minute for it to come back, and fail.
        if self.gone() {
            // Where only its answers are lost, it starts no more requests.
            self.config().cut_off();
            tracing::warn!(
                device = self.owned.name(),
                "nobody answers where the device was, so it is not reset: what is gone writes nothing"
            );
            return Ok(());
        }
        if !self.owned.can_reset() {
            return Err(DriverError::Unsupported {
                nic: self.owned.name().to_owned(),
                driver: "vfio-pci".to_owned(),
                what: "be reset",
                why: "the kernel knows no way to reset this function alone (`reset_method` in sysfs is empty); power the slot off and on"
                    .to_owned(),
            });
        }
        vectors.disarm(&self.owned)?;
        // The device starts no more requests.
        self.config().set_command(Command::BUS_MASTER, false)?;
        // The kernel waits for requests that are on their way, resets the function and restores its configuration space, with the command
        // register as it is now (vfio_pci_core.c: vfio_pci_ioctl_reset, pci.c: pcie_flr).
        let began = Instant::now();
        loop {
            match sys::reset(self.owned.fd()) {
                Ok(()) => break,
                Err(Errno::EAGAIN) if began.elapsed() < RESET_PATIENCE => {
                    sleep(Duration::from_millis(10));
                }
                Err(error) => {
                    return Err(DriverError::sys(
                        "VFIO_DEVICE_RESET",
                        error.into(),
                        "what the device still writes cannot be known, so its memory is kept; end the daemon, then power the slot or the \
                         machine off and on",
                    ));
                }
            }
        }
        // Reading back is also what pushes the device's last writes before it.
        self.config().set_command(Command::BUS_MASTER, false)?;
        self.config().set_command(Command::MEMORY, true)?;
        no_intx(self.config());
        Ok(())
    }

    fn vectors(&self) -> u32 {
        self.vectors
    }

    fn arm_vectors(&self, count: u32) -> Result<Vec<OwnedFd>, DriverError> {
        self.changing().arm(&self.owned, count)
    }

    fn trouble(&self) -> Option<BorrowedFd<'_>> {
        self.trouble.as_ref().map(Trouble::fd)
    }

    fn trouble_text(&self) -> String {
        let name = self.owned.name();
        self.trouble
            .as_ref()
            .and_then(|trouble| trouble.text(name))
            .unwrap_or_else(|| format!("{name} has reported no trouble"))
    }

    fn gone(&self) -> bool {
        stays_silent(|| self.config().is_silent())
    }

    fn ways(&self) -> &'static [MapWay] {
        mapper::ways(self.owned.container().kind())
    }
}

impl Drop for Function {
    fn drop(&mut self) {
        let results = [
            self.changing().disarm(&self.owned),
            irq::disarm_trouble(&self.owned),
            self.config().set_command(Command::BUS_MASTER, false),
        ];
        for error in results.into_iter().filter_map(Result::err) {
            tracing::warn!(%error, device = self.owned.name(), "a device was not quiet when it was given up; closing it resets it");
        }
    }
}
