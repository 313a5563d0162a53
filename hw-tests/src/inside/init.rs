//! The first process of a guest: makes the place fit to test in, runs the tests one after another, says what came of them.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::errno::Errno;
use nix::mount::{MsFlags, mount};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::{CAPTURES, DEVRX, Host, PLAN, Skip, devices, modules};
use crate::command::{sh, take_logs};
use crate::guest::machine::{Machine, Model};
use crate::guest::message::{Request, Verdict};
use crate::guest::outcome::{BROKEN, DONE};
use crate::guest_tests::{self, Test};

/// Where a test's process leaves its verdict.
const VERDICT: &str = "/run/verdict.json";

/// What the host wants run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The name of the machine.
    pub machine: String,
    /// The names of the tests, in order.
    pub tests: Vec<String>,
}

/// Runs as process 1; does not return.
pub fn run() -> ! {
    let code = match boot_and_test() {
        Ok(()) => DONE,
        Err(error) => {
            eprintln!("devrx-guest: {error:#}");
            BROKEN
        }
    };
    // QEMU ends here. What follows is for a machine without the device.
    leave(code).ok();
    nix::sys::reboot::reboot(nix::sys::reboot::RebootMode::RB_POWER_OFF).ok();
    std::process::exit(i32::from(code));
}

/// Writes the code to QEMU's isa-debug-exit port.
fn leave(code: u8) -> Result<()> {
    use std::os::unix::fs::FileExt;
    let ports = OpenOptions::new().write(true).open("/dev/port")?;
    ports.write_at(&[code], 0xf4)?;
    Ok(())
}

fn boot_and_test() -> Result<()> {
    println!("\n{}", crate::guest::MARK);
    mounts()?;
    let plan: Plan = serde_json::from_slice(&std::fs::read(PLAN).context(PLAN)?)?;
    let tests = plan
        .tests
        .iter()
        .map(|name| guest_tests::find(name).with_context(|| format!("there is no test {name}")))
        .collect::<Result<Vec<Test>>>()?;
    let machine = tests.first().context("no tests to run")?.machine;
    set_up(&machine)?;
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.thread_block()?;
    let children = SignalFd::with_flags(&signals, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)?;
    let mut log = KernelLog::open()?;
    for test in &tests {
        let mut host = Host::open(machine)?;
        host.ask(&Request::Starting(test.name.to_owned(), test.limit))?;
        let start = Instant::now();
        let ready = devices::prepare(&machine, test.igb);
        // The test's process has the channel from here on.
        drop(host);
        let verdict = match ready {
            Ok(()) => one(test, &children)?,
            Err(error) => Verdict::Failed(format!("the guest's devices: {error:#}")),
        };
        end_all(&children)?;
        let verdict = match log.complaint()? {
            Some(line) if !matches!(verdict, Verdict::Failed(_)) => {
                Verdict::Failed(format!("the kernel says: {line}"))
            }
            _ => verdict,
        };
        let took = u64::try_from(start.elapsed().as_millis())?;
        let mut host = Host::open(machine)?;
        host.ask(&Request::Finished(test.name.to_owned(), verdict, took))?;
    }
    Host::open(machine)?.ask(&Request::Done)?;
    Ok(())
}

/// The kernel's log, from now on.
struct KernelLog(File);

impl KernelLog {
    fn open() -> Result<Self> {
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(nix::libc::O_NONBLOCK)
            .open("/dev/kmsg")?;
        file.seek(SeekFrom::End(0))?;
        Ok(Self(file))
    }

    /// The first new message that no test should cause, whatever it does.
    fn complaint(&mut self) -> Result<Option<String>> {
        const SIGNS: [&str; 4] = ["BUG:", "Oops", "general protection fault", "Call Trace:"];
        let (mut found, mut record) = (None, [0; 8192]);
        loop {
            match self.0.read(&mut record) {
                Ok(count) => {
                    let text = String::from_utf8_lossy(&record[..count]);
                    let message = text.split_once(';').map_or("", |(_, message)| message);
                    if SIGNS.iter().any(|sign| message.contains(sign)) {
                        found.get_or_insert_with(|| message.trim_end().to_owned());
                    }
                }
                // Messages that were overwritten before they were read are lost.
                Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => return Ok(found),
                Err(error) => return Err(error).context("read /dev/kmsg"),
            }
        }
    }
}

fn mounts() -> Result<()> {
    for (kind, place) in [
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("devtmpfs", "/dev"),
        ("tmpfs", "/dev/shm"),
        ("hugetlbfs", "/dev/hugepages"),
        ("tmpfs", "/run"),
        ("tmpfs", "/tmp"),
    ] {
        std::fs::create_dir_all(place)?;
        match mount(
            Some(kind),
            place,
            Some(kind),
            MsFlags::empty(),
            None::<&str>,
        ) {
            Ok(()) | Err(Errno::EBUSY) => {}
            Err(error) => return Err(error).with_context(|| format!("mount {place}")),
        }
    }
    Ok(())
}

