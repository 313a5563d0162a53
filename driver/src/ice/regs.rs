//! The registers, each declared once: offset, stride, and the bits this driver uses. Offsets and bits are those of DPDK's
//! `drivers/net/intel/ice/base/ice_hw_autogen.h` (BSD), which Intel generates; the datasheet (613875) was not at hand. RW can be read and written,
//! RO only read, RC is cleared by reading.

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
}

/// Registers of one control queue (admin send or receive), RW.
#[derive(Clone, Copy, Debug)]
pub(super) struct ControlQueue {
    /// Where the ring is, low and high.
    pub base_low: u32,
    /// The high half.
    pub base_high: u32,
    /// How many descriptors, and [`control::ENABLE`].
    pub length: u32,
    /// What the firmware takes, or fills, next.
    pub head: u32,
    /// What the driver fills, or gives, next.
    pub tail: u32,
}

/// The admin send queue (PF_FW_ATQ*).
pub(super) const ADMIN_SEND: ControlQueue = ControlQueue {
    base_low: 0x0008_0000,
    base_high: 0x0008_0100,
    length: 0x0008_0200,
    head: 0x0008_0300,
    tail: 0x0008_0400,
};
/// The admin receive queue (PF_FW_ARQ*).
pub(super) const ADMIN_RECEIVE: ControlQueue = ControlQueue {
    base_low: 0x0008_0080,
    base_high: 0x0008_0180,
    length: 0x0008_0280,
    head: 0x0008_0380,
    tail: 0x0008_0480,
};
/// Bits of the registers of a control queue.
pub(super) mod control {
    /// Head and tail.
    pub const INDEX: u32 = 0x3ff;
    /// Length register: the queue had a critical error.
    pub const CRITICAL: u32 = 1 << 30;
    /// Length register: the queue is in use.
    pub const ENABLE: u32 = 1 << 31;
}

/// Firmware status, RO.
pub(super) const GL_MNG_FWSM: u32 = 0x000b_6134;
/// Bits of [`GL_MNG_FWSM`].
pub(super) mod firmware {
    /// 0: working. Bit 1: recovery mode, bit 2: rolled back.
    pub const MODES: u32 = 0x7;
    /// In recovery mode nothing works but an update.
    pub const RECOVERY: u32 = 1 << 1;
}
/// What has been loaded after a reset, RO.
pub(super) const GLNVM_ULD: u32 = 0x000b_6008;
/// [`GLNVM_ULD`]: every unit this driver needs: PCIe (0, 1, 9), core (3), global (4), power-on (5, 8).
pub(super) const GLNVM_ULD_DONE: u32 = 0x33b;
/// Reset status, RO.
pub(super) const GLGEN_RSTAT: u32 = 0x000b_8188;
/// [`GLGEN_RSTAT`]: 0 when the device is active.
pub(super) const GLGEN_RSTAT_STATE: u32 = 0x3;
/// [`GLGEN_RSTAT`]: how often the core, all of the card, and the firmware were reset, two bits each (CORERCNT, GLOBRCNT, EMPRCNT).
pub(super) const GLGEN_RSTAT_COUNTS: u32 = 0x3f << 4;
/// Reset control, RW: how long a global reset is announced, in units of 100 ms.
pub(super) const GLGEN_RSTCTL: u32 = 0x000b_8180;
/// [`GLGEN_RSTCTL`]: the delay.
pub(super) const GLGEN_RSTCTL_DELAY: u32 = 0x3f;
/// Resets this function (PFR), RW.
pub(super) const PFGEN_CTRL: u32 = 0x0009_1000;
/// [`PFGEN_CTRL`]: resets; clears itself.
pub(super) const PFGEN_CTRL_RESET: u32 = 1 << 0;
/// Which function this is, RO.
pub(super) const PF_FUNC_RID: u32 = 0x0009_e880;
/// [`PF_FUNC_RID`]: the function's number.
pub(super) const PF_FUNC_RID_NUMBER: u32 = 0x7;
/// Link flow control (the last of nine entries; those before are of priorities): how long the other side pauses, in units of 512 bits, RW.
pub(super) const TX_PAUSE_QUANTA: u32 = 0x001e_36e0 + 8 * 32;
/// When a pause is sent again before that is over, in the same units, RW.
pub(super) const TX_PAUSE_REFRESH: u32 = 0x001e_3800 + 8 * 32;
/// Both: 16 bits.
pub(super) const TX_PAUSE_MASK: u32 = 0xffff;
/// Which words of a hash profile are hashed together with which, RW: a byte for each word, six registers 512 bytes apart for each profile.
pub(super) const GLQF_HSYMM: u32 = 0x0040_f000;
/// Which masks count for a hash profile's words, RW: a bit for each of 32. Only a reset of the core clears it, so it may be a driver's of before.
pub(super) const GLQF_HMASK_SEL: Array = Array::new(0x0041_0000, 4, 128);
/// The function's receive queues as the whole device numbers them, RO. Registers of queues, and what the firmware is told of them, number them from 0 for each function: only
/// how many there are counts here.
pub(super) const PFLAN_RX_QALLOC: u32 = 0x001d_2500;
/// Bits of [`PFLAN_RX_QALLOC`].
pub(super) mod queues {
    /// The first.
    pub const FIRST: u32 = 0x7ff;
    /// Where the last is.
    pub const LAST_SHIFT: u32 = 16;
    /// There are some.
    pub const VALID: u32 = 1 << 31;
}
/// Power mode, RO: bits 31:30 say what the device's clock is made for, 3 for up to 25 Gbit/s.
pub(super) const GL_PWR_MODE_CTL: u32 = 0x000b_820c;

