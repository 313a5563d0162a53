//! What the firmware says of the card's health, in words.
//!
//! Codes: `ICE_AQC_HEALTH_STATUS_*` in DPDK's `drivers/net/intel/ice/base/ice_adminq_cmd.h`.

use super::calls::half;
use super::events::Event;

/// Bytes of a report in an event.
const SIZE: usize = 12;

/// One report.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::ice) struct Health {
    /// The firmware's code.
    pub code: u16,
    /// What it is about: this function, the port, or the whole card.
    pub about: &'static str,
}

impl Health {
    /// The reports of an event.
    pub(in crate::ice) fn of(event: &Event) -> impl Iterator<Item = Self> {
        let count = usize::from(half(&event.params, 0));
        let reports = event.data.chunks_exact(SIZE).take(count);
        reports.map(|report| Self {
            code: half(report, 0),
            about: match half(report, 2) {
                1 => "this function",
                2 => "the port",
                3 => "the whole card",
                _ => "something",
            },
        })
    }

    /// What it means and what to do.
    pub(in crate::ice) const fn text(self) -> &'static str {
        match self.code {
            0x101..=0x105 | 0x108 | 0x109 => {
                "the module in the cage is not one that the card takes; use another"
            }
            0x106 => "there is no module in the cage",
            0x107 | 0x10f | 0x111 => "module or PHY limits the port's speed",
            0x10b | 0x110 => {
                "the link's configuration does not go with the module or the other side"
            }
            0x10c | 0x10d | 0x112..=0x117 => {
                "the port, or the firmware's description of the card, is not in order; update the card's firmware"
            }
            0x120 | 0x121 => "the PHY's firmware was not loaded; update the card's firmware",
            0x500 => "the firmware is in recovery mode; update it",
            0x501..=0x503 | 0x505..=0x508 => {
                "the card's flash, or what is in it, is not in order; update the card's firmware"
            }
            0x504 => "the package (DDP) is not authentic; install it anew",
            0x509..=0x50d => "the firmware's management had trouble",
            0x1000..=0x1002 => {
                "the firmware had trouble; if it goes on, power the machine off and on"
            }
            _ => "a code that this driver does not know",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_are_read_and_bounded() {
        let mut event = Event {
            opcode: 0xff22,
            params: [0; 16],
            data: vec![0; 30],
        };
        event.params[0] = 200;
        event.data[..4].copy_from_slice(&[6, 1, 2, 0]);
        event.data[12..16].copy_from_slice(&[4, 5, 3, 0]);
        let reports: Vec<_> = Health::of(&event).collect();
        assert_eq!(reports.len(), 2);
        assert_eq!((reports[0].code, reports[0].about), (0x106, "the port"));
        assert!(reports[0].text().contains("no module"));
        assert!(reports[1].text().contains("package"));
        event.params[0] = 0;
        assert_eq!(Health::of(&event).count(), 0);
    }
}
