//! Measures devrx beside DPDK in a guest. `cargo xtask bench guest` calls this.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use devrx_hw_tests::bench::table::Measured;
use devrx_hw_tests::bench::{marks, peer};
use devrx_hw_tests::command::run_ok;
use devrx_hw_tests::guest::kernel;
use devrx_hw_tests::guest::message::Verdict;
use devrx_hw_tests::guest::packages::{self, Apt, progress};
use devrx_hw_tests::guest::qemu::Options;
use devrx_hw_tests::guest::run::{Programs, run};
use devrx_hw_tests::guest::trixie::{self, Tree};
use devrx_hw_tests::guest_tests::Test;
use devrx_hw_tests::guest_tests::bench::{COUNTS, FOUND, ICE_COUNTS, RATES, ROUND};
use devrx_hw_tests::trust::prepare;

/// Measures.
#[derive(Parser)]
struct Arguments {
    /// The `devrx` program, linked statically, built with `--cfg devrx_bench_marks`.
    #[arg(long)]
    devrx: PathBuf,
    /// The `devrx-guest` program, linked statically.
    #[arg(long)]
    guest: PathBuf,
    /// The folder of `mark.c` and `dpdk_rx.c`.
    #[arg(long)]
    sources: PathBuf,
    /// Where the results go as JSON.
    #[arg(long)]
    json: PathBuf,
    /// The guest's kernel.
    #[arg(long, default_value = "6.12")]
    kernel: String,
    /// Only measurements with this in their names.
    #[arg(long)]
    filter: Option<String>,
    /// Only the rates, with DPDK's side in this folder: how this program calls itself, to read what guests print.
    #[arg(long, hide = true)]
    rates: Option<PathBuf>,
    /// The NIC: `igb` (QEMU's 82576) or `e810` (the model, on a newer QEMU, Linux and DPDK).
    #[arg(long, default_value = "igb")]
    nic: String,
    /// The `e810-server` program.
    #[arg(long)]
    e810: Option<PathBuf>,
    /// Also write which instructions devrx's worker executes, by address, to this file.
    #[arg(long)]
    profile: Option<PathBuf>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match &arguments.rates {
        Some(folder) => rates(&arguments, folder),
        None if arguments.nic == "e810" => measure_e810(&arguments),
        None => measure(&arguments),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("guest bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &Arguments) -> Result<bool> {
    let cache = packages::cache()?;
    let work = tempfile::tempdir()?;
    let (kernel, peer) = {
        let _turn = packages::lock(&cache)?;
        match prepare(arguments, &cache, work.path()) {
            Ok(Ok(prepared)) => prepared,
            Ok(Err(reason)) => {
                println!("bench guest: skipped: {reason}");
                return Ok(true);
            }
            Err(error) => {
                println!("bench guest: skipped: what it needs cannot be had: {error:#}");
                return Ok(true);
            }
        }
    };
    let marks = work.path().join("marks");
    let mut plugin = format!("{},out={}", peer.plugin.display(), marks.display());
    if arguments.profile.is_some() {
        plugin += ",profile=17";
    }
    let options = Options {
        plugin: Some(plugin),
        ..Options::default()
    };
    let counted = in_guest(arguments, &kernel, COUNTS, &peer.folder, options)?;
    let (climbed, found) = rates_apart(&peer.folder)?;
    let ok = counted && climbed;
    let text = std::fs::read_to_string(&marks).unwrap_or_default();
    let measured = Measured {
        kernel: kernel.release.clone(),
        nic: format!("igb (QEMU {}'s 82576)", qemu()?),
        dpdk: peer.version.clone(),
        packets: ROUND,
        counted: marks::read(&text),
        rates: found,
    };
    report(arguments, &measured, &text)?;
    // What is counted does not depend on how busy the machine is, so it can be held to what is promised.
    if measured.at_most_half() == Some(false) {
        progress("FAILED: devrx takes more than half of the instructions of DPDK");
        return Ok(false);
    }
    Ok(ok)
}

/// The same with the E810, but for rates: the model is no measure of those.
fn measure_e810(arguments: &Arguments) -> Result<bool> {
    let cache = packages::cache()?;
    let work = tempfile::tempdir()?;
    let (kernel, tree, plugin, extra) = {
        let _turn = packages::lock(&cache)?;
        match prepare_e810(arguments, &cache, work.path()) {
            Ok(Ok(prepared)) => prepared,
            Ok(Err(reason)) => {
                println!("bench guest: skipped: {reason}");
                return Ok(true);
            }
            Err(error) => {
                println!("bench guest: skipped: what it needs cannot be had: {error:#}");
                return Ok(true);
            }
        }
    };
    let marks = work.path().join("marks");
    let mut plugin = format!("{},out={}", plugin.display(), marks.display());
    if arguments.profile.is_some() {
        plugin += ",profile=17";
    }
    let folder = work.path().join("nothing");
    std::fs::create_dir(&folder)?;
    let dpdk = prepare::dpdk_version(&tree)?;
    let nic = format!("the E810 model (on QEMU {})", tree.version_text()?);
    let options = Options {
        plugin: Some(plugin),
        qemu: Some(tree),
        e810: arguments.e810.clone(),
        extra: Some(extra),
        ..Options::default()
    };
    let ok = in_guest(arguments, &kernel, ICE_COUNTS, &folder, options)?;
    let text = std::fs::read_to_string(&marks).unwrap_or_default();
    let measured = Measured {
        kernel: kernel.release.clone(),
        nic,
        dpdk,
        packets: ROUND,
        counted: marks::read(&text),
        rates: Vec::new(),
    };
    report(arguments, &measured, &text)?;
    Ok(ok)
}

/// Says what was found, and writes it down.
fn report(arguments: &Arguments, measured: &Measured, marks: &str) -> Result<()> {
    if let Some(profile) = &arguments.profile {
        std::fs::write(profile, marks)?;
    }
    println!("\n{}", measured.text());
    let json = serde_json::to_string_pretty(&measured.json())?;
    std::fs::write(&arguments.json, json)
        .with_context(|| format!("cannot write {}", arguments.json.display()))?;
    progress(&format!("the same as JSON: {}", arguments.json.display()));
    Ok(())
}

/// Runs measurements; whether all of them could be made.
fn in_guest(
    arguments: &Arguments,
    kernel: &kernel::Kernel,
    tests: &[Test],
    folder: &Path,
    options: Options,
) -> Result<bool> {
    let programs = Programs {
        devrx: arguments.devrx.clone(),
        guest: arguments.guest.clone(),
        // Whatever is in this folder is in the guest.
        captures: folder.to_owned(),
    };
    let filter = arguments.filter.as_deref().unwrap_or_default();
    let wanted = |test: &&Test| test.name.contains(filter);
    let tests: Vec<Test> = tests.iter().filter(wanted).copied().collect();
    let results = run(kernel, &tests, &programs, &options, false)?;
    Ok(results
        .iter()
        .all(|result| result.verdict == Verdict::Passed))
}

fn rates(arguments: &Arguments, folder: &Path) -> Result<bool> {
    let cache = packages::cache()?;
    let apt = Apt::new(&cache)?.map_err(anyhow::Error::msg)?;
    let kernels = kernel::all(&apt, &cache, Some(&arguments.kernel))?;
    in_guest(arguments, &kernels[0], RATES, folder, Options::default())
}

/// Runs this program once more for the rates, and picks what was found from what it prints.
fn rates_apart(folder: &Path) -> Result<(bool, Vec<serde_json::Value>)> {
    let mut again = Command::new(std::env::current_exe()?);
    again.args(std::env::args_os().skip(1));
    again.arg("--rates").arg(folder).stdout(Stdio::piped());
    let mut child = again.spawn()?;
    let mut found = Vec::new();
    for line in BufReader::new(child.stdout.take().context("no pipe")?).lines() {
        let line = line?;
        match found_in(&line) {
            Some(json) => found.push(serde_json::from_str(json)?),
            None => println!("{line}"),
        }
    }
    let ok = child.wait()?.success();
    ensure!(
        !ok || !found.is_empty(),
        "no rate is among what was printed"
    );
    Ok((ok, found))
}

/// What was found, in a line that a guest prints: indented, behind its kernel's name.
fn found_in(line: &str) -> Option<&str> {
    let (_, said) = line.strip_prefix("    ")?.split_once(": ")?;
    said.strip_prefix(FOUND)
}

type Prepared = (kernel::Kernel, peer::Peer);

/// What the measurements need, or the reason why that cannot be.
fn prepare(arguments: &Arguments, cache: &Path, work: &Path) -> Result<Result<Prepared, String>> {
    let apt = match Apt::new(cache)? {
        Ok(apt) => apt,
        Err(reason) => return Ok(Err(reason)),
    };
    if let Some(reason) = apt.install()? {
        return Ok(Err(reason));
    }
    apt.update()?;
    let kernel = kernel::all(&apt, cache, Some(&arguments.kernel))?
        .pop()
        .context("no kernel")?;
    let peer = peer::build(&apt, cache, &arguments.sources, work)?;
    Ok(Ok((kernel, peer)))
}

/// Kernel, QEMU, plugin, and the part of the initramfs with DPDK's side.
type PreparedE810 = (kernel::Kernel, Tree, PathBuf, PathBuf);

/// What the measurements on the E810 need, or the reason why that cannot be.
fn prepare_e810(
    arguments: &Arguments,
    cache: &Path,
    work: &Path,
) -> Result<Result<PreparedE810, String>> {
    let apt = match Apt::new(cache)? {
        Ok(apt) => apt,
        Err(reason) => return Ok(Err(reason)),
    };
    if let Some(reason) = apt.install()? {
        return Ok(Err(reason));
    }
    apt.update()?;
    let tree = match trixie::tree(cache)? {
        Ok(tree) => tree,
        Err(reason) => return Ok(Err(reason)),
    };
    let kernel = kernel::newest(&apt, cache)?;
    let plugin = peer::only_plugin(&apt, cache, &arguments.sources, work)?;
    let extra = work.join("extra.cpio");
    let archive = prepare::bench(&tree, &kernel, &arguments.sources, work)?;
    std::fs::write(&extra, archive)?;
    Ok(Ok((kernel, tree, plugin, extra)))
}

fn qemu() -> Result<String> {
    let mut ask = Command::new("qemu-system-x86_64");
    let said = run_ok(ask.arg("--version"), Duration::from_secs(20))?.stdout;
    let version = said.split_whitespace().nth(3).unwrap_or("unknown");
    Ok(version.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_found_is_told_from_what_is_printed() {
        let line = r#"    6.12: found {"lossless":400000,"who":"dpdk"}"#;
        let json = found_in(line).unwrap_or_default();
        assert_eq!(json, r#"{"lossless":400000,"who":"dpdk"}"#);
        for line in ["ok 6.12: found 1.0 s", "    6.12: dpdk: found none", ""] {
            assert_eq!(found_in(line), None);
        }
    }
}
