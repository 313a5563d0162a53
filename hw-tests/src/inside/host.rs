//! What a test in a guest can ask of the host.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::command::wait_for;
use crate::guest::machine::{CONTROL, Machine};
use crate::guest::message::{BAR_READ, Frames, Reply, Request, from_hex, to_hex};

/// Where the kernel lists virtio ports; the file of each has the port's name.
const PORTS: &str = "/sys/class/virtio-ports";
/// How long the host may take for an answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// The host, at the other end of the control channel.
#[derive(Debug)]
pub struct Host {
    port: File,
    received: Vec<u8>,
    next: u64,
    machine: Machine,
}

impl Host {
    /// Opens the channel from a guest of this kind. One process at a time may use it.
    pub fn open(machine: Machine) -> Result<Self> {
        let mut name = None;
        wait_for("the control channel", Duration::from_secs(5), || {
            for port in std::fs::read_dir(PORTS)?.flatten() {
                let its = std::fs::read_to_string(port.path().join("name")).unwrap_or_default();
                if its.trim() == CONTROL {
                    name = Some(port.file_name());
                }
            }
            Ok(name.is_some())
        })?;
        let path = Path::new("/dev").join(name.context("no control channel")?);
        let port = OpenOptions::new()
            .read(true)
            .write(true)
            .open(&path)
            .with_context(|| format!("cannot open {}", path.display()))?;
        let mut host = Self {
            port,
            received: Vec::new(),
            next: 0,
            machine,
        };
        // Ends what a process that was killed may have begun to say.
        host.port.write_all(b"\n")?;
        host.done(&Request::Sync)?;
        Ok(host)
    }

    /// What this guest is made of.
    #[must_use]
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// The PCI address of a NIC.
    pub fn pci(&self, nic: &str) -> Result<String> {
        let nic = self.machine.nic(nic);
        Ok(nic.context("the machine has no such NIC")?.pci())
    }

    /// Starts to send frames to a NIC and returns at once. `rate`: frames a second, `None` for as fast as the NIC takes them.
    pub fn inject(&mut self, nic: &str, frames: Frames, rate: Option<u32>) -> Result<()> {
        self.inject_rounds(nic, frames, rate, 1)
    }

    /// The same, the whole of it `rounds` times.
    pub fn inject_rounds(
        &mut self,
        nic: &str,
        frames: Frames,
        rate: Option<u32>,
        rounds: u32,
    ) -> Result<()> {
        self.done(&Request::Inject {
            nic: nic.to_owned(),
            frames,
            rate,
            rounds,
        })
    }

    /// Starts to send exactly these frames.
    pub fn inject_frames(
        &mut self,
        nic: &str,
        frames: &[Vec<u8>],
        rate: Option<u32>,
    ) -> Result<()> {
        for frame in frames {
            self.done(&Request::Stage(to_hex(frame)))?;
        }
        self.inject(nic, Frames::Staged, rate)
    }

    /// Frames of the last injection that QEMU has taken so far, and whether more are to come.
    pub fn injection(&mut self, nic: &str) -> Result<(u64, bool)> {
        match self.ask(&Request::Injection(nic.to_owned()))? {
            Reply::Injection { sent, running } => Ok((sent, running)),
            other => bail!("answered by {other:?}"),
        }
    }

