//! This project's own driver with the card's timestamps: what the daemon hands out carries the time of the card's clock, as `CLOCK_REALTIME`.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use devrx_client::{Attachment, Client, CompletionFlags};

use super::own::{attach, daemon, payload, peer, send};
use super::peer::Peer;
use super::test;
use super::tools::{Mode, NIC, dma_faults, must_fail, nothing_refused};
use crate::command::wait_for;
use crate::daemon::Daemon;
use crate::guest_tests::{Driver, Test};
use crate::inside::Host;

/// The tests of this file.
pub const TESTS: &[Test] =
    &[test("devrx_stamps_packets_by_the_cards_clock", stamps).igb(Driver::Vfio)];

/// How far a stamp may be off, nanoseconds: the clock is read by register accesses that QEMU carries to another process, up to a millisecond for one reading.
const OFF_BY: u64 = 2_000_000;
/// Packets of a check.
const PACKETS: usize = 20;

fn now() -> Result<u64> {
    Ok(u64::try_from(
        SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos(),
    )?)
}

/// A packet comes: whether its time is the card's, its time, and when that must lie.
fn one(peer: &Peer, attachment: &mut Attachment, number: usize) -> Result<(bool, u64, [u64; 2])> {
    let before = now()?;
    send(peer, 5000, vec![payload(number, 100)])?;
    let batch = attachment.recv(Some(Duration::from_secs(5)))?;
    let after = now()?;
    let mut packets = batch.packets();
    let packet = packets.next().context("a packet did not come")?;
    ensure!(packets.next().is_none(), "more than was sent");
    let by_card = packet.flags().contains(CompletionFlags::TIMESTAMP_HW);
    let time = packet.timestamp().context("no time")?;
    Ok((by_card, time, [before, after]))
}

/// Waits until packets carry the card's time: a reading of the clock that takes more than a millisecond is of no use, and the next is a second later.
fn begins(daemon: &Daemon, peer: &Peer) -> Result<()> {
    let mut attachment = Client::connect(daemon.socket())?.open("stamped")?;
    wait_for("the card's time", Duration::from_secs(10), || {
        Ok(one(peer, &mut attachment, 0)?.0)
    })
    .map(drop)
}

/// Each packet carries the card's time, which lies between the system's clock before it was sent and after it was received, and behind the one before.
fn stamped(daemon: &Daemon, peer: &Peer) -> Result<()> {
    let mut attachment = Client::connect(daemon.socket())?.open("stamped")?;
    let mut last = 0;
    for number in 0..PACKETS {
        let (by_card, time, [before, after]) = one(peer, &mut attachment, number)?;
        ensure!(by_card, "packet {number}: its time is software's");
        ensure!(
            before < time + OFF_BY && time < after + OFF_BY,
            "packet {number}: its time is {time}, it was sent after {before} and received before {after}"
        );
        ensure!(
            time > last,
            "packet {number}: it came before the one before it"
        );
        last = time;
    }
    Ok(())
}

fn stamps(host: &mut Host) -> Result<()> {
    let daemon = daemon(host, Mode::Full)?;
    let peer = peer(host)?;
    let line = "--name stamped --queue 0 --memory memfd --size 8388608 --chunk 2048 --flow udp,dst-port=5000 --timestamps nic";
    attach(host, &daemon, line)?;
    begins(&daemon, &peer)?;
    stamped(&daemon, &peer)?;
    nothing_refused(host)?;
    for fault in ["stamp-invalid", "stamp-of-other-timer"] {
        host.card(NIC, &format!("fault {fault}"))?;
        let noticed = must_fail(fault, stamped(&daemon, &peer));
        host.card(NIC, "fault none")?;
        noticed?;
        stamped(&daemon, &peer).with_context(|| format!("after {fault}"))?;
    }
    let log = daemon.log().len();
    host.card(NIC, "reset core")?;
    wait_for("the reset is noticed", Duration::from_secs(10), || {
        Ok(daemon.log()[log..].contains("whole card is being reset"))
    })?;
    wait_for("it can be attached again", Duration::from_secs(10), || {
        daemon.ok("detach stamped").ok();
        Ok(attach(host, &daemon, line).is_ok())
    })?;
    begins(&daemon, &peer)?;
    stamped(&daemon, &peer).context("after a reset of the core")?;
    daemon.ok("detach stamped")?;
    ensure!(dma_faults()? == 0, "DMA faults");
    Ok(())
}
