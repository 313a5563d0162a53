//! Where each byte of a packet comes to lie: headers in their slots, payload in the region, and nothing anywhere else. For each kind of
//! memory, of frames of each kind, under each policy for those that cannot be split.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use devrx_client::CompletionFlags;

use super::Test;
use super::samples::{self, Sample};
use crate::command::wait_for;
use crate::daemon::Daemon;
use crate::guest::machine::E810;
use crate::inside::Host;
use crate::inside::igb::{self, Delivered, Kind, Memory, Wanted};
use crate::stats::Stats;
use crate::trust::tools::must_fail;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::new("igb_every_byte_lands_in_its_place_in_memfd_memory", memfd).limit(60),
    Test::new(
        "igb_every_byte_lands_in_its_place_in_udmabuf_memory",
        udmabuf,
    )
    .limit(60),
    Test::new(
        "igb_every_byte_lands_in_its_place_in_another_devices_bar",
        bar,
    )
    .limit(60),
    Test::new("igb_every_byte_lands_in_its_place_in_a_gpus_memory", vram).limit(60),
];

/// The same on an E810.
pub const E810_TESTS: &[Test] = &[
    Test::new("e810_every_byte_lands_in_its_place_in_memfd_memory", memfd)
        .on(E810)
        .limit(60),
    Test::new(
        "e810_every_byte_lands_in_its_place_in_udmabuf_memory",
        udmabuf,
    )
    .on(E810)
    .limit(60),
    Test::new(
        "e810_every_byte_lands_in_its_place_in_another_devices_bar",
        bar,
    )
    .on(E810)
    .limit(60),
    Test::new("e810_every_byte_lands_in_its_place_in_a_gpus_memory", vram)
        .on(E810)
        .limit(60),
    Test::new("faults_of_the_e810_are_noticed_by_their_bytes", faults)
        .on(E810)
        .limit(60),
];

/// What the region is filled with before, where a test can.
const FILL: u8 = 0xa5;
/// Chunks, all of which the ring holds at once: so none is used twice.
const CHUNKS: u32 = 512;
/// Bytes in a header slot.
const SLOT: usize = 256;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Unsplit {
    Deliver,
    Drop,
    Header,
}

impl Unsplit {
    fn word(self) -> &'static str {
        match self {
            Self::Deliver => "deliver",
            Self::Drop => "drop",
            Self::Header => "header",
        }
    }
}

fn memfd(host: &mut Host) -> Result<()> {
    each_policy(host, Kind::Memfd, 1024)
}

fn udmabuf(host: &mut Host) -> Result<()> {
    each_policy(host, Kind::Udmabuf, 2048)
}

fn bar(host: &mut Host) -> Result<()> {
    each_policy(host, Kind::Bar, 2048)
}

fn vram(host: &mut Host) -> Result<()> {
    each_policy(host, Kind::Vram, 4096)
}

/// The same check with faults in the E810's model, which it must notice.
fn faults(host: &mut Host) -> Result<()> {
    for fault in ["swapped-buffers", "split-off-by-one", "wrong-header-length"] {
        host.card(igb::nic(host), &format!("fault {fault}"))?;
        must_fail(fault, udmabuf(host))?;
    }
    host.card(igb::nic(host), "fault none")?;
    udmabuf(host)
}

fn each_policy(host: &mut Host, kind: Kind, chunk: u32) -> Result<()> {
    let daemon = igb::daemon(host)?;
    let nic = igb::nic(host);
    let mac = host.machine().nic(nic).context("no NIC")?.mac();
    let mut samples = samples::all(mac, chunk as usize);
    let mut policies = vec![Unsplit::Deliver, Unsplit::Drop];
    if igb::is_e810(host) {
        // It splits everything, if only behind Ethernet's header; what is too long for the slot is dropped under each policy.
        for sample in &mut samples {
            let ethernet = ethernet(&sample.frame);
            sample.header.get_or_insert(ethernet);
        }
        // A packet has five chunks at most.
        let longest = 5 * chunk as usize;
        samples.retain(|sample| {
            sample.frame.len() <= longest && sample.header.is_some_and(|header| header <= SLOT)
        });
    } else {
        policies.push(Unsplit::Header);
    }
    for policy in policies {
        one(host, &daemon, kind, chunk, policy, &samples)
            .with_context(|| format!("{kind:?}, chunks of {chunk}, --unsplit {}", policy.word()))?;
    }
    Ok(())
}

