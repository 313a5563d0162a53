//! A modelled E810: the process that serves it to QEMU, and the line to it.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::machine::Nic;
use crate::command::wait_for;

/// How long the model may take for an answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// The process; dropping it kills it, and prints what it said.
#[derive(Debug)]
pub struct Card {
    id: &'static str,
    child: Child,
    line: BufReader<UnixStream>,
    log: PathBuf,
}

fn socket(nic: &Nic, folder: &Path) -> PathBuf {
    folder.join(format!("{}.vfio", nic.id))
}

impl Card {
    /// Starts the model of a NIC, with its wire where [`super::inject::Port`] has it.
    pub fn start(server: &Path, nic: &Nic, folder: &Path) -> Result<Self> {
        let at = |end: &str| folder.join(format!("{}.{end}", nic.id));
        let (control, log) = (at("control"), at("log"));
        let [a, b, c, d, e, f] = nic.mac();
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "KILL", "--"]).arg(server);
        command.arg("--socket").arg(socket(nic, folder));
        command.arg("--wire").arg(at("guest"));
        command.arg("--wire-to").arg(at("host"));
        command.arg("--control").arg(&control);
        command.arg("--mac");
        command.arg(format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}"));
        if let Some(level) = std::env::var_os("DEVRX_E810_LOG") {
            command.arg("--log").arg(level);
        }
        let file = File::create(&log)?;
        command.stdin(Stdio::null()).stderr(file.try_clone()?);
        let mut child = command.stdout(file).spawn()?;
        let there = wait_for("the E810 model", PATIENCE, || {
            if let Some(status) = child.try_wait()? {
                let said = std::fs::read_to_string(&log).unwrap_or_default();
                bail!("it ended: {status}: {said}");
            }
            Ok(socket(nic, folder).exists())
        });
        if let Err(error) = there {
            child.kill().ok();
            child.wait().ok();
            return Err(error);
        }
        let line = UnixStream::connect(&control).context("the model's control socket")?;
        line.set_read_timeout(Some(PATIENCE))?;
        Ok(Self {
            id: nic.id,
            child,
            line: BufReader::new(line),
            log,
        })
    }

    /// The argument of QEMU's `-device`, which it takes as JSON only.
    #[must_use]
    pub fn device(nic: &Nic, folder: &Path) -> String {
        let (bus, slot) = match nic.port {
            None => ("pcie.0", nic.slot),
            Some(port) => (port.id, 0),
        };
        serde_json::json!({
            "driver": "vfio-user-pci",
            "id": nic.id.to_uppercase(),
            "bus": bus,
            "addr": format!("{slot:#x}"),
            "socket": {"type": "unix", "path": socket(nic, folder)},
        })
        .to_string()
    }

    /// Asks for something; the lines of the answer.
    pub fn ask(&mut self, request: &str) -> Result<String> {
        let gone = || format!("the model of {} does not answer {request:?}", self.id);
        writeln!(self.line.get_mut(), "{request}").with_context(gone)?;
        let mut head = String::new();
        self.line.read_line(&mut head).with_context(gone)?;
        let head = head.trim_end();
        let Some(count) = head.strip_prefix("ok ") else {
            bail!("{request}: {}", head.strip_prefix("error ").unwrap_or(head));
        };
        let mut text = String::new();
        for _ in 0..count.parse::<usize>()? {
            ensure!(self.line.read_line(&mut text)? > 0, "{}", gone());
        }
        Ok(text)
    }
}

impl Drop for Card {
    fn drop(&mut self) {
        // With its client gone it ends by itself.
        let end = Instant::now() + Duration::from_secs(1);
        let mut ended = self.child.try_wait();
        while matches!(ended, Ok(None)) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(10));
            ended = self.child.try_wait();
        }
        match ended {
            Ok(Some(status)) if status.success() => {}
            Ok(Some(status)) => println!("    (the model of {}: {status})", self.id),
            _ => println!("    (the model of {} had to be killed)", self.id),
        }
        self.child.kill().ok();
        self.child.wait().ok();
        let said = std::fs::read_to_string(&self.log).unwrap_or_default();
        for line in said.lines().take(200) {
            println!("    {}: {line}", self.id);
        }
    }
}
