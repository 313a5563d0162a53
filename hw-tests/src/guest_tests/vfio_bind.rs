//! Giving a NIC to vfio-pci and back, and what virtual functions have to do with it.

use std::fs;

use anyhow::{Result, ensure};
use devrx_driver::device::{Device, Registers};
use devrx_driver::vfio::{Binder, Function, Options, PciAddress, Sysfs};

use super::vfio::{address, refused};
use super::{Driver, Test};
use crate::command::sh;
use crate::inside::Host;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::new("vfio_bind_takes_a_nic_and_unbind_gives_it_back", bind).igb(Driver::Linux),
    Test::new("vfio_bind_cuts_off_an_interface_only_when_forced", forced).igb(Driver::Linux),
    Test::new("vfio_a_nic_without_a_driver_has_none_afterwards", without).igb(Driver::None),
    Test::new(
        "vfio_virtual_functions_keep_their_physical_one",
        virtual_functions,
    )
    .igb(Driver::Linux),
];

fn bind(host: &mut Host) -> Result<()> {
    let pci = address(host)?;
    let binder = Binder::default();
    refused(binder.bind(pci, &[], false), &["igb0 is up", "--force"])?;
    sh("ip link set igb0 down")?;
    sh("ip addr add 10.9.0.1/24 dev igb0")?;
    refused(binder.bind(pci, &[], false), &["10.9.0.1"])?;
    sh("ip addr del 10.9.0.1/24 dev igb0")?;
    let bound = binder.bind(pci, &[], false)?;
    ensure!(
        bound.before.as_deref() == Some("igb") && bound.interfaces == ["igb0"] && !bound.already,
        "{bound:?}"
    );
    ensure!(
        binder.bind(pci, &[], false)?.already,
        "a second bind did something"
    );
    let function = Sysfs::default().function(pci)?;
    ensure!(
        function.driver.as_deref() == Some("vfio-pci")
            && function.driver_override.as_deref() == Some("vfio-pci")
            && function.interfaces.is_empty(),
        "{function:?}"
    );
    drop(Function::open(pci, &Options::default())?);
    let unbound = binder.unbind(pci)?;
    ensure!(
        unbound.now.as_deref() == Some("igb") && unbound.noted && unbound.interfaces.len() == 1,
        "{unbound:?}"
    );
    ensure!(binder.unbind(pci)?.already, "a second unbind did something");
    ensure!(binder.noted(pci).is_none(), "the note is still there");
    refused(
        Function::open(pci, &Options::default()),
        &["its driver is igb", "devrx nic bind"],
    )?;
    // Without a note the kernel chooses.
    binder.bind(pci, &[], true)?;
    fs::remove_dir_all(&binder.notes)?;
    let unbound = binder.unbind(pci)?;
    ensure!(
        unbound.now.as_deref() == Some("igb") && !unbound.noted,
        "{unbound:?}"
    );
    let function = Sysfs::default().function(pci)?;
    ensure!(function.driver_override.is_none(), "{function:?}");
    Ok(())
}

fn forced(host: &mut Host) -> Result<()> {
    let pci = address(host)?;
    let binder = Binder::default();
    let bound = binder.bind(pci, &[], true)?;
    ensure!(bound.cut_off == ["its interface igb0 is up"], "{bound:?}");
    ensure!(
        binder.unbind(pci)?.now.as_deref() == Some("igb"),
        "igb is not back"
    );
    Ok(())
}

fn without(host: &mut Host) -> Result<()> {
    let pci = address(host)?;
    let binder = Binder::default();
    let bound = binder.bind(pci, &[], false)?;
    ensure!(bound.before.is_none(), "{bound:?}");
    ensure!(
        binder.noted(pci) == Some(None),
        "no note that it had no driver"
    );
    let unbound = binder.unbind(pci)?;
    ensure!(unbound.now.is_none() && unbound.noted, "{unbound:?}");
    without_override(pci)
}

fn without_override(pci: PciAddress) -> Result<()> {
    let function = Sysfs::default().function(pci)?;
    ensure!(function.driver_override.is_none(), "{function:?}");
    Ok(())
}

fn virtual_functions(host: &mut Host) -> Result<()> {
    let pci = address(host)?;
    let sysfs = Sysfs::default();
    let function = sysfs.function(pci)?;
    ensure!(function.virtual_functions == Some((7, 0)), "{function:?}");
    sh("ip link set igb0 down")?;
    let file = sysfs.folder(pci).join("sriov_numvfs");
    fs::write(&file, "2")?;
    let result = (|| {
        refused(
            Binder::default().bind(pci, &[], false),
            &["2 virtual functions", "sriov_numvfs"],
        )?;
        let all = sysfs.network_functions()?;
        let its: Vec<_> = all
            .iter()
            .filter(|function| function.physical_function == Some(pci))
            .collect();
        ensure!(its.len() == 2, "{its:?}");
        let first = its[0].address;
        Binder::default().bind(first, &[], true)?;
        let opened = Function::open(first, &Options::default())?;
        ensure!(opened.id().device == 0x10ca, "{opened:?}");
        println!(
            "a virtual function has {} vectors, BAR 0 answers {:#x}",
            opened.vectors(),
            opened.registers().read32(8)
        );
        opened.reset()?;
        drop(opened);
        let unbound = Binder::default().unbind(first)?;
        println!("{unbound:?}");
        for function in its {
            println!(
                "{} {:04x}:{:04x} group {:?}",
                function.address, function.id.vendor, function.id.device, function.iommu_group
            );
            ensure!(
                function.id.device == 0x10ca && function.virtual_functions.is_none(),
                "{function:?}"
            );
        }
        Ok(())
    })();
    fs::write(&file, "0")?;
    result
}
