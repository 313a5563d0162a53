//! What the demo came to.

use anyhow::Result;
use devrx_client::proto::stats::{Drops, Stats};
use serde::Serialize;

use super::stage::{Ended, Played};
use crate::commands::stats::drops as in_words;
use crate::stop;

/// The object that `--json` ends with. Keys may be added, never renamed.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Frames the kernel took from the sender.
    pub sent: u64,
    /// Frames the client got.
    pub delivered: u64,
    /// Of these, with every byte as it was sent, in order.
    pub verified: u64,
    /// The others, by reason.
    pub drops: Drops,
    /// Delivered frames a second.
    pub packets_per_second: f64,
    /// Payload bytes that a CPU copied on their way into the region.
    pub payload_bytes_copied: u64,
    /// Payload bytes delivered.
    pub payload_bytes: u64,
    /// Whether the kernel received without a copy.
    pub zero_copy: bool,
    /// How long was sent.
    pub seconds: f64,
    /// What was not as it must be.
    pub problems: Vec<String>,
    /// Whether everything was.
    pub ok: bool,
}

impl Report {
    /// Puts the numbers of sender, client and daemon side by side.
    pub fn new(played: &Played, ended: Ended) -> Self {
        let mut drops = Drops::new();
        for queue in &played.stats.queues {
            for (reason, count) in &queue.drops {
                *drops.entry(reason.clone()).or_default() += count;
            }
        }
        if played.lost_on_cable > 0 {
            drops.insert("cable".to_owned(), played.lost_on_cable);
        }
        drops.retain(|_, count| *count > 0);
        let checked = &played.checked;
        let copied = played
            .stats
            .attachments
            .iter()
            .map(|one| one.payload_bytes_copied)
            .sum();
        let mut report = Self {
            sent: played.sent.sent,
            delivered: checked.delivered,
            verified: checked.verified,
            packets_per_second: if played.sent.seconds > 0.0 {
                checked.delivered as f64 / played.sent.seconds
            } else {
                0.0
            },
            payload_bytes_copied: copied,
            payload_bytes: checked.payload_bytes,
            zero_copy: played.zero_copy,
            seconds: played.sent.seconds,
            drops,
            problems: checked.faults.clone(),
            ok: false,
        };
        report.judge(&played.stats, &ended.stats);
        report.problems.extend(ended.fault);
        if stop::asked() {
            report
                .problems
                .push("it was interrupted; the numbers cover what was sent until then".into());
        }
        report.ok = report.problems.is_empty();
        report
    }

    fn judge(&mut self, during: &Stats, after: &Stats) {
        let dropped: u64 = self.drops.values().sum();
        let mut problem = |wrong: bool, what: String| {
            if wrong {
                self.problems.push(what);
            }
        };
        problem(self.delivered == 0, "nothing was delivered".into());
        problem(
            self.verified != self.delivered,
            format!(
                "{} of {} delivered frames were not as sent",
                self.delivered - self.verified,
                self.delivered
            ),
        );
        problem(
            self.sent != self.delivered + dropped,
            format!(
                "{} were sent, but {} delivered and {dropped} dropped",
                self.sent, self.delivered
            ),
        );
        for stats in [during, after] {
            for queue in stats.queues.iter().filter(|queue| queue.exact) {
                let sum = queue.delivered + queue.drops.values().sum::<u64>();
                problem(
                    queue.packets != sum,
                    format!(
                        "queue {}: {} packets, but {sum} delivered and dropped",
                        queue.queue, queue.packets
                    ),
                );
            }
            for one in &stats.attachments {
                problem(
                    one.delivered != self.delivered,
                    format!(
                        "the daemon delivered {}, the client got {}",
                        one.delivered, self.delivered
                    ),
                );
            }
        }
        problem(
            after.attachments.is_empty(),
            "the daemon has no numbers of the attachment that ended".into(),
        );
        for one in &after.attachments {
            problem(
                one.in_flight != 0 || one.hold != one.release,
                format!(
                    "after the detach {} chunks are in flight (hold {}, release {})",
                    one.in_flight, one.hold, one.release
                ),
            );
        }
        let copied = if self.zero_copy {
            0
        } else {
            self.payload_bytes
        };
        // What was dropped may have been copied before.
        problem(
            self.payload_bytes_copied < copied
                || (dropped == 0 || self.zero_copy) && self.payload_bytes_copied != copied,
            format!(
                "{} payload bytes copied instead of {copied}",
                self.payload_bytes_copied
            ),
        );
    }

    /// Prints it: as one JSON object, or for people.
    ///
    /// # Errors
    /// Numbers that JSON cannot hold; what [`say!`] answers.
    pub fn print(&self, json: bool) -> Result<()> {
        if json {
            say!("{}", serde_json::to_string(self)?)?;
            return Ok(());
        }
        say!("sent        {}", self.sent)?;
        say!("delivered   {}", self.delivered)?;
        say!(
            "verified    {} (header and payload, every byte)",
            self.verified
        )?;
        say!("drops       {}", in_words(&self.drops))?;
        say!(
            "rate        {:.0} packets/s for {:.1} s",
            self.packets_per_second,
            self.seconds
        )?;
        say!(
            "payload     {} bytes in the region; {} of them copied by a CPU on the way ({})",
            self.payload_bytes,
            self.payload_bytes_copied,
            if self.zero_copy {
                "zero-copy"
            } else {
                "copy mode: this kind of interface knows no other"
            }
        )?;
        say!("{}", if self.ok { "ok" } else { "NOT OK" })?;
        for problem in &self.problems {
            say!("  {problem}")?;
        }
        Ok(())
    }
}
