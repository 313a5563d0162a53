//! `devrx nic list | bind | unbind`.

use std::path::Path;

use anyhow::{Result, bail};
use clap::Subcommand;
use devrx_client::Client;

use crate::doctor;

/// What to do with NICs.
#[derive(Subcommand)]
pub enum NicCommand {
    /// List the NICs of this host, and who holds queues of those that the daemon runs.
    List,
    /// Hand a NIC to vfio-pci.
    Bind {
        /// Its PCI address, for example 0000:03:00.0.
        pci: String,
    },
    /// Give a NIC back to its Linux driver.
    Unbind {
        /// Its PCI address.
        pci: String,
    },
}

/// Runs the command.
///
/// # Errors
/// `bind` and `unbind`: always, for now.
pub fn run(command: &NicCommand, socket: &Path, json: bool) -> Result<()> {
    let (verb, pci) = match command {
        NicCommand::List => return list(socket, json),
        NicCommand::Bind { pci } => ("bind", pci),
        NicCommand::Unbind { pci } => ("unbind", pci),
    };
    bail!(
        "cannot {verb} {pci}: not built yet: VFIO; use the NIC through its Linux driver, `devrx run --nic afxdp:IFNAME`"
    )
}

fn list(socket: &Path, json: bool) -> Result<()> {
    let interfaces = doctor::interfaces()?;
    // A host without a daemon has NICs too.
    let (running, why) = match Client::connect(socket).and_then(|mut client| client.nics()) {
        Ok(nics) => (nics, None),
        Err(error) => (Vec::new(), Some(error.to_string())),
    };
    if json {
        say!(
            "{}",
            serde_json::json!({ "interfaces": interfaces, "daemon": { "running": why.is_none(), "nics": running } })
        )?;
        return Ok(());
    }
    for interface in &interfaces {
        say!("{interface}")?;
    }
    if why.is_some() {
        say!("\nno daemon at {}", socket.display())?;
    }
    for nic in &running {
        say!(
            "\nthe daemon runs {} ({}, {} queues)",
            nic.nic,
            nic.driver,
            nic.queues
        )?;
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
