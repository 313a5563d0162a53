//! `devrx nic list | bind | unbind`.

use std::path::Path;

use anyhow::{Context, Result, anyhow, bail};
use clap::Subcommand;
use devrx_client::Client;
use devrx_client::proto::message::NicInfo;
use devrx_driver::vfio::{Binder, Bound, PciAddress, Sysfs, Unbound};
use serde_json::json;

use crate::doctor;
use crate::functions::{self, Function};
use crate::stop;

/// What to do with NICs.
#[derive(Subcommand)]
pub enum NicCommand {
    /// List the NICs of this host, what devrx can do with each, and who holds queues of those that the daemon runs.
    List,
    /// Hand a NIC to vfio-pci, so that `devrx run --nic vfio:PCI` can own it.
    Bind {
        /// Its PCI address, for example 0000:03:00.0; all of an IOMMU group together where they share one.
        #[arg(required = true)]
        pci: Vec<PciAddress>,
        /// Cut off what Linux uses it for.
        #[arg(long)]
        force: bool,
    },
    /// Give a NIC back to the driver it had.
    Unbind {
        /// Its PCI address.
        pci: PciAddress,
    },
}

/// Runs the command.
///
/// # Errors
/// What keeps a NIC from being given or taken, with the fix.
pub fn run(command: &NicCommand, socket: &Path, json: bool) -> Result<()> {
    match command {
        NicCommand::List => list(socket, json),
        NicCommand::Bind { pci, force } => bind_all(pci, *force, json),
        NicCommand::Unbind { pci } => unbind(*pci, socket, json),
    }
}

/// The NICs that the daemon runs, or why that is not known.
fn running(socket: &Path) -> Result<Vec<NicInfo>, String> {
    Client::connect(socket)
        .and_then(|mut client| client.nics())
        .map_err(|error| error.to_string())
}

fn list(socket: &Path, json: bool) -> Result<()> {
    let interfaces = doctor::interfaces()?;
    // A machine without PCI has interfaces too.
    let functions = functions::list().unwrap_or_default();
    // A host without a daemon has NICs too.
    let running = running(socket);
    let (nics, reachable) = match &running {
        Ok(nics) => (nics.as_slice(), true),
        Err(_) => (&[][..], false),
    };
    let runs = |function: &Function| {
        let mut nics = nics.iter();
        nics.any(|nic| !nic.gone && function.is(&nic.nic))
    };
    if json {
        let functions: Vec<_> = functions
            .iter()
            .map(|function| {
                let mut value = serde_json::to_value(function)?;
                value["run_by_daemon"] = runs(function).into();
                Ok(value)
            })
            .collect::<Result<_>>()?;
        return say!(
            "{}",
            json!({ "interfaces": interfaces, "functions": functions, "daemon": { "running": reachable, "nics": nics } })
        );
    }
    for interface in &interfaces {
        say!("{interface}")?;
    }
    if !functions.is_empty() {
        say!("")?;
    }
    for function in &functions {
        say!("{function}")?;
        if runs(function) {
            say!("        the daemon runs it")?;
        } else {
            for holder in &function.used_by {
                say!("        in use by {holder}")?;
            }
        }
        for note in &function.notes {
            say!("        {note}")?;
        }
    }
    if !reachable {
        say!("\nno daemon at {}", socket.display())?;
    }
    for nic in nics {
        let (name, driver, queues) = (&nic.nic, &nic.driver, nic.queues);
        if nic.gone {
            say!("\nthe daemon has let go of {name} ({driver})")?;
        } else {
            say!("\nthe daemon runs {name} ({driver}, {queues} queues)")?;
        }
        for held in &nic.attachments {
            say!(
                "  queues {}-{}: {}",
                held.queue_first,
                held.queue_last,
                held.name
            )?;
        }
        for note in &nic.notes {
            say!("  {note}")?;
        }
    }
    Ok(())
}

/// None of them where one is refused. Where the kernel fails one later, those before it stay bound, and the error names them.
fn bind_all(all: &[PciAddress], force: bool, json: bool) -> Result<()> {
    let binder = Binder::default();
    let others = |pci| -> Vec<PciAddress> {
        let all = all.iter().copied();
        all.filter(|other| *other != pci).collect()
    };
    let refused = |pci| move || format!("cannot hand {pci} to vfio-pci");
    for &pci in all {
        binder
            .check(pci, &others(pci), force)
            .with_context(refused(pci))?;
    }
    // What has begun is finished: a function must not stay between two drivers.
    stop::on_signals()?;
    let mut done: Vec<String> = Vec::new();
    for &pci in all {
        let bound = binder
            .bind(pci, &others(pci), force)
            .with_context(refused(pci))
            .map_err(|error| match &*done {
                [] => error,
                done => anyhow!(
                    "{error:#}; those before it stay with vfio-pci, until {}",
                    done.join(", ")
                ),
            })?;
        if !bound.already {
            done.push(format!("`devrx nic unbind {pci}`"));
        }
        show(pci, &bound, json)?;
    }
    Ok(())
}

