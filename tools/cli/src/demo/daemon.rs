//! The daemon of the demo: this same program, run as a user would run it.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::namespace::Namespace;

/// How long the daemon may take to serve, and to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// A daemon that ends when this does, however it ends: its standard input closes.
pub struct Daemon {
    child: Child,
    stdin: Option<ChildStdin>,
    log: Option<JoinHandle<String>>,
}

impl Daemon {
    /// Starts it in a namespace and waits until it serves.
    ///
    /// # Errors
    /// What the daemon itself said.
    pub fn start(namespace: &Namespace, interface: &str, socket: &Path) -> Result<Self> {
        let mut child = namespace.run_with_sys(|| {
            Command::new("/proc/self/exe")
                .args([
                    "run",
                    "--until-stdin-closes",
                    "--nic",
                    &format!("afxdp:{interface}"),
                    "--socket",
                ])
                .arg(socket)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .context("cannot start the daemon")
        })?;
        let stdin = child.stdin.take();
        let log = child.stderr.take().map(collect);
        let (tell, told) = mpsc::channel();
        if let Some(out) = child.stdout.take() {
            std::thread::spawn(move || {
                // Read on after the first line, so that the daemon never writes to a closed pipe.
                for line in BufReader::new(out).lines().map_while(Result::ok) {
                    let _ = tell.send(line);
                }
            });
        }
        let mut daemon = Self { child, stdin, log };
        if told.recv_timeout(PATIENCE).is_err() {
            let status = daemon.stop();
            let log = daemon.log();
            match status {
                Ok(status) => bail!("the daemon did not start ({status}): {}", log.trim()),
                Err(error) => bail!(
                    "the daemon did not start, and did not end ({error:#}): {}",
                    log.trim()
                ),
            }
        }
        Ok(daemon)
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Asks it to end, and waits for that; kills it if it does not.
    ///
    /// # Errors
    /// It had to be killed.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        drop(self.stdin.take());
        let end = Instant::now() + PATIENCE;
        while Instant::now() < end {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        self.child.kill()?;
        self.child.wait()?;
        bail!(
            "the daemon did not end within {} s and was killed",
            PATIENCE.as_secs()
        )
    }

    /// What it wrote to stderr, once it has ended.
    pub fn log(&mut self) -> String {
        self.log
            .take()
            .and_then(|log| log.join().ok())
            .unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.stop();
    }
}

/// Keeps what the daemon logs, and shows it at once where the user asked for logs.
fn collect(from: impl std::io::Read + Send + 'static) -> JoinHandle<String> {
    let shown = std::env::var_os("RUST_LOG").is_some();
    std::thread::spawn(move || {
        let mut log = String::new();
        for line in BufReader::new(from).lines().map_while(Result::ok) {
            if shown {
                tell!("daemon: {line}");
            }
            log.push_str(&line);
            log.push('\n');
        }
        log
    })
}
