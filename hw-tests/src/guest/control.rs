//! The host's side of the control channel: reads requests, does what they ask.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::card::Card;
use super::inject::{Lot, Port, Source};
use super::machine::{BAR, Machine};
use super::message::{BAR_READ, Frames, Reply, Request, from_hex, sum, to_hex};
use super::qmp::Qmp;
use crate::{frame, pcap};

/// How long one look for a request takes at most.
const LOOK: Duration = Duration::from_millis(20);

/// The channel, and all that requests reach.
#[derive(Debug)]
pub struct Control {
    stream: UnixStream,
    received: Vec<u8>,
    machine: Machine,
    ports: BTreeMap<&'static str, Port>,
    cards: BTreeMap<&'static str, Card>,
    staged: Vec<Vec<u8>>,
    bar: File,
    qmp: Qmp,
    captures: PathBuf,
}

impl Control {
    /// A channel over `stream`.
    pub fn new(
        stream: UnixStream,
        qmp: Qmp,
        machine: &Machine,
        ports: BTreeMap<&'static str, Port>,
        cards: BTreeMap<&'static str, Card>,
        bar: File,
        captures: PathBuf,
    ) -> Result<Self> {
        stream.set_read_timeout(Some(LOOK))?;
        Ok(Self {
            stream,
            received: Vec::new(),
            machine: *machine,
            ports,
            cards,
            staged: Vec::new(),
            bar,
            qmp,
            captures,
        })
    }

    /// The next request with its id, if one comes soon.
    pub fn request(&mut self) -> Result<Option<(String, Request)>> {
        if !self.received.contains(&b'\n') {
            let mut buffer = [0; 16 << 10];
            match self.stream.read(&mut buffer) {
                Ok(count) => self.received.extend_from_slice(&buffer[..count]),
                Err(error)
                    if matches!(
                        error.kind(),
                        std::io::ErrorKind::WouldBlock
                            | std::io::ErrorKind::TimedOut
                            | std::io::ErrorKind::ConnectionReset
                    ) => {}
                Err(error) => return Err(error).context("the guest's control channel"),
            }
        }
        let Some(end) = self.received.iter().position(|&byte| byte == b'\n') else {
            return Ok(None);
        };
        let line: Vec<u8> = self.received.drain(..=end).collect();
        // A line that is cut off comes from a process that was killed while it wrote; it waits for no answer.
        Ok(serde_json::from_slice(&line).ok())
    }

    /// Does what a request asks and answers it.
    pub fn answer(&mut self, id: &str, request: &Request) -> Result<()> {
        let reply = self
            .act(request)
            .unwrap_or_else(|error| Reply::Failed(format!("{error:#}")));
        let mut line = serde_json::to_string(&(id, reply))?;
        line.push('\n');
        self.stream.write_all(line.as_bytes())?;
        Ok(())
    }

    /// Makes everything as it was before a test: nothing is being sent, nothing remembered, cables plugged in.
    pub fn reset(&mut self) {
        self.staged.clear();
        for (id, port) in &mut self.ports {
            if let Err(error) = port.stop() {
                println!("    (injection into {id}: {error:#})");
            }
            port.seen(|seen| *seen = super::inject::Seen::default())
                .ok();
        }
        for (id, card) in &mut self.cards {
            for request in ["fault none", "link up", "refusals"] {
                if let Err(error) = card.ask(request) {
                    println!("    (the model of {id}: {error:#})");
                }
            }
        }
    }