    /// Waits until QEMU has taken all frames of the last injection; how many they were.
    pub fn injected(&mut self, nic: &str, limit: Duration) -> Result<u64> {
        let end = Instant::now() + limit;
        loop {
            let (sent, running) = self.injection(nic)?;
            if !running {
                return Ok(sent);
            }
            ensure!(
                Instant::now() < end,
                "after {limit:?} the NIC has taken only {sent} frames"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Ends an injection; how many frames QEMU has taken.
    pub fn stop_injection(&mut self, nic: &str) -> Result<u64> {
        match self.ask(&Request::StopInjection(nic.to_owned()))? {
            Reply::Injection { sent, .. } => Ok(sent),
            other => bail!("answered by {other:?}"),
        }
    }

    /// How many frames a NIC has sent in this test.
    pub fn seen_count(&mut self, nic: &str) -> Result<u64> {
        match self.ask(&Request::Seen(nic.to_owned()))? {
            Reply::Seen { frames, .. } => Ok(frames),
            other => bail!("answered by {other:?}"),
        }
    }

    /// The frames that a NIC has sent in this test (the first 16384 of them).
    pub fn seen(&mut self, nic: &str) -> Result<Vec<Vec<u8>>> {
        let Reply::Seen { kept, .. } = self.ask(&Request::Seen(nic.to_owned()))? else {
            bail!("no list of frames");
        };
        (0..kept)
            .map(|index| self.bytes(&Request::SeenFrame(nic.to_owned(), index)))
            .collect()
    }

    /// Forgets what a NIC has sent.
    pub fn forget_seen(&mut self, nic: &str) -> Result<()> {
        self.done(&Request::ForgetSeen(nic.to_owned()))
    }

    /// Bytes of the ivshmem BAR as the host sees them: read where they are, not through the guest. For more than a megabyte compare
    /// [`Host::bar_sum`]s.
    pub fn bar_read(&mut self, offset: u64, length: u64) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        let (mut at, end) = (offset, offset + length);
        while at < end {
            let part = BAR_READ.min(end - at);
            bytes.extend(self.bytes(&Request::BarRead(at, part))?);
            at += part;
        }
        Ok(bytes)
    }

    /// [`sum`](crate::guest::message::sum) over a span of the BAR as the host sees it. All of it takes less than a tenth of a second.
    pub fn bar_sum(&mut self, offset: u64, length: u64) -> Result<u64> {
        match self.ask(&Request::BarSum(offset, length))? {
            Reply::Sum(sum) => Ok(sum),
            other => bail!("answered by {other:?}"),
        }
    }

    /// Fills a span of the BAR from the host's side.
    pub fn bar_fill(&mut self, offset: u64, length: u64, byte: u8) -> Result<()> {
        self.done(&Request::BarFill(offset, length, byte))
    }

    /// Plugs a NIC's cable in, or pulls it.
    pub fn set_link(&mut self, nic: &str, up: bool) -> Result<()> {
        self.monitor_request(&Request::SetLink(nic.to_owned(), up))
            .map(drop)
    }

    /// Runs a command of QEMU's human monitor; what it prints.
    pub fn monitor(&mut self, command: &str) -> Result<String> {
        self.monitor_request(&Request::Monitor(command.to_owned()))
    }

    /// What QEMU says has happened since this was last asked.
    pub fn events(&mut self) -> Result<Vec<serde_json::Value>> {
        let events = self.monitor_request(&Request::Events)?;
        Ok(serde_json::from_str(&events)?)
    }

    /// Asks the model of a NIC for something; what it answers, a line each.
    pub fn card(&mut self, nic: &str, request: &str) -> Result<String> {
        self.monitor_request(&Request::Card(nic.to_owned(), request.to_owned()))
    }

    /// Sends a request and waits for its answer.
    pub fn ask(&mut self, request: &Request) -> Result<Reply> {
        self.next += 1;
        let id = format!("{}.{}", std::process::id(), self.next);
        let mut line = serde_json::to_string(&(&id, request))?;
        line.push('\n');
        self.port.write_all(line.as_bytes())?;
        let end = Instant::now() + PATIENCE;
        loop {
            let line = self
                .line(end)
                .with_context(|| format!("no answer from the host to {request:?}"))?;
            // Answers to a process that was killed are passed over, whole or cut.
            match serde_json::from_slice::<(String, Reply)>(&line) {
                Ok((to, Reply::Failed(why))) if to == id => bail!("{why}"),
                Ok((to, reply)) if to == id => return Ok(reply),
                _ => {}
            }
        }
    }

    fn line(&mut self, end: Instant) -> Result<Vec<u8>> {
        loop {
            if let Some(at) = self.received.iter().position(|&byte| byte == b'\n') {
                return Ok(self.received.drain(..=at).collect());
            }
            let left = end.saturating_duration_since(Instant::now());
            ensure!(!left.is_zero(), "not within {PATIENCE:?}");
            let mut ready = [PollFd::new(self.port.as_fd(), PollFlags::POLLIN)];
            poll(
                &mut ready,
                PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX),
            )?;
            if ready[0].any() == Some(true) {
                let mut buffer = [0; 32 << 10];
                let count = self.port.read(&mut buffer)?;
                self.received.extend_from_slice(&buffer[..count]);
            }
        }
    }

    fn done(&mut self, request: &Request) -> Result<()> {
        match self.ask(request)? {
            Reply::Done => Ok(()),
            other => bail!("{request:?} was answered by {other:?}"),
        }
    }

    fn bytes(&mut self, request: &Request) -> Result<Vec<u8>> {
        match self.ask(request)? {
            Reply::Bytes(hex) => from_hex(&hex).context("the host's bytes are garbled"),
            other => bail!("{request:?} was answered by {other:?}"),
        }
    }

    fn monitor_request(&mut self, request: &Request) -> Result<String> {
        match self.ask(request)? {
            Reply::Text(text) => Ok(text),
            other => bail!("{request:?} was answered by {other:?}"),
        }
    }
}
