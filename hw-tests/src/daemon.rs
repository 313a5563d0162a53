//! The real daemon on the near end of a link, and its commands.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::command::{Output, Process, run, run_ok, wait_for};
use crate::lane;
use crate::link::{Link, NEAR_IF};
use crate::stats::Stats;

/// How long one command of the client may take.
const COMMAND: Duration = Duration::from_secs(15);

/// A running daemon; dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    process: Process,
    binary: PathBuf,
    folder: TempDir,
}

impl Daemon {
    /// Starts `devrx run --nic afxdp:dx0` in the near namespace and waits until it answers.
    pub fn start(link: &Link) -> Result<Self> {
        Self::start_with(link, None)
    }

    /// The same with a configuration file of this content, in which case the file also names the NICs.
    pub fn start_with(link: &Link, config: Option<&str>) -> Result<Self> {
        let binary = lane::binary()?;
        Self::launch(
            link.near.command(&binary),
            binary,
            config,
            &[&format!("afxdp:{NEAR_IF}")],
        )
    }

    /// Starts `devrx run --nic NIC...` where this process runs, as tests in a guest do, and waits until it answers.
    pub fn start_here(nics: &[&str]) -> Result<Self> {
        let binary = lane::binary()?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(&binary);
        Self::launch(command, binary, None, nics)
    }

    /// The same with a configuration file of this content, which also names the NICs.
    pub fn start_here_with(config: &str) -> Result<Self> {
        let binary = lane::binary()?;
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(&binary);
        Self::launch(command, binary, Some(config), &[])
    }

    fn launch(
        mut command: Command,
        binary: PathBuf,
        config: Option<&str>,
        nics: &[&str],
    ) -> Result<Self> {
        let folder = tempfile::Builder::new()
            .prefix(&lane::temporary("daemon"))
            .permissions(std::os::unix::fs::PermissionsExt::from_mode(0o755))
            .tempdir()?;
        command
            .args(["run", "--socket"])
            .arg(folder.path().join("devrx.sock"));
        if let Some(config) = config {
            let file = folder.path().join("devrx.toml");
            std::fs::write(&file, config)?;
            command.arg("--config").arg(file);
        } else {
            command.args(nics.iter().flat_map(|nic| ["--nic", nic]));
        }
        command.env("RUST_BACKTRACE", "1");
        let mut daemon = Self {
            process: Process::start_logged(&mut command)?,
            binary,
            folder,
        };
        wait_for("the daemon answers", Duration::from_secs(10), || {
            let written = daemon.process.written();
            anyhow::ensure!(
                daemon.process.running()?,
                "the daemon ended at once: {written:?}"
            );
            let socket = daemon.socket().exists();
            Ok(socket
                && run(&mut daemon.devrx(["stats", "--json"]), COMMAND)?
                    .status
                    .success())
        })?;
        Ok(daemon)
    }

