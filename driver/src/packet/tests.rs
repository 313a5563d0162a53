//! The borderline cases of the module's documentation, one by one.

use super::*;

/// An Ethernet frame of this type.
fn ethernet(kind: u16, rest: &[u8]) -> Vec<u8> {
    [&[0; 12][..], &kind.to_be_bytes(), rest].concat()
}

/// IPv4 with `header` bytes of header as the length field says, a total length, fragment field and protocol.
fn ipv4(header: u8, total: u16, fragment: u16, protocol: u8, rest: &[u8]) -> Vec<u8> {
    let mut ip = vec![0x40 | (header / 4), 0];
    ip.extend(total.to_be_bytes());
    ip.extend([0, 0]);
    ip.extend(fragment.to_be_bytes());
    ip.extend([64, protocol, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    ip.extend(rest);
    ethernet(0x0800, &ip)
}

fn ipv6(payload: u16, next: u8, rest: &[u8]) -> Vec<u8> {
    let mut ip = vec![0x60, 0, 0, 0];
    ip.extend(payload.to_be_bytes());
    ip.extend([next, 64]);
    ip.extend([0xfd; 32]);
    ip.extend(rest);
    ethernet(0x86dd, &ip)
}

const UDP: [u8; 8] = [0, 80, 0x13, 0x88, 0, 8, 0, 0];

fn tcp(offset: u8) -> Vec<u8> {
    let mut tcp = vec![0; 60];
    tcp[..4].copy_from_slice(&[0, 80, 0x13, 0x88]);
    tcp[12] = offset << 4;
    tcp
}

fn whole(frame: &[u8]) -> Parsed {
    parse(frame, frame.len())
}

#[track_caller]
fn splits(frame: &[u8], at: u16) -> PacketKey {
    let parsed = whole(frame);
    assert_eq!(
        (parsed.header_len, parsed.malformed, parsed.need),
        (at, None, 0)
    );
    parsed.key
}

#[track_caller]
fn fails(frame: &[u8], why: Malformed) -> PacketKey {
    let parsed = whole(frame);
    assert_eq!(
        (parsed.header_len, parsed.malformed, parsed.need),
        (0, Some(why), 0)
    );
    parsed.key
}

#[test]
fn total_length_beyond_the_frame_splits() {
    splits(&ipv4(20, 1500, 0, 17, &UDP), 42);
    splits(&ipv6(1500, 17, &UDP), 62);
}

#[test]
fn what_lies_behind_the_ip_packet_is_no_header() {
    let key = fails(&ipv4(20, 27, 0, 17, &UDP), Malformed::CutOff);
    assert_eq!((key.protocol, key.dst_port), (Some(17), None));
    fails(&ipv6(7, 17, &UDP), Malformed::CutOff);
    splits(&ipv4(20, 28, 0, 17, &UDP), 42);
    splits(&ipv6(8, 17, &UDP), 62);
}

#[test]
fn bad_ip_headers_have_no_addresses() {
    for (header, total, why) in [
        (16, 28, Malformed::IpLength),
        (20, 19, Malformed::IpLength),
        (20, 0, Malformed::IpLength),
        (60, 60, Malformed::CutOff),
    ] {
        let key = fails(&ipv4(header, total, 0, 17, &UDP), why);
        assert_eq!(
            (key.ether_type, key.addresses, key.protocol),
            (Some(0x0800), None, None)
        );
    }
    let mut frame = ipv4(20, 28, 0, 17, &UDP);
    frame[14] = 0x65;
    fails(&frame, Malformed::Version);
    let mut frame = ipv6(8, 17, &UDP);
    frame[14] = 0x45;
    fails(&frame, Malformed::Version);
}

#[test]
fn fragments_have_ports_only_if_they_are_the_first() {
    let first = splits(&ipv4(20, 28, 0x2000, 17, &UDP), 42);
    assert_eq!(
        (first.fragment, first.dst_port),
        (Fragment::First, Some(5000))
    );
    for field in [0x2001, 0x0001, 0x1fff] {
        let later = splits(&ipv4(20, 28, field, 17, &UDP), 34);
        assert_eq!(
            (later.fragment, later.protocol, later.dst_port),
            (Fragment::Later, Some(17), None)
        );
    }
    // Don't fragment, and the reserved bit, make none.
    assert_eq!(
        splits(&ipv4(20, 28, 0xc000, 17, &UDP), 42).fragment,
        Fragment::None
    );
    // A first fragment that does not hold the whole transport header.
    fails(&ipv4(20, 28, 0x2000, 6, &tcp(5)), Malformed::CutOff);

    let fragment = |field: u16| [&[17, 0][..], &field.to_be_bytes(), &[0; 4], &UDP].concat();
    assert_eq!(
        splits(&ipv6(16, 44, &fragment(0)), 70).fragment,
        Fragment::None
    );
    assert_eq!(
        splits(&ipv6(16, 44, &fragment(1)), 70).fragment,
        Fragment::First
    );
    // The two reserved bits are no offset.
    assert_eq!(splits(&ipv6(16, 44, &fragment(6)), 70).dst_port, Some(5000));
    let later = splits(&ipv6(16, 44, &fragment(8)), 62);
    assert_eq!(
        (later.fragment, later.protocol, later.dst_port),
        (Fragment::Later, Some(17), None)
    );
    // Which protocol comes behind a further extension header is known to the first fragment only.
    let mut hidden = fragment(8);
    hidden[0] = 60;
    assert_eq!(splits(&ipv6(16, 44, &hidden), 62).protocol, None);
}

#[test]
fn tcp_splits_behind_its_options() {
    for offset in 5..=15 {
        splits(
            &ipv4(20, 80, 0, 6, &tcp(offset)),
            34 + u16::from(offset) * 4,
        );
    }
    for offset in 0..5 {
        let key = fails(&ipv4(20, 80, 0, 6, &tcp(offset)), Malformed::TcpOffset);
        assert_eq!((key.protocol, key.src_port), (Some(6), None));
    }
    fails(&ipv4(20, 79, 0, 6, &tcp(15)), Malformed::CutOff);
}

#[test]
fn extension_headers_are_bounded_in_number_and_length() {
    let chain = |count: usize| {
        let mut rest = [60, 0, 0, 0, 0, 0, 0, 0].repeat(count);
        let last = rest.len() - 8;
        rest[last] = 17;
        rest.extend(UDP);
        rest
    };
    splits(&ipv6(0, 60, &chain(MAX_EXTENSIONS)), 54 + 64 + 8);
    let key = fails(
        &ipv6(0, 60, &chain(MAX_EXTENSIONS + 1)),
        Malformed::Extensions,
    );
    assert!(key.addresses.is_some() && key.protocol.is_none());

    // 54 + 960 + 8 = 1022 fits, 8 more do not.
    let long = |eights: u8| {
        [
            &[17, eights - 1][..],
            &vec![0; usize::from(eights) * 8 - 2],
            &UDP,
        ]
        .concat()
    };
    splits(&ipv6(0, 60, &long(120)), 1022);
    fails(&ipv6(0, 60, &long(121)), Malformed::TooLong);
    fails(&ipv6(0, 60, &[17, 5, 0, 0, 0, 0, 0, 0]), Malformed::CutOff);
    // An authentication header of 8 bytes would have no room for what it must hold.
    fails(
        &ipv6(0, 51, &[17, 0, 0, 0, 0, 0, 0, 0, 0]),
        Malformed::Extensions,
    );
}

#[test]
fn vlan_tags_up_to_two() {
    let tag = |id: u16, kind: u16| [id.to_be_bytes(), kind.to_be_bytes()].concat();
    let key = splits(
        &ethernet(0x88a8, &[tag(0xe064, 0x8100), tag(7, 0x0806)].concat()),
        22,
    );
    assert_eq!(
        (key.vlans, key.ether_type),
        ([Some(100), Some(7)], Some(0x0806))
    );
    let key = splits(
        &ethernet(
            0x9100,
            &[tag(1, 0x8100), tag(2, 0x8100), tag(3, 0x0800)].concat(),
        ),
        22,
    );
    assert_eq!(
        (key.vlans, key.ether_type),
        ([Some(1), Some(2)], Some(0x8100))
    );
    let key = fails(&ethernet(0x8100, &[0, 5, 8]), Malformed::CutOff);
    assert_eq!((key.vlans, key.ether_type), ([None, None], None));
    assert_eq!(fails(&[0; 13], Malformed::CutOff).ether_type, None);
}

#[test]
fn needs_what_it_has_not_got() {
    let frame = ipv4(20, 80, 0, 6, &tcp(15));
    assert_eq!(parse(&frame[..13], frame.len()).need, 14);
    assert_eq!(parse(&frame[..20], frame.len()).need, 34);
    assert_eq!(parse(&frame[..53], frame.len()).need, 54);
    // The options need not be there: only where they end matters.
    assert_eq!(parse(&frame[..54], frame.len()).header_len, 94);
    // Bytes behind the frame's end are not its own.
    assert_eq!(parse(&frame, 53).malformed, Some(Malformed::CutOff));
}