/// Bytes of a frame's Ethernet header, with its VLAN tags.
fn ethernet(frame: &[u8]) -> usize {
    let tagged = |at: usize| matches!(frame.get(at - 2..at), Some([0x81, 0] | [0x88, 0xa8]));
    let mut end = 14;
    while tagged(end) {
        end += 4;
    }
    end
}

/// How many bytes of a sample go to the header slot; `None`: it is dropped.
fn in_slot(sample: &Sample, policy: Unsplit) -> Option<usize> {
    let length = sample.padded().len();
    match (sample.header.filter(|&header| header <= SLOT), policy) {
        // QEMU's model: what fits the slot goes there whole (82576 datasheet 7.1.4.5.2 asks that of what cannot be split only).
        (_, Unsplit::Header) if length <= SLOT => Some(length),
        (Some(header), _) => Some(header),
        (None, Unsplit::Deliver) => Some(0),
        (None, Unsplit::Drop) => None,
        (None, Unsplit::Header) => Some(SLOT),
    }
}

fn one(
    host: &mut Host,
    daemon: &Daemon,
    kind: Kind,
    chunk: u32,
    policy: Unsplit,
    samples: &[Sample],
) -> Result<()> {
    let before = daemon.stats()?;
    let more = format!(
        "--queue 0 --flow any --ring {CHUNKS} --header-slot {SLOT} --unsplit {}",
        policy.word()
    );
    let wanted = Wanted {
        name: "place",
        kind,
        chunks: CHUNKS,
        chunk,
        more: &more,
    };
    let (mut attachment, memory) = wanted.attach_and_open(host, daemon)?;
    let fill = memory.prepare(host, FILL)?;
    let frames: Vec<_> = samples.iter().map(|sample| sample.frame.clone()).collect();
    let nic = igb::nic(host);
    host.inject_frames(nic, &frames, None)?;
    let (kept, dropped): (Vec<_>, Vec<_>) = samples
        .iter()
        .partition(|sample| in_slot(sample, policy).is_some());
    let limit = Duration::from_secs(10);
    let (delivered, held) = igb::collect(&mut attachment, kept.len(), limit)?;
    let sent = host.injected(nic, limit)?;
    ensure!(sent == samples.len() as u64);
    let mut want = vec![fill; usize::try_from(memory.size())?];
    for (sample, packet) in kept.iter().zip(&delivered) {
        check(sample, packet, policy, chunk, fill, &mut want)
            .with_context(|| sample.name.clone())?;
    }
    // A read through the BAR or the mapping, after everything has been delivered: what is there is there to stay.
    let dropped: Vec<_> = dropped.iter().map(|sample| sample.padded()).collect();
    find_dropped(host, &memory, &mut want, fill, &dropped, chunk as usize)?;
    memory.must_be(host, &want, chunk as usize)?;
    let stats = counted(daemon, &before, kept.len() as u64, dropped.len() as u64)?;
    let entry = stats.attachment("place")?;
    println!(
        "{kind:?}, --unsplit {}: {} frames delivered, {} dropped; copied {}",
        policy.word(),
        kept.len(),
        dropped.len(),
        entry.count("payload_bytes_copied")?
    );
    attachment.give_back(held)?;
    drop(attachment);
    daemon.detach_and_check("place")?;
    Ok(())
}