fn show(pci: PciAddress, bound: &Bound, json: bool) -> Result<()> {
    let found = Sysfs::default().function(pci)?;
    let known = functions::known(found.id);
    if json {
        return say!(
            "{}",
            bound_json(bound, known.as_ref().map(|(driver, _)| *driver))
        );
    }
    let part = known
        .as_ref()
        .map_or("no part that devrx drives", |(_, part)| part);
    let before = match (bound.already, &bound.before) {
        (true, _) => "it was already".to_owned(),
        (false, Some(driver)) => format!("its driver was {driver}"),
        (false, None) => "it had no driver".to_owned(),
    };
    say!(
        "{pci} ({part}) is with vfio-pci, IOMMU group {}; {before}",
        bound.group
    )?;
    for cut in &bound.cut_off {
        say!("  cut off: {cut}")?;
    }
    if !bound.already && !bound.interfaces.is_empty() {
        say!(
            "  gone until `devrx nic unbind {pci}`: {}",
            bound.interfaces.join(", ")
        )?;
    }
    if let Some(port) = functions::port(found.id) {
        say!("  {port}, after `devrx nic unbind {pci}`")?;
    } else if known.is_some() {
        say!("  next: `devrx selftest {pci}`, then `devrx run --nic vfio:{pci}`")?;
    } else if found.is_network() {
        say!(
            "  devrx has no driver for it; use its interface: `devrx run --nic afxdp:IFNAME`, after `devrx nic unbind {pci}`"
        )?;
    }
    Ok(())
}

fn bound_json(bound: &Bound, driver: Option<&str>) -> serde_json::Value {
    json!({
        "pci": bound.address.to_string(), "bound": true, "already": bound.already, "driver_before": bound.before,
        "iommu_group": bound.group, "interfaces_gone": bound.interfaces, "cut_off": bound.cut_off, "devrx_driver": driver,
    })
}

fn unbind(pci: PciAddress, socket: &Path, json: bool) -> Result<()> {
    if let Some(why) = in_use(pci, socket)? {
        bail!("cannot give {pci} back: {why}");
    }
    // As above; and where somebody has the NIC open still, the kernel waits for them.
    stop::on_signals()?;
    let unbound = Binder::default()
        .unbind(pci)
        .with_context(|| format!("cannot give {pci} back"))?;
    if json {
        return say!("{}", unbound_json(&unbound));
    }
    let now = unbound.now.as_deref().unwrap_or("no driver");
    if unbound.already {
        return say!("{pci} is not with vfio-pci; its driver: {now}");
    }
    say!(
        "{pci} is with {now} again{}",
        if unbound.noted {
            ", as before it was bound"
        } else {
            ", the kernel's choice: nothing was noted when it was bound"
        }
    )?;
    if !unbound.interfaces.is_empty() {
        say!("  interfaces: {}", unbound.interfaces.join(", "))?;
    }
    Ok(())
}

fn unbound_json(unbound: &Unbound) -> serde_json::Value {
    json!({
        "pci": unbound.address.to_string(), "unbound": !unbound.already, "already": unbound.already, "driver": unbound.now,
        "noted": unbound.noted, "interfaces": unbound.interfaces,
    })
}

/// Who has the function open, and what to do: the kernel would let the unbind wait until they end.
fn in_use(pci: PciAddress, socket: &Path) -> Result<Option<String>> {
    let found = Sysfs::default().function(pci)?;
    if found.driver.as_deref() != Some("vfio-pci") {
        return Ok(None);
    }
    let users = found.iommu_group.map_or_else(Vec::new, functions::holders);
    let users: Vec<String> = users.iter().map(ToString::to_string).collect();
    let served = running(socket).is_ok_and(|nics| {
        nics.iter()
            .any(|nic| !nic.gone && nic.nic.parse::<PciAddress>().is_ok_and(|nic| nic == pci))
    });
    let group = found.iommu_group.unwrap_or_default();
    if served {
        let who = if users.is_empty() {
            String::new()
        } else {
            format!(", {}", users.join(", "))
        };
        return Ok(Some(format!(
            "the daemon at {}{who} runs it; end the daemon first (SIGTERM), or run it without this NIC",
            socket.display()
        )));
    }
    if users.is_empty() {
        return Ok(None);
    }
    Ok(Some(format!(
        "its IOMMU group {group} is in use by {}; end that first: the kernel would let the unbind wait until then",
        users.join(", ")
    )))
}
