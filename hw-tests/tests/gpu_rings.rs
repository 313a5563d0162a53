//! The rings consumed by `devrx.cuh`, as a kernel on a GPU does it: no call of a library in the loop, and nobody who could wake the daemon.
//! A thread of the CPU plays the GPU.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use devrx_hw_tests::command::{Output, Process, run_ok, wait_for};
use devrx_hw_tests::cprogram::{Sdk, capi};
use devrx_hw_tests::daemon::Daemon;
use devrx_hw_tests::link::{Link, LinkSpec, NEAR_IF};
use devrx_hw_tests::sender::{Sender, Traffic};
use devrx_hw_tests::stats::Entry;
use devrx_hw_tests::{frame, lane};
use nix::sys::signal::Signal;

/// UDP payload bytes of a frame.
const PAYLOAD: usize = 600;
/// Chunks of the region: far fewer than packets come.
const CHUNKS: u32 = 2048;

/// The example of this name, built to run its kernel in a thread of the CPU; or, with `-DDEVRX_DRIVER_API`, on a GPU.
fn build(sdk: &Sdk, name: &str, more: &[&str]) -> Result<PathBuf> {
    let options = ["-O2", "-std=c++11", "-pthread", "-x", "c++"];
    let source = capi().join(format!("examples/{name}.cu"));
    sdk.build("c++", &[more, &options].concat(), &source)
}

/// An example, and a daemon on a cable for it.
struct Stage {
    sdk: Sdk,
    program: PathBuf,
    link: Link,
    daemon: Daemon,
}

impl Stage {
    fn set(name: &str, more: &[&str]) -> Result<Self> {
        let sdk = Sdk::install()?;
        let program = build(&sdk, name, more)?;
        let link = Link::new(LinkSpec::default())?;
        let daemon = Daemon::start(&link)?;
        Ok(Self {
            sdk,
            program,
            link,
            daemon,
        })
    }

    /// Attaches memory whose chunks come back without a kick.
    fn attach(&self) -> Result<()> {
        self.daemon.ok(&format!(
            "attach --name stream --nic {NEAR_IF} --queue 0 --memory memfd --size {} --chunk 4096 --flow udp,dst-port=5000 --polls-refill",
            CHUNKS * 4096
        ))?;
        Ok(())
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.sdk.command(&self.program, &self.daemon.socket());
        command.arg("stream").args(arguments);
        command
    }

    /// Starts the example, and waits until it is the consumer.
    fn start(&self, mut command: Command, limit: Duration) -> Result<Process> {
        let mut process = Process::start(&mut command)?;
        wait_for("it is the consumer", limit, || {
            ensure!(
                process.running()?,
                "it ended at once: {:?}",
                process.written()
            );
            let stats = self.daemon.stats()?;
            Ok(stats.attachment("stream")?.text("state") != "idle")
        })?;
        Ok(process)
    }

    /// The same on the CPU, which takes no time.
    fn play(&self, arguments: &[&str]) -> Result<Process> {
        self.start(self.command(arguments), Duration::from_secs(5))
    }

    fn send(&self, packets: u64, payload: usize, rate: u32) -> Result<()> {
        let traffic = Traffic {
            payload,
            ..Traffic::paced(5000, packets, rate)
        };
        Sender::start(&self.link, traffic)?.finish().map(drop)
    }

    /// What it said once it has taken all packets.
    fn end(&self, process: Process) -> Result<Output> {
        process
            .wait(Duration::from_secs(10))
            .with_context(|| format!("{:?}", self.daemon.stats()))
    }
}

/// After `packets` of one chunk each, every chunk came back.
fn all_returned(entry: &Entry, packets: u64) -> Result<()> {
    ensure!(
        entry.count("returned")? == packets && entry.refused() == 0,
        "not every chunk came back: {}",
        entry.json()
    );
    Ok(())
}

/// What the program says after the packets of these numbers.
fn said(numbers: impl Iterator<Item = u64>, payload: usize) -> String {
    let (mut packets, mut sum, mut weighted) = (0, 0, 0);
    for number in numbers {
        packets += 1;
        let frame = frame::numbered(5000, number, payload);
        for (place, byte) in (1..).zip(&frame[frame::HEADERS..]) {
            sum += u64::from(*byte);
            weighted += place * u64::from(*byte);
        }
    }
    format!(
        "{packets} packets in {packets} chunks, {} bytes of header, {} of payload, which adds up to {sum}, by place to {weighted}\n",
        packets * frame::HEADERS as u64,
        packets * payload as u64
    )
}

