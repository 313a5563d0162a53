//! The registers and what reading and writing them does.

use super::{Chip, IgbModel, State};
use crate::device::Registers;
use crate::igb::regs::{
    CTRL, EICR, EICS, EIMC, EIMS, ICR, IMC, IMS, MDIC, RAH_VALID, RXDCTL_ENABLE, RxQueueRegs,
    STATUS, SW_FW_SYNC, SWSM, SYSTIMR, TSAUXC, TXDCTL_ENABLE, TxQueueRegs, ctrl, icr, mdic,
    receive_address, status, sw_fw_sync, swsm,
};

/// Registers of the BAR.
pub(super) const WORDS: usize = 0x2_0000 / 4;

/// PHY control: negotiate again, loop back.
const RESTART: u32 = 1 << 9;
const LOOPBACK: u32 = 1 << 14;

impl Registers for Chip {
    fn read32(&self, offset: u32) -> u32 {
        assert!(
            offset.is_multiple_of(4) && (offset as usize) < WORDS * 4,
            "a register of the BAR, not {offset:#x}"
        );
        let mut state = self.state();
        if state.fault.gone {
            return u32::MAX;
        }
        if state.fault.gone_as_zeros {
            return 0;
        }
        let answer = state.tape.next();
        answer.unwrap_or_else(|| state.read(offset))
    }

    fn write32(&self, offset: u32, value: u32) {
        assert!(
            offset.is_multiple_of(4) && (offset as usize) < WORDS * 4,
            "a register of the BAR, not {offset:#x}"
        );
        let mut state = self.state();
        if !state.fault.gone && !state.fault.gone_as_zeros {
            state.write(offset, value);
        }
    }
}

impl State {
    /// All registers as after power-on, but for what the card's ports share.
    pub(super) fn reset(&mut self) {
        let shared = [SWSM, SW_FW_SYNC].map(|offset| (offset, self.get(offset)));
        self.registers.fill(0);
        for (offset, value) in shared {
            self.put(offset, value);
        }
        self.causes = 0;
        self.link = false;
        self.phy_loopback = false;
        self.fifo.clear();
        self.reset_clock();
        let [a, b, c, d, e, f] = IgbModel::STATION;
        let (low, high) = receive_address(0);
        self.put(low, u32::from_le_bytes([a, b, c, d]));
        self.put(high, u32::from_le_bytes([e, f, 0, 0]) | RAH_VALID);
        // Queue 0 is on after a reset, in QEMU and by the datasheet.
        self.put(RxQueueRegs::of(0).rxdctl(), RXDCTL_ENABLE);
    }

    fn read(&mut self, offset: u32) -> u32 {
        let value = self.get(offset);
        match offset {
            STATUS => {
                let mut value = 2 << status::SPEED_SHIFT | self.port << status::PORT_SHIFT;
                if self.link {
                    value |= status::LU;
                }
                if self.get(CTRL) & ctrl::MASTER_DISABLE == 0 {
                    value |= status::MASTER_ENABLE;
                }
                value
            }
            // Cleared by reading: causes, statistics, drop counters.
            ICR | 0x4000..0x4100 => {
                self.put(offset, 0);
                value
            }
            0xc030..0xc400 if offset % 0x40 == 0x30 => {
                if self.part.drop_clears {
                    self.put(offset, 0);
                }
                value
            }
            SYSTIMR => {
                self.latch_clock();
                value
            }
            EICR => std::mem::take(&mut self.causes),
            SWSM => {
                self.put(SWSM, value | swsm::SMBI);
                value
            }
            EIMC | EICS | IMC => 0,
            _ => value,
        }
    }

    fn write(&mut self, offset: u32, value: u32) {
        match offset {
            CTRL if value & ctrl::RST != 0 => self.reset(),
            STATUS => {}
            MDIC => self.phy(value),
            TSAUXC => self.set_clock(value),
            // Software frees SMBI, and never takes it by writing; SWESMBI it takes only with SMBI, and while firmware is out.
            SWSM => {
                let held = self.get(SWSM);
                let mut kept = held & value & swsm::SMBI;
                if kept != 0 && !self.fault.firmware_in_semaphore {
                    kept |= value & swsm::SWESMBI;
                }
                self.put(SWSM, kept);
            }
            // Firmware's bits are firmware's, and nobody writes out of turn.
            SW_FW_SYNC => {
                let firmware = u32::MAX << sw_fw_sync::FIRMWARE_SHIFT;
                if self.get(SWSM) == swsm::SMBI | swsm::SWESMBI {
                    let held = self.get(SW_FW_SYNC);
                    self.put(SW_FW_SYNC, held & firmware | value & !firmware);
                }
            }
            ICR => self.put(ICR, self.get(ICR) & !value),
            IMS => self.put(IMS, self.get(IMS) | value),
            IMC => self.put(IMS, self.get(IMS) & !value),
            EIMS => {
                self.put(EIMS, self.get(EIMS) | value);
                self.deliver();
            }
            EIMC => self.put(EIMS, self.get(EIMS) & !value),
            EICR => self.causes &= !value,
            EICS => {
                self.causes |= value;
                self.deliver();
            }
            0xc028..0xc400 if offset % 0x40 == 0x28 => {
                let stuck = self.fault.will_not_stop && value & RXDCTL_ENABLE == 0;
                let kept = if stuck {
                    self.get(offset) & RXDCTL_ENABLE
                } else {
                    0
                };
                self.put(offset, value | kept);
                self.fault.gone |= self.fault.gone_when_enabled && value & RXDCTL_ENABLE != 0;
                self.pump();
            }
            0xe028..0xe400 if offset % 0x40 == 0x28 => {
                let stuck = self.fault.sends_for_ever && value & TXDCTL_ENABLE == 0;
                let kept = if stuck {
                    self.get(offset) & TXDCTL_ENABLE
                } else {
                    0
                };
                self.put(offset, value | kept);
                self.fault.gone |= self.fault.gone_when_enabled && value & TXDCTL_ENABLE != 0;
            }
            0xc018..0xc400 if offset % 0x40 == 0x18 => {
                self.put(offset, value & 0xffff);
                self.pump();
            }
            _ => {
                self.put(offset, value);
                if offset == TxQueueRegs::of(0).tdt() {
                    self.transmit(0);
                } else if offset == crate::igb::regs::RCTL {
                    self.pump();
                }
            }
        }
    }

    /// An access to the PHY, done at once; an error unless software has said that it uses it, and firmware does not.
    fn phy(&mut self, value: u32) {
        let bit = sw_fw_sync::PHY[self.port as usize];
        let users = self.get(SW_FW_SYNC) & (bit | bit << sw_fw_sync::FIRMWARE_SHIFT);
        if users != bit {
            self.put(MDIC, value | mdic::READY | mdic::ERROR);
            return;
        }
        if value & mdic::WRITE != 0 && value >> mdic::REGISTER_SHIFT & 0x1f == 0 {
            self.phy_loopback = value & LOOPBACK != 0;
            if value & RESTART != 0 || self.phy_loopback {
                self.link = true;
                self.raise_other(icr::LSC);
            }
        }
        self.put(MDIC, value | mdic::READY);
    }
}
