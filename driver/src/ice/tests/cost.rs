//! What a packet costs the driver, to be counted by `valgrind --tool=callgrind`.
//!
//! ```text
//! cargo test --release -p devrx-driver --lib --no-run
//! ICE_BATCH=32 valgrind --tool=callgrind --toggle-collect='*ice::tests::cost::round*' TEST --ignored --exact ice::tests::cost::of_a_packet
//! ```
//!
//! Collected instructions, divided by the packets printed. `ICE_RULE` is the queue's rule, `any` if there is none.

use super::rig::{Rig, Setup, udp};
use crate::{Flows, RxBatch, RxQueue};

const ROUNDS: u32 = 400;

/// One turn of a worker, as far as it is the driver's: a batch out of the ring, the ring filled again.
#[inline(never)]
fn round(queue: &mut super::rig::Queue, batch: &mut RxBatch) -> usize {
    let count = queue.queue.poll(batch);
    queue.refill();
    count
}

#[test]
#[ignore = "a measurement, not a test"]
fn of_a_packet() {
    let batch_size: u32 = std::env::var("ICE_BATCH").map_or(32, |size| size.parse().unwrap());
    let rule = std::env::var("ICE_RULE").unwrap_or("any".into());
    let mut rig = Rig::new(Setup {
        ring: 1024,
        chunks: 2048,
        ..Setup::default()
    });
    rig.nic.add_flow(0..=0, 7, &rule.parse().unwrap()).unwrap();
    let header = &udp(1, 5000, 100)[..42];
    let headers = rig.queues[0].config.headers.clone();
    for chunk in 0..2048 {
        let slot = headers
            .offset_of(devrx_provider::ChunkIndex(chunk))
            .unwrap();
        assert!(headers.memory.copy_in(slot, header));
    }
    // UDP over IPv4, 58 bytes of payload, split, checksum right, hashed.
    let info = 2 | 24 << 16 | 58 << 32 | (42 | 1 << 11) << 48;
    let words = [info, 0xdead_beef_0000_100b, 0, 0];
    let mut batch = RxBatch::new();
    let (mut packets, mut at) = (0, 0);
    for _ in 0..ROUNDS {
        for _ in 0..batch_size {
            rig.model.scribble(0, at % 1024, words);
            at += 1;
        }
        batch.clear();
        packets += round(&mut rig.queues[0], &mut batch);
        for entry in &batch {
            rig.queues[0].recycle(entry.chunk.0);
        }
    }
    assert_eq!(packets as u32, ROUNDS * batch_size);
    println!("{packets} packets");
    rig.end();
}
