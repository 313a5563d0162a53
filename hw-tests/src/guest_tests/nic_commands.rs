//! `devrx nic list`, `bind`, `unbind` and `devrx doctor`, on functions that a guest really has.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{Driver, Test};
use crate::command::{Output, run, sh, wait_for};
use crate::inside::{DEVRX, Host, devices};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::new(
        "nic_bind_takes_a_82576_from_linux_and_unbind_gives_it_back",
        there_and_back,
    )
    .igb(Driver::Linux)
    .limit(60),
    Test::new("nic_unbind_is_refused_while_a_process_has_the_nic", held),
    Test::new(
        "doctor_says_that_vfio_can_work_and_which_nics_are_ready",
        doctor,
    ),
    Test::new(
        "nic_list_tells_what_virtual_functions_can_do",
        virtual_functions,
    )
    .igb(Driver::Linux)
    .limit(60),
];

/// Runs the program and shows what it said.
pub(super) fn devrx(line: &str) -> Result<Output> {
    println!("# devrx {line}");
    let output = run(
        Command::new(DEVRX).args(line.split_whitespace()),
        Duration::from_secs(50),
    )?;
    print!("{}{}", output.stdout, output.stderr);
    Ok(output)
}

/// The same, where it must succeed; its JSON.
pub(super) fn ok(line: &str) -> Result<Value> {
    let output = devrx(&format!("{line} --json"))?;
    ensure!(output.status.success(), "{line}: {}", output.status);
    output.json()
}

/// The same, where it must fail and say each of `words`.
pub(super) fn refused(line: &str, words: &[&str]) -> Result<()> {
    let output = devrx(line)?;
    ensure!(output.status.code() == Some(1), "{line}: {}", output.status);
    for word in words {
        ensure!(output.stderr.contains(word), "{line} does not say {word:?}");
    }
    Ok(())
}

/// What `nic list` says of a function.
fn listed(pci: &str) -> Result<Value> {
    let list = ok("nic list")?;
    let functions = list["functions"].as_array().context("no functions")?;
    let found = functions.iter().find(|function| function["pci"] == pci);
    found.cloned().context("it is not in the list")
}

fn there_and_back(host: &mut Host) -> Result<()> {
    let pci = host.pci("igb0")?;
    let group = devices::group(&pci)?;
    let before = listed(&pci)?;
    ensure!(
        before["driver"] == "igb"
            && before["id"] == "8086:10c9"
            && before["part"] == "82576 copper"
            && before["devrx_driver"] == "igb"
            && before["iommu_group"] == group
            && before["interfaces"][0] == "igb0"
            && before["state"]["is"] == "bindable",
        "{before}"
    );
    refused(&format!("nic bind {pci}"), &["igb0 is up", "--force"])?;
    ensure!(devices::driver(&pci).as_deref() == Some("igb"));
    sh("ip link set igb0 down")?;
    devrx(&format!("nic bind {pci}"))?;
    ensure!(devices::driver(&pci).as_deref() == Some("vfio-pci"));
    let bound = listed(&pci)?;
    ensure!(
        bound["driver"] == "vfio-pci"
            && bound["state"]["is"] == "ready"
            && bound["interfaces"] == serde_json::json!([]),
        "{bound}"
    );
    let again = ok(&format!("nic bind {pci}"))?;
    ensure!(
        again["already"] == true && again["bound"] == true,
        "{again}"
    );
    devrx("nic list")?;
    devrx(&format!("nic unbind {pci}"))?;
    ensure!(devices::driver(&pci).as_deref() == Some("igb"));
    let again = ok(&format!("nic unbind {pci}"))?;
    ensure!(
        again["already"] == true && again["driver"] == "igb",
        "{again}"
    );
    // By force, from under an interface that is up.
    let name = devices::interface(&pci)?;
    sh(&format!("ip link set {name} up"))?;
    let forced = ok(&format!("nic bind --force {pci}"))?;
    ensure!(
        forced["driver_before"] == "igb"
            && forced["cut_off"].to_string().contains("is up")
            && forced["interfaces_gone"][0] == name.as_str(),
        "{forced}"
    );
    let back = ok(&format!("nic unbind {pci}"))?;
    ensure!(
        back["driver"] == "igb" && back["noted"] == true && back["unbound"] == true,
        "{back}"
    );
    devices::interface(&pci)?;
    Ok(())
}

