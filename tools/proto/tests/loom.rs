//! The ring and its sleep protocol, model-checked: every interleaving of two threads, and every value that relaxed memory allows
//! a load to see. The code is the ring's own; only the memory is loom's.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p devrx-proto --release --test loom`
#![cfg(loom)]
#![expect(unsafe_code, reason = "loom's cells are accessed through pointers")]

use std::time::{Duration, Instant};

use devrx_proto::refill::RefillEntry;
use devrx_proto::ring::{
    Backing, Consumer, ConsumerParts, Producer, ProducerParts, ReadSlots, Word, WriteSlots,
};
use devrx_proto::wake::{Wake, WakePolicy};
use loom::cell::UnsafeCell;
use loom::sync::atomic::{AtomicU32, Ordering};
use loom::sync::{Arc, Condvar, Mutex};
use loom::thread;

/// Rings in loom's memory.
struct Model;

impl Backing for Model {
    type Word = ModelWord;
    type Reader<const N: usize> = ModelSlots<N>;
    type Writer<const N: usize> = ModelSlots<N>;
}

#[derive(Clone)]
struct ModelWord(Arc<AtomicU32>);

impl ModelWord {
    fn new() -> Self {
        Self(Arc::new(AtomicU32::new(0)))
    }
}

impl Word for ModelWord {
    fn load(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    fn store(&self, value: u32) {
        self.0.store(value, Ordering::Relaxed);
    }
}

/// Slots whose every access loom checks for a race.
struct ModelSlots<const N: usize>(Arc<Vec<UnsafeCell<[u64; N]>>>);

// SAFETY: that no two accesses meet is what loom checks.
unsafe impl<const N: usize> Send for ModelSlots<N> {}

impl<const N: usize> ModelSlots<N> {
    fn slot(&self, index: u32) -> &UnsafeCell<[u64; N]> {
        &self.0[index as usize & (self.0.len() - 1)]
    }
}

impl<const N: usize> ReadSlots<N> for ModelSlots<N> {
    fn capacity(&self) -> u32 {
        self.0.len() as u32
    }

    fn read(&self, index: u32) -> [u64; N] {
        // SAFETY: loom reports a concurrent write.
        self.slot(index).with(|slot| unsafe { *slot })
    }
}

impl<const N: usize> WriteSlots<N> for ModelSlots<N> {
    fn capacity(&self) -> u32 {
        self.0.len() as u32
    }

    fn write(&self, index: u32, words: [u64; N]) {
        // SAFETY: loom reports a concurrent access.
        self.slot(index).with_mut(|slot| unsafe { *slot = words });
    }
}

/// Every execution with at most four involuntary switches between threads (or what `LOOM_MAX_PREEMPTIONS` says): enough for every
/// removal that is listed to go red, and done within seconds.
fn model(test: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = builder.preemption_bound.or(Some(4));
    builder.check(test);
}

type TestProducer = Producer<Model, RefillEntry, 1>;
type TestConsumer = Consumer<Model, RefillEntry, 1>;

fn ring(capacity: usize) -> (TestProducer, TestConsumer) {
    let (producer, consumer, sleep) = (ModelWord::new(), ModelWord::new(), ModelWord::new());
    let cells = Arc::new((0..capacity).map(|_| UnsafeCell::new([0])).collect());
    (
        Producer::new(ProducerParts {
            own: producer.clone(),
            peer: consumer.clone(),
            sleep: sleep.clone(),
            slots: ModelSlots(Arc::clone(&cells)),
            start: 0,
        }),
        Consumer::new(ConsumerParts {
            own: consumer,
            peer: producer,
            sleep,
            slots: ModelSlots(cells),
            start: 0,
        }),
    )
}

/// An eventfd. A thread that waits for one that nobody will write is a deadlock, which loom reports.
#[derive(Clone)]
struct ModelEvent(Arc<(Mutex<bool>, Condvar)>);

impl ModelEvent {
    fn new() -> Self {
        Self(Arc::new((Mutex::new(false), Condvar::new())))
    }

    fn notify(&self) {
        *self.0.0.lock().unwrap() = true;
        self.0.1.notify_one();
    }

    fn wait(&self) {
        let mut readable = self.0.0.lock().unwrap();
        while !*readable {
            readable = self.0.1.wait(readable).unwrap();
        }
    }