/// The packet is the sample, as it must be divided; puts its payload into `want`, where it must lie.
fn check(
    sample: &Sample,
    packet: &Delivered,
    policy: Unsplit,
    chunk: u32,
    fill: u8,
    want: &mut [u8],
) -> Result<()> {
    let frame = sample.padded();
    let (header, mut payload) =
        frame.split_at(in_slot(sample, policy).context("it should have been dropped")?);
    ensure!(
        packet.header == header,
        "its header slot has {} bytes {:02x?} instead of {} bytes {header:02x?}",
        packet.header.len(),
        packet.header,
        header.len(),
    );
    ensure!(
        packet.flags.contains(CompletionFlags::SPLIT) != header.is_empty(),
        "{:?} with a header of {} bytes",
        packet.flags,
        header.len()
    );
    if let Some(good) = sample.good {
        let (yes, no) = (CompletionFlags::CSUM_GOOD, CompletionFlags::CSUM_BAD);
        ensure!(
            packet.flags & (yes | no) == if good { yes } else { no },
            "the checksum is {good}, the daemon says {:?}",
            packet.flags
        );
    }
    for &(offset, length) in &packet.payload {
        ensure!(
            offset % u64::from(chunk) == 0 && length <= payload.len(),
            "a piece of {length} bytes at {offset:#x}, where {} are left",
            payload.len()
        );
        let full = payload.len().min(chunk as usize);
        ensure!(
            length == full,
            "a chunk has {length} bytes, {full} would fit"
        );
        let place = &mut want[usize::try_from(offset)?..][..length];
        ensure!(
            place.iter().all(|&byte| byte == fill),
            "the chunk at {offset:#x} has another packet"
        );
        let (piece, rest) = payload.split_at(length);
        place.copy_from_slice(piece);
        payload = rest;
    }
    ensure!(
        payload.is_empty(),
        "{} bytes of payload are missing",
        payload.len()
    );
    Ok(())
}

/// Frames that were dropped had been written to chunks, from their start, and to nothing else; puts them into `want`.
fn find_dropped(
    host: &mut Host,
    memory: &Memory,
    want: &mut [u8],
    fill: u8,
    dropped: &[Vec<u8>],
    chunk: usize,
) -> Result<()> {
    let mut pieces: Vec<&[u8]> = dropped
        .iter()
        .flat_map(|frame| frame.chunks(chunk))
        .collect();
    if pieces.is_empty() {
        return Ok(());
    }
    for offset in memory.differences(host, want, chunk)? {
        let place = &mut want[usize::try_from(offset)?..][..chunk];
        ensure!(
            place.iter().all(|&byte| byte == fill),
            "the chunk at {offset:#x} has a packet that was delivered, and it is damaged"
        );
        let there = memory.read(host, offset, chunk)?;
        let found = pieces.iter().position(|piece| {
            there.starts_with(piece) && there[piece.len()..].iter().all(|&byte| byte == fill)
        });
        let found = found.with_context(|| {
            format!(
                "the chunk at {offset:#x} has what nobody sent: {:02x?}",
                &there[..32]
            )
        })?;
        place.copy_from_slice(&there);
        pieces.swap_remove(found);
    }
    ensure!(
        pieces.is_empty(),
        "{} chunks of dropped frames are nowhere",
        pieces.len()
    );
    Ok(())
}

/// The numbers since `before` are exactly what was sent.
fn counted(daemon: &Daemon, before: &Stats, delivered: u64, unsplit: u64) -> Result<Stats> {
    let of = |stats: &Stats| -> Result<[u64; 4]> {
        let Ok(queue) = stats.queue(0) else {
            return Ok([0; 4]);
        };
        Ok([
            queue.count("packets")?,
            queue.count("delivered")?,
            queue.dropped("unsplit"),
            queue.drops()?,
        ])
    };
    let (start, want) = (
        of(before)?,
        [delivered + unsplit, delivered, unsplit, unsplit],
    );
    let mut stats = daemon.stats()?;
    wait_for("the numbers are up to date", Duration::from_secs(2), || {
        stats = daemon.stats()?;
        let now = of(&stats)?;
        Ok((0..4).all(|at| now[at] - start[at] >= want[at]))
    })
    .with_context(|| format!("want {want:?} more than {start:?}: {}", stats.0))?;
    let now = of(&stats)?;
    ensure!(
        (0..4).all(|at| now[at] - start[at] == want[at]),
        "packets, delivered, unsplit and drops should be {want:?} more than {start:?}, they are {now:?}"
    );
    stats.check(&[])?;
    let entry = stats.attachment("place")?;
    ensure!(
        entry.count("payload_bytes_copied")? == 0 && entry.json()["zero_copy"] == true,
        "payload was copied: {}",
        entry.json()
    );
    Ok(stats)
}
