//! Queues beside each other: what is done to one, the other does not notice.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::Test;
use crate::command::wait_for;
use crate::daemon::Daemon;
use crate::guest::machine::E810;
use crate::guest::message::Frames;
use crate::inside::Host;
use crate::inside::igb::{self, Kind, Wanted};
use crate::{frame, pcap};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::new(
        "igb_the_queue_of_an_address_loses_nothing_while_its_neighbour_changes",
        by_address,
    )
    .limit(90),
    Test::new(
        "igb_the_queue_of_everything_loses_nothing_while_its_neighbour_changes",
        by_default,
    )
    .limit(90),
    Test::new("igb_a_hash_spreads_packets_and_all_of_them_arrive", by_hash).limit(60),
];

/// The same on an E810, which holds no sender up: steady queues have rings that hold two seconds of the flood.
pub const E810_TESTS: &[Test] = &[
    Test::new(
        "e810_the_queue_of_an_address_loses_nothing_while_its_neighbour_changes",
        by_address,
    )
    .on(E810)
    .limit(90),
    Test::new(
        "e810_the_queue_of_a_port_loses_nothing_while_its_neighbour_changes",
        by_default,
    )
    .on(E810)
    .limit(90),
    Test::new(
        "e810_a_hash_spreads_packets_and_all_of_them_arrive",
        by_hash,
    )
    .on(E810)
    .limit(60),
];

/// An address that only a rule knows.
const OTHER: [u8; 6] = [2, 0, 0, 0, 0, 0x77];
const OTHER_RULE: &str = "dst-mac=02:00:00:00:00:77";
/// Frames to each of both, at a time.
const FRAMES: u64 = 4000;
/// How often the neighbour is changed, at least.
const ROUNDS: usize = 6;
/// Frames a second, of both together.
const RATE: u32 = 4000;
/// UDP payload bytes of a frame.
const PAYLOAD: usize = 500;

fn by_address(host: &mut Host) -> Result<()> {
    let own = host.machine().nic(igb::nic(host)).context("no NIC")?.mac();
    churn(
        host,
        [("--queue 1", OTHER_RULE, OTHER), ("--queue 0", "any", own)],
    )
}

fn by_default(host: &mut Host) -> Result<()> {
    let own = host.machine().nic(igb::nic(host)).context("no NIC")?.mac();
    churn(
        host,
        [
            // An 82576 brings it the frames to the other address too, when nobody else takes them.
            ("--queue 0", "udp,dst-port=5000", own),
            ("--queue 1", OTHER_RULE, OTHER),
        ],
    )
}

/// The first queue receives a numbered flood, every frame of it. The second is attached and detached all the while, with memory of another
/// kind each time.
fn churn(host: &mut Host, queues: [(&str, &str, [u8; 6]); 2]) -> Result<()> {
    let daemon = igb::daemon(host)?;
    let [(queue, rule, steady), (other_queue, other_rule, other)] = queues;
    let more = format!("{queue} --flow {rule} --ring 4096");
    let wanted = Wanted {
        name: "steady",
        kind: Kind::Memfd,
        chunks: 8192,
        chunk: 2048,
        more: &more,
    };
    wanted.attach(host, &daemon)?;
    let file = daemon.folder().join("steady.pcap");
    let recv = daemon.recv("steady", &format!("--pcap {}", file.display()))?;
    let flood = |mac, port, first| Frames::NumberedTo {
        mac,
        port,
        first,
        count: FRAMES,
        payload: PAYLOAD,
    };
    let more = format!("{other_queue} --flow {other_rule}");
    let mut kinds = vec![
        Kind::Memfd,
        Kind::Udmabuf,
        Kind::Bar,
        Kind::Vram,
        Kind::Hugetlb,
    ];
    kinds.retain(|kind| *kind != Kind::Vram || host.machine().qxl);
    let nic = igb::nic(host);
    let (mut rounds, mut sent) = (0, 0);
    while rounds < ROUNDS {
        let mixed = vec![flood(steady, 5000, sent), flood(other, 6000, sent)];
        host.inject(nic, Frames::Mixed(mixed), Some(RATE))?;
        while host.injection(nic)?.1 {
            let kind = kinds[rounds % kinds.len()];
            one_round(host, &daemon, kind, &more)
                .with_context(|| format!("round {rounds}, {kind:?}"))?;
            rounds += 1;
        }
        let taken = host.injected(nic, Duration::from_secs(1))?;
        ensure!(taken == 2 * FRAMES, "{taken} were sent");
        sent += FRAMES;
    }
    let mut stats = daemon.stats()?;
    wait_for("everything is received", Duration::from_secs(5), || {
        stats = daemon.stats()?;
        Ok(stats.attachment("steady")?.count("returned")? >= sent)
    })
    .ok();
    recv.signal(Signal::SIGINT)?;
    let output = recv.wait(Duration::from_secs(10))?;
    let frames = pcap::read(&file)?;
    for (want, bytes) in (0..).zip(&frames) {
        let number = frame::check_to(steady, bytes, 5000)?;
        ensure!(
            number == want,
            "frame {want} is missing, next came {number}: {}",
            stats.0
        );
    }
    ensure!(
        frames.len() as u64 == sent,
        "{} of {sent} arrived: {output:?}, {}",
        frames.len(),
        stats.0
    );
    println!(
        "{rounds} rounds of attaching, receiving and detaching beside {sent} frames, all of which arrived, in order"
    );
    daemon.detach("steady")?;
    Ok(())
}

