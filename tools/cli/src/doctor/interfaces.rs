//! What the network interfaces offer.

use std::fmt;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::sys;

/// One network interface.
#[derive(Debug, Default, Serialize)]
pub struct Interface {
    /// Its name, as in `--nic afxdp:NAME`.
    pub nic: String,
    /// Its Linux driver; empty where it has none that says so.
    pub driver: String,
    /// Its PCI address, where it is a PCI device.
    pub pci: Option<String>,
    /// Receive queues.
    pub queues: u32,
    /// Whether it is up.
    pub up: bool,
    /// The largest packet it takes, bytes.
    pub mtu: u32,
    /// Whether its driver runs XDP programs itself; none: the kernel does not tell.
    pub native_xdp: Option<bool>,
    /// Whether its driver receives without a copy; none: the kernel does not tell.
    pub zero_copy: Option<bool>,
    /// Whether the NIC has rules that bring a flow to a queue.
    pub receive_rules: bool,
    /// Whether such rules (ntuple) are switched on; none: the driver does not say.
    pub ntuple: Option<bool>,
    /// Whether the NIC takes VLAN tags off before AF_XDP sees them.
    pub rx_vlan_offload: Option<bool>,
    /// Whether packets may be joined before AF_XDP sees them (GRO, LRO).
    pub joins_packets: Option<bool>,
    /// What to know, and what to do about it.
    pub notes: Vec<String>,
}

/// Every interface of this network namespace but the loopback.
///
/// # Errors
/// Where the kernel does not list them.
pub fn list() -> Result<Vec<Interface>> {
    let found = devrx_driver::afxdp::discover().context("cannot list the network interfaces")?;
    Ok(found
        .into_iter()
        .filter(|interface| interface.name != "lo")
        .map(look)
        .collect())
}

fn look(found: devrx_driver::afxdp::Interface) -> Interface {
    let offloads = sys::offloads(&found.name).unwrap_or_default();
    let mut interface = Interface {
        nic: found.name,
        driver: found.driver,
        pci: found.pci,
        queues: found.queues,
        up: found.up,
        mtu: found.mtu,
        native_xdp: found.native_xdp,
        zero_copy: found.zero_copy,
        receive_rules: found.receive_rules,
        ntuple: offloads.ntuple,
        rx_vlan_offload: offloads.rx_vlan,
        joins_packets: offloads
            .lro
            .or(offloads.gro)
            .map(|_| offloads.lro == Some(true) || offloads.gro == Some(true)),
        notes: Vec::new(),
    };
    interface.notes = notes(&interface, offloads.lro == Some(true));
    interface
}

fn notes(interface: &Interface, lro: bool) -> Vec<String> {
    let name = &interface.nic;
    let mut notes = Vec::new();
    if !interface.up {
        notes.push(format!("it is down; `ip link set {name} up`"));
    }
    if interface.rx_vlan_offload == Some(true) && interface.pci.is_some() {
        notes.push(format!("it takes VLAN tags off, so that AF_XDP does not see them; `ethtool -K {name} rxvlan off`"));
    }
    if lro {
        notes.push(format!("LRO joins packets; `ethtool -K {name} lro off`"));
    }
    if interface.ntuple == Some(false) && interface.queues > 1 && interface.pci.is_some() {
        notes.push(format!("ntuple rules are off: flows stay on the queue that RSS picks; `ethtool -K {name} ntuple on` if it can"));
    }
    match interface.zero_copy {
        Some(true) => {}
        Some(false) => notes.push("its driver copies; payload_bytes_copied counts how much".into()),
        None => notes
            .push("whether its driver copies is not known; attach reports the mode it got".into()),
    }
    if interface.native_xdp == Some(false) {
        notes.push("its driver runs no XDP programs itself, so the kernel's generic hook does, more slowly".into());
    }
    notes
}

impl fmt::Display for Interface {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let said = |answer: Option<bool>| match answer {
            Some(true) => "yes",
            Some(false) => "no",
            None => "?",
        };
        write!(
            f,
            "{:<12} driver {}, {} receive queue{}, MTU {}, {}; zero-copy {}, ntuple {}, takes VLAN tags off {}",
            self.nic,
            if self.driver.is_empty() {
                "?"
            } else {
                &self.driver
            },
            self.queues,
            if self.queues == 1 { "" } else { "s" },
            self.mtu,
            if self.up { "up" } else { "down" },
            said(self.zero_copy),
            said(self.ntuple),
            said(self.rx_vlan_offload),
        )?;
        match &self.pci {
            Some(pci) => write!(f, " ({pci})"),
            None => Ok(()),
        }
    }
}
