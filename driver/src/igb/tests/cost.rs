//! What a packet costs the driver, to be counted by `valgrind --tool=callgrind`.
//!
//! ```text
//! cargo test --release -p devrx-driver --lib --no-run
//! IGB_BATCH=32 valgrind --tool=callgrind --toggle-collect='*igb::tests::cost::round*' TEST --ignored --exact igb::tests::cost::of_a_packet
//! ```
//!
//! Collected instructions, less those of the pool, divided by the packets printed.

use super::rig::{Rig, Setup};
use crate::{RxBatch, RxQueue};

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
    let batch_size: u32 = std::env::var("IGB_BATCH").map_or(32, |size| size.parse().unwrap());
    let mut rig = Rig::new(Setup {
        ring: 1024,
        chunks: 2048,
        ..Setup::default()
    });
    rig.any(0);
    // UDP over IPv4, 58 bytes of payload, split, checksum right, hashed.
    let words = [0xdead_beef_8540_0217, 0x0000_003a_0000_0033];
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
