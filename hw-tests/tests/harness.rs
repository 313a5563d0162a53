//! The harness itself: links carry what is sent and nothing else, captures hold what the tests rely on.

use anyhow::{Context, Result, ensure};
use devrx_hw_tests::link::{IPV4, Link, LinkSpec, NEAR_IF};
use devrx_hw_tests::sender::{Sender, Traffic};
use devrx_hw_tests::{capture, lane, pcap};

fn received(link: &Link) -> Result<u64> {
    let text = link
        .near
        .sh(&format!(
            "cat /sys/class/net/{NEAR_IF}/statistics/rx_packets"
        ))?
        .stdout;
    text.trim().parse().context("rx_packets")
}

#[test]
fn a_link_without_addresses_is_silent_but_for_what_is_sent() {
    lane::test(|| {
        let link = Link::new(LinkSpec::default())?;
        std::thread::sleep(std::time::Duration::from_millis(300));
        ensure!(
            received(&link)? == 0,
            "{} frames that nobody sent",
            received(&link)?
        );
        let sent = Sender::start(&link, Traffic::paced(5000, 1000, 20_000))?.finish()?;
        ensure!(
            sent == 1000 && received(&link)? == 1000,
            "sent {sent}, received {}",
            received(&link)?
        );
        let flood = Sender::start(&link, Traffic::flood(5000))?;
        std::thread::sleep(std::time::Duration::from_millis(200));
        let sent = flood.stop()?;
        ensure!(sent > 500 && received(&link)? > 500, "a flood of {sent}");
        Ok(())
    });
}

#[test]
fn a_link_with_addresses_carries_tcp() {
    lane::test(|| {
        let link = Link::new(LinkSpec {
            addresses: true,
            offloads: true,
            ..LinkSpec::default()
        })?;
        capture::tcp_transfer(&link, IPV4[0].parse::<std::net::IpAddr>()?, 7000, 1 << 20)
    });
}

#[test]
fn captures_hold_every_kind_of_frame_the_tests_speak_of() {
    lane::test(|| {
        let mut all = Vec::new();
        for name in capture::SCAPY {
            all.extend(pcap::read(&capture::scapy_file(name)?)?);
        }
        let some = |what: &str, holds: &dyn Fn(&Vec<u8>) -> bool| -> Result<()> {
            ensure!(all.iter().any(holds), "no frame {what}");
            Ok(())
        };
        let kind = |frame: &[u8], at: usize, value: u16| {
            frame.get(at..at + 2) == Some(&value.to_be_bytes()[..])
        };
        some("of 14 bytes", &|frame| frame.len() == 14)?;
        some("of 9014 bytes", &|frame| frame.len() == 9014)?;
        some("of 9018 bytes, tagged", &|frame| {
            frame.len() == 9018 && kind(frame, 12, 0x8100)
        })?;
        some("with a VLAN tag", &|frame| {
            kind(frame, 12, 0x8100) && kind(frame, 16, 0x0800)
        })?;
        some("QinQ", &|frame| {
            kind(frame, 12, 0x88a8) && kind(frame, 16, 0x8100)
        })?;
        some("with IPv6 extension headers", &|frame| {
            kind(frame, 12, 0x86dd) && frame.get(20) == Some(&0)
        })?;
        some("IPv6 fragment", &|frame| {
            kind(frame, 12, 0x86dd) && frame.get(20) == Some(&44)
        })?;
        some("IPv4 non-first fragment", &|frame| {
            kind(frame, 12, 0x0800)
                && frame
                    .get(20..22)
                    .is_some_and(|bytes| bytes[0] & 0x1f != 0 || bytes[1] != 0)
        })?;
        some("ARP", &|frame| kind(frame, 12, 0x0806))?;
        some("TCP with options", &|frame| {
            frame.get(23) == Some(&6) && frame.get(46).is_some_and(|byte| byte >> 4 > 5)
        })?;
        some("TCP data offset below 5", &|frame| {
            frame.get(23) == Some(&6) && frame.get(46).is_some_and(|byte| byte >> 4 < 5)
        })?;
        some("IHL below 5", &|frame| {
            kind(frame, 12, 0x0800) && frame.get(14).is_some_and(|byte| byte & 15 < 5)
        })?;
        ensure!(
            all.iter().all(|frame| (14..=9018).contains(&frame.len())),
            "a frame the link cannot carry"
        );
        Ok(())
    });
}

#[test]
fn real_traffic_is_real() {
    lane::test(|| {
        let folder = tempfile::tempdir()?;
        let frames = pcap::read(&capture::real_traffic(folder.path())?)?;
        for (what, at, value) in [
            ("ARP", 12, &[8_u8, 6][..]),
            ("ICMP", 23, &[1]),
            ("ICMPv6", 20, &[58]),
            ("an IPv6 fragment", 20, &[44]),
        ] {
            ensure!(
                frames
                    .iter()
                    .any(|frame| frame.get(at..at + value.len()) == Some(value)),
                "no {what}"
            );
        }
        Ok(())
    });
}
