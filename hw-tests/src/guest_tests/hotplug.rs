//! A NIC is pulled, or fails, while a daemon owns it: its queues stop, that is reported, the NIC is let go of, and its neighbour notices nothing.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use devrx_driver::device::Device;
use devrx_driver::vfio::{Function, Options};
use nix::sys::signal::Signal;

use super::Test;
use crate::command::{Process, sh, wait_for};
use crate::daemon::Daemon;
use crate::guest::machine::{E810_HOTPLUG, HOTPLUG, RootPort};
use crate::guest::message::Frames;
use crate::guest::qemu;
use crate::inside::igb::{self, Kind, Memory, Wanted};
use crate::inside::{Host, consumer};
use crate::{frame, holders, pcap};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::new("igb_an_error_interrupt_stops_the_queues", failed)
        .on(HOTPLUG)
        .limit(60),
    Test::new("igb_a_nic_that_is_unplugged_is_let_go_of", unplugged)
        .on(HOTPLUG)
        .limit(90),
    Test::new("igb_a_nic_that_is_torn_out_is_let_go_of", torn_out)
        .on(HOTPLUG)
        .limit(90),
    Test::new("vfio_a_device_that_is_gone_is_not_reset", not_reset)
        .on(HOTPLUG)
        .limit(20),
];

/// The same on an E810, as far as QEMU lets one be pulled: QEMU 11 aborts when its slot goes off.
pub const E810_TESTS: &[Test] =
    &[
        Test::new("e810_an_error_interrupt_stops_the_queues", e810_failed)
            .on(E810_HOTPLUG)
            .limit(60),
    ];

/// Bytes of the regions.
const SIZE: u64 = 2 << 20;
/// What given-back memory is filled with, to see whether it stays.
const PATTERN: u8 = 0x5a;
/// An address that only one attachment's rule knows.
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
/// Frames a second into the NIC that goes away, and into its neighbour.
const RATES: [u32; 2] = [2000, 1000];
/// The NIC that goes away.
const NIC: &str = "igb0";
/// As QEMU calls it.
const DEVICE: &str = "IGB0";
/// The NIC beside it, of the same daemon.
const NEIGHBOUR: &str = "igb1";
/// The attachments of the NIC that goes away.
const VICTIMS: [&str; 2] = ["udmabuf", "bar"];

/// A daemon of two NICs. The first receives into two kinds of memory, the second into host memory, every frame of it kept.
struct Stage {
    daemon: Daemon,
    pci: String,
    clients: [Process; 2],
    memory: [Memory; 2],
    neighbour: Process,
    file: PathBuf,
}

fn daemon_of(host: &Host) -> Result<Daemon> {
    let [a, b] = [host.pci(NIC)?, host.pci(NEIGHBOUR)?];
    let daemon = Daemon::start_here(&[&format!("vfio:{a}"), &format!("vfio:{b}")])?;
    // What QEMU holds back while the link is down it loses when a ring is set up meanwhile.
    wait_for("both NICs have a link", Duration::from_secs(5), || {
        Ok(daemon.log().matches("up=true").count() == 2)
    })
    .with_context(|| daemon.log())?;
    Ok(daemon)
}

impl Stage {
    fn set(host: &mut Host) -> Result<Self> {
        let daemon = daemon_of(host)?;
        let (first, udmabuf) = consumer::start(host, &daemon, VICTIMS[0], Kind::Udmabuf, SIZE)?;
        let wanted = Wanted {
            name: VICTIMS[1],
            kind: Kind::Bar,
            chunks: 1024,
            chunk: 2048,
            more: "--queue 1 --flow dst-mac=02:00:00:00:00:77",
        };
        let bar = wanted.attach(host, &daemon)?;
        let second = daemon.recv(VICTIMS[1], "--timeout 60")?;
        daemon.ok(&format!(
            "attach --name neighbour --nic {} --queue 0 --memory memfd --size 16M --chunk 2048 --ring 4096 --flow any",
            host.pci(NEIGHBOUR)?
        ))?;
        let file = daemon.folder().join("neighbour.pcap");
        let neighbour = daemon.recv("neighbour", &format!("--pcap {}", file.display()))?;
        let own = host.machine().nic(NIC).context("no NIC")?.mac();
        let flood = |mac, port| Frames::NumberedTo {
            mac,
            port,
            first: 0,
            count: 1 << 20,
            payload: 1000,
        };
        let both = vec![flood(own, 5000), flood(OTHER, 6000)];
        host.inject(NIC, Frames::Mixed(both), Some(RATES[0]))?;
        let steady = Frames::Numbered {
            port: 7000,
            first: 0,
            count: 1 << 20,
            payload: 300,
        };
        host.inject(NEIGHBOUR, steady, Some(RATES[1]))?;
        // More than a region has chunks: the memory is in use, all of it.
        wait_for("all of them receive", Duration::from_secs(10), || {
            let stats = daemon.stats()?;
            let come = |name| -> Result<u64> { stats.attachment(name)?.count("returned") };
            Ok(come(VICTIMS[0])? > 1100 && come(VICTIMS[1])? > 1100 && come("neighbour")? > 100)
        })?;
        Ok(Self {
            daemon,
            pci: host.pci(NIC)?,
            clients: [first, second],
            memory: [udmabuf, bar],
            neighbour,
            file,
        })
    }

