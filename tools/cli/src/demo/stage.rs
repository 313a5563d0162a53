//! The demo's scenery: namespaces, cable, daemon, client.

use std::borrow::Cow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use devrx_client::proto::message::Lifetime;
use devrx_client::proto::stats::Stats;
use devrx_client::{AttachOptions, Attachment, Client};

use super::DemoArgs;
use super::check::{Checked, Checker};
use super::daemon::Daemon;
use super::traffic::Source;
use crate::commands::send::{Sent, packet_socket, send_frames};
use crate::namespace::Namespace;
use crate::progress::Line;
use crate::stop;

/// The daemon's end of the cable.
const NEAR: &str = "devrx0";
/// The sender's end.
const FAR: &str = "devrx1";
/// The attachment.
const NAME: &str = "demo";
/// Its memory: at the demo's rate more than the packets of a second.
const SIZE: u64 = 128 << 20;
/// How long packets may be on their way after the last was sent.
const SETTLE: Duration = Duration::from_secs(2);
/// How long to wait for packets at a time.
const WAIT: Duration = Duration::from_millis(20);

/// Everything that has to be there before the first packet. Dropping it ends it all.
pub struct Stage {
    // Dropped in this order: client, daemon, then the namespaces it lives in.
    attachment: Attachment,
    client: Client,
    /// The daemon.
    pub daemon: Daemon,
    far: Namespace,
    _near: Namespace,
    _folder: tempfile::TempDir,
}

/// What was sent, and what came of it.
pub struct Played {
    /// What the kernel took from the sender.
    pub sent: Sent,
    /// What the client got.
    pub checked: Checked,
    /// Frames lost on the cable, as its driver counts them.
    pub lost_on_cable: u64,
    /// Whether payload was received without a copy.
    pub zero_copy: bool,
    /// The daemon's numbers after the last packet.
    pub stats: Stats,
}

/// What the end of the attachment and the daemon came to.
pub struct Ended {
    /// The daemon's numbers after the detach.
    pub stats: Stats,
    /// What went wrong with the daemon's own end.
    pub fault: Option<String>,
}

impl Stage {
    /// Sets it.
    ///
    /// # Errors
    /// Whatever is missing.
    pub fn set(source: &Source) -> Result<Self> {
        let near = Namespace::new()?;
        let far = Namespace::new()?;
        let mtu = source.mtu();
        let cable = format!(
            "link add {NEAR} mtu {mtu} type veth peer name {FAR} mtu {mtu} netns {}",
            far.path().display()
        );
        near.ip(&cable)?;
        near.ip(&format!("link set {NEAR} up"))?;
        far.ip(&format!("link set {FAR} up"))?;
        let folder = tempfile::Builder::new()
            .prefix("devrx-demo-")
            .tempdir()
            .context("cannot make a folder for the socket")?;
        let socket = folder.path().join("devrx.sock");
        let daemon = Daemon::start(&near, NEAR, &socket)?;
        let mut client =
            Client::connect(&socket).context("cannot reach the daemon that was just started")?;
        let options = AttachOptions::new(NAME, NEAR, 0)
            .size(SIZE)
            .flow("any")
            .wake(64, 200)
            .lifetime(Lifetime::Daemon);
        let attachment = client.attach(&options).context("cannot attach")?;
        Ok(Self {
            attachment,
            client,
            daemon,
            far,
            _near: near,
            _folder: folder,
        })
    }

