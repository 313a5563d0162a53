//! When nothing comes: the daemon sleeps, and the NIC's interrupt wakes it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::unistd::Pid;

use super::Test;
use crate::guest::message::Frames;
use crate::inside::Host;
use crate::inside::igb::{self, Kind, NIC, Wanted};

/// The tests of this file.
pub const TESTS: &[Test] =
    &[Test::new("igb_an_idle_queue_sleeps_and_one_packet_wakes_it", idle).limit(60)];

fn frames(count: u64) -> Frames {
    Frames::Numbered {
        port: 5000,
        first: 0,
        count,
        payload: 600,
    }
}

/// Processor time that a process has used, user and system.
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

/// The NIC's own interrupt wakes it: nothing else looks at the ring in between.
fn idle(host: &mut Host) -> Result<()> {
    for mode in ["sleep", "adaptive"] {
        let queue = format!("[[interfaces.rx.queues]]\nid = 0\npoll_mode = \"{mode}\"\n");
        let daemon = igb::daemon_with(host, &queue)?;
        let wanted = Wanted {
            name: "idle",
            kind: Kind::Udmabuf,
            chunks: 512,
            chunk: 2048,
            more: "--queue 0 --flow any",
        };
        let (mut attachment, _) = wanted.attach_and_open(host, &daemon)?;
        // Some traffic first, so that it is the return to sleep that is seen.
        host.inject(NIC, frames(300), None)?;
        let (_, held) = igb::collect(&mut attachment, 300, Duration::from_secs(10))?;
        attachment.give_back(held)?;
        std::thread::sleep(Duration::from_millis(300));
        let before = processor_time(daemon.pid())?;
        std::thread::sleep(Duration::from_secs(1));
        let used = processor_time(daemon.pid())? - before;
        ensure!(
            used <= Duration::from_millis(100),
            "{mode}: idle, the daemon used {used:?} of a second"
        );
        let mut slowest = Duration::ZERO;
        for round in 0..10 {
            std::thread::sleep(Duration::from_millis(50));
            host.inject(NIC, frames(1), None)?;
            let start = Instant::now();
            let (_, held) = igb::collect(&mut attachment, 1, Duration::from_secs(2))
                .with_context(|| format!("{mode}: packet {round} woke nobody"))?;
            slowest = slowest.max(start.elapsed());
            attachment.give_back(held)?;
        }
        println!(
            "{mode}: {used:?} of a second when idle; a packet is there {slowest:?} after the host sent it, at most"
        );
        ensure!(
            slowest < Duration::from_millis(500),
            "{mode}: a packet came after {slowest:?}"
        );
        drop(attachment);
        daemon.detach_and_check("idle")?;
    }
    Ok(())
}
