//! Virtual functions: what they can do here, and what they cannot.

use devrx_driver::device::PciId;
use devrx_driver::vfio::{PciFunction, Sysfs};
use serde::Serialize;

/// How many virtual functions a function has.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct VirtualFunctions {
    /// How many it can have.
    pub total: u32,
    /// How many are there.
    pub enabled: u32,
}

impl From<(u32, u32)> for VirtualFunctions {
    fn from((total, enabled): (u32, u32)) -> Self {
        Self { total, enabled }
    }
}

/// What a virtual function of a family that devrx knows is called (device numbers as Linux's igbvf and iavf list them).
pub fn part(id: PciId) -> Option<String> {
    let name = match (id.vendor, id.device) {
        (0x8086, 0x10ca | 0x152d) => "82576 virtual function",
        (0x8086, 0x1520 | 0x152f) => "I350 virtual function",
        (0x8086, 0x1889) => "E810 virtual function",
        _ => return None,
    };
    Some(name.to_owned())
}

/// What to say of a function's part in SR-IOV; `drives` tells whether devrx has a driver for it.
pub fn notes(sysfs: &Sysfs, function: &PciFunction, drives: bool) -> Vec<String> {
    let mut notes = Vec::new();
    if let Some(physical) = function.physical_function {
        notes.push(format!(
            "a virtual function of {physical}. devrx drives whole NICs only: a virtual function asks its physical function for address, link and \
             VLANs through a mailbox that devrx does not speak. It can be used through its Linux driver (`--nic afxdp:IFNAME`), or by another \
             program through vfio-pci"
        ));
    }
    if let (true, Some((total, enabled))) = (drives, function.virtual_functions) {
        let file = sysfs.folder(function.address).join("sriov_numvfs");
        notes.push(if enabled > 0 {
            format!(
                "it has {enabled} of {total} virtual functions. With them it stays with Linux, since they need their physical function: to own it, \
                 `echo 0 > {}`",
                file.display()
            )
        } else {
            format!("it has 0 of {total} virtual functions, and can have none while devrx owns it")
        });
    }
    notes
}
