//! The numbers: every frame that was sent is in exactly one of them, and where that cannot be known, they say so.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;

use super::Test;
use crate::command::{Process, wait_for};
use crate::daemon::Daemon;
use crate::guest::machine::E810;
use crate::guest::message::Frames;
use crate::inside::Host;
use crate::inside::igb::{self, Kind, NIC, Wanted};
use crate::stats::Stats;
use crate::{frame, pcap};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::new("igb_every_frame_is_in_exactly_one_number", mixes).limit(60),
    Test::new(
        "igb_a_client_that_returns_nothing_holds_the_sender_up_and_loses_nothing",
        backpressure,
    )
    .limit(60),
    Test::new(
        "igb_frames_that_the_nic_loses_make_the_numbers_inexact",
        loss,
    )
    .limit(60),
];

/// The same on an E810.
pub const E810_TESTS: &[Test] = &[
    Test::new("e810_every_frame_is_in_exactly_one_number", mixes)
        .on(E810)
        .limit(60),
    Test::new("e810_frames_that_find_no_chunk_are_counted_exactly", loss)
        .on(E810)
        .limit(60),
];

const SOON: Duration = Duration::from_secs(10);

fn frames(port: u16, count: u64) -> Frames {
    Frames::Numbered {
        port,
        first: 0,
        count,
        payload: 600,
    }
}

/// Waits until the NIC's numbers name this many frames, and checks that they name no more.
fn settled(daemon: &Daemon, sent: u64) -> Result<Stats> {
    let mut stats = daemon.stats()?;
    let packets = |stats: &Stats| stats.0["nics"][0]["packets"].as_u64().context("no packets");
    // Port counters are read once a second.
    wait_for("all frames are counted", Duration::from_secs(4), || {
        stats = daemon.stats()?;
        Ok(packets(&stats)? >= sent)
    })
    .with_context(|| format!("{sent} were sent: {}", stats.0))?;
    ensure!(packets(&stats)? == sent, "{sent} were sent: {}", stats.0);
    stats.check(&[])?;
    Ok(stats)
}

/// Wanted, unwanted, unsplit, too long, too short; rule by rule and attachment by attachment.
fn mixes(host: &mut Host) -> Result<()> {
    let daemon = igb::daemon(host)?;
    let (nic_id, e810) = (igb::nic(host), igb::is_e810(host));
    let mac = host.machine().nic(nic_id).context("no NIC")?.mac();
    // An E810 drops what no rule brings anywhere, and no counter says so: with a rule that it cannot look up by itself, all comes to the queue.
    let more = if e810 {
        "--queue 0 --flow udp,dst-port=5000 --flow vlan=7 --unsplit drop --ring 2048"
    } else {
        "--queue 0 --flow udp,dst-port=5000 --unsplit drop"
    };
    // What has no EtherType that anybody knows: an E810 splits it behind the Ethernet header, and then no rule wants it.
    let per_round = if e810 {
        [1000, 537, 0]
    } else {
        [1000, 500, 37]
    };
    let mut sent = 0;
    let mut want = [0; 4];
    for (round, kind) in [Kind::Udmabuf, Kind::Bar, Kind::Memfd]
        .into_iter()
        .enumerate()
    {
        let wanted = Wanted {
            name: "mix",
            kind,
            // All of a round have room together: an E810 holds nobody up.
            chunks: 2048,
            chunk: 2048,
            more,
        };
        wanted.attach(host, &daemon)?;
        let recv = daemon.recv("mix", "--count 1000 --timeout 15")?;
        let both = Frames::Mixed(vec![
            frames(5000, 500),
            frames(5001, 500),
            frames(5000, 500),
        ]);
        host.inject(nic_id, both, None)?;
        sent += host.injected(nic_id, SOON)?;
        // No EtherType that anybody knows; longer than the NIC takes (RLPML); shorter than the shortest.
        let other = |length: usize| {
            let mut frame = frame::numbered_to(mac, 5000, 0, length - frame::HEADERS);
            frame[12..14].copy_from_slice(&[0x88, 0xb5]);
            frame
        };
        let mut list = vec![other(500); 30];
        list.extend(vec![other(9800); 5]);
        list.extend(vec![other(50); 7]);
        host.inject_frames(nic_id, &list, None)?;
        sent += host.injected(nic_id, SOON)?;
        let output = recv.wait(SOON)?;
        ensure!(output.status.success(), "{output:?}");
        // QEMU's model of the 82576 counts frames that are too long nowhere, silicon does (82576 datasheet 8.19.38, ROC), and so does an E810 (GLPRT_ROC).
        let long = 5 * (round as u64 + 1);
        let counted = if e810 {
            long
        } else {
            let counted = daemon.stats()?.0["nics"][0]["drops"]["oversize"].as_u64();
            counted.unwrap_or(0)
        };
        let too_long = long - counted;
        let stats = settled(&daemon, sent - too_long)?;
        let nic = &stats.0["nics"][0];
        println!("round {round}, {kind:?}: {sent} sent, {too_long} of them too long: {nic}");
        for (count, more) in want.iter_mut().zip(per_round) {
            *count += more;
        }
        want[3] = counted;
        let queue = stats.queue(0)?;
        let have = [
            queue.count("delivered")?,
            queue.dropped("unwanted"),
            queue.dropped("unsplit"),
            nic["drops"]["oversize"].as_u64().unwrap_or(0),
        ];
        ensure!(
            have == want && nic["exact"] == true,
            "delivered, unwanted, unsplit and oversize should be {want:?}, they are {have:?}: {}",
            stats.0
        );
        daemon.detach("mix")?;
        settled(&daemon, sent - too_long)?;
    }
    Ok(())
}