fn must_say(output: &Output, want: &str) -> Result<()> {
    ensure!(
        output.status.success() && output.stdout == want,
        "expected {want:?}: {output:?}"
    );
    Ok(())
}

/// The same, and no complaint.
fn must_say_alone(output: &Output, want: &str) -> Result<()> {
    ensure!(output.stderr.is_empty(), "{output:?}");
    must_say(output, want)
}

#[test]
fn every_packet_is_taken_from_the_ring_and_every_chunk_comes_back() {
    lane::test(|| {
        let stage = Stage::set("persistent", &[])?;
        stage.attach()?;
        let packets = 5 * u64::from(CHUNKS);
        let process = stage.play(&[&packets.to_string()])?;
        stage.send(packets, PAYLOAD, 5000)?;
        must_say_alone(&stage.end(process)?, &said(0..packets, PAYLOAD))?;
        all_returned(&stage.daemon.check_sums()?.attachment("stream")?, packets)?;
        // The next consumer begins where this one stood, in fresh memory.
        let process = stage.play(&["1000"])?;
        stage.send(1000, PAYLOAD, 5000)?;
        must_say_alone(&stage.end(process)?, &said(0..1000, PAYLOAD))?;
        stage.daemon.detach_and_check("stream")?;
        Ok(())
    });
}

/// A daemon that is short of chunks, and asleep, sees the chunks that come back: it was told to look, because nobody can wake it.
#[test]
fn chunks_that_come_back_late_are_found_by_a_daemon_that_sleeps() {
    lane::test(|| {
        let stage = Stage::set("persistent", &[])?;
        stage.attach()?;
        let daemon = &stage.daemon;
        let process = stage.play(&[])?;
        process.signal(Signal::SIGSTOP)?;
        // Twice as many as there are chunks: then not one is posted, and no packet wakes the daemon.
        let all = u64::from(CHUNKS);
        stage.send(2 * all, PAYLOAD, 20_000)?;
        std::thread::sleep(Duration::from_millis(200));
        let entry = daemon.check_sums()?.attachment("stream")?;
        ensure!(
            entry.count("with_client")? == all && entry.drops()? == all,
            "all chunks should be with the client: {}",
            entry.json()
        );
        process.signal(Signal::SIGCONT)?;
        // Nobody asks the daemon anything meanwhile: a question wakes it, and it would look for returns.
        std::thread::sleep(Duration::from_secs(1));
        stage.send(all, PAYLOAD, 5000)?;
        let entry = daemon.check_sums()?.attachment("stream")?;
        let delivered = entry.count("delivered")?;
        // On a machine that is busy a few may be lost; without the looks it is all of them.
        ensure!(
            delivered > all + all / 2,
            "what came after the pause was lost: {}",
            entry.json()
        );
        daemon.detach("stream")?;
        // It sees the end in shared memory, after everything that came before.
        let output = process.wait(Duration::from_secs(5))?;
        ensure!(
            output.status.success()
                && output
                    .stdout
                    .starts_with(&format!("{delivered} packets in {delivered} chunks, ")),
            "{delivered} packets were delivered: {output:?}"
        );
        Ok(())
    });
}

/// What the program with the stream of work says after so many packets.
fn stream_said(packets: u64, payload: usize) -> String {
    let text = said(0..packets, payload);
    let sums = text.split("which adds up to ").nth(1).unwrap_or_default();
    format!(
        "{packets} packets, {} bytes of payload, which add up to {sums}",
        packets * payload as u64
    )
}

/// The common way: batches handed to a stream of work, here a thread that is late, and given back when it has passed them. Chunks that came back early would have other packets in them.
#[test]
fn batches_go_back_when_the_stream_of_work_has_passed_them() {
    lane::test(|| {
        let stage = Stage::set("stream", &[])?;
        stage
            .daemon
            .attach("stream", "0", CHUNKS, 4096, &["udp,dst-port=5000"])?;
        let packets = 5 * u64::from(CHUNKS);
        let process = stage.play(&[&packets.to_string()])?;
        stage.send(packets, PAYLOAD, 5000)?;
        must_say(&stage.end(process)?, &stream_said(packets, PAYLOAD))?;
        let stats = stage.daemon.detach_and_check("stream")?;
        all_returned(&stats.attachment("stream")?, packets)?;
        Ok(())
    });
}

