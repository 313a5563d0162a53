//! The C example of `libdevrx`, built as its first lines say, on the real daemon.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use devrx_hw_tests::command::{Process, wait_for};
use devrx_hw_tests::cprogram::{Sdk, capi};
use devrx_hw_tests::daemon::Daemon;
use devrx_hw_tests::link::{Link, LinkSpec};
use devrx_hw_tests::sender::{Sender, Traffic};
use devrx_hw_tests::{frame, lane};

/// UDP payload bytes of a frame.
const PAYLOAD: usize = 600;

/// Sends a stream to the program that `command` starts, and compares what it says with what was sent.
fn receive(daemon: &Daemon, link: &Link, mut command: Command, packets: u64) -> Result<()> {
    // More chunks than packets: one that is not scheduled for a while loses nothing.
    daemon.attach("camera", "0", 8192, 4096, &["udp,dst-port=5000"])?;
    let mut program = Process::start(command.args(["camera", &packets.to_string()]))?;
    wait_for(
        "the program is the consumer",
        Duration::from_secs(10),
        || {
            ensure!(
                program.running()?,
                "it ended at once: {:?}",
                program.written()
            );
            Ok(daemon.stats()?.attachment("camera")?.text("state") != "idle")
        },
    )?;
    let traffic = Traffic {
        payload: PAYLOAD,
        ..Traffic::paced(5000, packets, 5000)
    };
    Sender::start(link, traffic)?.finish()?;
    let output = program
        .wait(Duration::from_secs(10))
        .with_context(|| format!("{:?}", daemon.stats()))?;
    let sum: u64 = (0..packets)
        .flat_map(|number| frame::numbered(5000, number, PAYLOAD).split_off(frame::HEADERS))
        .map(u64::from)
        .sum();
    let want = format!(
        "{packets} packets, {} bytes of header, payload adds up to {sum}, 0 chunks held\n",
        frame::HEADERS as u64 * packets
    );
    // Valgrind names every descriptor that is open at the end, also those it began with.
    let count = |text| output.stderr.matches(text).count();
    ensure!(
        output.status.success()
            && output.stdout == want
            && count("Open ") == count("<inherited from parent>"),
        "expected {want:?}: {output:?}"
    );
    let entry = daemon.check_sums()?.attachment("camera")?;
    ensure!(
        entry.count("returned")? == packets && entry.refused() == 0,
        "not every chunk came back: {}",
        entry.json()
    );
    daemon.detach_and_check("camera")?;
    Ok(())
}

#[test]
fn the_example_receives_a_stream_and_is_clean_under_valgrind() {
    lane::test(|| {
        let sdk = Sdk::install()?;
        let program = sdk.build("cc", &[], &capi().join("examples/recv.c"))?;
        let link = Link::new(LinkSpec::default())?;
        let daemon = Daemon::start(&link)?;
        let socket = daemon.socket();
        receive(&daemon, &link, sdk.command(&program, &socket), 5000)?;
        let mut valgrind = sdk.command("valgrind".as_ref(), &socket);
        valgrind
            .args([
                "--quiet",
                "--error-exitcode=9",
                "--leak-check=full",
                "--show-leak-kinds=all",
                "--errors-for-leak-kinds=all",
                "--track-fds=yes",
            ])
            .arg(&program);
        receive(&daemon, &link, valgrind, 2000)
    });
}
