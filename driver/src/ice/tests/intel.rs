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

/// The package.
pub(super) fn package() -> Arc<[u8]> {
    let six = ipv6();
    let vectors = [
        ALL.to_vec(),
        [ALL, IPV4].concat(),
        [ALL, IPV4, UDP].concat(),
        [ALL, IPV4, TCP].concat(),
        [ALL, &six].concat(),
        [ALL, &six, UDP].concat(),
        [ALL, &six, TCP].concat(),
    ];
    let vectors: Vec<&[Place]> = vectors.iter().map(Vec::as_slice).collect();
    made(&[vec![section(0, &vectors)]])
}
