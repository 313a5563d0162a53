//! Functions that the IOMMU cannot tell apart: owned together, or not at all.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use devrx_driver::vfio::{Binder, Function, Options, Sysfs};

use super::Test;
use crate::command::{run, sh, wait_for};
use crate::daemon::Daemon;
use crate::guest::machine::HOTPLUG;
use crate::guest::message::Frames;
use crate::inside::{DEVRX, Host, devices, modules};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::new("vfio_functions_of_one_group_are_owned_together", together)
        .on(HOTPLUG)
        .limit(60),
];

/// Two functions of a group.
const NICS: [&str; 2] = ["igb2", "igb3"];
/// Frames to each.
const FRAMES: u64 = 1000;

fn devrx(arguments: &[&str]) -> Result<crate::command::Output> {
    run(
        std::process::Command::new(DEVRX).args(arguments),
        Duration::from_secs(5),
    )
}

/// It fails, and names all of these.
fn refused(arguments: &[&str], named: &[&str]) -> Result<()> {
    let output = devrx(arguments)?;
    ensure!(!output.status.success(), "{output:?}");
    for name in named {
        ensure!(output.stderr.contains(name), "no {name} in {output:?}");
    }
    println!("{}", output.stderr.trim());
    Ok(())
}

/// All that are named are bound, or none; and where the kernel fails one only after another is bound, that is said.
fn none_or_both(a: &str, b: &str) -> Result<()> {
    let bind = ["nic", "bind", a, b];
    let function = Sysfs::default().function(b.parse()?)?;
    let name = function.interfaces.first().context("no interface")?;
    sh(&format!("ip link set {name} up"))?;
    refused(
        &bind,
        &[&format!("cannot hand {b}"), &format!("{name} is up")],
    )?;
    sh(&format!("ip link set {name} down"))?;
    ensure!(driver(a)?.as_deref() == Some("igb"), "{a} was bound");
    // A folder is where the note of its driver goes.
    let note = Binder::default().notes.join(b);
    fs::create_dir_all(&note)?;
    let unbind = ["nic", "unbind", a];
    let named = format!("`devrx {}`", unbind.join(" "));
    refused(&bind, &[&format!("cannot hand {b}"), &named])?;
    fs::remove_dir(&note)?;
    ensure!(
        driver(a)?.as_deref() == Some("vfio-pci"),
        "{a} is not bound"
    );
    let unbound = devrx(&unbind)?;
    ensure!(unbound.status.success(), "{unbound:?}");
    ensure!(driver(a)?.as_deref() == Some("igb"), "{a} is still bound");
    Ok(())
}

fn driver(pci: &str) -> Result<Option<String>> {
    Ok(Sysfs::default().function(pci.parse()?)?.driver)
}

/// Frames come to `nic`, all of them.
fn receive(host: &mut Host, daemon: &Daemon, nic: &str) -> Result<()> {
    let receiver = daemon.recv(nic, &format!("--count {FRAMES} --timeout 10"))?;
    let frames = Frames::Numbered {
        port: 5000,
        first: 0,
        count: FRAMES,
        payload: 1000,
    };
    host.inject(nic, frames, Some(1000))?;
    let output = receiver.wait(Duration::from_secs(12))?;
    ensure!(output.status.success(), "{output:?}: {}", daemon.log());
    Ok(())
}

fn together(host: &mut Host) -> Result<()> {
    let [a, b] = [host.pci(NICS[0])?, host.pci(NICS[1])?];
    ensure!(devices::group(&a)? == devices::group(&b)?, "two groups");
    modules::load("igb")?;
    for pci in [&a, &b] {
        devices::give(pci, Some("igb"))?;
    }
    let both = format!("devrx nic bind {a} {b}");
    refused(&["nic", "bind", &a], &[&format!("{b} (igb)"), &both, "ACS"])?;
    none_or_both(&a, &b)?;
    // One is with vfio-pci, and the other is not.
    devices::give(&a, Some("vfio-pci"))?;
    let spec = [format!("vfio:{a}"), format!("vfio:{b}")];
    let group = format!("IOMMU group {}", devices::group(&a)?);
    refused(
        &["run", "--nic", &spec[0]],
        &[&format!("{b} (igb)"), &group, "devrx nic bind", "ACS"],
    )?;
    let bound = devrx(&["nic", "bind", &a, &b])?;
    ensure!(bound.status.success(), "{bound:?}");
    let daemon = Daemon::start_here(&[&spec[0], &spec[1]])?;
    wait_for("both NICs have a link", Duration::from_secs(5), || {
        Ok(daemon.log().matches("up=true").count() == 2)
    })
    .with_context(|| daemon.log())?;
    for nic in NICS {
        let pci = host.pci(nic)?;
        daemon.ok(&format!(
            "attach --name {nic} --nic {pci} --queue 0 --memory udmabuf --size 4M --chunk 2048 --flow any"
        ))?;
    }
    for nic in NICS {
        receive(host, &daemon, nic)?;
    }
    // One end does nothing to the other: what is in one container is unmapped by its own.
    daemon.detach_and_check_but(NICS[0], &[])?;
    receive(host, &daemon, NICS[1])?;
    let stats = daemon.stats()?;
    ensure!(stats.attachment(NICS[1])?.count("delivered")? == 2 * FRAMES);
    drop(daemon);
    // The kernel would open one function twice.
    let options = Options::default();
    let first = Function::open(a.parse()?, &options)?;
    let second = Function::open(b.parse()?, &options)?;
    let again = Function::open(a.parse()?, &options).err();
    let again = again.context("it was opened twice")?.to_string();
    ensure!(again.contains("has it open already"), "{again}");
    drop(first);
    drop(Function::open(a.parse()?, &options)?);
    drop(second);
    drop(Function::open(b.parse()?, &options)?);
    println!("two functions of {group}, one daemon: {FRAMES} frames came to each");
    Ok(())
}
