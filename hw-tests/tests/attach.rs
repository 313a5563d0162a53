//! Attachments come and go while packets flow; a queue has one, and nobody else is disturbed.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use devrx_hw_tests::daemon::Daemon;
use devrx_hw_tests::link::{Link, LinkSpec};
use devrx_hw_tests::neighbour::{Neighbour, all_of};
use devrx_hw_tests::sender::{Sender, Traffic};
use devrx_hw_tests::{frame, lane, pcap};

#[test]
fn attach_and_detach_under_live_traffic_disturb_no_neighbour() {
    lane::test(|| {
        let link = Link::new(LinkSpec {
            queues: 2,
            ..LinkSpec::default()
        })?;
        let daemon = Daemon::start(&link)?;
        let neighbour = Neighbour::start(&daemon, &link, 4)?;
        let live = Sender::start(
            &link,
            Traffic {
                rate: Some(20_000),
                count: None,
                ..Traffic::flood(5000)
            }
            .on(0),
        )?;
        let (start, mut rounds) = (Instant::now(), 0);
        while start.elapsed() < Duration::from_secs(3) {
            daemon.attach("passing", "0", 256, 4096, &["udp,dst-port=5000"])?;
            let client = daemon.recv("passing", "--count 200 --timeout 3")?;
            let output = client.wait(Duration::from_secs(5))?;
            ensure!(
                output.status.success(),
                "round {rounds}: nothing arrives: {output:?}"
            );
            // Every other time with packets still in the rings.
            if rounds % 2 == 1 {
                std::thread::sleep(Duration::from_millis(20));
            }
            daemon
                .detach_and_check_but("passing", &[1])
                .with_context(|| format!("round {rounds}"))?;
            rounds += 1;
        }
        ensure!(rounds >= 5, "only {rounds} rounds in three seconds");
        live.stop()?;
        neighbour.finish(&daemon)?;
        Ok(())
    });
}

/// The kernel takes a queue back after the socket is closed, in its own time.
#[test]
fn an_attach_right_after_a_detach_gets_the_queue() {
    lane::test(|| {
        let link = Link::new(LinkSpec::default())?;
        let daemon = Daemon::start(&link)?;
        let live = Sender::start(&link, Traffic::flood(5000))?;
        for round in 0..100 {
            daemon
                .attach("again", "0", 64, 4096, &["udp,dst-port=5000"])
                .and_then(|_| daemon.detach("again"))
                .with_context(|| format!("round {round}"))?;
        }
        live.stop()?;
        Ok(())
    });
}

#[test]
fn detaching_under_a_consumer_ends_it_and_frees_the_queue() {
    lane::test(|| {
        let link = Link::new(LinkSpec::default())?;
        let daemon = Daemon::start(&link)?;
        let live = Sender::start(
            &link,
            Traffic {
                rate: Some(20_000),
                ..Traffic::flood(5000)
            },
        )?;
        for round in 0..5 {
            daemon.attach("gone", "0", 256, 4096, &["any"])?;
            let client = daemon.recv("gone", "")?;
            std::thread::sleep(Duration::from_millis(50));
            daemon
                .detach_and_check("gone")
                .with_context(|| format!("round {round}"))?;
            let output = client
                .wait(Duration::from_secs(3))
                .context("a client whose attachment ended")?;
            ensure!(
                !output.stderr.contains("panicked"),
                "the client panicked: {}",
                output.stderr
            );
        }
        live.stop()?;
        Ok(())
    });
}

