//! `devrx selftest` and `devrx send --nic`, on QEMU's 82576 and on the E810 by the model.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::nic_commands::{devrx, ok, refused};
use super::{Driver, Test};
use crate::command::wait_for;
use crate::guest::machine::E810;
use crate::inside::igb::{self, is_e810};
use crate::inside::{CAPTURES, Host};
use crate::pcap;
use crate::trust::tools::{Mode, dma_faults, firmware, nothing_refused};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::new("selftest_passes_on_an_82576", passes).limit(90),
    Test::new("selftest_without_vfio_is_refused", refused_to_linux).igb(Driver::Linux),
    Test::new("send_through_an_owned_nic_puts_frames_on_the_wire", send).limit(60),
];

/// Those of the E810, by the model.
pub const E810_TESTS: &[Test] = &[
    Test::new("e810_selftest_passes", passes)
        .on(E810)
        .limit(120),
    Test::new("e810_selftest_notices_faults", notices)
        .on(E810)
        .limit(240),
    Test::new("e810_send_puts_frames_on_the_wire", send)
        .on(E810)
        .limit(60),
];

fn passes(host: &mut Host) -> Result<()> {
    let nic = igb::nic(host);
    let pci = host.pci(nic)?;
    if is_e810(host) {
        firmware(Mode::Full)?;
        let looked = devrx("doctor")?;
        ensure!(
            looked.stdout.contains(&pci) && looked.stdout.contains("E810-C for QSFP"),
            "doctor does not know the card"
        );
    }
    host.forget_seen(nic)?;
    let output = devrx(&format!("selftest {pci}"))?;
    ensure!(
        output.status.success() && output.stdout.trim_end().ends_with("\nok"),
        "{}",
        output.status
    );
    // The NIC keeps nothing of it, by either name.
    let report = ok(&format!("selftest vfio:{pci}"))?;
    ensure!(
        report["ok"] == true && report["nic"] == pci.as_str(),
        "{report}"
    );
    let checks = report["checks"].as_array().context("no checks")?;
    ensure!(
        checks.len() >= 14 && checks.iter().all(|check| check["ok"] == true),
        "{report}"
    );
    // Everything stayed within the card.
    ensure!(host.seen_count(nic)? == 0, "frames went to the wire");
    clean(host)
}

/// An E810 did only what it was given memory for, and took all that it was told.
fn clean(host: &mut Host) -> Result<()> {
    if is_e810(host) {
        ensure!(dma_faults()? == 0, "DMA faults");
        nothing_refused(host)?;
    }
    Ok(())
}

/// Each fault of the card makes its check fail, and the card is as it was without; so does a package that is missing.
fn notices(host: &mut Host) -> Result<()> {
    firmware(Mode::Full)?;
    let pci = host.pci(igb::nic(host))?;
    for (fault, check) in [
        ("split-off-by-one", "split_udp_ipv4"),
        ("transmit-garbled", "no_split"),
        ("no-loopback", "split_udp_ipv4"),
        ("fail-command:0c31", ""),
        ("none", ""),
    ] {
        host.card(igb::nic(host), &format!("fault {fault}"))?;
        let noticed = match check {
            // A queue that does not stop costs a reset by the bus at its end, and no check.
            "" => ok(&format!("selftest {pci}")).map(drop),
            _ => refused(&format!("selftest {pci}"), &["did not pass", check]),
        };
        host.card(igb::nic(host), "fault none")?;
        noticed.with_context(|| fault.to_owned())?;
    }
    firmware(Mode::Safe)?;
    let safe = refused(&format!("selftest {pci}"), &["did not pass: package"]);
    firmware(Mode::Full)?;
    safe?;
    ensure!(dma_faults()? == 0, "DMA faults");
    Ok(())
}

fn refused_to_linux(host: &mut Host) -> Result<()> {
    let pci = host.pci("igb0")?;
    refused(
        &format!("selftest {pci}"),
        &["its driver is igb", "devrx nic bind"],
    )
}

fn send(host: &mut Host) -> Result<()> {
    let nic = igb::nic(host);
    let pci = host.pci(nic)?;
    let mac = host.machine().nic(nic).context("no NIC")?.mac();
    host.forget_seen(nic)?;
    let sent = ok(&format!(
        "send --nic vfio:{pci} --udp 10.9.0.1:5000 --size 300 --count 50 --rate 1000"
    ))?;
    ensure!(sent["sent"] == 50 && sent["bytes"] == 50 * 300, "{sent}");
    wait_for("fifty frames", Duration::from_secs(5), || {
        Ok(host.seen_count(nic)? >= 50)
    })?;
    let frames = host.seen(nic)?;
    ensure!(frames.len() == 50, "{} frames", frames.len());
    for (number, frame) in frames.iter().enumerate() {
        ensure!(
            frame.len() == 342
                && frame[6..12] == mac
                && frame[30..34] == [10, 9, 0, 1]
                && frame[36..38] == 5000_u16.to_be_bytes()
                && frame[42..50] == (number as u64).to_be_bytes(),
            "frame {number}: {frame:02x?}"
        );
    }
    host.forget_seen(nic)?;
    // Not one with headers cut off, which QEMU's 82576 does not send.
    let file = format!("{CAPTURES}/tcp.pcap");
    let wanted = pcap::read(std::path::Path::new(&file))?;
    let sent = ok(&format!("send --nic {pci} --pcap {file}"))?;
    ensure!(sent["sent"] == wanted.len(), "{sent}");
    wait_for("the capture", Duration::from_secs(5), || {
        Ok(host.seen_count(nic)? >= wanted.len() as u64)
    })?;
    let seen = host.seen(nic)?;
    for (number, (seen, wanted)) in seen.iter().zip(&wanted).enumerate() {
        // Silicon and the E810's driver pad the short ones, QEMU does not.
        ensure!(
            seen.starts_with(wanted) && (seen == wanted || seen.len() == 60),
            "frame {number} is {seen:02x?}, not {wanted:02x?}"
        );
    }
    refused(
        &format!("send --nic {pci} --udp 10.9.0.1:5000 --size 20000 --count 1"),
        &["20042", "14 to 9724 bytes"],
    )?;
    clean(host)
}
