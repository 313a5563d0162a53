//! What happens when little or nothing happens: the daemon sleeps, a single packet wakes whoever waits for it, and nothing piles up.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use devrx_hw_tests::command::{Process, run_ok, wait_for};
use devrx_hw_tests::daemon::Daemon;
use devrx_hw_tests::lane;
use devrx_hw_tests::link::{Link, LinkSpec};
use devrx_hw_tests::sender::{Sender, Traffic};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Processor time a process has used, user and system.
fn processor_time(pid: Pid) -> Result<Duration> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let fields: Vec<&str> = stat
        .rsplit(')')
        .next()
        .context("stat")?
        .split_whitespace()
        .collect();
    // utime and stime are the 14th and 15th of proc_pid_stat(5), the first two being gone here; 100 ticks a second on Linux.
    let ticks = fields[11].parse::<u64>()? + fields[12].parse::<u64>()?;
    Ok(Duration::from_millis(ticks * 10))
}

#[test]
fn an_idle_daemon_and_an_idle_client_sleep() {
    lane::test(|| {
        let link = Link::new(LinkSpec {
            queues: 2,
            ..LinkSpec::default()
        })?;
        let daemon = Daemon::start(&link)?;
        daemon.attach("idle", "0-1", 512, 4096, &["any"])?;
        let client = daemon.recv("idle", "")?;
        // Some traffic first, so that it is the return to sleep that is measured.
        Sender::start(&link, Traffic::paced(5000, 500, 5000).on(0))?.finish()?;
        std::thread::sleep(Duration::from_millis(300));
        let before = (processor_time(daemon.pid())?, processor_time(client.pid())?);
        std::thread::sleep(Duration::from_secs(1));
        let used = (
            processor_time(daemon.pid())? - before.0,
            processor_time(client.pid())? - before.1,
        );
        ensure!(
            used.0 < Duration::from_millis(100),
            "the idle daemon used {:?} of a second",
            used.0
        );
        ensure!(
            used.1 < Duration::from_millis(100),
            "the idle client used {:?} of a second",
            used.1
        );
        drop(client);
        daemon.detach_and_check("idle")?;
        Ok(())
    });
}

#[test]
fn a_single_packet_wakes_a_client_that_sleeps() {
    lane::test(|| {
        let link = Link::new(LinkSpec::default())?;
        let daemon = Daemon::start(&link)?;
        daemon.attach("one", "0", 64, 4096, &["any"])?;
        for round in 0..5 {
            let client = daemon.recv("one", "--count 1 --timeout 5")?;
            std::thread::sleep(Duration::from_millis(200));
            let start = Instant::now();
            Sender::start(&link, Traffic::paced(5000, 1, 1000))?.finish()?;
            let output = client.wait(Duration::from_secs(6))?;
            ensure!(output.status.success(), "round {round}: {output:?}");
            ensure!(
                start.elapsed() < Duration::from_secs(1),
                "round {round}: the client saw it after {:?}",
                start.elapsed()
            );
        }
        daemon.detach_and_check("one")?;
        Ok(())
    });
}

/// A daemon that ran out of chunks and sleeps goes on when the client gives some back, without a packet to wake it.
#[test]
fn chunks_given_back_wake_a_daemon_that_sleeps() {
    lane::test(|| {
        let link = Link::new(LinkSpec::default())?;
        let daemon = Daemon::start(&link)?;
        daemon.attach("short", "0", 32, 4096, &["any"])?;
        for round in 0..5 {
            let client = daemon.recv("short", "--count 40 --timeout 5")?;
            client.signal(Signal::SIGSTOP)?;
            Sender::start(&link, Traffic::paced(5000, 100, 10_000))?.finish()?;
            std::thread::sleep(Duration::from_millis(200));
            let starved = daemon.check_sums()?.queue(0)?;
            client.signal(Signal::SIGCONT)?;
            // It takes all 32 and returns them; after that there is room for these.
            std::thread::sleep(Duration::from_millis(200));
            Sender::start(&link, Traffic::paced(5000, 10, 1000))?.finish()?;
            let output = client.wait(Duration::from_secs(6))?;
            ensure!(
                output.status.success(),
                "round {round}, after {}: {output:?}",
                starved.json()
            );
        }
        daemon.detach_and_check("short")?;
        Ok(())
    });
}

