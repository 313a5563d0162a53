//! Where the registers are, and their bits: DPDK `ice_hw_autogen.h`.

/// Offsets of one control queue's registers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueueRegs {
    pub(crate) base_low: u32,
    pub(crate) base_high: u32,
    pub(crate) len: u32,
    pub(crate) head: u32,
    pub(crate) tail: u32,
}

/// Admin transmit queue (PF_FW_ATQ*): commands.
pub(crate) const ATQ: QueueRegs = QueueRegs {
    base_low: 0x8_0000,
    base_high: 0x8_0100,
    len: 0x8_0200,
    head: 0x8_0300,
    tail: 0x8_0400,
};
/// Admin receive queue (PF_FW_ARQ*): events.
pub(crate) const ARQ: QueueRegs = QueueRegs {
    base_low: 0x8_0080,
    base_high: 0x8_0180,
    len: 0x8_0280,
    head: 0x8_0380,
    tail: 0x8_0480,
};
/// Mailbox transmit queue (PF_MBX_ATQ*).
pub(crate) const MBX_ATQ: QueueRegs = QueueRegs {
    base_low: 0x22_e100,
    base_high: 0x22_e180,
    len: 0x22_e200,
    head: 0x22_e280,
    tail: 0x22_e300,
};
/// Mailbox receive queue (PF_MBX_ARQ*).
pub(crate) const MBX_ARQ: QueueRegs = QueueRegs {
    base_low: 0x22_e380,
    base_high: 0x22_e400,
    len: 0x22_e480,
    head: 0x22_e500,
    tail: 0x22_e580,
};
/// Length of a control queue: entries in the low bits, and states.
pub(crate) const QLEN_ENTRIES: u32 = 0x3ff;
pub(crate) const QLEN_OVERFLOW: u32 = 1 << 29;
pub(crate) const QLEN_CRITICAL: u32 = 1 << 30;
pub(crate) const QLEN_ENABLE: u32 = 1 << 31;

/// Link flow control (entry 8; those before are of priorities): how long a pause lasts, and when it is sent again.
pub(crate) const PRTMAC_HSEC_CTL_TX_PAUSE_QUANTA: u32 = 0x1e_36e0 + 8 * 32;
pub(crate) const PRTMAC_HSEC_CTL_TX_PAUSE_REFRESH_TIMER: u32 = 0x1e_3800 + 8 * 32;

// Identity and allocation.
pub(crate) const PF_FUNC_RID: u32 = 0x9_e880;
pub(crate) const PFINT_ALLOC: u32 = 0x1d_2600;
pub(crate) const PFLAN_RX_QALLOC: u32 = 0x1d_2500;
pub(crate) const PFLAN_TX_QALLOC: u32 = 0x1d_2580;
pub(crate) const GL_PWR_MODE_CTL: u32 = 0xb_820c;
pub(crate) const GLNVM_GENS: u32 = 0xb_6100;
pub(crate) const GLNVM_FLA: u32 = 0xb_6108;

// Resets.
pub(crate) const GLNVM_ULD: u32 = 0xb_6008;
/// All "done" bits but the protocol engine's: PCIER 0, 1, 9; CORER 3, GLOBR 4, POR 5, 8.
pub(crate) const ULD_DONE: u32 = 0x33b;
pub(crate) const GLGEN_RSTCTL: u32 = 0xb_8180;
pub(crate) const GLGEN_RSTAT: u32 = 0xb_8188;
pub(crate) const GLGEN_RTRIG: u32 = 0xb_8190;
pub(crate) const RTRIG_CORE: u32 = 1;
pub(crate) const RTRIG_GLOBAL: u32 = 1 << 1;
pub(crate) const RTRIG_FIRMWARE: u32 = 1 << 2;
pub(crate) const PFGEN_CTRL: u32 = 0x9_1000;
pub(crate) const PFGEN_CTRL_PFSWR: u32 = 1;

// Interrupts.
pub(crate) const GLINT_CTL: u32 = 0x16_cc54;
pub(crate) const GLINT_CTL_DIS_AUTOMASK: u32 = 1;
pub(crate) const GLINT_DYN_CTL: u32 = 0x16_0000;
pub(crate) const DYN_INTENA: u32 = 1;
pub(crate) const DYN_SWINT_TRIG: u32 = 1 << 2;
pub(crate) const DYN_INTENA_MSK: u32 = 1 << 31;
/// Bits of GLINT_DYN_CTL that start something and read as zero: CLEARPBA, SWINT_TRIG.
pub(crate) const DYN_ACTIONS: u32 = 1 << 1 | DYN_SWINT_TRIG;
pub(crate) const PFINT_OICR: u32 = 0x16_ca00;
pub(crate) const OICR_INTEVENT: u32 = 1;
pub(crate) const OICR_MAL_DETECT: u32 = 1 << 19;
pub(crate) const OICR_GRST: u32 = 1 << 20;
pub(crate) const OICR_PCI_EXCEPTION: u32 = 1 << 21;
pub(crate) const OICR_LINK_STAT_CHANGE: u32 = 1 << 25;
pub(crate) const OICR_SWINT: u32 = 1 << 31;
pub(crate) const PFINT_OICR_ENA: u32 = 0x16_c900;
pub(crate) const PFINT_OICR_CTL: u32 = 0x16_ca80;
pub(crate) const PFINT_FW_CTL: u32 = 0x16_c800;
pub(crate) const PFINT_MBX_CTL: u32 = 0x16_b280;
pub(crate) const QINT_TQCTL: u32 = 0x14_0000;
pub(crate) const QINT_RQCTL: u32 = 0x15_0000;
/// A cause's control: vector, enable, and whether it is pending.
pub(crate) const CAUSE_VECTOR: u32 = 0x7ff;
pub(crate) const CAUSE_ENA: u32 = 1 << 30;
pub(crate) const CAUSE_INTEVENT: u32 = 1 << 31;