/// A register for each of the card's two timers.
const fn timers(start: u32) -> Array {
    Array::new(start, 4, 2)
}
/// Turns a source timer on, RW.
pub(super) const GLTSYN_ENA: Array = timers(0x0008_8808);
/// [`GLTSYN_ENA`]: it is on. The PHY's register has the same bit.
pub(super) const GLTSYN_ENA_ON: u32 = 1 << 0;
/// What the pins of a timer have seen, RC.
pub(super) const GLTSYN_STAT: Array = timers(0x0008_88c0);
/// What a source timer shows, low and high half of its nanoseconds, RO.
pub(super) const GLTSYN_TIME_L: Array = timers(0x0008_88d0);
/// The high half.
pub(super) const GLTSYN_TIME_H: Array = timers(0x0008_88d8);
/// What it is set to: fractions of a nanosecond, and the nanoseconds' halves, RW.
pub(super) const GLTSYN_SHTIME_0: Array = timers(0x0008_88e0);
/// The low half.
pub(super) const GLTSYN_SHTIME_L: Array = timers(0x0008_88e8);
/// The high half.
pub(super) const GLTSYN_SHTIME_H: Array = timers(0x0008_88f0);
/// What a tick adds, in parts of 2^-32 nanoseconds: low half, RW.
pub(super) const GLTSYN_SHADJ_L: Array = timers(0x0008_8908);
/// The high half.
pub(super) const GLTSYN_SHADJ_H: Array = timers(0x0008_8910);
/// What source timer and PHY will do, RW: a [command](clock_command).
pub(super) const GLTSYN_CMD: u32 = 0x0008_8810;
/// Commands of the clock.
pub(super) mod clock_command {
    /// Takes the time that is prepared.
    pub const INIT_TIME: u32 = 1 << 0;
    /// Takes the increment that is prepared.
    pub const INIT_INCREMENT: u32 = 1 << 1;
    /// Which timer it is for.
    pub const TIMER_SHIFT: u32 = 8;
}
/// Has source timer and PHY do it, WO.
pub(super) const GLTSYN_CMD_SYNC: u32 = 0x0008_8814;
/// [`GLTSYN_CMD_SYNC`]: now.
pub(super) const GLTSYN_CMD_SYNC_EXECUTE: u32 = 0x3;
/// How much later the source timer does it, RW.
pub(super) const GLTSYN_SYNC_DLAY: u32 = 0x0008_8818;
/// The semaphore of whoever drives the timers, for each function: reading takes it, writing 0 gives it back.
pub(super) const PFTSYN_SEM: Array = Array::new(0x0008_8880, 4, 8);
/// [`PFTSYN_SEM`]: somebody had it.
pub(super) const PFTSYN_SEM_BUSY: u32 = 1 << 0;