#[test]
fn a_second_attachment_on_a_queue_is_refused_and_told_who_has_it() {
    lane::test(|| {
        let link = Link::new(LinkSpec {
            queues: 2,
            ..LinkSpec::default()
        })?;
        let daemon = Daemon::start(&link)?;
        daemon.attach("first-owner", "0", 64, 4096, &["any"])?;
        let attach = |name: &str, queue: &str| {
            format!(
                "attach --name {name} --nic dx0 --queue {queue} --memory memfd --size 256k --chunk 4096 --flow any"
            )
        };
        for queue in ["0", "0-1"] {
            let said = daemon.refused(&attach("second", queue))?;
            ensure!(
                said.contains("first-owner"),
                "--queue {queue}: refused without naming the owner: {said}"
            );
        }
        let said = daemon.refused(&attach("first-owner", "1"))?;
        ensure!(said.contains("first-owner"), "a name taken twice: {said}");
        // What was refused holds nothing: queue 1 is free, and so is queue 0 after its owner.
        daemon.attach("other", "1", 64, 4096, &["any"])?;
        daemon.detach_and_check("first-owner")?;
        daemon.attach("second", "0", 64, 4096, &["any"])?;
        daemon.detach_and_check("second")?;
        daemon.detach_and_check("other")?;
        Ok(())
    });
}

#[test]
fn an_attachment_has_one_consumer_at_a_time() {
    lane::test(|| {
        let link = Link::new(LinkSpec::default())?;
        let daemon = Daemon::start(&link)?;
        daemon.attach("shared", "0", 64, 4096, &["any"])?;
        let first = daemon.recv("shared", "")?;
        let said = daemon.refused("recv shared --timeout 1")?;
        ensure!(
            said.contains(&first.pid().to_string()),
            "refused without naming process {}: {said}",
            first.pid()
        );
        drop(first);
        daemon.detach_and_check("shared")?;
        Ok(())
    });
}

#[test]
fn a_range_of_queues_is_one_attachment() {
    lane::test(|| {
        let link = Link::new(LinkSpec {
            queues: 2,
            ..LinkSpec::default()
        })?;
        let daemon = Daemon::start(&link)?;
        daemon.attach(
            "range",
            "0-1",
            2048,
            4096,
            &["udp,dst-port=5000", "udp,dst-port=6000"],
        )?;
        let (recv, file) = daemon.recv_pcap("range", 4000, 8)?;
        let senders = [
            Sender::start(&link, Traffic::paced(5000, 2000, 4000).on(0))?,
            Sender::start(&link, Traffic::paced(6000, 2000, 4000).on(1))?,
        ];
        for sender in senders {
            sender.finish()?;
        }
        recv.wait(Duration::from_secs(12))?;
        let (first, second): (Vec<_>, Vec<_>) = pcap::read(&file)?
            .into_iter()
            .partition(|bytes| frame::is_udp_to(bytes, 5000));
        all_of(&first, 5000, 2000).context("queue 0")?;
        all_of(&second, 6000, 2000).context("queue 1")?;
        let stats = daemon.detach_and_check("range")?;
        for queue in [0, 1] {
            ensure!(
                stats.queue(queue)?.count("delivered")? == 2000,
                "{}",
                stats.queue(queue)?.json()
            );
        }
        ensure!(
            stats.attachment("range")?.count("delivered")? == 4000,
            "{}",
            stats.attachment("range")?.json()
        );
        Ok(())
    });
}

/// The filter is per queue: the same rule on two queues gives each the packets that arrive on it.
#[test]
fn attachments_on_two_queues_get_their_own_queues_packets() {
    lane::test(|| {
        let link = Link::new(LinkSpec {
            queues: 2,
            ..LinkSpec::default()
        })?;
        let daemon = Daemon::start(&link)?;
        let mut clients = Vec::new();
        for (name, queue, port) in [("zero", 0, 5000), ("one", 1, 6000)] {
            daemon.attach(name, &queue.to_string(), 1024, 4096, &["any"])?;
            clients.push((daemon.recv_pcap(name, 1000, 6)?, queue, port));
        }
        let mut senders = Vec::new();
        for (_, queue, port) in &clients {
            senders.push(Sender::start(
                &link,
                Traffic::paced(*port, 1000, 4000).on(*queue),
            )?);
        }
        for sender in senders {
            sender.finish()?;
        }
        for ((recv, file), queue, port) in clients {
            recv.wait(Duration::from_secs(8))?;
            all_of(&pcap::read(&file)?, port, 1000).with_context(|| format!("queue {queue}"))?;
        }
        daemon.detach_and_check("zero")?;
        daemon.detach_and_check("one")?;
        Ok(())
    });
}