    /// All attachments of the NIC end, and with them what they had; everybody who should know is told `why`.
    fn must_end(mut self, host: &mut Host, why: &str) -> Result<Daemon> {
        let daemon = &self.daemon;
        let began = Instant::now();
        wait_for("the attachments end", Duration::from_secs(10), || {
            let stats = daemon.stats()?;
            Ok(!VICTIMS.iter().any(|name| stats.alive(name)))
        })
        .with_context(|| format!("{} {:?}", daemon.log(), sh("dmesg")))?;
        println!("the attachments had ended {:?} later", began.elapsed());
        host.stop_injection(NIC)?;
        let stats = daemon.stats()?;
        for name in VICTIMS {
            let entry = stats.attachment(name)?;
            let [hold, release, out] =
                ["hold", "release", "in_flight"].map(|key| entry.count(key).unwrap_or(u64::MAX));
            ensure!(hold == release && out == 0, "chunks: {}", entry.json());
            ensure!(entry.count("payload_bytes_copied")? == 0);
            let reason = entry.text("reason");
            ensure!(reason.contains(why), "{name} ended: {reason}");
        }
        for nic in stats.0["nics"].as_array().context("no NICs")? {
            // What the NIC lost on its way out nobody knows.
            let exact = nic["nic"] != *self.pci;
            ensure!(nic["exact"] == exact, "{nic}");
        }
        for client in self.clients {
            let output = client.wait(Duration::from_secs(5))?;
            ensure!(output.stderr.contains(why), "not told: {output:?}");
        }
        // The NIC's neighbour goes on.
        for memory in &self.memory {
            memory.fill(host, PATTERN)?;
        }
        let before = daemon
            .stats()?
            .attachment("neighbour")?
            .count("delivered")?;
        wait_for("the neighbour receives", Duration::from_secs(5), || {
            let now = daemon
                .stats()?
                .attachment("neighbour")?
                .count("delivered")?;
            Ok(now > before + u64::from(RATES[1]) / 2)
        })?;
        for memory in &self.memory {
            memory.must_be_filled(host, PATTERN)?;
        }
        // Nobody but this process has the memory any more.
        drop(self.memory);
        let named = format!("/memfd:{}", VICTIMS[0]);
        ensure!(holders::of(&named).is_empty(), "{:?}", holders::of(&named));
        let sent = host.stop_injection(NEIGHBOUR)?;
        wait_for("all arrive", Duration::from_secs(5), || {
            Ok(daemon.stats()?.attachment("neighbour")?.count("returned")? >= sent)
        })?;
        self.neighbour.signal(Signal::SIGINT)?;
        self.neighbour.wait(Duration::from_secs(10))?;
        let mac = host.machine().nic(NEIGHBOUR).context("no NIC")?.mac();
        let frames = pcap::read(&self.file)?;
        for (want, bytes) in (0..).zip(&frames) {
            let number = frame::check_to(mac, bytes, 7000)?;
            ensure!(number == want, "frame {want} is missing, next is {number}");
        }
        ensure!(frames.len() as u64 == sent, "{} of {sent}", frames.len());
        ensure!(self.daemon.running()?, "it is gone: {}", self.daemon.log());
        let log = self.daemon.log();
        let line = log.lines().find(|line| line.contains("is let go of"));
        println!("{}", line.context("nothing in the log")?);
        println!("the neighbour got all of {sent} frames");
        let again = self.daemon.refused(&format!(
            "attach --name again --nic {} --queue 0 --memory memfd --size 1M --flow any",
            self.pci
        ))?;
        ensure!(again.contains("start the daemon again"), "{again}");
        println!("attaching: {}", again.trim());
        Ok(self.daemon)
    }
}

/// QEMU has deleted the NIC.
fn deleted(host: &mut Host, limit: Duration) -> Result<()> {
    wait_for("QEMU has deleted the NIC", limit, || {
        let events = host.events()?;
        let mut deleted = events
            .iter()
            .filter(|event| event["event"] == "DEVICE_DELETED");
        Ok(deleted.any(|event| event["data"]["device"] == DEVICE))
    })?;
    Ok(())
}

fn there(pci: &str) -> bool {
    Path::new("/sys/bus/pci/devices").join(pci).exists()
}

