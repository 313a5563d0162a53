//! What this machine has for owning devices: for diagnosis. Nothing here changes anything.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};

use super::container::{ContainerKind, container_kind};
use super::{PciAddress, Sysfs};
use crate::DriverError;

/// What there is.
#[derive(Debug)]
#[non_exhaustive]
pub struct Support {
    /// Whether the kernel uses an IOMMU.
    pub iommu: bool,
    /// Whether the module vfio-pci is loaded or built in.
    pub vfio_pci: bool,
    /// Who answers behind `/dev/vfio/vfio`; why nobody does.
    pub container: Result<ContainerKind, DriverError>,
    /// Whether `/dev/iommu` is there (iommufd, `CONFIG_IOMMUFD`); devrx does not use it.
    pub iommufd: bool,
    /// Whether devices bound to vfio-pci have files of their own in `/dev/vfio/devices` (`CONFIG_VFIO_DEVICE_CDEV`); devrx does not use them.
    pub device_files: bool,
    /// Whether VFIO takes devices without an IOMMU; devrx never does.
    pub unsafe_no_iommu: bool,
    /// Whether VFIO takes devices that could send interrupts of others.
    pub unsafe_interrupts: bool,
    /// How many mappings a container may have, where that is known.
    pub mapping_limit: Option<u32>,
}

/// What this machine has.
#[must_use]
pub fn support(sysfs: &Sysfs) -> Support {
    let on = |module, name| {
        sysfs
            .module_parameter(module, name)
            .is_some_and(|value| value == "Y" || value == "1")
    };
    Support {
        iommu: sysfs.has_iommu(),
        vfio_pci: sysfs.driver_folder(super::bind::VFIO_PCI).is_dir(),
        container: container_kind(),
        iommufd: has_node("/dev/iommu"),
        device_files: Path::new("/dev/vfio/devices").is_dir(),
        unsafe_no_iommu: on("vfio", "enable_unsafe_noiommu_mode"),
        unsafe_interrupts: on("vfio_iommu_type1", "allow_unsafe_interrupts"),
        mapping_limit: sysfs
            .module_parameter("vfio_iommu_type1", "dma_entry_limit")
            .and_then(|value| value.parse().ok()),
    }
}

/// A function's own file in `/dev/vfio/devices`, where the kernel makes one.
#[must_use]
pub fn device_file(sysfs: &Sysfs, address: PciAddress) -> Option<PathBuf> {
    let folder = sysfs.folder(address).join("vfio-dev");
    let device = std::fs::read_dir(folder).ok()?.flatten().next()?;
    // The folder is there without CONFIG_VFIO_DEVICE_CDEV too; the number of a device node is not.
    if !device.path().join("dev").exists() {
        return None;
    }
    Some(Path::new("/dev/vfio/devices").join(device.file_name()))
}

/// Whether a device node is there and a driver behind it.
fn has_node(path: &str) -> bool {
    match OpenOptions::new().read(true).write(true).open(path) {
        Ok(_) => true,
        Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vfio::sysfs::tests::Machine;

    #[test]
    fn parameters_of_modules_are_read() {
        let machine = Machine::new();
        machine.write("module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n");
        machine.write(
            "module/vfio_iommu_type1/parameters/allow_unsafe_interrupts",
            "N\n",
        );
        machine.write(
            "module/vfio_iommu_type1/parameters/dma_entry_limit",
            "65535\n",
        );
        let support = support(&machine.sysfs());
        assert!(support.unsafe_no_iommu && !support.unsafe_interrupts);
        assert_eq!(support.mapping_limit, Some(65535));
        assert!(!support.iommu && !support.vfio_pci);
    }

    #[test]
    fn a_functions_own_file_is_found() {
        let machine = Machine::new();
        machine.function("0000:01:00.0", "0x020000", Some("vfio-pci"), Some(1));
        let address = "01:00.0".parse().unwrap();
        assert_eq!(device_file(&machine.sysfs(), address), None);
        machine.write("bus/pci/devices/0000:01:00.0/vfio-dev/vfio3/uevent", "");
        assert_eq!(device_file(&machine.sysfs(), address), None);
        machine.write("bus/pci/devices/0000:01:00.0/vfio-dev/vfio3/dev", "511:3\n");
        assert_eq!(
            device_file(&machine.sysfs(), address),
            Some("/dev/vfio/devices/vfio3".into())
        );
    }
}
