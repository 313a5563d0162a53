//! Packets go to the client, whole, and chunks come back.

use super::*;

#[test]
fn packets_are_delivered_and_chunks_come_back() {
    let mut rig = Rig::new(Setup::default());
    let mut delivered = 0;
    for round in 0..20 {
        rig.wire.send(0, 10, 1 + round % 3);
        let numbers = rig.settle();
        let entries = rig.receive();
        assert_eq!(entries.len(), 10 * (1 + round % 3));
        assert_eq!(numbers.drops, [0; 11]);
        rig.give(&entries);
        delivered += entries.len() as u64;
    }
    let numbers = rig.numbers();
    assert_eq!(
        numbers.returned, delivered,
        "a report reads all that was returned"
    );
    assert_eq!(numbers.delivered, 200);
    assert_eq!(
        numbers.payload_bytes_copied(),
        delivered * u64::from(PAYLOAD)
    );
    assert_eq!(
        numbers.bytes,
        delivered * u64::from(PAYLOAD) + 200 * u64::from(HEADER)
    );
    // The same in shared memory.
    let counters = rig.layout.queue(0).unwrap().counters;
    for (counter, value) in [
        (devrx_proto::layout::Counter::Delivered, 200),
        (devrx_proto::layout::Counter::Packets, 200),
        (devrx_proto::layout::Counter::Returned, delivered),
    ] {
        assert_eq!(
            rig.daemon_memory.load_u64(counters + 8 * counter.index()),
            Some(value),
            "{counter:?}"
        );
    }
    rig.end();
}

/// A queue that will not have what the client returns leaves it to the pool, which gives it to the queue all the same.
#[test]
fn returns_that_the_queue_refuses_go_to_the_pool() {
    let mut rig = Rig::new(Setup {
        manners: Manners {
            poll_mode: PollMode::Busy,
            ..Setup::default().manners
        },
        ..Setup::default()
    });
    rig.wire.lock().refuse_post = true;
    // More packets than there are chunks.
    for _ in 0..10 {
        rig.wire.send(0, 20, 1);
        let mut got = Vec::new();
        wait_for("packets", || {
            got.extend(rig.receive());
            got.len() == 20
        });
        rig.give(&got);
    }
    let end = rig.end();
    assert_eq!((end.delivered, end.returned), (200, 200));
}

#[test]
fn a_packet_is_delivered_whole_or_dropped_whole() {
    // Room for 16 entries, and packets of 3: five fit.
    let mut rig = Rig::new(Setup {
        completions: 16,
        ..Setup::default()
    });
    rig.wire.send(0, 8, 3);
    let numbers = rig.settle();
    assert_eq!(numbers.delivered, 5);
    assert_eq!(numbers.drops[DropReason::RingFull.index()], 3);
    let entries = rig.receive();
    assert_eq!(entries.len(), 15);
    for packet in entries.chunks(3) {
        assert_eq!(
            packet.iter().map(Completion::more).collect::<Vec<_>>(),
            [true, true, false]
        );
    }
    assert_eq!(
        numbers.with_client, 15,
        "dropped packets' chunks are not the client's"
    );
    rig.end();
}

#[test]
fn a_client_that_keeps_everything_costs_its_own_packets() {
    let mut rig = Rig::new(Setup {
        chunks: 16,
        ring: 16,
        completions: 64,
        ..Setup::default()
    });
    rig.wire.send(0, 40, 1);
    let numbers = rig.settle();
    assert_eq!((numbers.delivered, numbers.with_client), (16, 16));
    assert_eq!(numbers.drops[DropReason::NoDescriptor.index()], 24);
    // It gives them back and kicks, as a client that sees NEED_KICK does: they are posted again.
    let entries = rig.receive();
    wait_for("the worker sleeps and says that it wants chunks", || {
        rig.client.refills.sleeper().is_some()
    });
    rig.give(&entries);
    rig.kick.notify();
    wait_for("chunks are posted again", || {
        rig.provider.stats().allocated == 16 && rig.client.refills.sleeper().is_none()
    });
    rig.wire.send(0, 10, 1);
    assert_eq!(rig.settle().delivered, 26);
    rig.end();
}