/// Plugs the NIC in again.
fn plug(host: &mut Host) -> Result<()> {
    let nic = host.machine().nic(NIC).context("no NIC")?;
    let slot = Slot::of(nic.port.context("it is behind no port")?)?;
    // The kernel switches the lamp off a second after the power. QEMU takes that for the wish to delete what is in the slot by then.
    wait_for("the slot is off", Duration::from_secs(5), || {
        Ok(slot.read()? & (Slot::DARK | Slot::OFF) == Slot::DARK | Slot::OFF)
    })?;
    let said = host.monitor(&format!("device_add {}", qemu::device(nic)))?;
    ensure!(said.is_empty(), "QEMU: {said}");
    wait_for("the NIC is there again", Duration::from_secs(15), || {
        Ok(there(&nic.pci()))
    })
    .with_context(|| format!("{:?}", sh("dmesg")))?;
    Ok(())
}

/// With the NIC plugged in again, binds it with the program, and receives with a new daemon.
fn works_again(host: &mut Host, daemon: Daemon) -> Result<()> {
    let pci = host.pci(NIC)?;
    plug(host)?;
    let list = daemon.ok("nic list")?.stdout;
    ensure!(list.contains(&format!("has let go of {pci}")), "{list}");
    let bound = daemon.ok(&format!("nic bind {pci}"))?.stdout;
    ensure!(bound.contains("with vfio-pci"), "{bound}");
    drop(daemon);
    let daemon = daemon_of(host)?;
    daemon.ok(&format!(
        "attach --name again --nic {pci} --queue 0 --memory udmabuf --size 2M --chunk 2048 --flow any"
    ))?;
    let recv = daemon.recv("again", "--count 500 --timeout 10")?;
    let frames = Frames::Numbered {
        port: 5000,
        first: 0,
        count: 500,
        payload: 1000,
    };
    host.inject(NIC, frames, Some(RATES[0]))?;
    let output = recv.wait(Duration::from_secs(12))?;
    ensure!(output.status.success(), "{output:?}");
    println!("plugged in again: {}", output.stdout.trim());
    Ok(())
}

/// Somebody asks for the NIC, as with the button at its slot: the kernel takes it from the daemon, and the slot goes off.
fn unplugged(host: &mut Host) -> Result<()> {
    let stage = Stage::set(host)?;
    host.events()?;
    let said = host.monitor(&format!("device_del {DEVICE}"))?;
    ensure!(said.is_empty(), "QEMU: {said}");
    let began = Instant::now();
    // The kernel waits five seconds for somebody who presses the button again.
    deleted(host, Duration::from_secs(12)).with_context(|| stage.daemon.log())?;
    println!("the NIC was gone {:?} later", began.elapsed());
    ensure!(!there(&stage.pci), "the kernel has it still");
    let list = stage.daemon.ok("nic list")?.stdout;
    let lines = format!("\n{} ", stage.pci);
    ensure!(!list.contains(&lines), "{list}");
    let daemon = stage.must_end(host, "unplugging")?;
    works_again(host, daemon)
}

/// The error is the port's, as for the 82576; one after which nothing is reset.
fn e810_failed(host: &mut Host) -> Result<()> {
    let nic = igb::nic(host);
    let mut daemon = igb::daemon(host)?;
    let (client, memory) = consumer::start(host, &daemon, VICTIMS[0], Kind::Udmabuf, SIZE)?;
    let frames = Frames::Numbered {
        port: 5000,
        first: 0,
        count: 1 << 20,
        payload: 1000,
    };
    host.inject(nic, frames, Some(RATES[0]))?;
    wait_for("it receives", Duration::from_secs(10), || {
        let stats = daemon.stats()?;
        Ok(stats.attachment(VICTIMS[0])?.count("returned")? > 1100)
    })?;
    let port = E810_HOTPLUG.ports[0].id;
    let said = host.monitor(&format!("pcie_aer_inject_error {port} COMP_TIME"))?;
    ensure!(said.starts_with("OK"), "QEMU: {said}");
    wait_for("the attachment ends", Duration::from_secs(10), || {
        Ok(!daemon.stats()?.alive(VICTIMS[0]))
    })
    .with_context(|| format!("{} {:?}", daemon.log(), sh("dmesg")))?;
    let entry = daemon.stats()?.attachment(VICTIMS[0])?;
    ensure!(entry.count("in_flight")? == 0, "{}", entry.json());
    let reason = entry.text("reason");
    ensure!(reason.contains("AER"), "it ended: {reason}");
    let output = client.wait(Duration::from_secs(5))?;
    ensure!(output.stderr.contains("AER"), "{output:?}");
    memory.fill(host, PATTERN)?;
    std::thread::sleep(Duration::from_millis(500));
    memory.must_be_filled(host, PATTERN)?;
    drop(memory);
    let named = format!("/memfd:{}", VICTIMS[0]);
    ensure!(holders::of(&named).is_empty(), "{:?}", holders::of(&named));
    ensure!(daemon.running()?, "it is gone: {}", daemon.log());
    println!("the attachment ended: {reason}");
    Ok(())
}

