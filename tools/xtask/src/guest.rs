//! The guest lane: QEMU guests with NICs behind an IOMMU, the real program in them.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use crate::lane::Tally;
use crate::{packages, shell, target};

/// What the lane uses beside QEMU and kernels, which it fetches itself.
const NEEDS: &[packages::Need] = &[
    ("cc", "gcc"),
    ("setpriv", "util-linux"),
    ("scapy", "python3-scapy"),
];
/// Programs in a guest find no libraries there, so they bring theirs. Said as a target, so that it is not also asked of build scripts.
pub const STATIC: &str = "x86_64-unknown-linux-gnu";

/// Runs the lane.
pub fn run() -> Result<Tally> {
    if !cfg!(target_arch = "x86_64") {
        return Ok(Tally::skip_lane(
            "the guests are x86-64 machines, and programs for them are built on one",
        ));
    }
    if let Some(missing) = packages::ensure(NEEDS)? {
        return Ok(Tally::skip_lane(missing));
    }
    let mut command = lane()?;
    shell::step("guest: booting and testing");
    let mut tally = Tally::default();
    report(&mut tally, &mut command)?;
    Ok(match tally.reason.take() {
        Some(reason) => Tally::skip_lane(reason),
        None => tally,
    })
}

/// Runs a program that boots guests, and counts what it reports. Its reason, where it cannot run, is in the tally.
pub fn report(tally: &mut Tally, command: &mut Command) -> Result<()> {
    let before = tally.failed;
    let ok = shell::run_seeing(command, |line| see(tally, line))?;
    if !ok && tally.failed == before {
        tally.check("the guests' tests did not run to their end", false);
    }
    Ok(())
}

/// Takes in a line of the lane's report.
fn see(tally: &mut Tally, line: &str) {
    if line.starts_with("ok ") {
        tally.passed += 1;
    } else if let Some(failure) = line.strip_prefix("FAILED ") {
        tally.check(failure, false);
    } else if let Some(skip) = line.strip_prefix("skipped ") {
        tally.skipped += 1;
        tally.note(format!("skipped: {skip}"));
    } else if let Some(reason) = line.strip_prefix("guest lane cannot run: ") {
        tally.reason = Some(reason.to_owned());
    } else if let Some(note) = line.strip_prefix("guest lane: note: ") {
        tally.note(note.to_owned());
    }
}

/// `cargo xtask guest`: the lane with arguments, for whoever works on one thing.
pub fn some(arguments: &[String]) -> Result<bool> {
    if let Some(missing) = packages::ensure(NEEDS)? {
        bail!("{missing}");
    }
    shell::run(lane()?.args(arguments))
}

/// Builds what the lane needs; the command that runs it.
fn lane() -> Result<Command> {
    shell::step("guest: building the program and its tests (release, static)");
    let mut outside = shell::cargo();
    outside.args(["build", "--locked", "--release"]).args([
        "--package",
        "devrx-hw-tests",
        "--bin",
        "guest-lane",
    ]);
    if !shell::run(&mut outside)? {
        bail!("the programs of the guest lane did not build");
    }
    inside("guest-lane")
}

/// Builds what goes into guests; the command that runs `program` with it.
pub fn inside(program: &str) -> Result<Command> {
    let mut inside = shell::cargo();
    inside
        .args(["build", "--locked", "--release", "--target", STATIC])
        .args(["--package", "devrx", "--bin", "devrx"])
        .args(["--package", "devrx-hw-tests", "--bin", "devrx-guest"]);
    let inherited = std::env::var("RUSTFLAGS").unwrap_or_default();
    let flags = format!("{inherited} -C target-feature=+crt-static");
    inside.env("RUSTFLAGS", flags.trim());
    if !shell::run(&mut inside)? {
        bail!("the programs for guests did not build");
    }
    let mut command = Command::new(built("release", program));
    command.current_dir(crate::root());
    let folder = format!("{STATIC}/release");
    command.arg("--devrx").arg(built(&folder, "devrx"));
    command.arg("--guest").arg(built(&folder, "devrx-guest"));
    Ok(command)
}

/// Where a program is that was built.
pub fn built(folder: &str, name: &str) -> PathBuf {
    target().join(folder).join(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_line_of_the_report_counts_once() {
        let mut tally = Tally::default();
        for line in [
            "guest lane: booting Linux 6.12.1 on the standard machine for 3 tests",
            "    ok what a guest prints does not count",
            "ok 6.12: a 0.1 s",
            "FAILED 6.12: b: why",
            "skipped 6.12: c: why",
            "guest lane: note: QEMU died of signal 6 before the first test; trying once more",
            "guest lane: 1 passed, 1 failed, 1 skipped",
        ] {
            see(&mut tally, line);
        }
        assert_eq!((tally.passed, tally.failed, tally.skipped), (1, 1, 1));
        see(&mut tally, "guest lane cannot run: no apt-get");
        assert_eq!(tally.reason.as_deref(), Some("no apt-get"));
    }
}
