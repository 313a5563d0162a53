//! Owning a PCI function: opening, interrupts, reset, what the machine has.

use std::fs;
use std::io::ErrorKind;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use devrx_driver::device::{Device, Registers};
use devrx_driver::vfio::{
    ContainerKind, Function, Options, PciAddress, Sysfs, device_file, support,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::Test;
use crate::guest::machine::IVSHMEM;
use crate::inside::{Host, devices};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::new("vfio_a_function_opens_once_at_a_time_and_again", open),
    Test::new("vfio_the_configuration_space_is_that_of_an_82576", config),
    Test::new("vfio_the_machine_has_type1_and_no_iommufd", what_there_is),
    Test::new("vfio_vectors_reach_their_eventfds", vectors),
    Test::new(
        "vfio_a_reset_leaves_registers_and_interrupts_as_after_power_on",
        reset,
    ),
    Test::new("vfio_whoever_wants_the_device_back_is_heard", wanted_back),
];

// Registers of the 82576 (datasheet, chapter 8).
const EICS: u32 = 0x1520;
const EIMS: u32 = 0x1524;
const EIMC: u32 = 0x1528;
const GPIE: u32 = 0x1514;
const RAL1: u32 = 0x5408;

/// Where the first 82576 is.
pub(super) fn address(host: &Host) -> Result<PciAddress> {
    Ok(host.pci("igb0")?.parse()?)
}

fn opened(host: &Host) -> Result<Arc<Function>> {
    Ok(Function::open(address(host)?, &Options::default())?)
}

/// The error's text, which must have all of these in it.
pub(super) fn refused<T>(
    result: std::result::Result<T, devrx_driver::DriverError>,
    parts: &[&str],
) -> Result<()> {
    let error = result.err().context("it was not refused")?.to_string();
    for part in parts {
        ensure!(error.contains(part), "{part:?} is not in {error:?}");
    }
    Ok(())
}

fn open(host: &mut Host) -> Result<()> {
    let pci = address(host)?;
    for _ in 0..3 {
        let function = opened(host)?;
        ensure!(function.address() == pci.to_string(), "{function:?}");
        // STATUS of an 82576 without a link; never all ones.
        let status = function.registers().read32(8);
        ensure!(status != u32::MAX, "the registers do not answer");
        refused(
            Function::open(pci, &Options::default()),
            &["this process has it open already"],
        )?;
        // Registers and mappings keep it open.
        let registers = function.registers();
        drop(function);
        refused(
            Function::open(pci, &Options::default()),
            &["has it open already"],
        )?;
        ensure!(registers.read32(8) != u32::MAX, "the registers went away");
    }
    let absent: PciAddress = "00:1e.0".parse()?;
    refused(
        Function::open(absent, &Options::default()),
        &["there is no PCI function at this address"],
    )
}

fn config(host: &mut Host) -> Result<()> {
    let function = opened(host)?;
    let id = function.id();
    ensure!((id.vendor, id.device) == (0x8086, 0x10c9), "{id:?}");
    ensure!(function.vectors() == 10, "{} vectors", function.vectors());
    let config = function.config();
    // Power management, MSI, MSI-X, PCI Express; advanced errors, ARI, SR-IOV (which vfio-pci hides).
    for (capability, at) in [(0x01, 0x40), (0x05, 0x50), (0x11, 0x70), (0x10, 0xa0)] {
        let found = config.capability(capability)?;
        ensure!(
            found == Some(at),
            "capability {capability:#x} at {found:x?}"
        );
    }
    ensure!(
        config.capability(0x09)?.is_none(),
        "a capability it does not have"
    );
    let errors = config.extended_capability(1)?;
    ensure!(errors == Some(0x100), "advanced errors at {errors:x?}");
    ensure!(
        config.extended_capability(0x7777)?.is_none(),
        "an extended capability it does not have"
    );
    ensure!(
        config.read32(4096).is_err(),
        "bytes beyond the end were read"
    );
    let bus_master = || -> Result<bool> {
        Ok(config
            .command()?
            .contains(devrx_driver::vfio::Command::BUS_MASTER))
    };
    ensure!(!bus_master()?, "bus mastering is on after the open");
    function.set_bus_master(true)?;
    ensure!(bus_master()?, "bus mastering stayed off");
    function.set_bus_master(false)?;
    ensure!(!bus_master()?, "bus mastering stayed on");
    Ok(())
}

fn what_there_is(host: &mut Host) -> Result<()> {
    let sysfs = Sysfs::default();
    let support = support(&sysfs);
    println!("{support:?}");
    ensure!(support.iommu && support.vfio_pci, "{support:?}");
    ensure!(
        matches!(support.container, Ok(ContainerKind::Type1)),
        "{support:?}"
    );
    // Debian's kernels have no CONFIG_IOMMUFD.
    ensure!(
        !support.iommufd && !support.device_files && !support.unsafe_no_iommu,
        "{support:?}"
    );
    ensure!(support.mapping_limit == Some(65535), "{support:?}");
    ensure!(
        device_file(&sysfs, address(host)?).is_none(),
        "a device file"
    );
    let ivshmem = sysfs.function(IVSHMEM.parse()?)?;
    ensure!(
        ivshmem.bars[2] == crate::guest::machine::BAR && ivshmem.reset_methods.is_empty(),
        "{ivshmem:?}"
    );
    let function = opened(host)?;
    let iommu = function.iommu();
    println!("{iommu:x?}");
    ensure!(
        iommu.page_sizes == 0x4020_1000 && iommu.mappings_left == Some(65535),
        "{iommu:x?}"
    );
    ensure!(
        iommu.windows == [(0, 0xfedf_ffff), (0xfef0_0000, 0xffff_ffff_ffff)],
        "{iommu:x?}"
    );
    Ok(())
}

