//! A package like Intel's, as far as the tests need one: the same words at the same places of the field vectors.

use std::sync::Arc;

use crate::ice::fields::tests::section;
use crate::ice::package::tests::made;

type Place = (usize, (u8, u16));

/// Words that every profile has.
const ALL: &[Place] = &[
    (5, (1, 0)),
    (6, (1, 2)),
    (7, (1, 4)),
    (13, (9, 0)),
    (11, (16, 0)),
    (12, (17, 0)),
];
const IPV4: &[Place] = &[
    (26, (32, 0)),
    (27, (32, 8)),
    (28, (32, 12)),
    (29, (32, 14)),
    (30, (32, 16)),
    (31, (32, 18)),
];
const UDP: &[Place] = &[(24, (53, 0)), (25, (53, 2))];
const TCP: &[Place] = &[(24, (49, 0)), (25, (49, 2))];

fn ipv6() -> Vec<Place> {
    let offsets = [0, 2].into_iter().chain((8..40).step_by(2));
    (26..).zip(offsets.map(|offset| (40, offset))).collect()
}

/// A section of groups of packet types.
fn types(kind: u32, groups: &[(usize, u8)]) -> (u32, Vec<u8>) {
    let mut bytes = vec![0; 4 + 256];
    bytes[..4].copy_from_slice(&[0, 1, 0, 0]);
    for &(packet_type, group) in groups {
        bytes[4 + packet_type] = group;
    }
    (kind, bytes)
}

/// A section that gives groups of packet types their profiles, whatever the VSI and the flags.
fn profiles(kind: u32, profiles: &[(u8, u8)]) -> (u32, Vec<u8>) {
    let mut bytes = (profiles.len() as u16).to_le_bytes().to_vec();
    for (entry, &(group, profile)) in (100_u16..).zip(profiles) {
        bytes.extend(entry.to_le_bytes());
        bytes.extend([0xff, 0xff, !group, 0xff, 0xff]);
        bytes.extend([0xff, 0xff, group, 0xff, 0xff, profile]);
    }
    (kind, bytes)
}

/// The package: packet types, groups and profiles of switch and hash have the numbers they have in Intel's.
pub(super) fn package() -> Arc<[u8]> {
    let six = ipv6();
    let vectors = [
        ALL.to_vec(),
        [ALL, IPV4, TCP].concat(),
        [ALL, IPV4, UDP].concat(),
        [ALL, IPV4].concat(),
        [ALL, &six, TCP].concat(),
        [ALL, &six, UDP].concat(),
        [ALL, &six].concat(),
    ];
    let vectors: Vec<&[Place]> = vectors.iter().map(Vec::as_slice).collect();
    let switch_types = [
        (1, 34),
        (22, 38),
        (23, 38),
        (24, 37),
        (26, 36),
        (27, 38),
        (28, 38),
        (88, 41),
        (89, 41),
        (90, 40),
        (92, 39),
        (93, 41),
        (94, 41),
    ];
    let hash_types = [
        (22, 4),
        (23, 5),
        (24, 2),
        (26, 1),
        (27, 3),
        (28, 5),
        (88, 9),
        (89, 10),
        (90, 7),
        (92, 6),
        (93, 8),
        (94, 10),
    ];
    let switch_profiles = [
        (34, 3),
        (36, 4),
        (37, 5),
        (38, 6),
        (39, 7),
        (40, 8),
        (41, 9),
    ];
    made(&[
        vec![section(3, &vectors)],
        vec![
            types(12, &switch_types),
            profiles(14, &switch_profiles),
            types(42, &hash_types),
        ],
    ])
}
