//! Child processes with an end: run to completion within a limit, or in the background under a guard.

use std::cell::RefCell;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

thread_local! {
    /// What logged processes wrote, kept until the test they belong to has ended.
    static LOGS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// What the logged processes of this thread wrote; forgets it.
#[must_use]
pub fn take_logs() -> String {
    LOGS.take().join("\n")
}

/// What a finished process left.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Everything it wrote to standard output.
    pub stdout: String,
    /// Everything it wrote to standard error.
    pub stderr: String,
}

impl Output {
    /// The last JSON value on standard output: the whole of it, or else its last line that is JSON.
    pub fn json(&self) -> Result<serde_json::Value> {
        if let Ok(value) = serde_json::from_str(&self.stdout) {
            return Ok(value);
        }
        let last = self
            .stdout
            .lines()
            .rev()
            .find_map(|line| serde_json::from_str(line).ok());
        last.with_context(|| {
            format!(
                "no JSON on standard output: {:?}, {:?}",
                self.stdout, self.stderr
            )
        })
    }
}

/// A process running in the background. Dropping it kills and reaps it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: File,
    stderr: File,
    logged: bool,
}

impl Process {
    /// Starts `command` with its output going to unnamed files, so that it can never block on a pipe.
    pub fn start(command: &mut Command) -> Result<Self> {
        Self::start_with(command, Stdio::null())
    }

    /// The same with this standard input.
    pub fn start_with(command: &mut Command, stdin: Stdio) -> Result<Self> {
        let name = format!("{command:?}").replace('"', "");
        let (stdout, stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
        let child = command
            .stdin(stdin)
            .stdout(stdout.try_clone()?)
            .stderr(stderr.try_clone()?)
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self {
            name,
            child,
            stdout,
            stderr,
            logged: false,
        })
    }

    /// The same for a process whose standard error belongs in the report of a failed test.
    pub fn start_logged(command: &mut Command) -> Result<Self> {
        let mut process = Self::start(command)?;
        process.logged = true;
        Ok(process)
    }

    /// The command line.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        kill(self.pid(), signal).with_context(|| format!("{signal} to {}", self.name))
    }

    /// Whether it still runs.
    pub fn running(&mut self) -> Result<bool> {
        Ok(self.child.try_wait()?.is_none())
    }

    /// What it has written so far (standard output, standard error).
    #[must_use]
    pub fn written(&self) -> (String, String) {
        (read_all(&self.stdout), read_all(&self.stderr))
    }

    /// Waits for its end; past `limit` it is killed and that is an error.
    pub fn wait(mut self, limit: Duration) -> Result<Output> {
        let end = Instant::now() + limit;
        loop {
            if let Some(status) = self.child.try_wait()? {
                let (stdout, stderr) = self.written();
                return Ok(Output {
                    status,
                    stdout,
                    stderr,
                });
            }
            if Instant::now() >= end {
                let (stdout, stderr) = self.written();
                bail!(
                    "{} still runs after {limit:?}; it wrote {stdout:?} and {stderr:?}",
                    self.name
                );
            }
            std::thread::sleep(Duration::from_millis(3));
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it has ended and been reaped already.
        self.child.kill().ok();
        self.child.wait().ok();
        if self.logged {
            let log = format!("--- {} wrote:\n{}", self.name, read_all(&self.stderr));
            if std::thread::panicking() {
                eprintln!("{log}");
            }
            LOGS.with_borrow_mut(|logs| logs.push(log));
        }
    }
}

/// Reads an output file from its beginning without moving the position the child appends at.
fn read_all(file: &File) -> String {
    let mut bytes = vec![
        0;
        file.metadata()
            .map_or(0, |data| usize::try_from(data.len()).unwrap_or(0))
    ];
    let read = file.read_at(&mut bytes, 0).unwrap_or(0);
    bytes.truncate(read);
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Runs `command` to its end, which must come within `limit`, whatever its exit status.
pub fn run(command: &mut Command, limit: Duration) -> Result<Output> {
    Process::start(command)?.wait(limit)
}

/// Runs `command`, which must succeed within `limit`.
pub fn run_ok(command: &mut Command, limit: Duration) -> Result<Output> {
    let output = run(command, limit)?;
    ensure!(
        output.status.success(),
        "{command:?} failed, {}: {}{}",
        output.status,
        output.stdout,
        output.stderr
    );
    Ok(output)
}

/// Runs a command line (split at spaces) that must succeed within ten seconds.
pub fn sh(line: &str) -> Result<Output> {
    let mut words = line.split_whitespace();
    let mut command = Command::new(words.next().context("an empty command line")?);
    run_ok(command.args(words), Duration::from_secs(10))
}

/// Calls `probe` every few milliseconds until it answers true; `what` names the thing waited for when it never does.
pub fn wait_for(
    what: &str,
    limit: Duration,
    mut probe: impl FnMut() -> Result<bool>,
) -> Result<Duration> {
    let start = Instant::now();
    loop {
        if probe()? {
            return Ok(start.elapsed());
        }
        ensure!(start.elapsed() < limit, "{what}: not within {limit:?}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
