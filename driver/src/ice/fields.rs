//! Which words of a packet the switch can compare: the package's field vectors. A packet has a profile, by its headers, and each profile has a vector of 48 words.
//!
//! Format: `struct ice_sw_fv_section` and `struct ice_fv` in DPDK's `drivers/net/intel/ice/base/ice_ddp.h` and `ice_flex_type.h`; what profiles are tunnels' is
//! `ice_get_sw_prof_type` in `ice_ddp.c`.

use std::collections::BTreeMap;

use super::admin::half;
use super::lookup::{Lookup, header};
use super::package::Package;

/// The section of the switch's field vectors (`ICE_SID_FLD_VEC_SW`).
const SECTION: u32 = 16;
/// Words of a vector.
pub(super) const WORDS: usize = 48;
/// Bytes of a vector: each word has header, offset and a spare byte.
const VECTOR: usize = WORDS * 4;
/// No offset (`ICE_NAN_OFFSET`): the place is empty.
const EMPTY: u16 = 511;
/// A tunnel's network identifier in its UDP header.
const TUNNEL_ID: u16 = 12;

/// A place of a vector: a header and an offset in it.
type Place = (u8, u16);

/// The field vectors by profile.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields(BTreeMap<u16, Vec<Place>>);

/// Where a lookup's words are, in all packets that it can be about.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(super) struct Places {
    /// In the order of the lookup's words.
    pub words: Vec<u8>,
    /// The profiles.
    pub profiles: Vec<u16>,
    /// Places that are empty in all of those.
    pub free: Vec<u8>,
}

impl Fields {
    /// What the package says.
    pub(super) fn of(package: &Package) -> Self {
        let mut fields = BTreeMap::new();
        for section in package.sections(SECTION) {
            let (count, base) = (half(section, 0), half(section, 2));
            let vectors = section.get(4..).unwrap_or_default();
            for (index, vector) in (0..count).zip(vectors.chunks_exact(VECTOR)) {
                let words = vector
                    .chunks_exact(4)
                    .map(|word| (word[0], half(word, 1)))
                    .collect();
                fields.insert(base.wrapping_add(index), words);
            }
        }
        Self(fields)
    }

    /// Whether there are any.
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Where a lookup's words are; `None` where no packet has them all.
    pub(super) fn places(&self, lookup: &Lookup) -> Option<Places> {
        let mut found: Option<Places> = None;
        for (&profile, vector) in &self.0 {
            if !concerns(vector, lookup) {
                continue;
            }
            let words = lookup.words.iter().map(|word| {
                let at = vector
                    .iter()
                    .position(|place| *place == (word.header, word.offset));
                // One of 48.
                at.map(|at| at as u8)
            });
            let Some(words) = words.collect::<Option<Vec<u8>>>() else {
                continue;
            };
            let empty = |at: &u8| vector[usize::from(*at)] == (u8::MAX, EMPTY);
            match &mut found {
                None => {
                    found = Some(Places {
                        words,
                        profiles: vec![profile],
                        free: (0..WORDS as u8).filter(empty).collect(),
                    });
                }
                // In Intel's package a word has the same place in all profiles that have it. Where not, the packets of the profile are not found.
                Some(places) if places.words == words => {
                    places.profiles.push(profile);
                    places.free.retain(empty);
                }
                Some(_) => {}
            }
        }
        found
    }
}

/// Whether packets with this vector are of the lookup's kind.
fn concerns(vector: &[Place], lookup: &Lookup) -> bool {
    let has = |header: u8| {
        vector
            .iter()
            .any(|&(other, offset)| other == header && offset != EMPTY)
    };
    let tunnel = vector.iter().any(|&(other, offset)| {
        matches!(other, header::GRE | header::PPPOE)
            || (other, offset) == (header::UDP_TUNNEL, TUNNEL_ID)
    });
    let transport = [header::UDP, header::TCP]
        .into_iter()
        .find(|&transport| has(transport));
    !tunnel && has(lookup.ip) && transport == lookup.transport
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::ice::package::tests::made;

    /// A section of vectors, from profile `base` on.
    pub(in crate::ice) fn section(base: u16, vectors: &[&[(usize, Place)]]) -> (u32, Vec<u8>) {
        let mut bytes = Vec::new();
        bytes.extend((vectors.len() as u16).to_le_bytes());
        bytes.extend(base.to_le_bytes());
        for vector in vectors {
            let mut words = [(u8::MAX, EMPTY); WORDS];
            for &(at, place) in *vector {
                words[at] = place;
            }
            for (header, offset) in words {
                bytes.push(header);
                bytes.extend(offset.to_le_bytes());
                bytes.push(0);
            }
        }
        (SECTION, bytes)
    }

    fn fields() -> Fields {
        let sections = vec![section(
            7,
            &[
                &[(26, (32, 0)), (28, (32, 12)), (24, (53, 0)), (25, (53, 2))],
                &[(26, (40, 0)), (24, (53, 0)), (25, (53, 2)), (40, (40, 38))],
                &[(26, (32, 0)), (28, (32, 12))],
                // VXLAN.
                &[(28, (32, 12)), (14, (52, 12)), (24, (53, 0)), (25, (53, 2))],
            ],
        )];
        Fields::of(&Package::parse(made(&[sections])).unwrap())
    }

    fn places(rule: &str) -> Option<Places> {
        let lookups = Lookup::of(&rule.parse().unwrap());
        fields().places(&lookups[0])
    }

    #[test]
    fn profiles_with_all_words_are_found() {
        let four = places("ip,udp,dst-port=5000").unwrap();
        assert_eq!(
            (four.words.as_slice(), four.profiles.as_slice()),
            (&[25][..], &[7][..])
        );
        assert!(four.free.contains(&27) && !four.free.contains(&28));
        assert_eq!(places("ip6,udp,dst-port=5").unwrap().profiles, [8]);
        assert_eq!(places("src=10.0.0.0/8").unwrap().profiles, [7], "UDP's");
        assert_eq!(places("tcp,dst-port=5"), None);
        assert_eq!(places("dst=10.0.0.1"), None, "half a word is missing");
    }

    #[test]
    fn cut_off_sections_are_no_panic() {
        let (kind, mut bytes) = section(0, &[&[(1, (32, 0))]]);
        bytes[0] = 0xff;
        bytes.truncate(100);
        let package = Package::parse(made(&[vec![(kind, bytes)]])).unwrap();
        assert!(Fields::of(&package).is_empty());
    }
}
