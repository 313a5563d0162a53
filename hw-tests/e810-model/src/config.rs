//! PCI configuration space: identity, BARs, power management, MSI-X and PCI Express capabilities, and a serial number.
//!
//! Offsets from the PCI Local Bus Specification 3.0 and the PCI Express Base Specification; the layout is the model's own.

use crate::personality::Personality;

/// Bytes of configuration space.
pub const CONFIG_SPACE: usize = 4096;
/// Bytes of BAR 0, the registers.
pub const BAR0_LEN: u64 = 32 << 20;
/// Bytes of BAR 3, the MSI-X table and pending bits.
pub const BAR3_LEN: u64 = 64 << 10;
/// Where the pending bits begin in BAR 3; the table is at 0.
pub const MSIX_PBA: u32 = 0x8000;

const COMMAND: usize = 0x04;
const COMMAND_MEMORY: u8 = 1 << 1;
const COMMAND_MASTER: u8 = 1 << 2;
const COMMAND_INTX_OFF: u8 = 1 << 2;

const CAP_POWER: usize = 0x40;
const CAP_MSIX: usize = 0x70;
const CAP_EXPRESS: usize = 0xa0;
const EXTENDED_SERIAL: usize = 0x100;

/// The space, and which of its bits software may write.
#[derive(Debug)]
pub(crate) struct Config {
    bytes: Vec<u8>,
    writable: Vec<u8>,
}

impl Config {
    pub(crate) fn new(card: &Personality) -> Self {
        let mut config = Self {
            bytes: vec![0; CONFIG_SPACE],
            writable: vec![0; CONFIG_SPACE],
        };
        config.fill(card);
        config
    }

    fn put(&mut self, at: usize, value: &[u8]) {
        self.bytes[at..at + value.len()].copy_from_slice(value);
    }

    fn let_write(&mut self, at: usize, mask: &[u8]) {
        self.writable[at..at + mask.len()].copy_from_slice(mask);
    }

    fn fill(&mut self, card: &Personality) {
        self.put(0x00, &card.vendor.to_le_bytes());
        self.put(0x02, &card.device.to_le_bytes());
        // Status: it has a capabilities list.
        self.put(0x06, &[0x10, 0]);
        // Class 02 00 00: Ethernet controller.
        self.put(0x08, &[card.revision, 0, 0, 2]);
        // BAR 0 and BAR 3: 64 bits wide, prefetchable.
        self.put(0x10, &[0x0c]);
        self.put(0x1c, &[0x0c]);
        self.put(0x2c, &card.subsystem.0.to_le_bytes());
        self.put(0x2e, &card.subsystem.1.to_le_bytes());
        self.put(0x34, &[CAP_POWER as u8]);
        self.let_write(
            COMMAND,
            &[COMMAND_MEMORY | COMMAND_MASTER | 1, COMMAND_INTX_OFF],
        );
        self.let_write(0x0c, &[0xff]);
        self.let_write(0x10, &(!(BAR0_LEN - 1)).to_le_bytes());
        self.let_write(0x1c, &(!(BAR3_LEN - 1)).to_le_bytes());
        self.let_write(0x3c, &[0xff]);

        // Power management, version 3; D0 and D3.
        self.put(CAP_POWER, &[0x01, CAP_MSIX as u8, 0x03, 0]);
        self.let_write(CAP_POWER + 4, &[0x03]);

        let vectors = card.vectors.clamp(2, 1024) - 1;
        self.put(CAP_MSIX, &[0x11, CAP_EXPRESS as u8]);
        self.put(CAP_MSIX + 2, &vectors.to_le_bytes());
        self.put(CAP_MSIX + 4, &3u32.to_le_bytes());
        self.put(CAP_MSIX + 8, &(MSIX_PBA | 3).to_le_bytes());
        self.let_write(CAP_MSIX + 3, &[0xc0]);

        // PCI Express endpoint, version 2, with function level reset; 16 lanes at 8 GT/s, trained.
        self.put(CAP_EXPRESS, &[0x10, 0, 0x02, 0]);
        self.put(CAP_EXPRESS + 4, &(0x8002_u32 | 1 << 28).to_le_bytes());
        self.let_write(CAP_EXPRESS + 8, &[0xff, 0x7f]);
        self.put(CAP_EXPRESS + 0x0c, &(16u32 << 4 | 3).to_le_bytes());
        self.put(CAP_EXPRESS + 0x12, &(16u16 << 4 | 3).to_le_bytes());
        self.let_write(CAP_EXPRESS + 0x10, &[0xff]);

        // Device Serial Number, version 1, last of the extended capabilities: EUI-64 from the MAC.
        let mac = card.mac;
        self.put(EXTENDED_SERIAL, &0x0001_0003_u32.to_le_bytes());
        self.put(
            EXTENDED_SERIAL + 4,
            &[mac[5], mac[4], mac[3], 0xff, 0xff, mac[2], mac[1], mac[0]],
        );
    }

