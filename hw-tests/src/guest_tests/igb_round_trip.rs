//! Captures go into an 82576, or the E810 model, and come out of an attachment: the same frames, byte for byte, in the same order. They are those of the
//! AF_XDP round trip (`tests/round_trip.rs`).

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Test, samples};
use crate::capture::SCAPY;
use crate::command::wait_for;
use crate::daemon::Daemon;
use crate::guest::machine::E810;
use crate::guest::message::Frames;
use crate::inside::igb::{self, Kind, Wanted};
use crate::inside::{CAPTURES, Host};
use crate::pcap;
use crate::stats::Stats;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::new("igb_captures_survive_whatever_the_split", round_trip).limit(90),
    Test::new("igb_rules_take_the_frames_they_name", rules).limit(90),
];

/// The same on an E810.
pub const E810_TESTS: &[Test] = &[
    Test::new("e810_captures_survive_whatever_the_split", round_trip)
        .on(E810)
        .limit(90),
    Test::new("e810_rules_take_the_frames_they_name", rules)
        .on(E810)
        .limit(90),
];

/// How the frames are received once: more of `devrx attach`, memory, bytes in a chunk.
type Trip = (&'static str, Kind, u32);

/// Header split off; on, with slots that hold all headers and with slots that do not; and everything through the slot.
const TRIPS: &[Trip] = &[
    ("--no-split", Kind::Memfd, 4096),
    ("--no-split", Kind::Hugetlb, 2048),
    ("", Kind::Memfd, 4096),
    ("--header-slot 64", Kind::Udmabuf, 2048),
    ("--header-slot 960 --unsplit header", Kind::Udmabuf, 1024),
];

/// An E810 has nothing like the last of these. Its slots hold most headers, or nearly all, or fewer. Chunks of 1024 bytes are too small for jumbo frames.
const E810_TRIPS: &[Trip] = &[
    ("--no-split", Kind::Memfd, 4096),
    ("--no-split", Kind::Hugetlb, 2048),
    ("--header-slot 256", Kind::Memfd, 4096),
    ("--header-slot 128", Kind::Udmabuf, 2048),
    ("--header-slot 960", Kind::Udmabuf, 1024),
];

/// Frames that the model of the card has taken or dropped.
fn seen_by_model(host: &mut Host) -> Result<u64> {
    let said = host.card(igb::nic(host), "wire")?;
    let mut counts = said.split_whitespace().map(str::parse::<u64>);
    let mut count = || counts.next().context("a count too few");
    Ok(count()?? + count()??)
}

/// The frames of a capture as they arrive.
fn read(name: &str) -> Result<Vec<Vec<u8>>> {
    let frames = pcap::read(&Path::new(CAPTURES).join(format!("{name}.pcap")))?;
    Ok(frames.iter().map(|frame| samples::padded(frame)).collect())
}

/// Whether a frame's headers claim to go on beyond its end. With header split QEMU 10.0's 82576 copies as many bytes as the headers claim to
/// have, whatever the frame has, and dies of it (hw/net/igb_core.c, `igb_write_header_to_rx_buffers`): such frames are sent to it without.
fn ends_qemu(frame: &[u8]) -> bool {
    headers(frame) > frame.len()
}

/// What becomes of a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fate {
    Delivered,
    /// Dropped: its headers do not fit the slot.
    Unsplit,
    /// Dropped: it does not fit the chunks of a packet.
    TooLong,
}

/// What becomes of a frame: an 82576 delivers all of them, an E810 loses some, which must be counted.
fn fate(e810: bool, (more, _, chunk): Trip, frame: &[u8]) -> Fate {
    let slot = more.split_once("--header-slot ");
    let slot = slot.and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
    // A packet has five chunks (the context's longest frame, `driver/src/ice/nic/opening.rs`), and not more by what is in the slot.
    if e810 && frame.len() > 5 * chunk as usize {
        return Fate::TooLong;
    }
    // Headers that do not fit the slot (HBO): what is in the buffers then, no source says, so the packet is dropped. Headers that claim to go on beyond
    // the frame's end the parser does not find, but those before them, and these fit.
    match slot {
        Some(slot) if e810 && !ends_qemu(frame) && headers(frame) > slot => Fate::Unsplit,
        _ => Fate::Delivered,
    }
}

