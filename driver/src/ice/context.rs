//! The contexts of queues: packed fields. A receive queue's are 32 bytes, written to eight registers; a transmit queue's 22, given to the firmware.
//!
//! Positions and widths are those of `ice_rlan_ctx_info` and `ice_tlan_ctx_info` in DPDK's `drivers/net/intel/ice/base/ice_common.c`; what the fields mean is said in `ice_lan_tx_rx.h`
//! of the same folder.

use super::admin::CONTEXT;

/// Where a field lies: its lowest bit, and how many it has.
#[derive(Clone, Copy, Debug)]
struct Field {
    lowest: u32,
    width: u32,
}

const fn field(lowest: u32, width: u32) -> Field {
    Field { lowest, width }
}

/// Where the ring is, in units of 128 bytes.
const BASE: Field = field(32, 57);
const QUEUE_LENGTH: Field = field(89, 13);
/// The packet buffer, in units of 128 bytes.
const PACKET_BUFFER: Field = field(102, 7);
/// The header buffer, in units of 64 bytes.
const HEADER_BUFFER: Field = field(109, 5);
/// How headers are split off: 0 not, 1 where `hsplit_0` or `hsplit_1` say, 2 always.
const SPLIT_TYPE: Field = field(114, 2);
/// Descriptors of 32 bytes.
const LONG_DESCRIPTORS: Field = field(116, 1);
const STRIP_CRC: Field = field(117, 1);
/// A tag that was taken out is in the first of the two places for it.
const FIRST_TAG: Field = field(119, 1);
/// Behind which headers the split may lie: 1 Ethernet, 2 IP, 4 TCP and UDP, 8 SCTP.
const SPLIT_BEHIND: Field = field(120, 4);
/// The longest frame, in all its buffers.
const LONGEST_FRAME: Field = field(174, 14);
/// How many bits of [`Field`]s in the row from 193 to 196 are set: hints for the caches on the way (TPH), off.
const LOW_THRESHOLD: Field = field(198, 3);
/// Descriptors are fetched before they are needed. Both drivers say that it must be set.
const PREFETCH: Field = field(201, 1);

/// Buffers of a packet at most (`ICE_MAX_CHAINED_RX_BUFS`, 5, which bounds the longest frame too).
pub(super) const MOST_BUFFERS: u32 = 5;

/// What a queue is set up with. Checked already: everything fits its field.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct RxContext {
    /// Where the device finds the ring; a multiple of 128.
    pub ring: u64,
    /// Descriptors.
    pub entries: u32,
    /// Bytes of a chunk, a multiple of 128.
    pub chunk: u32,
    /// Bytes of a header slot, a multiple of 64; 0 to split nothing off.
    pub slot: u32,
    /// The longest frame, bytes.
    pub longest: u32,
}

impl RxContext {
    /// The eight register values.
    pub(super) fn words(&self) -> [u32; 8] {
        let mut bits = Bits::default();
        bits.set(BASE, self.ring >> 7);
        bits.set(QUEUE_LENGTH, u64::from(self.entries));
        bits.set(PACKET_BUFFER, u64::from(self.chunk >> 7));
        if self.slot > 0 {
            bits.set(HEADER_BUFFER, u64::from(self.slot >> 6));
            bits.set(SPLIT_TYPE, 1);
            // With Ethernet among them the slot is never left empty: a frame without IP has its first 14 bytes there.
            bits.set(SPLIT_BEHIND, 0xf);
        }
        bits.set(LONG_DESCRIPTORS, 1);
        bits.set(STRIP_CRC, 1);
        bits.set(FIRST_TAG, 1);
        bits.set(LONGEST_FRAME, u64::from(self.longest));
        // Asks for more descriptors when this many (times 64) are left; what Linux writes.
        bits.set(LOW_THRESHOLD, 1);
        bits.set(PREFETCH, 1);
        bits.0
    }
}

/// Fields of a transmit queue's context.
mod transmit {
    use super::{Field, field};

    /// Where the ring is, in units of 128 bytes.
    pub const BASE: Field = field(0, 57);
    /// The port's logical number.
    pub const PORT: Field = field(57, 3);
    /// The function's number.
    pub const FUNCTION: Field = field(65, 3);
    /// Whose the queue is: 2, the function's.
    pub const OWNER: Field = field(78, 2);
    /// The VSI that it sends for.
    pub const VSI: Field = field(80, 10);
    /// Descriptors.
    pub const LENGTH: Field = field(135, 13);
    /// Packets may be cut into segments. Not used, and set by both drivers, as is where the state of that is kept.
    pub const SEGMENTS: Field = field(152, 1);
    /// See [`SEGMENTS`].
    pub const SEGMENTS_STATE: Field = field(153, 11);
    /// Descriptors are written back, not completion queues.
    pub const LEGACY: Field = field(164, 1);
}

/// What a transmit queue is set up with. Checked already: everything fits its field.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct TxContext {
    /// Where the device finds the ring; a multiple of 128.
    pub ring: u64,
    /// Descriptors.
    pub entries: u32,
    /// The port's logical number.
    pub port: u16,
    /// The function's number.
    pub function: u32,
    /// The VSI it sends for.
    pub vsi: u16,
    /// The queue's number.
    pub queue: u16,
}