    /// Its control socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.folder.path().join("devrx.sock")
    }

    /// A folder of its own for captures and the like.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The daemon's process id.
    #[must_use]
    pub fn pid(&self) -> nix::unistd::Pid {
        self.process.pid()
    }

    /// Its children now: the keeper.
    pub fn children(&self) -> Result<Vec<i32>> {
        let mut children = Vec::new();
        for task in std::fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            let list = std::fs::read_to_string(task?.path().join("children")).unwrap_or_default();
            children.extend(
                list.split_whitespace()
                    .filter_map(|pid| pid.parse::<i32>().ok()),
            );
        }
        Ok(children)
    }

    /// What it has logged.
    #[must_use]
    pub fn log(&self) -> String {
        self.process.written().1
    }

    /// Whether it runs.
    pub fn running(&mut self) -> Result<bool> {
        self.process.running()
    }

    /// Sends the daemon a signal and waits for its end; the folder and the socket's path stay for a successor.
    pub fn end(self, signal: Signal, limit: Duration) -> Result<(Output, TempDir)> {
        self.process.signal(signal)?;
        let Self {
            process, folder, ..
        } = self;
        Ok((process.wait(limit)?, folder))
    }

    /// A devrx command that talks to this daemon.
    #[must_use]
    pub fn devrx<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(&self.binary)
            .args(arguments);
        command.env("DEVRX_SOCKET", self.socket());
        command
    }

    /// Runs a devrx command line (split at spaces), which must succeed.
    pub fn ok(&self, line: &str) -> Result<Output> {
        run_ok(&mut self.devrx(line.split_whitespace()), COMMAND)
    }

    /// Runs a devrx command line (split at spaces), which must fail by itself; what it says on standard error.
    pub fn refused(&self, line: &str) -> Result<String> {
        let output = run(&mut self.devrx(line.split_whitespace()), COMMAND)?;
        anyhow::ensure!(
            !output.status.success(),
            "`devrx {line}` was accepted: {output:?}"
        );
        anyhow::ensure!(
            output.status.code() != Some(101),
            "`devrx {line}` panicked: {}",
            output.stderr
        );
        output
            .status
            .code()
            .with_context(|| format!("`devrx {line}` died: {output:?}"))?;
        Ok(output.stderr)
    }

    /// Attaches `queue` (a number or N-M) under `name` with memory of `chunks` chunks of `chunk` bytes and the flow rules.
    pub fn attach(
        &self,
        name: &str,
        queue: &str,
        chunks: u32,
        chunk: u32,
        rules: &[&str],
    ) -> Result<Output> {
        let mut line = format!(
            "attach --name {name} --nic {NEAR_IF} --queue {queue} --memory memfd --size {} --chunk {chunk}",
            u64::from(chunks) * u64::from(chunk)
        );
        for rule in rules {
            line += &format!(" --flow {rule}");
        }
        self.ok(&line)
    }

    /// Ends an attachment.
    pub fn detach(&self, name: &str) -> Result<Output> {
        self.ok(&format!("detach {name}"))
    }

    /// Starts `devrx recv NAME` with further arguments (split at spaces) and waits until it is the attachment's consumer.
    pub fn recv(&self, name: &str, more: &str) -> Result<Process> {
        let line = format!("recv {name} {more}");
        let mut process = Process::start(&mut self.devrx(line.split_whitespace()))?;
        wait_for("recv is the consumer", Duration::from_secs(5), || {
            if !process.running()? {
                // It may have all it was to receive already; what it wrote says more than its exit status.
                let (said, complained) = process.written();
                anyhow::ensure!(
                    complained.is_empty(),
                    "`devrx {line}` ended at once: {complained}{said}"
                );
                return Ok(true);
            }
            // A daemon that does not tell whether there is a consumer is taken at its word.
            Ok(self.stats()?.attachment(name)?.text("state") != "idle")
        })?;
        Ok(process)
    }

    /// Starts `devrx recv NAME --pcap FILE` for `count` packets (or `seconds`), and answers with FILE.
    pub fn recv_pcap(&self, name: &str, count: usize, seconds: u32) -> Result<(Process, PathBuf)> {
        let file = self.folder.path().join(format!("{name}.pcap"));
        std::fs::remove_file(&file).ok();
        let process = self.recv(
            name,
            &format!(
                "--count {count} --timeout {seconds} --pcap {}",
                file.display()
            ),
        )?;
        Ok((process, file))
    }

    /// Sends a capture with `devrx send` from the far end of the link.
    pub fn send(&self, link: &Link, capture: &Path, rate: u32) -> Result<Output> {
        let mut command = link.far.command(&self.binary);
        command
            .args(["send", "--interface", crate::link::FAR_IF, "--pcap"])
            .arg(capture);
        run_ok(
            command.args(["--rate", &rate.to_string()]),
            Duration::from_secs(60),
        )
    }

    /// What `devrx stats --json` says now.
    pub fn stats(&self) -> Result<Stats> {
        Ok(Stats(self.ok("stats --json")?.json()?))
    }

    /// Checks the sums once traffic has stopped: packets still on their way are given a second to arrive.
    pub fn check_sums(&self) -> Result<Stats> {
        self.check_sums_but(&[])
    }

    /// The same where traffic goes on on the queues in `live`.
    pub fn check_sums_but(&self, live: &[u64]) -> Result<Stats> {
        let mut last = self.stats()?;
        for _ in 0..20 {
            if last.check(live).is_ok() {
                return Ok(last);
            }
            std::thread::sleep(Duration::from_millis(50));
            last = self.stats()?;
        }
        last.check(live)?;
        Ok(last)
    }

    /// Ends an attachment and checks that everything it had went back, and the sums of all.
    pub fn detach_and_check(&self, name: &str) -> Result<Stats> {
        self.detach_and_check_but(name, &[])
    }

    /// The same where traffic goes on on the queues in `live`.
    pub fn detach_and_check_but(&self, name: &str, live: &[u64]) -> Result<Stats> {
        self.detach(name)?;
        let mut last = self.check_sums_but(live)?;
        // The end of an attachment that clients held chunks of may take a moment.
        wait_for("the attachment ends", Duration::from_secs(2), || {
            last = self.stats()?;
            Ok(!last.alive(name))
        })?;
        let entry = last
            .attachment(name)
            .context("an attachment that ended stays in the statistics")?;
        let (hold, release) = (entry.count("hold")?, entry.count("release")?);
        anyhow::ensure!(
            entry.count("in_flight")? == 0 && hold == release,
            "after detach: {}",
            entry.json()
        );
        last.check(live)?;
        Ok(last)
    }
}
