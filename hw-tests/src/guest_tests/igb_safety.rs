//! Memory that was given back is not written any more: after a detach, after the client was killed, after the daemon was killed, each in the
//! middle of traffic that goes on. And what becomes of a NIC whose DMA is stopped, or that is wanted back.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use devrx_client::Attachment;
use nix::sys::signal::Signal;

use super::Test;
use crate::command::{Process, wait_for};
use crate::daemon::Daemon;
use crate::guest::machine::E810;
use crate::guest::message::Frames;
use crate::inside::consumer::Own;
use crate::inside::igb::{self, Delivered, Kind, Memory, NIC, Wanted};
use crate::inside::{Host, consumer, devices};
use crate::{frame, holders, pcap};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::new("igb_memory_is_left_alone_after_a_detach", detached).limit(60),
    Test::new(
        "igb_memory_is_left_alone_after_its_client_was_killed",
        client_killed,
    )
    .limit(60),
    Test::new(
        "igb_memory_is_left_alone_after_the_daemon_was_killed",
        daemon_killed,
    )
    .limit(60),
    Test::new(
        "igb_memory_of_a_killed_client_goes_after_its_queue",
        owner_killed,
    )
    .limit(90),
    Test::new("igb_stopped_dma_is_in_the_daemons_numbers", stopped_dma).limit(60),
    Test::new("igb_a_nic_that_is_wanted_back_is_let_go_of", wanted_back).limit(60),
];

/// The same on an E810.
pub const E810_TESTS: &[Test] = &[
    Test::new("e810_memory_is_left_alone_after_a_detach", detached)
        .on(E810)
        .limit(60),
    Test::new(
        "e810_memory_is_left_alone_after_its_client_was_killed",
        client_killed,
    )
    .on(E810)
    .limit(60),
    Test::new(
        "e810_memory_is_left_alone_after_the_daemon_was_killed",
        daemon_killed,
    )
    .on(E810)
    .limit(60),
    Test::new(
        "e810_memory_of_a_killed_client_goes_after_its_queue",
        owner_killed,
    )
    .on(E810)
    .limit(90),
    Test::new("e810_stopped_dma_is_told_as_far_as_it_can_be_known", stray)
        .on(E810)
        .limit(60),
    Test::new("e810_a_nic_that_is_wanted_back_is_let_go_of", wanted_back)
        .on(E810)
        .limit(60),
];

/// Bytes of the regions.
const SIZE: u64 = 2 << 20;
/// What given-back memory is filled with, to see whether it stays.
const PATTERN: u8 = 0x5a;
/// Frames a second while all this happens.
const RATE: u32 = 3000;
const KINDS: &[Kind] = &[Kind::Udmabuf, Kind::Bar, Kind::Vram];

/// Those that the machine has.
fn kinds(host: &Host) -> Vec<Kind> {
    let mut kinds = KINDS.to_vec();
    kinds.retain(|kind| *kind != Kind::Vram || host.machine().qxl);
    kinds
}

/// Traffic that goes on until it is stopped.
fn flood(host: &mut Host) -> Result<()> {
    let frames = Frames::Numbered {
        port: 5000,
        first: 0,
        count: 1 << 20,
        payload: 1400,
    };
    host.inject(igb::nic(host), frames, Some(RATE))
}

/// A client whose memory is in use: the NIC has gone round its chunks more than once.
fn victim(host: &mut Host, daemon: &Daemon, kind: Kind) -> Result<(Process, Memory)> {
    let (client, memory) = consumer::start(host, daemon, "victim", kind, SIZE)?;
    let before = daemon.stats()?.attachment("victim")?.count("delivered")?;
    wait_for("the flood goes round", Duration::from_secs(10), || {
        Ok(daemon.stats()?.attachment("victim")?.count("delivered")? > before + 1500)
    })?;
    Ok((client, memory))
}

/// The next attachment, `next`, in other memory: it receives so many packets of the flood.
fn receive_elsewhere(host: &mut Host, daemon: &Daemon, packets: u32) -> Result<()> {
    let wanted = Wanted {
        name: "next",
        kind: Kind::Memfd,
        chunks: 512,
        chunk: 2048,
        more: "--queue 0 --flow any",
    };
    wanted.attach(host, daemon)?;
    let output = daemon
        .recv("next", &format!("--count {packets} --timeout 10 --json"))?
        .wait(Duration::from_secs(12))?;
    ensure!(
        output.status.success(),
        "the flood did not go on: {output:?}"
    );
    Ok(())
}

