//! Where things lie in the two memories, and packets there and chunks back.

use devrx_proto::completion::Completion;
use devrx_proto::layout::{Layout, LayoutParams};
use devrx_proto::refill::RefillEntry;
use devrx_proto::ring::{Entry, Start};

use common::{Both, both};

mod common;

/// A layout's blocks do not overlap, begin on lines of their own, and end within the memfds.
#[test]
fn layouts_fit() {
    for (queues, completions, chunks, header_slot) in [
        (1, 16, 1, 64),
        (64, 1 << 20, 1 << 24, 4096),
        (3, 1024, 4097, 256),
    ] {
        let layout = Layout::new(&LayoutParams {
            queues,
            completions,
            chunks,
            header_slot,
        })
        .unwrap();
        let mut daemon_end = 4096;
        let mut client_end = 0;
        for queue in 0..queues {
            let place = layout.queue(queue).unwrap();
            for offset in [
                place.completion_producer,
                place.refill_consumer,
                place.need_kick,
                place.counters,
                place.completions,
            ] {
                assert!(offset >= daemon_end && offset.is_multiple_of(64));
                daemon_end = offset + 4;
            }
            daemon_end = place.completions + u64::from(completions) * 32;
            for offset in [
                place.completion_consumer,
                place.sleeping,
                place.refill_producer,
                place.refills,
            ] {
                assert!(offset >= client_end && offset.is_multiple_of(64));
                client_end = offset + 4;
            }
            client_end = place.refills + u64::from(layout.refill_capacity()) * 8;
        }
        assert!(layout.refill_capacity() >= chunks && client_end <= layout.client_size());
        assert!(layout.headers() >= daemon_end && layout.headers().is_multiple_of(4096));
        let last = layout.header_slot(chunks - 1).unwrap();
        assert!(last + u64::from(header_slot) <= layout.daemon_size());
        assert_eq!(
            (layout.header_slot(chunks), layout.queue(queues)),
            (None, None)
        );
    }
    for (queues, completions, chunks, header_slot) in [
        (0, 16, 1, 64),
        (65, 16, 1, 64),
        (1, 17, 1, 64),
        (1, 8, 1, 64),
        (1, 16, 0, 64),
        (1, 16, u32::MAX, 64),
        (1, 16, 1, 65),
    ] {
        assert!(
            Layout::new(&LayoutParams {
                queues,
                completions,
                chunks,
                header_slot
            })
            .is_err()
        );
    }
}

/// The whole way once: a packet there, its chunks back, both asleep in between.
#[test]
fn a_packet_goes_there_and_its_chunk_back() {
    let Both {
        mut daemon,
        mut client,
        daemon_memory,
        layout,
        ..
    } = both(Start {
        completion: u32::MAX,
        refill: 3,
    });
    assert!(layout.announce(&daemon_memory) && layout.is_announced_in(&daemon_memory));
    assert!(client.completions.arm());
    let packet = [
        Completion {
            chunk: 4,
            flags: 2,
            ..Completion::default()
        },
        Completion {
            chunk: 5,
            ..Completion::default()
        },
    ];
    assert!(daemon.completions.push(&packet));
    let published = daemon.completions.publish();
    assert_eq!((published.entries, published.sleeper), (2, Some(1)));
    daemon.completions.woken(1);
    assert_eq!(daemon.completions.publish().sleeper, None);
    client.completions.disarm();
    let mut out = [Completion::default(); 8];
    assert_eq!(client.completions.take(&mut out), 2);
    assert_eq!(out[..2], packet);
    assert!(daemon.refills.arm());
    assert_eq!(
        client
            .refills
            .push_some(&[RefillEntry::new(4, 1), RefillEntry::new(5, 1)]),
        2
    );
    assert_eq!(client.refills.publish().sleeper, Some(1));
    daemon.refills.disarm();
    let mut back = [RefillEntry::default(); 8];
    assert_eq!(daemon.refills.take(&mut back), 2);
    assert_eq!(back[1], RefillEntry::new(5, 1));
    assert_eq!(
        daemon.start(),
        Start {
            completion: 1,
            refill: 5
        }
    );
}

/// Entries by four and one by one, over the ring's end: they come out in order, with their marks, and no more than there is room for.
#[test]
fn entries_by_four_are_entries() {
    let entry = |nth: u32| Completion {
        chunk: nth,
        generation: nth as u16 ^ 0x5aa5,
        flow: 7,
        length: 9,
        flags: nth,
        timestamp: u64::from(nth) << 40,
        ..Completion::default()
    };
    for begin in [0, 1, 2, 3, u32::MAX, u32::MAX - 2] {
        let Both {
            mut daemon,
            mut client,
            ..
        } = both(Start {
            completion: begin,
            refill: 0,
        });
        let capacity = daemon.completions.capacity();
        let (mut given, mut taken) = (0, 0);
        for round in 0..40 {
            let mut group = daemon.completions.reserve_some(1, capacity).unwrap();
            let (room, before) = (group.room(), given);
            let written = group.extend_by_four(|| {
                let four: [_; 4] = std::array::from_fn(|nth| entry(given + nth as u32));
                given += 4;
                let marks = four.map(|entry| entry.generation);
                let words = four.map(|entry| {
                    Completion {
                        generation: 0,
                        ..entry
                    }
                    .to_words()
                });
                assert!(
                    given - before <= room,
                    "asked for more than there is room for"
                );
                Some((words, marks))
            });
            assert_eq!(written, room / 4 * 4);
            // The rest one by one, or not all of it.
            let rest = (given..).take(round % 5).map(|nth| entry(nth).to_words());
            given += group.extend(rest);
            group.commit();
            daemon.completions.publish();
            let mut out = [Completion::default(); 5];
            let most = 1 + round % 5;
            let count = client.completions.take(&mut out[..most]);
            for got in &out[..count] {
                assert_eq!(*got, entry(taken));
                taken += 1;
            }
        }
        assert!(taken > capacity);
    }
}
