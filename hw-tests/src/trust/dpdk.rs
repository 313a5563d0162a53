//! DPDK's net_ice on the model, through vfio-pci and the IOMMU: a second driver, which others wrote, in the place where this project's own would be.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use super::steering::toeplitz;
use super::test;
use super::tools::{Mode, NIC, dma_faults, firmware, log_lines, must_fail, nothing_refused};
use crate::frame;
use crate::guest::message::{from_hex, to_hex};
use crate::guest_tests::{Driver, Test};
use crate::inside::Host;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    test("dpdk_receives_with_headers_split", splits).igb(Driver::Vfio),
    test("dpdk_steers_flows_to_queues", steers).igb(Driver::Vfio),
    test("dpdk_sends_what_it_was_given", sends).igb(Driver::Vfio),
    test("dpdk_notices_faults_of_splitting", faults).igb(Driver::Vfio),
];

/// Where the program is in the guest.
pub const PROGRAM: &str = "/usr/bin/dpdk_split";
/// Bytes of the headers of [`frame::numbered_to`].
const HEADERS: usize = frame::HEADERS;
/// Their UDP port.
pub(super) const PORT: u16 = 5000;

/// The program, running.
pub(super) struct Dpdk {
    child: Child,
    lines: BufReader<ChildStdout>,
    /// The key of the hash.
    key: Vec<u8>,
}

/// A packet that it received.
#[derive(Debug)]
pub(super) struct Packet {
    queue: u32,
    segments: u32,
    first: usize,
    hash: u32,
    /// Nanoseconds, 0 for none.
    pub(super) stamp: u64,
    bytes: Vec<u8>,
}

impl Dpdk {
    fn start(host: &Host) -> Result<Self> {
        Self::start_with(host, &[])
    }

    /// With arguments of its own, behind DPDK's.
    pub(super) fn start_with(host: &Host, arguments: &[&str]) -> Result<Self> {
        firmware(Mode::Full)?;
        std::fs::create_dir_all("/var/run")?;
        let mut command = Command::new(PROGRAM);
        command.args(["-l", "0", "-n", "1", "--iova-mode=va", "--no-telemetry"]);
        command.args(["--log-level=*:warning", "-a", &host.pci(NIC)?]);
        command.args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start DPDK's program")?;
        let lines = BufReader::new(child.stdout.take().context("no output")?);
        let mut dpdk = Self {
            child,
            lines,
            key: Vec::new(),
        };
        let (_, ready) = dpdk.until("ready ")?;
        dpdk.key = from_hex(ready.trim_start_matches("ready ")).context("no key")?;
        Ok(dpdk)
    }

    /// Reads lines until one begins like this; those before it.
    pub(super) fn until(&mut self, start: &str) -> Result<(Vec<String>, String)> {
        let mut before = Vec::new();
        loop {
            let mut line = String::new();
            ensure!(
                self.lines.read_line(&mut line)? > 0,
                "DPDK's program ended; it said {before:?}"
            );
            let line = line.trim_end().to_owned();
            if line.starts_with(start) {
                return Ok((before, line));
            }
            if line.starts_with("failed") {
                bail!("DPDK: {line}");
            }
            before.push(line);
        }
    }

    pub(super) fn say(&mut self, line: &str) -> Result<()> {
        let stdin = self.child.stdin.as_mut().context("no input")?;
        Ok(writeln!(stdin, "{line}")?)
    }

    /// Receives this many packets, or what comes.
    pub(super) fn receive(&mut self, count: usize) -> Result<Vec<Packet>> {
        self.say(&format!("receive {count} 1500"))?;
        let (lines, _) = self.until("received")?;
        let packets = lines.iter().filter_map(|line| line.strip_prefix("packet "));
        packets
            .map(|line| {
                let mut words = line.split(' ');
                let mut word = || words.next().context("a word too few");
                Ok(Packet {
                    queue: word()?.parse()?,
                    segments: word()?.parse()?,
                    first: word()?.parse()?,
                    hash: u32::from_str_radix(word()?, 16)?,
                    stamp: word()?.parse()?,
                    bytes: from_hex(word()?).context("no hexadecimal")?,
                })
            })
            .collect()
    }
}

impl Drop for Dpdk {
    fn drop(&mut self) {
        self.say("quit").ok();
        self.child.wait().ok();
    }
}

pub(super) fn mac(host: &Host) -> Result<[u8; 6]> {
    Ok(host.machine().nic(NIC).context("no NIC")?.mac())
}

