//! The registers, each declared once: offset, stride, and the bits this driver uses. Sections are of the 82576 datasheet, revision 2.87, if
//! no other part is named. RW can be read and written, RO only read, WO only written, RC is cleared by reading, W1C by writing ones.

/// An array of registers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Array {
    start: u32,
    stride: u32,
    count: u32,
}

impl Array {
    const fn new(start: u32, stride: u32, count: u32) -> Self {
        Self {
            start,
            stride,
            count,
        }
    }

    /// The offset of register `index`.
    ///
    /// # Panics
    ///
    /// When there is none: indices are checked where they enter the driver.
    pub(super) const fn at(self, index: u32) -> u32 {
        assert!(index < self.count, "a register of the array");
        self.start + self.stride * index
    }

    pub(super) const fn count(self) -> u32 {
        self.count
    }
}

/// Device control, RW (8.2.1).
pub(super) const CTRL: u32 = 0x0000;
/// Bits of [`CTRL`].
pub(super) mod ctrl {
    /// Asks the device to begin no more bus transactions (5.2.3.3.1).
    pub const MASTER_DISABLE: u32 = 1 << 2;
    /// Full duplex, where it is forced.
    pub const FULL_DUPLEX: u32 = 1 << 0;
    /// A gigabit, where it is forced.
    pub const SPEED_1000: u32 = 2 << 8;
    /// Set link up.
    pub const SLU: u32 = 1 << 6;
    /// Forces the speed.
    pub const FORCE_SPEED: u32 = 1 << 11;
    /// Forces the duplex mode.
    pub const FORCE_DUPLEX: u32 = 1 << 12;
    /// Resets the port; clears itself.
    pub const RST: u32 = 1 << 26;
    /// Takes VLAN tags out of frames.
    pub const VME: u32 = 1 << 30;
}
/// Device status, RO (8.2.2).
pub(super) const STATUS: u32 = 0x0008;
/// Bits of [`STATUS`].
pub(super) mod status {
    /// The link is up.
    pub const LU: u32 = 1 << 1;
    /// Which of the card's ports this is (LAN ID), two bits.
    pub const PORT_SHIFT: u32 = 2;
    /// 0: 10, 1: 100, 2 and 3: 1000 Mbit/s.
    pub const SPEED_SHIFT: u32 = 6;
    /// Bus transactions may be under way.
    pub const MASTER_ENABLE: u32 = 1 << 19;
}
/// EEPROM and flash control, RW (8.2.3).
pub(super) const EECD: u32 = 0x0010;
/// [`EECD`]: the device has read its EEPROM after a reset. QEMU never sets it.
pub(super) const EECD_AUTO_RD: u32 = 1 << 9;
/// Extended device control, RW (8.2.4).
pub(super) const CTRL_EXT: u32 = 0x0018;
/// [`CTRL_EXT`]: tells the firmware that a driver is there.
pub(super) const CTRL_EXT_DRV_LOAD: u32 = 1 << 28;
/// Access to the PHY, RW (8.2.5).
pub(super) const MDIC: u32 = 0x0020;
/// Bits of [`MDIC`].
pub(super) mod mdic {
    /// The PHY register, in bits 20:16.
    pub const REGISTER_SHIFT: u32 = 16;
    /// PHY address 1, the internal one.
    pub const PHY_1: u32 = 1 << 21;
    /// Write.
    pub const WRITE: u32 = 1 << 26;
    /// Done.
    pub const READY: u32 = 1 << 28;
    /// Failed.
    pub const ERROR: u32 = 1 << 30;
}
/// Interrupt cause, RC and W1C (8.8.1). QEMU models only this one of its two addresses, and clears it by reading only with
/// [`gpie::NSICR`].
pub(super) const ICR: u32 = 0x00c0;
/// Bits of [`ICR`], [`IMS`] and [`IMC`].
pub(super) mod icr {
    /// The link has changed.
    pub const LSC: u32 = 1 << 2;
    /// Packets were lost: receive FIFO full, or no descriptor.
    pub const RXO: u32 = 1 << 6;
    /// Memory of the device failed (fatal error).
    pub const FER: u32 = 1 << 22;
    /// The device was reset by somebody else.
    pub const DRSTA: u32 = 1 << 30;
}
/// Interrupt mask set, RW (8.8.3).
pub(super) const IMS: u32 = 0x00d0;
/// Interrupt mask clear, WO (8.8.4).
pub(super) const IMC: u32 = 0x00d8;
/// Receive control, RW (8.10.1).
pub(super) const RCTL: u32 = 0x0100;
/// Bits of [`RCTL`].
pub(super) mod rctl {
    /// Receives.
    pub const EN: u32 = 1 << 1;
    /// Takes every unicast address.
    pub const UPE: u32 = 1 << 3;
    /// Takes every multicast address.
    pub const MPE: u32 = 1 << 4;
    /// Takes frames longer than 1518 bytes, up to RLPML.
    pub const LPE: u32 = 1 << 5;
    /// Loopback in the MAC. 82576 silicon loops in the PHY instead and has these bits for the SerDes; QEMU has only this.
    pub const LBM_MAC: u32 = 1 << 6;
    /// Takes broadcasts.
    pub const BAM: u32 = 1 << 15;
    /// Strips the FCS.
    pub const SECRC: u32 = 1 << 26;
}
/// Receive FIFO, RW (I210 datasheet 8.3).
pub(super) const RXPBSIZE: u32 = 0x2404;
/// [`RXPBSIZE`]: keeps 16 bytes a packet for its stamp (I210 datasheet 7.1.6; bit 31 by DPDK's `e1000_defines.h`).
pub(super) const RXPBSIZE_STAMPS: u32 = 1 << 31;
/// The clock (I210 datasheet 8.15.8 to 8.15.10; places as in DPDK's `e1000_regs.h`, for the I350 too), RW: fractions of a nanosecond. Reading it latches the others.
pub(super) const SYSTIMR: u32 = 0xb6f8;
/// The clock's lower half: nanoseconds.
pub(super) const SYSTIML: u32 = 0xb600;
/// The clock's upper half: more of the nanoseconds (I350, 8 bits), or seconds (I210).
pub(super) const SYSTIMH: u32 = 0xb604;
/// Which received packets are stamped, RW (I210 datasheet 8.15.1).
pub(super) const TSYNCRXCTL: u32 = 0xb620;
/// Fields of [`TSYNCRXCTL`].
pub(super) mod tsyncrxctl {
    /// All packets, where queues want it.
    pub const ALL: u32 = 4 << 1;
    /// Stamps.
    pub const ENABLE: u32 = 1 << 4;
}
/// What the clock drives, RW (I210 datasheet 8.15). Bit 31 stops it, which is so after a reset.
pub(super) const TSAUXC: u32 = 0xb640;
/// Transmit control, RW (8.12.1).
pub(super) const TCTL: u32 = 0x0400;
/// Bits of [`TCTL`].
pub(super) mod tctl {
    /// Transmits.
    pub const EN: u32 = 1 << 1;
    /// Pads short packets.
    pub const PSP: u32 = 1 << 3;
    /// Collision threshold 16, and retransmission on late collisions: as the datasheet advises.
    pub const DEFAULTS: u32 = 0x10 << 4 | 1 << 24;
}
/// Extended interrupt registers (8.8.7 to 8.8.12): general enable, RW.
pub(super) const GPIE: u32 = 0x1514;
/// Bits of [`GPIE`].
pub(super) mod gpie {
    /// Reading ICR always clears it.
    pub const NSICR: u32 = 1 << 0;
    /// Several MSI-X vectors.
    pub const MULTIPLE_MSIX: u32 = 1 << 4;
    /// The automatic mask EIAM works with EICR.
    pub const EIAME: u32 = 1 << 30;
    /// Clears pending bits of MSI-X.
    pub const PBA_SUPPORT: u32 = 1 << 31;
}
/// Extended interrupt cause set, WO. One bit a vector, as in the next four.
pub(super) const EICS: u32 = 0x1520;
/// Extended interrupt causes, RC and W1C: those of a vector that is masked stay here until they are let through or cleared.
pub(super) const EICR: u32 = 0x1580;
/// Extended interrupt mask set, RW.
pub(super) const EIMS: u32 = 0x1524;
/// Extended interrupt mask clear, WO.
pub(super) const EIMC: u32 = 0x1528;
/// Vectors whose cause is cleared when the interrupt is sent, RW.
pub(super) const EIAC: u32 = 0x152c;
/// Interrupt throttle, RW (8.8.14).
pub(super) const EITR: Array = Array::new(0x1680, 4, 25);
/// [`EITR`]: the interval in microseconds, bits 14:2.
pub(super) const EITR_INTERVAL_SHIFT: u32 = 2;
/// [`EITR`]: the largest interval, microseconds.
pub(super) const EITR_MOST: u32 = 0x1fff;
/// [`EITR`]: leaves the running counter as it is.
pub(super) const EITR_COUNT_IGNORE: u32 = 1 << 31;
/// Interrupt vector allocation, RW (8.8.15).
pub(super) const IVAR: Array = Array::new(0x1700, 4, 8);
/// The same for other causes: bits 15:8.
pub(super) const IVAR_MISC: u32 = 0x1740;
/// An entry of [`IVAR`] is valid.
pub(super) const IVAR_VALID: u32 = 0x80;

