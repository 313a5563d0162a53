//! What came of the measurements, as a table and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;

use serde_json::{Value, json};

use super::marks::{Counted, Section};

/// A number a round, summed up.
#[derive(Debug, Clone, Copy)]
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    /// Of instructions a packet, from instructions a round.
    fn of(rounds: &[u64], packets: u32) -> Option<Self> {
        let mut sorted = rounds.to_vec();
        sorted.sort_unstable();
        let each = |count: u64| count as f64 / f64::from(packets);
        Some(Self {
            median: each(*sorted.get(sorted.len() / 2)?),
            least: each(*sorted.first()?),
            most: each(*sorted.last()?),
        })
    }

    fn json(self) -> Value {
        let round = |number: f64| (number * 10.0).round() / 10.0;
        json!({ "median": round(self.median), "least": round(self.least), "most": round(self.most) })
    }
}

/// All that was measured.
#[derive(Debug, Default)]
pub struct Measured {
    /// The guest's kernel.
    pub kernel: String,
    /// The NIC, and QEMU's version.
    pub nic: String,
    /// DPDK's version.
    pub dpdk: String,
    /// Packets in a round.
    pub packets: u32,
    /// Instructions.
    pub counted: BTreeMap<Section, Counted>,
    /// Lossless rates, as the guest reported them.
    pub rates: Vec<Value>,
}

const RECEIVERS: [(Section, &str, &str); 10] = [
    (
        Section::DpdkShared32,
        "dpdk_shared_32",
        "DPDK, shared libraries, bursts of 32",
    ),
    (
        Section::DpdkShared256,
        "dpdk_shared_256",
        "DPDK, shared libraries, bursts of 256",
    ),
    (
        Section::DpdkStatic32,
        "dpdk_static_32",
        "DPDK, linked statically, bursts of 32",
    ),
    (
        Section::DpdkStatic256,
        "dpdk_static_256",
        "DPDK, linked statically, bursts of 256",
    ),
    (
        Section::DpdkIce32,
        "dpdk_ice_32",
        "DPDK's net_ice, bursts of 32",
    ),
    (
        Section::DpdkIce256,
        "dpdk_ice_256",
        "DPDK's net_ice, bursts of 256",
    ),
    (
        Section::DpdkIceSplit32,
        "dpdk_ice_split_32",
        "DPDK's net_ice, header split, bursts of 32",
    ),
    (
        Section::DpdkIceSplit256,
        "dpdk_ice_split_256",
        "DPDK's net_ice, header split, bursts of 256",
    ),
    (
        Section::DevrxAny,
        "devrx_any",
        "devrx, header split, rule any",
    ),
    (
        Section::DevrxRule,
        "devrx_rule",
        "devrx, header split, rule udp,dst-port=5000",
    ),
];

impl Measured {
    fn of(&self, section: Section) -> Option<Spread> {
        Spread::of(&self.counted.get(&section)?.receiver, self.packets)
    }

    /// devrx's instructions by DPDK's, both as their users have them (on an E810: both with header split); and by those of the fastest DPDK.
    fn ratios(&self) -> Option<(f64, f64)> {
        let ours = self.of(Section::DevrxAny)?.median;
        let shared = self
            .of(Section::DpdkShared32)
            .or_else(|| self.of(Section::DpdkIceSplit32))?
            .median;
        let least = RECEIVERS[..8]
            .iter()
            .filter_map(|(section, ..)| Some(self.of(*section)?.median))
            .fold(f64::INFINITY, f64::min);
        Some((ours / shared, ours / least))
    }

    /// Whether devrx takes at most half of the instructions of each DPDK; `None` where not both were counted.
    #[must_use]
    pub fn at_most_half(&self) -> Option<bool> {
        self.ratios()
            .map(|(shared, least)| shared <= 0.5 && least <= 0.5)
    }

