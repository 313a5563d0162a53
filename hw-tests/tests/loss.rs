//! Where packets are lost, every one of them is in the numbers, under its reason.

use std::time::Duration;

use anyhow::{Result, ensure};
use devrx_hw_tests::daemon::Daemon;
use devrx_hw_tests::link::{Link, LinkSpec};
use devrx_hw_tests::sender::{Sender, Traffic};
use devrx_hw_tests::stats::Entry;
use devrx_hw_tests::{frame, lane, pcap};
use nix::sys::signal::Signal;

/// A flood of `port` for half a second; how many packets the sender's interface took.
fn flood(link: &Link, port: u16) -> Result<u64> {
    let sender = Sender::start(link, Traffic::flood(port))?;
    std::thread::sleep(Duration::from_millis(500));
    sender.stop()
}

fn added(after: &Entry, before: Option<&Entry>, key: &str) -> Result<u64> {
    Ok(after.count(key)? - before.map_or(Ok(0), |entry| entry.count(key))?)
}

#[test]
fn a_client_that_never_returns_chunks_starves_only_itself_and_the_sum_holds() {
    lane::test(|| {
        let link = Link::new(LinkSpec::default())?;
        let daemon = Daemon::start(&link)?;
        daemon.attach("starved", "0", 256, 4096, &["udp,dst-port=5000"])?;
        let stopped = daemon.recv("starved", "")?;
        stopped.signal(Signal::SIGSTOP)?;
        let count = 5000;
        let sent = Sender::start(&link, Traffic::paced(5000, count, 25_000))?.finish()?;
        let stats = daemon.check_sums()?;
        let queue = stats.queue(0)?;
        ensure!(
            queue.count("packets")? == sent,
            "{sent} were sent: {}",
            queue.json()
        );
        ensure!(
            queue.count("delivered")? <= 256,
            "more packets than chunks: {}",
            queue.json()
        );
        ensure!(
            queue.count("delivered")? >= 200,
            "chunks were left unused: {}",
            queue.json()
        );
        let (starved, pool) = (queue.dropped("no_descriptor"), queue.dropped("pool_empty"));
        ensure!(
            starved + pool > 4000,
            "lost for want of chunks, counted otherwise: {}",
            queue.json()
        );
        // Once it goes on, so does the queue.
        stopped.signal(Signal::SIGCONT)?;
        std::thread::sleep(Duration::from_millis(200));
        let before = daemon.check_sums()?.queue(0)?;
        Sender::start(&link, Traffic::paced(5000, 500, 5000))?.finish()?;
        let after = daemon.check_sums()?.queue(0)?;
        ensure!(
            added(&after, Some(&before), "delivered")? == 500,
            "before {}, after {}",
            before.json(),
            after.json()
        );
        drop(stopped);
        let stats = daemon.detach_and_check("starved")?;
        ensure!(
            stats.attachment("starved")?.count("delivered")?
                == stats.queue(0)?.count("delivered")?
        );
        Ok(())
    });
}

#[test]
fn tiny_regions_under_a_flood_lose_packets_and_count_each() {
    lane::test(|| {
        let link = Link::new(LinkSpec::default())?;
        let daemon = Daemon::start(&link)?;
        for (chunks, chunk) in [(8, 4096), (64, 2048), (64, 4096)] {
            let before = daemon.stats()?.queue(0).ok();
            daemon.attach("tiny", "0", chunks, chunk, &["udp,dst-port=5000"])?;
            let client = daemon.recv("tiny", "")?;
            let sent = flood(&link, 5000)?;
            let after = daemon.check_sums()?.queue(0)?;
            let (packets, delivered) = (
                added(&after, before.as_ref(), "packets")?,
                added(&after, before.as_ref(), "delivered")?,
            );
            // What veth's own queue had no room for never reached XDP.
            ensure!(
                packets <= sent && packets > 1000,
                "{packets} of {sent} were counted"
            );
            ensure!(
                delivered > 100,
                "{chunks} chunks delivered {delivered} of {packets}"
            );
            drop(client);
            daemon.detach_and_check("tiny")?;
        }
        Ok(())
    });
}

/// What is delivered under a flood is whole and in order, whatever is lost between.
#[test]
fn what_arrives_under_a_flood_is_undamaged_and_in_order() {
    lane::test(|| {
        let link = Link::new(LinkSpec::default())?;
        let daemon = Daemon::start(&link)?;
        for (payload, chunk, chunks) in [(1000, 4096, 128), (8900, 2048, 128)] {
            daemon.attach("flood", "0", chunks, chunk, &["udp,dst-port=5000"])?;
            let (recv, file) = daemon.recv_pcap("flood", 5000, 2)?;
            let sender = Sender::start(
                &link,
                Traffic {
                    payload,
                    ..Traffic::flood(5000)
                },
            )?;
            recv.wait(Duration::from_secs(6))?;
            sender.stop()?;
            let frames = pcap::read(&file)?;
            ensure!(
                frames.len() > 100,
                "only {} frames of {payload} bytes arrived",
                frames.len()
            );
            let mut next = 0;
            for bytes in &frames {
                ensure!(
                    bytes.len() == frame::HEADERS + payload,
                    "a frame of {} bytes",
                    bytes.len()
                );
                let number = frame::check(bytes, 5000)?;
                ensure!(number >= next, "{number} came after {next}");
                next = number + 1;
            }
            daemon.detach_and_check("flood")?;
        }
        Ok(())
    });
}

/// In copy mode the kernel copies each payload byte once, and says so; headers are split off and not counted.
#[test]
fn copied_payload_is_counted() {
    lane::test(|| {
        let link = Link::new(LinkSpec::default())?;
        let daemon = Daemon::start(&link)?;
        daemon.attach("copy", "0", 512, 4096, &["udp,dst-port=5000"])?;
        let (recv, _) = daemon.recv_pcap("copy", 300, 5)?;
        Sender::start(&link, Traffic::paced(5000, 300, 5000))?.finish()?;
        recv.wait(Duration::from_secs(8))?;
        let stats = daemon.detach_and_check("copy")?;
        let (copied, bytes) = (
            stats.attachment("copy")?.count("payload_bytes_copied")?,
            stats.queue(0)?.count("bytes")?,
        );
        ensure!(
            copied == 300 * 600,
            "payload_bytes_copied is {copied}, the payload {}",
            300 * 600
        );
        ensure!(
            bytes == 300 * (600 + frame::HEADERS as u64),
            "bytes is {bytes}"
        );
        Ok(())
    });
}

/// `--timeout` is kept also while packets keep coming.
#[test]
fn recv_ends_in_time_under_a_flood() {
    lane::test(|| {
        let link = Link::new(LinkSpec::default())?;
        let daemon = Daemon::start(&link)?;
        daemon.attach("timed", "0", 512, 4096, &["any"])?;
        let sender = Sender::start(&link, Traffic::flood(5000))?;
        let recv = daemon.recv("timed", "--timeout 1 --json")?;
        let output = recv.wait(Duration::from_secs(3))?;
        sender.stop()?;
        let packets = output.json()?["packets"].as_u64().unwrap_or(0);
        ensure!(output.status.success() && packets > 1000, "{output:?}");
        daemon.detach_and_check("timed")?;
        Ok(())
    });
}
