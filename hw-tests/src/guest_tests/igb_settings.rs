//! What the configuration says of an owned NIC reaches the NIC: whose frames it takes, what it takes out of them, how often it interrupts.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Test;
use crate::frame;
use crate::guest::message::Frames;
use crate::inside::Host;
use crate::inside::igb::{self, Kind, NIC, Wanted};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::new("igb_tags_are_taken_out_and_strangers_left_out", received),
    Test::new("igb_interrupts_are_held_back", moderated).limit(60),
];

const ATTACHMENT: Wanted<'_> = Wanted {
    name: "settings",
    kind: Kind::Udmabuf,
    chunks: 4096,
    chunk: 2048,
    more: "--queue 0 --flow any",
};

fn received(host: &mut Host) -> Result<()> {
    const TAG: u16 = 0x2064;
    let own = host.machine().nic(NIC).context("no NIC")?.mac();
    let stranger = [2, 0, 0, 0, 0, 0x77];
    let tagged = |mac, number| {
        let mut frame = frame::numbered_to(mac, 5000, number, 300);
        let [high, low] = TAG.to_be_bytes();
        frame.splice(12..12, [0x81, 0, high, low]);
        frame
    };
    let frames = [
        tagged(own, 0),
        frame::numbered_to(stranger, 5000, 1, 300),
        tagged([0xff; 6], 2),
        tagged(stranger, 3),
        frame::numbered_to(own, 5000, 4, 300),
    ];
    // As QEMU's 82576 and the driver do without being told, and as they are told.
    let (strip, plain) = (Some(TAG), None);
    for (settings, want) in [
        (
            "",
            vec![(0, plain), (1, plain), (2, plain), (3, plain), (4, plain)],
        ),
        (
            "promiscuous = false\nvlan_strip = true",
            vec![(0, strip), (2, strip), (4, plain)],
        ),
    ] {
        let daemon = igb::daemon_with(host, settings)?;
        let (mut attachment, memory) = ATTACHMENT.attach_and_open(host, &daemon)?;
        host.inject_frames(NIC, &frames, Some(1000))?;
        let (delivered, held) = igb::collect(&mut attachment, want.len(), Duration::from_secs(5))?;
        let mut came = Vec::new();
        for packet in &delivered {
            let mut bytes = packet.header.clone();
            for &(offset, length) in &packet.payload {
                bytes.extend(memory.read(host, offset, length)?);
            }
            // One whose tag was left in is as it was sent.
            let number = frames.iter().position(|frame| *frame == bytes);
            let number = match (packet.vlan, number) {
                (None, Some(number)) => number,
                _ => {
                    let mac: [u8; 6] = bytes[..6].try_into()?;
                    usize::try_from(frame::check_to(mac, &bytes, 5000)?)?
                }
            };
            came.push((number, packet.vlan));
        }
        ensure!(came == want, "{settings:?}: {came:?} came, not {want:?}");
        println!("{settings:?}: {came:?}");
        attachment.give_back(held)?;
        let more = attachment.recv(Some(Duration::from_millis(100)))?.len();
        ensure!(more == 0, "{settings:?}: {more} more");
        drop(attachment);
        daemon.detach_and_check("settings")?;
    }
    Ok(())
}

/// Interrupts of the NIC so far.
fn interrupts(pci: &str) -> Result<u64> {
    let text = std::fs::read_to_string("/proc/interrupts")?;
    let lines = text.lines().filter(|line| {
        let name = line.rsplit(char::is_whitespace).next().unwrap_or_default();
        name.starts_with("vfio-msix") && name.contains(pci)
    });
    let counts = lines.map(|line| {
        let count = line.split_whitespace().nth(1);
        count
            .and_then(|count| count.parse::<u64>().ok())
            .with_context(|| line.to_owned())
    });
    counts.sum()
}

/// By the bound that the setting gives, some ten times fewer than there are without: what else the machine does can only make them fewer yet. How many come without
/// is shown, and not held to anything.
fn moderated(host: &mut Host) -> Result<()> {
    const COUNT: u64 = 3000;
    const HELD_BACK: Duration = Duration::from_millis(8);
    let pci = host.pci(NIC)?;
    let mut found = Vec::new();
    for setting in ["moderation_us = 8000", ""] {
        let queue = format!("[[interfaces.rx.queues]]\nid = 0\npoll_mode = \"sleep\"\n{setting}\n");
        let daemon = igb::daemon_with(host, &queue)?;
        let (mut attachment, _memory) = ATTACHMENT.attach_and_open(host, &daemon)?;
        let (before, began) = (interrupts(&pci)?, Instant::now());
        let frames = Frames::Numbered {
            port: 5000,
            first: 0,
            count: COUNT,
            payload: 100,
        };
        host.inject(NIC, frames, Some(3000))?;
        let count = usize::try_from(COUNT)?;
        igb::collect(&mut attachment, count, Duration::from_secs(10))?;
        let came = interrupts(&pci)? - before;
        println!("{setting:?}: {came} interrupts in {:?}", began.elapsed());
        found.push((came, began.elapsed()));
        drop(attachment);
        daemon.detach("settings")?;
    }
    let (held_back, took) = found[0];
    let most = took.as_millis() / HELD_BACK.as_millis() + 10;
    ensure!(
        held_back > 0 && u128::from(held_back) <= most,
        "{held_back} interrupts in {took:?}, at most {most} should be"
    );
    Ok(())
}
