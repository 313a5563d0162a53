//! Running programs: said before, timed, bounded.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::process;

/// Says which step begins.
pub fn step(name: &str) {
    println!("==> {name}");
}

/// Seconds since `start`, as the reports write them.
pub fn took(start: Instant) -> String {
    format!("{:.0} s", start.elapsed().as_secs_f64())
}

/// Whether `program` is on the path.
pub fn has(program: &str) -> bool {
    let Some(path) = std::env::var_os("PATH") else {
        return false;
    };
    // Root's path on Debian may lack these when a command comes through `su` or a container.
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .any(|dir| dir.join(program).is_file())
}

/// Whether cargo has the subcommand `name`.
pub fn has_cargo(name: &str) -> bool {
    let home = std::env::var_os("CARGO_HOME")
        .map(|home| Path::new(&home).join("bin").join(format!("cargo-{name}")));
    has(&format!("cargo-{name}")) || home.is_some_and(|path| path.is_file())
}

/// The cargo that runs this program.
pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(crate::root());
    without_cargo(&mut command);
    command
}

/// Takes out of a command's environment what cargo sets for the programs it runs.
pub fn without_cargo(command: &mut Command) {
    // It is of no use to a cargo inside, and makes build scripts run again.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_")
            || text.starts_with("CARGO_MANIFEST_")
            || text == "CARGO_BIN_NAME"
            || text == "CARGO_CRATE_NAME"
        {
            command.env_remove(&name);
        }
    }
}

/// Runs a command to its end with its output on the terminal; true when it succeeded.
pub fn run(command: &mut Command) -> Result<bool> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", name(command)))?;
    Ok(status.success())
}

/// How long a command may print nothing before it counts as hung. A compiler may be silent for minutes, a test only where it hangs.
const SILENCE: Duration = Duration::from_secs(480);
/// How a line begins that says that something was ended because it hung.
pub const HUNG: &str = "xtask: hung: ";

/// Runs a command, showing what it prints line by line and giving each line to `see`; true when it succeeded.
///
/// What prints nothing for long is ended, and a line that begins with [`HUNG`] says so: a test that hangs must not keep the others from
/// being reported, nor take all the time a CI machine has.
pub fn run_seeing(command: &mut Command, see: impl FnMut(&str)) -> Result<bool> {
    run_bounded(command, SILENCE, see)
}

fn run_bounded(
    command: &mut Command,
    silence: Duration,
    mut see: impl FnMut(&str),
) -> Result<bool> {
    let (from, to) = std::io::pipe().context("cannot make a pipe")?;
    command.stdout(to.try_clone()?).stderr(to);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {}", name(command)))?;
    // The command holds the writing end too; without this the reading below would never end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let lines = lines(from);
    let mut show = |text: &str| {
        println!("{text}");
        see(text);
    };
    let mut hung = false;
    let mut last = String::new();
    loop {
        match lines.recv_timeout(silence) {
            Ok(text) => {
                show(&text);
                last = text;
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                show(&format!(
                    "{HUNG}ended after {} s without a line; the last was: {last}",
                    silence.as_secs()
                ));
                // First only what the command started: cargo then goes on with the next test program.
                if !process::end_descendants(child.id()) || hung {
                    child.kill().ok();
                }
                hung = true;
            }
        }
    }
    Ok(child.wait()?.success() && !hung)
}

/// The lines of `from`, read by a thread so that waiting for the next one can be given up.
fn lines(from: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut reader = BufReader::new(from);
        let mut line = Vec::new();
        // By bytes: a test may print what is not UTF-8.
        while reader.read_until(b'\n', &mut line).unwrap_or(0) > 0 {
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            if sender.send(text).is_err() {
                break;
            }
            line.clear();
        }
    });
    receiver
}

/// What a bounded, quiet run came to.
pub struct Quiet {
    /// Whether it ended by itself with success.
    pub success: bool,
    /// Whether it was ended because its time was up.
    pub hung: bool,
    /// Standard output and standard error.
    pub output: String,
}

/// Runs a command with its output kept, for at most `limit`.
pub fn run_quietly(command: &mut Command, limit: Duration) -> Result<Quiet> {
    use std::os::unix::process::CommandExt;
    // A group of its own, so that what the command started ends with it when time is up.
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("cannot start {}", name(command)))?;
    let out = child.stdout.take().map(collect);
    let err = child.stderr.take().map(collect);
    let end = Instant::now() + limit;
    let mut hung = false;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() >= end {
            hung = true;
            let group = nix::unistd::Pid::from_raw(i32::try_from(child.id())?);
            let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGKILL);
            break child.wait()?;
        }
        std::thread::sleep(Duration::from_millis(10));
    };
    let mut output = String::new();
    for part in [out, err].into_iter().flatten() {
        output.push_str(&part.join().unwrap_or_default());
    }
    Ok(Quiet {
        success: status.success() && !hung,
        hung,
        output,
    })
}

fn collect(mut from: impl std::io::Read + Send + 'static) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        let _ = from.read_to_end(&mut bytes);
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

fn name(command: &Command) -> String {
    command.get_program().to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_hangs_is_ended_and_what_started_it_goes_on() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo one; sh -c 'sleep 600; :'; echo two; exit 0"]);
        let start = Instant::now();
        let mut seen = Vec::new();
        let ok = run_bounded(&mut command, Duration::from_secs(1), |line| {
            seen.push(line.to_owned());
        })
        .expect("it runs");
        assert!(!ok, "a run in which something hung is no success");
        assert!(start.elapsed() < Duration::from_secs(60));
        let hung = format!("{HUNG}ended after 1 s without a line; the last was: one");
        // The shell may say that what it started was killed.
        assert_eq!((&seen[0], &seen[1]), (&"one".to_owned(), &hung));
        assert_eq!(seen.last().map(String::as_str), Some("two"), "{seen:?}");
    }

    #[test]
    fn a_command_that_starts_nothing_and_hangs_is_ended_itself() {
        let mut command = Command::new("sleep");
        command.arg("600");
        let ok = run_bounded(&mut command, Duration::from_millis(300), |_| {}).expect("it runs");
        assert!(!ok);
    }
}