fn held(host: &mut Host) -> Result<()> {
    let pci = host.pci("igb0")?;
    let node = format!("/dev/vfio/{}", devices::group(&pci)?);
    let group = std::fs::File::options()
        .read(true)
        .write(true)
        .open(&node)?;
    let pid = std::process::id();
    refused(
        &format!("nic unbind {pci}"),
        &["IOMMU group", &format!("(pid {pid})"), "end that first"],
    )?;
    ensure!(devices::driver(&pci).as_deref() == Some("vfio-pci"));
    let listed = listed(&pci)?;
    ensure!(listed["used_by"][0]["pid"] == pid, "{listed}");
    drop(group);
    let back = ok(&format!("nic unbind {pci}"))?;
    ensure!(back["noted"] == false && back["unbound"] == true, "{back}");
    ensure!(devices::driver(&pci).as_deref() != Some("vfio-pci"));
    ok(&format!("nic bind --force {pci}"))?;
    ensure!(devices::driver(&pci).as_deref() == Some("vfio-pci"));
    Ok(())
}

fn doctor(host: &mut Host) -> Result<()> {
    let report = ok("doctor")?;
    ensure!(
        report["vfio_ok"] == true && report["ok"] == true,
        "{report}"
    );
    let checks = report["checks"].as_array().context("no checks")?;
    for name in [
        "iommu",
        "vfio_pci",
        "vfio",
        "device_memory",
        "udmabuf",
        "hugepages",
    ] {
        let check = checks.iter().find(|check| check["name"] == name);
        ensure!(
            check.is_some_and(|check| check["ok"] == true),
            "{name}: {check:?}"
        );
    }
    let functions = report["functions"].as_array().context("no functions")?;
    for nic in ["igb0", "igb1"] {
        let pci = host.pci(nic)?;
        let found = functions
            .iter()
            .find(|function| function["pci"] == pci.as_str());
        ensure!(
            found.is_some_and(|found| found["state"]["is"] == "ready"),
            "{pci}: {found:?}"
        );
    }
    devrx("doctor")?;
    Ok(())
}

fn virtual_functions(host: &mut Host) -> Result<()> {
    let pci = host.pci("igb0")?;
    let file = format!("/sys/bus/pci/devices/{pci}/sriov_numvfs");
    std::fs::write(&file, "2").context("the igb driver makes no virtual functions")?;
    let mut found = Vec::new();
    wait_for("two virtual functions", Duration::from_secs(5), || {
        let list = ok("nic list")?;
        let all = list["functions"].as_array().context("no functions")?;
        found = all
            .iter()
            .filter(|function| function["physical_function"] == pci.as_str())
            .cloned()
            .collect();
        Ok(found.len() == 2)
    })?;
    for function in &found {
        ensure!(
            function["part"] == "82576 virtual function"
                && function["devrx_driver"].is_null()
                && function["state"]["is"] == "unknown"
                && function["notes"]
                    .to_string()
                    .contains("a virtual function of"),
            "{function}"
        );
    }
    let physical = listed(&pci)?;
    ensure!(
        physical["virtual_functions"] == serde_json::json!({ "total": 7, "enabled": 2 })
            && physical["state"]["is"] == "blocked",
        "{physical}"
    );
    devrx("nic list")?;
    refused(
        &format!("nic bind --force {pci}"),
        &["2 virtual functions", "sriov_numvfs"],
    )?;
    std::fs::write(&file, "0")?;
    let physical = listed(&pci)?;
    ensure!(
        physical["virtual_functions"]["enabled"] == 0 && physical["state"]["is"] == "bindable",
        "{physical}"
    );
    Ok(())
}