/// The registers of one receive queue, all RW (8.10.5 to 8.10.12).
#[derive(Clone, Copy, Debug)]
pub(super) struct RxQueueRegs(u32);

impl RxQueueRegs {
    /// Of queue `index`, below 16. The first four also answer at 0x2800.
    pub(super) const fn of(index: u32) -> Self {
        Self(Array::new(0xc000, 0x40, 16).at(index))
    }

    /// Ring base, low half: 128 byte aligned.
    pub(super) const fn rdbal(self) -> u32 {
        self.0
    }

    /// Ring base, high half.
    pub(super) const fn rdbah(self) -> u32 {
        self.0 + 0x04
    }

    /// Bytes of the ring, a multiple of 128.
    pub(super) const fn rdlen(self) -> u32 {
        self.0 + 0x08
    }

    /// Buffer sizes and descriptor type, see [`srrctl`].
    pub(super) const fn srrctl(self) -> u32 {
        self.0 + 0x0c
    }

    /// The next descriptor the device uses; written only while the queue is off.
    pub(super) const fn rdh(self) -> u32 {
        self.0 + 0x10
    }

    /// One behind the last descriptor the device may use.
    pub(super) const fn rdt(self) -> u32 {
        self.0 + 0x18
    }

    /// Enable and thresholds.
    pub(super) const fn rxdctl(self) -> u32 {
        self.0 + 0x28
    }

