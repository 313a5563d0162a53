//! When the daemon dies, the interface is the kernel's as before, and a new daemon has it at once.

use std::net::UdpSocket;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use devrx_hw_tests::command::{run_ok, wait_for};
use devrx_hw_tests::daemon::Daemon;
use devrx_hw_tests::link::{IPV4, Link, LinkSpec, NEAR_IF};
use devrx_hw_tests::sender::{Sender, Traffic};
use devrx_hw_tests::{frame, lane, pcap};
use nix::sys::signal::Signal;

/// Whether an XDP program is on the daemon's interface.
fn xdp_attached(link: &Link) -> Result<bool> {
    Ok(link
        .near
        .sh(&format!("ip -d link show {NEAR_IF}"))?
        .stdout
        .contains("xdp"))
}

fn ends_well(signal: Signal) {
    lane::test(|| {
        let link = Link::new(LinkSpec {
            queues: 2,
            addresses: true,
            ..LinkSpec::default()
        })?;
        for round in 0..3 {
            one_life(&link, signal).with_context(|| format!("life {round}"))?;
        }
        Ok(())
    });
}

/// A daemon from start to end, with a client and traffic on two queues; then the kernel's turn.
fn one_life(link: &Link, signal: Signal) -> Result<()> {
    ensure!(
        !xdp_attached(link)?,
        "an XDP program is there before the daemon"
    );
    let daemon = Daemon::start(link)?;
    ensure!(xdp_attached(link)?, "no XDP program with a daemon");
    daemon.attach("one", "0", 512, 4096, &["udp,dst-port=5000"])?;
    daemon.attach("two", "1", 512, 4096, &["udp,dst-port=5000"])?;
    // That the queues work in this life, soon after the last daemon's end.
    let (recv, file) = daemon.recv_pcap("two", 500, 5)?;
    Sender::start(link, Traffic::paced(5000, 500, 5000).on(1))?.finish()?;
    recv.wait(Duration::from_secs(8))?;
    let frames = pcap::read(&file)?;
    ensure!(frames.len() == 500, "{} of 500 arrived", frames.len());
    for bytes in &frames {
        frame::check(bytes, 5000)?;
    }
    daemon.check_sums()?;

    let client = daemon.recv("one", "")?;
    let flood = Sender::start(link, Traffic::flood(5000).on(0))?;
    wait_for("the flood arrives", Duration::from_secs(2), || {
        Ok(daemon.stats()?.attachment("one")?.count("delivered")? > 1000)
    })?;
    let children = daemon.children()?;
    ensure!(!children.is_empty(), "the daemon has no keeper");
    let ended = Instant::now();
    let (output, _folder) = daemon.end(signal, Duration::from_secs(5))?;
    if signal == Signal::SIGTERM {
        ensure!(
            output.status.success(),
            "asked to end, the daemon did not end well: {output:?}"
        );
    }
    wait_for("the XDP program goes", Duration::from_secs(2), || {
        Ok(!xdp_attached(link)?)
    })?;
    wait_for("the keeper ends", Duration::from_secs(3), || {
        Ok(children.iter().all(|pid| gone(*pid)))
    })?;
    ensure!(ended.elapsed() < Duration::from_secs(4));
    let output = client
        .wait(Duration::from_secs(5))
        .context("a client whose daemon died")?;
    ensure!(
        !output.stderr.contains("panicked"),
        "the client panicked: {}",
        output.stderr
    );
    flood.stop()?;

    let socket = link.near.enter(|| {
        let socket = UdpSocket::bind((IPV4[0], 5000))?;
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        Ok(socket)
    })?;
    link.far
        .enter(|| Ok(UdpSocket::bind((IPV4[1], 0))?.send_to(b"hello", (IPV4[0], 5000))?))?;
    socket
        .recv(&mut [0; 2000])
        .context("the kernel's own UDP after the daemon's end")?;
    let mut ping = link.far.command("ping");
    run_ok(
        ping.args(["-n", "-c", "3", "-i", "0.01", "-W", "2", IPV4[0]]),
        Duration::from_secs(8),
    )?;
    Ok(())
}

/// Whether a process has ended; one that waits to be reaped has.
fn gone(pid: i32) -> bool {
    let status = std::fs::read_to_string(Path::new("/proc").join(pid.to_string()).join("stat"));
    status.map_or(true, |stat| {
        stat.rsplit(')')
            .next()
            .is_some_and(|rest| rest.trim_start().starts_with('Z'))
    })
}

#[test]
fn a_killed_daemon_leaves_the_interface_to_the_kernel_and_its_queues_to_the_next() {
    ends_well(Signal::SIGKILL);
}

#[test]
fn a_daemon_asked_to_end_cleans_up_and_succeeds() {
    ends_well(Signal::SIGTERM);
}