/// The memory keeps a pattern while the NIC receives the flood into other memory.
fn watch(host: &mut Host, daemon: &Daemon, memory: &Memory) -> Result<()> {
    memory.fill(host, PATTERN)?;
    memory
        .must_be_filled(host, PATTERN)
        .context("before any other traffic")?;
    receive_elsewhere(host, daemon, 2000)?;
    memory
        .must_be_filled(host, PATTERN)
        .context("while traffic went on")?;
    daemon.detach("next")?;
    memory.must_be_filled(host, PATTERN).context("after it")
}

fn gone(daemon: &Daemon, name: &str) -> Result<()> {
    wait_for("the attachment ends", Duration::from_secs(5), || {
        Ok(!daemon.stats()?.alive(name))
    })?;
    let stats = daemon.stats()?;
    let entry = stats.attachment(name)?;
    ensure!(
        entry.count("in_flight")? == 0,
        "chunks are still out: {}",
        entry.json()
    );
    ensure!(
        entry.count("payload_bytes_copied")? == 0,
        "payload was copied: {}",
        entry.json()
    );
    Ok(())
}

/// Why an attachment ended.
fn reason(daemon: &Daemon, name: &str) -> Result<String> {
    let stats = daemon.stats()?;
    let reason = stats.attachment(name)?.text("reason").to_owned();
    println!("the attachment ended: {reason}");
    Ok(reason)
}

fn detached(host: &mut Host) -> Result<()> {
    let daemon = igb::daemon(host)?;
    flood(host)?;
    for kind in kinds(host) {
        let (client, memory) = victim(host, &daemon, kind)?;
        daemon.detach("victim")?;
        gone(&daemon, "victim")?;
        watch(host, &daemon, &memory).with_context(|| format!("{kind:?}"))?;
        let output = client.wait(Duration::from_secs(5))?;
        ensure!(
            output.stderr.contains("ended"),
            "the client was not told: {output:?}"
        );
        println!("{kind:?}: not a byte changed after the detach");
    }
    igb::end_flood(host, &daemon)
}

fn client_killed(host: &mut Host) -> Result<()> {
    let daemon = igb::daemon(host)?;
    flood(host)?;
    for kind in kinds(host) {
        let (client, memory) = victim(host, &daemon, kind)?;
        client.signal(Signal::SIGKILL)?;
        gone(&daemon, "victim")?;
        watch(host, &daemon, &memory).with_context(|| format!("{kind:?}"))?;
        println!("{kind:?}: not a byte changed after the client was killed");
    }
    igb::end_flood(host, &daemon)
}

/// An address that only the neighbour's rule knows.
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
/// Frames to each of both.
const FRAMES: u64 = 12_000;

