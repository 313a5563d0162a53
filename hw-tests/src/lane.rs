//! Whether the netns lane can run here, and whose turn it is.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::unistd::geteuid;

use crate::command::{run_ok, take_logs};

/// A program the lane runs, the Debian package it comes in, and the file that shows it is installed.
const TOOLS: [(&str, &str); 12] = [
    ("iproute2", "/sbin/ip"),
    ("ethtool", "/sbin/ethtool"),
    ("iputils-ping", "/bin/ping"),
    ("tcpdump", "/usr/bin/tcpdump"),
    ("tcpreplay", "/usr/bin/tcpreplay"),
    ("util-linux", "/usr/bin/setpriv"),
    ("gcc", "/usr/bin/cc"),
    ("g++", "/usr/bin/c++"),
    ("pkg-config", "/usr/bin/pkg-config"),
    ("valgrind", "/usr/bin/valgrind"),
    ("python3", "/usr/bin/python3"),
    (
        "python3-scapy",
        "/usr/lib/python3/dist-packages/scapy/__init__.py",
    ),
];

/// A test that takes longer is broken, or should be two.
const LONGEST: Duration = Duration::from_secs(60);

/// How the names of this lane's temporary folders begin; the process id follows.
const TEMPORARY: &str = "devrx-tests-";

/// A turn in the lane: one test at a time, machine-wide, until this is dropped.
#[derive(Debug)]
pub struct Lane {
    _turn: File,
}

/// Runs `body` as a test of the lane: in its turn, or not at all where the lane cannot run. Its error fails the test, with
/// what the daemons it started wrote.
pub fn test(body: impl FnOnce() -> Result<()>) {
    let _turn = match enter() {
        Ok(Some(lane)) => lane,
        Ok(None) => return,
        Err(error) => panic!("{error:#}"),
    };
    let start = Instant::now();
    let result = body();
    let logs = take_logs();
    if let Err(error) = result {
        panic!("{error:#}\n{logs}");
    }
    assert!(
        start.elapsed() < LONGEST,
        "the test passed, but took {:?}",
        start.elapsed()
    );
}

/// Takes a turn in the lane, or says on standard error why it cannot run and answers `None`: the test then returns at once.
///
/// With `DEVRX_REQUIRE_NETNS` set, a lane that cannot run is an error instead.
pub fn enter() -> Result<Option<Lane>> {
    if !geteuid().is_root() {
        ensure!(
            std::env::var_os("DEVRX_REQUIRE_NETNS").is_none(),
            "the netns lane needs root"
        );
        let test = std::thread::current().name().unwrap_or("test").to_owned();
        // Not eprintln: the test harness would keep that to itself.
        writeln!(
            std::io::stderr(),
            "{test}: skipped: not root (network namespaces, veth and AF_XDP need it)"
        )?;
        return Ok(None);
    }
    let path = std::env::temp_dir().join("devrx-tests.lock");
    let turn = File::create(&path).with_context(|| format!("cannot create {}", path.display()))?;
    turn.lock()
        .with_context(|| format!("cannot lock {}", path.display()))?;
    install()?;
    crate::namespace::sweep();
    sweep();
    Ok(Some(Lane { _turn: turn }))
}

/// The beginning of the name of a temporary folder of this process; the next run removes those of processes that are gone.
#[must_use]
pub fn temporary(what: &str) -> String {
    format!("{TEMPORARY}{}-{what}-", std::process::id())
}

/// Removes the temporary folders that ended processes left: the captures are kept until then, and a killed run leaves more.
fn sweep() {
    let Ok(entries) = std::fs::read_dir(std::env::temp_dir()) else {
        return;
    };
    for entry in entries.flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name
            .strip_prefix(TEMPORARY)
            .and_then(|rest| rest.split('-').next());
        if owner
            .is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists())
        {
            std::fs::remove_dir_all(entry.path()).ok();
        }
    }
}

/// Installs from Debian what is missing; a no-op where everything is there.
fn install() -> Result<()> {
    let missing: Vec<&str> = TOOLS
        .iter()
        .filter(|(_, file)| !Path::new(file).exists())
        .map(|(name, _)| *name)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    writeln!(
        std::io::stderr(),
        "netns lane: installing {}",
        missing.join(" ")
    )?;
    let apt = |words: &[&str]| {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").args(words);
        run_ok(&mut command, Duration::from_secs(180))
    };
    let mut words = vec!["install", "-y", "--no-install-recommends"];
    words.extend(&missing);
    if apt(&words).is_err() {
        apt(&["update"])?;
        apt(&words).with_context(|| {
            format!(
                "the netns lane needs the Debian packages {}",
                missing.join(" ")
            )
        })?;
    }
    Ok(())
}

/// The `devrx` binary under test: `DEVRX_BIN`, or the one built beside this test.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("DEVRX_BIN") {
        let path = PathBuf::from(path);
        ensure!(
            path.exists(),
            "DEVRX_BIN names {}, which does not exist",
            path.display()
        );
        return Ok(std::path::absolute(path)?);
    }
    let test = std::env::current_exe()?;
    for folder in test.ancestors().skip(1).take(2) {
        let path = folder.join("devrx");
        if path.is_file() {
            return Ok(path);
        }
    }
    bail!(
        "no devrx beside {}: run `cargo build -p devrx`, or name it in DEVRX_BIN",
        test.display()
    )
}

/// How many CPUs this process may use.
#[must_use]
pub fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, Into::into)
}
