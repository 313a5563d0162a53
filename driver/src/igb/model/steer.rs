//! Which queues a frame goes to (82576 datasheet 7.1.1 and 7.1.2).

use super::State;
use super::frame::{Seen, Transport};
use crate::igb::parts::MacSteering;
use crate::igb::regs::{
    ETQF, MRQC, MTA, RAH_POOL_SHIFT, RAH_QUEUE_ENABLE, RAH_VALID, RCTL, RETA, RSSRK, VFRE, VMOLR,
    VT_CTL, etqf, mrqc, rctl, receive_address, vmolr, vt_ctl,
};
use crate::packet::{Addresses, Fragment};

/// A hash, and what it is of.
pub(super) type Hash = (u32, u64);

impl State {
    /// The address entry that matches `destination`: its high half.
    fn entry(&self, destination: [u8; 6]) -> Option<u32> {
        let [a, b, c, d, e, f] = destination;
        (0..self.part.addresses).find_map(|index| {
            let (low, high) = receive_address(index);
            let high = self.get(high);
            (high & RAH_VALID != 0
                && self.get(low) == u32::from_le_bytes([a, b, c, d])
                && high & 0xffff == u32::from_le_bytes([e, f, 0, 0]))
            .then_some(high)
        })
    }

    /// Whether the multicast table has `destination`; the offset of its bits is 0 (RCTL.MO).
    fn multicast(&self, destination: [u8; 6]) -> bool {
        let at = (u32::from(destination[5]) << 8 | u32::from(destination[4])) >> 4 & 0xfff;
        self.get(MTA.at(at >> 5)) & 1 << (at & 31) != 0
    }

    /// Whether the port takes the frame at all.
    fn passes(&self, destination: [u8; 6]) -> bool {
        let control = self.get(RCTL);
        if destination == [0xff; 6] {
            return control & rctl::BAM != 0;
        }
        if self.entry(destination).is_some() {
            return true;
        }
        if destination[0] & 1 == 1 {
            return control & rctl::MPE != 0 || self.multicast(destination);
        }
        control & rctl::UPE != 0
    }

    /// The queues that get the frame, and its hash.
    pub(super) fn queues(&self, frame: &[u8], seen: &Seen) -> (Vec<u32>, Option<Hash>) {
        let Some(&destination) = frame.first_chunk::<6>() else {
            return (Vec::new(), None);
        };
        if !self.passes(destination) {
            return (Vec::new(), None);
        }
        for index in 0..ETQF.count() {
            let filter = self.get(ETQF.at(index));
            if filter & etqf::ENABLE != 0
                && seen.key.ether_type == Some(filter as u16)
                && filter & etqf::QUEUE_ENABLE != 0
            {
                return (vec![filter >> etqf::QUEUE_SHIFT & 7], None);
            }
        }
        match self.get(MRQC) & 7 {
            mrqc::RSS => {
                let hash = self.hash(seen);
                let queue = hash.map_or(0, |(hash, _)| {
                    let entry = hash & 127;
                    self.get(RETA.at(entry / 4)) >> (entry % 4 * 8) & 0xf
                });
                (vec![queue], hash)
            }
            mrqc::VMDQ => (self.pools(destination), None),
            _ => {
                let entry = self.entry(destination).unwrap_or(0);
                let queue = if self.part.mac_steering == MacSteering::QueueSelect
                    && entry & RAH_QUEUE_ENABLE != 0
                {
                    entry >> RAH_POOL_SHIFT & 3
                } else {
                    self.get(MRQC) >> mrqc::DEFAULT_QUEUE_SHIFT & 7
                };
                (vec![queue], None)
            }
        }
    }

