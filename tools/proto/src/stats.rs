//! The object that `devrx stats --json` prints and a `Stats` reply carries. Keys may be added, never renamed.
//!
//! On every queue whose numbers are `exact`: `packets = delivered + sum(drops)`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::drops::DropReason;

/// Drop counts by reason; the keys are [`DropReason::name`]. Reasons that never happened may be missing.
pub type Drops = BTreeMap<String, u64>;

/// Adds `count` to a reason. A count of 0 makes no key.
pub fn add_drop(drops: &mut Drops, reason: DropReason, count: u64) {
    if count > 0 {
        *drops.entry(reason.name().to_owned()).or_default() += count;
    }
}

/// Everything a daemon counts.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// The NICs the daemon runs.
    pub nics: Vec<NicStats>,
    /// The queues that are or were attached.
    pub queues: Vec<QueueStats>,
    /// The attachments.
    pub attachments: Vec<AttachmentStats>,
    /// What the daemon counts besides packets: sessions, refused and malformed messages, restarts of its keeper, lost pages.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub daemon: BTreeMap<String, u64>,
}

/// The sums of one NIC.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicStats {
    /// The name given to `run`: an interface name or a PCI address.
    pub nic: String,
    /// `afxdp`, `igb`, `ice`.
    pub driver: String,
    /// Packets the NIC counted for attached queues.
    pub packets: u64,
    /// Packets not delivered, by reason.
    pub drops: Drops,
    /// Whether the NIC counts every packet it drops, so that the numbers add up.
    pub exact: bool,
    /// Reads and writes of a NIC owned through VFIO that the IOMMU stopped, as far as the kernel's log told.
    #[serde(default)]
    pub iommu_faults: u64,
}

/// The numbers of one queue since the daemon started, over all its attachments.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueStats {
    /// The NIC's name.
    pub nic: String,
    /// The queue's number.
    pub queue: u32,
    /// Packets the NIC counted; on AF_XDP those that the XDP program matched.
    pub packets: u64,
    /// Bytes of the packets delivered, header and payload.
    pub bytes: u64,
    /// Packets delivered to clients.
    pub delivered: u64,
    /// Packets not delivered, by reason.
    pub drops: Drops,
    /// Whether `packets = delivered + sum(drops)` holds.
    pub exact: bool,
}

/// The numbers of one attachment.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachmentStats {
    /// Its name.
    pub name: String,
    /// The NIC's name.
    pub nic: String,
    /// Its first queue.
    pub queue: u32,
    /// How many queues it has, from `queue` on.
    #[serde(default = "one")]
    pub queues: u32,
    /// The kind of memory, as `attach --memory` took it.
    pub memory: String,
    /// Chunks of the region.
    pub chunks: u32,
    /// Packets delivered.
    pub delivered: u64,
    /// Chunks given back by clients.
    pub returned: u64,
    /// Chunks that entered the pools from the provider, ever.
    pub hold: u64,
    /// Chunks that left the pools to the provider, ever.
    pub release: u64,
    /// `hold - release`.
    pub in_flight: u64,
    /// Packets not delivered, by reason.
    pub drops: Drops,
    /// Payload bytes that a CPU (or the kernel for it) copied on their way into the region.
    pub payload_bytes_copied: u64,
    /// Reads of one payload byte by which a CPU pushed a batch to the device whose memory it is; 0 for host memory.
    #[serde(default)]
    pub flush_reads: u64,
    /// `running`, `idle` (no consumer), `draining`, `ended`.
    #[serde(default)]
    pub state: String,
    /// Whether the payload arrives without a copy.
    #[serde(default)]
    pub zero_copy: bool,
    /// Chunks that clients hold now.
    #[serde(default)]
    pub with_client: u64,
    /// Returns refused, by reason (`forged`, `stale`, `repeated`), and faults of ring indices (`index`).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub refused: BTreeMap<String, u64>,
    /// Why the attachment ended, empty while it lives.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
}

const fn one() -> u32 {
    1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// These keys are promised to scripts.
    #[test]
    fn keys_are_those_documented() {
        let stats = Stats {
            nics: vec![NicStats::default()],
            queues: vec![QueueStats::default()],
            attachments: vec![AttachmentStats::default()],
            ..Stats::default()
        };
        let value = serde_json::to_value(stats).unwrap();
        let has = |object: &serde_json::Value, keys: &[&str]| {
            for key in keys {
                assert!(object.get(key).is_some(), "{key} is missing in {object}");
            }
        };
        has(
            &value["nics"][0],
            &["nic", "driver", "packets", "drops", "exact"],
        );
        has(
            &value["queues"][0],
            &[
                "nic",
                "queue",
                "packets",
                "bytes",
                "delivered",
                "drops",
                "exact",
            ],
        );
        has(
            &value["attachments"][0],
            &[
                "name",
                "nic",
                "queue",
                "memory",
                "chunks",
                "delivered",
                "returned",
                "hold",
                "release",
                "in_flight",
                "drops",
                "payload_bytes_copied",
            ],
        );
    }

    #[test]
    fn drops_add_up_under_their_name() {
        let mut drops = Drops::new();
        add_drop(&mut drops, DropReason::RingFull, 2);
        add_drop(&mut drops, DropReason::RingFull, 3);
        add_drop(&mut drops, DropReason::Oversize, 0);
        assert_eq!(serde_json::to_string(&drops).unwrap(), r#"{"ring_full":5}"#);
    }
}