/// Where a frame's headers claim to end: of UDP, where it begins.
fn headers(frame: &[u8]) -> usize {
    let at = |place: usize| frame.get(place).copied().unwrap_or(0);
    let mut ip = 14;
    while matches!((at(ip - 2), at(ip - 1)), (0x81, 0) | (0x88, 0xa8)) {
        ip += 4;
    }
    let (mut next, mut end) = match (at(ip - 2), at(ip - 1), at(ip) >> 4) {
        (8, 0, 4) => (at(ip + 9), ip + usize::from(at(ip) & 15) * 4),
        (0x86, 0xdd, 6) => (at(ip + 6), ip + 40),
        _ => return ip,
    };
    let version = at(ip) >> 4;
    while version == 6 && matches!(next, 0 | 43 | 44 | 51 | 60 | 135) && end < frame.len() {
        (next, end) = (at(end), end + (usize::from(at(end + 1)) + 1) * 8);
    }
    if next == 6 {
        end += usize::from(at(end + 12) >> 4) * 4;
    }
    end
}

/// All captures, once for each trip.
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
    let e810 = igb::is_e810(host);
    for &trip in if e810 { E810_TRIPS } else { TRIPS } {
        let (more, kind, chunk) = trip;
        let sent = if more == "--no-split" || e810 {
            &all
        } else {
            &harmless
        };
        let of = |wanted: Fate| {
            sent.iter()
                .filter(move |frame| fate(e810, trip, frame) == wanted)
        };
        let want: Vec<_> = of(Fate::Delivered).cloned().collect();
        let before = numbers(&daemon.stats()?)?;
        let got = through(host, &daemon, trip, sent, want.len())
            .with_context(|| format!("{more} {kind:?}, chunks of {chunk}"))?;
        pcap::compare(&want, &got)
            .with_context(|| format!("{more} {kind:?}, chunks of {chunk}"))?;
        let stats = daemon.detach_and_check("trip")?;
        let now = numbers(&stats)?;
        let counted = [0, 1, 2, 3].map(|at| now[at] - before[at]);
        let (unsplit, long) = (of(Fate::Unsplit).count(), of(Fate::TooLong).count());
        let expected = [sent.len(), unsplit, long, unsplit + long].map(|count| count as u64);
        ensure!(
            counted == expected,
            "packets, unsplit, error and drops should be {expected:?}, they are {counted:?}: {}",
            stats.0
        );
        let entry = stats.attachment("trip")?;
        ensure!(
            entry.count("payload_bytes_copied")? == 0,
            "{}",
            entry.json()
        );
        println!(
            "{} frames of {} captures, {kind:?} {chunk} {more}: equal; {unsplit} unsplit, {long} too long",
            want.len(),
            SCAPY.len()
        );
    }
    Ok(())
}

/// What queue 0 has counted: packets, of them unsplit, in error, and all that were dropped.
fn numbers(stats: &Stats) -> Result<[u64; 4]> {
    let Ok(queue) = stats.queue(0) else {
        return Ok([0; 4]);
    };
    Ok([
        queue.count("packets")?,
        queue.dropped("unsplit"),
        queue.dropped("error"),
        queue.drops()?,
    ])
}

