//! What stands between a function and devrx.

use std::fmt;
use std::path::Path;

use devrx_driver::vfio::{PciFunction, Sysfs};
use serde::Serialize;

use super::known;

/// How far a function is.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(tag = "is", rename_all = "snake_case")]
pub enum State {
    /// With vfio-pci: `devrx run --nic vfio:PCI` can take it.
    Ready,
    /// `devrx nic bind` can take it.
    Bindable,
    /// Something is missing first.
    Blocked {
        /// What, and what to do.
        why: String,
    },
    /// devrx has no driver for it.
    Unknown,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready => write!(f, "ready"),
            Self::Bindable => write!(f, "can be bound"),
            Self::Blocked { why } => write!(f, "not ready: {why}"),
            Self::Unknown => write!(f, "unknown part"),
        }
    }
}

/// Looks what is missing, without changing anything.
pub fn look(sysfs: &Sysfs, function: &PciFunction) -> State {
    if known(function.id).is_none() {
        return State::Unknown;
    }
    match missing(sysfs, function) {
        Some(why) => State::Blocked { why },
        None if function.driver.as_deref() == Some("vfio-pci") => State::Ready,
        None => State::Bindable,
    }
}

fn missing(sysfs: &Sysfs, function: &PciFunction) -> Option<String> {
    let Some(group) = function.iommu_group else {
        return Some("no IOMMU guards it; `devrx doctor` says how to turn the IOMMU on".to_owned());
    };
    let held: Vec<String> = function
        .group_members
        .iter()
        .filter(|member| !member.harmless())
        .map(ToString::to_string)
        .collect();
    if !held.is_empty() {
        return Some(format!(
            "its IOMMU group {group} is shared with functions that Linux drives: {}; `devrx nic bind` those too, or use another slot",
            held.join(", ")
        ));
    }
    if let Some((_, enabled @ 1..)) = function.virtual_functions {
        return Some(format!(
            "it has {enabled} virtual functions; `echo 0 > {}`",
            sysfs
                .folder(function.address)
                .join("sriov_numvfs")
                .display()
        ));
    }
    let node = format!("/dev/vfio/{group}");
    if function.driver.as_deref() == Some("vfio-pci") && !Path::new(&node).exists() {
        return Some(format!(
            "it is with vfio-pci, but {node} is not there: in a container, pass the device file on; a kernel without CONFIG_VFIO_GROUP or with \
             VFIO's mode without an IOMMU cannot be used"
        ));
    }
    None
}

#[cfg(test)]
mod tests {
    use devrx_driver::device::PciId;

    use super::*;

    fn function(driver: Option<&str>, group: Option<u32>) -> PciFunction {
        let mut function = PciFunction::default();
        function.id = PciId {
            vendor: 0x8086,
            device: 0x10c9,
            ..PciId::default()
        };
        function.driver = driver.map(str::to_owned);
        function.iommu_group = group;
        function
    }

    #[test]
    fn what_is_missing_is_named_with_the_fix() {
        let sysfs = Sysfs::at("/nonexistent");
        let said = |function: &PciFunction| look(&sysfs, function).to_string();
        assert_eq!(said(&function(Some("igb"), Some(7))), "can be bound");
        assert!(said(&function(Some("igb"), None)).contains("devrx doctor"));
        // No machine has that many groups.
        let gone = said(&function(Some("vfio-pci"), Some(u32::MAX)));
        assert!(gone.contains("/dev/vfio/4294967295"), "{gone}");
        let mut physical = function(Some("igb"), Some(7));
        physical.virtual_functions = Some((7, 2));
        let busy = said(&physical);
        assert!(
            busy.contains("2 virtual functions") && busy.contains("echo 0 >"),
            "{busy}"
        );
        physical.virtual_functions = Some((7, 0));
        assert_eq!(said(&physical), "can be bound");
        let mut unknown = function(Some("igb"), Some(7));
        unknown.id.device = 0x10ca;
        assert_eq!(look(&sysfs, &unknown), State::Unknown);
    }
}
