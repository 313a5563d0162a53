//! Boots guests and has them run tests: each kernel, each machine that a test asks for.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use super::card::Card;
use super::control::Control;
use super::initramfs::Archive;
use super::inject::Port;
use super::kernel::Kernel;
use super::machine::{BAR, Machine, Model};
use super::message::{Request, Verdict};
use super::outcome::{DONE, Outcome};
use super::packages::progress;
use super::qemu::{self, Files, Options};
use super::qmp::Qmp;
use crate::guest_tests::Test;
use crate::inside::{CAPTURES, DEVRX, PLAN, init::Plan};

/// How long a guest may take until its first test begins.
const BOOT: Duration = Duration::from_secs(60);
/// How much longer than a test's own limit the host waits: for devices to be prepared, and for the guest's own watchdog.
const GRACE: Duration = Duration::from_secs(30);
/// How long the guest may take between tests.
const BETWEEN: Duration = Duration::from_secs(20);
/// How many guests one list of tests may use up.
const BOOTS: usize = 5;

/// What goes into a guest.
#[derive(Debug)]
pub struct Programs {
    /// `devrx`, linked statically.
    pub devrx: PathBuf,
    /// `devrx-guest`, linked statically.
    pub guest: PathBuf,
    /// Captures that both sides have.
    pub captures: PathBuf,
}

/// What came of one test.
#[derive(Debug)]
pub struct TestResult {
    /// Kernel, machine and name of the test.
    pub name: String,
    /// How it ended.
    pub verdict: Verdict,
}

/// Runs tests on a kernel; the results, each of which was printed when it came.
pub fn run(
    kernel: &Kernel,
    tests: &[Test],
    programs: &Programs,
    options: &Options,
    keep: bool,
) -> Result<Vec<TestResult>> {
    let mut results = Vec::new();
    let mut left = tests.to_vec();
    while let Some(first) = left.first() {
        let machine = first.machine;
        let (mut list, rest): (Vec<Test>, Vec<Test>) =
            left.into_iter().partition(|test| test.machine == machine);
        left = rest;
        let mut retried = false;
        for boot in 1.. {
            let count = list.len();
            progress(&format!(
                "{}: booting Linux {} on the {} machine for {count} test{}",
                kernel.name,
                kernel.release,
                machine.name,
                if count == 1 { "" } else { "s" }
            ));
            let end = one_guest(
                &machine,
                kernel,
                &mut list,
                programs,
                options,
                keep,
                &mut results,
            )?;
            if list.is_empty() {
                break;
            }
            // A crash before the first test says nothing about what is tested: once more, but not silently.
            if end.is_crash() && list.len() == count && !retried {
                progress(&format!(
                    "note: {}: {end} before the first test; trying once more",
                    kernel.name
                ));
                retried = true;
                continue;
            }
            if list.len() == count || boot == BOOTS {
                for test in list.drain(..) {
                    let why = Verdict::Failed(format!("not run: {end}"));
                    report(&mut results, kernel, &test, why, Duration::ZERO);
                }
                break;
            }
        }
    }
    Ok(results)
}

