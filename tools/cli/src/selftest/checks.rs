//! What is checked, with the NIC open and in loopback.

use std::os::fd::AsFd;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use devrx_driver::{DriverError, Owned, QueueCounters, RxFlags, RxQueue, Transmit, Unsplit};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::frames::{self, SHAPES};
use super::report::Report;
use super::rig::{Manner, Packet, Rig, SLOT};
use crate::frame::Frame;

/// How long an interrupt may take, milliseconds.
const PATIENCE: u16 = 1000;
/// Frames of the last check.
const BURST: u16 = 2000;
/// How long the NIC's own counters may lag: the driver reads them every second.
const LAG: Duration = Duration::from_millis(2500);

const SPLIT: Manner = Manner {
    split: true,
    unsplit: Unsplit::Deliver,
    slot: SLOT,
};

/// Runs `part` on queue 0, open as `manner` says; answers with the queue's counters.
fn on_queue<N: Owned, T>(
    nic: &mut N,
    manner: Manner,
    part: impl FnOnce(&mut Rig<N>) -> Result<T>,
) -> Result<(T, QueueCounters)> {
    let mut rig = Rig::open(nic, 0, manner)?;
    rig.take_all(nic)?;
    let done = part(&mut rig);
    // Ended in any case; what went wrong first says more.
    let counters = rig.end(nic);
    Ok((done?, counters?))
}

/// Header split: a check for each shape of frames.
pub fn split<N: Owned>(
    nic: &mut N,
    sender: &mut N::Transmitter,
    report: &mut Report,
) -> Result<()> {
    let from = nic.station();
    for shape in SHAPES {
        let outcome = shape.frames(from).and_then(|frames| {
            let check = |rig: &mut Rig<N>| {
                for frame in &frames {
                    let packet = one(rig, sender, &frame.bytes)?;
                    in_place(&packet, frame)
                        .with_context(|| format!("a frame of {} bytes", frame.bytes.len()))?;
                }
                Ok(())
            };
            let ((), counters) = on_queue(nic, SPLIT, check)?;
            exact(&counters, frames.len() as u64)?;
            let header = frames.first().map_or(0, |frame| frame.header);
            let found = format!(
                "{} frames of up to {} bytes: {header} bytes of header in the slot, every byte of payload in the memory",
                frames.len(),
                frames::LONGEST
            );
            Ok((found, ()))
        });
        report.check(shape.name, outcome)?;
    }
    Ok(())
}

/// Sends one frame and takes it in.
fn one<N: Owned>(rig: &mut Rig<N>, sender: &mut N::Transmitter, frame: &[u8]) -> Result<Packet> {
    let mut packets = rig.exchange(sender, &[frame], 1)?;
    ensure!(
        packets.len() == 1,
        "a frame of {} bytes came back {} times",
        frame.len(),
        packets.len()
    );
    packets.pop().context("nothing came back")
}

/// The header in the slot, the payload in the memory, and no complaint about the checksums, which are right.
fn in_place(packet: &Packet, frame: &Frame) -> Result<()> {
    ensure!(
        packet.flags.contains(RxFlags::SPLIT) && packet.header.len() == frame.header,
        "the NIC split it behind {} bytes, not {}",
        packet.header.len(),
        frame.header
    );
    same("header", &packet.header, &frame.bytes[..frame.header])?;
    same("payload", &packet.payload, &frame.bytes[frame.header..])?;
    ensure!(
        !packet.flags.intersects(RxFlags::CSUM_BAD | RxFlags::ERROR),
        "the NIC finds its checksums wrong, or an error: {:?}",
        packet.flags
    );
    Ok(())
}

fn same(what: &str, got: &[u8], sent: &[u8]) -> Result<()> {
    ensure!(
        got.len() == sent.len(),
        "{} bytes of {what} instead of {}",
        got.len(),
        sent.len()
    );
    let at = got.iter().zip(sent).position(|(got, sent)| got != sent);
    ensure!(
        at.is_none(),
        "byte {} of the {what} is not as it was sent",
        at.unwrap_or(0)
    );
    Ok(())
}

