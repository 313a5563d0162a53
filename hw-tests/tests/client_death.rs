//! A client that is killed costs only its own queue, and that only for a moment.

use std::time::{Duration, Instant};

use anyhow::ensure;
use devrx_hw_tests::command::wait_for;
use devrx_hw_tests::daemon::Daemon;
use devrx_hw_tests::link::{Link, LinkSpec};
use devrx_hw_tests::neighbour::Neighbour;
use devrx_hw_tests::sender::{Sender, Traffic};
use devrx_hw_tests::{frame, lane, pcap};
use nix::sys::signal::Signal;

#[test]
fn a_killed_clients_chunks_come_back_and_its_neighbour_loses_nothing() {
    lane::test(|| {
        let link = Link::new(LinkSpec {
            queues: 2,
            ..LinkSpec::default()
        })?;
        let daemon = Daemon::start(&link)?;
        daemon.attach("victim", "0", 512, 4096, &["udp,dst-port=5000"])?;
        let neighbour = Neighbour::start(&daemon, &link, 4)?;
        let flood = Sender::start(&link, Traffic::flood(5000).on(0))?;

        for round in 0..4 {
            let victim = daemon.recv("victim", "")?;
            let delivered = daemon.stats()?.attachment("victim")?.count("delivered")?;
            wait_for("packets reach the client", Duration::from_secs(2), || {
                Ok(daemon.stats()?.attachment("victim")?.count("delivered")? > delivered + 1000)
            })?;
            // Killed as it runs, or stopped first: then it soon holds every chunk, and all of them must come back or the queue is
            // dead.
            if round % 2 == 0 {
                victim.signal(Signal::SIGSTOP)?;
                wait_for(
                    "the stopped client holds chunks",
                    Duration::from_secs(2),
                    || Ok(daemon.stats()?.attachment("victim")?.count("with_client")? > 400),
                )?;
            }
            let killed = Instant::now();
            victim.signal(Signal::SIGKILL)?;
            drop(victim);
            // Under the flood the ring fills again at once for whoever comes next, so the proof is a new client that receives.
            let next = daemon.recv("victim", "--count 2000 --timeout 5 --json")?;
            let output = next.wait(Duration::from_secs(6))?;
            let took = killed.elapsed();
            ensure!(
                output.status.success(),
                "round {round}: the next client failed: {output:?}"
            );
            ensure!(
                took < Duration::from_secs(1),
                "round {round}: the queue was reusable only after {took:?}"
            );
        }
        ensure!(flood.stop()? > 10_000, "the flood was none");
        neighbour.finish(&daemon)?;
        daemon.detach_and_check("victim")?;
        Ok(())
    });
}

#[test]
fn without_traffic_a_killed_clients_chunks_come_back_within_a_second() {
    lane::test(|| {
        let link = Link::new(LinkSpec::default())?;
        let daemon = Daemon::start(&link)?;
        daemon.attach("victim", "0", 512, 4096, &["any"])?;
        let victim = daemon.recv("victim", "")?;
        victim.signal(Signal::SIGSTOP)?;
        let sent = Sender::start(&link, Traffic::paced(5000, 2000, 50_000))?.finish()?;
        let entry = daemon.check_sums()?.attachment("victim")?;
        ensure!(
            entry.count("with_client")? > 400,
            "the client holds too little: {}",
            entry.json()
        );
        ensure!(
            entry.drops()? > 0,
            "{sent} packets into 512 chunks without loss: {}",
            entry.json()
        );
        victim.signal(Signal::SIGKILL)?;
        let took = wait_for("the chunks come back", Duration::from_secs(1), || {
            Ok(daemon.stats()?.attachment("victim")?.count("with_client")? == 0)
        })?;
        drop(victim);
        let (next, file) = daemon.recv_pcap("victim", 2000, 5)?;
        Sender::start(&link, Traffic::paced(5000, 2000, 10_000))?.finish()?;
        next.wait(Duration::from_secs(6))?;
        let frames = pcap::read(&file)?;
        for (number, bytes) in frames.iter().enumerate() {
            ensure!(
                frame::check(bytes, 5000)? == number as u64,
                "after {took:?}: frame {number} is missing"
            );
        }
        ensure!(
            frames.len() == 2000,
            "the next client got {} of 2000",
            frames.len()
        );
        daemon.detach_and_check("victim")?;
        Ok(())
    });
}