/// What an eventfd has counted; 0 where nothing comes within the time.
fn count(eventfd: &OwnedFd, wait: Duration) -> Result<u64> {
    let mut ready = [PollFd::new(eventfd.as_fd(), PollFlags::POLLIN)];
    poll(&mut ready, PollTimeout::try_from(wait)?)?;
    let mut bytes = [0; 8];
    match nix::unistd::read(eventfd, &mut bytes) {
        Ok(_) => Ok(u64::from_ne_bytes(bytes)),
        Err(nix::errno::Errno::EAGAIN) => Ok(0),
        Err(error) => Err(error.into()),
    }
}

const SOON: Duration = Duration::from_secs(2);
const SHORT: Duration = Duration::from_millis(50);

fn vectors(host: &mut Host) -> Result<()> {
    let function = opened(host)?;
    let registers = function.registers();
    refused(function.arm_vectors(11), &["11", "has 10"])?;
    for round in 0..2 {
        let eventfds = function.arm_vectors(10)?;
        // MSI-X is a write to memory like any other: it takes bus mastering.
        function.set_bus_master(true)?;
        registers.write32(GPIE, 0xc000_0011);
        registers.write32(EIMS, 0x3ff);
        for (vector, eventfd) in eventfds.iter().enumerate() {
            ensure!(
                count(eventfd, Duration::ZERO)? == 0,
                "vector {vector} fired by itself"
            );
            registers.write32(EICS, 1 << vector);
            ensure!(
                count(eventfd, SOON)? == 1,
                "round {round}: vector {vector} did not reach its eventfd"
            );
            let others = eventfds
                .iter()
                .enumerate()
                .filter(|(other, _)| *other != vector);
            for (other, eventfd) in others {
                ensure!(
                    count(eventfd, Duration::ZERO)? == 0,
                    "{vector} also fired {other}"
                );
            }
            registers.write32(EIMC, 1 << vector);
        }
        // Disarmed: nobody hears.
        function.arm_vectors(0)?;
        registers.write32(EIMS, 0x3ff);
        registers.write32(EICS, 1);
        ensure!(count(&eventfds[0], SHORT)? == 0, "a disarmed vector fired");
        function.reset()?;
    }
    Ok(())
}

fn reset(host: &mut Host) -> Result<()> {
    let function = opened(host)?;
    let registers = function.registers();
    let eventfds = function.arm_vectors(2)?;
    function.set_bus_master(true)?;
    registers.write32(GPIE, 0xc000_0011);
    registers.write32(EIMS, 3);
    registers.write32(RAL1, 0x1234_5678);
    ensure!(
        registers.read32(RAL1) == 0x1234_5678,
        "a register does not keep its value"
    );
    ensure!(
        registers.read32(EIMS) == 3,
        "EIMS is {:#x}",
        registers.read32(EIMS)
    );
    function.reset()?;
    ensure!(
        registers.read32(RAL1) == 0,
        "RAL1 is {:#x}",
        registers.read32(RAL1)
    );
    ensure!(
        registers.read32(EIMS) == 0,
        "EIMS is {:#x}",
        registers.read32(EIMS)
    );
    let command = function.config().command()?;
    println!("command register after the reset: {command:?}");
    ensure!(
        !command.contains(devrx_driver::vfio::Command::BUS_MASTER),
        "bus mastering is on after the reset: {command:?}"
    );
    function.set_bus_master(true)?;
    registers.write32(GPIE, 0xc000_0011);
    registers.write32(EIMS, 3);
    registers.write32(EICS, 3);
    for eventfd in &eventfds {
        ensure!(
            count(eventfd, SHORT)? == 0,
            "an interrupt came after the reset"
        );
    }
    // And it works again.
    function.reset()?;
    let eventfds = function.arm_vectors(1)?;
    function.set_bus_master(true)?;
    registers.write32(GPIE, 0xc000_0011);
    registers.write32(EIMS, 1);
    registers.write32(EICS, 1);
    ensure!(
        count(&eventfds[0], SOON)? == 1,
        "no interrupt after the reset"
    );
    Ok(())
}

/// Somebody unbinds the device while it is open: the kernel asks for it and waits.
fn wanted_back(host: &mut Host) -> Result<()> {
    let pci = host.pci("igb0")?;
    let function = opened(host)?;
    let trouble = function.trouble().context("the device has no notices")?;
    let readable = |wait: Duration| -> Result<bool> {
        let mut ready = [PollFd::new(trouble, PollFlags::POLLIN)];
        Ok(poll(&mut ready, PollTimeout::try_from(wait)?)? > 0)
    };
    ensure!(
        !readable(SHORT)?,
        "trouble without a reason: {}",
        function.trouble_text()
    );
    ensure!(
        function.trouble_text().contains("no trouble"),
        "{}",
        function.trouble_text()
    );
    let file = format!("/sys/bus/pci/devices/{pci}/driver/unbind");
    let other = {
        let pci = pci.clone();
        std::thread::spawn(move || fs::write(file, pci))
    };
    ensure!(readable(Duration::from_secs(5))?, "nothing was said");
    let text = function.trouble_text();
    ensure!(text.contains("unbinding") && text.contains(&pci), "{text}");
    // It stays said.
    ensure!(
        readable(Duration::ZERO)? && function.trouble_text() == text,
        "it was said once only"
    );
    ensure!(!other.is_finished(), "the kernel did not wait");
    drop(function);
    match other.join() {
        Ok(Ok(())) => {}
        Ok(Err(error)) if error.kind() == ErrorKind::NotFound => {}
        ended => anyhow::bail!("unbinding ended in {ended:?}"),
    }
    ensure!(devices::driver(&pci).is_none(), "the device is still bound");
    Ok(())
}
