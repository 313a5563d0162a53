//! Whether Linux uses a network interface: taking its device away would cut somebody off.

use std::fs;
use std::net::IpAddr;

use super::PciFunction;
use super::sysfs::{Sysfs, link_name, text};

const UP: u32 = 1;

/// What the interfaces of a function are used for, one sentence part each; empty when nobody would miss them. Interfaces in other network
/// namespaces are not seen.
pub(super) fn uses(sysfs: &Sysfs, function: &PciFunction) -> Vec<String> {
    let mut uses = Vec::new();
    for name in &function.interfaces {
        let folder = sysfs.folder(function.address).join("net").join(name);
        let flags = text(&folder, "flags").ok();
        let flags =
            flags.and_then(|flags| u32::from_str_radix(flags.trim_start_matches("0x"), 16).ok());
        if flags.is_some_and(|flags| flags & UP != 0) {
            uses.push(format!("its interface {name} is up"));
        }
        if let Some(master) = link_name(&folder, "master") {
            uses.push(format!("{name} is part of {master}"));
        }
        for address in addresses(name) {
            uses.push(format!("{name} has the address {address}"));
        }
        if has_default_route(name) {
            uses.push(format!("the default route goes through {name}"));
        }
    }
    uses
}

/// An interface's addresses that somebody gave it: link-local ones come by themselves.
fn addresses(name: &str) -> Vec<IpAddr> {
    let Ok(all) = nix::ifaddrs::getifaddrs() else {
        return Vec::new();
    };
    all.filter(|interface| interface.interface_name == name)
        .filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|v4| IpAddr::V4(v4.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|v6| IpAddr::V6(v6.ip())))
        })
        .filter(|address| !matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local()))
        .collect()
}

fn has_default_route(name: &str) -> bool {
    let read = |file| fs::read_to_string(file).unwrap_or_default();
    default_route_v4(&read("/proc/thread-self/net/route"), name)
        || default_route_v6(&read("/proc/thread-self/net/ipv6_route"), name)
}

/// Columns of /proc/net/route: Iface Destination Gateway Flags RefCnt Use Metric Mask ...
fn default_route_v4(table: &str, name: &str) -> bool {
    table.lines().any(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        matches!(columns.as_slice(), [interface, "00000000", _, _, _, _, _, "00000000", ..] if *interface == name)
    })
}

/// Columns of /proc/net/ipv6_route: destination, its length, source, its length, next hop, metric, references, use, flags, interface.
fn default_route_v6(table: &str, name: &str) -> bool {
    table.lines().any(|line| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        matches!(columns.as_slice(), [_, "00", _, _, _, _, _, _, _, interface] if *interface == name)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn default_routes_are_told_from_others() {
        let v4 = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
                  eth0\t00000000\t0101A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0\n\
                  eth1\t0001A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0\n";
        assert!(default_route_v4(v4, "eth0"));
        assert!(!default_route_v4(v4, "eth1"));
        let zeros = "0".repeat(32);
        let v6 = format!(
            "{zeros} 00 {zeros} 00 fe80 00000400 1 0 00000003     eth2\nfe80 40 {zeros} 00 {zeros} 00000100 1 0 00000001     eth0\n"
        );
        assert!(default_route_v6(&v6, "eth2"));
        assert!(!default_route_v6(&v6, "eth0"));
    }

    #[test]
    fn the_loopback_interface_has_an_address() {
        assert!(addresses("lo").iter().all(|address| address.is_loopback()));
        assert!(addresses("devrx-none").is_empty());
    }
}