/// Frames without a header to split off, under each policy; headers that are too long; and a queue that splits nothing.
pub fn policies<N: Owned>(
    nic: &mut N,
    sender: &mut N::Transmitter,
    report: &mut Report,
) -> Result<()> {
    let from = nic.station();
    let arp = frames::arp(from);
    let udp = SHAPES[0].frame(from, 1, 1000)?;
    // What the NIC takes for the header of a frame without IP.
    let head = nic.splits_without_ip();
    let whole = |packet: &Packet, header: usize| {
        same("header", &packet.header, &arp[..header])?;
        same("frame", &packet.payload, &arp[header..])
    };

    let outcome = on_queue(nic, SPLIT, |rig| whole(&one(rig, sender, &arp)?, head));
    let outcome = outcome.and_then(|((), counters)| {
        exact(&counters, 1)?;
        let unsplit = u64::from(head == 0);
        ensure!(
            counters.unsplit == unsplit,
            "{} frames were counted as unsplit, not {unsplit}",
            counters.unsplit
        );
        let found = match head {
            0 => "ARP: the whole frame in the memory".to_owned(),
            _ => format!("ARP: {head} bytes in the slot, the rest in the memory"),
        };
        Ok((found, ()))
    });
    report.check("unsplit_deliver", outcome)?;

    let dropping = Manner {
        unsplit: Unsplit::Drop,
        ..SPLIT
    };
    let dropped = u64::from(head == 0);
    let outcome = on_queue(nic, dropping, |rig| {
        let expected = if head == 0 { 1 } else { 2 };
        let mut packets = rig.exchange(sender, &[&arp, &udp.bytes], expected)?;
        ensure!(
            packets.len() == expected,
            "{} frames came, not {expected}",
            packets.len()
        );
        in_place(&packets.pop().context("none came")?, &udp)?;
        packets.iter().try_for_each(|packet| whole(packet, head))
    });
    let outcome = outcome.and_then(|((), counters)| {
        ensure!(
            counters.unsplit_drops == dropped && counters.received == 2 - dropped,
            "{counters:?}"
        );
        let found = if dropped == 1 {
            "ARP: dropped and counted, the frame behind it came"
        } else {
            "ARP: came, as it is split behind its Ethernet header"
        };
        Ok((found.to_owned(), ()))
    });
    report.check("unsplit_drop", outcome)?;

    let heading = Manner {
        unsplit: Unsplit::Header,
        ..SPLIT
    };
    let outcome = if head == 0 {
        on_queue(nic, heading, |rig| {
            let packet = one(rig, sender, &arp)?;
            same("frame", &[packet.header, packet.payload].concat(), &arp)?;
            in_place(&one(rig, sender, &udp.bytes)?, &udp)
        })
        .map(|_| "ARP: its first bytes in the header slot")
    } else {
        refused(Rig::open(nic, 0, heading)).map(|()| "refused, as this NIC has no such way")
    };
    report.check(
        "unsplit_header",
        outcome.map(|found| (found.to_owned(), ())),
    )?;

    // What igb's family does with these depends on the part.
    if head > 0 {
        let outcome = overflow(nic, sender);
        report.check("unsplit_overflow", outcome)?;
    }

    let together = Manner {
        split: false,
        ..SPLIT
    };
    let outcome = on_queue(nic, together, |rig| {
        let packet = one(rig, sender, &udp.bytes)?;
        ensure!(packet.header.is_empty(), "something is in the header slot");
        same("frame", &packet.payload, &udp.bytes)?;
        whole(&one(rig, sender, &arp)?, 0)
    });
    let outcome = outcome.map(|_| ("UDP and ARP: whole frames in the memory".to_owned(), ()));
    report.check("no_split", outcome)?;
    Ok(())
}

/// The configuration is one that the driver does not take.
fn refused<N: Owned>(opened: Result<Rig<N>>) -> Result<()> {
    let error = opened.err().context("the queue was opened")?;
    match error.downcast_ref() {
        Some(DriverError::BadConfig { .. }) => Ok(()),
        _ => Err(error),
    }
}

/// A header longer than its slot: the frame must be dropped and counted, since nobody knows where its header went.
fn overflow<N: Owned>(nic: &mut N, sender: &mut N::Transmitter) -> Result<(String, ())> {
    let from = nic.station();
    let small = Manner { slot: 64, ..SPLIT };
    // TCP with options: 66 bytes.
    let long = SHAPES[2].frame(from, 1, 1000)?;
    let udp = SHAPES[0].frame(from, 2, 1000)?;
    let ((), counters) = on_queue(nic, small, |rig| {
        let packets = rig.exchange(sender, &[&long.bytes, &udp.bytes], 1)?;
        ensure!(packets.len() == 1, "{} frames came, not 1", packets.len());
        in_place(&packets[0], &udp)
    })?;
    ensure!(
        counters.unsplit_drops == 1 && counters.received == 1,
        "{counters:?}"
    );
    let found = format!(
        "{} bytes of header for a slot of {}: dropped and counted, the frame behind it came",
        long.header, small.slot
    );
    Ok((found, ()))
}