/// How many receive queues registers are for, by their number within the function.
pub(super) const RX_QUEUES: u32 = 2048;
/// Receive queue contexts, RW: eight words for each queue, 8 KiB apart.
const QRX_CONTEXT: u32 = 0x0028_0000;
/// Receive queue control, RW.
pub(super) const QRX_CTRL: Array = Array::new(0x0012_0000, 4, RX_QUEUES);
/// Bits of [`QRX_CTRL`].
pub(super) mod enable {
    /// Asks for the queue to be on.
    pub const REQUEST: u32 = 1 << 0;
    /// It is on.
    pub const STATUS: u32 = 1 << 2;
}
/// Receive tail, RW: one behind the newest descriptor.
pub(super) const QRX_TAIL: Array = Array::new(0x0029_0000, 4, RX_QUEUES);
/// Which descriptors a queue's are, RW.
pub(super) const QRXFLXP_CNTXT: Array = Array::new(0x0048_0000, 4, RX_QUEUES);
/// [`QRXFLXP_CNTXT`]: how much the queue's word counts against a profile's.
pub(super) const QRXFLXP_PRIORITY: u32 = 3 << 8;
/// [`QRXFLXP_CNTXT`]: packets are stamped.
pub(super) const QRXFLXP_STAMPS: u32 = 1 << 11;
/// Interrupt cause of a receive queue, RW.
pub(super) const QINT_RQCTL: Array = Array::new(0x0015_0000, 4, RX_QUEUES);

/// How many transmit queues a function can have.
const TX_QUEUES: u32 = 16384;
/// Transmit doorbell, WO: one behind the newest descriptor.
pub(super) const QTX_COMM_DBELL: Array = Array::new(0x002c_0000, 4, TX_QUEUES);
/// Interrupt cause of a transmit queue, RW.
pub(super) const QINT_TQCTL: Array = Array::new(0x0014_0000, 4, TX_QUEUES);
/// In the registers that say where a cause goes: throttle 1 of the vector.
pub(super) const CAUSE_SECOND_THROTTLE: u32 = 1 << 11;

/// The word `index` of the context of queue `queue`.
pub(super) const fn rx_context(queue: u32, index: u32) -> u32 {
    assert!(queue < RX_QUEUES && index < 8, "a word of a context");
    QRX_CONTEXT + index * 0x2000 + queue * 4
}

/// Interrupt control of a vector, RW.
pub(super) const GLINT_DYN_CTL: Array = Array::new(0x0016_0000, 4, 2048);
/// Bits of [`GLINT_DYN_CTL`].
pub(super) mod vector {
    /// The vector is let through; cleared when it fires.
    pub const ENABLE: u32 = 1 << 0;
    /// Forgets what is pending.
    pub const CLEAR_PENDING: u32 = 1 << 1;
    /// Raises it.
    pub const TRIGGER: u32 = 1 << 2;
    /// Leaves the throttle alone: index 3 is none.
    pub const ITR_NONE: u32 = 3 << 3;
    /// With [`TRIGGER`]: the throttle index in bits 26:25 counts.
    pub const TRIGGER_ITR_VALID: u32 = 1 << 24;
    /// With [`TRIGGER_ITR_VALID`]: no throttle.
    pub const TRIGGER_ITR_NONE: u32 = 3 << 25;
    /// Writes descriptors back when the throttle expires, though no interrupt is sent.
    pub const WRITE_BACK: u32 = 1 << 30;
    /// Leaves [`ENABLE`] as it is.
    pub const ENABLE_KEEP: u32 = 1 << 31;
}
/// Interrupt throttle 0 of a vector, RW: the interval in units of the granularity, 12 bits.
pub(super) const GLINT_ITR: Array = Array::new(0x0015_4000, 4, 2048);
/// Interrupt throttle 1 of a vector, RW.
pub(super) const GLINT_ITR_SECOND: Array = Array::new(0x0015_6000, 4, 2048);
/// [`GLINT_ITR`]: the largest interval.
pub(super) const GLINT_ITR_MOST: u32 = 0xfff;
/// Interrupt rate limit of a vector, RW; 0 for none.
pub(super) const GLINT_RATE: Array = Array::new(0x0015_a000, 4, 2048);
/// Granularities of the throttle, RW: four bits each for 200, 100, 50 and 25 Gbit/s from bit 16 on.
pub(super) const GLINT_CTL: u32 = 0x0016_cc54;
/// Other causes, RC.
pub(super) const PFINT_OICR: u32 = 0x0016_ca00;
/// Which other causes raise an interrupt, RW.
pub(super) const PFINT_OICR_ENA: u32 = 0x0016_c900;
/// Where other causes go, RW.
pub(super) const PFINT_OICR_CTL: u32 = 0x0016_ca80;
/// Where admin events go, RW.
pub(super) const PFINT_FW_CTL: u32 = 0x0016_c800;
/// In the registers that say where a cause goes: it does. The vector is in bits 10:0, the throttle in 12:11.
pub(super) const CAUSE_ENABLE: u32 = 1 << 30;
/// Bits of [`PFINT_OICR`].
pub(super) mod cause {
    /// Memory of the device failed.
    pub const ECC: u32 = 1 << 16;
    /// The device has stopped a queue for what its driver did.
    pub const MALICIOUS: u32 = 1 << 19;
    /// A reset of the whole device begins.
    pub const RESET: u32 = 1 << 20;
    /// An error on the bus.
    pub const PCI: u32 = 1 << 21;
    /// An error of the device's own memory in the host.
    pub const HMC: u32 = 1 << 26;
    /// A critical error of the protocol engine.
    pub const CRITICAL: u32 = 1 << 28;
}

