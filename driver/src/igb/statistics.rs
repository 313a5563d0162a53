//! Statistics registers: 32 bits wide and cleared by reading, so they are read every second and added up here. At one gigabit a counter
//! of bytes would overflow after 34 s (the pair GORC is 64 bits wide), one of packets after 48 minutes.

use std::collections::BTreeMap;
use std::sync::PoisonError;

use super::regs::statistics as reg;
use super::shared::Shared;
use crate::device::Device;
use crate::{NicStatistics, PortLosses};

/// What drops are called, and the register that counts each.
const DROPS: [(&str, u32); 8] = [
    ("missed", reg::MPC),
    ("crc_error", reg::CRCERRS),
    ("receive_error", reg::RXERRC),
    ("length_error", reg::RLEC),
    ("undersize", reg::RUC),
    ("fragment", reg::RFC),
    ("oversize", reg::ROC),
    ("jabber", reg::RJC),
];

/// What the registers have counted since the NIC was opened.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Totals {
    packets: u64,
    bytes: u64,
    drops: [u64; DROPS.len()],
}

impl<D: Device> Shared<D> {
    /// Adds up what the registers have counted since the last time.
    pub(super) fn collect(&self) -> Totals {
        // All ones: the device is gone.
        let count = |offset| match self.read(offset) {
            u32::MAX => 0,
            value => u64::from(value),
        };
        let mut totals = self.totals.lock().unwrap_or_else(PoisonError::into_inner);
        // What the device says is not checked, so it may be too much even for 64 bits.
        let add = |total: &mut u64, count| *total = total.wrapping_add(count);
        add(&mut totals.packets, count(reg::GPRC));
        // Low first: reading the high half clears both.
        add(
            &mut totals.bytes,
            count(reg::GORCL) | count(reg::GORCH) << 32,
        );
        for (total, (_, offset)) in totals.drops.iter_mut().zip(DROPS) {
            add(total, count(offset));
        }
        *totals
    }

    /// What the port lost before it chose a queue, by the reasons of drops. Packets shorter than the shortest are not among them: QEMU counts those that it
    /// has padded and delivered.
    pub(super) fn losses(&self) -> PortLosses {
        // An overrun that nobody has heard of yet counts as well.
        self.take_causes();
        let totals = self.collect();
        let mut drops = BTreeMap::new();
        for ((name, _), count) in DROPS.iter().zip(totals.drops) {
            let reason = match *name {
                name @ ("missed" | "oversize") => name,
                // The port has not taken these in. The others count some of them once more: RXERRC; RJC those with a bad FCS that are too long, of CRCERRS, which
                // has all from 64 bytes (82575EB manual 14.9.1, 14.9.35); RLEC those too short and too long (8254x manual 13.7.15), and Linux uses RUC and ROC in
                // its place, as it "can be incorrect".
                "crc_error" | "fragment" => "error",
                _ => continue,
            };
            if count > 0 {
                *drops.entry(reason).or_default() += count;
            }
        }
        PortLosses {
            drops,
            exact: self.counts_all(),
        }
    }

    /// The counters as a NIC shows them.
    pub(super) fn statistics(&self) -> NicStatistics {
        let totals = self.collect();
        let drops = DROPS.iter().zip(totals.drops);
        NicStatistics {
            packets: totals.packets,
            bytes: totals.bytes,
            drops: drops
                .map(|((name, _), count)| ((*name).to_owned(), count))
                .collect::<BTreeMap<_, _>>(),
            exact: self.counts_all(),
        }
    }
}