    pub(super) fn pools(&self, destination: [u8; 6]) -> Vec<u32> {
        let takes = |bits: u32| {
            (0..VMOLR.count())
                .filter(|&pool| self.get(VMOLR.at(pool)) & bits != 0)
                .fold(0, |pools, pool| pools | 1 << pool)
        };
        let control = self.get(VT_CTL);
        let mut pools = if destination == [0xff; 6] {
            takes(vmolr::BAM)
        } else {
            let mut pools = self
                .entry(destination)
                .map_or(0, |entry| entry >> RAH_POOL_SHIFT & 0xff);
            if destination[0] & 1 == 1 {
                pools |= takes(vmolr::MPME);
                if self.multicast(destination) {
                    pools |= takes(vmolr::ROMPE);
                }
            } else if pools == 0 && control & vt_ctl::NO_DEFAULT_POOL == 0 {
                pools = 1 << (control >> vt_ctl::DEFAULT_POOL_SHIFT & 7);
            }
            pools
        };
        pools &= self.get(VFRE);
        (0..8).filter(|pool| pools & 1 << pool != 0).collect()
    }

    /// The receive hash (7.1.2.8): Toeplitz over addresses and ports.
    fn hash(&self, seen: &Seen) -> Option<Hash> {
        let fields = self.get(MRQC) >> 16;
        let ports = match (seen.key.src_port, seen.key.dst_port) {
            (Some(from), Some(to)) if seen.key.fragment == Fragment::None => {
                [from.to_be_bytes(), to.to_be_bytes()].concat()
            }
            _ => Vec::new(),
        };
        let addresses = match seen.key.addresses? {
            Addresses::V4 { src, dst } => [src.octets(), dst.octets()].concat(),
            Addresses::V6 { src, dst } => [src.octets(), dst.octets()].concat(),
        };
        let transport = if ports.is_empty() {
            Transport::None
        } else {
            seen.transport
        };
        // Which bits switch the kind on, and its number in the descriptor.
        let (on, kind) = match (seen.ipv4, transport) {
            (true, Transport::Tcp) => (1 << 0, 1),
            (true, Transport::Udp) => (1 << 6, 7),
            (false, Transport::Tcp) => (1 << 5, 3),
            (false, Transport::Udp) => (1 << 7, 8),
            (true, Transport::None) => (1 << 1, 2),
            (false, Transport::None) => (1 << 4, 5),
        };
        let (input, kind) = if fields & on != 0 {
            ([addresses, ports].concat(), kind)
        } else if seen.ipv4 && fields & 1 << 1 != 0 {
            (addresses, 2)
        } else if !seen.ipv4 && fields & 1 << 4 != 0 {
            (addresses, 5)
        } else {
            return None;
        };
        let mut key = Vec::new();
        for index in 0..RSSRK.count() {
            key.extend(self.get(RSSRK.at(index)).to_le_bytes());
        }
        Some((toeplitz(&key, &input), kind))
    }
}

/// The Toeplitz hash: for each bit of the input that is set, the 32 bits of the key from there on.
pub(super) fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    let bit = |at: usize| u32::from(key.get(at / 8).copied().unwrap_or(0) >> (7 - at % 8) & 1);
    let mut hash = 0;
    for (at, byte) in input.iter().enumerate() {
        for shift in 0..8 {
            if byte >> (7 - shift) & 1 == 1 {
                let window =
                    (0..32).fold(0, |window, more| window << 1 | bit(at * 8 + shift + more));
                hash ^= window;
            }
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::toeplitz;
    use crate::igb::steer::HASH_KEY;

    /// The examples of Microsoft's specification of RSS: 66.9.149.187:2794 to 161.142.100.80:1766.
    #[test]
    fn the_hash_is_the_published_one() {
        let addresses = [66, 9, 149, 187, 161, 142, 100, 80];
        assert_eq!(toeplitz(&HASH_KEY, &addresses), 0x323e_8fc2);
        let ports = [
            &addresses[..],
            &2794_u16.to_be_bytes(),
            &1766_u16.to_be_bytes(),
        ]
        .concat();
        assert_eq!(toeplitz(&HASH_KEY, &ports), 0x51cc_c178);
    }
}
