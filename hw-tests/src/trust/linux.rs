//! Linux's ice on the model: it comes up, and bytes arrive as they were sent.

use std::net::UdpSocket;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::peer::{IPV4, Peer, near};
use super::protocols::streams;
use super::resets;
use super::test;
use super::tools::{Mode, NIC, carrier, dma_faults, ethtool, log_lines, nothing_refused, unload};
use crate::command::sh;
use crate::guest_tests::Test;
use crate::inside::Host;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    test("the_guest_finds_the_e810", enumerates),
    test("linux_ice_in_safe_mode_is_reachable", safe),
    test("linux_ice_in_safe_mode_carries_bytes", safe_bytes),
    test("linux_ice_takes_its_package_and_is_reachable", full),
    test("linux_ice_carries_datagrams_of_every_size", sizes),
    test("linux_ice_comes_again_after_it_was_unloaded", again),
    test("linux_ice_sees_the_link_go_and_come", link),
];

fn enumerates(host: &mut Host) -> Result<()> {
    let folder = Path::new("/sys/bus/pci/devices").join(host.pci(NIC)?);
    let read = |name: &str| -> Result<String> {
        let text = std::fs::read_to_string(folder.join(name)).context(name.to_owned())?;
        Ok(text.trim().to_owned())
    };
    ensure!(
        (read("vendor")?.as_str(), read("device")?.as_str()) == ("0x8086", "0x1592"),
        "it is {} {}",
        read("vendor")?,
        read("device")?
    );
    ensure!(
        read("class")? == "0x020000",
        "its class is {}",
        read("class")?
    );
    ensure!(folder.join("iommu_group").exists(), "it is behind no IOMMU");
    Ok(())
}

/// The interface is what the model says it is, and the other end answers.
pub(super) fn reachable(host: &mut Host) -> Result<()> {
    let mac = std::fs::read_to_string(format!("/sys/class/net/{NIC}/address"))?;
    let [a, b, c, d, e, f] = host.machine().nic(NIC).context("no NIC")?.mac();
    ensure!(
        mac.trim() == format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"),
        "its address is {mac}"
    );
    let said = sh(&format!("busybox ping -c 5 -i 0.2 -W 2 {}", IPV4[1]))?.stdout;
    ensure!(said.contains(" 0% packet loss"), "{said}");
    Ok(())
}

/// Linux's ice said this about its package, and nothing about errors.
fn logged(mode: Mode) -> Result<()> {
    let wanted = match mode {
        Mode::Safe => "Entering Safe Mode",
        Mode::Full => "The DDP package was successfully loaded",
    };
    let said = log_lines("ice 0000")?;
    let package = said.iter().rfind(|line| line.contains("DDP"));
    ensure!(
        package.is_some_and(|line| line.contains(wanted)),
        "ice did not say {wanted:?}: {said:#?}"
    );
    Ok(())
}

fn safe(host: &mut Host) -> Result<()> {
    let _peer = Peer::with_ice(host, Mode::Safe)?;
    logged(Mode::Safe)?;
    reachable(host)?;
    ensure!(dma_faults()? == 0, "{:?}", log_lines("DMAR")?);
    nothing_refused(host)
}

fn safe_bytes(host: &mut Host) -> Result<()> {
    let peer = Peer::with_ice(host, Mode::Safe)?;
    reachable(host)?;
    everything(&peer)?;
    link_goes_and_comes(host)?;
    resets::twice(host, &peer)?;
    let (near, far) = sockets(&peer)?;
    exact(&near, &far, ordinary().step_by(5))?;
    unload()?;
    near_again(host)?;
    nothing_refused(host)
}

/// It comes once more after it was unloaded.
fn near_again(host: &mut Host) -> Result<()> {
    near(host, Mode::Safe)?;
    reachable(host)
}

fn full(host: &mut Host) -> Result<()> {
    let _peer = Peer::with_ice(host, Mode::Full)?;
    logged(Mode::Full)?;
    reachable(host)?;
    let about = ethtool(NIC)?;
    ensure!(about.contains("Speed: 100000Mb/s"), "{about}");
    ensure!(dma_faults()? == 0, "{:?}", log_lines("DMAR")?);
    nothing_refused(host)
}

