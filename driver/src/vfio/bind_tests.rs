//! What is refused, on a machine in a folder; that the kernel follows is tested in a guest.

use super::super::sysfs::tests::Machine;
use super::*;

const NIC: &str = "0000:01:00.0";

fn refusal(machine: &Machine) -> String {
    let binder = Binder {
        sysfs: machine.sysfs(),
        notes: machine.sysfs().folder(NIC.parse().unwrap()).join("notes"),
    };
    binder
        .bind(NIC.parse().unwrap(), &[], false)
        .unwrap_err()
        .to_string()
}

#[test]
fn without_an_iommu_it_says_how_to_turn_one_on() {
    let machine = Machine::new();
    machine.function(NIC, "0x020000", Some("igb"), None);
    let text = refusal(&machine);
    assert!(text.contains("intel_iommu=on"), "{text}");
}

#[test]
fn vfios_mode_without_an_iommu_is_refused() {
    let machine = Machine::new();
    machine.function(NIC, "0x020000", Some("igb"), Some(3));
    machine.write("kernel/iommu_groups/3/name", "vfio-noiommu\n");
    let text = refusal(&machine);
    assert!(
        text.contains("gives up") && text.contains("always refuses"),
        "{text}"
    );
}

#[test]
fn others_in_the_group_are_named() {
    let machine = Machine::new();
    machine.function(NIC, "0x020000", Some("igb"), Some(3));
    machine.function("0000:00:1f.2", "0x010601", Some("ahci"), Some(3));
    machine.function("0000:00:01.0", "0x060400", Some("pcieport"), Some(3));
    let text = refusal(&machine);
    assert!(
        text.contains("0000:00:1f.2 (ahci)") && !text.contains("pcieport"),
        "{text}"
    );
}

#[test]
fn virtual_functions_keep_their_physical_one() {
    let machine = Machine::new();
    machine.function(NIC, "0x020000", Some("igb"), Some(3));
    machine.write("bus/pci/devices/0000:01:00.0/sriov_totalvfs", "7\n");
    machine.write("bus/pci/devices/0000:01:00.0/sriov_numvfs", "2\n");
    let text = refusal(&machine);
    assert!(
        text.contains("2 virtual functions") && text.contains("sriov_numvfs"),
        "{text}"
    );
}

#[test]
fn an_interface_in_use_is_named() {
    let machine = Machine::new();
    machine.function(NIC, "0x020000", Some("igb"), Some(3));
    machine.write("bus/pci/devices/0000:01:00.0/net/eth4/flags", "0x1003\n");
    machine.link(
        "bus/pci/devices/0000:01:00.0/net/eth4/master",
        "class/net/bond0",
    );
    let text = refusal(&machine);
    for part in ["eth4 is up", "eth4 is part of bond0", "--force"] {
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn what_does_not_become_of_a_write_is_noticed() {
    let machine = Machine::new();
    machine.function(NIC, "0x020000", None, Some(3));
    machine.link("bus/pci/drivers/vfio-pci/module", "module/vfio_pci");
    // The folder takes every write, and no driver follows.
    let text = refusal(&machine);
    assert!(
        text.contains("its driver is none where vfio-pci was asked for"),
        "{text}"
    );
}

#[test]
fn a_bind_after_an_interrupted_one_keeps_the_note() {
    let address = NIC.parse().unwrap();
    let note = |driver: Option<&str>, driver_override: Option<&str>| Note {
        driver: driver.map(Into::into),
        driver_override: driver_override.map(Into::into),
    };
    let with = |driver: Option<&str>, override_now: &str, noted: Option<Note>| {
        let machine = Machine::new();
        machine.function(NIC, "0x020000", driver, Some(3));
        machine.write(
            "bus/pci/devices/0000:01:00.0/driver_override",
            &format!("{override_now}\n"),
        );
        let binder = Binder {
            sysfs: machine.sysfs(),
            notes: machine.sysfs().folder(address).join("notes"),
        };
        if let Some(noted) = noted {
            binder.write_note(address, &noted).unwrap();
        }
        let function = binder.sysfs.function(address).unwrap();
        binder.note_of(&function)
    };
    let igb = || Some(note(Some("igb"), None));
    // Cut off before the driver had let go, and after it.
    for driver in [Some("igb"), None] {
        assert_eq!(with(driver, VFIO_PCI, igb()), note(Some("igb"), None));
    }
    // Somebody else's override; a note that something else has come after; none at all.
    assert_eq!(with(None, "(null)", igb()), note(None, None));
    assert_eq!(with(None, "pci-stub", igb()), note(None, Some("pci-stub")));
    assert_eq!(
        with(Some("e1000"), VFIO_PCI, igb()),
        note(Some("e1000"), Some(VFIO_PCI))
    );
    assert_eq!(with(None, VFIO_PCI, None), note(None, Some(VFIO_PCI)));
}

#[test]
fn a_bind_that_fails_after_an_interrupted_one_forgets_nothing() {
    let machine = Machine::new();
    machine.function(NIC, "0x020000", None, Some(3));
    machine.link("bus/pci/drivers/vfio-pci/module", "module/vfio_pci");
    machine.write("bus/pci/devices/0000:01:00.0/driver_override", "vfio-pci\n");
    machine.write("bus/pci/devices/0000:01:00.0/notes/0000:01:00.0", "igb\n\n");
    let text = refusal(&machine);
    assert!(text.contains("asked for"), "{text}");
    let binder = Binder {
        sysfs: machine.sysfs(),
        notes: machine.sysfs().folder(NIC.parse().unwrap()).join("notes"),
    };
    assert_eq!(binder.noted(NIC.parse().unwrap()), Some(Some("igb".into())));
}

#[test]
fn a_note_is_read_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let binder = Binder {
        sysfs: Sysfs::at("/nonexistent"),
        notes: folder.path().join("deep/notes"),
    };
    let address = NIC.parse().unwrap();
    assert_eq!(binder.noted(address), None);
    for note in [
        Note::default(),
        Note {
            driver: Some("igb".into()),
            driver_override: None,
        },
        Note {
            driver: None,
            driver_override: Some("pci-stub".into()),
        },
    ] {
        binder.write_note(address, &note).unwrap();
        assert_eq!(binder.read_note(address), Some(note));
    }
    fs::write(binder.note_file(address), "../../x\n").unwrap();
    assert_eq!(binder.noted(address), Some(None));
    binder.forget(address);
    assert_eq!(binder.noted(address), None);
}
