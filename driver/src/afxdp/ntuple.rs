//! Flow rules as a NIC's receive rules ("ntuple", linux/ethtool.h): what brings a flow to its queue.

use std::net::IpAddr;

use super::ethtool_sys::{Ethtool, FLAG_NTUPLE, FlowSpec, LOCATION_ANY, LOCATION_SPECIAL};
use crate::flow::{FlowRule, PortRange, Prefix};
use crate::packet::{ether_type, protocol};

/// Flow types of linux/ethtool.h.
const TCP_V4: u32 = 0x01;
const UDP_V4: u32 = 0x02;
const TCP_V6: u32 = 0x05;
const UDP_V6: u32 = 0x06;
const USER_V4: u32 = 0x0d;
const USER_V6: u32 = 0x0e;
const ETHER: u32 = 0x12;
/// The flow type also asks for what is in the extension.
const EXT: u32 = 0x8000_0000;
/// The flow type also asks for the Ethernet destination in the extension.
const MAC_EXT: u32 = 0x4000_0000;
/// `ETH_RX_NFC_IP4`.
const IP_VERSION_4: u8 = 1;

/// The receive rules that together take what `rule` takes, or why there are none.
pub(super) fn specs(rule: &FlowRule, queue: u32) -> Result<Vec<FlowSpec>, String> {
    if rule.inner_vlan().is_some() {
        return Err("receive rules know one VLAN tag".to_owned());
    }
    let v4 = match (
        rule.src().or(rule.dst()).map(|prefix| prefix.is_ipv4()),
        rule.ether_type(),
    ) {
        (Some(v4), _) => Some(v4),
        (None, Some(ether_type::IPV4)) => Some(true),
        (None, Some(ether_type::IPV6)) => Some(false),
        _ => None,
    };
    let ip = v4.is_some() || rule.protocol().is_some() || rule.has_ports();
    let mut specs = Vec::new();
    if ip {
        for version in [true, false] {
            if v4.is_some_and(|v4| v4 != version) {
                continue;
            }
            match rule.protocol() {
                Some(number) => specs.push(ip_spec(rule, queue, version, number)?),
                None if rule.has_ports() => {
                    specs.push(ip_spec(rule, queue, version, protocol::UDP)?);
                    specs.push(ip_spec(rule, queue, version, protocol::TCP)?);
                }
                None => specs.push(any_ip_spec(rule, queue, version, None)),
            }
        }
    } else if rule.ether_type().is_some() || rule.dst_mac().is_some() {
        let mut spec = FlowSpec::new(ETHER, queue);
        if let Some(kind) = rule.ether_type() {
            put(&mut spec.value, 12, &kind.to_be_bytes());
            put(&mut spec.mask, 12, &[0xff; 2]);
        }
        if let Some(address) = rule.dst_mac() {
            put(&mut spec.value, 0, &address);
            put(&mut spec.mask, 0, &[0xff; 6]);
        }
        specs.push(spec);
    } else {
        return Err(
            "a receive rule must name an Ethernet address, ether type, protocol, address or port"
                .to_owned(),
        );
    }
    if let Some(address) = rule.dst_mac().filter(|_| ip) {
        for spec in &mut specs {
            spec.flow_type |= MAC_EXT;
            spec.value_ext.dest = address;
            spec.mask_ext.dest = [0xff; 6];
        }
    }
    if let Some(vlan) = rule.vlan() {
        for spec in &mut specs {
            spec.flow_type |= EXT;
            spec.value_ext.vlan_tci = vlan.to_be_bytes();
            spec.mask_ext.vlan_tci = 0x0fff_u16.to_be_bytes();
        }
    }
    Ok(specs)
}

fn put(bytes: &mut [u8; 52], at: usize, what: &[u8]) {
    for (to, from) in bytes.iter_mut().skip(at).zip(what) {
        *to = *from;
    }
}

