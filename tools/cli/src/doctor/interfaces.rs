//! What the network interfaces offer.

use std::fmt;

use anyhow::{Context, Result};
use serde::Serialize;

use crate::sys;

/// Linux drivers that receive through AF_XDP without a copy (those that set NETDEV_XDP_ACT_XSK_ZEROCOPY, Linux 7.3).
const ZERO_COPY: &[&str] = &[
    "tsnep",
    "fsl_dpaa2_eth",
    "fec",
    "gve",
    "i40e",
    "ice",
    "idpf",
    "igb",
    "igc",
    "ixgbe",
    "rvu_nicpf",
    "mlx5_core",
    "nfp",
    "stmmac",
    "st_gmac",
    "icssg-prueth",
    "virtio_net",
    "netkit",
];
/// Linux drivers known to copy.
const COPY: &[&str] = &[
    "veth",
    "tun",
    "bridge",
    "dummy",
    "e1000",
    "e1000e",
    "r8169",
    "ena",
    "vmxnet3",
    "hv_netvsc",
];

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
    /// Whether its driver receives without a copy; none: not known.
    pub zero_copy: Option<bool>,
    /// Whether ntuple rules, which bring a flow to a queue, are on; none: the driver does not say.
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
    let names = nix::net::if_::if_nameindex().context("cannot list the network interfaces")?;
    let mut found = Vec::new();
    for entry in &names {
        let name = entry.name().to_string_lossy();
        if name != "lo" {
            found.push(look(&name));
        }
    }
    Ok(found)
}

fn look(name: &str) -> Interface {
    let answers = sys::ethtool(name).unwrap_or_default();
    let attribute =
        |file: &str| std::fs::read_to_string(format!("/sys/class/net/{name}/{file}")).ok();
    let pci = std::fs::read_link(format!("/sys/class/net/{name}/device"))
        .ok()
        .and_then(|path| {
            let base = path.file_name()?.to_string_lossy().into_owned();
            // 0000:03:00.0
            (base.len() == 12 && base.as_bytes()[4] == b':').then_some(base)
        });
    let queues = answers
        .queues
        .filter(|&queues| queues > 0)
        .unwrap_or_else(|| {
            let entries = std::fs::read_dir(format!("/sys/class/net/{name}/queues"))
                .into_iter()
                .flatten()
                .flatten();
            let count = entries
                .filter(|entry| entry.file_name().to_string_lossy().starts_with("rx-"))
                .count();
            u32::try_from(count).unwrap_or(1).max(1)
        });
    let driver = answers.driver.unwrap_or_default();
    let mut interface = Interface {
        nic: name.to_owned(),
        pci,
        queues,
        up: attribute("flags")
            .and_then(|text| u32::from_str_radix(text.trim().trim_start_matches("0x"), 16).ok())
            .is_some_and(|flags| flags & 1 != 0),
        mtu: attribute("mtu")
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(0),
        zero_copy: if ZERO_COPY.contains(&driver.as_str()) {
            Some(true)
        } else if COPY.contains(&driver.as_str()) {
            Some(false)
        } else {
            None
        },
        driver,
        ntuple: answers.ntuple,
        rx_vlan_offload: answers.rx_vlan,
        joins_packets: answers
            .lro
            .or(answers.gro)
            .map(|_| answers.lro == Some(true) || answers.gro == Some(true)),
        notes: Vec::new(),
    };
    interface.notes = notes(&interface, answers.lro == Some(true));
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
        Some(false) => notes.push("its driver copies: payload_bytes_copied counts how much".into()),
        None => notes
            .push("whether its driver copies is not known; attach reports the mode it got".into()),
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
