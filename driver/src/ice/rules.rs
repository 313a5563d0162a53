//! Rules of the switch: which packets come to which VSI.
//!
//! A rule belongs to a recipe, which says what of a packet is compared; the rule has a made-up packet with the values. The first recipes are fixed: 1 compares
//! destination addresses, 5 takes what nothing else takes. Others are made from the package's fields ([`recipe`](super::recipe)).
//!
//! Rules for received packets of recipe 1 are given as rules for sent ones with the VSI as their source: so do both drivers, and the switch, which sits between
//! wire and VSIs, applies them in both directions. A datasheet was not at hand to say so. Layout: `struct ice_sw_rule_lkup_rx_tx` in DPDK's
//! `drivers/net/intel/ice/base/ice_adminq_cmd.h`, values `ice_fill_sw_rule` in `ice_switch.c`.

use super::admin::{Port, VsiId, put};

/// The recipe of destination addresses.
const ADDRESS: u16 = 1;
/// The recipe of what nothing else takes.
const DEFAULT: u16 = 5;
/// The rule is for packets from the wire.
const RECEIVED: u16 = 0;
/// The rule is for packets of a VSI, and for those to it.
const SENT: u16 = 1;
/// Bytes before the made-up packet.
const HEAD: usize = 16;

/// The action: to a VSI.
const fn to_vsi(vsi: VsiId) -> u32 {
    // Bit 17: valid.
    (vsi.0 as u32 & 0x3ff) << 4 | 1 << 17
}

fn rule(kind: u16, recipe: u16, source: u16, action: u32, packet: &[u8]) -> Vec<u8> {
    let mut new = vec![0; HEAD + packet.len()];
    put(&mut new, 0, &kind.to_le_bytes());
    put(&mut new, 4, &recipe.to_le_bytes());
    put(&mut new, 6, &source.to_le_bytes());
    put(&mut new, 8, &action.to_le_bytes());
    // An Ethernet header, or some headers more.
    put(&mut new, 14, &(packet.len() as u16).to_le_bytes());
    put(&mut new, HEAD, packet);
    new
}

/// A made-up Ethernet header to `address`.
fn ethernet(address: [u8; 6]) -> [u8; 16] {
    let [a, b, c, d, e, f] = address;
    // From a local address; a VLAN tag of which nothing is compared.
    [a, b, c, d, e, f, 2, 0, 0, 0, 0, 0, 0x81, 0, 0, 0]
}

/// Packets to `address` go to `vsi`.
pub(super) fn address(vsi: VsiId, address: [u8; 6]) -> Vec<u8> {
    // Bit 2: what other VSIs send there too. Bit 3: to the wire as well, where there are others with the address.
    let multicast = u32::from(address[0] & 1) << 3;
    rule(
        SENT,
        ADDRESS,
        vsi.0,
        to_vsi(vsi) | 1 << 2 | multicast,
        &ethernet(address),
    )
}

/// Packets that nothing else takes go to `vsi`.
pub(super) fn default(vsi: VsiId, port: Port) -> Vec<u8> {
    rule(
        RECEIVED,
        DEFAULT,
        port.number,
        to_vsi(vsi),
        &ethernet([2, 0, 0, 0, 0, 0]),
    )
}

/// Packets that are like `packet`, as far as `recipe` compares, go to `vsi`.
pub(super) fn like(recipe: u16, vsi: VsiId, port: Port, packet: &[u8]) -> Vec<u8> {
    rule(RECEIVED, recipe, port.number, to_vsi(vsi), packet)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_laid_out_as_both_drivers_have_them() {
        let rule = address(VsiId(9), [0x52, 0x54, 0, 0, 0, 0x11]);
        assert_eq!(rule.len(), 32);
        assert_eq!(rule[..8], [1, 0, 0, 0, 1, 0, 9, 0]);
        assert_eq!(rule[8..12], (9_u32 << 4 | 1 << 17 | 1 << 2).to_le_bytes());
        assert_eq!(rule[12..16], [0, 0, 16, 0]);
        assert_eq!(rule[16..22], [0x52, 0x54, 0, 0, 0, 0x11]);
        let broadcast = address(VsiId(9), [0xff; 6]);
        assert_eq!(broadcast[8] & 0b1100, 0b1100);
        let port = Port {
            number: 3,
            switch: 1,
        };
        let rule = default(VsiId(9), port);
        assert_eq!(rule[..8], [0, 0, 0, 0, 5, 0, 3, 0]);
    }
}
