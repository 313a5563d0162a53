//! The parts this driver knows.

use crate::device::PciId;

/// Intel's PCI vendor number.
const INTEL: u16 = 0x8086;

/// One family of parts.
#[derive(Debug, Eq, PartialEq)]
pub struct Part {
    /// Its name.
    pub name: &'static str,
    /// PCI device numbers, and what each is (DPDK's `ice_devids.h`).
    ids: &'static [(u16, &'static str)],
}

/// The E810. Its relatives (E822, E823, E825, E830) have other PHYs, packages and clocks, and nobody has tried them here.
static E810: Part = Part {
    name: "E810",
    ids: &[
        (0x1591, "C for backplane"),
        (0x1592, "C for QSFP"),
        (0x1593, "C for SFP"),
        (0x1599, "XXV for backplane"),
        (0x159a, "XXV for QSFP"),
        (0x159b, "XXV for SFP"),
    ],
};

/// The part with a PCI identity; `None` if this driver does not know it. Virtual functions have other numbers and are not known.
///
/// # Example
///
/// ```
/// use devrx_driver::{device::PciId, ice};
/// let id = PciId { vendor: 0x8086, device: 0x1592, ..PciId::default() };
/// assert_eq!(ice::supports(id).map(|part| part.name), Some("E810"));
/// ```
#[must_use]
pub fn supports(id: PciId) -> Option<&'static Part> {
    let known = E810.ids.iter().any(|&(device, _)| device == id.device);
    (id.vendor == INTEL && known).then_some(&E810)
}

impl Part {
    /// What the part with PCI device number `device` is called, `E810-C for QSFP` for example.
    #[must_use]
    pub fn describe(&self, device: u16) -> String {
        let kind = self.ids.iter().find(|&&(id, _)| id == device);
        kind.map_or_else(
            || self.name.to_owned(),
            |(_, kind)| format!("{}-{kind}", self.name),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_others_name_no_part() {
        let id = |vendor, device| PciId {
            vendor,
            device,
            ..PciId::default()
        };
        let part = supports(id(INTEL, 0x159b)).unwrap();
        assert_eq!(part.describe(0x159b), "E810-XXV for SFP");
        assert_eq!(supports(id(0x1af4, 0x1592)), None);
        assert_eq!(supports(id(INTEL, 0x1889)), None, "a virtual function");
        assert_eq!(supports(id(INTEL, 0x10c9)), None);
    }
}
