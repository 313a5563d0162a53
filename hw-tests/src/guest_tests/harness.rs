//! The harness itself: what the host says it did, seen from the guest.

use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Driver, Test};
use crate::guest::machine::{BAR, IVSHMEM};
use crate::guest::message::{Frames, Request, sum};
use crate::inside::Host;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::new("the_control_channel_carries_requests_and_refusals", channel),
    Test::new("the_host_reads_and_fills_the_memory_behind_the_bar", bar),
    Test::new("frames_reach_the_guest_and_leave_it", frames).igb(Driver::Linux),
    Test::new("a_cable_can_be_pulled", cable).igb(Driver::Linux),
];

fn channel(host: &mut Host) -> Result<()> {
    for _ in 0..20 {
        host.ask(&Request::Sync)?;
    }
    let refused = host.inject("no-such-nic", Frames::Staged, None);
    ensure!(refused.is_err(), "a NIC that is not there was sent frames");
    ensure!(
        host.bar_read(BAR - 1, 2).is_err(),
        "bytes beyond the BAR were read"
    );
    let devices = host.monitor("info pci")?;
    ensure!(devices.contains("8086:10c9"), "QEMU says it has {devices}");
    Ok(())
}

/// Span by span, so that a mistake in the offset shows.
fn bar(host: &mut Host) -> Result<()> {
    host.bar_fill(0, BAR, 0xa5)?;
    host.bar_fill(4096, 100, 0x17)?;
    let bytes = host.bar_read(4090, 20_000)?;
    let want: Vec<u8> = (4090..24_090)
        .map(|at| {
            if (4096..4196).contains(&at) {
                0x17
            } else {
                0xa5
            }
        })
        .collect();
    ensure!(
        bytes == want,
        "the host reads back something else than it wrote"
    );
    ensure!(
        host.bar_sum(4090, 20_000)? == sum(want),
        "the host's sum is not that of the bytes"
    );
    // The guest's side of the same memory; the vfio-pci driver lets it be mapped, not read, through sysfs.
    let file = format!("/sys/bus/pci/devices/{IVSHMEM}/config");
    let config = OpenOptions::new().read(true).open(file)?;
    let mut id = [0; 4];
    config.read_exact_at(&mut id, 0)?;
    ensure!(
        id == [0xf4, 0x1a, 0x10, 0x11],
        "{IVSHMEM} is no ivshmem device: {id:02x?}"
    );
    Ok(())
}

fn counter(nic: &str, name: &str) -> Result<u64> {
    let file = format!("/sys/class/net/{nic}/statistics/{name}");
    let text = std::fs::read_to_string(&file).with_context(|| file.clone())?;
    Ok(text.trim().parse()?)
}

/// Each NIC under Linux's driver: 300 frames in, which the kernel counts; a ping's ARP request out, which the host keeps.
fn frames(host: &mut Host) -> Result<()> {
    for nic in host.machine().nics {
        let before = counter(nic.id, "rx_packets")?;
        let frames = Frames::Numbered {
            port: 5000,
            first: 0,
            count: 100,
            payload: 600,
        };
        host.inject_rounds(nic.id, frames, Some(5000), 3)?;
        let sent = host.injected(nic.id, Duration::from_secs(5))?;
        ensure!(sent == 300, "QEMU took {sent} of 300 frames");
        let mut counted = 0;
        crate::command::wait_for("the kernel counts them", Duration::from_secs(5), || {
            counted = counter(nic.id, "rx_packets")? - before;
            Ok(counted >= 300)
        })
        .with_context(|| format!("{}: it counted {counted}", nic.id))?;
        ensure!(
            counted == 300,
            "{}: the kernel counted {counted} of 300",
            nic.id
        );
        crate::command::sh(&format!("ip addr add 10.78.0.1/24 dev {}", nic.id))?;
        let socket = std::net::UdpSocket::bind("10.78.0.1:0")?;
        socket.send_to(b"x", "10.78.0.2:9")?;
        let mut seen = Vec::new();
        crate::command::wait_for("an ARP request comes out", Duration::from_secs(5), || {
            seen = host.seen(nic.id)?;
            Ok(seen.iter().any(|frame| frame.get(12..14) == Some(&[8, 6])))
        })?;
        ensure!(
            seen.iter().all(|frame| frame[6..12] == nic.mac()),
            "frames that {} cannot have sent: {seen:02x?}",
            nic.id
        );
        ensure!(
            host.seen_count(nic.id)? >= seen.len() as u64,
            "fewer than were kept"
        );
        crate::command::sh(&format!("ip addr del 10.78.0.1/24 dev {}", nic.id))?;
    }
    Ok(())
}

fn cable(host: &mut Host) -> Result<()> {
    let carrier = || Ok(std::fs::read_to_string("/sys/class/net/igb0/carrier")?.trim() == "1");
    host.set_link("igb0", false)?;
    crate::command::wait_for("the link goes", Duration::from_secs(5), || {
        carrier().map(|up| !up)
    })?;
    host.set_link("igb0", true)?;
    crate::command::wait_for("the link comes", Duration::from_secs(10), carrier)?;
    Ok(())
}