/// One ring that is empty: nothing is lost, the sender waits; and goes on as chunks come back.
fn backpressure(host: &mut Host) -> Result<()> {
    const COUNT: u64 = 3000;
    const CHUNKS: u64 = 256;
    let daemon = igb::daemon(host)?;
    let mac = host.machine().nic(NIC).context("no NIC")?.mac();
    let wanted = Wanted {
        name: "slow",
        kind: Kind::Udmabuf,
        chunks: CHUNKS as u32,
        chunk: 2048,
        more: "--queue 0 --flow any",
    };
    wanted.attach(host, &daemon)?;
    let (recv, file) = daemon.recv_pcap("slow", COUNT as usize, 30)?;
    recv.signal(Signal::SIGSTOP)?;
    host.inject(NIC, frames(5000, COUNT), None)?;
    wait_for("the client holds everything", SOON, || {
        Ok(daemon.stats()?.attachment("slow")?.count("delivered")? >= CHUNKS)
    })?;
    std::thread::sleep(Duration::from_millis(300));
    let (taken, running) = host.injection(NIC)?;
    let stats = daemon.stats()?;
    let queue = stats.queue(0)?;
    println!("of {COUNT} frames QEMU took {taken}: {}", queue.json());
    ensure!(
        running && taken < COUNT / 2,
        "the sender was not held up: {taken}"
    );
    ensure!(
        queue.count("delivered")? == CHUNKS && queue.drops()? == 0,
        "{}",
        queue.json()
    );
    recv.signal(Signal::SIGCONT)?;
    host.injected(NIC, SOON)?;
    let output = recv.wait(Duration::from_secs(20))?;
    let got = pcap::read(&file)?;
    for (want, bytes) in (0..).zip(&got) {
        let number = frame::check_to(mac, bytes, 5000)?;
        ensure!(
            number == want,
            "frame {want} is missing, next came {number}"
        );
    }
    ensure!(
        got.len() as u64 == COUNT && output.status.success(),
        "{} arrived: {output:?}",
        got.len()
    );
    let stats = settled(&daemon, COUNT)?;
    ensure!(stats.queue(0)?.count("delivered")? == COUNT, "{}", stats.0);
    daemon.detach_and_check("slow")?;
    Ok(())
}

