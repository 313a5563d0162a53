//! The hash that spreads an attachment's packets over its queues (RSS).
//!
//! What is hashed of a packet is said by a profile, and which profile it has by its type and its VSI: packet types are in groups (XLT1, which the package fills), VSIs too (XLT2), and
//! a TCAM has the profile of a pair. This driver has one group of VSIs, for all attachments, and a profile for each kind of packet: addresses and ports of UDP and TCP, the
//! addresses of other IP packets, fragments among them, which have no ports.
//!
//! All this is only in drivers: `ice_add_prof`, `ice_add_prof_id_flow` and `ice_upd_prof_hw` in DPDK's `drivers/net/intel/ice/base/ice_flex_pipe.c`; sizes are `blk_sizes` there.

use super::admin::{Admin, AdminError, BUFFER, Command, VsiId, half, opcode};
use super::lookup::header;
use super::package::{CHANGES, Package, changes, with_lock};
use super::recipe::resource;
use super::regs::{GLQF_HMASK_SEL, GLQF_HSYMM, PF_FUNC_RID, PF_FUNC_RID_NUMBER};
use super::shared::Shared;
use crate::device::{Device, Registers};

/// The key of the hash: the one that Microsoft's specification of RSS checks implementations with, which tests can compare with; twelve more bytes, of which the
/// specification does not say, are 0.
pub(super) const KEY: [u8; 52] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
    0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
    0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

/// Sections of the hash's tables (`ICE_SID_*_RSS`).
mod section {
    /// Groups of packet types.
    pub const TYPES: u32 = 42;
    /// Groups of VSIs.
    pub const VSIS: u32 = 43;
    /// Which profile a pair of groups has.
    pub const PROFILES: u32 = 44;
    /// What a profile takes of a packet.
    pub const WORDS: u32 = 46;
}

/// Resources (`ICE_AQC_RES_TYPE_HASH_PROF_BLDR_*`), and how they are asked for.
mod table {
    /// Any will do.
    const ANY: u16 = 1 << 13;
    /// From the end: behind what the package has.
    const LAST: u16 = 1 << 12;
    /// A profile.
    pub const PROFILE: u16 = 0x60 | ANY;
    /// An entry of the TCAM.
    pub const ENTRY: u16 = 0x61 | ANY | LAST;
}

/// Words of a profile.
const WORDS: usize = 24;
/// Profiles, and entries of the TCAM.
const PROFILES: u16 = 128;
const ENTRIES: u16 = 512;
/// A place of a profile that is empty.
const EMPTY: (u8, u16) = (u8::MAX, 511);
/// Packet types of package and parser, fixed numbers: UDP, TCP, and the rest (fragments, SCTP, ICMP, anything else) over IPv4 and IPv6.
const KINDS: [(u8, Option<u8>, &[usize]); 6] = [
    (header::IPV4, Some(header::UDP), &[24]),
    (header::IPV4, Some(header::TCP), &[26]),
    (header::IPV4, None, &[22, 23, 27, 28]),
    (header::IPV6, Some(header::UDP), &[90]),
    (header::IPV6, Some(header::TCP), &[92]),
    (header::IPV6, None, &[88, 89, 93, 94]),
];

/// A kind of packet.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Kind {
    /// The groups of packet types.
    groups: Vec<u8>,
    /// What is hashed, in its order.
    words: Vec<(u8, u16)>,
}

/// What is hashed.
#[derive(Debug, Default)]
pub(super) struct Hash {
    kinds: Vec<Kind>,
    /// The NIC has the profiles.
    made: bool,
}

impl Hash {
    /// What the package lets be hashed.
    pub(super) fn of(package: &Package) -> Self {
        let mut types = vec![0; 1024];
        for section in package.sections(section::TYPES) {
            let (count, first) = (usize::from(half(section, 0)), usize::from(half(section, 2)));
            let groups = section.get(4..).unwrap_or_default().iter().take(count);
            // It goes on with other functions' groups.
            for (place, group) in types.iter_mut().skip(first).zip(groups) {
                *place = *group;
            }
        }
        let kinds = KINDS.map(|(ip, transport, members)| {
            let mut groups: Vec<u8> = members.iter().map(|&member| types[member]).collect();
            groups.sort_unstable();
            groups.dedup();
            // Group 0 is of what nobody told apart.
            groups.retain(|&group| group > 0);
            Kind {
                groups,
                words: words(ip, transport),
            }
        });
        let complete = kinds.iter().all(|kind| !kind.groups.is_empty());
        Self {
            kinds: if complete { kinds.into() } else { Vec::new() },
            made: false,
        }
    }

    /// Whether anything is.
    pub(super) fn works(&self) -> bool {
        !self.kinds.is_empty()
    }

    /// From now on the VSI's packets are hashed.
    pub(super) fn add<D: Device>(
        &mut self,
        shared: &Shared<D>,
        admin: &mut Admin<D::Registers>,
        vsi: VsiId,
    ) -> Result<(), AdminError> {
        if !self.made {
            self.make(shared, admin)?;
            self.made = true;
        }
        update(admin, &[group_of(vsi, group(shared))])?;
        admin.set_hash_key(vsi, &KEY)
    }

    /// The VSI goes.
    pub(super) fn leave<R: Registers>(
        &self,
        admin: &mut Admin<R>,
        vsi: VsiId,
    ) -> Result<(), AdminError> {
        if !self.made {
            return Ok(());
        }
        update(admin, &[group_of(vsi, 0)])
    }

