//! A virtual station interface: its context, its hash key and its lookup table.

use crate::bytes;

/// Bytes of a context (`struct ice_aqc_vsi_props`).
pub(crate) const CONTEXT: usize = 128;
/// Bytes of a hash key.
pub(crate) const HASH_KEY: usize = 52;

/// What is done with a VLAN tag on receive.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Strip {
    /// It stays in the packet.
    Keep,
    /// It moves to the descriptor.
    Tag,
}

/// One VSI.
#[derive(Clone, Debug)]
pub(crate) struct Vsi {
    pub(crate) number: u16,
    pub(crate) context: [u8; CONTEXT],
    pub(crate) key: [u8; HASH_KEY],
    pub(crate) lut: Vec<u16>,
}

impl Vsi {
    pub(crate) fn new(number: u16) -> Self {
        Self {
            number,
            context: [0; CONTEXT],
            key: [0; HASH_KEY],
            lut: vec![0; 64],
        }
    }

    /// Receive queue of the device behind queue `index` of this VSI, if the map has so many.
    pub(crate) fn queue(&self, index: u16) -> Option<u16> {
        let contiguous = bytes::u16_at(&self.context, 28) & 1 == 0;
        if contiguous {
            let first = bytes::u16_at(&self.context, 30) & 0x7ff;
            let count = bytes::u16_at(&self.context, 32);
            let count = if count == 0 { self.class(0).1 } else { count };
            (index < count).then_some(first + index)
        } else {
            (index < 16).then(|| bytes::u16_at(&self.context, 30 + usize::from(index) * 2) & 0x7ff)
        }
    }

    /// A traffic class's first queue within the VSI, and how many it has.
    pub(crate) fn class(&self, tc: usize) -> (u16, u16) {
        let map = bytes::u16_at(&self.context, 62 + tc * 2);
        (map & 0x7ff, 1 << (map >> 11 & 0xf))
    }

    /// Frames whose VLAN has no rule for this VSI are dropped.
    pub(crate) fn prunes_vlans(&self) -> bool {
        self.context[4] & 1 != 0
    }

    /// Frames it sends may leave the port.
    pub(crate) fn reaches_lan(&self) -> bool {
        self.context[4] & 1 << 4 != 0
    }

    /// Frames it sends may come back to VSIs of the port.
    pub(crate) fn loops_back(&self) -> bool {
        self.context[3] & 1 << 5 != 0
    }

    /// What the VLAN section says of tags on receive (`ICE_AQ_VSI_INNER_VLAN_EMODE`).
    pub(crate) fn strip(&self) -> Strip {
        if self.context[12] >> 3 & 0x3 == 3 {
            Strip::Keep
        } else {
            Strip::Tag
        }
    }

    /// Flow Director may choose queues for it; it may program filters.
    pub(crate) fn flow_director(&self) -> (bool, bool) {
        let options = bytes::u16_at(&self.context, 90);
        (options & 1 != 0, options & 1 << 3 != 0)
    }

    /// How it hashes: 0 Toeplitz, 1 symmetric Toeplitz, 2 XOR, 3 Jenkins.
    pub(crate) fn hash_scheme(&self) -> u8 {
        self.context[78] >> 6
    }

    /// Which table spreads its hashes: 0 its own of 64 entries, 2 the function's.
    pub(crate) fn table(&self) -> u8 {
        self.context[78] & 0x3
    }
}
