//! An IOMMU group: the functions that the IOMMU cannot tell apart, so that they are owned together.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use nix::errno::Errno;
use vfio_bindings::bindings::vfio as uapi;

use super::container::{Container, open_node};
use super::sysfs::{GroupMember, PciFunction, Sysfs};
use super::{PciAddress, sys};
use crate::DriverError;

/// The groups that this process has, by their numbers: a group can be opened once, whatever of it is used.
static JOINED: Mutex<BTreeMap<u32, Weak<Joined>>> = Mutex::new(BTreeMap::new());

fn joined() -> MutexGuard<'static, BTreeMap<u32, Weak<Joined>>> {
    JOINED.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A group in a container. It leaves when dropped.
#[derive(Debug)]
struct Joined {
    file: File,
    container: Arc<Container>,
    /// Its functions that are open, or about to be. The kernel would open one twice.
    functions: Mutex<BTreeSet<PciAddress>>,
}

impl Joined {
    fn functions(&self) -> MutexGuard<'_, BTreeSet<PciAddress>> {
        self.functions
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a function has of its group, and of the container, which all functions of the group share.
#[derive(Debug)]
pub(super) struct Group {
    address: PciAddress,
    /// There until this is dropped.
    joined: Option<Arc<Joined>>,
    container: Arc<Container>,
}

impl Group {
    /// Opens the group of `function` and puts it into a container of its own, if this process has not for another function of it.
    pub(super) fn join(sysfs: &Sysfs, function: &PciFunction) -> Result<Self, DriverError> {
        let address = function.address;
        let no_nic = |why: String| DriverError::NoNic {
            nic: address.to_string(),
            why,
        };
        let number = function
            .iommu_group
            .ok_or_else(|| no_nic(no_group_text().to_owned()))?;
        if sysfs.is_no_iommu(number) {
            return Err(no_nic(no_iommu_text().to_owned()));
        }
        if function.driver.as_deref() != Some(super::bind::VFIO_PCI) {
            let driver = function.driver.as_deref().unwrap_or("none");
            return Err(no_nic(format!(
                "its driver is {driver}, not vfio-pci: give it to vfio-pci with `devrx nic bind {address}`"
            )));
        }
        // Held until the group is in its container, so that nobody meets one that is half set up.
        let mut all = joined();
        if let Some(group) = all.get(&number).and_then(Weak::upgrade) {
            return Self::take(group, address);
        }
        let container = Arc::new(Container::open()?);
        let file = open_node(format!("/dev/vfio/{number}")).map_err(|error| {
            let fix = match error.raw_os_error() {
                Some(libc::EBUSY) => format!(
                    "another program has the IOMMU group {number} of {address}: `fuser -v /dev/vfio/{number}` shows who; end that, or have it \
                     use all functions of the group"
                ),
                Some(libc::ENOENT) => format!(
                    "nothing of the IOMMU group {number} is bound to vfio-pci: `devrx nic bind {address}`; a kernel with VFIO's device \
                     files only (without CONFIG_VFIO_GROUP) cannot be used"
                ),
                Some(libc::EACCES | libc::EPERM) => {
                    format!("run as root, or give this user the file /dev/vfio/{number}")
                }
                _ => "see `dmesg`".to_owned(),
            };
            DriverError::sys("open of /dev/vfio/GROUP", error, fix)
        })?;
        let fd = file.as_fd();
        let status = sys::group_status(fd).map_err(|error| {
            DriverError::sys("VFIO_GROUP_GET_STATUS", error.into(), "see `dmesg`")
        })?;
        if status & uapi::VFIO_GROUP_FLAGS_VIABLE == 0 {
            let others = sysfs.group_members(number);
            return Err(no_nic(not_viable_text(number, address, &others)));
        }
        sys::set_container(fd, container.as_fd()).map_err(|error| {
            DriverError::sys(
                "VFIO_GROUP_SET_CONTAINER",
                error.into(),
                "the group is in another container, or its IOMMU differs from that of the container's other groups; see `dmesg`",
            )
        })?;
        let group = Arc::new(Joined {
            file,
            container,
            functions: Mutex::default(),
        });
        group.container.set_iommu()?;
        all.insert(number, Arc::downgrade(&group));
        Self::take(group, address)
    }

