//! What owning a NIC through VFIO needs of the machine.

use std::fs;
use std::path::Path;
use std::process::Command;

use devrx_driver::DriverError;
use devrx_driver::vfio::{ContainerKind, Support, Sysfs, support};

use super::host::Outcome;
use super::{Check, Needed};

/// Every check of the machine.
pub fn checks() -> Vec<Check> {
    let found = support(&Sysfs::default());
    vec![
        Check::new("iommu", Needed::Vfio, iommu(&found)),
        Check::new("vfio_pci", Needed::Vfio, vfio_pci(&found)),
        Check::new("vfio", Needed::Vfio, container(&found)),
        Check::new("device_memory", Needed::Nothing, device_memory(&found)),
        Check::new("no_iommu_mode", Needed::Nothing, no_iommu_mode(&found)),
        Check::new("interrupts", Needed::Nothing, interrupts(&found)),
        Check::new("dma_mappings", Needed::Nothing, Ok(dma_mappings(&found))),
        Check::new("iommufd", Needed::Nothing, Ok(iommufd(&found))),
    ]
}

fn names(folder: &str) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(folder).map_or_else(
        |_| Vec::new(),
        |entries| {
            entries
                .flatten()
                .map(|entry| entry.file_name().to_string_lossy().into_owned())
                .collect()
        },
    );
    names.sort();
    names
}

fn iommu(found: &Support) -> Outcome {
    if found.iommu {
        let units = names("/sys/class/iommu").join(", ");
        let groups = names("/sys/kernel/iommu_groups").len();
        return Ok(format!("on ({units}), {groups} groups"));
    }
    let line = fs::read_to_string("/proc/cmdline").unwrap_or_default();
    let said = |word: &str| line.split_whitespace().any(|part| part == word);
    let table = |name: &str| Path::new("/sys/firmware/acpi/tables").join(name).exists();
    // The tables in which the firmware describes an IOMMU of Intel's, and of AMD's.
    let fix = match (table("DMAR"), table("IVRS")) {
        (true, _) if !said("intel_iommu=on") => {
            "put intel_iommu=on on the kernel's command line (GRUB_CMDLINE_LINUX in /etc/default/grub, then update-grub), and restart"
        }
        (true, _) | (_, true) => {
            "the kernel did not start the IOMMU that the firmware describes: take iommu=off and amd_iommu=off off its command line; \
             `dmesg | grep -i -e dmar -e amd-vi` says more"
        }
        _ => {
            "turn it on in the firmware (VT-d, AMD-Vi, SMMU), for Intel's with intel_iommu=on on the kernel's command line; a virtual machine \
             needs a virtual one, in QEMU `-device intel-iommu`"
        }
    };
    Err(("the kernel uses no IOMMU".into(), fix.into()))
}

fn vfio_pci(found: &Support) -> Outcome {
    if found.vfio_pci {
        return Ok("the driver vfio-pci is there".into());
    }
    let dry = Command::new("modprobe")
        .args(["--dry-run", "--quiet", "vfio-pci"])
        .status();
    if dry.is_ok_and(|status| status.success()) {
        return Ok("the module vfio-pci can be loaded; `devrx nic bind` does it".into());
    }
    Err((
        "the driver vfio-pci is not there, and no module of that name can be loaded".into(),
        "install the modules of the running kernel; one built without CONFIG_VFIO_PCI cannot be used".into(),
    ))
}

fn container(found: &Support) -> Outcome {
    match &found.container {
        Ok(ContainerKind::Type1) => {
            Ok("/dev/vfio/vfio is VFIO's container, with the type1 IOMMU driver".into())
        }
        Ok(ContainerKind::IommufdCompat) => {
            Ok("/dev/vfio/vfio is iommufd, speaking VFIO's language".into())
        }
        Err(DriverError::Sys { call, source, fix }) => {
            Err((format!("{call} failed: {source}"), fix.clone()))
        }
        Err(error) => Err((
            error.to_string(),
            "modprobe -a vfio-pci vfio_iommu_type1".into(),
        )),
    }
}

fn device_memory(found: &Support) -> Outcome {
    match &found.container {
        Ok(ContainerKind::Type1) => Ok("NICs can be given the memory of other devices (type1)".into()),
        Ok(ContainerKind::IommufdCompat) => Err((
            "NICs cannot be given the memory of other devices: iommufd maps none".into(),
            "a kernel with CONFIG_VFIO_CONTAINER; only `--memory pci:` and dma-bufs of devices need it".into(),
        )),
        Err(_) => Err(("cannot be told".into(), "first what vfio says".into())),
    }
}

fn no_iommu_mode(found: &Support) -> Outcome {
    if found.unsafe_no_iommu {
        return Err((
            "VFIO takes devices without an IOMMU, which can then write to all memory".into(),
            "echo N > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode; devrx uses no device that way".into(),
        ));
    }
    Ok("VFIO takes no device without an IOMMU".into())
}

fn interrupts(found: &Support) -> Outcome {
    if found.unsafe_interrupts {
        return Err((
            "VFIO takes devices that can send the interrupts of others".into(),
            "turn interrupt remapping on in the firmware, then echo N > /sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts".into(),
        ));
    }
    Ok("VFIO takes no device that can send the interrupts of others".into())
}

fn dma_mappings(found: &Support) -> String {
    match found.mapping_limit {
        Some(limit) => format!("{limit} ranges of memory can be mapped for a NIC"),
        None => {
            "how many ranges can be mapped is not known before vfio_iommu_type1 is loaded".into()
        }
    }
}

fn iommufd(found: &Support) -> String {
    let has = |there| if there { "is there" } else { "is not there" };
    format!(
        "/dev/iommu {}, /dev/vfio/devices {}; devrx uses neither, only VFIO's groups",
        has(found.iommufd),
        has(found.device_files)
    )
}
