//! The GPU lane: the tests that need an NVIDIA GPU.

use std::path::Path;

use anyhow::Result;

use crate::lane::Tally;
use crate::shell;
use crate::tests_run::Counter;

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
    Ok(tally)
}