    /// What is out of the space reads as ones.
    pub(crate) fn read(&self, offset: usize, into: &mut [u8]) {
        for (i, byte) in into.iter_mut().enumerate() {
            *byte = offset
                .checked_add(i)
                .and_then(|at| self.bytes.get(at))
                .copied()
                .unwrap_or(0xff);
        }
    }

    /// Bits that are not writable keep their value. Returns whether it asks for a function level reset.
    pub(crate) fn write(&mut self, offset: usize, from: &[u8]) -> bool {
        let mut reset = false;
        for (i, byte) in from.iter().enumerate() {
            let Some(at) = offset.checked_add(i).filter(|at| *at < CONFIG_SPACE) else {
                continue;
            };
            let mask = self.writable[at];
            self.bytes[at] = self.bytes[at] & !mask | byte & mask;
            if at == CAP_EXPRESS + 9 && byte & 0x80 != 0 {
                reset = true;
            }
        }
        reset
    }

    /// Whether the device may reach memory and send interrupts.
    pub(crate) fn bus_master(&self) -> bool {
        self.bytes[COMMAND] & COMMAND_MASTER != 0
    }

    /// What a function reset does to it: commands and controls go to zero, BARs too.
    pub(crate) fn reset(&mut self) {
        for (byte, mask) in self.bytes.iter_mut().zip(&self.writable) {
            *byte &= !mask;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{BAR0_LEN, Config};
    use crate::personality::Personality;

    #[test]
    fn bars_answer_sizing() {
        let mut config = Config::new(&Personality::default());
        config.write(0x10, &[0xff; 8]);
        let mut bar = [0; 8];
        config.read(0x10, &mut bar);
        assert_eq!(!(u64::from_le_bytes(bar) & !0xf) + 1, BAR0_LEN);
    }

    #[test]
    fn read_only_bits_stay_and_the_list_ends() {
        let mut config = Config::new(&Personality::default());
        config.write(0, &[0; 4]);
        config.write(4094, &[0; 8]);
        let mut id = [0; 4];
        config.read(0, &mut id);
        assert_eq!(id, [0x86, 0x80, 0x92, 0x15]);
        let mut at = [0x34];
        let mut found = Vec::new();
        let mut first = [0];
        config.read(usize::from(at[0]), &mut first);
        at = first;
        while at[0] != 0 {
            let mut head = [0; 2];
            config.read(usize::from(at[0]), &mut head);
            found.push(head[0]);
            at = [head[1]];
        }
        assert_eq!(found, [0x01, 0x11, 0x10]);
        let mut beyond = [0; 2];
        config.read(4095, &mut beyond);
        assert_eq!(beyond[1], 0xff);
    }

    #[test]
    fn bus_master_is_off_until_set_and_after_a_reset() {
        let mut config = Config::new(&Personality::default());
        assert!(!config.bus_master());
        assert!(!config.write(4, &[0x06, 0]));
        assert!(config.bus_master());
        assert!(config.write(0xa0 + 8, &[0, 0x80]));
        config.reset();
        assert!(!config.bus_master());
    }
}
