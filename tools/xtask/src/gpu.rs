//! The GPU lane: the tests that need an NVIDIA GPU.

use std::path::Path;

use anyhow::Result;

use crate::build::Build;
use crate::lane::Tally;
use crate::tests_run::Counter;
use crate::{netns, nvrtc, packages, shell};

/// What shows that the machine has a GPU that its driver runs. Without them (a driver that is not loaded) there is nothing to test.
const SIGNS: [&str; 2] = ["/proc/driver/nvidia/version", "/dev/nvidia0"];

/// Runs the lane. What the tests print is for docs/src/gpu.md.
pub fn run() -> Result<Tally> {
    if !SIGNS.iter().any(|sign| Path::new(sign).exists()) {
        return Ok(Tally::skip_lane(format!(
            "no NVIDIA GPU: neither {} nor {} is there",
            SIGNS[0], SIGNS[1]
        )));
    }
    let mut tally = Tally::default();
    shell::step("gpu: what the driver answers, sharing, receiving");
    let mut counter = Counter::default();
    let mut tests = shell::cargo();
    tests.args(["test", "--locked", "--package", "devrx-gpu-tests"]);
    // One at a time: they print what belongs together, and share the GPU.
    tests.args(["--tests", "--no-fail-fast", "--"]);
    tests.args(["--ignored", "--nocapture", "--test-threads=1"]);
    let ok = shell::run_seeing(&mut tests, |line| counter.see(line))?;
    counter.add_to(&mut tally, "tests on the GPU", ok);
    kernels(&mut tally)?;
    Ok(tally)
}

/// Kernels that consume the rings of the real daemon over AF_XDP.
fn kernels(tally: &mut Tally) -> Result<()> {
    const NAME: &str = "kernels on the GPU, over AF_XDP";
    if !nix::unistd::Uid::effective().is_root() {
        tally.skip(
            NAME,
            "not root: network namespaces and AF_XDP sockets need it",
        );
        return Ok(());
    }
    if let Some(missing) = packages::ensure(netns::NEEDS)? {
        tally.skip(NAME, &missing);
        return Ok(());
    }
    let nvrtc = match nvrtc::ensure()? {
        Ok(library) => library,
        Err(why) => {
            tally.skip(NAME, &why);
            return Ok(());
        }
    };
    shell::step("gpu: kernels that consume the rings");
    let wanted = ["devrx".to_owned(), "devrx-hw-tests".to_owned()];
    let built = Build {
        packages: &wanted,
        release: true,
        bins: true,
        ..Build::default()
    }
    .run()?;
    let program = netns::binary(&built)?;
    for test in built.tests.iter().filter(|test| test.target == "gpu_rings") {
        let mut counter = Counter::default();
        let mut command = test.command();
        command
            .args(["--ignored", "--test-threads=1", "--nocapture"])
            .env("DEVRX_BIN", &program)
            .env(nvrtc::VARIABLE, &nvrtc);
        let ok = shell::run_seeing(&mut command, |line| counter.see(line))?;
        counter.add_to(tally, NAME, ok);
    }
    Ok(())
}