/// A ring that is empty beside one that is not: QEMU's NIC drops, counts nothing, and raises the overrun.
fn loss(host: &mut Host) -> Result<()> {
    const COUNT: u64 = 1000;
    let daemon = igb::daemon(host)?;
    let (full, free) = (
        Wanted {
            name: "full",
            kind: Kind::Udmabuf,
            chunks: 64,
            chunk: 2048,
            more: "--queue 0 --flow any",
        },
        Wanted {
            name: "free",
            kind: Kind::Memfd,
            chunks: 512,
            chunk: 2048,
            more: "--queue 1 --flow dst-mac=02:00:00:00:00:77",
        },
    );
    full.attach(host, &daemon)?;
    free.attach(host, &daemon)?;
    ensure!(
        daemon.stats()?.0["nics"][0]["exact"] == true,
        "inexact before anything was lost"
    );
    let nic = igb::nic(host);
    let recv = daemon.recv("full", "--timeout 20")?;
    recv.signal(Signal::SIGSTOP)?;
    host.inject(nic, frames(5000, COUNT), Some(4000))?;
    let sent = host.injected(nic, SOON)?;
    let mut stats = daemon.stats()?;
    if igb::is_e810(host) {
        counted(&daemon, COUNT)?;
        return goes_on(host, &daemon, &recv, COUNT - 64);
    }
    wait_for("the overrun is seen", Duration::from_secs(4), || {
        stats = daemon.stats()?;
        Ok(stats.0["nics"][0]["exact"] == false)
    })
    .with_context(|| format!("{}", stats.0))?;
    println!("{sent} sent: {}", stats.0["queues"]);
    println!("nic: {}", stats.0["nics"]);
    let queue = stats.queue(0)?;
    let named = queue.count("delivered")? + queue.drops()?;
    ensure!(
        sent == COUNT && named <= sent && queue.count("packets")? == named,
        "{sent} were sent: {}",
        queue.json()
    );
    ensure!(
        queue.count("delivered")? == 64 && queue.json()["exact"] == false,
        "{}",
        queue.json()
    );
    let log = daemon.log();
    let line = log
        .lines()
        .find(|line| line.contains("overrun") || line.contains("lost"));
    println!(
        "the log: {}",
        line.context("the overrun is not in the log")
            .with_context(|| log.clone())?
    );
    goes_on(host, &daemon, &recv, queue.drops()?)
}

/// What an E810 had no descriptor for is counted for each VSI (GLV_RDPC), and an attachment has a VSI of its own: the numbers stay exact.
fn counted(daemon: &Daemon, sent: u64) -> Result<()> {
    let stats = settled(daemon, sent)?;
    println!("{sent} sent: {}", stats.0["queues"]);
    let (full, free) = (stats.queue(0)?, stats.queue(1)?);
    let have = [
        full.count("delivered")?,
        full.dropped("no_descriptor"),
        full.drops()?,
        free.count("packets")?,
    ];
    let want = [64, sent - 64, sent - 64, 0];
    ensure!(
        have == want,
        "delivered, no_descriptor and drops of one queue, and packets of the other should be {want:?}, they are {have:?}: {}",
        stats.0
    );
    Ok(())
}

/// It goes on all the same once chunks come back, and no more is lost.
fn goes_on(host: &mut Host, daemon: &Daemon, recv: &Process, drops: u64) -> Result<()> {
    let nic = igb::nic(host);
    recv.signal(Signal::SIGCONT)?;
    wait_for("the client gives back", SOON, || {
        Ok(daemon.stats()?.attachment("full")?.count("with_client")? == 0)
    })?;
    host.inject(nic, frames(5000, 40), None)?;
    host.injected(nic, SOON)?;
    wait_for("it goes on", Duration::from_secs(5), || {
        Ok(daemon.stats()?.queue(0)?.count("delivered")? >= 64 + 40)
    })?;
    let queue = daemon.stats()?.queue(0)?;
    ensure!(queue.drops()? == drops, "{}", queue.json());
    Ok(())
}
