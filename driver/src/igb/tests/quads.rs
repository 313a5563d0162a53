//! Four at a time and one by one: the same.

use proptest::prelude::*;

use super::rig::{Rig, Setup, readable};
use crate::igb::IgbOptions;
use crate::lanes::Avx2;
use crate::{RxBatch, RxChunk, RxQueue};

/// Descriptors that are plain, nearly plain, or anything.
fn descriptor() -> impl Strategy<Value = [u64; 2]> {
    // Slots of 256 bytes, chunks of 2048: what is on the edge counts as much as what is not.
    let header = prop_oneof![3 => 1..=256_u64, 1 => Just(0), 1 => 255..=257_u64];
    let length = prop_oneof![3 => 0..=2048_u64, 1 => 2047..=2049_u64];
    let plain = (
        header,
        any::<u32>(),
        0..16_u64,
        length,
        any::<u16>(),
        any::<bool>(),
    );
    let plain = plain.prop_map(|(header, hash, kind, length, vlan, checked)| {
        let status = 0x3 | u64::from(checked) << 5 | length << 32 | u64::from(vlan) << 48;
        [
            u64::from(hash) << 32 | 1 << 31 | header << 21 | kind,
            status,
        ]
    });
    let nearly = (plain.clone(), 0..128_u32).prop_map(|([info, status], bit)| match bit {
        0..64 => [info ^ 1 << bit, status],
        _ => [info, status ^ 1 << (bit - 64)],
    });
    let any_done = any::<[u64; 2]>().prop_map(|[info, status]| [info, status | 1]);
    prop_oneof![12 => plain, 2 => nearly, 1 => any_done]
}

/// What comes out of a ring with these descriptors, polled into batches with `taken` places taken already.
fn received(
    descriptors: &[[u64; 2]],
    taken: &[usize],
    strip_vlan: bool,
    by_four: bool,
) -> Vec<RxChunk> {
    let mut rig = Rig::new(Setup {
        options: IgbOptions {
            vlan_strip: strip_vlan,
            ..IgbOptions::default()
        },
        ..Setup::default()
    });
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
    assert!(!readable(rig.queues[0].queue.wait_fd(), 0));
    rig.end();
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn four_at_a_time_are_what_they_are_one_by_one(
        descriptors in proptest::collection::vec(descriptor(), 0..60),
        taken in proptest::collection::vec(200..256_usize, 0..4),
        strip_vlan: bool,
    ) {
        if Avx2::detect().is_none() {
            println!("skipped: this processor has no AVX2");
            return Ok(());
        }
        let by_four = received(&descriptors, &taken, strip_vlan, true);
        let one_by_one = received(&descriptors, &taken, strip_vlan, false);
        prop_assert_eq!(by_four, one_by_one);
    }
}
