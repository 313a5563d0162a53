//! Captures go into an 82576 and come out of an attachment: the same frames, byte for byte, in the same order. They are those of the
//! AF_XDP round trip (`tests/round_trip.rs`).

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Test, samples};
use crate::capture::SCAPY;
use crate::daemon::Daemon;
use crate::guest::message::Frames;
use crate::inside::igb::{self, Kind, NIC, Wanted};
use crate::inside::{CAPTURES, Host};
use crate::pcap;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::new("igb_captures_survive_whatever_the_split", round_trip).limit(90),
    Test::new("igb_rules_take_the_frames_they_name", rules).limit(90),
];

/// The frames of a capture as they arrive.
fn read(name: &str) -> Result<Vec<Vec<u8>>> {
    let frames = pcap::read(&Path::new(CAPTURES).join(format!("{name}.pcap")))?;
    Ok(frames.iter().map(|frame| samples::padded(frame)).collect())
}

/// Whether a frame's headers claim to go on beyond its end. With header split QEMU 10.0's 82576 copies as many bytes as the headers claim to
/// have, whatever the frame has, and dies of it (hw/net/igb_core.c, `igb_write_header_to_rx_buffers`): such frames are sent to it without.
fn ends_qemu(frame: &[u8]) -> bool {
    let at = |place: usize| frame.get(place).copied().unwrap_or(0);
    let mut ip = 14;
    while matches!((at(ip - 2), at(ip - 1)), (0x81, 0) | (0x88, 0xa8)) {
        ip += 4;
    }
    let (mut next, mut end) = match (at(ip - 2), at(ip - 1), at(ip) >> 4) {
        (8, 0, 4) => (at(ip + 9), ip + usize::from(at(ip) & 15) * 4),
        (0x86, 0xdd, 6) => (at(ip + 6), ip + 40),
        _ => return false,
    };
    let version = at(ip) >> 4;
    while version == 6 && matches!(next, 0 | 43 | 44 | 51 | 60 | 135) && end < frame.len() {
        (next, end) = (at(end), end + (usize::from(at(end + 1)) + 1) * 8);
    }
    if next == 6 {
        end += usize::from(at(end + 12) >> 4) * 4;
    }
    end > frame.len()
}

/// Header split on, with slots that hold all headers and with slots that do not; off; and everything through the slot.
fn round_trip(host: &mut Host) -> Result<()> {
    let daemon = igb::daemon(host)?;
    let mut all = Vec::new();
    for name in SCAPY {
        all.extend(read(name)?);
    }
    let harmless: Vec<_> = all
        .iter()
        .filter(|frame| !ends_qemu(frame))
        .cloned()
        .collect();
    ensure!(
        harmless.len() + 50 > all.len() && harmless.len() < all.len(),
        "{} of {} frames are left out",
        all.len() - harmless.len(),
        all.len()
    );
    for (more, kind, chunk) in [
        ("--no-split", Kind::Memfd, 4096),
        ("--no-split", Kind::Hugetlb, 2048),
        ("", Kind::Memfd, 4096),
        ("--header-slot 64", Kind::Udmabuf, 2048),
        ("--header-slot 960 --unsplit header", Kind::Udmabuf, 1024),
    ] {
        let want = if more == "--no-split" {
            &all
        } else {
            &harmless
        };
        let before = daemon
            .stats()?
            .queue(0)
            .map_or(Ok(0), |queue| queue.count("packets"))?;
        let got = through(host, &daemon, more, kind, chunk, want)
            .with_context(|| format!("{more} {kind:?}, chunks of {chunk}"))?;
        pcap::compare(want, &got).with_context(|| format!("{more} {kind:?}, chunks of {chunk}"))?;
        let stats = daemon.detach_and_check("trip")?;
        let packets = stats.queue(0)?.count("packets")? - before;
        ensure!(
            packets == want.len() as u64,
            "{} were sent, {packets} counted",
            want.len()
        );
        let entry = stats.attachment("trip")?;
        ensure!(
            entry.count("payload_bytes_copied")? == 0,
            "{}",
            entry.json()
        );
        println!(
            "{} frames of {} captures, {kind:?} {chunk} {more}: equal",
            want.len(),
            SCAPY.len()
        );
    }
    Ok(())
}