    fn drain(&self) {
        *self.0.0.lock().unwrap() = false;
    }
}

fn entry(chunk: u32) -> RefillEntry {
    RefillEntry::new(chunk, 0)
}

/// What the consumer does: takes `wanted` entries, asleep whenever there is none.
fn take_all(mut consumer: TestConsumer, event: &ModelEvent, wanted: u32) {
    let mut next = 0;
    while next < wanted {
        let mut out = [RefillEntry::default(); 4];
        let found = consumer.take(&mut out);
        for entry in &out[..found] {
            assert_eq!(entry.chunk, next);
            next += 1;
        }
        if found == 0 {
            event.drain();
            if consumer.arm() {
                event.wait();
            }
            consumer.disarm();
        }
    }
    assert_eq!(consumer.faults(), 0);
}

/// Entries come in order and whole; a slot is written again only after it was read. Three entries through two slots.
#[test]
fn entries_are_handed_over() {
    model(|| {
        let (mut producer, mut consumer) = ring(2);
        let writer = thread::spawn(move || {
            let mut sent = 0;
            for _ in 0..3 {
                if producer.push(&[entry(sent)]) {
                    sent += 1;
                }
                producer.publish();
            }
            assert_eq!(producer.faults(), 0);
            sent
        });
        let mut out = [RefillEntry::default(); 3];
        let mut found = consumer.take(&mut out);
        found += consumer.take(&mut out[found..]);
        let sent = writer.join().unwrap();
        found += consumer.take(&mut out[found..]);
        assert_eq!(found, sent as usize);
        for (number, entry) in out[..found].iter().enumerate() {
            assert_eq!(entry.chunk as usize, number);
        }
        assert_eq!(consumer.faults(), 0);
    });
}

/// A packet of two entries is never seen by half.
#[test]
fn a_group_is_seen_whole() {
    model(|| {
        let (mut producer, mut consumer) = ring(4);
        let writer = thread::spawn(move || {
            {
                let mut group = producer.reserve(2).unwrap();
                group.push(entry(0));
                // Dropped: another packet did not fit, say. The batch goes on.
            }
            producer.publish();
            assert!(producer.push(&[entry(7), entry(8)]));
            producer.publish();
        });
        let mut out = [RefillEntry::default(); 4];
        let found = consumer.take(&mut out);
        assert!(found == 0 || found == 2, "{found} entries of two");
        if found == 2 {
            assert_eq!([out[0].chunk, out[1].chunk], [7, 8]);
        }
        writer.join().unwrap();
    });
}

/// Completions: a client that sleeps is woken, however its falling asleep meets the daemon's publishing; twice.
#[test]
fn a_sleeping_client_is_woken() {
    model(|| {
        let (mut producer, consumer) = ring(2);
        let event = ModelEvent::new();
        let wake = event.clone();
        let daemon = thread::spawn(move || {
            let now = Instant::now();
            let mut policy = WakePolicy::new(1, Duration::ZERO);
            for chunk in 0..2 {
                assert!(producer.push(&[entry(chunk)]));
                if producer.publish_for(&mut policy, now) == Wake::Now {
                    wake.notify();
                }
            }
        });
        take_all(consumer, &event, 2);
        daemon.join().unwrap();
    });
}

/// Completions: with a batch that does not come full, the timeout wakes.
#[test]
fn a_sleeping_client_is_woken_in_time() {
    model(|| {
        let (mut producer, consumer) = ring(2);
        let event = ModelEvent::new();
        let wake = event.clone();
        let daemon = thread::spawn(move || {
            let now = Instant::now();
            let timeout = Duration::from_millis(1);
            let mut policy = WakePolicy::new(8, timeout);
            assert!(producer.push(&[entry(0)]));
            match producer.publish_for(&mut policy, now) {
                Wake::Now => panic!("one entry is no batch"),
                Wake::No => {}
                Wake::By(time) => {
                    assert_eq!(policy.deadline(), Some(time));
                    if producer.publish_for(&mut policy, time) == Wake::Now {
                        wake.notify();
                    }
                }
            }
        });
        take_all(consumer, &event, 1);
        daemon.join().unwrap();
    });
}

/// Refills: a daemon that sleeps short of chunks is kicked, however its falling asleep meets the client's returning; twice.
#[test]
fn a_daemon_short_of_chunks_is_kicked() {
    model(|| {
        let (mut producer, consumer) = ring(2);
        let event = ModelEvent::new();
        let kick = event.clone();
        let client = thread::spawn(move || {
            for chunk in 0..2 {
                assert!(producer.push(&[entry(chunk)]));
                if let Some(sleep) = producer.publish().sleeper {
                    producer.woken(sleep);
                    kick.notify();
                }
            }
        });
        take_all(consumer, &event, 2);
        client.join().unwrap();
    });
}
