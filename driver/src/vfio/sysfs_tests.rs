//! A small machine in a folder.

use std::os::unix::fs::symlink;

use super::*;

/// Makes what the kernel shows of functions.
pub(in crate::vfio) struct Machine {
    root: tempfile::TempDir,
}

impl Machine {
    pub(in crate::vfio) fn new() -> Self {
        let root = tempfile::tempdir().unwrap();
        for folder in ["bus/pci/devices", "bus/pci/drivers", "kernel/iommu_groups"] {
            fs::create_dir_all(root.path().join(folder)).unwrap();
        }
        Self { root }
    }

    pub(in crate::vfio) fn sysfs(&self) -> Sysfs {
        Sysfs::at(self.root.path())
    }

    pub(in crate::vfio) fn write(&self, path: &str, text: &str) {
        let path = self.root.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    pub(in crate::vfio) fn link(&self, path: &str, target: &str) {
        let (path, target) = (self.root.path().join(path), self.root.path().join(target));
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::create_dir_all(&target).unwrap();
        symlink(target, path).unwrap();
    }

    /// A function with its class, driver and group.
    pub(in crate::vfio) fn function(
        &self,
        address: &str,
        class: &str,
        driver: Option<&str>,
        group: Option<u32>,
    ) {
        let at = format!("bus/pci/devices/{address}");
        for (name, text) in [
            ("vendor", "0x8086"),
            ("device", "0x10c9"),
            ("subsystem_vendor", "0x1af4"),
            ("subsystem_device", "0x1100"),
            ("revision", "0x01"),
            ("class", class),
            ("driver_override", "(null)"),
            ("numa_node", "-1"),
            ("reset_method", "flr pm"),
            (
                "resource",
                "0x00000000fea00000 0x00000000fea1ffff 0x0000000000040200\n\
                 0x00000000fea20000 0x00000000fea3ffff 0x0000000000040200\n\
                 0x000000000000c000 0x000000000000c01f 0x0000000000040101\n\
                 0x00000000fea40000 0x00000000fea43fff 0x0000000000040200\n\
                 0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                 0x0000000000000000 0x0000000000000000 0x0000000000000000\n\
                 0x00000000fea80000 0x00000000feabffff 0x0000000000046200",
            ),
        ] {
            self.write(&format!("{at}/{name}"), &format!("{text}\n"));
        }
        if let Some(driver) = driver {
            self.link(
                &format!("{at}/driver"),
                &format!("bus/pci/drivers/{driver}"),
            );
        }
        if let Some(group) = group {
            self.link(
                &format!("{at}/iommu_group"),
                &format!("kernel/iommu_groups/{group}"),
            );
            self.link(
                &format!("kernel/iommu_groups/{group}/devices/{address}"),
                &at,
            );
        }
    }
}

#[test]
fn a_function_is_read_whole() {
    let machine = Machine::new();
    machine.function("0000:01:00.0", "0x020000", Some("igb"), Some(7));
    machine.function("0000:01:00.1", "0x020000", None, Some(7));
    machine.write("bus/pci/devices/0000:01:00.0/sriov_totalvfs", "7\n");
    machine.write("bus/pci/devices/0000:01:00.0/sriov_numvfs", "2\n");
    machine.write("bus/pci/devices/0000:01:00.0/net/eth4/flags", "0x1003\n");
    let function = machine
        .sysfs()
        .function("01:00.0".parse().unwrap())
        .unwrap();
    let id = PciId {
        vendor: 0x8086,
        device: 0x10c9,
        subsystem_vendor: 0x1af4,
        subsystem: 0x1100,
        revision: 1,
    };
    assert_eq!(function.id, id);
    assert!(function.is_network());
    assert_eq!(function.driver.as_deref(), Some("igb"));
    assert_eq!(function.driver_override, None);
    assert_eq!(function.iommu_group, Some(7));
    assert_eq!(function.group_members.len(), 1);
    assert_eq!(
        function.group_members[0].to_string(),
        "0000:01:00.1 (no driver)"
    );
    assert_eq!(function.numa_node, None);
    assert_eq!(function.interfaces, ["eth4"]);
    assert_eq!(function.virtual_functions, Some((7, 2)));
    assert_eq!(function.physical_function, None);
    assert_eq!(function.bars, [0x20000, 0x20000, 0x20, 0x4000, 0, 0]);
    assert_eq!(function.reset_methods, ["flr", "pm"]);
}

#[test]
fn virtual_functions_name_their_physical_function() {
    let machine = Machine::new();
    machine.function("0000:01:00.0", "0x020000", Some("igb"), Some(7));
    machine.function("0000:01:10.0", "0x020000", Some("vfio-pci"), Some(8));
    machine.link(
        "bus/pci/devices/0000:01:10.0/physfn",
        "bus/pci/devices/0000:01:00.0",
    );
    let all = machine.sysfs().network_functions().unwrap();
    let addresses: Vec<String> = all
        .iter()
        .map(|function| function.address.to_string())
        .collect();
    assert_eq!(addresses, ["0000:01:00.0", "0000:01:10.0"]);
    assert_eq!(all[1].physical_function, Some(all[0].address));
}

#[test]
fn only_network_controllers_are_listed_as_such() {
    let machine = Machine::new();
    machine.function("0000:00:00.0", "0x060000", None, None);
    machine.function("0000:00:02.0", "0x028000", None, Some(1));
    machine.function("0000:00:03.0", "0x050000", None, Some(2));
    assert_eq!(machine.sysfs().functions().unwrap().len(), 3);
    assert_eq!(machine.sysfs().network_functions().unwrap().len(), 1);
    assert!(machine.sysfs().has_iommu());
    assert!(!Machine::new().sysfs().has_iommu());
}

#[test]
fn what_is_not_there_is_named() {
    let machine = Machine::new();
    let error = machine
        .sysfs()
        .function("01:00.0".parse().unwrap())
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("0000:01:00.0") && error.contains("nic list"),
        "{error}"
    );
    assert!(Sysfs::at("/nonexistent").functions().is_err());
}

#[test]
fn bridges_and_vfio_do_no_harm_in_a_group() {
    let member = |driver: Option<&str>, bridge| GroupMember {
        address: PciAddress::default(),
        driver: driver.map(str::to_owned),
        bridge,
    };
    for driver in [
        None,
        Some("vfio-pci"),
        Some("pci-stub"),
        Some("mlx5-vfio-pci"),
    ] {
        assert!(member(driver, false).harmless(), "{driver:?}");
    }
    assert!(member(Some("pcieport"), true).harmless());
    assert!(!member(Some("igb"), false).harmless());
    assert!(!member(Some("pcieport"), false).harmless());
}