/// Source and destination, at the start of every IP flow.
fn put_addresses(spec: &mut FlowSpec, rule: &FlowRule, v4: bool) {
    let width = if v4 { 4 } else { 16 };
    for (prefix, at) in [(rule.src(), 0), (rule.dst(), width)] {
        let Some(prefix) = prefix else { continue };
        match prefix.address() {
            IpAddr::V4(address) => put(&mut spec.value, at, &address.octets()),
            IpAddr::V6(address) => put(&mut spec.value, at, &address.octets()),
        }
        put(
            &mut spec.mask,
            at,
            mask(prefix).get(..width).unwrap_or_default(),
        );
    }
}

fn mask(prefix: Prefix) -> [u8; 16] {
    let bits = u32::from(prefix.bits());
    // 128 bits from the left; IPv4 uses the first 32.
    u128::MAX.checked_shl(128 - bits).unwrap_or(0).to_be_bytes()
}

fn ip_spec(rule: &FlowRule, queue: u32, v4: bool, number: u8) -> Result<FlowSpec, String> {
    let kind = match (number, v4) {
        (protocol::TCP, true) => TCP_V4,
        (protocol::UDP, true) => UDP_V4,
        (protocol::TCP, false) => TCP_V6,
        (protocol::UDP, false) => UDP_V6,
        _ => return Ok(any_ip_spec(rule, queue, v4, Some(number))),
    };
    let mut spec = FlowSpec::new(kind, queue);
    put_addresses(&mut spec, rule, v4);
    let ports = if v4 { 8 } else { 32 };
    for (range, at) in [(rule.src_port(), ports), (rule.dst_port(), ports + 2)] {
        let Some(range) = range else { continue };
        let mask = port_mask(range)?;
        put(&mut spec.value, at, &range.first().to_be_bytes());
        put(&mut spec.mask, at, &mask.to_be_bytes());
    }
    Ok(spec)
}

/// A range that a mask can say: 2^n ports beginning at a multiple of that.
fn port_mask(range: PortRange) -> Result<u16, String> {
    let span = range.last() - range.first();
    if span & span.wrapping_add(1) == 0 && range.first() & span == 0 {
        Ok(!span)
    } else {
        Err(format!(
            "receive rules take ports by mask, and {} to {} is no such range; use several rules",
            range.first(),
            range.last()
        ))
    }
}

fn any_ip_spec(rule: &FlowRule, queue: u32, v4: bool, number: Option<u8>) -> FlowSpec {
    let mut spec = FlowSpec::new(if v4 { USER_V4 } else { USER_V6 }, queue);
    put_addresses(&mut spec, rule, v4);
    // usr_ip4: l4_4_bytes, tos, ip_ver, proto behind the addresses; usr_ip6: l4_4_bytes, tclass, l4_proto.
    if v4 {
        put(&mut spec.value, 13, &[IP_VERSION_4]);
    }
    if let Some(number) = number {
        let at = if v4 { 14 } else { 37 };
        put(&mut spec.value, at, &[number]);
        put(&mut spec.mask, at, &[0xff]);
    }
    spec
}

/// Sets the receive rules for `rule`. Returns the locations set, and what will not arrive all the same, with the fix.
pub(super) fn steer(
    ethtool: &Ethtool,
    name: &str,
    queue: u32,
    rule: &FlowRule,
) -> (Vec<u32>, Vec<String>) {
    let note = |why: String| {
        vec![format!(
            "packets of `{rule}` that {name} puts on other queues than {queue} will not arrive: {why}; or give it one queue \
             (`ethtool -L {name} combined 1`), or send all its traffic to this one (`ethtool -X {name} start {queue} equal 1`)"
        )]
    };
    if ethtool.rule_table(name).is_err() {
        return (
            Vec::new(),
            note("the NIC has no receive rules (ntuple)".to_owned()),
        );
    }
    if ethtool
        .flags(name)
        .is_ok_and(|flags| flags & FLAG_NTUPLE == 0)
    {
        return (
            Vec::new(),
            note(format!(
                "its receive rules are switched off; `ethtool -K {name} ntuple on` and add the flow again"
            )),
        );
    }
    let specs = match specs(rule, queue) {
        Ok(specs) => specs,
        Err(why) => return (Vec::new(), note(why)),
    };
    let (set, refused) = set_all(specs, |spec| insert(ethtool, name, spec));
    let notes = refused.map_or_else(Vec::new, note);
    (set, notes)
}

