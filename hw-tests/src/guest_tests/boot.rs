//! What a guest must have, or all the other tests prove nothing.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use anyhow::{Result, ensure};

use super::{Driver, Test};
use crate::guest::machine::{IVSHMEM, Model};
use crate::inside::{Host, devices};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::new("the_guest_has_an_iommu_and_what_devrx_uses", facts),
    Test::new("linux_drives_the_82576s", linux).igb(Driver::Linux),
    Test::new("the_82576s_can_be_without_a_driver", nobody).igb(Driver::None),
];

fn facts(host: &mut Host) -> Result<()> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    println!("Linux {}", release.trim());
    ensure!(
        std::fs::read_dir("/sys/class/iommu")?.next().is_some(),
        "the kernel found no IOMMU"
    );
    let udmabuf = std::fs::metadata("/dev/udmabuf")?;
    ensure!(
        udmabuf.file_type().is_char_device(),
        "/dev/udmabuf is no device"
    );
    let mut groups = Vec::new();
    let igb = host
        .machine()
        .nics
        .iter()
        .filter(|nic| nic.model == Model::Igb);
    for pci in igb.map(|nic| nic.pci()).chain([IVSHMEM.to_owned()]) {
        ensure!(
            devices::driver(&pci).as_deref() == Some("vfio-pci"),
            "{pci} is not with vfio-pci"
        );
        let group = devices::group(&pci)?;
        ensure!(
            Path::new(&format!("/dev/vfio/{group}")).exists(),
            "{pci} is in group {group}, which has no file"
        );
        groups.push(group);
    }
    let count = groups.len();
    groups.sort_unstable();
    groups.dedup();
    ensure!(
        groups.len() == count,
        "devices share IOMMU groups: {groups:?}"
    );
    Ok(())
}

fn linux(host: &mut Host) -> Result<()> {
    for nic in host.machine().nics {
        let mac = std::fs::read_to_string(format!("/sys/class/net/{}/address", nic.id))?;
        let [a, b, c, d, e, f] = nic.mac();
        ensure!(
            mac.trim() == format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"),
            "{} has the address {mac}",
            nic.id
        );
    }
    Ok(())
}

fn nobody(host: &mut Host) -> Result<()> {
    let pci = host.pci("igb0")?;
    ensure!(devices::driver(&pci).is_none(), "{pci} has a driver");
    let file = format!("/sys/bus/pci/devices/{pci}/driver_override");
    let left = std::fs::read_to_string(file)?;
    ensure!(
        left.trim() == "(null)" || left.trim().is_empty(),
        "{pci} is kept for {left}"
    );
    Ok(())
}