/// One boot: takes from `list` what has a result.
fn one_guest(
    machine: &Machine,
    kernel: &Kernel,
    list: &mut Vec<Test>,
    programs: &Programs,
    options: &Options,
    keep: bool,
    results: &mut Vec<TestResult>,
) -> Result<Outcome> {
    let mut folder = tempfile::Builder::new()
        .prefix(&crate::lane::temporary("guest"))
        .tempdir()?;
    folder.disable_cleanup(keep);
    let files = Files::new(folder.path());
    if keep {
        progress(&format!("its files stay in {}", folder.path().display()));
    }
    initramfs(machine, kernel, list, programs, options, &files)?;
    let bar = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .open(files.bar())?;
    bar.set_len(BAR)?;
    let mut ports = BTreeMap::new();
    let mut cards = BTreeMap::new();
    for nic in machine.nics {
        let far = machine.far_end(nic.id);
        ports.insert(nic.id, Port::open(nic, far, files.folder())?);
        if nic.model == Model::E810 {
            let server = options.e810.as_deref();
            let server = server.context("no program that serves the E810 model")?;
            cards.insert(nic.id, Card::start(server, nic, files.folder())?);
        }
    }
    let control = UnixListener::bind(files.control())?;
    let monitor = UnixListener::bind(files.monitor())?;
    let child = qemu::start(qemu::command(machine, kernel, &files, options), &files)?;
    let mut guest = Guest {
        child,
        console: Console::open(&files, &kernel.name)?,
    };
    let connected = (guest.accept(&control)?, guest.accept(&monitor)?);
    let connected = match connected {
        (Some(control), Some(monitor)) => Qmp::new(monitor).map(|qmp| (control, qmp)).ok(),
        _ => None,
    };
    let Some((control, qmp)) = connected else {
        // Given a moment, QEMU says why.
        std::thread::sleep(Duration::from_millis(200));
        let ended = guest.child.try_wait()?.map(Outcome::of);
        let said = std::fs::read_to_string(files.errors())?;
        return match ended {
            Some(outcome) if outcome.is_crash() => Ok(outcome),
            Some(outcome) => bail!("QEMU did not start: {outcome}: {said}"),
            None => bail!("QEMU runs, but does not answer: {said}"),
        };
    };
    let mut control = Control::new(
        control,
        qmp,
        machine,
        ports,
        cards,
        bar,
        programs.captures.clone(),
    )?;
    let mut deadline = Instant::now() + BOOT;
    let mut running: Option<Test> = None;
    let mut hung = false;
    loop {
        guest.console.show()?;
        if let Some((id, request)) = control.request()? {
            match &request {
                Request::Starting(name, limit) => {
                    control.reset();
                    running = list.iter().find(|test| test.name == name).copied();
                    deadline = Instant::now() + Duration::from_secs(*limit) + GRACE;
                }
                Request::Finished(name, verdict, took) => {
                    guest.console.show()?;
                    if let Some(at) = list.iter().position(|test| test.name == name) {
                        let test = list.remove(at);
                        let took = Duration::from_millis(*took);
                        report(results, kernel, &test, verdict.clone(), took);
                    }
                    running = None;
                    deadline = Instant::now() + BETWEEN;
                }
                _ => {}
            }
            control.answer(&id, &request).ok();
            continue;
        }
        if guest.child.try_wait()?.is_some() {
            break;
        }
        if Instant::now() > deadline {
            hung = true;
            break;
        }
    }
    let status = guest.end()?;
    let outcome = Outcome::of(status);
    let said = std::fs::read_to_string(files.errors()).unwrap_or_default();
    // vfio-user-pci says this always; devices of that kind have no error recovery.
    let known = "Could not enable error recovery for the device";
    for line in said.lines().filter(|line| !line.ends_with(known)) {
        println!("    {}: QEMU: {line}", kernel.name);
    }
    if let Some(test) = running {
        let why = if hung {
            "the guest hung and was ended".to_owned()
        } else {
            outcome.to_string()
        };
        list.retain(|other| other.name != test.name);
        report(results, kernel, &test, Verdict::Failed(why), Duration::ZERO);
    } else if hung {
        progress(&format!(
            "{}: the guest hung between tests, or did not come up",
            kernel.name
        ));
        guest.console.tail();
    } else if outcome != Outcome::Said(DONE) {
        progress(&format!("{}: {outcome}", kernel.name));
        guest.console.tail();
    }
    Ok(if hung { Outcome::Off } else { outcome })
}

fn report(
    results: &mut Vec<TestResult>,
    kernel: &Kernel,
    test: &Test,
    verdict: Verdict,
    took: Duration,
) {
    let name = format!("{}: {}", kernel.name, test.name);
    // What follows the first line is indented: only verdicts begin lines.
    let text = |why: &str| why.trim_end().replace('\n', "\n    ");
    match &verdict {
        Verdict::Passed => println!("ok {name} {:.1} s", took.as_secs_f64()),
        Verdict::Failed(why) => println!("FAILED {name}: {}", text(why)),
        Verdict::Skipped(why) => println!("skipped {name}: {}", text(why)),
    }
    results.push(TestResult { name, verdict });
}

