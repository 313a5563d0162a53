//! Frames from memory (82576 datasheet 7.2).

use super::State;
use crate::igb::descriptor::{EOP, RS, TRANSMITTED};
use crate::igb::regs::{RCTL, TCTL, TXDCTL_ENABLE, TxQueueRegs, rctl, tctl};

impl State {
    /// Sends what `queue`'s descriptors say: to the wire, or in loopback to itself.
    pub(super) fn transmit(&mut self, queue: u32) {
        let ring = TxQueueRegs::of(queue);
        let entries = self.get(ring.tdlen()) / 16;
        if entries == 0
            || !self.bus_master
            || self.get(TCTL) & tctl::EN == 0
            || self.get(ring.txdctl()) & TXDCTL_ENABLE == 0
        {
            return;
        }
        let base = u64::from(self.get(ring.tdbal())) | u64::from(self.get(ring.tdbah())) << 32;
        let tail = self.get(ring.tdt()) % entries;
        let mut head = self.get(ring.tdh()) % entries;
        let mut frame = Vec::new();
        let mut whole = true;
        while head != tail {
            let at = base + u64::from(head) * 16;
            let (buffer, command) = (self.iommu.word(at), self.iommu.word(at + 8));
            let mut piece = vec![0; command as usize & 0xffff];
            whole &= self.iommu.read(buffer, &mut piece);
            frame.append(&mut piece);
            if command & EOP != 0 {
                let frame = std::mem::take(&mut frame);
                if !std::mem::replace(&mut whole, true) {
                    // Part of it could not be read.
                } else if self.phy_loopback || self.get(RCTL) & rctl::LBM_MAC != 0 {
                    self.arrive(&frame);
                } else {
                    self.sent.push(frame);
                }
            }
            if command & RS != 0 {
                let _ = self.iommu.write(at + 8, &TRANSMITTED.to_le_bytes());
            }
            head = (head + 1) % entries;
        }
        self.put(ring.tdh(), head);
    }
}
