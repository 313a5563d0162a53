//! What `devrx stats --json` says, and the sums that must hold in it.

use anyhow::{Context, Result, ensure};
use serde_json::Value;

/// The object, as printed.
#[derive(Debug, Clone)]
pub struct Stats(pub Value);

/// One entry of `queues` or `attachments`.
#[derive(Debug, Clone)]
pub struct Entry(Value);

impl Stats {
    /// The queue of the lane's interface with this number, if the daemon knows it.
    pub fn queue(&self, number: u32) -> Result<Entry> {
        self.find("queues", |entry| entry["queue"] == number)
            .with_context(|| format!("queue {number}"))
    }

    /// The attachment of this name: the one that lives, or else the last that did.
    pub fn attachment(&self, name: &str) -> Result<Entry> {
        let named = |entry: &Value| entry["name"] == name;
        self.find("attachments", |entry| {
            named(entry) && entry["state"] != "ended"
        })
        .or_else(|_| self.find("attachments", named))
        .with_context(|| format!("attachment {name}"))
    }

    /// Whether an attachment of this name is there and has not ended.
    #[must_use]
    pub fn alive(&self, name: &str) -> bool {
        self.attachment(name)
            .is_ok_and(|entry| entry.0["state"] != "ended")
    }

    fn find(&self, list: &str, wanted: impl Fn(&Value) -> bool) -> Result<Entry> {
        let entries = self.0[list]
            .as_array()
            .with_context(|| format!("stats have no {list}: {}", self.0))?;
        let found = entries.iter().rfind(|entry| wanted(entry));
        Ok(Entry(
            found.with_context(|| format!("not in {}", self.0))?.clone(),
        ))
    }

    /// Checks the sum rule on every queue but those in `live` (where packets are on their way, counted and not yet delivered) and,
    /// in every attachment that has ended, that all its chunks went back.
    ///
    /// At least one queue must be there, and every one must be exact: in copy mode AF_XDP counts all it drops.
    pub fn check(&self, live: &[u64]) -> Result<()> {
        let list = |name: &str| {
            self.0[name]
                .as_array()
                .cloned()
                .with_context(|| format!("stats have no {name}"))
        };
        let queues = list("queues")?;
        ensure!(!queues.is_empty(), "stats list no queue: {}", self.0);
        for queue in queues.iter().chain(&list("nics")?) {
            ensure!(queue["exact"] == true, "not exact, in copy mode: {queue}");
        }
        for queue in queues.into_iter().map(Entry) {
            if live.contains(&queue.count("queue")?) {
                continue;
            }
            let (packets, delivered, drops) = (
                queue.count("packets")?,
                queue.count("delivered")?,
                queue.drops()?,
            );
            ensure!(
                packets == delivered + drops,
                "packets != delivered + drops: {}",
                queue.0
            );
        }
        for attachment in list("attachments")?.into_iter().map(Entry) {
            let (hold, release) = (attachment.count("hold")?, attachment.count("release")?);
            let in_flight = attachment.count("in_flight")?;
            ensure!(
                hold.checked_sub(release) == Some(in_flight),
                "hold - release != in_flight: {}",
                attachment.0
            );
            if attachment.0["state"] == "ended" {
                ensure!(
                    in_flight == 0,
                    "chunks are still out after the end: {}",
                    attachment.0
                );
            }
        }
        Ok(())
    }
}

impl Entry {
    /// A number of it.
    pub fn count(&self, key: &str) -> Result<u64> {
        self.0[key]
            .as_u64()
            .with_context(|| format!("no number {key} in {}", self.0))
    }

    /// A text of it; empty if there is none.
    #[must_use]
    pub fn text(&self, key: &str) -> &str {
        self.0[key].as_str().unwrap_or_default()
    }

    /// The sum of its drops.
    pub fn drops(&self) -> Result<u64> {
        sum(&self.0["drops"]).with_context(|| format!("no drops in {}", self.0))
    }

    /// Its drops for one reason.
    #[must_use]
    pub fn dropped(&self, reason: &str) -> u64 {
        self.0["drops"][reason].as_u64().unwrap_or(0)
    }

    /// The sum of the returns it refused.
    #[must_use]
    pub fn refused(&self) -> u64 {
        sum(&self.0["refused"]).unwrap_or(0)
    }

    /// The whole of it, for messages.
    #[must_use]
    pub fn json(&self) -> &Value {
        &self.0
    }
}

fn sum(counts: &Value) -> Option<u64> {
    counts.as_object()?.values().map(Value::as_u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stats(packets: u64, release: u64) -> Stats {
        Stats(serde_json::json!({
            "nics": [{"exact": true}],
            "queues": [{"queue": 0, "packets": packets, "delivered": 7, "drops": {"a": 1, "b": 2}, "exact": true}],
            "attachments": [{"name": "x", "hold": 5, "release": release, "in_flight": 5 - release, "state": "ended"}],
        }))
    }

    #[test]
    fn sums_that_hold_pass_and_others_do_not() {
        stats(10, 5).check(&[]).unwrap();
        assert!(stats(11, 5).check(&[]).is_err(), "a packet is missing");
        assert!(stats(11, 5).check(&[0]).is_ok(), "packets are on their way");
        assert!(stats(9, 5).check(&[]).is_err(), "a packet too many");
        assert!(stats(10, 4).check(&[]).is_err(), "a chunk is still out");
        assert!(
            Stats(serde_json::json!({"nics": [], "queues": [], "attachments": []}))
                .check(&[])
                .is_err()
        );
    }
}