    /// Sends, receives and compares.
    ///
    /// # Errors
    /// What keeps frames from being sent or received at all.
    pub fn play(&mut self, source: &Source, args: &DemoArgs, mut line: Line) -> Result<Played> {
        // A socket stays in the namespace it was made in.
        let socket = self.far.run(|| packet_socket(FAR))?;
        let lost_before = self.lost_on_cable()?;
        let limit = source.limit(args.rate, args.seconds);
        let (sent, done) = (AtomicU64::new(0), AtomicBool::new(false));
        let mut checker = Checker::new(source);
        let outcome = std::thread::scope(|scope| {
            let sender = scope.spawn(|| {
                let frame = |number: u64| -> Cow<'_, [u8]> { source.frame(number) };
                let outcome = send_frames(&socket, frame, limit, Some(args.rate), |so_far| {
                    sent.store(so_far.sent, Ordering::Relaxed)
                });
                if let Ok(outcome) = &outcome {
                    sent.store(outcome.sent, Ordering::Relaxed);
                }
                done.store(true, Ordering::Release);
                outcome
            });
            let received = self.receive(&mut checker, &sent, &done, &mut line);
            // A receiver that failed has nobody to read on; the sender need not go on to the end of its time.
            if received.is_err() {
                stop::ask();
            }
            let outcome = sender
                .join()
                .map_err(|_| anyhow!("the sender panicked"))
                .and_then(|outcome| outcome);
            received.and(outcome)
        })?;
        line.clear();
        Ok(Played {
            sent: outcome,
            checked: checker.finish(),
            lost_on_cable: self.lost_on_cable()? - lost_before,
            zero_copy: self.attachment.opened().zero_copy,
            stats: self.client.stats(None)?,
        })
    }

    fn receive(
        &mut self,
        checker: &mut Checker<'_>,
        sent: &AtomicU64,
        done: &AtomicBool,
        line: &mut Line,
    ) -> Result<()> {
        let mut frame = Vec::new();
        let start = Instant::now();
        let mut settled_at = None;
        loop {
            // Before the receiving: what was sent until now may still be on its way.
            let over = done.load(Ordering::Acquire);
            let batch = self.attachment.recv(Some(WAIT)).context("cannot receive")?;
            let quiet = batch.is_empty();
            for packet in &batch {
                frame.clear();
                packet
                    .copy_frame_to(&mut frame)
                    .context("cannot read the packet")?;
                checker.see(&frame, packet.header_len());
            }
            drop(batch);
            let checked = checker.so_far();
            let sent = sent.load(Ordering::Relaxed);
            line.show(|| {
                // The sender says only now and then how far it is.
                let sent = sent.max(checked.delivered);
                let rate = checked.delivered as f64 / start.elapsed().as_secs_f64();
                format!(
                    "sent {sent}, delivered {}, verified {}, {rate:.0} packets/s",
                    checked.delivered, checked.verified
                )
            });
            if over {
                let end = *settled_at.get_or_insert(Instant::now() + SETTLE);
                if checked.delivered >= sent || Instant::now() >= end {
                    return Ok(());
                }
                // What was dropped does not come any more.
                if quiet && checked.delivered + self.dropped()? >= sent {
                    return Ok(());
                }
            }
        }
    }

    /// Ends the attachment, then the daemon.
    ///
    /// # Errors
    /// A daemon that does not detach.
    pub fn end(self) -> Result<Ended> {
        let Self {
            attachment,
            mut client,
            mut daemon,
            far: _far,
            _near,
            _folder,
        } = self;
        client.detach(NAME).context("cannot detach")?;
        drop(attachment);
        let stats = client.stats(None)?;
        drop(client);
        let fault = match daemon.stop() {
            Ok(status) if status.success() => None,
            Ok(status) => Some(format!(
                "the daemon ended with {status}: {}",
                daemon.log().trim()
            )),
            Err(error) => Some(format!("{error:#}: {}", daemon.log().trim())),
        };
        Ok(Ended { stats, fault })
    }

    fn dropped(&mut self) -> Result<u64> {
        let stats = self.client.stats(None)?;
        Ok(stats
            .queues
            .iter()
            .flat_map(|queue| queue.drops.values())
            .sum())
    }

    /// Frames that the cable's driver dropped on the sender's side.
    fn lost_on_cable(&self) -> Result<u64> {
        self.far.run(|| {
            // Not /proc/net, which is that of the process's first thread.
            let table = std::fs::read_to_string("/proc/thread-self/net/dev")
                .context("cannot read the sender's counters")?;
            let line = table
                .lines()
                .find_map(|line| line.trim().strip_prefix(FAR)?.strip_prefix(':'));
            // Eight numbers of receiving, then bytes, packets, errs, drop of sending.
            let dropped = line.and_then(|line| line.split_whitespace().nth(11)?.parse().ok());
            dropped.context("the sender's counters are not in /proc/thread-self/net/dev")
        })
    }
}
