//! `cargo xtask bench guest [--nic e810]`: devrx's drivers beside DPDK's, in a QEMU guest.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Result, bail};

use crate::guest::STATIC;
use crate::{packages, root, shell, target};

/// What it uses beside what it fetches itself.
const NEEDS: &[packages::Need] = &[("cc", "gcc"), ("setpriv", "util-linux")];
/// The folder in the target directory for programs with markers.
const MARKED: &str = "bench-marks";

/// Builds and measures. Arguments go to `guest-bench`; without `--json FILE` the results go to the target directory.
pub fn run(arguments: &[String]) -> Result<bool> {
    if !cfg!(target_arch = "x86_64") {
        println!(
            "bench guest: skipped: the guests are x86-64 machines, and programs for them are built on one"
        );
        return Ok(true);
    }
    if let Some(missing) = packages::ensure(NEEDS)? {
        println!("bench guest: skipped: {missing}");
        return Ok(true);
    }
    shell::step("guest: building the program with markers (release, static)");
    let marked = target().join(MARKED);
    let inherited = std::env::var("RUSTFLAGS").unwrap_or_default();
    let flags = format!("{inherited} -C target-feature=+crt-static --cfg devrx_bench_marks");
    let mut inside = shell::cargo();
    inside
        .args(["build", "--locked", "--release", "--target", STATIC])
        .args(["--package", "devrx", "--bin", "devrx"])
        .args(["--package", "devrx-hw-tests", "--bin", "devrx-guest"])
        .arg("--target-dir")
        .arg(&marked)
        .env("RUSTFLAGS", flags.trim());
    let mut outside = shell::cargo();
    outside.args(["build", "--locked", "--release"]).args([
        "--package",
        "devrx-hw-tests",
        "--bin",
        "guest-bench",
    ]);
    let e810 = arguments
        .iter()
        .any(|argument| argument == "e810" || argument == "--nic=e810");
    let mut server = shell::cargo();
    server.args(["build", "--locked", "--release"]);
    server
        .args(crate::model::MODEL)
        .args(["--bin", "e810-server"]);
    let builds = [&mut inside, &mut outside, &mut server];
    for build in builds.into_iter().take(if e810 { 3 } else { 2 }) {
        if !shell::run(build)? {
            bail!("the programs of the measurement did not build");
        }
    }
    shell::step("guest: counting instructions, then climbing the ladder of rates");
    let program = |name: &str| -> PathBuf { marked.join(STATIC).join("release").join(name) };
    let mut bench = Command::new(target().join("release/guest-bench"));
    bench.current_dir(root());
    bench.arg("--devrx").arg(program("devrx"));
    bench.arg("--guest").arg(program("devrx-guest"));
    bench.arg("--sources").arg(Path::new("hw-tests/bench"));
    if e810 {
        bench
            .arg("--e810")
            .arg(target().join("release/e810-server"));
    }
    if !arguments
        .iter()
        .any(|argument| argument.starts_with("--json"))
    {
        let name = if e810 {
            "bench-e810.json"
        } else {
            "bench-guest.json"
        };
        bench.arg("--json").arg(target().join(name));
    }
    shell::run(bench.args(arguments))
}