    fn act(&mut self, request: &Request) -> Result<Reply> {
        Ok(match request {
            Request::Sync | Request::Starting(..) | Request::Finished(..) | Request::Done => {
                Reply::Done
            }
            Request::Inject {
                nic,
                frames,
                rate,
                rounds,
            } => {
                let lot = self.lot(nic, frames, *rate, *rounds)?;
                self.port(nic)?.send(lot)?;
                Reply::Done
            }
            Request::Injection(nic) => {
                let (sent, running) = self.port(nic)?.state()?;
                Reply::Injection { sent, running }
            }
            Request::StopInjection(nic) => Reply::Injection {
                sent: self.port(nic)?.stop()?,
                running: false,
            },
            Request::Stage(hex) => {
                self.staged.push(from_hex(hex).context("no hexadecimal")?);
                Reply::Done
            }
            Request::Seen(nic) => self.port(nic)?.seen(|seen| Reply::Seen {
                frames: seen.count,
                kept: seen.frames.len(),
            })?,
            Request::SeenFrame(nic, index) => {
                let frame = self
                    .port(nic)?
                    .seen(|seen| seen.frames.get(*index).cloned())?;
                Reply::Bytes(to_hex(&frame.context("not that many frames are kept")?))
            }
            Request::ForgetSeen(nic) => {
                self.port(nic)?
                    .seen(|seen| *seen = super::inject::Seen::default())?;
                Reply::Done
            }
            Request::BarRead(offset, length) => {
                ensure!(*length <= BAR_READ, "at most {BAR_READ} bytes at a time");
                Reply::Bytes(to_hex(&self.bar(*offset, *length)?))
            }
            Request::BarSum(offset, length) => Reply::Sum(sum(self.bar(*offset, *length)?)),
            Request::BarFill(offset, length, byte) => {
                within_bar(*offset, *length)?;
                let bytes = vec![*byte; usize::try_from(*length)?];
                self.bar.write_all_at(&bytes, *offset)?;
                Reply::Done
            }
            Request::SetLink(nic, up) if self.cards.contains_key(nic.as_str()) => {
                let way = if *up { "up" } else { "down" };
                Reply::Text(self.card(nic)?.ask(&format!("link {way}"))?)
            }
            Request::SetLink(nic, up) => {
                self.port(nic)?;
                let way = if *up { "on" } else { "off" };
                Reply::Text(self.qmp.monitor(&format!("set_link {nic} {way}"))?)
            }
            Request::Monitor(command) => Reply::Text(self.qmp.monitor(command)?),
            Request::Events => Reply::Text(serde_json::to_string(&self.qmp.events()?)?),
            Request::Card(nic, request) => Reply::Text(self.card(nic)?.ask(request)?),
        })
    }

    fn port(&mut self, nic: &str) -> Result<&mut Port> {
        let machine = self.machine.name;
        self.ports
            .get_mut(nic)
            .with_context(|| format!("the machine {machine} has no NIC {nic}"))
    }

    fn card(&mut self, nic: &str) -> Result<&mut Card> {
        self.cards
            .get_mut(nic)
            .with_context(|| format!("{nic} is no modelled card"))
    }

    fn lot(&mut self, nic: &str, frames: &Frames, rate: Option<u32>, rounds: u32) -> Result<Lot> {
        let mac = self.machine.nic(nic).context("no such NIC")?.mac();
        let (mut source, count) = self.source(mac, frames)?;
        ensure!(count > 0, "no frames to inject");
        Ok(Lot {
            source: Box::new(move |index| source(index % count)),
            count: count * u64::from(rounds),
            rate,
        })
    }

    /// What makes frame n of these, and how many there are.
    fn source(&mut self, mac: [u8; 6], frames: &Frames) -> Result<(Source, u64)> {
        let numbered = |mac, port, first, count, payload| -> (Source, u64) {
            let source = move |index| frame::numbered_to(mac, port, first + index, payload);
            (Box::new(source), count)
        };
        let list = match *frames {
            Frames::Numbered {
                port,
                first,
                count,
                payload,
            } => return Ok(numbered(mac, port, first, count, payload)),
            Frames::NumberedTo {
                mac,
                port,
                first,
                count,
                payload,
            } => return Ok(numbered(mac, port, first, count, payload)),
            Frames::Mixed(ref kinds) => {
                let mut parts = Vec::new();
                for kind in kinds {
                    parts.push(self.source(mac, kind)?);
                }
                let each = parts.first().context("a mixture of nothing")?.1;
                ensure!(
                    parts.iter().all(|(_, count)| *count == each),
                    "a mixture takes equally many of each"
                );
                let kinds = parts.len() as u64;
                let source = move |index: u64| parts[(index % kinds) as usize].0(index / kinds);
                return Ok((Box::new(source), each * kinds));
            }
            Frames::Capture(ref name) => pcap::read(&self.captures.join(format!("{name}.pcap")))?,
            Frames::Staged => std::mem::take(&mut self.staged),
        };
        let count = list.len() as u64;
        Ok((Box::new(move |index| list[index as usize].clone()), count))
    }

    fn bar(&self, offset: u64, length: u64) -> Result<Vec<u8>> {
        within_bar(offset, length)?;
        let mut bytes = vec![0; usize::try_from(length)?];
        self.bar.read_exact_at(&mut bytes, offset)?;
        Ok(bytes)
    }
}

fn within_bar(offset: u64, length: u64) -> Result<()> {
    let end = offset.checked_add(length);
    ensure!(
        end.is_some_and(|end| end <= BAR),
        "{length} bytes at {offset} are not within the BAR's {BAR}"
    );
    Ok(())
}