    /// Packets dropped for want of a descriptor, RC (8.10.13; I210: RW).
    pub(super) const fn rqdpc(self) -> u32 {
        self.0 + 0x30
    }

    /// Per-queue offloads, RW (I350 datasheet 8.10.23).
    pub(super) const fn dvmolr(self) -> u32 {
        self.0 + 0x38
    }
}

/// Fields of SRRCTL (8.10.2).
pub(super) mod srrctl {
    /// BSIZEHEADER in units of 64 bytes, bits 11:8 in QEMU, 13:8 on silicon.
    pub const HEADER_SHIFT: u32 = 8;
    /// RDMTS: free descriptors, in units of 16, below which RXDMT0 is raised. 24:20.
    pub const THRESHOLD_SHIFT: u32 = 20;
    /// Advanced descriptors, one buffer.
    pub const ONE_BUFFER: u32 = 1 << 25;
    /// Advanced descriptors, header split.
    pub const SPLIT: u32 = 2 << 25;
    /// Advanced descriptors, the header buffer always used.
    pub const SPLIT_ALWAYS: u32 = 5 << 25;
    /// A stamp in front of every packet (I210 datasheet 7.1.6; bit 30 by DPDK's `e1000_82575.h`).
    pub const TIMESTAMP: u32 = 1 << 30;
    /// Drops a packet that finds no descriptor, so that other queues go on.
    pub const DROP_EN: u32 = 1 << 31;
}
/// RXDCTL: the queue is enabled. After a reset queue 0 is.
pub(super) const RXDCTL_ENABLE: u32 = 1 << 25;
/// RXDCTL: prefetch at 8 free, when 8 are there for the host, write back each: as the datasheet's default.
pub(super) const RXDCTL_THRESHOLDS: u32 = 8 | 8 << 8 | 1 << 16;
/// DVMOLR, VMOLR and RPLOLR: strips the FCS.
pub(super) const OFFLOAD_STRIP_CRC: u32 = 1 << 31;
/// DVMOLR, VMOLR and RPLOLR: takes VLAN tags out.
pub(super) const OFFLOAD_STRIP_VLAN: u32 = 1 << 30;

/// The registers of one transmit queue, all RW (8.12.5 to 8.12.12).
#[derive(Clone, Copy, Debug)]
pub(super) struct TxQueueRegs(u32);

impl TxQueueRegs {
    /// Of queue `index`, below 16.
    pub(super) const fn of(index: u32) -> Self {
        Self(Array::new(0xe000, 0x40, 16).at(index))
    }

    /// Ring base, low half.
    pub(super) const fn tdbal(self) -> u32 {
        self.0
    }