/// The bytes of a datagram: no two places and no two sizes alike.
fn pattern(size: usize) -> Vec<u8> {
    (0..size)
        .map(|at| {
            (at as u32)
                .wrapping_mul(0x9e37_79b1)
                .wrapping_add(size as u32 * 0x85eb) as u8
                ^ (at >> 8) as u8
        })
        .collect()
}

/// Sends datagrams of these sizes to the other end, which sends each back inverted; every byte is compared at both ends.
pub(super) fn exact(
    near: &UdpSocket,
    far: &UdpSocket,
    sizes: impl Iterator<Item = usize>,
) -> Result<()> {
    let mut buffer = vec![0; 10_000];
    for size in sizes {
        let there = pattern(size);
        near.send_to(&there, far.local_addr()?)?;
        let (length, from) = far
            .recv_from(&mut buffer)
            .with_context(|| format!("{size} bytes did not arrive at the other end"))?;
        ensure!(
            buffer[..length] == there,
            "{size} bytes were sent otherwise"
        );
        let back: Vec<u8> = there.iter().map(|byte| !byte).collect();
        far.send_to(&back, from)?;
        let (length, _) = near
            .recv_from(&mut buffer)
            .with_context(|| format!("{size} bytes were not received"))?;
        ensure!(
            buffer[..length] == back,
            "{size} bytes were received otherwise: {length}, first difference at {:?}",
            buffer.iter().zip(&back).position(|(a, b)| a != b)
        );
    }
    Ok(())
}

/// A socket at each end.
pub(super) fn sockets(peer: &Peer) -> Result<(UdpSocket, UdpSocket)> {
    let near = UdpSocket::bind((IPV4[0], 0))?;
    near.set_read_timeout(Some(Duration::from_secs(2)))?;
    Ok((near, peer.udp(&format!("{}:5000", IPV4[1]))?))
}

/// Sizes within one frame of the ordinary MTU: around every limit there is, and a walk in between.
pub(super) fn ordinary() -> impl Iterator<Item = usize> {
    (1..=80).chain((81..1400).step_by(13)).chain(1400..=1472)
}

/// Bytes both ways: datagrams of every size at both MTUs, and TCP.
fn everything(peer: &Peer) -> Result<()> {
    let (near, far) = sockets(peer)?;
    exact(&near, &far, ordinary())?;
    streams(peer)?;
    sh(&format!("ip link set {NIC} mtu 9000"))?;
    carrier(NIC, true)?;
    let jumbo = (1..=8900)
        .step_by(199)
        .chain(2000..2100)
        .chain(4000..4100)
        .chain(8880..=8972);
    let done = exact(&near, &far, jumbo);
    sh(&format!("ip link set {NIC} mtu 1500"))?;
    carrier(NIC, true)?;
    done?;
    ensure!(dma_faults()? == 0, "{:?}", log_lines("DMAR")?);
    Ok(())
}

fn sizes(host: &mut Host) -> Result<()> {
    let peer = Peer::with_ice(host, Mode::Full)?;
    reachable(host)?;
    everything(&peer)?;
    nothing_refused(host)
}

fn again(host: &mut Host) -> Result<()> {
    for _ in 0..2 {
        let _peer = Peer::with_ice(host, Mode::Full)?;
        reachable(host)?;
        unload()?;
    }
    nothing_refused(host)
}

/// The cable is pulled and plugged in again, twice.
fn link_goes_and_comes(host: &mut Host) -> Result<()> {
    for _ in 0..2 {
        host.set_link(NIC, false)?;
        carrier(NIC, false)?;
        host.set_link(NIC, true)?;
        carrier(NIC, true)?;
        reachable(host)?;
    }
    Ok(())
}

fn link(host: &mut Host) -> Result<()> {
    let _peer = Peer::with_ice(host, Mode::Full)?;
    reachable(host)?;
    link_goes_and_comes(host)?;
    nothing_refused(host)
}
