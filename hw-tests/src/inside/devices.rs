//! The guest's PCI devices: which driver has them.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};

use super::modules;
use crate::command::{sh, wait_for};
use crate::guest::machine::{IVSHMEM, Machine, Model, Nic};
use crate::guest_tests::Driver;

fn device(pci: &str) -> PathBuf {
    Path::new("/sys/bus/pci/devices").join(pci)
}

/// The name of the driver that has a device.
#[must_use]
pub fn driver(pci: &str) -> Option<String> {
    let link = std::fs::read_link(device(pci).join("driver")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

/// The number of a device's IOMMU group.
pub fn group(pci: &str) -> Result<u32> {
    let link = std::fs::read_link(device(pci).join("iommu_group"))
        .with_context(|| format!("{pci} has no IOMMU group"))?;
    let name = link.file_name().context("a group without a number")?;
    Ok(name.to_string_lossy().parse()?)
}

/// The name of the network interface of a device, once its driver has made it.
pub fn interface(pci: &str) -> Result<String> {
    let mut found = None;
    wait_for(
        &format!("{pci} has a network interface"),
        Duration::from_secs(5),
        || {
            let folders = std::fs::read_dir(device(pci))?.flatten();
            // virtio puts a device of its own in between.
            let mut places = vec![device(pci)];
            places.extend(
                folders
                    .map(|entry| entry.path())
                    .filter(|path| path.to_string_lossy().contains("/virtio")),
            );
            found = places
                .iter()
                .find_map(|place| std::fs::read_dir(place.join("net")).ok()?.flatten().next());
            Ok(found.is_some())
        },
    )?;
    let entry = found.context("no interface")?;
    Ok(entry.file_name().to_string_lossy().into_owned())
}

/// Gives a device to `wanted`: a driver's name, or `None` for no driver.
pub fn give(pci: &str, wanted: Option<&str>) -> Result<()> {
    if driver(pci).as_deref() == wanted {
        return Ok(());
    }
    let put = |file: PathBuf, text: &str| {
        std::fs::write(&file, text).with_context(|| format!("write {text:?} to {}", file.display()))
    };
    if driver(pci).is_some() {
        put(device(pci).join("driver/unbind"), pci)?;
    }
    // An empty line takes the override away; a name that no driver has keeps all of them off.
    put(
        device(pci).join("driver_override"),
        wanted.unwrap_or("none"),
    )?;
    if wanted.is_some() {
        put("/sys/bus/pci/drivers_probe".into(), pci)?;
    }
    anyhow::ensure!(
        driver(pci).as_deref() == wanted,
        "{pci} is with {:?}, not {wanted:?}",
        driver(pci)
    );
    if wanted.is_none() {
        put(device(pci).join("driver_override"), "\n")?;
    }
    Ok(())
}

/// Puts the devices of a machine where a test wants them.
pub fn prepare(machine: &Machine, igb: Driver) -> Result<()> {
    give(IVSHMEM, Some("vfio-pci"))?;
    for nic in machine.nics {
        match (nic.model, igb) {
            (Model::Virtio, _) => linux_interface(nic)?,
            (Model::Peer, _) => named_interface(nic)?,
            (Model::E810, Driver::Linux) => {
                modules::load("ice")?;
                give(&nic.pci(), Some("ice"))?;
                named_interface(nic)?;
            }
            (Model::Igb | Model::E810, Driver::Any) => {}
            (Model::Igb | Model::E810, Driver::Vfio) => give(&nic.pci(), Some("vfio-pci"))?,
            (Model::Igb | Model::E810, Driver::None) => give(&nic.pci(), None)?,
            (Model::Igb, Driver::Linux) => {
                modules::load("igb")?;
                give(&nic.pci(), Some("igb"))?;
                linux_interface(nic)?;
            }
        }
    }
    Ok(())
}

/// Names an interface of Linux as the tests call the NIC.
fn named_interface(nic: &Nic) -> Result<()> {
    let name = interface(&nic.pci())?;
    if name != nic.id {
        sh(&format!("ip link set {name} down"))?;
        sh(&format!("ip link set {name} name {}", nic.id))?;
    }
    Ok(())
}

/// Names an interface of Linux as the tests call the NIC, and takes it up.
fn linux_interface(nic: &Nic) -> Result<()> {
    named_interface(nic)?;
    sh(&format!("ip link set {} up", nic.id))?;
    let carrier = format!("/sys/class/net/{}/carrier", nic.id);
    wait_for(
        &format!("{} has a link", nic.id),
        Duration::from_secs(10),
        || Ok(std::fs::read_to_string(&carrier).is_ok_and(|text| text.trim() == "1")),
    )?;
    Ok(())
}
