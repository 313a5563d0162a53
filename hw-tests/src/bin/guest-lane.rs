//! The guest lane: fetches what guests need, boots them, has them run their tests. `cargo xtask guest` calls this.

use std::panic::resume_unwind;
use std::path::PathBuf;
use std::process::ExitCode;
use std::thread;

use anyhow::{Result, ensure};
use clap::Parser;
use devrx_hw_tests::capture;
use devrx_hw_tests::guest::kernel::{self, Kernel};
use devrx_hw_tests::guest::message::Verdict;
use devrx_hw_tests::guest::packages::{self, Apt, progress};
use devrx_hw_tests::guest::qemu::Options;
use devrx_hw_tests::guest::run::{Programs, run};
use devrx_hw_tests::guest_tests::{self, Test};
use devrx_hw_tests::lane::cpus;

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
    let keep = arguments.keep || arguments.trace;
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for results in side_by_side(&kernels, |kernel| {
        run(kernel, &tests, &programs, &options, keep)
    }) {
        for result in results? {
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

/// What `work` makes of each kernel: at once where there is a CPU for each, as a guest has one; else one after another.
fn side_by_side<T: Send>(kernels: &[Kernel], work: impl Fn(&Kernel) -> T + Sync) -> Vec<T> {
    if cpus() < kernels.len() {
        return kernels.iter().map(work).collect();
    }
    thread::scope(|scope| {
        let started: Vec<_> = kernels
            .iter()
            .map(|kernel| scope.spawn(|| work(kernel)))
            .collect();
        started
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
            .collect()
    })
}

/// QEMU installed and the kernels ready, or the reason why that cannot be.
fn prepare(
    cache: &std::path::Path,
    only: Option<&str>,
) -> Result<std::result::Result<Vec<Kernel>, String>> {
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