// Receive queues.
pub(crate) const QRX_CTRL: u32 = 0x12_0000;
pub(crate) const QRX_CTRL_REQ: u32 = 1;
pub(crate) const QRX_CTRL_STAT: u32 = 1 << 2;
pub(crate) const QRX_CONTEXT: u32 = 0x28_0000;
/// Distance between the words of one queue's context.
pub(crate) const QRX_CONTEXT_STRIDE: u32 = 8192;
pub(crate) const QRX_TAIL: u32 = 0x29_0000;
pub(crate) const QRXFLXP_CNTXT: u32 = 0x48_0000;
/// The queue's packets are stamped.
pub(crate) const QRXFLXP_CNTXT_TS: u32 = 1 << 11;
/// What a descriptor profile's flags are built from; DPDK takes a profile for unsupported if the first is zero.
pub(crate) const GLFLXP_RXDID_FLAGS: u32 = 0x45_d000;
/// Queues that these tables have.
pub(crate) const RX_QUEUES: u32 = 2048;

// Transmit queues.
pub(crate) const QTX_COMM_DBELL: u32 = 0x2c_0000;
pub(crate) const QTX_COMM_HEAD: u32 = 0xe_0000;
pub(crate) const TX_QUEUES: u32 = 16384;

// Malicious driver detection.
pub(crate) const GL_MDET_TX_TCLAN: u32 = 0xf_c068;
pub(crate) const PF_MDET_TX_TCLAN: u32 = 0xf_c000;
pub(crate) const GL_MDET_RX: u32 = 0x29_4c00;
pub(crate) const PF_MDET_RX: u32 = 0x29_4280;

// The card's clock: arrays have a word for each of two timers.
pub(crate) const GLTSYN_FIRST: u32 = 0x8_8808;
pub(crate) const GLTSYN_ENA: u32 = 0x8_8808;
pub(crate) const GLTSYN_CMD: u32 = 0x8_8810;
pub(crate) const GLTSYN_CMD_SYNC: u32 = 0x8_8814;
/// Whether a function drives the timers: reading takes it.
pub(crate) const PFTSYN_SEM: u32 = 0x8_8880;
pub(crate) const GLTSYN_TIME_0: u32 = 0x8_88c8;
pub(crate) const GLTSYN_TIME_L: u32 = 0x8_88d0;
pub(crate) const GLTSYN_TIME_H: u32 = 0x8_88d8;
/// What INIT_TIME sets, and what it is after READ_TIME.
pub(crate) const GLTSYN_SHTIME_0: u32 = 0x8_88e0;
pub(crate) const GLTSYN_SHTIME_L: u32 = 0x8_88e8;
pub(crate) const GLTSYN_SHTIME_H: u32 = 0x8_88f0;
/// What INIT_INCVAL sets and ADJ_TIME adds.
pub(crate) const GLTSYN_SHADJ_L: u32 = 0x8_8908;
pub(crate) const GLTSYN_SHADJ_H: u32 = 0x8_8910;
pub(crate) const GLTSYN_INCVAL_L: u32 = 0x8_8918;
pub(crate) const GLTSYN_INCVAL_H: u32 = 0x8_8920;
/// The last before pins and their events.
pub(crate) const GLTSYN_LAST: u32 = 0x8_8924;

// Filters and hashes.
pub(crate) const GLQF_FD_SIZE: u32 = 0x46_0010;
pub(crate) const PFQF_FD_ENA: u32 = 0x43_a000;
pub(crate) const PFQF_FD_CNT: u32 = 0x46_0180;
/// Which words of the field vector Flow Director compares: 6 registers of 4 words for each profile, 512 bytes apart.
pub(crate) const GLQF_FDINSET: u32 = 0x41_2000;
/// Which word each word changes places with in a training packet, laid out like GLQF_FDINSET.
pub(crate) const GLQF_FDSWAP: u32 = 0x41_3000;
pub(crate) const GLQF_FDMASK: u32 = 0x41_0800;
pub(crate) const GLQF_FDMASK_SEL: u32 = 0x41_0400;
/// Which word each word is folded with for symmetric hashes, laid out like GLQF_FDINSET.
pub(crate) const GLQF_HSYMM: u32 = 0x40_f000;
pub(crate) const GLQF_HMASK: u32 = 0x40_fc00;
pub(crate) const GLQF_HMASK_SEL: u32 = 0x41_0000;
pub(crate) const GLSTAT_FD_CNT0: u32 = 0x3a_0000;

/// The index of a register in an array of `len` words from `base` on.
pub(crate) fn index(offset: u32, base: u32, len: u32) -> Option<u32> {
    let at = offset.checked_sub(base)? / 4;
    (at < len).then_some(at)
}