/// Sends frames through an attachment of everything; what `devrx recv --pcap` wrote.
fn through(
    host: &mut Host,
    daemon: &Daemon,
    more: &str,
    kind: Kind,
    chunk: u32,
    frames: &[Vec<u8>],
) -> Result<Vec<Vec<u8>>> {
    let more = format!("--queue 0 --flow any {more}");
    let wanted = Wanted {
        name: "trip",
        kind,
        chunks: (4 << 20) / chunk,
        chunk,
        more: &more,
    };
    wanted.attach(host, daemon)?;
    let count = frames.len();
    let (recv, file) = daemon.recv_pcap("trip", count, 20)?;
    host.inject_frames(NIC, frames, None)?;
    host.injected(NIC, Duration::from_secs(10))?;
    let output = recv.wait(Duration::from_secs(25))?;
    let frames = pcap::read(&file)?;
    // What is missing, a comparison of the frames says better.
    ensure!(
        output.status.success() || frames.len() < count,
        "recv has all frames but failed: {output:?}"
    );
    Ok(frames)
}

/// An untagged fragment.
fn is_fragment(frame: &[u8]) -> bool {
    match frame[12..14] {
        [8, 0] => u16::from_be_bytes([frame[20], frame[21]]) & 0x3fff != 0,
        [0x86, 0xdd] => frame[20] == 44,
        _ => false,
    }
}

/// Which frames of the capture `rules` each rule takes was written down by the maker of the frames.
fn rules(host: &mut Host) -> Result<()> {
    let daemon = igb::daemon(host)?;
    let frames = read("rules")?;
    let text = std::fs::read_to_string(Path::new(CAPTURES).join("rules.json"))?;
    let json: serde_json::Value = serde_json::from_str(&text)?;
    let rules: BTreeMap<String, Vec<usize>> = serde_json::from_value(json["rules"].clone())?;
    ensure!(rules.len() > 10, "only {} rules", rules.len());
    let wanted = Wanted {
        name: "rules",
        kind: Kind::Udmabuf,
        chunks: 1024,
        chunk: 2048,
        // ARP has no header to split off: the rule `arp` sees it only in the slot.
        more: "--queue 0 --unsplit header",
    };
    let (mut attachment, memory) = wanted.attach_and_open(host, &daemon)?;
    for (rule, matched) in &rules {
        // The NIC splits fragments behind the IP header: the ports of a first one are payload, which nobody reads.
        let ports = rule.contains("port=");
        let seen = |index: &&usize| !(ports && is_fragment(&frames[**index]));
        let matched: Vec<usize> = matched.iter().filter(seen).copied().collect();
        let before = daemon.stats()?.queue(0)?;
        let added = daemon
            .ok(&format!("flow add rules {rule} --json"))?
            .json()?;
        let id = added["flow"]["id"]
            .as_u64()
            .with_context(|| format!("no id in {added}"))?;
        host.inject(NIC, Frames::Capture("rules".to_owned()), None)?;
        let (delivered, held) =
            igb::collect(&mut attachment, matched.len(), Duration::from_secs(10))
                .with_context(|| rule.clone())?;
        host.injected(NIC, Duration::from_secs(5))?;
        for (index, packet) in matched.iter().copied().zip(&delivered) {
            let mut frame = packet.header.clone();
            for &(offset, length) in &packet.payload {
                frame.extend(memory.read(host, offset, length)?);
            }
            ensure!(
                frame == frames[index],
                "{rule}: frame {index} is another: {frame:02x?}"
            );
        }
        attachment.give_back(held)?;
        let mut now = daemon.stats()?.queue(0)?;
        let want = before.count("packets")? + frames.len() as u64;
        crate::command::wait_for("all are counted", Duration::from_secs(5), || {
            now = daemon.stats()?.queue(0)?;
            Ok(now.count("packets")? >= want)
        })
        .with_context(|| format!("{rule}: {want} of {}", now.json()))?;
        let unwanted = now.dropped("unwanted") - before.dropped("unwanted");
        ensure!(
            now.count("delivered")? - before.count("delivered")? == matched.len() as u64
                && unwanted == (frames.len() - matched.len()) as u64
                && now.count("packets")? == want,
            "{rule} should take {} of {}: before {}, now {}",
            matched.len(),
            frames.len(),
            before.json(),
            now.json()
        );
        daemon.ok(&format!("flow del rules {id}"))?;
    }
    println!("{} rules, each given {} frames", rules.len(), frames.len());
    drop(attachment);
    daemon.detach_and_check("rules")?;
    Ok(())
}
