//! What PCI functions there are, as the kernel shows them (Documentation/ABI/testing/sysfs-bus-pci).

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::PciAddress;
use crate::DriverError;
use crate::device::PciId;

/// Class of a network controller, the upper 8 of 24 bits.
const NETWORK: u32 = 0x02;
/// Class of a PCI bridge, the upper 16 of 24 bits.
const PCI_BRIDGE: u32 = 0x0604;

/// Where the kernel shows its devices: `/sys`, or a copy of it in tests.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Sysfs {
    root: PathBuf,
}

impl Default for Sysfs {
    fn default() -> Self {
        Self::at("/sys")
    }
}

/// A PCI function.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct PciFunction {
    /// Where it is.
    pub address: PciAddress,
    /// Which part it is.
    pub id: PciId,
    /// Its class: base class, sub-class, programming interface, 8 bits each.
    pub class: u32,
    /// The Linux driver that has it.
    pub driver: Option<String>,
    /// The only driver that may have it, where one was named.
    pub driver_override: Option<String>,
    /// The IOMMU group; `None` where no IOMMU guards it.
    pub iommu_group: Option<u32>,
    /// The other functions of the group.
    pub group_members: Vec<GroupMember>,
    /// The memory node it is near to; `None` where there is but one, or the firmware does not tell.
    pub numa_node: Option<u32>,
    /// Its network interfaces, as far as they are in this process's network namespace.
    pub interfaces: Vec<String>,
    /// How many virtual functions it can have, and has. `None` where it can have none.
    pub virtual_functions: Option<(u32, u32)>,
    /// The function that this is a virtual function of.
    pub physical_function: Option<PciAddress>,
    /// Bytes in each BAR, 0 to 5; 0 where there is none.
    pub bars: [u64; 6],
    /// How the kernel can reset it, best first (`flr`, `pm`, `bus` ...); empty where it cannot.
    pub reset_methods: Vec<String>,
}

impl PciFunction {
    /// Whether it is a network controller.
    #[must_use]
    pub fn is_network(&self) -> bool {
        self.class >> 16 == NETWORK
    }
}

/// A function that shares an IOMMU group with another.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct GroupMember {
    /// Where it is.
    pub address: PciAddress,
    /// The Linux driver that has it.
    pub driver: Option<String>,
    /// Whether it is a bridge.
    pub bridge: bool,
}

impl GroupMember {
    /// Whether VFIO can own the group beside it: nobody drives it, or a driver that does no DMA of its own.
    #[must_use]
    pub fn harmless(&self) -> bool {
        match self.driver.as_deref() {
            None | Some("vfio-pci" | "pci-stub") => true,
            Some("pcieport") => self.bridge,
            Some(driver) => driver.ends_with("vfio-pci"),
        }
    }
}

impl fmt::Display for GroupMember {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let driver = self.driver.as_deref().unwrap_or("no driver");
        write!(f, "{} ({driver})", self.address)
    }
}

impl Sysfs {
    /// Another place than `/sys`.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The folder of a function.
    #[must_use]
    pub fn folder(&self, address: PciAddress) -> PathBuf {
        self.root.join("bus/pci/devices").join(address.to_string())
    }

    /// The folder of a PCI driver.
    pub(super) fn driver_folder(&self, driver: &str) -> PathBuf {
        self.root.join("bus/pci/drivers").join(driver)
    }

    /// The file that has the kernel look for a driver.
    pub(super) fn drivers_probe(&self) -> PathBuf {
        self.root.join("bus/pci/drivers_probe")
    }

    /// All functions, in the order of their addresses.
    ///
    /// # Errors
    ///
    /// When there is no PCI, or sysfs is not mounted.
    pub fn functions(&self) -> Result<Vec<PciFunction>, DriverError> {
        let entries = fs::read_dir(self.root.join("bus/pci/devices")).map_err(|error| {
            let fix = "mount sysfs on /sys; a machine without PCI has no NIC for VFIO";
            DriverError::sys("read of /sys/bus/pci/devices", error, fix)
        })?;
        let mut found: Vec<PciFunction> = entries
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            // It may be unplugged while we look.
            .filter_map(|address| self.read(address).ok())
            .collect();
        found.sort_by_key(|function| function.address);
        Ok(found)
    }

    /// All network controllers, in the order of their addresses.
    ///
    /// # Errors
    ///
    /// As [`functions`](Self::functions).
    pub fn network_functions(&self) -> Result<Vec<PciFunction>, DriverError> {
        let mut all = self.functions()?;
        all.retain(PciFunction::is_network);
        Ok(all)
    }

    /// One function.
    ///
    /// # Errors
    ///
    /// [`DriverError::NoNic`] when there is none at the address.
    pub fn function(&self, address: PciAddress) -> Result<PciFunction, DriverError> {
        self.read(address).map_err(|_| DriverError::NoNic {
            nic: address.to_string(),
            why: "there is no PCI function at this address; `devrx nic list` shows those that are there".to_owned(),
        })
    }