/// A malicious event of a receive queue, RW: write ones to clear.
pub(super) const GL_MDET_RX: u32 = 0x0029_4c00;
/// The same for transmit queues.
pub(super) const GL_MDET_TX_PQM: u32 = 0x002d_2e00;
/// The same, found by another unit.
pub(super) const GL_MDET_TX_TCLAN: u32 = 0x000f_c068;
/// Whether this function caused it, RW: write ones to clear.
pub(super) const PF_MDET_RX: u32 = 0x0029_4280;
/// The same for [`GL_MDET_TX_PQM`].
pub(super) const PF_MDET_TX_PQM: u32 = 0x002d_2c80;
/// The same for [`GL_MDET_TX_TCLAN`].
pub(super) const PF_MDET_TX_TCLAN: u32 = 0x000f_c000;
/// Bits of the registers of malicious events.
pub(super) mod malicious {
    /// There is one.
    pub const VALID: u32 = 1 << 31;
    /// What it was, five bits.
    pub const TYPE_SHIFT: u32 = 26;
    /// [`GL_MDET_RX`](super::GL_MDET_RX): the queue, as the whole device numbers it.
    pub const RX_QUEUE: u32 = 0x7fff;
}

/// Counters. None is cleared by reading or by a reset of the function, so differences count. Ports are 8 bytes apart, so are VSIs where the counter is 40
/// bits wide.
pub(super) mod statistics {
    use super::Array;

    /// How many ports counters are for.
    pub const PORTS: u32 = 8;
    /// How many VSIs.
    pub const VSIS: u32 = 768;
    const fn port(start: u32) -> Array {
        Array::new(start, 8, PORTS)
    }

    /// Bytes received by the port, 40 bits.
    pub const GLPRT_GORC: Array = port(0x0038_0000);
    /// Unicast packets received by the port, 40 bits.
    pub const GLPRT_UPRC: Array = port(0x0038_1300);
    /// Multicast packets, 40 bits.
    pub const GLPRT_MPRC: Array = port(0x0038_1340);
    /// Broadcast packets, 40 bits.
    pub const GLPRT_BPRC: Array = port(0x0038_1380);
    /// Frames with a bad FCS.
    pub const GLPRT_CRCERRS: Array = port(0x0038_0100);
    /// Frames with an illegal byte.
    pub const GLPRT_ILLERRC: Array = port(0x0038_01c0);
    /// Frames whose length field is wrong.
    pub const GLPRT_RLEC: Array = port(0x0038_0140);
    /// Frames shorter than 64 bytes with a good FCS.
    pub const GLPRT_RUC: Array = port(0x0038_0200);
    /// The same with a bad one.
    pub const GLPRT_RFC: Array = port(0x0038_0ac0);
    /// Frames longer than the port takes.
    pub const GLPRT_ROC: Array = port(0x0038_0240);
    /// The same with a bad FCS.
    pub const GLPRT_RJC: Array = port(0x0038_0b00);
    /// Packets that the port's packet buffer had no room for.
    pub const PRTRPB_RDPC: u32 = 0x000a_c260;
    /// Packets of a VSI that were discarded on their way to a queue, for whatever reason.
    pub const GLV_RDPC: Array = Array::new(0x0029_4c04, 4, VSIS);
    /// The same by reason, RW: for want of a descriptor in the low half, for an error in the high half. Each stays at its end until it is written.
    pub const GLV_REPC: Array = Array::new(0x0029_5804, 4, VSIS);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrays_lie_where_both_drivers_have_them() {
        assert_eq!(rx_context(3, 7), 0x28_0000 + 7 * 8192 + 3 * 4);
        assert_eq!(QRX_TAIL.at(5), 0x29_0014);
        assert_eq!(statistics::GLPRT_UPRC.at(1), 0x38_1308);
        assert_eq!(statistics::GLV_RDPC.at(2), 0x29_4c0c);
    }
}