impl TxContext {
    /// As the firmware takes it.
    pub(super) fn bytes(&self) -> [u8; CONTEXT] {
        let mut bits = Bits::default();
        bits.set(transmit::BASE, self.ring >> 7);
        bits.set(transmit::PORT, self.port.into());
        bits.set(transmit::FUNCTION, self.function.into());
        bits.set(transmit::OWNER, 2);
        bits.set(transmit::VSI, self.vsi.into());
        bits.set(transmit::LENGTH, self.entries.into());
        bits.set(transmit::SEGMENTS, 1);
        bits.set(transmit::SEGMENTS_STATE, self.queue.into());
        bits.set(transmit::LEGACY, 1);
        std::array::from_fn(|at| bits.0[at / 4].to_le_bytes()[at % 4])
    }
}

#[derive(Default)]
struct Bits([u32; 8]);

impl Bits {
    /// Puts the low bits of `value` into a field.
    fn set(&mut self, field: Field, value: u64) {
        for bit in 0..field.width {
            let at = field.lowest + bit;
            let word = &mut self.0[at as usize / 32];
            *word |= u32::from(value >> bit & 1 == 1) << (at % 32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_of_transmit_queues_lie_where_both_drivers_have_them() {
        let bytes = TxContext {
            ring: 0x0123_4567_8000,
            entries: 64,
            port: 5,
            function: 3,
            vsi: 0x2a5,
            queue: 9,
        }
        .bytes();
        let get = |lowest: usize, width: usize| {
            (0..width).fold(0_u64, |value, bit| {
                let at = lowest + bit;
                value | u64::from(bytes[at / 8] >> (at % 8) & 1) << bit
            })
        };
        assert_eq!(get(0, 57), 0x0123_4567_8000 >> 7);
        assert_eq!((get(57, 3), get(60, 5), get(65, 3)), (5, 0, 3));
        assert_eq!((get(68, 10), get(78, 2), get(80, 10)), (0, 2, 0x2a5));
        assert_eq!(
            get(90, 45),
            0,
            "time stamps, tags, hints, completion queues"
        );
        assert_eq!((get(135, 13), get(148, 4), get(152, 1)), (64, 0, 1));
        assert_eq!((get(153, 11), get(164, 1), get(165, 11)), (9, 1, 0));
    }

    /// A field as whoever reads the registers sees it.
    fn get(words: &[u32; 8], lowest: usize, width: usize) -> u64 {
        (0..width).fold(0, |value, bit| {
            let at = lowest + bit;
            value | u64::from(words[at / 32] >> (at % 32) & 1) << bit
        })
    }

    #[test]
    fn fields_lie_where_both_drivers_have_them() {
        let words = RxContext {
            ring: 0x0123_4567_8000,
            entries: 2048,
            chunk: 2048,
            slot: 256,
            longest: 9728,
        }
        .words();
        assert_eq!(get(&words, 0, 32), 0, "head and cpuid");
        assert_eq!(get(&words, 32, 57), 0x0123_4567_8000 >> 7);
        assert_eq!(get(&words, 89, 13), 2048);
        assert_eq!(get(&words, 102, 7), 16);
        assert_eq!(get(&words, 109, 5), 4);
        assert_eq!(get(&words, 114, 2), 1);
        assert_eq!(get(&words, 116, 1), 1);
        assert_eq!(get(&words, 117, 1), 1);
        assert_eq!(get(&words, 119, 1), 1);
        assert_eq!(get(&words, 120, 4), 0xf);
        assert_eq!(get(&words, 124, 2), 0, "hsplit_1");
        assert_eq!(get(&words, 127, 1), 0, "showiv");
        assert_eq!(get(&words, 174, 14), 9728);
        assert_eq!(get(&words, 193, 4), 0, "tph");
        assert_eq!(get(&words, 198, 3), 1);
        assert_eq!(get(&words, 201, 1), 1);
        let set: u32 = words.iter().map(|word| word.count_ones()).sum();
        let fields = (0x0123_4567_8000_u64 >> 7).count_ones()
            + 1
            + 1
            + 1
            + 4
            + 4
            + 9728_u64.count_ones()
            + 2;
        assert_eq!(set, fields, "and nothing else");
    }

    #[test]
    fn the_largest_values_fit() {
        let words = RxContext {
            ring: u64::MAX - 127,
            entries: 8160,
            chunk: 127 * 128,
            slot: 31 * 64,
            longest: 0x3fff,
        }
        .words();
        assert_eq!(get(&words, 32, 57), (1 << 57) - 1);
        assert_eq!(get(&words, 89, 13), 8160);
        assert_eq!((get(&words, 102, 7), get(&words, 109, 5)), (127, 31));
        assert_eq!(get(&words, 174, 14), 0x3fff);
    }

    #[test]
    fn without_a_slot_nothing_is_split_off() {
        let words = RxContext {
            ring: 128,
            entries: 64,
            chunk: 4096,
            slot: 0,
            longest: 9728,
        }
        .words();
        assert_eq!(get(&words, 109, 5), 0);
        assert_eq!((get(&words, 114, 2), get(&words, 120, 4)), (0, 0));
    }
}
