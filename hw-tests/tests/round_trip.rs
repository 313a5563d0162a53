//! Captures go in at one end of a link and come out of an attachment: the same frames, byte for byte, in the same order.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use devrx_hw_tests::command::run_ok;
use devrx_hw_tests::daemon::Daemon;
use devrx_hw_tests::link::{FAR_IF, Link, LinkSpec, NEAR_IF};
use devrx_hw_tests::{capture, lane, pcap};
use nix::sys::signal::Signal;

/// Sends `capture` through an attachment that takes everything and compares what `recv` wrote.
fn round_trip(daemon: &Daemon, link: &Link, capture: &Path, chunk: u32) -> Result<()> {
    let want = pcap::read(capture)?;
    let before = daemon
        .stats()?
        .queue(0)
        .map_or(Ok(0), |queue| queue.count("packets"))?;
    daemon.attach("trip", "0", 1024, chunk, &["any"])?;
    let (recv, file) = daemon.recv_pcap("trip", want.len(), 5)?;
    daemon.send(link, capture, 4000)?;
    let output = recv.wait(Duration::from_secs(10))?;
    pcap::compare(&want, &pcap::read(&file)?)?;
    ensure!(
        output.status.success(),
        "recv has all frames but failed: {output:?}"
    );
    let stats = daemon.detach_and_check("trip")?;
    let packets = stats.queue(0)?.count("packets")? - before;
    ensure!(
        packets == want.len() as u64,
        "{} frames were sent, {packets} counted",
        want.len()
    );
    Ok(())
}

/// Headers left in place, and header slots too small for the longest headers: the frames are the same.
#[test]
fn captures_survive_whatever_the_split() {
    lane::test(|| {
        let link = Link::new(LinkSpec::default())?;
        let daemon = Daemon::start(&link)?;
        for name in ["extensions6", "tcp", "malformed"] {
            let capture = capture::scapy_file(name)?;
            let want = pcap::read(&capture)?;
            for split in ["--no-split", "--header-slot 64", "--header-slot 1024"] {
                daemon.ok(&format!("attach --name split --nic {NEAR_IF} --queue 0 --memory memfd --size 4M --flow any {split}"))?;
                let (recv, file) = daemon.recv_pcap("split", want.len(), 5)?;
                daemon.send(&link, &capture, 4000)?;
                recv.wait(Duration::from_secs(10))?;
                pcap::compare(&want, &pcap::read(&file)?)
                    .with_context(|| format!("capture {name}, {split}"))?;
                daemon.detach_and_check("split")?;
            }
        }
        Ok(())
    });
}

/// Every capture that scapy makes, with chunks of one size.
fn all_of_scapys(chunk: u32) {
    lane::test(|| {
        let link = Link::new(LinkSpec::default())?;
        let daemon = Daemon::start(&link)?;
        for name in capture::SCAPY {
            round_trip(&daemon, &link, &capture::scapy_file(name)?, chunk)
                .with_context(|| format!("capture {name}, chunks of {chunk}"))?;
        }
        Ok(())
    });
}

#[test]
fn captures_made_by_scapy_survive_in_chunks_of_4096() {
    all_of_scapys(4096);
}

#[test]
fn captures_made_by_scapy_survive_in_chunks_of_2048() {
    all_of_scapys(2048);
}

#[test]
fn real_traffic_that_tcpdump_saw_survives() {
    lane::test(|| {
        let folder = tempfile::tempdir()?;
        let capture = capture::real_traffic(folder.path())?;
        let frames = pcap::read(&capture)?;
        let long = frames.iter().filter(|frame| frame.len() > 1400).count();
        ensure!(
            frames.len() > 300 && long > 100,
            "tcpdump saw only {} frames",
            frames.len()
        );
        let link = Link::new(LinkSpec::default())?;
        let daemon = Daemon::start(&link)?;
        for chunk in [2048, 4096] {
            round_trip(&daemon, &link, &capture, chunk)
                .with_context(|| format!("chunks of {chunk}"))?;
        }
        Ok(())
    });
}

/// The receiving side alone, with somebody else's sender.
#[test]
fn frames_that_tcpreplay_sends_survive() {
    lane::test(|| {
        let link = Link::new(LinkSpec::default())?;
        let daemon = Daemon::start(&link)?;
        for name in ["tcp", "fragments", "vlan"] {
            let capture = capture::scapy_file(name)?;
            let want = pcap::read(&capture)?;
            daemon.attach("replay", "0", 1024, 4096, &["any"])?;
            let (recv, file) = daemon.recv_pcap("replay", want.len(), 5)?;
            let mut tcpreplay = link.far.command("tcpreplay");
            tcpreplay
                .args(["--pps", "2000", "-q", "-i", FAR_IF])
                .arg(&capture);
            run_ok(&mut tcpreplay, Duration::from_secs(20))?;
            recv.wait(Duration::from_secs(10))?;
            pcap::compare(&want, &pcap::read(&file)?).with_context(|| format!("capture {name}"))?;
            daemon.detach_and_check("replay")?;
        }
        Ok(())
    });
}

/// The sending side alone, with somebody else's receiver.
#[test]
fn devrx_send_puts_the_capture_on_the_wire_as_tcpdump_sees_it() {
    lane::test(|| {
        let link = Link::new(LinkSpec::default())?;
        let daemon = Daemon::start(&link)?;
        let capture = capture::scapy_file("sizes")?;
        let want = pcap::read(&capture)?;
        let file = daemon.folder().join("seen.pcap");
        let tcpdump = capture::tcpdump(&link, &file, &[])?;
        daemon.send(&link, &capture, 1000)?;
        std::thread::sleep(Duration::from_millis(200));
        tcpdump.signal(Signal::SIGINT)?;
        tcpdump.wait(Duration::from_secs(5))?;
        pcap::compare(&want, &pcap::read(&file)?)
    });
}

/// `--rate` paces: the round trips rely on it to lose nothing.
#[test]
fn devrx_send_keeps_the_rate_it_is_given() {
    lane::test(|| {
        let link = Link::new(LinkSpec::default())?;
        let daemon = Daemon::start(&link)?;
        let capture = capture::scapy_file("tcp")?;
        let frames = pcap::read(&capture)?.len();
        let start = std::time::Instant::now();
        daemon.send(&link, &capture, 50)?;
        let (took, due) = (start.elapsed().as_secs_f64(), frames as f64 / 50.0);
        ensure!(
            took > due * 0.9 && took < due * 1.3 + 0.5,
            "{frames} frames at 50/s took {took:.2} s"
        );
        let counted = link
            .near
            .sh(&format!(
                "cat /sys/class/net/{NEAR_IF}/statistics/rx_packets"
            ))?
            .stdout;
        ensure!(
            counted.trim() == frames.to_string(),
            "{frames} were sent, the other end counted {counted}"
        );
        Ok(())
    });
}
