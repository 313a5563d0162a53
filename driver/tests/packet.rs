//! The header walker against etherparse, against frames that scapy made, and against itself.
#![expect(clippy::unwrap_used, reason = "test helpers panic")]

mod common;

use devrx_driver::packet::{
    Addresses, Fragment, MAX_EXTENSIONS, MAX_HEADERS, Malformed, PacketKey, Parsed, parse,
};
use etherparse::{
    IpAuthHeaderSlice, Ipv6FragmentHeaderSlice, Ipv6RawExtHeaderSlice, LaxLinkExtSlice,
    LaxNetSlice, LaxSlicedPacket, TcpHeaderSlice, UdpHeaderSlice,
};
use proptest::prelude::*;

/// What etherparse makes of a frame.
#[derive(Debug, PartialEq)]
enum Answer {
    /// It cannot say: a header it does not know, or an order of headers it refuses.
    None,
    Malformed,
    /// Where the headers end, and the ports.
    Split(usize, Option<(u16, u16)>),
}

fn transport(at: usize, protocol: u8, payload: &[u8]) -> Answer {
    match protocol {
        17 => UdpHeaderSlice::from_slice(payload).map_or(Answer::Malformed, |udp| {
            Answer::Split(at + 8, Some((udp.source_port(), udp.destination_port())))
        }),
        6 => TcpHeaderSlice::from_slice(payload).map_or(Answer::Malformed, |tcp| {
            Answer::Split(
                at + tcp.slice().len(),
                Some((tcp.source_port(), tcp.destination_port())),
            )
        }),
        _ => Answer::Split(at, None),
    }
}

fn etherparse(frame: &[u8]) -> Answer {
    let Ok(sliced) = LaxSlicedPacket::from_ethernet(frame) else {
        return Answer::Malformed;
    };
    let vlans = sliced
        .link_exts
        .iter()
        .take_while(|ext| matches!(ext, LaxLinkExtSlice::Vlan(_)))
        .count();
    let mut at = 14 + 4 * vlans.min(2);
    // A third tag, and MACsec, are no headers of ours.
    if vlans > 2 || sliced.link_exts.len() > vlans {
        return Answer::Split(at, None);
    }
    let kind = u16::from_be_bytes([frame[at - 2], frame[at - 1]]);
    let version = match kind {
        0x0800 => 4,
        0x86dd => 6,
        _ if vlans < 2 && common::TPIDS.contains(&kind) => return Answer::Malformed,
        _ => return Answer::Split(at, None),
    };
    if frame.get(at).is_none_or(|byte| byte >> 4 != version) {
        return Answer::Malformed;
    }
    match &sliced.net {
        Some(LaxNetSlice::Ipv4(ip)) => {
            let header = ip.header();
            if usize::from(header.total_len()) < header.slice().len() {
                return Answer::Malformed;
            }
            at += header.slice().len();
            if header.fragments_offset().value() != 0 || header.protocol().0 == 51 {
                return Answer::Split(at, None);
            }
            transport(at, header.protocol().0, ip.payload().payload)
        }
        Some(LaxNetSlice::Ipv6(ip)) => {
            at += 40;
            // Not by the slice's own iterator: of etherparse 0.21 it reads past the end where the walk had stopped at a fault.
            let (mut rest, mut next, mut count) =
                (ip.extensions().slice(), ip.header().next_header().0, 0);
            while !rest.is_empty() {
                if count == MAX_EXTENSIONS {
                    return Answer::Malformed;
                }
                count += 1;
                let length;
                match next {
                    44 => {
                        let header = Ipv6FragmentHeaderSlice::from_slice(rest).unwrap();
                        (next, length) = (header.next_header().0, 8);
                        if header.fragment_offset().value() != 0 {
                            return Answer::Split(at + length, None);
                        }
                    }
                    51 => {
                        let header = IpAuthHeaderSlice::from_slice(rest).unwrap();
                        (next, length) = (header.next_header().0, header.slice().len());
                    }
                    _ => {
                        let header = Ipv6RawExtHeaderSlice::from_slice(rest).unwrap();
                        (next, length) = (header.next_header().0, header.slice().len());
                    }
                }
                at += length;
                rest = &rest[length..];
                if at > MAX_HEADERS {
                    return Answer::Malformed;
                }
            }
            if count == MAX_EXTENSIONS && [0, 43, 44, 51, 60, 135, 139, 140].contains(&next) {
                return Answer::Malformed;
            }
            let next = ip.payload().ip_number.0;
            match &sliced.stop_err {
                Some((
                    etherparse::err::packet::SliceError::Ipv6Exts(
                        etherparse::err::ipv6_exts::HeaderError::HopByHopNotAtStart,
                    ),
                    _,
                )) => Answer::None,
                // It stops at the extension header that is wrong; what comes behind is no longer one.
                Some(_) if [0, 43, 44, 51, 60].contains(&next) => Answer::Malformed,
                _ if [135, 139, 140].contains(&next) => Answer::None,
                _ => transport(at, next, ip.payload().payload),
            }
        }
        _ => Answer::Malformed,
    }
}

