//! The unit lane: everything that needs nothing but the code.

use std::time::Instant;

use anyhow::Result;

use crate::build::{self, Build, Program, manifests, package_name};
use crate::lane::Tally;
use crate::removal::{self, Kind};
use crate::tests_run::Counter;
use crate::{book, licences, nvrtc, packages, shell};

/// What the C library's tests compile, link and run with comes after the linker and git; as root the AF_XDP driver's tests make interfaces.
const NEEDS: &[packages::Need] = &[
    ("cc", "gcc"),
    ("git", "git"),
    ("c++", "g++"),
    ("pkg-config", "pkg-config"),
    ("valgrind", "valgrind"),
    ("ip", "iproute2"),
];

/// Warnings count with the version that the code is held to. A later one has lints that nobody here has seen, and a fresh clone must not fail for them.
fn lints(tally: &mut Tally) -> Result<()> {
    let mut command = shell::cargo();
    command.args(["clippy", "--locked", "--workspace", "--all-targets"]);
    let wanted = build::rust_version()?;
    let have = build::compiler_version()?;
    let held = minor(&have) == minor(&wanted);
    if held {
        command.args(["--", "--deny", "warnings"]);
    }
    tally.check("lints", shell::run(&mut command)?);
    if !held {
        tally.skip(
            "lints: warnings",
            &format!(
                "the code is held to the lints of Rust {wanted}, and this is {have}: what it warns of is shown above and does not count; \
                 with `rustup toolchain install {wanted}` and `cargo +{wanted} xtask test unit` it does"
            ),
        );
    }
    Ok(())
}

/// 1.95 of 1.95.0.
fn minor(version: &str) -> Vec<&str> {
    version.split('.').take(2).collect()
}

/// Runs the lane.
pub fn run() -> Result<Tally> {
    let mut tally = Tally::default();
    if let Some(missing) = packages::ensure(NEEDS)? {
        tally.skip("tools", &missing);
    }
    timed("format", || {
        let ok = shell::run(shell::cargo().args(["fmt", "--all", "--check"]))?;
        tally.check("format: run `cargo fmt --all`", ok);
        Ok(())
    })?;
    timed("lints", || lints(&mut tally))?;
    timed("tests", || {
        let mut counter = Counter::default();
        // The tests of hw-tests have a lane of their own. `--no-fail-fast`: one failure must not hide the rest.
        let mut command = shell::cargo();
        command.args([
            "test",
            "--locked",
            "--workspace",
            "--exclude",
            "devrx-hw-tests",
            "--no-fail-fast",
        ]);
        match nvrtc::ensure()? {
            Ok(library) => {
                command.env(nvrtc::VARIABLE, library);
            }
            Err(why) => tally.skip("compiling the kernels for a GPU", &why),
        }
        let ok = shell::run_seeing(&mut command, |line| counter.see(line))?;
        counter.add_to(&mut tally, "tests", ok);
        Ok(())
    })?;
    timed("documentation", || {
        let mut command = shell::cargo();
        let ok = shell::run(
            command
                .args(["doc", "--locked", "--workspace", "--no-deps"])
                .env("RUSTDOCFLAGS", "--deny warnings"),
        )?;
        tally.check("documentation", ok);
        Ok(())
    })?;
    timed("book", || book::check(&mut tally))?;
    timed("licences", || licences::check(&mut tally))?;
    timed("loom models", || loom(&mut tally))?;
    timed("protections taken out", || plain_removals(&mut tally))?;
    Ok(tally)
}

/// Says what begins, does it, and says how long it took.
fn timed(name: &str, work: impl FnOnce() -> Result<()>) -> Result<()> {
    let start = Instant::now();
    shell::step(name);
    work()?;
    println!("    {name}: {}", shell::took(start));
    Ok(())
}

/// The models, and the models with a protection taken out, from one build.
fn loom(tally: &mut Tally) -> Result<()> {
    let mut concerned = Vec::new();
    for manifest in manifests()? {
        if std::fs::read_to_string(&manifest)?.contains("loom") {
            concerned.push(package_name(&manifest)?);
        }
    }
    if concerned.is_empty() {
        tally.skip("loom models", "no package has any");
        return Ok(());
    }
    let build = Build {
        packages: &concerned,
        flags: "--cfg loom --cfg devrx_sabotage",
        folder: "loom",
        release: true,
        ..Build::default()
    };
    let programs = build.run()?.tests;
    for program in &programs {
        models(program, tally)?;
    }
    removal::run(
        &removal::list(Kind::Loom)?,
        &programs,
        &[],
        removal::cpus(),
        tally,
    )
}

/// Runs the models of one test program: all tests of a target named for loom, elsewhere those with loom in their path.
fn models(program: &Program, tally: &mut Tally) -> Result<()> {
    let mut command = program.command();
    if !program.target.contains("loom") {
        command.arg("loom");
    }
    let mut counter = Counter::default();
    let ok = shell::run_seeing(&mut command, |line| counter.see(line))?;
    counter.add_to(
        tally,
        &format!("loom models of {} ({})", program.package, program.target),
        ok,
    );
    Ok(())
}

fn plain_removals(tally: &mut Tally) -> Result<()> {
    let removals = removal::list(Kind::Plain)?;
    if removals.is_empty() {
        tally.skip(
            "protections taken out",
            "no sabotage.toml names one for ordinary tests",
        );
        return Ok(());
    }
    let concerned = removal::packages(&removals);
    let build = Build {
        packages: &concerned,
        flags: "--cfg devrx_sabotage",
        folder: "sabotage",
        ..Build::default()
    };
    removal::run(&removals, &build.run()?.tests, &[], removal::cpus(), tally)
}
