//! `devrx recv`: consume an attachment.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result, bail};
use clap::Args;
use devrx_client::{Attachment, ClientError, Packet};
use serde::Serialize;

use super::{connect, warn};
use crate::capture::Writer;
use crate::{progress, size, stop};

/// How long to wait at a time, so that Ctrl-C is noticed.
const PATIENCE: Duration = Duration::from_millis(100);

/// What to receive, and until when.
#[derive(Args)]
pub struct RecvArgs {
    /// The attachment's name.
    name: String,
    /// Stop after this many packets.
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Stop after this many seconds.
    #[arg(long, value_name = "S", value_parser = size::seconds)]
    timeout: Option<Duration>,
    /// Write whole frames, header and payload rejoined, to this pcap file.
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
}

/// What was received.
#[derive(Debug, Default, Serialize)]
struct Received {
    name: String,
    packets: u64,
    bytes: u64,
    header_bytes: u64,
    payload_bytes: u64,
    seconds: f64,
    packets_per_second: f64,
    /// Why the attachment ended, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<String>,
}

/// Runs the command.
///
/// # Errors
/// What the daemon answers; fewer packets than `--count` asks for; a capture that cannot be written.
pub fn run(args: &RecvArgs, socket: &Path, json: bool) -> Result<()> {
    let mut attachment = connect(socket)?.open(&args.name)?;
    warn(attachment.warnings());
    if let Some(file) = &args.pcap
        && attachment.memory().region().is_none()
    {
        bail!(
            "--pcap {}: no payload of {} can be read here, because it lies in {} memory; receive without --pcap (headers and counts come all \
             the same), or attach with memory that a CPU reads, such as memfd",
            file.display(),
            args.name,
            attachment.opened().region.memory
        );
    }
    let mut writer = args.pcap.as_deref().map(Writer::create).transpose()?;
    let received = receive(&mut attachment, args, writer.as_mut(), json)?;
    // The daemon takes back what was held before the summary says that this is over.
    drop(attachment);
    if let Some(writer) = writer {
        writer.finish()?;
    }
    if json {
        say!("{}", serde_json::to_string(&received)?)?;
    } else {
        say!(
            "received {} packets, {} bytes ({} of headers, {} of payload) in {:.3} s ({:.0} packets/s)",
            received.packets,
            received.bytes,
            received.header_bytes,
            received.payload_bytes,
            received.seconds,
            received.packets_per_second
        )?;
    }
    if let Some(reason) = &received.ended {
        tell!("{} has ended: {reason}", args.name);
    }
    if let Some(count) = args.count.filter(|&count| received.packets < count) {
        let why = match (&received.ended, stop::asked()) {
            (Some(_), _) => "then the attachment ended",
            (None, true) => "then it was interrupted",
            (None, false) => "then the time was up",
        };
        bail!(
            "received {} of {count} packets, {why}; `devrx stats {}` says what was dropped, and why",
            received.packets,
            args.name
        );
    }
    Ok(())
}

fn receive(
    attachment: &mut Attachment,
    args: &RecvArgs,
    mut writer: Option<&mut Writer>,
    json: bool,
) -> Result<Received> {
    let mut line = progress::Line::new(json);
    let mut received = Received {
        name: args.name.clone(),
        ..Received::default()
    };
    let start = Instant::now();
    let end = args.timeout.and_then(|timeout| start.checked_add(timeout));
    let mut span: Option<(Instant, Instant)> = None;
    let mut frame = Vec::new();
    let wanted = args.count.unwrap_or(u64::MAX);
    while received.packets < wanted && !stop::asked() {
        let left = end.map_or(PATIENCE, |end| {
            end.saturating_duration_since(Instant::now())
        });
        let batch = match attachment.recv(Some(left.min(PATIENCE))) {
            Ok(batch) => batch,
            Err(ClientError::Ended { reason, .. }) => {
                received.ended = Some(reason);
                break;
            }
            Err(error) => {
                return Err(
                    anyhow::Error::new(error).context(format!("cannot receive from {}", args.name))
                );
            }
        };
        if batch.is_empty() {
            if left.is_zero() {
                break;
            }
        } else {
            let now = Instant::now();
            span = Some((span.map_or(now, |(first, _)| first), now));
        }
        for packet in &batch {
            if received.packets == wanted {
                break;
            }
            let (header, payload) = (packet.header_len() as u64, packet.payload_len() as u64);
            received.packets += 1;
            received.header_bytes += header;
            received.payload_bytes += payload;
            received.bytes += header + payload;
            if let Some(writer) = &mut writer {
                write(writer, &packet, &mut frame)?;
            }
        }
        drop(batch);
        line.show(|| {
            format!(
                "{}: {} packets, {} bytes",
                args.name, received.packets, received.bytes
            )
        });
    }
    line.clear();
    // From the first packet to the last: waiting for the first says nothing about the rate.
    let seconds = span.map_or(0.0, |(first, last)| (last - first).as_secs_f64());
    received.seconds = seconds;
    received.packets_per_second = if seconds > 0.0 {
        received.packets as f64 / seconds
    } else {
        0.0
    };
    Ok(received)
}

fn write(writer: &mut Writer, packet: &Packet<'_>, frame: &mut Vec<u8>) -> Result<()> {
    frame.clear();
    packet
        .copy_frame_to(frame)
        .context("cannot write a capture")?;
    let timestamp = packet.timestamp().unwrap_or_else(|| {
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        u64::try_from(now.as_nanos()).unwrap_or(u64::MAX)
    });
    writer.frame(timestamp, frame)
}
