//! The rings consumed by `devrx.cuh`, as a kernel on a GPU does it: no call of a library in the loop, and nobody who could wake the daemon.
//! A thread of the CPU plays the GPU.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use devrx_hw_tests::command::{Output, Process, wait_for};
use devrx_hw_tests::cprogram::{Sdk, capi};
use devrx_hw_tests::daemon::Daemon;
use devrx_hw_tests::link::{Link, LinkSpec, NEAR_IF};
use devrx_hw_tests::sender::{Sender, Traffic};
use devrx_hw_tests::{frame, lane};
use nix::sys::signal::Signal;

/// UDP payload bytes of a frame.
const PAYLOAD: usize = 600;
/// Chunks of the region: far fewer than packets come.
const CHUNKS: u32 = 2048;

fn start(daemon: &Daemon, sdk: &Sdk, arguments: &[&str]) -> Result<Process> {
    let source = capi().join("examples/persistent.cu");
    let program = sdk.build(
        "c++",
        &["-O2", "-std=c++11", "-pthread", "-x", "c++"],
        &source,
    )?;
    let mut command = sdk.command(&program, &daemon.socket());
    let mut process = Process::start(command.arg("stream").args(arguments))?;
    wait_for("it is the consumer", Duration::from_secs(5), || {
        ensure!(
            process.running()?,
            "it ended at once: {:?}",
            process.written()
        );
        Ok(daemon.stats()?.attachment("stream")?.text("state") != "idle")
    })?;
    Ok(process)
}

fn attach(daemon: &Daemon) -> Result<()> {
    daemon.ok(&format!(
        "attach --name stream --nic {NEAR_IF} --queue 0 --memory memfd --size {} --chunk 4096 --flow udp,dst-port=5000 --polls-refill",
        CHUNKS * 4096
    ))?;
    Ok(())
}

fn send(link: &Link, packets: u64, rate: u32) -> Result<()> {
    let traffic = Traffic {
        payload: PAYLOAD,
        ..Traffic::paced(5000, packets, rate)
    };
    Sender::start(link, traffic)?.finish().map(drop)
}

/// What the program says after the packets of these numbers.
fn said(numbers: impl Iterator<Item = u64> + Clone) -> String {
    let packets = numbers.clone().count() as u64;
    let sum: u64 = numbers
        .flat_map(|number| frame::numbered(5000, number, PAYLOAD).split_off(frame::HEADERS))
        .map(u64::from)
        .sum();
    format!(
        "{packets} packets in {packets} chunks, {} bytes of header, {} of payload, which adds up to {sum}\n",
        packets * frame::HEADERS as u64,
        packets * PAYLOAD as u64
    )
}

fn must_say(output: &Output, want: &str) -> Result<()> {
    ensure!(
        output.status.success() && output.stdout == want && output.stderr.is_empty(),
        "expected {want:?}: {output:?}"
    );
    Ok(())
}

#[test]
fn every_packet_is_taken_from_the_ring_and_every_chunk_comes_back() {
    lane::test(|| {
        let sdk = Sdk::install()?;
        let link = Link::new(LinkSpec::default())?;
        let daemon = Daemon::start(&link)?;
        attach(&daemon)?;
        let packets = 5 * u64::from(CHUNKS);
        let program = start(&daemon, &sdk, &[&packets.to_string()])?;
        send(&link, packets, 5000)?;
        let output = program
            .wait(Duration::from_secs(10))
            .with_context(|| format!("{:?}", daemon.stats()))?;
        must_say(&output, &said(0..packets))?;
        let entry = daemon.check_sums()?.attachment("stream")?;
        ensure!(
            entry.count("returned")? == packets && entry.refused() == 0,
            "not every chunk came back: {}",
            entry.json()
        );
        // The next consumer begins where this one stood, in fresh memory.
        let program = start(&daemon, &sdk, &["1000"])?;
        send(&link, 1000, 5000)?;
        must_say(&program.wait(Duration::from_secs(10))?, &said(0..1000))?;
        daemon.detach_and_check("stream")?;
        Ok(())
    });
}

/// A daemon that is short of chunks, and asleep, sees the chunks that come back: it was told to look, because nobody can wake it.
#[test]
fn chunks_that_come_back_late_are_found_by_a_daemon_that_sleeps() {
    lane::test(|| {
        let sdk = Sdk::install()?;
        let link = Link::new(LinkSpec::default())?;
        let daemon = Daemon::start(&link)?;
        attach(&daemon)?;
        let program = start(&daemon, &sdk, &[])?;
        program.signal(Signal::SIGSTOP)?;
        // Twice as many as there are chunks: then not one is posted, and no packet wakes the daemon.
        let all = u64::from(CHUNKS);
        send(&link, 2 * all, 20_000)?;
        std::thread::sleep(Duration::from_millis(200));
        let entry = daemon.check_sums()?.attachment("stream")?;
        ensure!(
            entry.count("with_client")? == all && entry.drops()? == all,
            "all chunks should be with the client: {}",
            entry.json()
        );
        program.signal(Signal::SIGCONT)?;
        wait_for("the chunks come back", Duration::from_secs(2), || {
            Ok(daemon.stats()?.attachment("stream")?.count("with_client")? == 0)
        })?;
        std::thread::sleep(Duration::from_millis(20));
        send(&link, all, 5000)?;
        let entry = daemon.check_sums()?.attachment("stream")?;
        ensure!(
            entry.count("delivered")? == 2 * all,
            "what came after the pause was lost: {}",
            entry.json()
        );
        daemon.detach("stream")?;
        // It sees the end in shared memory, after everything that came before.
        let output = program.wait(Duration::from_secs(5))?;
        must_say(&output, &said((0..all).chain(0..all)))
    });
}
