//! What interfaces there are.

use std::collections::BTreeMap;
use std::io;

use super::ethtool_sys::Ethtool;
use crate::NicStatistics;

/// An interface that AF_XDP might use.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// Its index.
    pub index: u32,
    /// The Linux driver; empty if unknown.
    pub driver: String,
    /// Receive queues.
    pub queues: u32,
    /// The largest L3 packet, bytes.
    pub mtu: u32,
    /// Administratively up, and with a carrier where that is known.
    pub up: bool,
    /// Whether the driver runs XDP programs itself; `None` if the kernel does not tell.
    pub native_xdp: Option<bool>,
    /// Whether the driver has zero-copy AF_XDP; `None` if the kernel does not tell.
    pub zero_copy: Option<bool>,
    /// Whether the NIC has receive rules, so that flows can be brought to a queue.
    pub receive_rules: bool,
    /// The PCI address, if it is a PCI device.
    pub pci: Option<String>,
}

/// The interfaces of the calling thread's network namespace, in the order of their index.
///
/// # Errors
///
/// What the system refused.
pub fn discover() -> io::Result<Vec<Interface>> {
    let ethtool = Ethtool::new()?;
    let names = nix::net::if_::if_nameindex()?;
    let features = super::features::all().unwrap_or_default();
    let mut found = Vec::new();
    for interface in &names {
        let Ok(name) = interface.name().to_str() else {
            continue;
        };
        let (driver, bus) = ethtool.driver(name).unwrap_or_default();
        let features = features.get(&interface.index());
        // It may go while we look.
        let (Ok(mtu), Ok(up)) = (ethtool.mtu(name), ethtool.is_up(name)) else {
            continue;
        };
        found.push(Interface {
            name: name.to_owned(),
            index: interface.index(),
            driver,
            queues: rx_queues(&ethtool, name),
            mtu,
            up: up && ethtool.link(name).unwrap_or(true),
            native_xdp: features.map(|features| features.native),
            zero_copy: features.map(|features| features.zero_copy),
            receive_rules: ethtool.rule_table(name).is_ok(),
            pci: is_pci(&bus).then_some(bus),
        });
    }
    found.sort_by_key(|interface| interface.index);
    Ok(found)
}

/// `0000:01:00.0`.
fn is_pci(bus: &str) -> bool {
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_hexdigit());
    match bus.split([':', '.']).collect::<Vec<_>>().as_slice() {
        [domain, bus, device, function] => {
            domain.len() >= 4
                && [domain, bus, device, function]
                    .into_iter()
                    .all(|part| digits(part))
        }
        _ => false,
    }
}

/// Receive queues in use: what the driver says, else one.
pub(super) fn rx_queues(ethtool: &Ethtool, name: &str) -> u32 {
    if let Ok(queues) = ethtool.rx_queues(name) {
        return queues.max(1);
    }
    // sysfs shows the namespace it was mounted in; only believed where it has the same interface.
    let folder = std::path::Path::new("/sys/class/net").join(name);
    let index = std::fs::read_to_string(folder.join("ifindex"))
        .ok()
        .and_then(|text| text.trim().parse::<u32>().ok());
    if index.is_none() || index != nix::net::if_::if_nametoindex(name).ok() {
        return 1;
    }
    let queues = std::fs::read_dir(folder.join("queues"));
    let rx = queues.map_or(0, |list| {
        list.flatten()
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("rx-"))
            .count()
    });
    u32::try_from(rx).unwrap_or(1).max(1)
}

/// An interface's counters, as /proc/net/dev has them for the calling thread's network namespace.
pub(super) fn statistics(name: &str) -> io::Result<NicStatistics> {
    let text = std::fs::read_to_string("/proc/thread-self/net/dev")?;
    let line = text
        .lines()
        .find_map(|line| line.trim_start().strip_prefix(name)?.strip_prefix(':'));
    let line = line.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))?;
    let numbers: Vec<u64> = line
        .split_whitespace()
        .map_while(|number| number.parse().ok())
        .collect();
    // bytes packets errs drop fifo frame ...: dev_seq_printf_stats in net/core/net-procfs.c
    let &[bytes, packets, errors, dropped, fifo, frame, ..] = numbers.as_slice() else {
        return Err(io::Error::other("a line of another form than known"));
    };
    let drops = [
        ("errors", errors),
        ("dropped", dropped),
        ("fifo", fifo),
        ("frame", frame),
    ];
    let drops: BTreeMap<String, u64> = drops
        .into_iter()
        .filter(|(_, n)| *n > 0)
        .map(|(name, n)| (name.to_owned(), n))
        .collect();
    Ok(NicStatistics {
        packets,
        bytes,
        drops,
        exact: false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_loopback_interface_is_found() {
        let all = discover().unwrap();
        let lo = all
            .iter()
            .find(|interface| interface.name == "lo")
            .expect("lo");
        assert_eq!(
            (lo.queues, lo.pci.as_deref(), lo.receive_rules),
            (1, None, false)
        );
        assert!(lo.mtu >= 1280);
        assert!(statistics("lo").is_ok());
        assert!(statistics("devrx-none").is_err());
    }

    #[test]
    fn pci_addresses_are_told_from_other_buses() {
        assert!(is_pci("0000:3b:00.1"));
        assert!(is_pci("10000:e1:00.0"));
        for other in ["", "virtio0", "usb-0000:00:14.0-3", "3b:00.1", "0000:3b:00"] {
            assert!(!is_pci(other), "{other}");
        }
    }
}
