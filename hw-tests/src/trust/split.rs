//! Header and payload part where they should: a probe in the kernel says how long the header was.

use anyhow::{Result, ensure};

use super::linux::{exact, ordinary, reachable, sockets};
use super::peer::Peer;
use super::test;
use super::tools::{Mode, NIC, Probe, carrier, dma_faults, ethtool, log_lines, nothing_refused};
use crate::command::sh;
use crate::guest_tests::Test;
use crate::inside::Host;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    test("linux_ice_splits_headers_from_payload", splits),
    test("linux_ice_splits_jumbo_frames", jumbo),
];

/// Bytes of an Ethernet header, and of a frame with ARP, which is as long as the shortest.
const ETHERNET: u64 = 14;
const UNSPLIT_ARP: u64 = 60;
/// Bytes of Ethernet, IPv4 and UDP headers.
const UDP: u64 = 42;
/// Bytes of Ethernet and IPv4 headers.
const IP: u64 = 34;

/// Switches header split.
pub(super) fn switch(on: bool) -> Result<()> {
    let way = if on { "on" } else { "off" };
    let now = ethtool(&format!("-g {NIC}"))?;
    let is = now
        .lines()
        .rev()
        .find(|line| line.starts_with("TCP data split:"));
    if !is.is_some_and(|line| line.ends_with(way)) {
        ethtool(&format!("-G {NIC} tcp-data-split {way}"))?;
        carrier(NIC, true)?;
    }
    Ok(())
}

/// What the probe sees of UDP datagrams of these sizes is this.
pub(super) fn header_is(
    peer: &Peer,
    probe: &Probe,
    sizes: &[usize],
    expected: impl Fn(usize) -> u64,
) -> Result<()> {
    let (near, far) = sockets(peer)?;
    probe.lengths()?;
    for &size in sizes {
        exact(&near, &far, std::iter::once(size))?;
        let mut seen = probe.lengths()?;
        // ARP, split behind Ethernet's header: Linux asks when it likes.
        seen.retain(|length| *length != ETHERNET && *length != UNSPLIT_ARP);
        ensure!(
            seen == [expected(size)],
            "a datagram of {size} bytes: the probe saw {seen:?}, expected {}",
            expected(size)
        );
    }
    Ok(())
}

/// Sizes of datagrams that split frames are checked with.
pub(super) const SIZES: [usize; 6] = [19, 64, 256, 700, 1000, 1472];

fn splits(host: &mut Host) -> Result<()> {
    let peer = Peer::with_ice(host, Mode::Full)?;
    switch(false)?;
    reachable(host)?;
    let probe = Probe::new()?;
    header_is(&peer, &probe, &SIZES, |size| UDP + size as u64)?;
    switch(true)?;
    let done = (|| {
        header_is(&peer, &probe, &SIZES, |_| UDP)?;
        // Five answers to five requests: IP is split from what it carries, since the hardware knows no deeper header here.
        probe.lengths()?;
        reachable(host)?;
        let seen = probe.lengths()?;
        let pings = seen.iter().filter(|length| **length == IP).count();
        ensure!(pings >= 5, "pings were split at {seen:?}");
        let (near, far) = sockets(&peer)?;
        exact(&near, &far, ordinary())
    })();
    switch(false)?;
    done?;
    ensure!(dma_faults()? == 0, "{:?}", log_lines("DMAR")?);
    nothing_refused(host)
}

fn jumbo(host: &mut Host) -> Result<()> {
    let peer = Peer::with_ice(host, Mode::Full)?;
    switch(true)?;
    sh(&format!("ip link set {NIC} mtu 9000"))?;
    carrier(NIC, true)?;
    let done = (|| {
        let probe = Probe::new()?;
        header_is(&peer, &probe, &[100, 3000, 6000, 8972], |_| UDP)?;
        let (near, far) = sockets(&peer)?;
        exact(&near, &far, (1..=8900).step_by(331).chain(8900..=8972))
    })();
    sh(&format!("ip link set {NIC} mtu 1500"))?;
    carrier(NIC, true)?;
    switch(false)?;
    done?;
    nothing_refused(host)
}