    fn take(group: Arc<Joined>, address: PciAddress) -> Result<Self, DriverError> {
        if !group.functions().insert(address) {
            return Err(DriverError::NoNic {
                nic: address.to_string(),
                why: "this process has it open already; name it once".to_owned(),
            });
        }
        let container = group.container.clone();
        Ok(Self {
            address,
            joined: Some(group),
            container,
        })
    }

    pub(super) fn container(&self) -> &Arc<Container> {
        &self.container
    }

    /// Opens the function. vfio-pci enables it, resets it and turns bus mastering off.
    pub(super) fn open(&self) -> Result<OwnedFd, DriverError> {
        let name = CString::new(self.address.to_string()).unwrap_or_default();
        let Some(group) = &self.joined else {
            return Err(DriverError::sys(
                "VFIO_GROUP_GET_DEVICE_FD",
                Errno::ENODEV.into(),
                "its group was given up; this is a fault in this program",
            ));
        };
        sys::device_fd(group.file.as_fd(), &name).map_err(|error| {
            let fix = match error {
                Errno::EACCES | Errno::EPERM => {
                    "a virtual function whose physical function is with vfio-pci too needs its token, which is not supported: leave the \
                     physical function to its Linux driver"
                }
                Errno::EBUSY => "another program has it open: end that",
                Errno::ENODEV | Errno::EINVAL => "it is not bound to vfio-pci any more: `devrx nic list`",
                _ => "vfio-pci cannot start the device; see `dmesg`",
            };
            DriverError::sys("VFIO_GROUP_GET_DEVICE_FD", error.into(), fix)
        })
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Whoever asks for the group next finds it open, or closed, and not between.
        let _all = joined();
        if let Some(group) = self.joined.take() {
            group.functions().remove(&self.address);
        }
    }
}

impl Drop for Joined {
    fn drop(&mut self) {
        if let Err(error) = sys::unset_container(self.file.as_fd()) {
            // EBUSY while a duplicate of the device's file is open, as the keeper has one of a BAR's.
            tracing::debug!(%error, "VFIO_GROUP_UNSET_CONTAINER failed; closing the group does the same");
        }
    }
}

/// Why a function without a group cannot be owned.
pub(super) const fn no_group_text() -> &'static str {
    "it is in no IOMMU group, so nothing would keep it from writing to all memory: turn the IOMMU on in the firmware (VT-d, AMD-Vi), and \
     for Intel put intel_iommu=on on the kernel's command line; in a virtual machine, give it a virtual IOMMU"
}

/// Why a function in VFIO's mode without an IOMMU is refused.
pub(super) const fn no_iommu_text() -> &'static str {
    "VFIO has it without an IOMMU (vfio.enable_unsafe_noiommu_mode). That gives up what keeps the device from writing to all memory, \
     the kernel's included, and devrx always refuses it: turn the IOMMU on in the firmware, put intel_iommu=on on the \
     kernel's command line where it is Intel's, and bind the device again"
}

fn not_viable_text(number: u32, address: PciAddress, members: &[GroupMember]) -> String {
    let held: Vec<String> = members
        .iter()
        .filter(|member| member.address != address && !member.harmless())
        .map(ToString::to_string)
        .collect();
    format!(
        "its IOMMU group {number} is shared with functions that Linux drives ({}): give those to vfio-pci too (`devrx nic bind`), \
         or unbind them from their drivers; a slot whose bridge keeps functions apart (PCIe ACS) has a group of its own",
        held.join(", ")
    )
}