    /// The table.
    #[must_use]
    pub fn text(&self) -> String {
        let mut text = format!(
            "{} in a guest with Linux {}, one CPU; DPDK {}; rounds of {} packets of 60 bytes, all in the ring\nbefore \
             anybody looks. Guest instructions a packet: the median round, and the spread.\n\n",
            self.nic, self.kernel, self.dpdk, self.packets
        );
        let mut line = |name: &str, spread: Spread| {
            // Writing to a String cannot fail.
            writeln!(
                text,
                "{name:<46}{:>8.1}   ({:.1} to {:.1})",
                spread.median, spread.least, spread.most
            )
            .ok();
        };
        for (section, _, name) in RECEIVERS {
            let Some(spread) = self.of(section) else {
                continue;
            };
            line(name, spread);
            let counted = &self.counted[&section];
            for (phase, rounds) in &counted.phases {
                if let Some(spread) = Spread::of(rounds, self.packets) {
                    line(&format!("    {phase}"), spread);
                }
            }
            if let Some(spread) = Spread::of(&counted.client, self.packets) {
                line("    (its client, apart)", spread);
            }
        }
        if let Some((shared, least)) = self.ratios() {
            writeln!(
                text,
                "\ndevrx (any) by DPDK ({}, 32): {shared:.2}; by the least of DPDK's: {least:.2}",
                if self.of(Section::DpdkShared32).is_some() {
                    "shared"
                } else {
                    "header split"
                }
            )
            .ok();
        }
        for rate in &self.rates {
            writeln!(
                text,
                "{} without loss: {} packets a second (next: {})",
                rate["who"].as_str().unwrap_or_default(),
                rate["lossless"],
                rate["next"]
            )
            .ok();
        }
        text
    }

    /// The same as JSON.
    #[must_use]
    pub fn json(&self) -> Value {
        let mut instructions = serde_json::Map::new();
        for (section, key, _) in RECEIVERS {
            let (Some(spread), Some(counted)) = (self.of(section), self.counted.get(&section))
            else {
                continue;
            };
            let mut entry = spread.json();
            entry["rounds"] = json!(counted.receiver.len());
            if let Some(client) = Spread::of(&counted.client, self.packets) {
                entry["client"] = client.json();
            }
            for (phase, rounds) in &counted.phases {
                if let Some(phase_spread) = Spread::of(rounds, self.packets) {
                    entry["phases"][phase] = phase_spread.json();
                }
            }
            instructions.insert(key.to_owned(), entry);
        }
        let ratios = self.ratios();
        json!({
            "kernel": self.kernel,
            "nic": self.nic,
            "dpdk": self.dpdk,
            "packets_per_round": self.packets,
            "frame_bytes": 60,
            "instructions_per_packet": instructions,
            "ratio": ratios.map(|(shared, _)| shared),
            "ratio_to_least": ratios.map(|(_, least)| least),
            "lossless_packets_per_second": self.rates,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ratio_is_that_of_the_medians() {
        let mut measured = Measured {
            packets: 10,
            ..Measured::default()
        };
        for (section, rounds) in [
            (Section::DpdkShared32, [2000, 1000, 9000]),
            (Section::DpdkStatic256, [1600, 1600, 1600]),
            (Section::DevrxAny, [800, 100, 900]),
        ] {
            let receiver = rounds.to_vec();
            measured.counted.insert(
                section,
                Counted {
                    receiver,
                    ..Counted::default()
                },
            );
        }
        assert_eq!(measured.ratios(), Some((0.4, 0.5)));
        assert_eq!(
            measured.json()["instructions_per_packet"]["devrx_any"]["median"],
            80.0
        );
        assert!(measured.text().contains("0.40"));
        assert_eq!(measured.at_most_half(), Some(true));
        let ours = measured.counted.get_mut(&Section::DevrxAny).expect("there");
        ours.receiver = vec![810];
        assert_eq!(measured.at_most_half(), Some(false));
        measured.counted.remove(&Section::DevrxAny);
        assert_eq!(measured.at_most_half(), None);
    }
}
