//! What rules take, and what is no rule.

use super::*;
use crate::packet::{Addresses, Fragment};

fn rule(text: &str) -> FlowRule {
    text.parse().unwrap_or_else(|error| panic!("{error}"))
}

/// A UDP packet of IPv4, untagged.
fn udp4() -> PacketKey {
    PacketKey {
        dst_mac: Some([0x02, 0, 0, 0, 0, 0x10]),
        ether_type: Some(0x0800),
        vlans: [None, None],
        addresses: Some(Addresses::V4 {
            src: [10, 0, 0, 1].into(),
            dst: [10, 9, 8, 7].into(),
        }),
        protocol: Some(17),
        src_port: Some(4999),
        dst_port: Some(5000),
        fragment: Fragment::None,
    }
}

/// The same over IPv6.
fn udp6() -> PacketKey {
    let (src, dst) = ("fd00::1".parse().unwrap(), "2001:db8::2".parse().unwrap());
    PacketKey {
        ether_type: Some(0x86dd),
        addresses: Some(Addresses::V6 { src, dst }),
        ..udp4()
    }
}

#[test]
fn rules_take_what_they_say() {
    let tagged = PacketKey {
        vlans: [Some(100), Some(7)],
        ..udp4()
    };
    let arp = PacketKey {
        ether_type: Some(0x0806),
        ..PacketKey::default()
    };
    let all = [udp4(), udp6(), tagged, arp];
    for (text, takes) in [
        ("any", [true, true, true, true]),
        ("udp", [true, true, true, false]),
        ("tcp", [false; 4]),
        ("ip", [true, false, true, false]),
        ("ip6,udp", [false, true, false, false]),
        ("arp", [false, false, false, true]),
        ("ether-type=2054", [false, false, false, true]),
        ("proto=17", [true, true, true, false]),
        ("dst-mac=02:00:00:00:00:10", [true, true, true, false]),
        ("dst-mac=02:00:00:00:00:11,udp", [false; 4]),
        ("vlan=100", [false, false, true, false]),
        ("inner-vlan=7", [false, false, true, false]),
        ("vlan=7", [false; 4]),
        (
            "vlan=100,inner-vlan=7,udp,dst-port=5000",
            [false, false, true, false],
        ),
        ("src=10.0.0.1", [true, false, true, false]),
        ("ip,dst=10.0.0.0/8", [true, false, true, false]),
        ("dst=10.9.8.6/31", [true, false, true, false]),
        ("dst=10.9.8.8/29", [false; 4]),
        ("src=fd00::/8", [false, true, false, false]),
        ("src=::/0", [false, true, false, false]),
        ("src=0.0.0.0/0", [true, false, true, false]),
        ("dst-port=5000", [true, true, true, false]),
        ("dst-port=5000-5010", [true, true, true, false]),
        ("dst-port=4990-4999", [false; 4]),
        ("dst-port=5001-5010", [false; 4]),
        ("src-port=4999,dst-port=0-65535", [true, true, true, false]),
        ("src-port=5000", [false; 4]),
    ] {
        assert_eq!(all.map(|key| rule(text).matches(&key)), takes, "{text}");
    }
}

#[test]
fn later_fragments_match_by_address_and_protocol_not_by_port() {
    let later = PacketKey {
        src_port: None,
        dst_port: None,
        fragment: Fragment::Later,
        ..udp4()
    };
    for (text, takes) in [
        ("src=10.0.0.1", true),
        ("udp", true),
        ("any", true),
        ("udp,dst-port=5000", false),
        ("src-port=0-65535", false),
    ] {
        assert_eq!(rule(text).matches(&later), takes, "{text}");
    }
    assert_eq!(rule("udp,dst-port=5000").notes().len(), 1);
    assert_eq!(rule("udp").notes().len(), 0);
}

#[test]
fn a_frame_that_cannot_be_read_matches_any_and_what_was_read() {
    let nothing = PacketKey::default();
    assert!(
        rule("any").matches(&nothing)
            && !rule("arp").matches(&nothing)
            && !rule("vlan=1").matches(&nothing)
    );
    let bad_ip = PacketKey {
        ether_type: Some(0x0800),
        vlans: [Some(100), None],
        ..nothing
    };
    assert!(
        rule("vlan=100,ip").matches(&bad_ip)
            && !rule("udp").matches(&bad_ip)
            && !rule("src=0.0.0.0/0").matches(&bad_ip)
    );
}