    /// Ring base, high half.
    pub(super) const fn tdbah(self) -> u32 {
        self.0 + 0x04
    }

    /// Bytes of the ring.
    pub(super) const fn tdlen(self) -> u32 {
        self.0 + 0x08
    }

    /// The next descriptor the device sends.
    pub(super) const fn tdh(self) -> u32 {
        self.0 + 0x10
    }

    /// One behind the last descriptor to send.
    pub(super) const fn tdt(self) -> u32 {
        self.0 + 0x18
    }

    /// Enable and thresholds.
    pub(super) const fn txdctl(self) -> u32 {
        self.0 + 0x28
    }
}
/// TXDCTL: the queue is enabled.
pub(super) const TXDCTL_ENABLE: u32 = 1 << 25;

/// Statistics (8.18), RC each.
pub(super) mod statistics {
    /// Frames of 64 bytes and more with a bad FCS.
    pub const CRCERRS: u32 = 0x4000;
    /// Frames with a receive error.
    pub const RXERRC: u32 = 0x400c;
    /// Frames lost because the receive FIFO was full.
    pub const MPC: u32 = 0x4010;
    /// Frames that are too short or too long (8254x manual 13.7.15).
    pub const RLEC: u32 = 0x4040;
    /// Good packets received.
    pub const GPRC: u32 = 0x4074;
    /// Bytes of those; reading the high half clears both.
    pub const GORCL: u32 = 0x4088;
    /// High half.
    pub const GORCH: u32 = 0x408c;
    /// Frames too short, FCS good.
    pub const RUC: u32 = 0x40a4;
    /// Frames too short, FCS bad.
    pub const RFC: u32 = 0x40a8;
    /// Frames too long, FCS good.
    pub const ROC: u32 = 0x40ac;
    /// Frames too long, FCS bad.
    pub const RJC: u32 = 0x40b0;
}