/// Frames of many sizes arrive whole, in two segments that part behind the UDP header.
fn split_right(host: &mut Host, dpdk: &mut Dpdk) -> Result<()> {
    let mac = mac(host)?;
    let frames: Vec<Vec<u8>> = [18, 19, 64, 200, 513, 1000, 1400, 1472]
        .iter()
        .enumerate()
        .map(|(number, size)| frame::numbered_to(mac, PORT, number as u64, *size))
        .collect();
    host.inject_frames(NIC, &frames, Some(1000))?;
    let packets = dpdk.receive(frames.len())?;
    ensure!(
        packets.len() == frames.len(),
        "{} of {} packets came",
        packets.len(),
        frames.len()
    );
    for frame in &frames {
        let packet = packets.iter().find(|packet| packet.bytes == *frame);
        let packet =
            packet.with_context(|| format!("a frame of {} bytes came otherwise", frame.len()))?;
        ensure!(
            (packet.segments, packet.first) == (2, HEADERS),
            "a frame of {} bytes came in {} segments, the first of {}",
            frame.len(),
            packet.segments,
            packet.first
        );
        // Addresses and ports, as they are in the frame.
        let hash = toeplitz(&dpdk.key, &frame[26..38]);
        ensure!(
            packet.hash == hash,
            "a frame of {} bytes has the hash {:08x}, not {hash:08x}",
            frame.len(),
            packet.hash
        );
    }
    Ok(())
}

fn splits(host: &mut Host) -> Result<()> {
    let mut dpdk = Dpdk::start(host)?;
    split_right(host, &mut dpdk)?;
    drop(dpdk);
    ensure!(dma_faults()? == 0, "{:?}", log_lines("DMAR")?);
    nothing_refused(host)
}

fn steers(host: &mut Host) -> Result<()> {
    let mac = mac(host)?;
    let mut dpdk = Dpdk::start(host)?;
    // The addresses and ports that `frame::numbered_to` writes.
    let flow = "0a4d0002 0a4d0001 4000 5000";
    let frames: Vec<Vec<u8>> = (0..8)
        .map(|number| frame::numbered_to(mac, PORT, number, 100))
        .collect();
    for queue in [0, 1] {
        dpdk.say(&format!("rule {flow} {queue}"))?;
        let (_, said) = dpdk.until("rule")?;
        ensure!(said == "rule ok", "{said}");
        host.inject_frames(NIC, &frames, Some(1000))?;
        let packets = dpdk.receive(frames.len())?;
        let right = packets
            .iter()
            .filter(|packet| packet.queue == queue)
            .count();
        ensure!(
            right == frames.len(),
            "told to go to queue {queue}, {right} of {} packets did, {} came",
            frames.len(),
            packets.len()
        );
        dpdk.say("flush")?;
        let (_, said) = dpdk.until("flush")?;
        ensure!(said == "flush ok", "{said}");
    }
    drop(dpdk);
    nothing_refused(host)
}

fn sends(host: &mut Host) -> Result<()> {
    let mut dpdk = Dpdk::start(host)?;
    host.forget_seen(NIC)?;
    let frames: Vec<Vec<u8>> = [18, 300, 1472]
        .iter()
        .map(|size| frame::numbered_to([2, 0, 0, 0, 0, 9], PORT, 1, *size))
        .collect();
    for frame in &frames {
        dpdk.say(&format!("send {}", to_hex(frame)))?;
        ensure!(dpdk.until("sent")?.1 == "sent 1", "the frame was not taken");
    }
    std::thread::sleep(std::time::Duration::from_millis(200));
    let seen = host.seen(NIC)?;
    for frame in &frames {
        ensure!(
            seen.contains(frame),
            "a frame of {} bytes was not sent as it was",
            frame.len()
        );
    }
    drop(dpdk);
    nothing_refused(host)
}

fn faults(host: &mut Host) -> Result<()> {
    let mut dpdk = Dpdk::start(host)?;
    split_right(host, &mut dpdk)?;
    for fault in [
        "swapped-buffers",
        "split-off-by-one",
        "wrong-header-length",
        "wrong-packet-length",
        "wrong-hash",
        "no-sph",
        "hbo",
    ] {
        host.card(NIC, &format!("fault {fault}"))?;
        let noticed = must_fail(fault, split_right(host, &mut dpdk));
        host.card(NIC, "fault none")?;
        noticed?;
        split_right(host, &mut dpdk)?;
    }
    Ok(())
}
