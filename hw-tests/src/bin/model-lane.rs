//! The model lane's part in guests: other people's drivers on the E810 model. `cargo xtask test model` calls this.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Result, ensure};
use clap::Parser;
use devrx_hw_tests::capture;
use devrx_hw_tests::guest::kernel::{self, Kernel};
use devrx_hw_tests::guest::message::Verdict;
use devrx_hw_tests::guest::packages::{self, Apt, progress};
use devrx_hw_tests::guest::qemu::Options;
use devrx_hw_tests::guest::run::{Programs, run};
use devrx_hw_tests::guest::trixie::{self, Tree};
use devrx_hw_tests::guest_tests::Test;
use devrx_hw_tests::trust;

/// Runs other people's drivers on the E810 model.
#[derive(Parser)]
struct Arguments {
    /// The `devrx` program, linked statically.
    #[arg(long)]
    devrx: PathBuf,
    /// The `devrx-guest` program, linked statically.
    #[arg(long)]
    guest: PathBuf,
    /// The `e810-server` program.
    #[arg(long)]
    e810: PathBuf,
    /// Only tests with this in their names.
    #[arg(long)]
    filter: Option<String>,
    /// Keep the guests' files: console, QEMU's messages, the model's log, initramfs.
    #[arg(long)]
    keep: bool,
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
    let filter = arguments.filter.as_deref().unwrap_or_default();
    let mut tests: Vec<Test> = trust::all();
    tests.retain(|test| test.name.contains(filter));
    if arguments.list {
        for test in &tests {
            println!("{}", test.name);
        }
        return Ok(true);
    }
    ensure!(!tests.is_empty(), "no test has this in its name");
    let cache = packages::cache()?;
    let prepared = {
        let _turn = packages::lock(&cache)?;
        prepare(&cache)?
    };
    let (kernel, tree) = match prepared {
        Ok(prepared) => prepared,
        Err(reason) => {
            println!("guest lane cannot run: {reason}");
            return Ok(true);
        }
    };
    let work = tempfile::tempdir()?;
    let extra = work.path().join("extra.cpio");
    std::fs::write(
        &extra,
        trust::prepare::archive(&tree, &kernel, Path::new("hw-tests/bench"), work.path())?,
    )?;
    let programs = Programs {
        devrx: arguments.devrx.clone(),
        guest: arguments.guest.clone(),
        captures: capture::scapy()?.to_owned(),
    };
    let options = Options {
        qemu: Some(tree),
        e810: Some(arguments.e810.clone()),
        extra: Some(extra),
        ..Options::default()
    };
    let results = run(&kernel, &tests, &programs, &options, arguments.keep)?;
    let count = |kind: fn(&Verdict) -> bool| {
        results
            .iter()
            .filter(|result| kind(&result.verdict))
            .count()
    };
    let failed = count(|verdict| matches!(verdict, Verdict::Failed(_)));
    progress(&format!(
        "{} passed, {failed} failed, {} skipped",
        count(|verdict| matches!(verdict, Verdict::Passed)),
        count(|verdict| matches!(verdict, Verdict::Skipped(_)))
    ));
    Ok(failed == 0)
}

/// A kernel and QEMU, or the reason why they cannot be had.
fn prepare(cache: &Path) -> Result<std::result::Result<(Kernel, Tree), String>> {
    let apt = match Apt::new(cache)? {
        Ok(apt) => apt,
        Err(reason) => return Ok(Err(reason)),
    };
    if let Some(reason) = apt.install_tools()? {
        return Ok(Err(reason));
    }
    if let Err(error) = apt.update() {
        return Ok(Err(format!("the package lists cannot be had: {error:#}")));
    }
    let tree = match trixie::tree(cache)? {
        Ok(tree) => tree,
        Err(reason) => return Ok(Err(reason)),
    };
    Ok(Ok((kernel::newest(&apt, cache)?, tree)))
}