/// What NVRTC makes of an example's kernel.
fn ptx(sdk: &Sdk, name: &str) -> Result<PathBuf> {
    let tool = sdk.prefix().join("nvrtc");
    let mut cc = Command::new("cc");
    cc.arg(capi().join("tests/nvrtc.c"))
        .arg("-o")
        .arg(&tool)
        .arg("-ldl");
    run_ok(&mut cc, Duration::from_secs(20))?;
    let library = std::env::var_os("DEVRX_NVRTC").context("DEVRX_NVRTC names no NVRTC")?;
    let mut nvrtc = Command::new(&tool);
    nvrtc
        .arg(library)
        .arg(capi().join(format!("examples/{name}.cu")))
        .args(["--gpu-architecture=compute_75", "--std=c++11"])
        .arg(format!("-I{}", capi().join("include").display()))
        .arg(format!("-I{}", capi().join("examples").display()));
    let ptx = sdk.prefix().join(format!("{name}.ptx"));
    std::fs::write(&ptx, run_ok(&mut nvrtc, Duration::from_secs(20))?.stdout)?;
    Ok(ptx)
}

/// An example on a GPU takes every packet, reads every byte of it where Linux put it, and every chunk comes back, at several sizes of packets.
fn on_a_gpu(name: &str, want: impl Fn(u64, usize) -> String) {
    lane::test(|| {
        let stage = Stage::set(name, &["-DDEVRX_DRIVER_API"])?;
        let ptx = ptx(&stage.sdk, name)?;
        for payload in [64, 600, 1400, 3000] {
            stage.attach()?;
            let packets = 4 * u64::from(CHUNKS);
            let mut command = stage.command(&[&packets.to_string()]);
            command.env("DEVRX_PTX", &ptx);
            let process = stage.start(command, Duration::from_secs(20))?;
            // Loading the driver takes longer than the packets do.
            std::thread::sleep(Duration::from_secs(3));
            stage.send(packets, payload, 5000)?;
            let output = stage.end(process)?;
            must_say(&output, &want(packets, payload))?;
            let stats = stage.daemon.detach_and_check("stream")?;
            all_returned(&stats.attachment("stream")?, packets)?;
            println!(
                "{name}, {payload} bytes of payload: {}",
                output.stdout.trim()
            );
        }
        Ok(())
    });
}

#[test]
#[ignore = "needs an NVIDIA GPU: cargo xtask test gpu"]
fn a_kernel_on_a_gpu_takes_every_packet_and_every_chunk_comes_back() {
    on_a_gpu("persistent", |packets, payload| said(0..packets, payload));
}

#[test]
#[ignore = "needs an NVIDIA GPU: cargo xtask test gpu"]
fn batches_go_back_when_a_stream_of_a_gpu_has_passed_them() {
    on_a_gpu("stream", stream_said);
}

/// What is measured is read whole, without a GPU as well.
#[test]
fn the_bandwidth_program_reads_every_byte() {
    lane::test(|| {
        let sdk = Sdk::install()?;
        let program = build(&sdk, "bandwidth", &[])?;
        let output = run_ok(
            Command::new(&program).args(["4", "1"]),
            Duration::from_secs(20),
        )?;
        let rows = output
            .stdout
            .lines()
            .filter(|row| row.contains("every byte was read"));
        ensure!(rows.count() == 4, "{output:?}");
        Ok(())
    });
}

/// Reading registered host memory in place, beside cudaMemcpy of as much, as ratios measured in turns.
#[test]
#[ignore = "needs an NVIDIA GPU: cargo xtask test gpu"]
fn reading_in_place_beside_copying() {
    lane::test(|| {
        let sdk = Sdk::install()?;
        let program = build(&sdk, "bandwidth", &["-DDEVRX_DRIVER_API"])?;
        let ptx = ptx(&sdk, "bandwidth")?;
        let mut command = Command::new(&program);
        let output = run_ok(command.env("DEVRX_PTX", &ptx), Duration::from_secs(50))?;
        print!("{}", output.stdout);
        let rows = output
            .stdout
            .lines()
            .filter(|row| row.contains("in place by copied"));
        ensure!(rows.count() == 4, "{output:?}");
        Ok(())
    });
}
