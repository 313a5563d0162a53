//! Somebody resets the NIC behind the daemon's back: what was attached ends and is told so, and the NIC serves whoever attaches next.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::Test;
use crate::command::{sh, wait_for};
use crate::daemon::Daemon;
use crate::guest::message::Frames;
use crate::inside::igb::{self, Kind, NIC, Wanted};
use crate::inside::{Host, consumer};

/// The tests of this file.
pub const TESTS: &[Test] =
    &[Test::new("igb_a_reset_from_outside_ends_the_attachments", reset).limit(60)];

/// Bytes of the region under traffic.
const SIZE: u64 = 2 << 20;
/// What given-back memory is filled with, to see whether it stays.
const PATTERN: u8 = 0x5a;
/// What the client is told.
const WHY: &str = "somebody else reset this NIC";

fn frames(count: u64) -> Frames {
    Frames::Numbered {
        port: 5000,
        first: 0,
        count,
        payload: 1000,
    }
}

/// As root can, with vfio-pci: the kernel resets the function and sets its configuration space up as before.
fn reset_by_system(pci: &str) -> Result<()> {
    let file = Path::new("/sys/bus/pci/devices").join(pci).join("reset");
    std::fs::write(file, "1").context("the function's reset")
}

/// A new attachment gets packets, one by one, after it has gone to sleep.
fn receives(host: &mut Host, daemon: &Daemon, name: &str) -> Result<()> {
    let wanted = Wanted {
        name,
        kind: Kind::Udmabuf,
        chunks: 512,
        chunk: 2048,
        more: "--queue 0 --flow any",
    };
    let links = daemon.log().matches("up=true").count();
    let (mut attachment, _) = wanted.attach_and_open(host, daemon)?;
    wait_for("the link is there again", Duration::from_secs(5), || {
        Ok(daemon.log().matches("up=true").count() > links)
    })
    .with_context(|| daemon.log())?;
    for round in 0..5 {
        // Longer than an adaptive worker looks for packets.
        std::thread::sleep(Duration::from_millis(300));
        host.inject(NIC, frames(1), None)?;
        let (_, held) = igb::collect(&mut attachment, 1, Duration::from_secs(2))
            .with_context(|| format!("{name}: packet {round} woke nobody"))?;
        attachment.give_back(held)?;
    }
    drop(attachment);
    daemon.detach(name)?;
    let entry = daemon.stats()?.attachment(name)?;
    ensure!(
        entry.count("hold")? == entry.count("release")?,
        "{}",
        entry.json()
    );
    Ok(())
}

fn reset(host: &mut Host) -> Result<()> {
    let pci = host.pci(NIC)?;
    let both = "[[interfaces.rx.queues]]\nid = 0\npoll_mode = \"adaptive\"\n[[interfaces.rx.queues]]\nid = 1\npoll_mode = \"sleep\"\n";
    let mut daemon = igb::daemon_with(host, both)?;
    let (client, memory) = consumer::start(host, &daemon, "busy", Kind::Udmabuf, SIZE)?;
    // Nothing comes to it: it must be woken to hear of its end.
    daemon.ok(&format!(
        "attach --name quiet --nic {pci} --queue 1 --memory memfd --size 1M --chunk 2048 --flow dst-mac=02:00:00:00:00:77"
    ))?;
    host.inject(NIC, frames(1 << 20), Some(2000))?;
    // More than the region has chunks: the memory is in use, all of it.
    wait_for("it receives", Duration::from_secs(10), || {
        Ok(daemon.stats()?.attachment("busy")?.count("returned")? > 1100)
    })?;
    reset_by_system(&pci)?;
    let began = Instant::now();
    wait_for("the attachments end", Duration::from_secs(10), || {
        let stats = daemon.stats()?;
        Ok(!stats.alive("busy") && !stats.alive("quiet"))
    })
    .with_context(|| format!("{} {:?}", daemon.log(), sh("dmesg")))?;
    println!("the attachments had ended {:?} later", began.elapsed());
    let stats = daemon.stats()?;
    for name in ["busy", "quiet"] {
        let entry = stats.attachment(name)?;
        let [hold, release, out] =
            ["hold", "release", "in_flight"].map(|key| entry.count(key).unwrap_or(u64::MAX));
        ensure!(hold == release && out == 0, "chunks: {}", entry.json());
        let reason = entry.text("reason");
        ensure!(reason.contains(WHY), "{name} ended: {reason}");
    }
    let output = client.wait(Duration::from_secs(5))?;
    ensure!(output.stderr.contains(WHY), "not told: {output:?}");
    // The frames go on; what a reset threw away nobody knows.
    memory.fill(host, PATTERN)?;
    std::thread::sleep(Duration::from_millis(500));
    memory.must_be_filled(host, PATTERN)?;
    drop(memory);
    for list in ["nics", "queues"] {
        let entries = stats.0[list].as_array().context("a list")?;
        ensure!(
            !entries.is_empty() && entries.iter().all(|entry| entry["exact"] == false),
            "{list}: {entries:?}"
        );
    }
    host.stop_injection(NIC)?;
    receives(host, &daemon, "after")?;
    // Before anybody has looked.
    reset_by_system(&pci)?;
    receives(host, &daemon, "at_once")?;
    ensure!(daemon.running()?, "it is gone: {}", daemon.log());
    Ok(())
}