/// Who dies made the memory, in the video memory of a card, and nobody else has it but the daemon: that goes last, when the queue is proven stopped. What the next buffer
/// gets of it nobody writes to, and the neighbour's packets all arrive.
fn owner_killed(host: &mut Host) -> Result<()> {
    if !host.machine().qxl {
        println!("skipped: this machine has no qxl card");
        return Ok(());
    }
    let own = host.machine().nic(igb::nic(host)).context("no NIC")?.mac();
    // Loads the card's module.
    drop(igb::vram(SIZE)?);
    let mut daemon = igb::daemon(host)?;
    let neighbour = Wanted {
        name: "neighbour",
        kind: Kind::Memfd,
        chunks: 8192,
        chunk: 2048,
        more: "--queue 1 --flow dst-mac=02:00:00:00:00:77 --ring 4096",
    };
    neighbour.attach(host, &daemon)?;
    let file = daemon.folder().join("neighbour.pcap");
    let recv = daemon.recv("neighbour", &format!("--pcap {}", file.display()))?;
    let flood = |mac, port| Frames::NumberedTo {
        mac,
        port,
        first: 0,
        count: FRAMES,
        payload: 500,
    };
    let nic = igb::nic(host);
    let mixed = vec![flood(OTHER, 6000), flood(own, 5000)];
    host.inject(nic, Frames::Mixed(mixed), Some(RATE))?;
    let pci = host.pci(nic)?;
    let program = std::path::Path::new("/bin/devrx-guest");
    let mut rounds = 0;
    while host.injection(nic)?.0 < FRAMES {
        let victim = consumer::start_owner(&daemon, program, "victim", &pci, Own::Vram, SIZE)?;
        wait_for("the flood goes round", Duration::from_secs(10), || {
            Ok(daemon.stats()?.attachment("victim")?.count("delivered")? > 1500)
        })?;
        let holders = holders::of(Own::Vram.file());
        let me = std::process::id();
        ensure!(
            holders.len() >= 2 && !holders.contains(&me),
            "the client's memory is with processes {holders:?}, of which this one is {me}"
        );
        victim.signal(Signal::SIGKILL)?;
        gone(&daemon, "victim")?;
        drop(victim);
        wait_for("nobody has the memory", Duration::from_secs(2), || {
            Ok(holders::of(Own::Vram.file()).is_empty())
        })
        .with_context(|| format!("processes {:?} have it", holders::of(Own::Vram.file())))?;
        // The card gives its memory to the next who asks, and the flood goes on.
        let memory = Memory::of(igb::vram(SIZE)?, SIZE)?;
        watch_briefly(host, &daemon, &memory).with_context(|| format!("round {rounds}"))?;
        rounds += 1;
    }
    let taken = host.injected(nic, Duration::from_secs(20))?;
    ensure!(taken == 2 * FRAMES, "{taken} were sent");
    ensure!(daemon.running()?, "the daemon is gone: {}", daemon.log());
    wait_for("everything is received", Duration::from_secs(5), || {
        Ok(daemon.stats()?.attachment("neighbour")?.count("returned")? >= FRAMES)
    })
    .ok();
    recv.signal(Signal::SIGINT)?;
    let output = recv.wait(Duration::from_secs(10))?;
    let mut frames = pcap::read(&file)?;
    // An 82576 brings frames of the other address to a queue that takes everything, never the other way round.
    frames.retain(|bytes| frame::is_udp_to(bytes, 6000));
    for (want, bytes) in (0..).zip(&frames) {
        let number = frame::check_to(OTHER, bytes, 6000)?;
        ensure!(
            number == want,
            "frame {want} is missing, next came {number}"
        );
    }
    ensure!(
        frames.len() as u64 == FRAMES,
        "the neighbour got {} of {FRAMES}: {output:?}, {}",
        frames.len(),
        daemon.stats()?.0
    );
    println!(
        "{rounds} clients were killed with their memory; the neighbour got all of {FRAMES} frames"
    );
    daemon.detach("neighbour")?;
    Ok(())
}

/// The same, with fewer packets and looks: for many rounds.
fn watch_briefly(host: &mut Host, daemon: &Daemon, memory: &Memory) -> Result<()> {
    memory.fill(host, PATTERN)?;
    receive_elsewhere(host, daemon, 1000)?;
    daemon.detach("next")?;
    memory.must_be_filled(host, PATTERN)
}

fn daemon_killed(host: &mut Host) -> Result<()> {
    flood(host)?;
    let mut next = igb::daemon(host)?;
    for kind in kinds(host) {
        let daemon = next;
        let (client, memory) = victim(host, &daemon, kind)?;
        let keepers = daemon.children()?;
        ensure!(!keepers.is_empty(), "the daemon has no keeper");
        let (_, _folder) = daemon.end(Signal::SIGKILL, Duration::from_secs(5))?;
        wait_for("the keeper ends", Duration::from_secs(5), || {
            Ok(keepers.iter().all(|pid| ended(*pid)))
        })?;
        // At once: nobody resets anything in between but the kernel.
        next = igb::daemon(host)?;
        watch(host, &next, &memory).with_context(|| format!("{kind:?}"))?;
        let output = client.wait(Duration::from_secs(5))?;
        ensure!(!output.stderr.contains("panicked"), "{output:?}");
        println!("{kind:?}: not a byte changed after the daemon was killed");
    }
    igb::end_flood(host, &next)
}

/// Whether a process has ended; one that waits to be reaped has.
fn ended(pid: i32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"));
    stat.map_or(true, |stat| {
        stat.rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with('Z'))
    })
}