#[test]
fn attaching_and_detaching_many_times_leaves_nothing_behind() {
    lane::test(|| {
        let link = Link::new(LinkSpec {
            queues: 2,
            ..LinkSpec::default()
        })?;
        let daemon = Daemon::start(&link)?;
        let look = |pid: i32| -> Result<(usize, usize)> {
            let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
            let maps = std::fs::read_to_string(format!("/proc/{pid}/maps"))?
                .lines()
                .count();
            Ok((descriptors, maps))
        };
        let round = || -> Result<()> {
            daemon.attach("again", "0-1", 128, 4096, &["any"])?;
            let recv = daemon.recv("again", "--count 5 --timeout 5")?;
            Sender::start(&link, Traffic::paced(5000, 5, 5000).on(1))?.finish()?;
            ensure!(recv.wait(Duration::from_secs(6))?.status.success());
            daemon.detach_and_check("again")?;
            Ok(())
        };
        for _ in 0..3 {
            round()?;
        }
        let keeper = *daemon.children()?.first().context("no keeper")?;
        let processes = [("daemon", daemon.pid().as_raw()), ("keeper", keeper)];
        let before = [look(processes[0].1)?, look(processes[1].1)?];
        for _ in 0..20 {
            round()?;
        }
        for ((what, pid), before) in processes.into_iter().zip(before) {
            let mut after = look(pid)?;
            // The end of the last attachment may still be on its way to the keeper.
            wait_for(
                &format!("the {what} is as before, {before:?} descriptors and mappings"),
                Duration::from_secs(2),
                || {
                    after = look(pid)?;
                    Ok(after.0 <= before.0 + 2 && after.1 <= before.1 + 4)
                },
            )
            .with_context(|| format!("after 20 rounds: {after:?}"))?;
        }
        Ok(())
    });
}

/// The keeper is a process like any other: killed, it is replaced, and nobody notices.
#[test]
fn a_killed_keeper_is_replaced() {
    lane::test(|| {
        let link = Link::new(LinkSpec::default())?;
        let mut daemon = Daemon::start(&link)?;
        daemon.attach("kept", "0", 64, 4096, &["any"])?;
        for round in 0..2 {
            let keepers = daemon.children()?;
            ensure!(keepers.len() == 1, "round {round}: {keepers:?}");
            kill(Pid::from_raw(keepers[0]), Signal::SIGKILL)?;
            wait_for("another keeper", Duration::from_secs(5), || {
                let now = daemon.children()?;
                Ok(now.len() == 1 && now != keepers)
            })?;
            let recv = daemon.recv("kept", "--count 50 --timeout 5")?;
            Sender::start(&link, Traffic::paced(5000, 50, 5000))?.finish()?;
            ensure!(
                recv.wait(Duration::from_secs(6))?.status.success(),
                "round {round}: nothing arrives"
            );
        }
        ensure!(daemon.running()?);
        daemon.detach_and_check("kept")?;
        Ok(())
    });
}

/// Interfaces without XDP of their own take the kernel's generic hook: the loopback is one, with frames of up to 64 KiB.
#[test]
fn the_loopback_interface_works_too() {
    lane::test(|| {
        let link = Link::new(LinkSpec::default())?;
        let config = "[[interfaces]]\naddress = \"afxdp:lo\"\n";
        let daemon = Daemon::start_with(&link, Some(config))?;
        daemon.ok(
            "attach --name lo --nic lo --queue 0 --memory memfd --size 4M --flow udp,dst-port=5000",
        )?;
        for size in [100, 9000] {
            let recv = daemon.recv("lo", "--count 20 --timeout 5")?;
            let mut send = link.near.command(lane::binary()?);
            send.args([
                "send",
                "--interface",
                "lo",
                "--udp",
                "127.0.0.1:5000",
                "--count",
                "20",
                "--rate",
                "1000",
                "--size",
            ]);
            run_ok(send.arg(size.to_string()), Duration::from_secs(5))?;
            let output = recv.wait(Duration::from_secs(6))?;
            ensure!(output.status.success(), "datagrams of {size}: {output:?}");
        }
        let mut ping = link.near.command("ping");
        Process::start(ping.args(["-n", "-c", "2", "-i", "0.01", "127.0.0.1"]))?
            .wait(Duration::from_secs(5))?;
        daemon.detach_and_check("lo")?;
        Ok(())
    });
}
