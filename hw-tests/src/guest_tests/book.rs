//! The session that the book's chapter on VFIO shows.

use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;

use super::nic_commands::devrx;
use super::{Driver, Test};
use crate::command::{Process, sh};
use crate::daemon::Daemon;
use crate::guest::machine::IVSHMEM;
use crate::guest::message::Frames;
use crate::inside::{DEVRX, Host};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::new("the_session_of_the_book_s_chapter_on_vfio", session)
        .igb(Driver::Linux)
        .limit(90),
];

fn session(host: &mut Host) -> Result<()> {
    let pci = host.pci("igb0")?;
    let good = |line: &str| -> Result<String> {
        let output = devrx(line)?;
        ensure!(output.status.success(), "{line}: {}", output.status);
        Ok(output.stdout)
    };
    ensure!(!devrx(&format!("nic bind {pci}"))?.status.success());
    sh("ip link set igb0 down")?;
    good(&format!("nic bind {pci}"))?;
    let daemon = Daemon::start_here(&[&format!("vfio:{pci}")])?;
    let at = format!("--socket {}", daemon.socket().display());
    let unbound = devrx(&format!("nic unbind {pci} {at}"))?;
    ensure!(
        !unbound.status.success() && unbound.stderr.contains("daemon"),
        "a NIC in use was given back"
    );
    good(&format!("nic list {at}"))?;
    for (name, memory) in [
        ("shared", "udmabuf".to_owned()),
        ("device", format!("pci:{IVSHMEM}/2")),
    ] {
        good(&format!(
            "attach --name {name} --nic {pci} --queue 0 --memory {memory} --size 4M --chunk 2048 --flow any {at}"
        ))?;
        let recv = Process::start(
            Command::new(DEVRX)
                .args(["recv", name, "--count", "1000", "--timeout", "20"])
                .args(at.split_whitespace()),
        )?;
        let frames = Frames::Numbered {
            port: 5000,
            first: 0,
            count: 1000,
            payload: 1200,
        };
        host.inject("igb0", frames, Some(2000))?;
        host.injected("igb0", Duration::from_secs(15))?;
        let received = recv.wait(Duration::from_secs(20))?;
        print!("{}{}", received.stdout, received.stderr);
        ensure!(received.status.success());
        ensure!(received.stdout.contains("1200000 of payload"));
        let stats = good(&format!("stats {name} {at}"))?;
        ensure!(stats.contains("1000 packets delivered"), "{stats}");
        good(&format!("detach {name} {at}"))?;
    }
    daemon.end(Signal::SIGTERM, Duration::from_secs(10))?;
    good(&format!("nic unbind {pci}"))?;
    Ok(())
}