/// Sends frames through an attachment of everything; what `devrx recv --pcap` wrote once it had `count` of them.
fn through(
    host: &mut Host,
    daemon: &Daemon,
    (more, kind, chunk): Trip,
    frames: &[Vec<u8>],
    count: usize,
) -> Result<Vec<Vec<u8>>> {
    let mut more = format!("--queue 0 --flow any {more}");
    let mut chunks = (4 << 20) / chunk;
    if igb::is_e810(host) {
        // It holds nobody up: all frames together find room in the ring.
        chunks = 4096;
        more += " --ring 4096";
    }
    let wanted = Wanted {
        name: "trip",
        kind,
        chunks,
        chunk,
        more: &more,
    };
    wanted.attach(host, daemon)?;
    let (recv, file) = daemon.recv_pcap("trip", count, 20)?;
    let nic = igb::nic(host);
    host.inject_frames(nic, frames, None)?;
    host.injected(nic, Duration::from_secs(10))?;
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
    let (nic, e810) = (igb::nic(host), igb::is_e810(host));
    let wanted = Wanted {
        name: "rules",
        kind: Kind::Udmabuf,
        chunks: 1024,
        chunk: 2048,
        // ARP has no header that an 82576 splits off: the rule `arp` sees it only in the slot. An E810 splits it behind Ethernet's.
        more: if e810 {
            "--queue 0"
        } else {
            "--queue 0 --unsplit header"
        },
    };
    let (mut attachment, memory) = wanted.attach_and_open(host, &daemon)?;
    let mut looked_up = 0;
    for (rule, matched) in &rules {
        // The NIC splits fragments behind the IP header: the ports of a first one are payload, which nobody reads.
        let ports = rule.contains("port=");
        let seen = |index: &&usize| !(ports && is_fragment(&frames[**index]));
        let matched: Vec<usize> = matched.iter().filter(seen).copied().collect();
        let before = daemon.stats()?.queue(0)?;
        let seen_before = if e810 { seen_by_model(host)? } else { 0 };
        let added = daemon
            .ok(&format!("flow add rules {rule} --json"))?
            .json()?;
        let id = added["flow"]["id"]
            .as_u64()
            .with_context(|| format!("no id in {added}"))?;
        host.inject(nic, Frames::Capture("rules".to_owned()), None)?;
        let (delivered, held) =
            igb::collect(&mut attachment, matched.len(), Duration::from_secs(10))
                .with_context(|| rule.clone())?;
        host.injected(nic, Duration::from_secs(5))?;
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
        let sent = frames.len() as u64;
        if e810 {
            wait_for("the card has seen all", Duration::from_secs(5), || {
                Ok(seen_by_model(host)? >= seen_before + sent)
            })?;
        }
        let mut now = daemon.stats()?;
        let mut last = None;
        // Until nothing comes any more.
        wait_for("all are counted", Duration::from_secs(5), || {
            now = daemon.stats()?;
            let packets = now.queue(0)?.count("packets")?;
            let enough = e810 || packets >= before.count("packets")? + sent;
            Ok(last.replace(packets) == Some(packets) && enough)
        })
        .with_context(|| format!("{rule}: {}", now.0))?;
        // Queues and NIC are exact, and packets are delivered or dropped.
        now.check(&[])?;
        let now = now.queue(0)?;
        let brought = now.count("packets")? - before.count("packets")?;
        let unwanted = now.dropped("unwanted") - before.dropped("unwanted");
        // An 82576 brings all to its first queue, where rules are looked up. An E810 looks some rules up itself: what such a rule does not name comes to no
        // queue, is none of the attachment's packets, and is in none of its numbers. For the other rules it brings all.
        let expected = if e810 && brought < sent {
            looked_up += 1;
            matched.len() as u64
        } else {
            sent
        };
        ensure!(
            now.count("delivered")? - before.count("delivered")? == matched.len() as u64
                && brought == expected
                && unwanted == brought - matched.len() as u64,
            "{rule} should take {} of {sent}: before {}, now {}",
            matched.len(),
            before.json(),
            now.json()
        );
        println!(
            "{rule}: {brought} of {sent} came to the queue, {} delivered",
            matched.len()
        );
        daemon.ok(&format!("flow del rules {id}"))?;
    }
    println!(
        "{} rules, each given {} frames; the NIC looks {looked_up} of them up",
        rules.len(),
        frames.len()
    );
    ensure!(!e810 || looked_up > 0, "the E810 looks no rule up");
    drop(attachment);
    daemon.detach_and_check("rules")?;
    Ok(())
}
