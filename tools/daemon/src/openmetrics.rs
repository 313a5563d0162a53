//! The statistics as OpenMetrics text, for Prometheus and others: the same numbers, under names of their own.

use std::fmt::Write;

use devrx_proto::stats::Stats;

/// Writes the statistics as OpenMetrics 1.0 text (application/openmetrics-text).
#[must_use]
pub fn text(stats: &Stats) -> String {
    let mut out = String::new();
    let mut family = Family { out: &mut out };
    family.counter(
        "devrx_queue_packets",
        "Packets the NIC counted for the queue.",
        |put| {
            for queue in &stats.queues {
                put(
                    &[("nic", &queue.nic), ("queue", &queue.queue.to_string())],
                    queue.packets,
                );
            }
        },
    );
    family.counter(
        "devrx_queue_delivered_packets",
        "Packets delivered to clients.",
        |put| {
            for queue in &stats.queues {
                put(
                    &[("nic", &queue.nic), ("queue", &queue.queue.to_string())],
                    queue.delivered,
                );
            }
        },
    );
    family.counter("devrx_queue_bytes", "Bytes of packets delivered.", |put| {
        for queue in &stats.queues {
            put(
                &[("nic", &queue.nic), ("queue", &queue.queue.to_string())],
                queue.bytes,
            );
        }
    });
    family.counter(
        "devrx_queue_dropped_packets",
        "Packets not delivered, by exclusive reason.",
        |put| {
            for queue in &stats.queues {
                for (reason, count) in &queue.drops {
                    put(
                        &[
                            ("nic", &queue.nic),
                            ("queue", &queue.queue.to_string()),
                            ("reason", reason),
                        ],
                        *count,
                    );
                }
            }
        },
    );
    family.gauge(
        "devrx_queue_exact",
        "1 if packets = delivered + dropped holds.",
        |put| {
            for queue in &stats.queues {
                put(
                    &[("nic", &queue.nic), ("queue", &queue.queue.to_string())],
                    queue.exact.into(),
                );
            }
        },
    );
    type Number = fn(&devrx_proto::stats::AttachmentStats) -> u64;
    let counters: [(&str, &str, Number); 5] = [
        (
            "devrx_attachment_delivered_packets",
            "Packets delivered.",
            |a| a.delivered,
        ),
        (
            "devrx_attachment_returned_chunks",
            "Chunks given back by clients.",
            |a| a.returned,
        ),
        (
            "devrx_attachment_hold_chunks",
            "Chunks that entered the pools.",
            |a| a.hold,
        ),
        (
            "devrx_attachment_release_chunks",
            "Chunks that left the pools.",
            |a| a.release,
        ),
        (
            "devrx_attachment_payload_copied_bytes",
            "Payload bytes copied on their way.",
            |a| a.payload_bytes_copied,
        ),
    ];
    for (name, help, number) in counters {
        family.counter(name, help, |put| {
            for attachment in &stats.attachments {
                put(
                    &[("name", &attachment.name), ("nic", &attachment.nic)],
                    number(attachment),
                );
            }
        });
    }
    let gauges: [(&str, &str, Number); 2] = [
        (
            "devrx_attachment_in_flight_chunks",
            "Chunks the pools answer for.",
            |a| a.in_flight,
        ),
        (
            "devrx_attachment_client_chunks",
            "Chunks with the client.",
            |a| a.with_client,
        ),
    ];
    for (name, help, number) in gauges {
        family.gauge(name, help, |put| {
            for attachment in &stats.attachments {
                put(
                    &[("name", &attachment.name), ("nic", &attachment.nic)],
                    number(attachment),
                );
            }
        });
    }
    family.counter(
        "devrx_attachment_refused_returns",
        "Returns refused, by reason.",
        |put| {
            for attachment in &stats.attachments {
                for (reason, count) in &attachment.refused {
                    put(
                        &[
                            ("name", &attachment.name),
                            ("nic", &attachment.nic),
                            ("reason", reason),
                        ],
                        *count,
                    );
                }
            }
        },
    );
    family.counter(
        "devrx_daemon_events",
        "What the daemon counts besides packets.",
        |put| {
            for (event, count) in &stats.daemon {
                put(&[("event", event)], *count);
            }
        },
    );
    out.push_str("# EOF\n");
    out
}

struct Family<'a> {
    out: &'a mut String,
}

type Put<'p> = dyn FnMut(&[(&str, &str)], u64) + 'p;

impl Family<'_> {
    fn counter(&mut self, name: &str, help: &str, fill: impl FnOnce(&mut Put<'_>)) {
        self.write(name, help, "counter", "_total", fill);
    }

    fn gauge(&mut self, name: &str, help: &str, fill: impl FnOnce(&mut Put<'_>)) {
        self.write(name, help, "gauge", "", fill);
    }

    fn write(
        &mut self,
        name: &str,
        help: &str,
        kind: &str,
        suffix: &str,
        fill: impl FnOnce(&mut Put<'_>),
    ) {
        let out = &mut *self.out;
        // Writing to a string does not fail.
        let _ = write!(out, "# TYPE {name} {kind}\n# HELP {name} {help}\n");
        fill(&mut |labels, value| {
            let labels = labels
                .iter()
                .map(|(key, text)| format!("{key}=\"{}\"", escape(text)));
            let _ = writeln!(
                out,
                "{name}{suffix}{{{}}} {value}",
                labels.collect::<Vec<_>>().join(",")
            );
        });
    }
}

fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use devrx_proto::stats::{AttachmentStats, QueueStats};

    use super::*;

    #[test]
    fn the_numbers_are_those_of_the_statistics() {
        let stats = Stats {
            queues: vec![QueueStats {
                nic: "eth\"0".into(),
                queue: 3,
                packets: 7,
                delivered: 5,
                drops: [("ring_full".to_owned(), 2)].into(),
                exact: true,
                ..QueueStats::default()
            }],
            attachments: vec![AttachmentStats {
                name: "a".into(),
                in_flight: 9,
                ..AttachmentStats::default()
            }],
            ..Stats::default()
        };
        let text = text(&stats);
        for line in [
            "devrx_queue_packets_total{nic=\"eth\\\"0\",queue=\"3\"} 7",
            "devrx_queue_dropped_packets_total{nic=\"eth\\\"0\",queue=\"3\",reason=\"ring_full\"} 2",
            "devrx_queue_exact{nic=\"eth\\\"0\",queue=\"3\"} 1",
            "devrx_attachment_in_flight_chunks{name=\"a\",nic=\"\"} 9",
        ] {
            assert!(
                text.lines().any(|found| found == line),
                "{line} is missing in\n{text}"
            );
        }
        assert!(text.ends_with("# EOF\n"));
    }
}
