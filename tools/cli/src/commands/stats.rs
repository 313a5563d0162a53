//! `devrx stats`.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use clap::Args;
use devrx_proto::stats::{Drops, Stats};

use super::connect;
use crate::out;
use crate::stop;

/// How often `--watch` looks.
const EVERY: Duration = Duration::from_secs(1);

/// What to show, and how.
#[derive(Args)]
pub struct StatsArgs {
    /// Only this attachment, with its NIC and queues.
    name: Option<String>,
    /// Show it anew every second, until Ctrl-C.
    #[arg(long)]
    pub watch: bool,
    /// Print it as OpenMetrics text.
    #[arg(long, conflicts_with = "json")]
    openmetrics: bool,
}

/// Runs the command.
///
/// # Errors
/// What the daemon answers.
pub fn run(args: &StatsArgs, socket: &Path, json: bool) -> Result<()> {
    let mut client = connect(socket)?;
    let mut before: Option<Stats> = None;
    loop {
        let stats = client.stats(args.name.as_deref())?;
        if args.openmetrics {
            out::write(format_args!("{}", devrx_daemon::openmetrics::text(&stats)))?;
        } else if json {
            say!("{}", serde_json::to_string(&stats)?)?;
        } else {
            if args.watch {
                // To the upper left, and clear what was there.
                out::write(format_args!("\x1b[H\x1b[2J"))?;
            }
            out::write(format_args!("{}", table(&stats, before.as_ref())))?;
        }
        if !args.watch {
            return Ok(());
        }
        before = Some(stats);
        std::thread::sleep(EVERY);
        if stop::asked() {
            return Ok(());
        }
    }
}

/// The numbers for people; with the rate where there are earlier ones, one [`EVERY`] ago.
fn table(stats: &Stats, before: Option<&Stats>) -> String {
    use std::fmt::Write;
    let mut out = String::new();
    for nic in &stats.nics {
        let _ = writeln!(
            out,
            "nic {} ({}): {} packets, drops {}{}",
            nic.nic,
            nic.driver,
            nic.packets,
            drops(&nic.drops),
            inexact(nic.exact)
        );
    }
    for queue in &stats.queues {
        let earlier = before.and_then(|stats| {
            stats
                .queues
                .iter()
                .find(|other| other.nic == queue.nic && other.queue == queue.queue)
        });
        let rate = earlier.map_or_else(String::new, |earlier| {
            format!(", {}/s", queue.delivered.saturating_sub(earlier.delivered))
        });
        let _ = writeln!(
            out,
            "queue {} {}: {} packets, {} delivered ({} bytes{rate}), drops {}{}",
            queue.nic,
            queue.queue,
            queue.packets,
            queue.delivered,
            queue.bytes,
            drops(&queue.drops),
            inexact(queue.exact)
        );
    }
    for one in &stats.attachments {
        let last = one.queue + one.queues.max(1) - 1;
        let range = if last == one.queue {
            format!("queue {last}")
        } else {
            format!("queues {}-{last}", one.queue)
        };
        let _ = writeln!(
            out,
            "attachment {} on {} {range}, {} chunks of {}{}{}: {} packets delivered, {} chunks returned, {} in flight ({} held by clients), \
             {} payload bytes copied, drops {}",
            one.name,
            one.nic,
            one.chunks,
            one.memory,
            if one.state.is_empty() {
                String::new()
            } else {
                format!(", {}", one.state)
            },
            if one.reason.is_empty() {
                String::new()
            } else {
                format!(" ({})", one.reason)
            },
            one.delivered,
            one.returned,
            one.in_flight,
            one.with_client,
            one.payload_bytes_copied,
            drops(&one.drops)
        );
        for (reason, count) in &one.refused {
            let _ = writeln!(out, "  refused returns: {reason} {count}");
        }
    }
    if stats.nics.is_empty() {
        let _ = writeln!(out, "no NIC");
    }
    out
}

/// `0`, or `12 (pool_empty 10, ring_full 2)`.
pub fn drops(drops: &Drops) -> String {
    let total: u64 = drops.values().sum();
    let reasons: Vec<String> = drops
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| format!("{reason} {count}"))
        .collect();
    if reasons.is_empty() {
        total.to_string()
    } else {
        format!("{total} ({})", reasons.join(", "))
    }
}

fn inexact(exact: bool) -> &'static str {
    if exact {
        ""
    } else {
        " (the NIC does not count every drop)"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use devrx_proto::stats::{AttachmentStats, NicStats, QueueStats};

    #[test]
    fn the_table_names_everything_and_the_rate() {
        let queue = QueueStats {
            nic: "eth0".into(),
            queue: 3,
            packets: 12,
            delivered: 10,
            drops: Drops::from([("ring_full".into(), 2)]),
            exact: true,
            ..QueueStats::default()
        };
        let earlier = Stats {
            queues: vec![QueueStats {
                delivered: 4,
                ..queue.clone()
            }],
            ..Stats::default()
        };
        let stats = Stats {
            nics: vec![NicStats {
                nic: "eth0".into(),
                ..NicStats::default()
            }],
            queues: vec![queue],
            attachments: vec![AttachmentStats {
                name: "fast".into(),
                queue: 3,
                queues: 2,
                ..AttachmentStats::default()
            }],
            ..Stats::default()
        };
        let text = table(&stats, Some(&earlier));
        for part in [
            "nic eth0",
            "does not count every drop",
            "queue eth0 3: 12 packets, 10 delivered",
            "6/s",
            "2 (ring_full 2)",
            "attachment fast",
            "queues 3-4",
        ] {
            assert!(text.contains(part), "{part:?} is missing in {text}");
        }
    }
}
