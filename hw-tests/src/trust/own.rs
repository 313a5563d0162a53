//! This project's own driver on the model, through VFIO and the IOMMU: the daemon takes the card, and bytes arrive in the memory of attachments.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use devrx_client::{Client, CompletionFlags};

use super::peer::{FAR, Peer};
use super::test;
use super::tools::{Mode, NIC, dma_faults, firmware, nothing_refused};
use crate::command::wait_for;
use crate::daemon::Daemon;
use crate::guest_tests::{Driver, Test};
use crate::inside::Host;
use crate::inside::igb::collect;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    test("devrx_splits_and_steers_on_the_e810", splits_and_steers).igb(Driver::Vfio),
    test("devrx_without_a_package_works_in_safe_mode", safe).igb(Driver::Vfio),
    test("devrx_gets_the_e810_back_after_resets", resets).igb(Driver::Vfio),
];

/// Bytes of Ethernet, IPv4 and UDP headers.
const HEADERS: usize = 42;

pub(super) fn daemon(host: &Host, mode: Mode) -> Result<Daemon> {
    firmware(mode)?;
    let pci = host.pci(NIC)?;
    let daemon = Daemon::start_here_with(&format!("[[interfaces]]\naddress = \"vfio:{pci}\"\n"))?;
    wait_for("the NIC has a link", Duration::from_secs(10), || {
        Ok(daemon.log().contains("up=true"))
    })?;
    Ok(daemon)
}

/// The other end, which knows the card's address.
pub(super) fn peer(host: &Host) -> Result<Peer> {
    let peer = Peer::new()?;
    let mac = host.machine().nic(NIC).context("no NIC")?.mac();
    let mac = mac.map(|byte| format!("{byte:02x}")).join(":");
    peer.sh(&format!("busybox arp -i {FAR} -s 10.8.0.1 {mac}"))?;
    Ok(peer)
}

/// Payload of so many bytes that is different for each number.
pub(super) fn payload(number: usize, len: usize) -> Vec<u8> {
    (0..len).map(|at| (at * 31 + number * 7) as u8).collect()
}