fn check_against_etherparse(frame: &[u8]) {
    let ours = parse(frame, frame.len());
    assert_eq!(ours.need, 0);
    assert_eq!(ours.malformed.is_some(), ours.header_len == 0, "{ours:?}");
    let ports = ours.key.src_port.zip(ours.key.dst_port);
    match etherparse(frame) {
        Answer::None => {}
        Answer::Split(at, found) if at <= MAX_HEADERS => assert_eq!(
            (usize::from(ours.header_len), ports),
            (at, found),
            "{ours:?}"
        ),
        Answer::Malformed | Answer::Split(..) => {
            assert!(ours.malformed.is_some() && ports.is_none(), "{ours:?}")
        }
    }
}

/// Given any prefix, the answer is either final and right, or asks for bytes that the frame has.
fn check_prefixes(frame: &[u8]) {
    let whole = parse(frame, frame.len());
    for given in 0..=frame.len() {
        let part = parse(&frame[..given], frame.len());
        if part.need == 0 {
            assert_eq!(part, whole, "of {given} bytes");
        } else {
            assert!(
                usize::from(part.need) > given
                    && usize::from(part.need) <= frame.len().min(MAX_HEADERS),
                "{part:?} of {given}"
            );
            assert_eq!((part.header_len, part.malformed), (0, None));
            assert!(given < MAX_HEADERS);
        }
    }
}

/// Scapy's idea of where the headers end, over every frame of the corpus, whole and cut off at every byte.
#[test]
fn corpus_splits_where_scapy_says() {
    let corpus = common::corpus();
    assert!(corpus.len() >= 30, "the corpus is there");
    for (name, split, frame) in corpus {
        let parsed = parse(&frame, frame.len());
        assert_eq!(parsed.header_len, split, "{name}: {parsed:?}");
        check_prefixes(&frame);
        for length in 0..frame.len() {
            let cut = parse(&frame[..length], length);
            check_against_etherparse(&frame[..length]);
            // One byte less than the headers: nothing is split. Any more: nothing changes.
            if length < usize::from(split) {
                assert_eq!(
                    (cut.header_len, cut.malformed),
                    (0, Some(Malformed::CutOff)),
                    "{name} cut to {length}"
                );
            } else {
                assert_eq!(cut.header_len, split, "{name} cut to {length}");
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn splits_where_etherparse_does(frame in common::frame()) {
        check_against_etherparse(&frame);
    }

    #[test]
    fn noise_is_no_trouble(frame in prop::collection::vec(any::<u8>(), 0..300), claimed in 0usize..70_000) {
        check_against_etherparse(&frame);
        let parsed = parse(&frame, claimed);
        prop_assert!(usize::from(parsed.header_len) <= claimed.min(MAX_HEADERS));
        prop_assert!(usize::from(parsed.need) <= claimed.min(MAX_HEADERS));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_prefix_gives_the_same_answer_or_asks_for_more(frame in common::frame()) {
        check_prefixes(&frame);
    }
}

/// Half of what the strategy makes should be worth making: every kind of answer comes up often.
#[test]
fn the_frames_made_are_of_all_kinds() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let strategy = common::frame();
    let (mut none, mut malformed, mut ports, mut later, mut v6) = (0, 0, 0, 0, 0);
    for _ in 0..4000 {
        let frame = strategy.new_tree(&mut runner).unwrap().current();
        let Parsed {
            key:
                PacketKey {
                    src_port,
                    fragment,
                    addresses,
                    ..
                },
            malformed: fault,
            ..
        } = parse(&frame, frame.len());
        none += usize::from(etherparse(&frame) == Answer::None);
        malformed += usize::from(fault.is_some());
        ports += usize::from(src_port.is_some());
        later += usize::from(fragment == Fragment::Later);
        v6 += usize::from(matches!(addresses, Some(Addresses::V6 { .. })));
    }
    let counts = [malformed, ports, later, v6, 4000 - none];
    assert!(
        malformed > 400 && ports > 500 && later > 100 && v6 > 800 && none < 1000,
        "{counts:?}"
    );
}
