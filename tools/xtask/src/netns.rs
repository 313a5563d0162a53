//! The netns lane: Linux AF_XDP on veth pairs, with the real program.

use anyhow::{Context, Result};

use crate::build::{Build, Built};
use crate::lane::Tally;
use crate::removal::{self, Kind};
use crate::tests_run::Counter;
use crate::{packages, python, shell};

/// What the tests use beside the program itself.
pub const NEEDS: &[packages::Need] = &[
    ("cc", "gcc"),
    ("c++", "g++"),
    ("pkg-config", "pkg-config"),
    ("valgrind", "valgrind"),
    ("ip", "iproute2"),
    ("ethtool", "ethtool"),
    ("ping", "iputils-ping"),
    ("tcpdump", "tcpdump"),
    ("tcpreplay", "tcpreplay"),
    ("setpriv", "util-linux"),
    ("scapy", "python3-scapy"),
];

/// Runs the lane.
pub fn run() -> Result<Tally> {
    if !nix::unistd::Uid::effective().is_root() {
        return Ok(Tally::skip_lane(
            "not root: network namespaces and AF_XDP sockets need it; run this as root",
        ));
    }
    if let Some(missing) = packages::ensure(NEEDS)? {
        return Ok(Tally::skip_lane(missing));
    }
    let mut tally = Tally::default();
    shell::step("building the program and its tests (release)");
    let wanted = ["devrx".to_owned(), "devrx-hw-tests".to_owned()];
    let built = Build {
        packages: &wanted,
        release: true,
        bins: true,
        ..Build::default()
    }
    .run()?;
    let program = binary(&built)?;
    for test in built
        .tests
        .iter()
        .filter(|test| test.package == "devrx-hw-tests")
    {
        shell::step(&format!("netns: {}", test.target));
        let mut counter = Counter::default();
        // One at a time: they share the machine's two or so cores, and measure what they lose.
        let mut command = test.command();
        command
            .args(["--test-threads=1", "--nocapture"])
            .env("DEVRX_BIN", &program);
        let ok = shell::run_seeing(&mut command, |line| counter.see(line))?;
        counter.add_to(&mut tally, &test.target, ok);
    }
    // What keeps a wheel from being built must not hide what the rest of the lane found.
    if let Err(error) = python::test(&program, &mut tally) {
        tally.check(&format!("python: {error:#}"), false);
    }
    let removals = removal::list(Kind::Netns)?;
    if !removals.is_empty() {
        shell::step("netns: protections taken out");
        let mut wanted = removal::packages(&removals);
        wanted.push("devrx".to_owned());
        wanted.dedup();
        let built = Build {
            packages: &wanted,
            flags: "--cfg devrx_sabotage",
            folder: "sabotage",
            bins: true,
            ..Build::default()
        }
        .run()?;
        let program = binary(&built)?;
        // Side by side: these tests measure nothing, and with a protection taken out they mostly wait for what does not come.
        removal::run(
            &removals,
            &built.tests,
            &[("DEVRX_BIN", &program)],
            removal::cpus(),
            &mut tally,
        )?;
    }
    Ok(tally)
}

/// The path of the `devrx` program among what was built.
pub fn binary(built: &Built) -> Result<String> {
    let path = built
        .bins
        .iter()
        .find(|path| path.file_name().is_some_and(|name| name == "devrx"));
    Ok(path
        .context("the build made no devrx program")?
        .to_string_lossy()
        .into_owned())
}