pub(super) fn send(peer: &Peer, port: u16, payloads: Vec<Vec<u8>>) -> Result<()> {
    let socket = peer.udp("0.0.0.0:4000")?;
    peer.run(move || {
        for payload in payloads {
            socket.send_to(&payload, ("10.8.0.1", port))?;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(())
    })
}

pub(super) fn attach(host: &Host, daemon: &Daemon, line: &str) -> Result<()> {
    let pci = host.pci(NIC)?;
    daemon.ok(&format!("attach --nic {pci} {line}")).map(drop)
}

/// What an attachment gets is what was sent.
fn arrive(daemon: &Daemon, name: &str, port: u16, want: &[Vec<u8>], split: bool) -> Result<()> {
    let mut attachment = Client::connect(daemon.socket())?.open(name)?;
    let size = usize::try_from(attachment.region_fd().map_or(Ok(0), |fd| {
        nix::sys::stat::fstat(fd).map(|stat| stat.st_size)
    })?)?;
    let region = attachment.region_fd().context("no region")?;
    let memory =
        devrx_provider::Mapping::map_shared(std::os::fd::AsFd::as_fd(&region), 0, size, false)?;
    // Neighbour discovery of the other end's stack comes to `any` too.
    let (mut packets, mut held) = (Vec::new(), Vec::new());
    while packets.len() < want.len() {
        let (one, hold) = collect(&mut attachment, 1, Duration::from_secs(5))?;
        packets.extend(one.into_iter().filter(|packet| is_ours(packet, split)));
        held.extend(hold);
    }
    for (packet, want) in packets.iter().zip(want) {
        let mut bytes = packet.header.clone();
        for &(offset, len) in &packet.payload {
            let start = bytes.len();
            bytes.resize(start + len, 0);
            ensure!(memory.copy_out(usize::try_from(offset)?, &mut bytes[start..]));
        }
        let header = if split { HEADERS } else { 0 };
        ensure!(
            packet.header.len() == header,
            "{name}: {} bytes of header",
            packet.header.len()
        );
        ensure!(packet.flags.contains(CompletionFlags::SPLIT) == split);
        ensure!(bytes[36..38] == port.to_be_bytes(), "{name}: another port");
        ensure!(
            bytes[HEADERS..HEADERS + want.len()] == want[..],
            "{name}: other bytes"
        );
    }
    Ok(())
}

/// Whether a packet is one of the test's: UDP over IPv4, as far as its header is in a slot.
fn is_ours(packet: &crate::inside::igb::Delivered, split: bool) -> bool {
    !split || (packet.header.len() == HEADERS && packet.header[23] == 17)
}

fn splits_and_steers(host: &mut Host) -> Result<()> {
    let daemon = daemon(host, Mode::Full)?;
    let peer = peer(host)?;
    attach(
        host,
        &daemon,
        "--name rest --queue 0 --memory memfd --size 8388608 --chunk 4096 --flow any",
    )?;
    attach(
        host,
        &daemon,
        "--name flow --queue 1 --memory udmabuf --size 4194304 --chunk 2048 --flow udp,dst-port=5000",
    )?;
    let sizes = [1, 18, 19, 100, 1000, 1472, 2006, 2007, 4000, 8900];
    let sent: Vec<_> = sizes
        .iter()
        .enumerate()
        .map(|(number, &len)| payload(number, len))
        .collect();
    send(&peer, 5000, sent.clone())?;
    send(&peer, 6000, sent.clone())?;
    arrive(&daemon, "flow", 5000, &sent, true)?;
    arrive(&daemon, "rest", 6000, &sent, true)?;
    daemon.ok("detach flow")?;
    daemon.ok("detach rest")?;
    ensure!(dma_faults()? == 0, "DMA faults");
    nothing_refused(host)
}

fn safe(host: &mut Host) -> Result<()> {
    let daemon = daemon(host, Mode::Safe)?;
    let peer = peer(host)?;
    attach(
        host,
        &daemon,
        "--name all --queue 0 --memory memfd --size 8388608 --chunk 2048 --flow udp,dst-port=5000",
    )?;
    let sent: Vec<_> = [18, 500, 3000]
        .iter()
        .enumerate()
        .map(|(number, &len)| payload(number, len))
        .collect();
    send(&peer, 5000, sent.clone())?;
    arrive(&daemon, "all", 5000, &sent, false)?;
    ensure!(daemon.log().contains("safe mode"), "it does not say so");
    ensure!(dma_faults()? == 0, "DMA faults");
    nothing_refused(host)
}

fn resets(host: &mut Host) -> Result<()> {
    let daemon = daemon(host, Mode::Full)?;
    let peer = peer(host)?;
    let line = "--name all --queue 0 --memory memfd --size 8388608 --chunk 2048 --flow any";
    // By the system: a function level reset, as root can ask for it while the daemon has the NIC.
    let by_system = Path::new("/sys/bus/pci/devices")
        .join(host.pci(NIC)?)
        .join("reset");
    let sent: Vec<_> = (1..=50).map(|number| payload(number, 700)).collect();
    for (kind, why) in [
        ("core", "whole card is being reset"),
        ("global", "whole card is being reset"),
        ("function", "somebody else has reset this NIC"),
    ] {
        attach(host, &daemon, line)?;
        send(&peer, 5000, sent.clone())?;
        arrive(&daemon, "all", 5000, &sent, true)?;
        let log = daemon.log().len();
        if kind == "function" {
            std::fs::write(&by_system, "1").context("the function's reset")?;
        } else {
            host.card(NIC, &format!("reset {kind}"))?;
        }
        wait_for("the attachment ends", Duration::from_secs(10), || {
            Ok(daemon.log()[log..].contains(why))
        })
        .with_context(|| daemon.log()[log..].to_owned())?;
        wait_for("it can be attached again", Duration::from_secs(10), || {
            daemon.ok("detach all").ok();
            Ok(attach(host, &daemon, line).is_ok())
        })?;
        send(&peer, 5000, sent.clone())?;
        arrive(&daemon, "all", 5000, &sent, true)?;
        println!(
            "{kind}: {} packets before the reset, and as many after it",
            sent.len()
        );
        daemon.ok("detach all")?;
    }
    ensure!(dma_faults()? == 0, "DMA faults");
    Ok(())
}
