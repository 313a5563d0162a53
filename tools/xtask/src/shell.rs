//! Running programs: said before, timed, bounded.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

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
    // What cargo sets for the programs it runs is of no use to a cargo inside, and makes build scripts run again.
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
    command
}

/// Runs a command to its end with its output on the terminal; true when it succeeded.
pub fn run(command: &mut Command) -> Result<bool> {
    let status = command
        .status()
        .with_context(|| format!("cannot start {}", name(command)))?;
    Ok(status.success())
}

/// Runs a command, showing what it prints line by line and giving each line to `see`; true when it succeeded.
pub fn run_seeing(command: &mut Command, mut see: impl FnMut(&str)) -> Result<bool> {
    let (from, to) = std::io::pipe().context("cannot make a pipe")?;
    command.stdout(to.try_clone()?).stderr(to);
    let mut child = command
        .spawn()
        .with_context(|| format!("cannot start {}", name(command)))?;
    // The command holds the writing end too; without this the reading below would never end.
    command.stdout(Stdio::null()).stderr(Stdio::null());
    let mut reader = BufReader::new(from);
    let mut line = Vec::new();
    // By bytes: a test may print what is not UTF-8.
    while reader.read_until(b'\n', &mut line)? > 0 {
        let text = String::from_utf8_lossy(&line);
        print!("{text}");
        see(text.trim_end());
        line.clear();
    }
    Ok(child.wait()?.success())
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