/// Checksum offload, RW (8.10.15).
pub(super) const RXCSUM: u32 = 0x5000;
/// IP and TCP/UDP checksums are checked, SCTP's too; the hash is in the descriptor in place of a checksum.
pub(super) const RXCSUM_ALL: u32 = 1 << 8 | 1 << 9 | 1 << 11 | 1 << 13;
/// The longest frame, bytes with FCS, RW (8.10.16).
pub(super) const RLPML: u32 = 0x5004;
/// Multicast table, RW (8.10.18).
pub(super) const MTA: Array = Array::new(0x5200, 4, 128);
/// Which headers are split off, RW (8.10.4), by queue or pool.
pub(super) const PSRTYPE: Array = Array::new(0x5480, 4, 8);
/// Every kind of header but NFS: bits 1 to 9 are IPv4, IPv4/TCP, IPv4/UDP, the same for IPv4 in front of IPv6, and for IPv6.
pub(super) const PSRTYPE_ALL: u32 = 0x3fe;
/// VLAN table, RW (8.10.21).
pub(super) const VFTA: Array = Array::new(0x5600, 4, 128);
/// Which receive queues there are and how they are chosen, RW (8.10.22).
pub(super) const MRQC: u32 = 0x5818;
/// Fields of [`MRQC`].
pub(super) mod mrqc {
    /// By the hash.
    pub const RSS: u32 = 2;
    /// By pool.
    pub const VMDQ: u32 = 3;
    /// The queue of packets that nothing else places (I210).
    pub const DEFAULT_QUEUE_SHIFT: u32 = 3;
    /// What is hashed: TCP and UDP over IPv4 and IPv6, and addresses of the rest. Bit 18, of TCP over IPv6 with extension headers, is what
    /// QEMU asks for TCP over IPv6.
    pub const FIELDS: u32 = 0x01f7 << 16;
}
/// Virtualization control, RW (8.14.1).
pub(super) const VT_CTL: u32 = 0x581c;
/// Fields of [`VT_CTL`].
pub(super) mod vt_ctl {
    /// Bits 9:7.
    pub const DEFAULT_POOL_SHIFT: u32 = 7;
    /// What matches no pool is dropped.
    pub const NO_DEFAULT_POOL: u32 = 1 << 29;
    /// Broadcasts and multicasts are copied to every pool that takes them.
    pub const REPLICATE: u32 = 1 << 30;
}
/// Which pools receive, RW (8.14.4), and which transmit.
pub(super) const VFRE: u32 = 0x0c8c;
/// See [`VFRE`].
pub(super) const VFTE: u32 = 0x0c90;
/// Per-pool offloads and filters, RW (8.14.8).
pub(super) const VMOLR: Array = Array::new(0x5ad0, 4, 8);
/// Bits of [`VMOLR`].
pub(super) mod vmolr {
    /// The pool takes long frames, up to the length in bits 13:0.
    pub const LPE: u32 = 1 << 16;
    /// Untagged frames.
    pub const AUPE: u32 = 1 << 24;
    /// Multicast frames in MTA.
    pub const ROMPE: u32 = 1 << 25;
    /// Broadcasts.
    pub const BAM: u32 = 1 << 27;
    /// All multicast frames.
    pub const MPME: u32 = 1 << 28;
}
/// Offloads of what is copied to several pools, broadcasts and multicasts, RW (DPDK's e1000_regs.h: replication offload). With pools neither the
/// pools' own nor CTRL.VME count for these (7.10.3.8).
pub(super) const RPLOLR: u32 = 0x5af0;
/// EtherType filters, RW (8.10.24).
pub(super) const ETQF: Array = Array::new(0x5cb0, 4, 8);
/// Fields of [`ETQF`]; the type is in bits 15:0.
pub(super) mod etqf {
    /// Bits 18:16.
    pub const QUEUE_SHIFT: u32 = 16;
    /// The filter is on.
    pub const ENABLE: u32 = 1 << 26;
    /// The queue is valid. QEMU ignores it.
    pub const QUEUE_ENABLE: u32 = 1 << 31;
}
/// Redirection table, RW (8.10.23): 128 entries of a byte.
pub(super) const RETA: Array = Array::new(0x5c00, 4, 32);
/// The hash's key, RW (8.10.23): 40 bytes.
pub(super) const RSSRK: Array = Array::new(0x5c80, 4, 10);
/// Software semaphore, RW; reading it sets [`swsm::SMBI`] (chapter 4, "Software and Firmware Synchronization").
pub(super) const SWSM: u32 = 0x5b50;
/// Bits of [`SWSM`].
pub(super) mod swsm {
    /// Software has it. Whoever reads it clear.
    pub const SMBI: u32 = 1 << 0;
    /// Firmware is kept out. Takes a one only while firmware is not in.
    pub const SWESMBI: u32 = 1 << 1;
}
/// Who uses which of the card's parts, RW, only while [`SWSM`] is held.
pub(super) const SW_FW_SYNC: u32 = 0x5b5c;
/// Bits of [`SW_FW_SYNC`].
pub(super) mod sw_fw_sync {
    /// Software's bits of the PHYs of ports 0 to 3 (the last two: I350 datasheet).
    pub const PHY: [u32; 4] = [1 << 1, 1 << 2, 1 << 5, 1 << 6];
    /// Firmware's bit is so much higher than software's.
    pub const FIRMWARE_SHIFT: u32 = 16;
}
/// PCIe control, RW (8.6.1).
pub(super) const GCR: u32 = 0x5b00;
/// [`GCR`]: requests whose completion did not come are sent again.
pub(super) const GCR_RESEND: u32 = 1 << 16;

/// The receive address pair `index` (8.10.19): low and high half, RW. The first 16 and the others are in different places.
pub(super) const fn receive_address(index: u32) -> (u32, u32) {
    let low = if index < 16 {
        Array::new(0x5400, 8, 16).at(index)
    } else {
        Array::new(0x54e0, 8, 16).at(index - 16)
    };
    (low, low + 4)
}
/// RAH: the entry counts.
pub(super) const RAH_VALID: u32 = 1 << 31;
/// RAH: pools, one bit each from here; the I210's queue, two bits.
pub(super) const RAH_POOL_SHIFT: u32 = 18;
/// RAH: the queue counts (I210 datasheet 8.10.16).
pub(super) const RAH_QUEUE_ENABLE: u32 = 1 << 28;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_those_that_the_datasheet_gives() {
        assert_eq!(RxQueueRegs::of(3).rdt(), 0xc0d8);
        assert_eq!(RxQueueRegs::of(15).rqdpc(), 0xc3f0);
        assert_eq!(TxQueueRegs::of(0).txdctl(), 0xe028);
        assert_eq!(receive_address(15), (0x5478, 0x547c));
        assert_eq!(receive_address(16), (0x54e0, 0x54e4));
        assert_eq!(receive_address(23), (0x5518, 0x551c));
        assert_eq!(RETA.at(31), 0x5c7c);
        assert_eq!(RXCSUM_ALL, 0x2b00);
    }
}