/// Registers of the 82576 through its I/O BAR, which QEMU's monitor reaches while the daemon owns the NIC: hardware that goes wrong.
struct Meddler {
    port: u32,
}

impl Meddler {
    fn new(host: &mut Host) -> Result<Self> {
        let slot = host.machine().nic(NIC).context("no NIC")?.slot;
        let devices = host.monitor("info pci")?;
        let mut lines = devices
            .lines()
            .skip_while(|line| !line.contains(&format!("device {slot:>3},")));
        let line = lines
            .find(|line| line.contains("I/O at 0x"))
            .with_context(|| format!("no I/O BAR in {devices}"))?;
        let text = line
            .split("I/O at 0x")
            .nth(1)
            .and_then(|rest| rest.split_whitespace().next());
        let port = u32::from_str_radix(text.context("no number")?, 16)?;
        Ok(Self { port })
    }

    fn write(&self, host: &mut Host, register: u32, value: u32) -> Result<()> {
        // IOADDR and IODATA (82576 datasheet 3.3.3).
        host.monitor(&format!("o /w {:#x} {register:#x}", self.port))?;
        host.monitor(&format!("o /w {:#x} {value:#x}", self.port + 4))?;
        Ok(())
    }

    fn read(&self, host: &mut Host, register: u32) -> Result<String> {
        host.monitor(&format!("o /w {:#x} {register:#x}", self.port))?;
        host.monitor(&format!("i /w {:#x}", self.port + 4))
    }
}

/// The address of the ring of queue 0, low half (82576 datasheet 8.10.5).
const RDBAL0: u32 = 0xc000;

/// What is attached while a NIC reads and writes where it may not.
const FAULT: Wanted<'_> = Wanted {
    name: "fault",
    kind: Kind::Udmabuf,
    chunks: 256,
    chunk: 2048,
    more: "--queue 0 --flow any",
};

/// A NIC that reads and writes where nothing is mapped for it: it is stopped, nothing is damaged, and the daemon says so.
fn stopped_dma(host: &mut Host) -> Result<()> {
    let daemon = igb::daemon(host)?;
    let (mut attachment, memory) = FAULT.attach_and_open(host, &daemon)?;
    let frames = |first| Frames::Numbered {
        port: 5000,
        first,
        count: 10,
        payload: 1000,
    };
    memory.fill(host, PATTERN)?;
    host.inject(NIC, frames(0), None)?;
    let (_, held) = igb::collect(&mut attachment, 10, Duration::from_secs(5))?;
    attachment.give_back(held)?;
    let faults = || -> Result<u64> {
        let stats = daemon.stats()?;
        stats.0["nics"][0]["iommu_faults"]
            .as_u64()
            .context("no iommu_faults")
    };
    ensure!(faults()? == 0, "faults without a reason");
    memory.fill(host, PATTERN)?;
    let meddler = Meddler::new(host)?;
    println!("the ring is at {}", meddler.read(host, RDBAL0)?.trim());
    meddler.write(host, RDBAL0, 0x3456_7000)?;
    println!("and now at {}", meddler.read(host, RDBAL0)?.trim());
    host.inject(NIC, frames(10), Some(20))?;
    host.injected(NIC, Duration::from_secs(5))?;
    wait_for("the daemon says so", Duration::from_secs(5), || {
        Ok(faults()? > 0)
    })
    .with_context(|| daemon.log())?;
    let log = daemon.log();
    let line = log
        .lines()
        .find(|line| line.contains("IOMMU stopped"))
        .with_context(|| log.clone())?;
    println!("{line}");
    println!("iommu_faults: {}", faults()?);
    ensure!(line.contains("0x34567"), "another address: {line}");
    memory.must_be_filled(host, PATTERN)?;
    drop(attachment);
    daemon.detach("fault")?;
    gone(&daemon, "fault")?;
    // The next attachment sets the ring up anew.
    flood(host)?;
    watch(host, &daemon, &memory)?;
    igb::end_flood(host, &daemon)
}

/// Accesses of the modelled card that the maps of the guest's IOMMU stopped so far.
fn stopped(host: &mut Host) -> Result<u64> {
    let said = host.card(igb::nic(host), "memory")?;
    let count = said
        .split_whitespace()
        .nth(1)
        .and_then(|word| word.parse().ok());
    count.with_context(|| format!("no count in {said:?}"))
}