#[test]
fn rules_are_written_in_one_way() {
    for (text, written) in [
        (" udp , dst-port = 5000 ", "udp,dst-port=5000"),
        ("dst-port=5000,udp,vlan=100", "vlan=100,udp,dst-port=5000"),
        ("ether-type=0x0800,proto=6", "ip,tcp"),
        ("udp,dst-mac=2:0:0:a:B:FF", "dst-mac=02:00:00:0a:0b:ff,udp"),
        ("ether-type=35063", "ether-type=0x88f7"),
        ("src=10.0.0.1/32", "src=10.0.0.1"),
        ("dst-port=7-7", "dst-port=7"),
        ("src=FD00:0::/8", "src=fd00::/8"),
    ] {
        assert_eq!(rule(text).to_string(), written);
    }
}

/// Each refusal says what is wrong and what to write instead.
#[track_caller]
fn refused(text: &str, why: &str, fix: &str) {
    let error = text.parse::<FlowRule>().expect_err(text).to_string();
    assert!(
        error.contains(&format!("`{text}`")) && error.contains(why) && error.contains(fix),
        "{error}"
    );
}

#[test]
fn rules_that_match_nothing_are_refused() {
    refused("arp,dst-port=1", "0x0806, which is not IP", "leave one out");
    refused("ether-type=0x88f7,udp", "not IP", "leave one out");
    refused(
        "src=10.0.0.1,dst=fd00::1",
        "IPv4 and IPv6 at once",
        "two rules",
    );
    refused("ip6,src=10.0.0.1", "IPv4 and IPv6 at once", "two rules");
    refused("ip,dst=fd00::/8", "IPv4 and IPv6 at once", "two rules");
    refused(
        "proto=89,dst-port=1",
        "protocol 89 has none",
        "`udp` or `tcp`",
    );
    refused("ip6,proto=44", "extension header", "behind them");
    refused("proto=51,dst=fd00::1", "extension header", "behind them");
}

#[test]
fn what_is_no_rule_is_refused() {
    refused("", "empty term", "`any`");
    refused("udp,", "empty term", "single commas");
    refused("any,udp", "every frame", "alone");
    refused("upd", "`upd` is no term", "udp");
    refused("port=5000", "`port` is no term", "dst-port=");
    refused("dst-port", "needs a value", "dst-port=VALUE");
    refused("udp=5000", "takes no value", "dst-port=");
    refused("udp,tcp", "second protocol", "second rule");
    refused("arp,ip", "second ether type", "second rule");
    refused("vlan=1,vlan=2", "second `vlan`", "second rule");
    refused("dst-mac", "needs a value", "dst-mac=VALUE");
    refused("dst-mac=02:00:00:00:00", "no Ethernet address", "six bytes");
    refused("dst-mac=02:00:00:00:00:00:00", "no Ethernet address", "six");
    refused(
        "dst-mac=02:00:00:00:00:+1",
        "no Ethernet address",
        "six bytes",
    );
    refused(
        "dst-mac=02:00:00:00:00:100",
        "no Ethernet address",
        "six bytes",
    );
    refused("vlan=4095", "no VLAN identifier", "0 to 4094");
    refused("ether-type=0x8100", "VLAN tag", "vlan=ID");
    refused("ether-type=1500", "no ether type", "0x0600");
    refused("proto=0", "hop-by-hop", "behind the extension headers");
    refused("proto=256", "no IP protocol", "1 to 255");
    refused("src=10.0.0.0/33", "no prefix length", "0 to 32");
    refused("src=fd00::/129", "no prefix length", "0 to 128");
    refused("src=10.0.0.1/8", "bits set", "src=10.0.0.0/8");
    refused("src=host.example", "no IP address", "not looked up");
    refused("dst-port=65536", "no port", "65535");
    refused("dst-port=10-5", "ends before it begins", "dst-port=5-10");
    refused("dst-port=+5", "no port", "65535");
}
