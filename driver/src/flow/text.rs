//! Rules as people write them.

use super::{FlowRule, PortRange, Prefix};
use crate::packet::{ether_type, protocol};
use devrx_sabotage::removed;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

/// Why a text is not a flow rule. The text says which part, why, and what to write instead.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("flow rule `{rule}`: {why}; {fix}")]
pub struct FlowError {
    rule: String,
    why: String,
    fix: String,
}

/// What is wrong, and what to do about it; the rule's text is added by the caller.
type Fault = (String, String);

fn fault<T>(why: impl Into<String>, fix: impl Into<String>) -> Result<T, Fault> {
    Err((why.into(), fix.into()))
}

impl FromStr for FlowRule {
    type Err = FlowError;

    fn from_str(text: &str) -> Result<Self, FlowError> {
        read(text).map_err(|(why, fix)| FlowError {
            rule: text.to_owned(),
            why,
            fix,
        })
    }
}

fn read(text: &str) -> Result<FlowRule, Fault> {
    let mut rule = FlowRule::ANY;
    let terms: Vec<&str> = text.split(',').map(str::trim).collect();
    if terms == ["any"] {
        return Ok(rule);
    }
    for term in terms {
        read_term(&mut rule, term)?;
    }
    if !removed("flow-contradictions") {
        check(&rule)?;
    }
    Ok(rule)
}

/// Adds what `term` asks for to `rule`.
fn read_term(rule: &mut FlowRule, term: &str) -> Result<(), Fault> {
    let (name, value) = match term.split_once('=') {
        Some((name, value)) => (name.trim(), Some(value.trim())),
        None => (term, None),
    };
    let Some(value) = value else {
        return match name {
            "any" => fault(
                "`any` takes every frame and so has nothing to add to",
                "leave `any` out, or write it alone",
            ),
            "arp" => set(&mut rule.ether_type, ether_type::ARP, "a second ether type"),
            "ip" => set(
                &mut rule.ether_type,
                ether_type::IPV4,
                "a second ether type",
            ),
            "ip6" => set(
                &mut rule.ether_type,
                ether_type::IPV6,
                "a second ether type",
            ),
            "udp" => set(&mut rule.protocol, protocol::UDP, "a second protocol"),
            "tcp" => set(&mut rule.protocol, protocol::TCP, "a second protocol"),
            "" => fault(
                "it has an empty term",
                "write `any`, or terms separated by single commas, like `udp,dst-port=5000`",
            ),
            "dst-mac" | "vlan" | "inner-vlan" | "ether-type" | "proto" | "src" | "dst"
            | "src-port" | "dst-port" => fault(
                format!("`{name}` needs a value"),
                format!("write `{name}=VALUE`"),
            ),
            _ => unknown(name),
        };
    };
    match name {
        "dst-mac" => set(&mut rule.dst_mac, mac(value)?, "a second `dst-mac`"),
        "vlan" => set(
            &mut rule.vlan,
            vlan(name, value)?,
            "a second `vlan`; the inner of two tags is `inner-vlan`",
        ),
        "inner-vlan" => set(
            &mut rule.inner_vlan,
            vlan(name, value)?,
            "a second `inner-vlan`",
        ),
        "ether-type" => set(
            &mut rule.ether_type,
            read_ether_type(value)?,
            "a second ether type",
        ),
        "proto" => set(
            &mut rule.protocol,
            read_protocol(value)?,
            "a second protocol",
        ),
        "src" => set(&mut rule.src, prefix(name, value)?, "a second `src`"),
        "dst" => set(&mut rule.dst, prefix(name, value)?, "a second `dst`"),
        "src-port" => set(
            &mut rule.src_port,
            ports(name, value)?,
            "a second `src-port`",
        ),
        "dst-port" => set(
            &mut rule.dst_port,
            ports(name, value)?,
            "a second `dst-port`",
        ),
        "any" | "arp" | "ip" | "ip6" | "udp" | "tcp" => fault(
            format!("`{name}` takes no value"),
            format!("write `{name}` alone; addresses are `src=` and `dst=`, ports `dst-port=`"),
        ),
        _ => unknown(name),
    }
}