fn set_up(machine: &Machine) -> Result<()> {
    // No frames but those a test sends.
    for which in ["all", "default"] {
        let file = format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6");
        if Path::new(&file).exists() {
            std::fs::write(file, "1")?;
        }
    }
    sh("ip link set lo up")?;
    modules::load("virtio_console")?;
    modules::load("vfio-pci")?;
    modules::load("vfio_iommu_type1")?;
    let virtio = [Model::Virtio, Model::Peer];
    if machine.nics.iter().any(|nic| virtio.contains(&nic.model)) {
        modules::load("virtio_net")?;
    }
    Ok(())
}

/// Runs one test in a process of its own, for as long as it may take.
fn one(test: &Test, children: &SignalFd) -> Result<Verdict> {
    std::fs::remove_file(VERDICT).ok();
    let child = Command::new("/proc/self/exe")
        .args(["test", test.name])
        .env("DEVRX_BIN", DEVRX)
        .env("DEVRX_CAPTURES", CAPTURES)
        .env("PATH", "/bin")
        .env("HOME", "/root")
        .env("RUST_BACKTRACE", "1")
        .current_dir("/root")
        .process_group(0)
        .spawn()
        .context("cannot start the test")?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let end = Instant::now() + Duration::from_secs(test.limit);
    loop {
        match reap(Some(pid))? {
            Some(WaitStatus::Exited(_, 0)) => {
                let verdict = std::fs::read(VERDICT).context("the test left no verdict")?;
                return Ok(serde_json::from_slice(&verdict)?);
            }
            Some(status) => return Ok(Verdict::Failed(format!("its process ended: {status:?}"))),
            None => {}
        }
        if Instant::now() >= end {
            return Ok(Verdict::Failed(format!(
                "still running after {} s",
                test.limit
            )));
        }
        wait_for_a_child(children, end)?;
    }
}

/// Reaps what has ended, this process and the orphans that come to process 1; the status of the one asked for.
fn reap(wanted: Option<Pid>) -> Result<Option<WaitStatus>> {
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::StillAlive) | Err(Errno::ECHILD) => return Ok(None),
            Ok(status) if wanted.is_some() && status.pid() == wanted => return Ok(Some(status)),
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => bail!("waitpid: {error}"),
        }
    }
}

fn wait_for_a_child(children: &SignalFd, end: Instant) -> Result<()> {
    use std::os::fd::AsFd;
    let left = end.saturating_duration_since(Instant::now());
    let mut ready = [PollFd::new(children.as_fd(), PollFlags::POLLIN)];
    match poll(
        &mut ready,
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX),
    ) {
        Ok(_) | Err(Errno::EINTR) => {}
        Err(error) => bail!("poll: {error}"),
    }
    while children.read_signal()?.is_some() {}
    Ok(())
}

/// Kills every other process of the guest and waits until it is gone, so that no test finds what another left.
fn end_all(children: &SignalFd) -> Result<()> {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        // From process 1 this reaches every process but itself.
        if kill(Pid::from_raw(-1), Signal::SIGKILL) == Err(Errno::ESRCH) {
            reap(None)?;
            return Ok(());
        }
        reap(None)?;
        if waitpid(None, Some(WaitPidFlag::WNOHANG)) == Err(Errno::ECHILD) {
            return Ok(());
        }
        if Instant::now() >= end {
            bail!("a process of the last test cannot be killed");
        }
        wait_for_a_child(children, Instant::now() + Duration::from_millis(100))?;
    }
}

/// Runs as a test's process.
pub fn test(name: &str) -> Result<()> {
    let test = guest_tests::find(name).with_context(|| format!("there is no test {name}"))?;
    let mut host = Host::open(test.machine)?;
    let result = std::panic::catch_unwind(AssertUnwindSafe(|| (test.run)(&mut host)));
    let logs = take_logs();
    let verdict = match result {
        Ok(Ok(())) => Verdict::Passed,
        Ok(Err(error)) => match error.downcast_ref::<Skip>() {
            Some(reason) => Verdict::Skipped(reason.to_string()),
            None => Verdict::Failed(format!("{error:#}")),
        },
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Verdict::Failed(format!("panicked: {}", text.unwrap_or_default()))
        }
    };
    if matches!(verdict, Verdict::Failed(_)) && !logs.is_empty() {
        eprintln!("{logs}");
    }
    std::fs::write(VERDICT, serde_json::to_vec(&verdict)?)?;
    Ok(())
}

/// What `setpriv --pdeathsig KILL -- PROGRAM ARGUMENT...` does, which busybox's cannot.
pub fn setpriv(arguments: &[String]) -> Result<()> {
    let [pdeathsig, signal, dashes, program, rest @ ..] = arguments else {
        bail!("setpriv: too few arguments");
    };
    if pdeathsig != "--pdeathsig" || signal != "KILL" || dashes != "--" {
        bail!("setpriv: only --pdeathsig KILL -- is known here");
    }
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL)?;
    Err(Command::new(program).args(rest).exec()).with_context(|| format!("cannot start {program}"))
}