    fn read(&self, address: PciAddress) -> io::Result<PciFunction> {
        let folder = self.folder(address);
        let id = PciId {
            vendor: hex(&folder, "vendor")? as u16,
            device: hex(&folder, "device")? as u16,
            subsystem_vendor: hex(&folder, "subsystem_vendor").unwrap_or(0) as u16,
            subsystem: hex(&folder, "subsystem_device").unwrap_or(0) as u16,
            revision: hex(&folder, "revision").unwrap_or(0) as u8,
        };
        let iommu_group = link_name(&folder, "iommu_group").and_then(|name| name.parse().ok());
        let mut group_members =
            iommu_group.map_or_else(Vec::new, |group| self.group_members(group));
        group_members.retain(|member| member.address != address);
        let total = number(&folder, "sriov_totalvfs").filter(|&total| total > 0);
        Ok(PciFunction {
            address,
            id,
            class: hex(&folder, "class")?,
            driver: link_name(&folder, "driver"),
            driver_override: text(&folder, "driver_override")
                .ok()
                .filter(|name| !name.is_empty() && name != "(null)"),
            iommu_group,
            group_members,
            // -1 where it is not known.
            numa_node: number(&folder, "numa_node"),
            interfaces: names(&folder.join("net")),
            virtual_functions: total
                .map(|total| (total, number(&folder, "sriov_numvfs").unwrap_or(0))),
            physical_function: link_name(&folder, "physfn").and_then(|name| name.parse().ok()),
            bars: text(&folder, "resource").map_or([0; 6], |table| bars(&table)),
            reset_methods: text(&folder, "reset_method").map_or_else(
                |_| Vec::new(),
                |line| line.split_whitespace().map(str::to_owned).collect(),
            ),
        })
    }

    /// The functions of an IOMMU group, in the order of their addresses.
    #[must_use]
    pub fn group_members(&self, group: u32) -> Vec<GroupMember> {
        let folder = self.group_folder(group).join("devices");
        let mut members: Vec<GroupMember> = names(&folder)
            .iter()
            .filter_map(|name| name.parse().ok())
            .map(|address| {
                let folder = self.folder(address);
                GroupMember {
                    address,
                    driver: link_name(&folder, "driver"),
                    bridge: hex(&folder, "class").is_ok_and(|class| class >> 8 == PCI_BRIDGE),
                }
            })
            .collect();
        members.sort_by_key(|member| member.address);
        members
    }

    /// Whether a group is one that VFIO made up because there is no IOMMU (`vfio.enable_unsafe_noiommu_mode`).
    pub(super) fn is_no_iommu(&self, group: u32) -> bool {
        text(&self.group_folder(group), "name").is_ok_and(|name| name == "vfio-noiommu")
    }

    fn group_folder(&self, group: u32) -> PathBuf {
        self.root
            .join("kernel/iommu_groups")
            .join(group.to_string())
    }

    /// Whether any IOMMU is in use.
    #[must_use]
    pub fn has_iommu(&self) -> bool {
        !names(&self.root.join("kernel/iommu_groups")).is_empty()
    }

    /// A module's parameter, as text; `None` where it is not loaded or has none of that name.
    #[must_use]
    pub fn module_parameter(&self, module: &str, name: &str) -> Option<String> {
        text(
            &self.root.join("module").join(module).join("parameters"),
            name,
        )
        .ok()
    }
}

/// Sizes of the six BARs out of the lines `start end flags` of `resource`.
fn bars(table: &str) -> [u64; 6] {
    let mut sizes = [0; 6];
    for (size, line) in sizes.iter_mut().zip(table.lines()) {
        let mut fields = line
            .split_whitespace()
            .map(|field| u64::from_str_radix(field.trim_start_matches("0x"), 16).unwrap_or(0));
        let (start, end) = (fields.next().unwrap_or(0), fields.next().unwrap_or(0));
        if end > start {
            *size = end - start + 1;
        }
    }
    sizes
}

/// A file's text without the line end.
pub(super) fn text(folder: &Path, name: &str) -> io::Result<String> {
    fs::read_to_string(folder.join(name)).map(|text| text.trim().to_owned())
}

fn hex(folder: &Path, name: &str) -> io::Result<u32> {
    let text = text(folder, name)?;
    u32::from_str_radix(text.trim_start_matches("0x"), 16).map_err(io::Error::other)
}

fn number(folder: &Path, name: &str) -> Option<u32> {
    text(folder, name).ok()?.parse().ok()
}

/// The last part of where a link leads.
pub(super) fn link_name(folder: &Path, name: &str) -> Option<String> {
    let target = fs::read_link(folder.join(name)).ok()?;
    Some(target.file_name()?.to_string_lossy().into_owned())
}

/// What is in a folder, sorted; nothing where there is no such folder.
fn names(folder: &Path) -> Vec<String> {
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

#[cfg(test)]
#[path = "sysfs_tests.rs"]
pub(in crate::vfio) mod tests;
