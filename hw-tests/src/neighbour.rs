//! Somebody else's attachment, which must not notice anything.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::command::Process;
use crate::daemon::Daemon;
use crate::link::Link;
use crate::sender::{Sender, Traffic};
use crate::{frame, pcap};

/// Packets a second that a neighbour gets, well below what two cores sustain beside a flood.
const RATE: u32 = 4000;
/// Its UDP port.
const PORT: u16 = 6000;

/// An attachment called `neighbour` on queue 1 (of a link of two queues), its client and its traffic.
#[derive(Debug)]
pub struct Neighbour {
    client: Process,
    sender: Sender,
    file: PathBuf,
    count: u64,
    limit: Duration,
}

impl Neighbour {
    /// Attaches it and lets its packets come for `seconds`.
    pub fn start(daemon: &Daemon, link: &Link, seconds: u32) -> Result<Self> {
        daemon.attach(
            "neighbour",
            "1",
            16384,
            4096,
            &[&format!("udp,dst-port={PORT}")],
        )?;
        let count = u64::from(RATE * seconds);
        let (client, file) =
            daemon.recv_pcap("neighbour", usize::try_from(count)?, seconds + 10)?;
        let sender = Sender::start(link, Traffic::paced(PORT, count, RATE).on(1))?;
        Ok(Self {
            client,
            sender,
            file,
            count,
            limit: Duration::from_secs(u64::from(seconds) + 15),
        })
    }

    /// Whether packets are still sent to it.
    #[must_use]
    pub fn busy(&self) -> bool {
        self.sender.sent() < self.count
    }

    /// Waits for the end of its traffic, and fails if one packet is missing, late or damaged. Detaches it.
    pub fn finish(self, daemon: &Daemon) -> Result<()> {
        self.sender.finish()?;
        let output = self
            .client
            .wait(self.limit)
            .context("the neighbour's client")?;
        all_of(&pcap::read(&self.file)?, PORT, self.count).context("the neighbour")?;
        ensure!(
            output.status.success(),
            "the neighbour's client has all and failed: {output:?}"
        );
        let queue = daemon.detach_and_check("neighbour")?.queue(1)?;
        ensure!(
            queue.drops()? == 0,
            "the neighbour's queue dropped: {}",
            queue.json()
        );
        Ok(())
    }
}

/// Fails unless `frames` are the numbered frames `0..count` to `port`, in order, none missing.
pub fn all_of(frames: &[Vec<u8>], port: u16, count: u64) -> Result<()> {
    for (want, bytes) in (0..).zip(frames) {
        let number = frame::check(bytes, port)?;
        ensure!(
            number == want,
            "frame {want} is missing, next came {number}"
        );
    }
    ensure!(
        frames.len() as u64 == count,
        "{} of {count} frames arrived",
        frames.len()
    );
    Ok(())
}
