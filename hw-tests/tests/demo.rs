//! The first thing a newcomer runs.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use devrx_hw_tests::command::{run, run_ok};
use devrx_hw_tests::{capture, lane, pcap};
use serde_json::Value;

fn namespaces() -> Result<String> {
    Ok(devrx_hw_tests::command::sh("ip netns list")?.stdout)
}

/// Runs `devrx demo --json` and checks what must hold whatever it sent.
fn demo(more: &[&str]) -> Result<Value> {
    let before = namespaces()?;
    let mut command = Command::new(lane::binary()?);
    command.args(["demo", "--json"]).args(more);
    let output = run_ok(&mut command, Duration::from_secs(30))?;
    let object = output.json()?;
    let count = |key: &str| {
        object[key]
            .as_u64()
            .with_context(|| format!("no number {key} in {object}"))
    };
    let drops = object["drops"]
        .as_object()
        .with_context(|| format!("no drops in {object}"))?;
    let dropped: u64 = drops.values().filter_map(Value::as_u64).sum();
    ensure!(object["ok"] == true, "not ok: {object}");
    ensure!(
        count("sent")? > 0 && count("delivered")? + dropped == count("sent")?,
        "does not add up: {object}"
    );
    ensure!(
        count("verified")? == count("delivered")?,
        "delivered, but not verified: {object}"
    );
    ensure!(
        object["packets_per_second"]
            .as_f64()
            .is_some_and(|rate| rate > 0.0),
        "no rate: {object}"
    );
    ensure!(
        count("payload_bytes_copied")? > 0,
        "veth is copy mode: {object}"
    );
    ensure!(
        namespaces()? == before,
        "the demo left a namespace: {}",
        namespaces()?
    );
    Ok(object)
}

#[test]
fn the_demo_is_ok() {
    lane::test(|| demo(&["--seconds", "3"]).map(drop));
}

#[test]
fn the_demo_takes_a_users_capture() {
    lane::test(|| {
        for name in ["tcp", "vlan", "fragments"] {
            let file = capture::scapy_file(name)?;
            let path = file.to_str().context("path")?;
            let object = demo(&["--pcap", path, "--seconds", "1"])
                .with_context(|| format!("capture {name}"))?;
            let frames = pcap::read(&file)?.len() as u64;
            ensure!(
                object["sent"].as_u64().is_some_and(|sent| sent >= frames),
                "{frames} frames in the file: {object}"
            );
        }
        Ok(())
    });
}

#[test]
fn the_demo_says_what_is_wrong_with_a_capture() {
    lane::test(|| {
        let folder = tempfile::tempdir()?;
        let garbage = folder.path().join("garbage.pcap");
        std::fs::write(
            &garbage,
            b"this is no capture at all, whatever its name says",
        )?;
        for path in [garbage, folder.path().join("missing.pcap")] {
            let mut command = Command::new(lane::binary()?);
            let output = run(
                command.args(["demo", "--json", "--pcap"]).arg(&path),
                Duration::from_secs(20),
            )?;
            ensure!(!output.status.success(), "accepted {}", path.display());
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .context("name")?;
            ensure!(
                output.stderr.contains(name),
                "the error does not name the file: {}",
                output.stderr
            );
        }
        Ok(())
    });
}
