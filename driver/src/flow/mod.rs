//! Flow rules: which packets an attachment wants.
//!
//! A rule is a list of terms separated by commas, all of which must hold:
//!
//! | term | holds for |
//! |---|---|
//! | `any` | every frame; stands alone |
//! | `dst-mac=52:54:00:00:00:11` | frames to this Ethernet address |
//! | `vlan=100` | frames whose outer, or only, VLAN tag has this identifier (0 to 4094) |
//! | `inner-vlan=7` | frames whose second VLAN tag has this identifier |
//! | `ether-type=0x88f7` | frames with this ether type behind their VLAN tags; `arp`, `ip` and `ip6` are short for three of them |
//! | `udp`, `tcp`, `proto=89` | IP packets of this protocol, IPv4 and IPv6 alike unless the rule has `ip` or `ip6` |
//! | `src=10.0.0.1`, `dst=fd00::/8` | IP packets from, or to, this address or prefix |
//! | `src-port=80`, `dst-port=5000-5010` | UDP and TCP packets with a port in this range, both ends included |
//!
//! A rule that names no VLAN takes tagged and untagged frames. A port rule never matches a later fragment, which has no ports; an
//! address or protocol rule does. What a frame with malformed headers matches is said in [`crate::packet`]: `any`, and the rules
//! that ask only for what could be read before the fault.
//!
//! Rules that can match nothing (`arp,dst-port=1`) are refused when they are read. The text that [`Display`](std::fmt::Display)
//! writes reads back as the same rule; `ether-type=0x0800` is written `ip`, for it is the same.

mod classify;
mod everyday;
mod range;
#[cfg(test)]
mod tests;
mod text;

pub use classify::Rules;
pub(crate) use classify::{Classifier, RuleBoard};
pub use range::{PortRange, Prefix};
pub use text::FlowError;

use crate::packet::{PacketKey, ether_type};

/// One flow rule. Made by `parse` from text, see the [module](self); what it asks for can be looked at, so that each NIC can turn
/// it into what its hardware has.
///
/// # Example
///
/// ```
/// use devrx_driver::flow::FlowRule;
/// let rule: FlowRule = "vlan=100, udp, dst-port=5000".parse()?;
/// assert_eq!(rule.vlan(), Some(100));
/// assert_eq!(rule.to_string(), "vlan=100,udp,dst-port=5000");
/// # Ok::<(), devrx_driver::flow::FlowError>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct FlowRule {
    dst_mac: Option<[u8; 6]>,
    vlan: Option<u16>,
    inner_vlan: Option<u16>,
    ether_type: Option<u16>,
    protocol: Option<u8>,
    src: Option<Prefix>,
    dst: Option<Prefix>,
    src_port: Option<PortRange>,
    dst_port: Option<PortRange>,
}

/// `None` asks for nothing; `Some` must be there and hold.
fn holds<A, B: Copy>(asked: Option<A>, found: Option<B>, test: impl FnOnce(A, B) -> bool) -> bool {
    asked.is_none_or(|asked| found.is_some_and(|found| test(asked, found)))
}

impl FlowRule {
    /// The rule `any`.
    pub const ANY: Self = Self {
        dst_mac: None,
        vlan: None,
        inner_vlan: None,
        ether_type: None,
        protocol: None,
        src: None,
        dst: None,
        src_port: None,
        dst_port: None,
    };

    /// Whether the rule takes a packet.
    #[inline]
    #[must_use]
    pub fn matches(&self, key: &PacketKey) -> bool {
        holds(self.dst_mac, key.dst_mac, |a, b| a == b)
            && holds(self.vlan, key.vlans[0], |a, b| a == b)
            && holds(self.inner_vlan, key.vlans[1], |a, b| a == b)
            && holds(self.ether_type, key.ether_type, |a, b| a == b)
            && holds(self.protocol, key.protocol, |a, b| a == b)
            && holds(self.src, key.addresses, |prefix, found| {
                prefix.contains(found.src())
            })
            && holds(self.dst, key.addresses, |prefix, found| {
                prefix.contains(found.dst())
            })
            && (!self.has_ports()
                || holds(self.src_port, key.src_port, |range, port| {
                    range.contains(port)
                }) && holds(self.dst_port, key.dst_port, |range, port| {
                    range.contains(port)
                }))
    }

    /// The Ethernet destination it asks for.
    #[must_use]
    pub fn dst_mac(&self) -> Option<[u8; 6]> {
        self.dst_mac
    }

    /// The outer VLAN identifier it asks for.
    #[must_use]
    pub fn vlan(&self) -> Option<u16> {
        self.vlan
    }

    /// The inner VLAN identifier it asks for.
    #[must_use]
    pub fn inner_vlan(&self) -> Option<u16> {
        self.inner_vlan
    }

    /// The ether type it asks for.
    #[must_use]
    pub fn ether_type(&self) -> Option<u16> {
        self.ether_type
    }

    /// The IP protocol it asks for. A rule with ports and no protocol takes both UDP and TCP.
    #[must_use]
    pub fn protocol(&self) -> Option<u8> {
        self.protocol
    }

    /// The source it asks for.
    #[must_use]
    pub fn src(&self) -> Option<Prefix> {
        self.src
    }

    /// The destination it asks for.
    #[must_use]
    pub fn dst(&self) -> Option<Prefix> {
        self.dst
    }

    /// The source ports it asks for.
    #[must_use]
    pub fn src_port(&self) -> Option<PortRange> {
        self.src_port
    }

    /// The destination ports it asks for.
    #[must_use]
    pub fn dst_port(&self) -> Option<PortRange> {
        self.dst_port
    }

    /// Whether it asks for ports, and so never matches a later fragment.
    #[must_use]
    pub fn has_ports(&self) -> bool {
        self.src_port.is_some() || self.dst_port.is_some()
    }

    /// Whether it is `any`.
    #[must_use]
    pub fn is_any(&self) -> bool {
        *self == Self::ANY
    }

    /// What a user of the rule should know will not arrive by it.
    #[must_use]
    pub fn notes(&self) -> Vec<String> {
        let mut notes = Vec::new();
        if self.has_ports() {
            notes.push(format!(
                "`{self}` does not take IP fragments after the first, which carry no ports; to have them too, add a rule by address"
            ));
        }
        notes
    }

    /// Whether the rule can only match IP packets, whatever it says of the ether type.
    pub(crate) fn needs_ip(&self) -> bool {
        self.protocol.is_some() || self.src.is_some() || self.dst.is_some() || self.has_ports()
    }

    /// Whether `kind` is an ether type whose packets have addresses, protocol and ports.
    pub(crate) fn is_ip(kind: u16) -> bool {
        kind == ether_type::IPV4 || kind == ether_type::IPV6
    }
}

/// The first of `rules` that takes a packet: its position. The order of the rules is the order they were added in.
#[inline]
#[must_use]
pub fn first_match(rules: &[(u16, FlowRule)], key: &PacketKey) -> Option<usize> {
    rules.iter().position(|(_, rule)| rule.matches(key))
}