fn unknown<T>(name: &str) -> Result<T, Fault> {
    fault(
        format!("`{name}` is no term"),
        "the terms are any, dst-mac=, vlan=, inner-vlan=, ether-type=, arp, ip, ip6, udp, tcp, proto=, src=, dst=, src-port=, dst-port=",
    )
}

fn set<T>(place: &mut Option<T>, value: T, second: &str) -> Result<(), Fault> {
    if place.is_some() {
        return fault(
            format!("it has {second}"),
            "a rule asks for each thing once: add a second rule for the other value",
        );
    }
    *place = Some(value);
    Ok(())
}

fn mac(value: &str) -> Result<[u8; 6], Fault> {
    let mut address = [0; 6];
    let mut bytes = value.split(':');
    for byte in &mut address {
        // One digit or two, as every tool writes them.
        let digits = bytes
            .next()
            .filter(|digits| (1..=2).contains(&digits.len()) && !digits.starts_with('+'));
        let Some(read) = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) else {
            return no_mac(value);
        };
        *byte = read;
    }
    if bytes.next().is_some() {
        return no_mac(value);
    }
    Ok(address)
}

fn no_mac<T>(value: &str) -> Result<T, Fault> {
    fault(
        format!("`{value}` is no Ethernet address"),
        "write six bytes in hexadecimal, like `dst-mac=52:54:00:00:00:11`",
    )
}

fn vlan(name: &str, value: &str) -> Result<u16, Fault> {
    match number(value) {
        Some(id @ 0..=4094) => Ok(id),
        _ => fault(
            format!("`{value}` is no VLAN identifier"),
            format!("write `{name}=` with a number from 0 to 4094 (4095 is reserved)"),
        ),
    }
}

fn read_ether_type(value: &str) -> Result<u16, Fault> {
    match number(value) {
        Some(kind) if ether_type::VLAN.contains(&kind) => fault(
            format!(
                "`{value}` is the ether type of a VLAN tag, and a rule's ether type is the one behind the tags"
            ),
            "write `vlan=ID`, or leave it out to take tagged and untagged frames",
        ),
        Some(kind @ 0x0600..) => Ok(kind),
        _ => fault(
            format!("`{value}` is no ether type"),
            "write a number from 0x0600 to 0xffff, like `ether-type=0x88f7`",
        ),
    }
}

fn read_protocol(value: &str) -> Result<u8, Fault> {
    match number(value).map(u8::try_from) {
        // Neither is what follows the extension headers, so no packet would ever match.
        Some(Ok(number @ 1..)) => Ok(number),
        Some(Ok(0)) => fault(
            "protocol 0 is the hop-by-hop options header, not a protocol",
            "name the protocol behind the extension headers",
        ),
        _ => fault(
            format!("`{value}` is no IP protocol"),
            "write a number from 1 to 255, like `proto=89`; `udp` and `tcp` have names",
        ),
    }
}

fn prefix(name: &str, value: &str) -> Result<Prefix, Fault> {
    let (address, bits) = match value.split_once('/') {
        Some((address, bits)) => (address, Some(bits)),
        None => (value, None),
    };
    let Ok(address) = IpAddr::from_str(address) else {
        return fault(
            format!("`{address}` is no IP address"),
            format!(
                "write an address or a prefix, like `{name}=10.0.0.1`, `{name}=10.0.0.0/8` or `{name}=fd00::/8`; host names are not looked up"
            ),
        );
    };
    let Some(bits) = bits else {
        return Ok(Prefix::host(address));
    };
    let most = if address.is_ipv4() { 32 } else { 128 };
    let Some(prefix) = plain(bits)
        .and_then(|bits| u8::try_from(bits).ok())
        .and_then(|bits| Prefix::network(address, bits))
    else {
        return fault(
            format!("`/{bits}` is no prefix length of `{address}`"),
            format!("write a number from 0 to {most}"),
        );
    };
    if prefix.address() != address {
        return fault(
            format!("`{value}` has bits set behind its prefix"),
            format!(
                "write `{name}={prefix}` for the network, or `{name}={address}` for the one address"
            ),
        );
    }
    Ok(prefix)
}