/// Sets each of the receive rules, whether or not another was refused: many a NIC has rules for IPv4 alone, and those are worth having. Returns
/// where they are, and what was refused.
fn set_all(
    specs: Vec<FlowSpec>,
    mut insert: impl FnMut(FlowSpec) -> std::io::Result<u32>,
) -> (Vec<u32>, Option<String>) {
    let mut set = Vec::new();
    let mut refused = Vec::new();
    for spec in specs {
        match insert(spec) {
            Ok(location) => set.push(location),
            Err(error) => refused.push(format!("{} ({error})", packets(spec.flow_type))),
        }
    }
    let why = match (set.is_empty(), refused.is_empty()) {
        (_, true) => None,
        (true, false) => Some(format!(
            "the NIC refused the receive rule for {}",
            refused.join(" and ")
        )),
        (false, false) => Some(format!(
            "the NIC refused the receive rule for {}, and took that for the others",
            refused.join(" and ")
        )),
    };
    (set, why)
}

/// What a flow type is called.
fn packets(flow_type: u32) -> &'static str {
    match flow_type & !EXT {
        TCP_V4 => "TCP over IPv4",
        UDP_V4 => "UDP over IPv4",
        TCP_V6 => "TCP over IPv6",
        UDP_V6 => "UDP over IPv6",
        USER_V4 => "IPv4",
        USER_V6 => "IPv6",
        _ => "its ether type",
    }
}

fn insert(ethtool: &Ethtool, name: &str, mut spec: FlowSpec) -> std::io::Result<u32> {
    let (table, _) = ethtool.rule_table(name)?;
    spec.location = if table & LOCATION_SPECIAL != 0 {
        LOCATION_ANY
    } else {
        // Never without the list: a rule at a place that is taken replaces what is there.
        let (table, used) = ethtool.rules(name)?;
        free_place(table, &used).ok_or_else(|| std::io::Error::other("its table is full"))?
    };
    ethtool.insert_rule(name, spec)
}

/// The last free place of a table: administrators count from the start, and earlier rules go first.
fn free_place(table: u64, used: &[u32]) -> Option<u32> {
    let size = u32::try_from(table & !LOCATION_SPECIAL).unwrap_or(u32::MAX);
    (0..size).rev().find(|location| !used.contains(location))
}

