//! The parts this driver knows, and what tells them apart.

use super::clock::SystemTime;
use super::write_back::Split;
use crate::device::PciId;

/// Intel's PCI vendor number.
const INTEL: u16 = 0x8086;

/// How a part's interrupt causes are laid out in its vector allocation registers (IVAR).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum IvarLayout {
    /// Register `queue mod 8` holds queue and queue + 8 (82576 datasheet 8.8.13).
    Eights,
    /// Register `queue / 2` holds two neighbouring queues (I350 datasheet 8.8.15, I210 datasheet 8.8.13).
    Pairs,
}

/// How a part brings a unicast address to a queue.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum MacSteering {
    /// Pools of VMDq: bits 18 and up of RAH name the pools, VT_CTL the default (82576 datasheet 7.1.1.2, 8.10.20).
    Pools,
    /// RAH names a queue itself, MRQC the default (I210 datasheet 7.1.1.1, 8.10.9, 8.10.16).
    QueueSelect,
}

/// One family of parts. Only the 82576 has been driven, and that as QEMU models it; no part has been run on silicon.
#[derive(Debug, Eq, PartialEq)]
pub struct Part {
    /// Its name.
    pub name: &'static str,
    /// PCI device numbers, and what each is.
    pub(super) ids: &'static [(u16, &'static str)],
    /// Receive queues.
    pub queues: u32,
    /// Receive address registers.
    pub(super) addresses: u32,
    pub(super) ivar: IvarLayout,
    pub(super) mac_steering: MacSteering,
    /// Queues that the steering by address can name.
    pub(super) mac_queues: u32,
    /// Bits of the per-queue drop counter RQDPC.
    pub(super) drop_bits: u32,
    /// Whether reading RQDPC clears it.
    pub(super) drop_clears: bool,
    /// Whether each queue is told to strip the FCS by DVMOLR (I350 datasheet 8.10.23) besides RCTL.SECRC.
    pub(super) queue_strips_crc: bool,
    /// Whether GCR has the completion timeout resend bit that must be off (82576 datasheet 8.6.1).
    pub(super) completion_resend: bool,
    /// How its clock counts, by which it stamps every packet; or why it does not.
    pub(super) time: Result<SystemTime, &'static str>,
}

static PARTS: [Part; 4] = [
    Part {
        name: "82576",
        ids: &[
            (0x10c9, "copper"),
            (0x10e6, "fibre"),
            (0x10e7, "SerDes"),
            (0x10e8, "quad copper"),
            (0x1526, "quad copper ET2"),
            (0x150a, "NS"),
            (0x1518, "NS SerDes"),
            (0x150d, "quad SerDes"),
        ],
        queues: 16,
        addresses: 24,
        ivar: IvarLayout::Eights,
        mac_steering: MacSteering::Pools,
        mac_queues: 8,
        drop_bits: 12,
        drop_clears: true,
        queue_strips_crc: false,
        completion_resend: true,
        time: Err(
            "has one latch for the time of one packet of PTP's, which says nothing of a stream",
        ),
    },
    Part {
        name: "I350",
        ids: &[
            (0x1521, "copper"),
            (0x1522, "fibre"),
            (0x1523, "SerDes"),
            (0x1524, "SGMII"),
            (0x1546, "DA4"),
        ],
        queues: 8,
        addresses: 32,
        ivar: IvarLayout::Pairs,
        mac_steering: MacSteering::Pools,
        mac_queues: 8,
        drop_bits: 32,
        drop_clears: true,
        queue_strips_crc: true,
        completion_resend: false,
        time: Ok(SystemTime::Nanoseconds),
    },
    Part {
        name: "I210",
        ids: &[
            (0x1533, "copper"),
            (0x1534, "copper OEM"),
            (0x1535, "copper IT"),
            (0x1536, "fibre"),
            (0x1537, "SerDes"),
            (0x1538, "SGMII"),
            (0x157b, "copper, no flash"),
            (0x157c, "SerDes, no flash"),
            (0x15f6, "SGMII, no flash"),
        ],
        queues: 4,
        addresses: 16,
        ivar: IvarLayout::Pairs,
        mac_steering: MacSteering::QueueSelect,
        mac_queues: 4,
        drop_bits: 32,
        drop_clears: false,
        queue_strips_crc: true,
        completion_resend: false,
        time: Ok(SystemTime::Seconds),
    },
    Part {
        name: "I211",
        ids: &[(0x1539, "copper")],
        queues: 2,
        addresses: 16,
        ivar: IvarLayout::Pairs,
        mac_steering: MacSteering::QueueSelect,
        mac_queues: 2,
        drop_bits: 32,
        drop_clears: false,
        queue_strips_crc: true,
        completion_resend: false,
        time: Err("is not known to stamp packets, as no document of it was at hand"),
    },
];

/// The part with a PCI identity; `None` if this driver does not know it. Virtual functions have other numbers and are not known.
///
/// # Example
///
/// ```
/// use devrx_driver::{device::PciId, igb};
/// let id = PciId { vendor: 0x8086, device: 0x10c9, ..PciId::default() };
/// assert_eq!(igb::supports(id).map(|part| part.name), Some("82576"));
/// ```
#[must_use]
pub fn supports(id: PciId) -> Option<&'static Part> {
    PARTS
        .iter()
        .find(|part| id.vendor == INTEL && part.ids.iter().any(|&(device, _)| device == id.device))
}

impl Part {
    /// Whether it can stamp packets; `Err`: why not.
    pub(super) fn timestamps(&self) -> Result<(), String> {
        match self.time {
            Ok(_) => Ok(()),
            Err(why) => Err(format!(
                "the {} {why}; attach without `--timestamps nic`, and packets carry the time at which they were taken from the ring",
                self.name
            )),
        }
    }

    /// Whether it is known where a stamp goes when headers come like this; `Err`: what to do instead.
    pub(super) fn stamps_when(&self, split: Split) -> Result<(), String> {
        if self.time == Ok(SystemTime::Nanoseconds) && split == Split::Headers {
            return Err(format!(
                "no document or driver at hand says where the {} puts the timestamp when it splits off headers alone; attach with `--unsplit header`, or with `--no-split`, of \
                 which it is known",
                self.name
            ));
        }
        Ok(())
    }

    /// What the part with PCI device number `device` is called, `82576 copper` for example.
    #[must_use]
    pub fn describe(&self, device: u16) -> String {
        let kind = self.ids.iter().find(|&&(id, _)| id == device);
        kind.map_or_else(
            || self.name.to_owned(),
            |(_, kind)| format!("{} {kind}", self.name),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_names_one_part() {
        let mut seen = std::collections::BTreeSet::new();
        for part in &PARTS {
            for &(device, _) in part.ids {
                assert!(seen.insert(device), "{device:04x} twice");
                let id = PciId {
                    vendor: INTEL,
                    device,
                    ..PciId::default()
                };
                assert_eq!(supports(id).map(|part| part.name), Some(part.name));
            }
        }
        let foreign = PciId {
            vendor: 0x1af4,
            device: 0x10c9,
            ..PciId::default()
        };
        assert_eq!(supports(foreign), None);
    }
}
