//! PCI functions as the commands show them: which part, who has it, and what stands between it and devrx.

mod holders;
mod ready;
mod sriov;

use std::fmt;

use anyhow::{Context, Result};
use devrx_driver::device::PciId;
use devrx_driver::vfio::{PciAddress, PciFunction, Sysfs};
use serde::Serialize;

pub use holders::{Holder, holders};
pub use ready::State;
pub use sriov::VirtualFunctions;

/// A network controller on the PCI buses.
#[derive(Debug, Serialize)]
pub struct Function {
    /// Its address, as in `--nic vfio:PCI`.
    pub pci: String,
    /// Vendor and device, as lspci writes them: `8086:10c9`.
    pub id: String,
    /// What the part is called, where devrx knows it.
    pub part: Option<String>,
    /// devrx's driver for it; none: it has none.
    pub devrx_driver: Option<&'static str>,
    /// The Linux driver that has it.
    pub driver: Option<String>,
    /// Its IOMMU group; none: no IOMMU guards it.
    pub iommu_group: Option<u32>,
    /// The other functions of its group.
    pub group_members: Vec<Member>,
    /// Its network interfaces in this network namespace.
    pub interfaces: Vec<String>,
    /// The memory node it is near to, where that is known.
    pub numa_node: Option<u32>,
    /// Its virtual functions, where it can have some.
    pub virtual_functions: Option<VirtualFunctions>,
    /// The function that this is a virtual function of.
    pub physical_function: Option<String>,
    /// Whether devrx can own it, and what is missing.
    pub state: State,
    /// Processes that have its IOMMU group open: while one does, it cannot be unbound. Those of others are seen by root only.
    pub used_by: Vec<Holder>,
    /// What to know, and what to do about it.
    pub notes: Vec<String>,
}

/// Another function of a group.
#[derive(Debug, Serialize)]
pub struct Member {
    /// Its address.
    pub pci: String,
    /// The Linux driver that has it.
    pub driver: Option<String>,
    /// Whether VFIO takes the group with it being as it is.
    pub harmless: bool,
}

/// Every network controller.
///
/// # Errors
/// Where the kernel does not list them.
pub fn list() -> Result<Vec<Function>> {
    let sysfs = Sysfs::default();
    let found = sysfs.network_functions();
    let found = found.context("cannot list the PCI functions")?;
    Ok(found
        .iter()
        .map(|found| Function::new(&sysfs, found))
        .collect())
}

/// What devrx's drivers call a part: the driver, and the part's name.
pub fn known(id: PciId) -> Option<(&'static str, String)> {
    let igb = devrx_driver::igb::supports(id).map(|part| ("igb", part.describe(id.device)));
    igb.or_else(|| devrx_driver::ice::supports(id).map(|part| ("ice", part.describe(id.device))))
}

/// What is to be said of a port of the 82576 family that is not for copper: its link is set up by what the driver does not know.
pub fn port(id: PciId) -> Option<String> {
    let part = devrx_driver::igb::supports(id)?.describe(id.device);
    (!part.contains("copper")).then(|| {
        format!("{part}: ports for fibre or backplane are not supported yet, and would have no link; leave it with Linux, and use its interface (`--nic afxdp:IFNAME`)")
    })
}

/// What is to be said of the package (DDP) of a NIC that takes one.
fn package(id: PciId) -> Option<String> {
    devrx_driver::ice::supports(id)?;
    Some(match devrx_driver::ice::system_package() {
        Ok(package) => format!("its package (DDP) is there: {package}"),
        Err(why) => format!(
            "without a package (DDP) it works in safe mode: no header split, so memory that the CPU does not read is refused; one queue for an attachment; steering by \
             destination address alone. {why}. Install it (Debian: firmware-intel-misc, elsewhere linux-firmware), or name it in the configuration (`package`)"
        ),
    })
}

impl Function {
    /// What is shown of a function.
    pub fn new(sysfs: &Sysfs, found: &PciFunction) -> Self {
        let known = known(found.id);
        let mut notes = sriov::notes(sysfs, found, known.is_some());
        notes.extend(port(found.id));
        notes.extend(package(found.id));
        if let Some(node) = found.numa_node {
            notes.push(format!(
                "it is near memory node {node}; `attach --cpu` takes a processor of that node"
            ));
        }
        Self {
            pci: found.address.to_string(),
            id: format!("{:04x}:{:04x}", found.id.vendor, found.id.device),
            part: known
                .as_ref()
                .map(|(_, part)| part.clone())
                .or_else(|| sriov::part(found.id)),
            devrx_driver: known.map(|(driver, _)| driver),
            driver: found.driver.clone(),
            iommu_group: found.iommu_group,
            group_members: found
                .group_members
                .iter()
                .map(|member| Member {
                    pci: member.address.to_string(),
                    driver: member.driver.clone(),
                    harmless: member.harmless(),
                })
                .collect(),
            interfaces: found.interfaces.clone(),
            numa_node: found.numa_node,
            virtual_functions: found.virtual_functions.map(VirtualFunctions::from),
            physical_function: found.physical_function.map(|address| address.to_string()),
            state: ready::look(sysfs, found),
            used_by: found.iommu_group.map_or_else(Vec::new, holders),
            notes,
        }
    }

    /// Whether a NIC that was called `name` on a command line is this one.
    pub fn is(&self, name: &str) -> bool {
        name.parse::<PciAddress>()
            .is_ok_and(|address| address.to_string() == self.pci)
    }
}

impl fmt::Display for Function {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = self.part.as_deref().unwrap_or("network controller");
        write!(f, "{} {part} ({})", self.pci, self.id)?;
        match &self.driver {
            Some(driver) => write!(f, ", driver {driver}")?,
            None => write!(f, ", no driver")?,
        }
        if !self.interfaces.is_empty() {
            write!(f, " ({})", self.interfaces.join(", "))?;
        }
        match self.iommu_group {
            Some(group) => write!(f, ", IOMMU group {group}")?,
            None => write!(f, ", no IOMMU group")?,
        }
        match self.devrx_driver {
            Some(driver) => write!(f, "; devrx drives it ({driver}): {}", self.state),
            None => write!(f, "; devrx has no driver for it"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_that_would_have_no_link_are_told() {
        let port = |device| {
            let vendor = 0x8086;
            super::port(PciId {
                vendor,
                device,
                ..PciId::default()
            })
        };
        for copper in [0x10c9, 0x10e8, 0x1521, 0x1533, 0x1539, 0x157b] {
            assert_eq!(port(copper), None, "{copper:#x}");
        }
        for other in [0x10e6, 0x10e7, 0x1523, 0x1524, 0x1536] {
            let said = port(other).expect("told");
            assert!(said.contains("afxdp"), "{said}");
        }
        // An E810, and a part that nobody here knows.
        assert_eq!(port(0x1592), None);
        assert_eq!(port(0x1234), None);
    }
}