/// Removes receive rules; what is gone already is well.
pub(super) fn remove(ethtool: &Ethtool, name: &str, locations: &[u32]) {
    for &location in locations {
        if let Err(error) = ethtool.delete_rule(name, location) {
            tracing::warn!(nic = name, location, %error, "a receive rule could not be removed; `ethtool -N {name} delete {location}`");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(rule: &str) -> Vec<FlowSpec> {
        specs(&rule.parse().unwrap(), 3).unwrap()
    }

    #[test]
    fn a_udp_port_is_one_rule_for_each_version() {
        let both = of("udp,dst-port=5000");
        assert_eq!(
            both.iter().map(|spec| spec.flow_type).collect::<Vec<_>>(),
            [UDP_V4, UDP_V6]
        );
        assert_eq!(both[0].value[10..12], 5000_u16.to_be_bytes());
        assert_eq!(both[0].mask[8..12], [0, 0, 0xff, 0xff]);
        assert_eq!(both[1].value[34..36], 5000_u16.to_be_bytes());
        assert_eq!(both[0].ring_cookie, 3);
    }

    #[test]
    fn addresses_are_masked_to_their_prefix() {
        let specs = of("src=10.0.0.0/12,tcp");
        assert_eq!(specs.len(), 1);
        assert_eq!(specs[0].flow_type, TCP_V4);
        assert_eq!(
            (specs[0].value[0..4].to_vec(), specs[0].mask[0..4].to_vec()),
            (vec![10, 0, 0, 0], vec![0xff, 0xf0, 0, 0])
        );
        let specs = of("dst=fd00::/8");
        assert_eq!(
            (
                specs[0].flow_type,
                specs[0].value[16],
                specs[0].mask[16],
                specs[0].mask[17]
            ),
            (USER_V6, 0xfd, 0xff, 0)
        );
        assert_eq!(of("src=10.0.0.1")[0].mask[0..4], [0xff; 4]);
    }

    #[test]
    fn vlan_protocol_and_ether_type() {
        let specs = of("vlan=100,ether-type=0x88f7");
        assert_eq!(
            (specs[0].flow_type, &specs[0].value[12..14]),
            (ETHER | EXT, &[0x88, 0xf7][..])
        );
        assert_eq!(
            (specs[0].value_ext.vlan_tci, specs[0].mask_ext.vlan_tci),
            ([0, 100], [0x0f, 0xff])
        );
        let to = [0x52, 0x54, 0, 0, 0, 0x11];
        let specs = of("dst-mac=52:54:00:00:00:11");
        assert_eq!(
            (
                specs[0].flow_type,
                &specs[0].value[..6],
                &specs[0].mask[..8]
            ),
            (ETHER, &to[..], &[255, 255, 255, 255, 255, 255, 0, 0][..])
        );
        let specs = of("dst-mac=52:54:00:00:00:11,ip,udp,vlan=3");
        assert_eq!(
            (
                specs[0].flow_type,
                specs[0].value_ext.dest,
                specs[0].mask_ext.dest
            ),
            (UDP_V4 | EXT | MAC_EXT, to, [0xff; 6])
        );
        let specs = of("proto=89,ip");
        assert_eq!(
            (
                specs.len(),
                specs[0].flow_type,
                specs[0].value[13],
                specs[0].value[14]
            ),
            (1, USER_V4, IP_VERSION_4, 89)
        );
    }

    #[test]
    fn what_a_mask_cannot_say_is_said() {
        assert_eq!(
            of("udp,dst-port=4096-4103")[0].mask[10..12],
            0xfff8_u16.to_be_bytes()
        );
        assert!(
            specs(&"udp,dst-port=5000-5010".parse().unwrap(), 0)
                .unwrap_err()
                .contains("several rules")
        );
        assert!(specs(&FlowRule::ANY, 0).is_err());
        assert!(specs(&"vlan=1,inner-vlan=2".parse().unwrap(), 0).is_err());
    }

    /// As ixgbe does: it has receive rules for IPv4 and none for IPv6.
    #[test]
    fn what_the_nic_takes_is_kept_and_what_it_refuses_is_named() {
        let refuse = |kinds: &[u32]| {
            let mut place = 100;
            set_all(of("udp,dst-port=5000"), |spec| {
                place -= 1;
                if kinds.contains(&spec.flow_type) {
                    return Err(std::io::Error::from_raw_os_error(libc::EINVAL));
                }
                Ok(place)
            })
        };
        assert_eq!(refuse(&[]), (vec![99, 98], None));
        let (set, why) = refuse(&[UDP_V6]);
        let why = why.unwrap();
        assert_eq!(set, [99]);
        assert!(
            why.contains("UDP over IPv6 (") && !why.contains("over IPv4"),
            "{why}"
        );
        let (set, why) = refuse(&[UDP_V4, UDP_V6]);
        let why = why.unwrap();
        assert!(set.is_empty());
        assert!(
            why.contains("over IPv4") && why.contains("over IPv6"),
            "{why}"
        );
    }

    #[test]
    fn a_rule_never_goes_where_one_is() {
        assert_eq!(free_place(4, &[]), Some(3));
        assert_eq!(free_place(4, &[3, 0, 2]), Some(1));
        assert_eq!(free_place(4, &[0, 1, 2, 3]), None);
        assert_eq!(free_place(0, &[]), None);
    }

    #[test]
    fn an_interface_without_receive_rules_gets_a_note() {
        let (set, notes) = steer(&Ethtool::new().unwrap(), "lo", 1, &FlowRule::ANY);
        assert!(set.is_empty());
        assert!(
            notes.len() == 1
                && notes[0].contains("will not arrive")
                && notes[0].contains("ethtool -L lo combined 1"),
            "{notes:?}"
        );
    }
}