    /// Makes the profiles.
    fn make<D: Device>(
        &self,
        shared: &Shared<D>,
        admin: &mut Admin<D::Registers>,
    ) -> Result<(), AdminError> {
        let group = group(shared);
        let mut sections = Vec::new();
        for kind in &self.kinds {
            let profile = allocate(admin, table::PROFILE, PROFILES)?;
            // Words count as a whole. Intel's driver writes this too for each profile that it makes (`ice_update_prof_masking`).
            shared.write(GLQF_HMASK_SEL.at(u32::from(profile)), 0);
            for index in 0..WORDS as u32 / 4 {
                // No word is hashed together with another.
                shared.write(GLQF_HSYMM + u32::from(profile) * 4 + index * 512, 0);
            }
            sections.push((section::WORDS, vector(profile, &kind.words)));
            for &types in &kind.groups {
                let entry = allocate(admin, table::ENTRY, ENTRIES)?;
                sections.push((section::PROFILES, entry_of(entry, types, group, profile)));
            }
        }
        update(admin, &sections)
    }
}

/// The addresses, and the ports behind them: as Microsoft's specification has them.
fn words(ip: u8, transport: Option<u8>) -> Vec<(u8, u16)> {
    let addresses = if ip == header::IPV4 { 12..20 } else { 8..40 };
    let addresses = addresses.step_by(2).map(|offset| (ip, offset));
    let ports = transport
        .into_iter()
        .flat_map(|header| [(header, 0), (header, 2)]);
    addresses.chain(ports).collect()
}

/// This function's group of VSIs: the first that is not the default one. Its upper three bits are the function's number.
fn group<D: Device>(shared: &Shared<D>) -> u16 {
    let function = shared.read(PF_FUNC_RID) & PF_FUNC_RID_NUMBER;
    // Three bits.
    1 | (function as u16) << 13
}

fn allocate<R: Registers>(admin: &mut Admin<R>, kind: u16, limit: u16) -> Result<u16, AdminError> {
    let mut buffer = resource(kind, 0);
    let command = Command::new(opcode::ALLOCATE, [1, 0]).reading();
    admin.run(command, &mut buffer)?;
    match half(&buffer, 4) {
        index if index < limit => Ok(index),
        index => Err(AdminError::garbled(
            opcode::ALLOCATE,
            format!("there is no entry {index} of {limit}"),
        )),
    }
}

/// Changes the tables.
fn update<R: Registers>(
    admin: &mut Admin<R>,
    sections: &[(u32, Vec<u8>)],
) -> Result<(), AdminError> {
    let Some(mut buffer) = changes(sections) else {
        return Err(AdminError::garbled(
            opcode::UPDATE_PACKAGE,
            format!("the changes are more than {BUFFER} bytes"),
        ));
    };
    with_lock(admin, CHANGES, |admin| {
        // The last buffer, and the only one.
        let command = Command::new(opcode::UPDATE_PACKAGE, [1]).reading();
        admin.run(command, &mut buffer).map(drop)
    })
}

/// What a profile takes, from its last word on.
fn vector(profile: u16, words: &[(u8, u16)]) -> Vec<u8> {
    let mut places = [EMPTY; WORDS];
    for (place, word) in places.iter_mut().rev().zip(words) {
        *place = *word;
    }
    let mut bytes = [1_u16.to_le_bytes(), profile.to_le_bytes()].concat();
    for (header, offset) in places {
        bytes.push(header);
        bytes.extend(offset.to_le_bytes());
        bytes.push(0);
    }
    bytes
}

/// The TCAM's entry for a pair of groups. Each bit of the key is two: whether 0 matches, and whether 1 does. The first two bytes of the key, the packet's flags, do not count.
fn entry_of(entry: u16, types: u8, vsis: u16, profile: u16) -> Vec<u8> {
    let [low, high] = vsis.to_le_bytes();
    let mut bytes = [1_u16.to_le_bytes(), entry.to_le_bytes()].concat();
    bytes.extend([0xff, 0xff, !types, !low, !high]);
    bytes.extend([0xff, 0xff, types, low, high]);
    // Below 128.
    bytes.push(profile as u8);
    bytes
}

/// A VSI belongs to a group.
fn group_of(vsi: VsiId, group: u16) -> (u32, Vec<u8>) {
    let bytes = [1, vsi.0, group].map(u16::to_le_bytes).concat();
    (section::VSIS, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_laid_out_as_both_drivers_have_them() {
        let udp = words(header::IPV4, Some(header::UDP));
        assert_eq!(
            udp,
            [(32, 12), (32, 14), (32, 16), (32, 18), (53, 0), (53, 2)]
        );
        let bytes = vector(40, &udp);
        assert_eq!((bytes.len(), &bytes[..4]), (100, &[1, 0, 40, 0][..]));
        assert_eq!(bytes[96..], [32, 12, 0, 0], "the first word is the last");
        assert_eq!(bytes[4..8], [0xff, 0xff, 1, 0]);
        let entry = entry_of(0x1fe, 2, 0x2001, 40);
        assert_eq!(
            entry,
            [
                1, 0, 0xfe, 1, 0xff, 0xff, 0xfd, 0xfe, 0xdf, 0xff, 0xff, 2, 1, 0x20, 40
            ]
        );
        assert_eq!(group_of(VsiId(9), 1), (43, vec![1, 0, 9, 0, 1, 0]));
        assert_eq!(words(header::IPV6, None).len(), 16);
    }
}