/// An E810 that writes packets where nothing is mapped for it, and then reads its ring from there. QEMU's IOMMU does not see what a device in another process does, so
/// the kernel has no fault to report: the model, which honours the maps, counts them instead.
fn stray(host: &mut Host) -> Result<()> {
    let nic = igb::nic(host);
    let daemon = igb::daemon(host)?;
    let (mut attachment, memory) = FAULT.attach_and_open(host, &daemon)?;
    let frames = || Frames::Numbered {
        port: 5000,
        first: 0,
        count: 10,
        payload: 1000,
    };
    let arrive = |host: &mut Host, attachment: &mut Attachment| -> Result<Vec<Delivered>> {
        host.inject(nic, frames(), None)?;
        let (delivered, held) = igb::collect(attachment, 10, Duration::from_secs(5))?;
        attachment.give_back(held)?;
        Ok(delivered)
    };
    arrive(host, &mut attachment)?;
    memory.fill(host, PATTERN)?;
    let before = stopped(host)?;
    host.card(nic, "fault stray-buffers")?;
    let delivered = arrive(host, &mut attachment)?;
    let count = stopped(host)? - before;
    println!(
        "{count} writes stopped; the card says of {} packets that they are there",
        delivered.len()
    );
    ensure!(count == 10, "{count} writes were stopped");
    // Headers went where they belong; the payload is nowhere.
    for packet in &delivered {
        ensure!(packet.header.len() == frame::HEADERS, "{packet:?}");
    }
    memory.must_be_filled(host, PATTERN)?;
    host.card(nic, "fault none")?;
    arrive(host, &mut attachment)?;
    // A read that is stopped comes back as an error, which the card reports.
    memory.fill(host, PATTERN)?;
    host.card(nic, "fault stray-ring")?;
    host.inject(nic, frames(), None)?;
    host.injected(nic, Duration::from_secs(5))?;
    gone(&daemon, "fault").with_context(|| daemon.log())?;
    let reason = reason(&daemon, "fault")?;
    ensure!(reason.contains("on the bus"), "{reason:?}");
    memory.must_be_filled(host, PATTERN)?;
    host.card(nic, "fault none")?;
    let refusals = host.card(nic, "refusals")?;
    println!("the model: {}", refusals.trim());
    drop(attachment);
    // The next attachment sets the card up anew.
    flood(host)?;
    watch(host, &daemon, &memory)?;
    igb::end_flood(host, &daemon)
}

/// Somebody unbinds the NIC under the daemon: it ends the attachments with the reason, and lets go.
fn wanted_back(host: &mut Host) -> Result<()> {
    let pci = host.pci(igb::nic(host))?;
    let mut daemon = igb::daemon(host)?;
    flood(host)?;
    let (client, memory) = victim(host, &daemon, Kind::Udmabuf)?;
    let file = format!("/sys/bus/pci/devices/{pci}/driver/unbind");
    let unbind = {
        let pci = pci.clone();
        std::thread::spawn(move || std::fs::write(file, pci))
    };
    wait_for("the NIC is let go of", Duration::from_secs(10), || {
        Ok(unbind.is_finished() && devices::driver(&pci).is_none())
    })
    .with_context(|| daemon.log())?;
    ensure!(daemon.running()?, "the daemon is gone: {}", daemon.log());
    gone(&daemon, "victim")?;
    let reason = reason(&daemon, "victim")?;
    ensure!(reason.contains("unbinding"), "{reason:?}");
    let output = client.wait(Duration::from_secs(5))?;
    ensure!(output.stderr.contains("unbinding"), "{output:?}");
    memory.fill(host, PATTERN)?;
    let refused = daemon.refused(&format!(
        "attach --name again --nic {pci} --queue 0 --memory memfd --size 1M --flow any"
    ))?;
    println!("attaching to it: {}", refused.trim());
    drop(daemon);
    // Whoever has it next gets the traffic.
    devices::give(&pci, Some("vfio-pci"))?;
    let daemon = igb::daemon(host)?;
    watch(host, &daemon, &memory)?;
    igb::end_flood(host, &daemon)
}