fn initramfs(
    machine: &Machine,
    kernel: &Kernel,
    list: &[Test],
    programs: &Programs,
    options: &Options,
    files: &Files,
) -> Result<()> {
    let mut archive = Archive::new();
    archive.copy("bin/devrx-guest", &programs.guest)?;
    archive.copy(DEVRX, &programs.devrx)?;
    archive.link("bin/setpriv", "devrx-guest");
    archive.link("init", "bin/devrx-guest");
    for capture in std::fs::read_dir(&programs.captures)? {
        let path = capture?.path();
        let name = path.file_name().context("a capture without a name")?;
        archive.copy(&format!("{CAPTURES}/{}", name.to_string_lossy()), &path)?;
    }
    let plan = Plan {
        machine: machine.name.to_owned(),
        tests: list.iter().map(|test| test.name.to_owned()).collect(),
    };
    archive.file(PLAN, 0o644, &serde_json::to_vec(&plan)?);
    let mut bytes = std::fs::read(&kernel.base)?;
    bytes.extend(archive.finish());
    if let Some(extra) = &options.extra {
        bytes.extend(std::fs::read(extra)?);
    }
    std::fs::write(files.initramfs(), bytes)?;
    Ok(())
}

/// QEMU's process; dropping it kills it.
struct Guest {
    child: Child,
    console: Console,
}

impl Guest {
    /// Waits for QEMU to connect; `None` when it ends instead.
    fn accept(
        &mut self,
        listener: &UnixListener,
    ) -> Result<Option<std::os::unix::net::UnixStream>> {
        listener.set_nonblocking(true)?;
        let end = Instant::now() + BOOT;
        while Instant::now() < end && self.child.try_wait()?.is_none() {
            match listener.accept() {
                Ok((stream, _)) => {
                    stream.set_nonblocking(false)?;
                    return Ok(Some(stream));
                }
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {
                    std::thread::sleep(Duration::from_millis(5));
                }
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// Ends QEMU if it runs, and says how it ended.
    fn end(&mut self) -> Result<std::process::ExitStatus> {
        self.child.kill().ok();
        Ok(self.child.wait()?)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// The console's file, shown as it grows. Guests run side by side, so each line begins with whose it is.
struct Console {
    kernel: String,
    file: File,
    rest: Vec<u8>,
    path: PathBuf,
    begun: bool,
}

impl Console {
    fn open(files: &Files, kernel: &str) -> Result<Self> {
        Ok(Self {
            kernel: kernel.to_owned(),
            file: File::open(files.console())?,
            rest: Vec::new(),
            path: files.console(),
            begun: false,
        })
    }

    /// Prints the whole lines that came since the last time.
    fn show(&mut self) -> Result<()> {
        self.file.read_to_end(&mut self.rest)?;
        while let Some(end) = self.rest.iter().position(|&byte| byte == b'\n') {
            let line: Vec<u8> = self.rest.drain(..=end).collect();
            let text = String::from_utf8_lossy(&line);
            let text = text.trim_end();
            // The firmware's text, with its control sequences, comes first.
            self.begun |= text.contains(super::MARK);
            if self.begun && !text.is_empty() && !text.contains(super::MARK) {
                println!("    {}: {text}", self.kernel);
            }
        }
        Ok(())
    }

    /// Prints the end of it, for a guest that never came to its first test.
    fn tail(&self) {
        if self.begun {
            return;
        }
        let bytes = read_end(&self.path, 4096).unwrap_or_default();
        for line in String::from_utf8_lossy(&bytes).lines() {
            println!("    {}: {}", self.kernel, line.escape_debug());
        }
    }
}

fn read_end(path: &Path, count: u64) -> Result<Vec<u8>> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(count)))?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}
