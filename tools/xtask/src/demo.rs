//! `cargo xtask demo`: from a fresh clone to verified packets.

use std::process::Command;
use std::time::Instant;

use anyhow::{Result, bail};

use crate::{packages, shell};

/// What the demo needs beside the program itself.
const NEEDS: &[packages::Need] = &[("ip", "iproute2")];

/// Installs what is missing, builds the release program, runs its demo, and says how long each took.
pub fn run(args: &[String]) -> Result<bool> {
    if !nix::unistd::Uid::effective().is_root() {
        bail!(
            "the demo makes network namespaces and an AF_XDP socket, which takes root; run it as root, for example with sudo -E"
        );
    }
    let whole = Instant::now();
    if let Some(missing) = packages::ensure(NEEDS)? {
        bail!("{missing}");
    }
    let tools = shell::took(whole);

    let start = Instant::now();
    shell::step("fetching the dependencies");
    if !shell::run(shell::cargo().args(["fetch", "--locked"]))? {
        bail!(
            "cargo could not fetch the dependencies; check that this machine reaches its registry"
        );
    }
    let fetch = shell::took(start);

    let start = Instant::now();
    shell::step("building devrx (release)");
    if !shell::run(shell::cargo().args(["build", "--locked", "--release", "--package", "devrx"]))? {
        bail!("the build failed; its messages are above");
    }
    let build = shell::took(start);

    let start = Instant::now();
    shell::step("devrx demo");
    let ok = shell::run(
        Command::new(crate::target().join("release/devrx"))
            .arg("demo")
            .args(args),
    )?;
    println!(
        "cargo xtask demo: {} in {} (tools {tools}, downloads {fetch}, build {build}, demo {})",
        if ok { "done" } else { "failed" },
        shell::took(whole),
        shell::took(start),
    );
    Ok(ok)
}
