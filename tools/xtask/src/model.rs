//! The model lane: the E810 model by itself, and other people's drivers on it in a QEMU guest.

use std::process::Command;

use anyhow::{Result, bail};

use crate::guest::{built, inside, report};
use crate::lane::Tally;
use crate::tests_run::Counter;
use crate::{packages, shell};

/// What the lane uses beside QEMU, the kernel and DPDK, which it fetches itself.
const NEEDS: &[packages::Need] = &[
    ("cc", "gcc"),
    ("setpriv", "util-linux"),
    ("scapy", "python3-scapy"),
];
/// The model's package, with its server.
pub(crate) const MODEL: [&str; 4] = ["--package", "devrx-e810-model", "--features", "server"];

/// Runs the lane.
pub fn run() -> Result<Tally> {
    let mut tally = Tally::default();
    shell::step("model: its own tests");
    let mut counter = Counter::default();
    let mut tests = shell::cargo();
    tests.args(["test", "--locked"]).args(MODEL);
    let ok = shell::run_seeing(&mut tests, |line| counter.see(line))?;
    counter.add_to(&mut tally, "the E810 model", ok);
    let what = "Linux's ice and DPDK's net_ice on the E810 model";
    if !cfg!(target_arch = "x86_64") {
        tally.skip(what, "the guest is an x86-64 machine");
        return Ok(tally);
    }
    if let Some(missing) = packages::ensure(NEEDS)? {
        tally.skip(what, &missing);
        return Ok(tally);
    }
    let mut command = lane()?;
    shell::step("model: other people's drivers on it");
    report(&mut tally, &mut command)?;
    if let Some(reason) = tally.reason.take() {
        tally.skip(what, &reason);
    }
    Ok(tally)
}

/// `cargo xtask model`: the part in guests with arguments, for whoever works on one thing.
pub fn some(arguments: &[String]) -> Result<bool> {
    if let Some(missing) = packages::ensure(NEEDS)? {
        bail!("{missing}");
    }
    shell::run(lane()?.args(arguments))
}

/// Builds what the part in guests needs; the command that runs it.
fn lane() -> Result<Command> {
    shell::step("model: building the model, and the tests on it (release)");
    let mut server = shell::cargo();
    server.args(["build", "--locked", "--release"]).args(MODEL);
    server.args(["--bin", "e810-server"]);
    let mut outside = shell::cargo();
    outside.args(["build", "--locked", "--release"]);
    outside.args(["--package", "devrx-hw-tests", "--bin", "model-lane"]);
    for build in [&mut server, &mut outside] {
        if !shell::run(build)? {
            bail!("the programs of the model lane did not build");
        }
    }
    let mut command = inside("model-lane")?;
    command.arg("--e810").arg(built("release", "e810-server"));
    Ok(command)
}
