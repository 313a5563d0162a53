//! `devrx run`: the daemon.

use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;
use devrx_daemon::{Config, Shutdown};

/// How to run the daemon.
#[derive(Args)]
pub struct RunArgs {
    /// A NIC: afxdp:IFNAME or vfio:PCI; may be given several times.
    #[arg(long, value_name = "SPEC", required_unless_present = "config")]
    nic: Vec<String>,
    /// A configuration file (TOML); what is given here goes before what it says.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// End when standard input does: for programs that start a daemon of their own.
    #[arg(long)]
    until_stdin_closes: bool,
}

/// Runs the daemon until SIGINT, SIGTERM or SIGHUP.
///
/// # Errors
/// What keeps it from serving.
pub fn run(args: &RunArgs, socket: Option<PathBuf>, json: bool) -> Result<()> {
    // Before any thread starts: it blocks the signals that it waits for.
    let shutdown = Shutdown::signals()?;
    let mut config = Config::load(args.config.as_deref())?;
    config.merge_cli(&args.nic, socket)?;
    let (reader, writer) = std::io::pipe().context("cannot make a pipe")?;
    config.ready = Some(OwnedFd::from(writer));
    let nics = config.nics.iter().map(|nic| nic.spec.to_string()).collect();
    say_when_ready(reader, config.socket_path().to_path_buf(), nics, json)?;
    if args.until_stdin_closes {
        end_with_stdin()?;
    }
    devrx_daemon::run(config, shutdown)
}

/// Prints one line once the daemon serves.
fn say_when_ready(
    mut ready: std::io::PipeReader,
    socket: PathBuf,
    nics: Vec<String>,
    json: bool,
) -> Result<()> {
    let say = move || {
        let mut byte = [0];
        if ready.read_exact(&mut byte).is_err() {
            return;
        }
        let line = if json {
            serde_json::json!({ "ready": true, "pid": std::process::id(), "socket": socket, "nics": nics }).to_string()
        } else {
            format!("ready: {}", socket.display())
        };
        let mut out = std::io::stdout();
        // Whoever started the daemon may not listen.
        let _ = writeln!(out, "{line}").and_then(|()| out.flush());
    };
    std::thread::Builder::new()
        .name("ready".into())
        .spawn(say)
        .context("cannot start a thread")?;
    Ok(())
}

/// Asks the daemon to end, in the same way as a SIGTERM would, when standard input ends.
fn end_with_stdin() -> Result<()> {
    let wait = || {
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        let _ = nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGTERM);
    };
    std::thread::Builder::new()
        .name("stdin".into())
        .spawn(wait)
        .context("cannot start a thread")?;
    Ok(())
}