/// Attach, receive some, detach. Frames sent while nothing is attached are nobody's.
fn one_round(host: &mut Host, daemon: &Daemon, kind: Kind, more: &str) -> Result<()> {
    let wanted = Wanted {
        name: "changing",
        kind,
        chunks: 1024,
        chunk: 2048,
        more,
    };
    let (mut attachment, memory) = wanted.attach_and_open(host, daemon)?;
    // At the flood's end nothing more may come.
    if let Ok((delivered, held)) = igb::collect(&mut attachment, 50, Duration::from_secs(2)) {
        let packet = &delivered[49];
        let mut bytes = packet.header.clone();
        for &(offset, length) in &packet.payload {
            bytes.extend(memory.read(host, offset, length)?);
        }
        let mac: [u8; 6] = bytes[..6].try_into()?;
        frame::check_to(mac, &bytes, 6000)?;
        attachment.give_back(held)?;
    }
    drop(attachment);
    daemon.detach("changing")?;
    Ok(())
}

/// Sixteen flows over four queues.
fn by_hash(host: &mut Host) -> Result<()> {
    const FLOWS: u16 = 16;
    const EACH: u64 = 100;
    // The hash is linear: neighbouring ports would differ in few of its bits.
    let port_of = |flow: u16| 7000 + flow * 1237;
    let daemon = igb::daemon(host)?;
    let wanted = Wanted {
        name: "hash",
        kind: Kind::Udmabuf,
        chunks: 4096,
        chunk: 2048,
        more: "--queue 0-3 --flow any",
    };
    let (mut attachment, memory) = wanted.attach_and_open(host, &daemon)?;
    let flows = (0..FLOWS).map(|flow| Frames::Numbered {
        port: port_of(flow),
        first: 0,
        count: EACH,
        payload: 200,
    });
    host.inject(igb::nic(host), Frames::Mixed(flows.collect()), Some(RATE))?;
    let count = usize::from(FLOWS) * EACH as usize;
    let (delivered, held) = igb::collect(&mut attachment, count, Duration::from_secs(10))?;
    let mac = host.machine().nic(igb::nic(host)).context("no NIC")?.mac();
    let mut next = [0; FLOWS as usize];
    let mut queue_of = [None; FLOWS as usize];
    for packet in &delivered {
        let mut bytes = packet.header.clone();
        for &(offset, length) in &packet.payload {
            bytes.extend(memory.read(host, offset, length)?);
        }
        let port = u16::from_be_bytes([bytes[36], bytes[37]]);
        let flow = (0..FLOWS).find(|&flow| port_of(flow) == port);
        let flow = usize::from(flow.with_context(|| format!("port {port}"))?);
        let number = frame::check_to(mac, &bytes, port)?;
        ensure!(
            number == next[flow],
            "flow {flow}: {number} came where {} was due",
            next[flow]
        );
        next[flow] += 1;
        ensure!(
            *queue_of[flow].get_or_insert(packet.queue) == packet.queue,
            "flow {flow} came to two queues"
        );
        ensure!(
            packet.flags.contains(devrx_client::CompletionFlags::HASH),
            "{:?}",
            packet.flags
        );
    }
    attachment.give_back(held)?;
    ensure!(next.iter().all(|&next| next == EACH), "{next:?}");
    let stats = daemon.check_sums()?;
    let mut spread = Vec::new();
    for queue in 0..4 {
        spread.push(stats.queue(queue)?.count("delivered")?);
    }
    println!("{FLOWS} flows of {EACH} over four queues: {spread:?}");
    ensure!(spread.iter().all(|&packets| packets > 0), "{spread:?}");
    drop(attachment);
    daemon.detach_and_check("hash")?;
    Ok(())
}