/// Every queue's interrupt reaches this process, and a frame raises that of queue 0.
pub fn interrupts<N: Owned>(nic: &mut N, sender: &mut N::Transmitter) -> Result<(String, ())> {
    let from = nic.station();
    let frame = SHAPES[0].frame(from, 2, 100)?;
    on_queue(nic, SPLIT, |rig| {
        quiet(rig)?;
        sender.send(&frame.bytes)?;
        ensure!(
            woken(rig, PATIENCE.into())?,
            "a frame came without an interrupt"
        );
        let mut packets = Vec::new();
        rig.receive(&mut packets)?;
        ensure!(packets.len() == 1, "{} frames, not 1", packets.len());
        in_place(&packets[0], &frame)
    })?;
    for queue in 0..nic.queues() {
        let mut rig = Rig::open(nic, queue, SPLIT)?;
        let silent = quiet(&mut rig);
        nic.raise_interrupt(queue);
        let came = woken(&rig, PATIENCE.into());
        rig.end(nic)?;
        silent.with_context(|| format!("queue {queue}"))?;
        ensure!(came?, "the interrupt of queue {queue} does not arrive");
    }
    let found = format!(
        "a frame wakes a sleeper; those of all {} queues arrive",
        nic.queues()
    );
    Ok((found, ()))
}

/// Arms the queue's interrupt, and sees that it is silent. That of packets before may still come, once.
fn quiet<N: Owned>(rig: &mut Rig<N>) -> Result<()> {
    for _ in 0..3 {
        ensure!(rig.queue.arm(), "a queue without packets cannot sleep");
        std::thread::sleep(Duration::from_millis(5));
        if !woken(rig, PollTimeout::ZERO)? {
            return Ok(());
        }
        rig.receive(&mut Vec::new())?;
    }
    bail!("the interrupt comes again and again, without a frame")
}

fn woken<N: Owned>(rig: &Rig<N>, patience: PollTimeout) -> Result<bool> {
    let fd = rig.queue.wait_fd();
    let mut ready = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    Ok(poll(&mut ready, patience)? > 0)
}

/// Frames in bursts, all of which must come, in order; the queue's and the port's counters agree.
pub fn counters<N: Owned>(nic: &mut N, sender: &mut N::Transmitter) -> Result<(String, ())> {
    let from = nic.station();
    let frames: Vec<Frame> = (0..BURST)
        .map(|number| {
            let shape = SHAPES[usize::from(number) % SHAPES.len()];
            shape.frame(from, number, 18 + usize::from(number) % 1400)
        })
        .collect::<Result<_>>()?;
    let before = settled(nic)?;
    let sent: Vec<&[u8]> = frames.iter().map(|frame| frame.bytes.as_slice()).collect();
    let ((), counters) = on_queue(nic, SPLIT, |rig| {
        let packets = rig.exchange(sender, &sent, frames.len())?;
        ensure!(
            packets.len() == frames.len(),
            "{} of {BURST} frames came back",
            packets.len()
        );
        for (number, (packet, frame)) in packets.iter().zip(&frames).enumerate() {
            in_place(packet, frame).with_context(|| format!("frame {number}"))?;
        }
        Ok(())
    })?;
    exact(&counters, BURST.into())?;
    let start = std::time::Instant::now();
    let mut counted = 0;
    while counted < u64::from(BURST) && start.elapsed() < LAG {
        std::thread::sleep(Duration::from_millis(100));
        counted = nic.statistics()?.packets.saturating_sub(before);
    }
    ensure!(
        counted == u64::from(BURST),
        "the port counted {counted} of {BURST} frames"
    );
    Ok((
        format!("{BURST} frames, in order, each counted once by queue and port, none lost"),
        (),
    ))
}

/// The port's packets, once those of before have been counted.
fn settled<N: Owned>(nic: &N) -> Result<u64> {
    std::thread::sleep(LAG / 2);
    Ok(nic.statistics()?.packets)
}

/// So many packets received, and nothing else happened.
fn exact(counters: &QueueCounters, packets: u64) -> Result<()> {
    let dropped: u64 = counters.drops().iter().map(|(_, count)| count).sum();
    ensure!(
        counters.received == packets && dropped == 0 && counters.refused_chunks == 0,
        "{packets} frames were sent, and the queue counts {counters:?}"
    );
    ensure!(
        counters.exact,
        "the NIC reports that it lost frames, without saying how many"
    );
    Ok(())
}
