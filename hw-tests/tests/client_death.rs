//! A client that is killed costs only its own queue, and that only for a moment.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use devrx_hw_tests::command::wait_for;
use devrx_hw_tests::daemon::Daemon;
use devrx_hw_tests::inside::consumer::{self, Own};
use devrx_hw_tests::inside::igb::Memory;
use devrx_hw_tests::link::{Link, LinkSpec, NEAR_IF};
use devrx_hw_tests::neighbour::Neighbour;
use devrx_hw_tests::sender::{Sender, Traffic};
use devrx_hw_tests::{frame, holders, lane, pcap};
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

/// Who dies owns the memory that is received into. The attachment ends with its client: the queue first, then the memory, which after that is nobody's.
#[test]
fn memory_of_a_killed_client_goes_after_its_queue_and_its_neighbour_loses_nothing() {
    const SIZE: u64 = 2 << 20;
    lane::test(|| {
        let link = Link::new(LinkSpec {
            queues: 2,
            ..LinkSpec::default()
        })?;
        let mut daemon = Daemon::start(&link)?;
        let neighbour = Neighbour::start(&daemon, &link, 4)?;
        let flood = Sender::start(&link, Traffic::flood(5000).on(0))?;
        let program = std::path::Path::new(env!("CARGO_BIN_EXE_devrx-guest"));
        for round in 0..4 {
            let victim =
                consumer::start_owner(&daemon, program, "victim", NEAR_IF, Own::Memfd, SIZE)?;
            let memory = Memory::of_process(victim.pid().as_raw(), "clients-own", SIZE)?;
            wait_for("the flood goes round", Duration::from_secs(5), || {
                Ok(daemon.stats()?.attachment("victim")?.count("delivered")? > 2000)
            })?;
            // Running; or stopped, and in possession of every chunk.
            if round % 2 == 0 {
                victim.signal(Signal::SIGSTOP)?;
                wait_for("it holds all chunks", Duration::from_secs(2), || {
                    Ok(daemon.stats()?.attachment("victim")?.count("with_client")? > 400)
                })?;
            }
            let killed = Instant::now();
            victim.signal(Signal::SIGKILL)?;
            wait_for("the attachment ends", Duration::from_secs(2), || {
                Ok(!daemon.stats()?.alive("victim"))
            })?;
            let took = killed.elapsed();
            ensure!(took < Duration::from_secs(1), "the end took {took:?}");
            drop(victim);
            let entry = daemon.stats()?.attachment("victim")?;
            ensure!(
                entry.count("in_flight")? == 0 && entry.count("hold")? == entry.count("release")?,
                "not every chunk came back: {}",
                entry.json()
            );
            // The flood goes on, and none of it into what was the client's.
            memory.fill_here(0x5a)?;
            daemon.attach("next", "0", 512, 4096, &["udp,dst-port=5000"])?;
            let next = daemon.recv("next", "--count 2000 --timeout 5 --json")?;
            let output = next.wait(Duration::from_secs(6))?;
            ensure!(output.status.success(), "the flood ended: {output:?}");
            memory
                .must_be_filled_here(0x5a)
                .with_context(|| format!("round {round}"))?;
            daemon.detach("next")?;
            drop(memory);
            // The keeper is told, and closes it when it comes to that.
            wait_for("nobody has the memory", Duration::from_secs(2), || {
                Ok(holders::of(Own::Memfd.file()).is_empty())
            })
            .with_context(|| {
                let holders = holders::of(Own::Memfd.file());
                format!(
                    "processes {holders:?} have it; the daemon is {}",
                    daemon.pid()
                )
            })?;
        }
        ensure!(flood.stop()? > 10_000, "the flood was none");
        ensure!(daemon.running()?, "the daemon is gone: {}", daemon.log());
        neighbour.finish(&daemon)
    });
}
