//! The guest lane: fetches what guests need, boots them, has them run their tests. `cargo xtask guest` calls this.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use devrx_hw_tests::capture;
use devrx_hw_tests::guest::kernel;
use devrx_hw_tests::guest::message::Verdict;
use devrx_hw_tests::guest::packages::{self, Apt, progress};
use devrx_hw_tests::guest::qemu::Options;
use devrx_hw_tests::guest::run::{Programs, run};
use devrx_hw_tests::guest_tests::{self, Test};

/// Runs the tests of the guest lane.
#[derive(Parser)]
struct Arguments {
    /// The `devrx` program, linked statically.
    #[arg(long)]
    devrx: PathBuf,
    /// The `devrx-guest` program, linked statically.
    #[arg(long)]
    guest: PathBuf,
    /// Only on the kernel of this name, for example 6.12.
    #[arg(long)]
    kernel: Option<String>,
    /// Only tests with this in their names.
    #[arg(long)]
    filter: Option<String>,
    /// Keep the guests' files: console, QEMU's messages, initramfs.
    #[arg(long)]
    keep: bool,
    /// Write accesses to registers that QEMU's 82576 does not know to `qemu.log`; implies --keep.
    #[arg(long)]
    trace: bool,
    /// A TCG plugin for QEMU, with its arguments.
    #[arg(long)]
    plugin: Option<String>,
    /// List the tests and end.
    #[arg(long)]
    list: bool,
}

fn main() -> ExitCode {
    match lane(&Arguments::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("guest lane: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn lane(arguments: &Arguments) -> Result<bool> {
    let wanted = |test: &Test| {
        arguments
            .filter
            .as_ref()
            .is_none_or(|filter| test.name.contains(filter.as_str()))
    };
    let tests: Vec<Test> = guest_tests::all().into_iter().filter(wanted).collect();
    if arguments.list {
        for test in &tests {
            println!("{} ({})", test.name, test.machine.name);
        }
        return Ok(true);
    }
    ensure!(!tests.is_empty(), "no test has this in its name");
    let cache = packages::cache()?;
    let prepared = {
        let _turn = packages::lock(&cache)?;
        prepare(&cache, arguments.kernel.as_deref())?
    };
    let kernels = match prepared {
        Ok(kernels) => kernels,
        Err(reason) => {
            println!("guest lane cannot run: {reason}");
            return Ok(true);
        }
    };
    let programs = Programs {
        devrx: arguments.devrx.clone(),
        guest: arguments.guest.clone(),
        captures: capture::scapy()?.to_owned(),
    };
    let options = Options {
        trace: arguments.trace,
        plugin: arguments.plugin.clone(),
        ..Options::default()
    };
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for kernel in &kernels {
        let keep = arguments.keep || arguments.trace;
        for result in run(kernel, &tests, &programs, &options, keep)? {
            match result.verdict {
                Verdict::Passed => passed += 1,
                Verdict::Failed(_) => failed += 1,
                Verdict::Skipped(_) => skipped += 1,
            }
        }
    }
    progress(&format!(
        "{passed} passed, {failed} failed, {skipped} skipped"
    ));
    Ok(failed == 0)
}

/// QEMU installed and the kernels ready, or the reason why that cannot be.
fn prepare(
    cache: &std::path::Path,
    only: Option<&str>,
) -> Result<std::result::Result<Vec<kernel::Kernel>, String>> {
    let apt = match Apt::new(cache)? {
        Ok(apt) => apt,
        Err(reason) => return Ok(Err(reason)),
    };
    if let Some(reason) = apt.install()? {
        return Ok(Err(reason));
    }
    if let Err(error) = apt.update() {
        return Ok(Err(format!("the package lists cannot be had: {error:#}")));
    }
    kernel::all(&apt, cache, only).map(Ok)
}
