//! Four at a time and one by one: the same. And whatever a descriptor says, no chunk is lost.

use proptest::prelude::*;

use super::rig::{Rig, Setup};
use crate::lanes::Avx2;
use crate::{RxBatch, RxChunk, RxQueue};

/// Descriptors that are plain, nearly plain, or anything.
fn descriptor() -> impl Strategy<Value = [u64; 4]> {
    // Slots of 256 bytes, chunks of 2048: what is on the edge counts as much as what is not.
    let header = prop_oneof![3 => 1..=256_u64, 1 => Just(0), 1 => 255..=257_u64];
    let length = prop_oneof![3 => 0..=2048_u64, 1 => 2047..=2049_u64];
    let plain = (
        header,
        any::<u32>(),
        length,
        any::<u16>(),
        any::<[bool; 3]>(),
        any::<[u64; 2]>(),
    );
    let plain = plain.prop_map(|(header, hash, length, vlan, [a, b, c], rest)| {
        let status = 0x3
            | u64::from(a) << 3
            | u64::from(b) << 12
            | u64::from(c) << 13
            | u64::from(vlan) << 16
            | u64::from(hash) << 32;
        let info = 2 | 24 << 16 | length << 32 | (header | 1 << 11) << 48;
        [info, status, rest[0], rest[1]]
    });
    let nearly = (plain.clone(), 0..128_u32).prop_map(|([info, status, c, d], bit)| match bit {
        0..64 => [info ^ 1 << bit, status, c, d],
        _ => [info, status ^ 1 << (bit - 64), c, d],
    });
    let any_done = any::<[u64; 4]>().prop_map(|[info, status, c, d]| [info, status | 1, c, d]);
    prop_oneof![12 => plain, 2 => nearly, 1 => any_done]
}

/// What comes out of a ring with these descriptors, polled into batches with `taken` places taken already.
fn received(descriptors: &[[u64; 4]], taken: &[usize], by_four: bool) -> Vec<RxChunk> {
    let mut rig = Rig::new(Setup::default());
    rig.any(0);
    if !by_four {
        rig.queues[0].queue.look_at_each();
    }
    for (at, &words) in (0..).zip(descriptors) {
        rig.model.scribble(0, at, words);
    }
    let mut out = Vec::new();
    for &taken in taken.iter().chain(&[0; 4]) {
        let filler = RxChunk::from(crate::RxWords::default());
        let mut batch: RxBatch = std::iter::repeat_n(filler, taken).collect();
        rig.queues[0].queue.poll(&mut batch);
        out.extend(batch.drain(taken..).map(|entry| RxChunk {
            timestamp: 0,
            ..entry
        }));
    }
    let counters = rig.queues[0].queue.counters();
    let whole = out
        .iter()
        .filter(|entry| !entry.flags.contains(crate::RxFlags::MORE));
    assert_eq!(counters.received, whole.count() as u64);
    for entry in &out {
        rig.queues[0].recycle(entry.chunk.0);
    }
    rig.end();
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn four_at_a_time_are_what_they_are_one_by_one(
        descriptors in proptest::collection::vec(descriptor(), 0..56),
        taken in proptest::collection::vec(200..256_usize, 0..4),
    ) {
        if Avx2::detect().is_none() {
            println!("skipped: this processor has no AVX2");
            return Ok(());
        }
        let by_four = received(&descriptors, &taken, true);
        let one_by_one = received(&descriptors, &taken, false);
        prop_assert_eq!(by_four, one_by_one);
    }
}
