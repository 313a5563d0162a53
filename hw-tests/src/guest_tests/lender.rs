//! A device lends its BAR as memory, and somebody wants the device back: what receives into it ends, and whoever wants it does not wait.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::Test;
use crate::command::{Process, sh, wait_for};
use crate::daemon::Daemon;
use crate::guest::machine::IVSHMEM;
use crate::guest::message::Frames;
use crate::inside::igb::{self, Kind, Wanted};
use crate::inside::{Host, devices};
use crate::{frame, pcap};

/// The tests of this file.
pub const TESTS: &[Test] =
    &[Test::new("vfio_memory_that_is_wanted_back_is_let_go_of", unbound).limit(60)];

/// An address that only the rule beside the borrower's knows.
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
/// What given-back memory is filled with, to see whether it stays.
const PATTERN: u8 = 0x5a;
/// Frames to each of both.
const FRAMES: u64 = 10_000;
/// Frames a second, of both together.
const RATE: u32 = 4000;

/// Receives into the BAR.
const BORROWER: Wanted<'_> = Wanted {
    name: "borrower",
    kind: Kind::Bar,
    chunks: 1024,
    chunk: 2048,
    more: "--queue 0 --flow any",
};
/// Receives beside it, every frame.
const STEADY: Wanted<'_> = Wanted {
    name: "steady",
    kind: Kind::Memfd,
    chunks: 8192,
    chunk: 2048,
    more: "--queue 1 --flow dst-mac=02:00:00:00:00:77 --ring 4096",
};

fn returned(daemon: &Daemon, name: &str) -> Result<u64> {
    daemon.stats()?.attachment(name)?.count("returned")
}

fn unbound(host: &mut Host) -> Result<()> {
    let daemon = igb::daemon(host)?;
    let memory = BORROWER.attach(host, &daemon)?;
    let borrower = daemon.recv("borrower", "--timeout 60")?;
    STEADY.attach(host, &daemon)?;
    let file = daemon.folder().join("steady.pcap");
    let steady = daemon.recv("steady", &format!("--pcap {}", file.display()))?;
    let own = host.machine().nic(igb::NIC).context("no NIC")?.mac();
    let flood = |mac, port| Frames::NumberedTo {
        mac,
        port,
        first: 0,
        count: FRAMES,
        payload: 1000,
    };
    let both = vec![flood(own, 6000), flood(OTHER, 5000)];
    host.inject(igb::NIC, Frames::Mixed(both), Some(RATE))?;
    // More than the region has chunks: the memory is in use, all of it.
    wait_for("both receive", Duration::from_secs(10), || {
        Ok(returned(&daemon, "borrower")? > 1100 && returned(&daemon, "steady")? > 100)
    })?;

    let began = Instant::now();
    let mut unbind = Command::new("sh");
    unbind.args([
        "-c",
        &format!("echo {IVSHMEM} > /sys/bus/pci/drivers/vfio-pci/unbind"),
    ]);
    let unbind = Process::start(&mut unbind)?.wait(Duration::from_secs(8));
    let unbind = unbind.with_context(|| format!("{} {:?}", daemon.log(), sh("dmesg")))?;
    ensure!(unbind.status.success(), "{unbind:?}");
    println!("the device was unbound {:?} later", began.elapsed());
    ensure!(devices::driver(IVSHMEM).is_none(), "it is bound still");
    ensure!(host.injection(igb::NIC)?.1, "the traffic was over before");
    memory.fill(host, PATTERN)?;

    let entry = daemon.stats()?.attachment("borrower")?;
    let [hold, release, out] =
        ["hold", "release", "in_flight"].map(|key| entry.count(key).unwrap_or(u64::MAX));
    ensure!(hold == release && out == 0, "chunks: {}", entry.json());
    let why = format!("somebody is unbinding or unplugging {IVSHMEM}");
    let reason = entry.text("reason");
    ensure!(reason.contains(&why), "it ended: {reason}");
    let told = borrower.wait(Duration::from_secs(5))?;
    ensure!(told.stderr.contains(&why), "not told: {told:?}");
    println!("the client was told: {}", told.stderr.trim());
    let refused = daemon.refused(&format!(
        "attach --name again --nic {} --memory {} --size 1M --queue 0 --flow any",
        host.pci(igb::NIC)?,
        Kind::Bar.name()
    ))?;
    ensure!(refused.contains("vfio-pci"), "{refused}");

    host.injected(igb::NIC, Duration::from_secs(10))?;
    wait_for("all of the rest", Duration::from_secs(5), || {
        Ok(returned(&daemon, "steady")? >= FRAMES)
    })
    .with_context(|| daemon.log())?;
    memory.must_be_filled(host, PATTERN)?;
    steady.signal(Signal::SIGINT)?;
    steady.wait(Duration::from_secs(10))?;
    let frames = pcap::read(&file)?;
    for (want, bytes) in (0..).zip(&frames) {
        let number = frame::check_to(OTHER, bytes, 5000)?;
        ensure!(number == want, "frame {want} is missing, next is {number}");
    }
    ensure!(frames.len() as u64 == FRAMES, "{} frames", frames.len());
    println!("the neighbour got all of {FRAMES} frames, and not a byte changed after the unbind");
    lends_again(host, &daemon, own)
}

/// Bound to vfio-pci once more, it serves the same daemon.
fn lends_again(host: &mut Host, daemon: &Daemon, own: [u8; 6]) -> Result<()> {
    const COUNT: u64 = 200;
    devices::give(IVSHMEM, Some("vfio-pci"))?;
    let (mut attachment, memory) = BORROWER.attach_and_open(host, daemon)?;
    let frames = Frames::NumberedTo {
        mac: own,
        port: 6000,
        first: 0,
        count: COUNT,
        payload: 1000,
    };
    host.inject(igb::NIC, frames, Some(RATE))?;
    let count = usize::try_from(COUNT)?;
    let (delivered, _held) = igb::collect(&mut attachment, count, Duration::from_secs(5))?;
    for (want, packet) in (0..).zip(&delivered) {
        let mut bytes = packet.header.clone();
        for &(offset, length) in &packet.payload {
            bytes.extend(memory.read(host, offset, length)?);
        }
        let number = frame::check_to(own, &bytes, 6000)?;
        ensure!(number == want, "frame {want} is missing, next is {number}");
    }
    println!("bound again: {COUNT} frames");
    Ok(())
}
