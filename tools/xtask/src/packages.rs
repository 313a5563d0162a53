//! Installing what a bare Debian lacks, and saying so.

use std::process::Command;

use anyhow::{Result, bail};

use crate::shell;

/// A program and the Debian package that brings it.
pub type Need = (&'static str, &'static str);

/// Makes sure that the programs are there. As root on a machine with apt, what is missing is installed; elsewhere the answer is
/// the text that says what is missing and how to get it.
pub fn ensure(needs: &[Need]) -> Result<Option<String>> {
    let missing: Vec<&Need> = needs
        .iter()
        .filter(|(program, _)| !shell::has(program))
        .collect();
    if missing.is_empty() {
        return Ok(None);
    }
    let packages: Vec<&str> = missing.iter().map(|(_, package)| *package).collect();
    install(missing[0].0, &packages)
}

/// Installs packages because `what` is missing; answers as [`ensure`].
pub fn install(what: &str, packages: &[&str]) -> Result<Option<String>> {
    let list = packages.join(" ");
    if !nix::unistd::Uid::effective().is_root() || !shell::has("apt-get") {
        return Ok(Some(format!(
            "{what} missing; install it: apt-get install {list}"
        )));
    }
    shell::step(&format!("installing with apt: {list}"));
    // A mirror that does not answer must not stop what the machine's own package lists can still give.
    if !shell::run(apt().arg("update"))? {
        eprintln!("apt-get update failed; trying with the package lists that are here");
    }
    if !shell::run(
        apt()
            .args(["install", "-y", "--no-install-recommends"])
            .args(packages),
    )? {
        bail!("apt-get install {list} failed; install these packages by hand");
    }
    Ok(None)
}

fn apt() -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").arg("-q");
    command
}