/// The slot control register of a port, in its configuration space.
struct Slot {
    config: File,
    at: u64,
}

impl Slot {
    /// Interrupts of the slot, its lamp off, its power off (PCI Express Base Specification 4.0, 7.5.3.10).
    const INTERRUPTS: u16 = 1 << 5;
    const DARK: u16 = 3 << 8;
    const OFF: u16 = 1 << 10;

    fn of(port: RootPort) -> Result<Self> {
        let path = format!("/sys/bus/pci/devices/0000:00:{:02x}.0/config", port.slot);
        let config = File::options().read(true).write(true).open(path)?;
        let mut bytes = [0; 256];
        config.read_exact_at(&mut bytes, 0)?;
        let mut at = usize::from(bytes[0x34]);
        while bytes[at] != 0x10 {
            at = usize::from(bytes[at + 1]);
            ensure!(at != 0, "the port is no PCIe port");
        }
        Ok(Self {
            config,
            at: at as u64 + 0x18,
        })
    }

    fn read(&self) -> Result<u16> {
        let mut bytes = [0; 2];
        self.config.read_exact_at(&mut bytes, self.at)?;
        Ok(u16::from_le_bytes(bytes))
    }

    fn write(&self, value: u16) -> Result<()> {
        Ok(self.config.write_all_at(&value.to_le_bytes(), self.at)?)
    }
}

/// Takes the NIC away behind the kernel's back, which hears of it when what is returned is written back.
fn tear_out(host: &mut Host) -> Result<(Slot, u16)> {
    let nic = host.machine().nic(NIC).context("no NIC")?;
    let slot = Slot::of(nic.port.context("it is behind no port")?)?;
    let before = slot.read()?;
    host.events()?;
    // QEMU deletes what is in a slot that is switched off.
    slot.write(before & !Slot::INTERRUPTS | Slot::DARK | Slot::OFF)?;
    deleted(host, Duration::from_secs(1))?;
    Ok((slot, before))
}

/// The kernel would wait for more than a minute until it gives up.
fn not_reset(host: &mut Host) -> Result<()> {
    let pci = host.pci(NIC)?;
    let function = Function::open(pci.parse()?, &Options::default())?;
    ensure!(!function.gone(), "it is there");
    let (slot, before) = tear_out(host)?;
    ensure!(function.gone(), "it is not there");
    let began = Instant::now();
    function.reset()?;
    let took = began.elapsed();
    ensure!(took < Duration::from_secs(1), "it took {took:?}");
    slot.write(before)?;
    drop(function);
    wait_for("the kernel gives it up", Duration::from_secs(10), || {
        Ok(!there(&pci))
    })?;
    plug(host)
}

/// The NIC is not there any more from one moment to the next. Nobody tells the daemon, which finds out; then the kernel hears of it.
fn torn_out(host: &mut Host) -> Result<()> {
    let stage = Stage::set(host)?;
    let (slot, before) = tear_out(host)?;
    let began = Instant::now();
    wait_for("the daemon finds out", Duration::from_secs(5), || {
        Ok(stage.daemon.log().contains("is let go of"))
    })
    .with_context(|| stage.daemon.log())?;
    println!("the daemon let go of it {:?} later", began.elapsed());
    ensure!(there(&stage.pci), "the kernel knew it");
    slot.write(before)?;
    // It waits for the device's last requests first, and for the daemon's file to be closed.
    wait_for("the kernel gives it up", Duration::from_secs(20), || {
        Ok(!there(&stage.pci))
    })
    .with_context(|| format!("{} {:?}", stage.daemon.log(), sh("dmesg")))?;
    println!("and the kernel {:?} later", began.elapsed());
    drop(stage.must_end(host, "does not answer any more")?);
    plug(host)
}

/// An error that cannot be corrected is reported for the NIC's port, and the kernel tells all drivers behind it. (QEMU's 82576 keeps its own errors to itself: it
/// has no enable bits for them in its device control register.)
fn failed(host: &mut Host) -> Result<()> {
    let port = host.machine().nic(NIC).and_then(|nic| nic.port);
    let port = port.context("it is behind no port")?.id;
    let stage = Stage::set(host)?;
    // A malformed packet, after which the kernel resets the link too.
    let said = host.monitor(&format!("pcie_aer_inject_error {port} MALF_TLP"))?;
    ensure!(said.starts_with("OK"), "QEMU: {said}");
    drop(stage.must_end(host, "AER")?);
    Ok(())
}
