//! Statistics: the object of `devrx stats --json`, from the one set of numbers that workers keep. The same numbers are in shared memory
//! and in the metrics.

use std::collections::BTreeMap;

use devrx_proto::drops::DropReason;
use devrx_proto::stats::{AttachmentStats, Drops, NicStats, QueueStats, Stats, add_drop};

use crate::attachment::Ended;
use crate::error::Refused;
use crate::registry::Registry;
use crate::worker::snapshot::Snapshot;

impl Registry {
    /// The numbers now: of everything, or of one attachment with its NIC and queues.
    ///
    /// # Errors
    ///
    /// When there is no such attachment.
    pub fn stats(&mut self, name: Option<&str>) -> Result<Stats, Refused> {
        if let Some(name) = name
            && !self.attachments.contains_key(name)
            && !self.ended.iter().any(|ended| ended.name == name)
        {
            return Err(Refused::not_found(format!(
                "there is no attachment {name:.80?} (`devrx stats` lists them)"
            )));
        }
        let mut queues: Vec<BTreeMap<u32, Snapshot>> =
            self.nics.iter().map(|slot| slot.past.clone()).collect();
        let mut rows = Vec::new();
        let mut shown = Vec::new();
        for attachment in self.attachments.values_mut() {
            let numbers = attachment.numbers();
            for (queue, numbers) in &numbers {
                queues[attachment.nic]
                    .entry(*queue)
                    .or_insert_with(Snapshot::zero)
                    .add(numbers);
            }
            if name.is_some_and(|name| name != attachment.name) {
                continue;
            }
            shown.push((attachment.nic, attachment.queues.clone()));
            rows.push(AttachmentStats {
                name: attachment.name.clone(),
                nic: attachment.nic_name.clone(),
                queue: *attachment.queues.start(),
                queues: attachment.queues.end() - attachment.queues.start() + 1,
                memory: attachment.memory.clone(),
                chunks: attachment.chunks(),
                state: if attachment.consumer.is_some() {
                    "running"
                } else {
                    "idle"
                }
                .into(),
                ..of_numbers(&numbers)
            });
        }
        for ended in &self.ended {
            if name.is_none_or(|name| name == ended.name) {
                shown.push((ended.nic, ended.queues.clone()));
                rows.push(of_ended(ended));
            }
        }
        let is_shown = |nic: usize, queue: u32| {
            name.is_none() || shown.iter().any(|(n, q)| *n == nic && q.contains(&queue))
        };
        let restarts = self.keeper().restarts();
        let mut stats = Stats {
            attachments: rows,
            daemon: self.counters.named(restarts),
            ..Stats::default()
        };
        for (place, (slot, queues)) in self.nics.iter().zip(&queues).enumerate() {
            let mut sum = NicStats {
                nic: slot.nic.name().to_owned(),
                driver: slot.nic.driver().to_owned(),
                exact: true,
                iommu_faults: slot.iommu_faults,
                ..NicStats::default()
            };
            let losses = slot.nic.port_losses();
            sum.exact &= losses.exact;
            for (reason, count) in losses.drops {
                sum.packets += count;
                *sum.drops.entry(reason.to_owned()).or_default() += count;
            }
            for (queue, numbers) in queues {
                // Read after the numbers of the workers: a packet counted there is counted here.
                let packets = slot.nic.queue_packets(*queue);
                sum.packets += packets;
                sum.exact &= numbers.exact;
                let drops = drops_of(numbers);
                for (reason, count) in &drops {
                    *sum.drops.entry(reason.clone()).or_default() += count;
                }
                if is_shown(place, *queue) {
                    stats.queues.push(QueueStats {
                        nic: sum.nic.clone(),
                        queue: *queue,
                        packets,
                        bytes: numbers.bytes,
                        delivered: numbers.delivered,
                        drops,
                        exact: numbers.exact,
                    });
                }
            }
            if name.is_none() || shown.iter().any(|(nic, _)| *nic == place) {
                stats.nics.push(sum);
            }
        }
        Ok(stats)
    }
}

fn of_ended(ended: &Ended) -> AttachmentStats {
    AttachmentStats {
        name: ended.name.clone(),
        nic: ended.nic_name.clone(),
        queue: *ended.queues.start(),
        queues: ended.queues.end() - ended.queues.start() + 1,
        memory: ended.memory.clone(),
        chunks: ended.chunks,
        state: "ended".into(),
        reason: ended.reason.clone(),
        ..of_numbers(&ended.numbers)
    }
}

fn of_numbers(queues: &[(u32, Snapshot)]) -> AttachmentStats {
    let mut sum = Snapshot::zero();
    for (_, numbers) in queues {
        sum.add(numbers);
    }
    let refused = [
        ("forged", sum.forged),
        ("stale", sum.stale),
        ("repeated", sum.repeated),
        ("index", sum.index_faults),
    ];
    AttachmentStats {
        delivered: sum.delivered,
        returned: sum.returned,
        hold: sum.hold,
        release: sum.release,
        in_flight: sum.hold.saturating_sub(sum.release),
        drops: drops_of(&sum),
        payload_bytes_copied: sum.payload_bytes_copied(),
        flush_reads: sum.flush_reads,
        zero_copy: !sum.copied,
        with_client: sum.with_client,
        refused: refused
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| (name.into(), count))
            .collect(),
        ..AttachmentStats::default()
    }
}

fn drops_of(numbers: &Snapshot) -> Drops {
    let mut drops = Drops::new();
    for reason in DropReason::ALL {
        add_drop(&mut drops, reason, numbers.drops[reason.index()]);
    }
    drops
}