fn ports(name: &str, value: &str) -> Result<PortRange, Fault> {
    let (first, last) = value.split_once('-').unwrap_or((value, value));
    match (plain(first.trim()), plain(last.trim())) {
        (Some(first), Some(last)) => match PortRange::new(first, last) {
            Some(range) => Ok(range),
            None => fault(
                format!("the port range `{value}` ends before it begins"),
                format!("write `{name}={last}-{first}`"),
            ),
        },
        _ => fault(
            format!("`{value}` is no port"),
            format!(
                "write a port from 0 to 65535, like `{name}=5000`, or a range, like `{name}=5000-5010`"
            ),
        ),
    }
}

/// A decimal number, without the sign that `from_str` takes.
fn plain(text: &str) -> Option<u16> {
    if text.starts_with('+') {
        None
    } else {
        text.parse().ok()
    }
}

/// A decimal number, or a hexadecimal one with 0x.
fn number(text: &str) -> Option<u16> {
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) if digits.starts_with('+') => None,
        Some(digits) => u16::from_str_radix(digits, 16).ok(),
        None => plain(text),
    }
}

/// Refuses a rule that no packet can match.
fn check(rule: &FlowRule) -> Result<(), Fault> {
    if let Some(kind) = rule.ether_type
        && rule.needs_ip()
        && !FlowRule::is_ip(kind)
    {
        return fault(
            format!(
                "it asks for ether type 0x{kind:04x}, which is not IP, and for an address, protocol or port of IP"
            ),
            "no frame has both: leave one out",
        );
    }
    let families = [
        rule.src.map(|p| p.is_ipv4()),
        rule.dst.map(|p| p.is_ipv4()),
        match rule.ether_type {
            Some(ether_type::IPV4) => Some(true),
            Some(ether_type::IPV6) => Some(false),
            _ => None,
        },
    ];
    if families.contains(&Some(true)) && families.contains(&Some(false)) {
        return fault(
            "it asks for IPv4 and IPv6 at once",
            "no packet has both: make it two rules, one for each",
        );
    }
    if let Some(number) = rule.protocol {
        let extension = protocol::is_extension(number);
        if rule.has_ports() && number != protocol::UDP && number != protocol::TCP {
            return fault(
                format!("it asks for ports, and protocol {number} has none that are looked at"),
                "ports go with `udp` or `tcp`, or without a protocol for both",
            );
        }
        if extension && families.contains(&Some(false)) {
            return fault(
                format!(
                    "in IPv6, protocol {number} is an extension header, and a rule's protocol is the one behind those"
                ),
                "name the protocol behind them",
            );
        }
    }
    Ok(())
}

impl fmt::Display for FlowRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_any() {
            return f.write_str("any");
        }
        let mut terms = Vec::new();
        terms.extend(self.dst_mac.map(|[a, b, c, d, e, f]| {
            format!("dst-mac={a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
        }));
        terms.extend(self.vlan.map(|id| format!("vlan={id}")));
        terms.extend(self.inner_vlan.map(|id| format!("inner-vlan={id}")));
        terms.extend(self.ether_type.map(|kind| match kind {
            ether_type::ARP => "arp".to_owned(),
            ether_type::IPV4 => "ip".to_owned(),
            ether_type::IPV6 => "ip6".to_owned(),
            kind => format!("ether-type=0x{kind:04x}"),
        }));
        terms.extend(self.protocol.map(|number| match number {
            protocol::UDP => "udp".to_owned(),
            protocol::TCP => "tcp".to_owned(),
            number => format!("proto={number}"),
        }));
        terms.extend(self.src.map(|prefix| format!("src={prefix}")));
        terms.extend(self.dst.map(|prefix| format!("dst={prefix}")));
        terms.extend(self.src_port.map(|range| format!("src-port={range}")));
        terms.extend(self.dst_port.map(|range| format!("dst-port={range}")));
        f.write_str(&terms.join(","))
    }
}
