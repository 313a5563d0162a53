//! The worker against a NIC in plain memory and clients of all kinds.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

use devrx_driver::{HeaderSlots, QueueConfig, ZeroCopy};
use devrx_pool::PoolConfig;
use devrx_proto::completion::Completion;
use devrx_proto::drops::DropReason;
use devrx_proto::layout::LayoutParams;
use devrx_proto::refill::RefillEntry;
use devrx_proto::ring::{ClientQueue, Word};
use devrx_provider::{ChunkIndex, Mapping, MemoryProvider, RegionProvider, RegionSpec, memfd};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use proptest::prelude::*;

use super::*;
use crate::sys::Watched;
use crate::testing::{FakeQueue, HEADER, PAYLOAD, Wire, needs, wait_for};

mod device;

/// What a queue needs that can use a region.
fn suited(region: &Region) -> devrx_driver::QueueNeeds {
    devrx_driver::QueueNeeds {
        cpu_reads_payload: region.cpu_readable(),
        ways: region.ways(),
        ..needs()
    }
}

/// A worker on a queue in plain memory, with its client's ends.
struct Rig {
    wire: Wire,
    handle: Handle,
    client: ClientQueue,
    client_memory: Arc<Shm>,
    daemon_memory: Arc<Shm>,
    wake: Event,
    kick: Event,
    layout: Layout,
    control: Arc<Event>,
    provider: Arc<dyn MemoryProvider>,
}

struct Setup {
    chunks: u32,
    ring: u32,
    completions: u32,
    manners: Manners,
}

impl Default for Setup {
    fn default() -> Self {
        let manners = Manners {
            name: "test".into(),
            cpu: None,
            poll_mode: PollMode::Adaptive,
            wake_batch: 1,
            wake_timeout: Duration::from_millis(5),
            polls_refill: false,
        };
        Self {
            chunks: 64,
            ring: 32,
            completions: 64,
            manners,
        }
    }
}

fn side() -> (ClientSide, Arc<Shm>, Event, Event) {
    let (_, memory) = Shm::create_client_written("test", 1 << 20).unwrap();
    let (wake, kick) = (Event::new().unwrap(), Event::new().unwrap());
    let side = ClientSide {
        watched: Arc::new(Watched::new(&memory).unwrap()),
        memory: memory.clone(),
        wake: wake.try_clone().unwrap(),
        kick: kick.try_clone().unwrap(),
    };
    (side, memory, wake, kick)
}

impl Rig {
    fn new(setup: Setup) -> Self {
        let spec = RegionSpec {
            size: u64::from(setup.chunks) * 4096,
            chunk_size: 4096,
        };
        Self::over(memfd::create("test", spec).unwrap(), setup)
    }

    fn over(region: Region, setup: Setup) -> Self {
        let Setup {
            chunks,
            ring,
            completions,
            manners,
        } = setup;
        let region = Arc::new(region);
        let provider: Arc<dyn MemoryProvider> = RegionProvider::whole(region.clone());
        provider.init(&suited(&region)).unwrap();
        let params = LayoutParams {
            queues: 1,
            completions,
            chunks,
            header_slot: 256,
        };
        let layout = Layout::new(&params).unwrap();
        let (fd, memory) = Shm::create_client_written("test", layout.daemon_size()).unwrap();
        let headers = Mapping::map_shared(fd.as_fd(), layout.headers(), 4096, true).unwrap();
        let (client_side, client_memory, wake, kick) = side();
        let rings =
            DaemonQueue::new(&layout, 0, &memory, &client_memory, Start::default()).unwrap();
        let client =
            ClientQueue::new(&layout, 0, &memory, &client_memory, Start::default()).unwrap();
        let (pool, _) = Pool::new(
            provider.clone(),
            PoolConfig {
                recycle_ring: chunks as usize,
            },
        );
        let control = Arc::new(Event::new().unwrap());
        let config = QueueConfig {
            provider: provider.clone(),
            headers: HeaderSlots {
                memory: Arc::new(headers),
                start: 0,
                slot_size: 256,
                first: ChunkIndex(0),
            },
            split: true,
            ring,
            busy_poll: false,
            zero_copy: ZeroCopy::Auto,
            split_extra: 0,
            unsplit: devrx_driver::Unsplit::default(),
            timestamps: devrx_driver::Timestamps::default(),
        };
        let wire = Wire::default();
        let queue = FakeQueue::new(&wire, 0, &config);
        let (sender, commands) = commands();
        let parts = Parts {
            manners,
            pool,
            region,
            layout,
            place: 0,
            watched: Arc::new(Watched::new(&memory).unwrap()),
            headers: config.headers.memory.clone(),
            memory: memory.clone(),
            rings,
            client: client_side,
            shared: Arc::new(Shared::new(control.clone()).unwrap()),
            commands,
        };
        let handle = Seat::take(&parts).unwrap().start(queue, parts, sender);
        Self {
            wire,
            handle,
            client,
            client_memory,
            daemon_memory: memory,
            wake,
            kick,
            layout,
            control,
            provider,
        }
    }

    fn numbers(&mut self) -> Snapshot {
        let asked = self.handle.ask();
        self.handle.collect(&asked)
    }

    /// Waits until the wire is empty and the numbers say so.
    fn settle(&mut self) -> Snapshot {
        wait_for("the worker takes what is on the wire", || {
            self.wire.waiting(0) == 0
        });
        let arrived = self.wire.arrived(0);
        let mut numbers = self.numbers();
        wait_for("every packet is accounted for", || {
            numbers = self.numbers();
            numbers.packets() == arrived
        });
        numbers
    }

    fn receive(&mut self) -> Vec<Completion> {
        let mut entries = [Completion::default(); 64];
        let count = self.client.completions.take(&mut entries);
        entries[..count].to_vec()
    }

    fn give(&mut self, completions: &[Completion]) {
        let back: Vec<_> = completions
            .iter()
            .map(|c| RefillEntry::new(c.chunk, c.generation))
            .collect();
        assert!(self.client.refills.push(&back));
        self.client.refills.publish();
    }

    /// Ends the queue and checks what must hold however it was treated.
    fn end(self) -> Snapshot {
        let arrived = self.wire.clone();
        self.handle.stop();
        let finished = self.handle.join();
        assert_eq!(finished.leaked, None);
        let numbers = finished.numbers;
        assert_eq!(
            numbers.hold, numbers.release,
            "every chunk went back to the provider"
        );
        assert_eq!(numbers.with_client, 0);
        assert_eq!(
            numbers.packets(),
            arrived.arrived(0),
            "packets = delivered + drops"
        );
        let mut all = Vec::new();
        self.provider.init(&suited(self.provider.region())).unwrap();
        let chunks = self.provider.chunks();
        assert_eq!(
            self.provider.alloc(&mut all, 1000),
            (chunks.end - chunks.start) as usize,
            "all chunks are there"
        );
        numbers
    }
}

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

#[test]
fn a_client_that_cannot_kick_is_looked_after() {
    let mut manners = Setup::default().manners;
    manners.polls_refill = true;
    let mut rig = Rig::new(Setup {
        chunks: 16,
        ring: 16,
        manners,
        ..Setup::default()
    });
    rig.wire.send(0, 16, 1);
    rig.settle();
    let entries = rig.receive();
    wait_for("the worker sleeps", || {
        rig.client.refills.sleeper().is_some()
    });
    rig.give(&entries);
    // Nobody kicks, and nobody asks for numbers, which would wake it.
    wait_for("the ring is read all the same", || {
        rig.client.refills.free() == 16
    });
    rig.end();
}

#[test]
fn a_sleeping_client_is_woken_after_a_batch_or_a_time() {
    let mut manners = Setup::default().manners;
    (manners.wake_batch, manners.wake_timeout) = (4, Duration::from_millis(300));
    let mut rig = Rig::new(Setup {
        manners,
        ..Setup::default()
    });
    let woken = |rig: &Rig, wait: u16| {
        poll(
            &mut [PollFd::new(rig.wake.as_fd(), PollFlags::POLLIN)],
            PollTimeout::from(wait),
        )
        .unwrap()
            == 1
    };
    assert!(rig.client.completions.arm());
    rig.wire.send(0, 3, 1);
    assert!(!woken(&rig, 100), "three of four, and the time is not over");
    assert!(woken(&rig, 5000), "the time is over");
    rig.client.completions.disarm();
    rig.wake.drain();
    rig.receive();
    assert!(rig.client.completions.arm());
    rig.wire.send(0, 4, 1);
    assert!(woken(&rig, 200), "a batch");
    rig.client.completions.disarm();
    rig.wake.drain();
    rig.wire.send(0, 8, 1);
    rig.settle();
    assert!(!woken(&rig, 350), "who does not sleep is not woken");
    rig.end();
}

#[test]
fn everything_a_dead_client_held_is_taken_back() {
    let mut rig = Rig::new(Setup {
        chunks: 32,
        ring: 32,
        ..Setup::default()
    });
    rig.wire.send(0, 32, 1);
    assert_eq!(rig.settle().with_client, 32);
    let read = rig
        .client
        .completions
        .take(&mut [Completion::default(); 10]);
    assert_eq!(read, 10);
    let (fresh, memory, _, _) = side();
    let start = rig.handle.change_consumer(fresh).expect("answered");
    assert_eq!(
        start.completion, 32,
        "the next one starts with an empty ring"
    );
    assert_eq!(rig.numbers().with_client, 0);
    // The dead client's memory means nothing any more.
    rig.client_memory
        .word_to_write(rig.layout.queue(0).unwrap().refill_producer)
        .unwrap()
        .store(0xdead_beef);
    rig.client = ClientQueue::new(&rig.layout, 0, &rig.daemon_memory, &memory, start).unwrap();
    rig.wire.send(0, 32, 1);
    assert_eq!(rig.settle().delivered, 64);
    assert_eq!(rig.receive().len(), 32);
    assert_eq!(rig.handle.fault(), None);
    rig.end();
}

#[test]
fn impossible_indices_end_the_attachment() {
    for which in 0..2 {
        // A ring that fills, so that the worker looks at the client's index.
        let mut rig = Rig::new(Setup {
            completions: 16,
            ..Setup::default()
        });
        let place = rig.layout.queue(0).unwrap();
        let word = [place.refill_producer, place.completion_consumer][which];
        rig.client_memory
            .word_to_write(word)
            .unwrap()
            .store(0x4000_0000);
        rig.wire.send(0, 64, 1);
        rig.settle();
        rig.wire.send(0, 64, 1);
        rig.settle();
        wait_for("control is told", || rig.handle.fault().is_some());
        assert!(
            rig.handle
                .fault()
                .is_some_and(|why| why.contains("indices"))
        );
        let rung = poll(
            &mut [PollFd::new(rig.control.as_fd(), PollFlags::POLLIN)],
            PollTimeout::ZERO,
        )
        .unwrap();
        assert_eq!(rung, 1, "control was rung");
        assert!(rig.end().index_faults > 0);
    }
}

#[test]
fn a_client_that_jams_its_wake_event_cannot_keep_its_queue() {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let mut rig = Rig::new(Setup::default());
    fcntl(rig.wake.as_fd(), FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    nix::unistd::write(&rig.wake, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    assert!(rig.client.completions.arm());
    rig.wire.send(0, 4, 1);
    wait_for("the worker hangs in waking its client", || {
        rig.wire.waiting(0) == 0
    });
    let numbers = rig.settle();
    assert_eq!(numbers.delivered, 4);
    assert!(
        rig.handle.fault().is_some_and(|why| why.contains("wakes")),
        "and the attachment must end"
    );
    rig.end();
}

#[test]
fn a_queue_that_does_not_stop_keeps_its_memory() {
    let rig = Rig::new(Setup::default());
    rig.wire.lock().refuse_stop = usize::MAX;
    rig.handle.stop();
    let finished = rig.handle.join();
    assert!(finished.leaked.is_some());
    assert!(
        !rig.wire.take_log().contains(&"drop 0".to_owned()),
        "neither closed nor freed"
    );
    assert!(finished.numbers.hold > finished.numbers.release);
}

/// A region of huge pages, one of which its client takes out, when no other is left: the next access of the CPU raises SIGBUS.
#[test]
fn a_client_that_takes_its_memory_away_ends_alone() {
    use nix::fcntl::{FallocateFlags, FcntlArg, SealFlag, fallocate, fcntl};
    use nix::sys::memfd::{MFdFlags, memfd_create};
    const PAGES: &str = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages";
    const SIZE: i64 = 2 << 20;
    let before = std::fs::read_to_string(PAGES).unwrap_or_default();
    let count: u32 = before.trim().parse().unwrap_or(0);
    if std::fs::write(PAGES, (count + 1).to_string()).is_err() {
        eprintln!("skipped: huge pages cannot be reserved here (root is needed)");
        return;
    }
    devrx_provider::guard::install().unwrap();
    let adopted = (|| {
        let flags = MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_HUGETLB | MFdFlags::MFD_HUGE_2MB;
        let fd = memfd_create("test", flags).ok()?;
        nix::unistd::ftruncate(&fd, SIZE).ok()?;
        fcntl(&fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_SHRINK)).ok()?;
        let spec = RegionSpec {
            size: SIZE.cast_unsigned(),
            chunk_size: 4096,
        };
        Some((memfd::adopt(fd.try_clone().ok()?, spec).ok()?, fd))
    })();
    let Some((region, fd)) = adopted else {
        std::fs::write(PAGES, &before).unwrap();
        eprintln!("skipped: no huge page could be had");
        return;
    };
    let mut rig = Rig::over(
        region,
        Setup {
            chunks: 512,
            ..Setup::default()
        },
    );
    rig.wire.send(0, 4, 1);
    rig.settle();
    assert_eq!(rig.handle.fault(), None);
    // The page is there, as it is once a NIC has written to it.
    let touched = rig
        .provider
        .region()
        .mapping()
        .unwrap()
        .copy_in(0, &[7; 64]);
    assert!(touched);
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(&fd, punch, 0, SIZE).unwrap();
    std::fs::write(PAGES, &before).unwrap();
    // What a driver does when it looks at a header.
    let mut bytes = [1; 64];
    let mapping = rig.provider.region().mapping().unwrap();
    assert!(mapping.copy_out(0, &mut bytes));
    if !mapping.poisoned() {
        eprintln!("skipped: another huge page was free");
        rig.end();
        return;
    }
    assert_eq!(bytes, [0; 64]);
    rig.wire.send(0, 4, 1);
    rig.settle();
    wait_for("control is told", || rig.handle.fault().is_some());
    assert!(rig.handle.fault().is_some_and(|why| why.contains("pages")));
    rig.end();
}

/// A consumer whose rings lose a page: the attachment ends, and says why.
#[test]
fn rings_that_lose_a_page_end_the_attachment() {
    devrx_provider::guard::install().unwrap();
    let mut rig = Rig::new(Setup::default());
    rig.wire.send(0, 4, 1);
    rig.settle();
    assert_eq!(rig.handle.fault(), None);
    let (mut fresh, memory, ..) = side();
    fresh.watched = Arc::new(Watched::with_a_lost_page(&memory));
    rig.handle.change_consumer(fresh).expect("answered");
    wait_for("control is told", || rig.handle.fault().is_some());
    assert!(rig.handle.fault().is_some_and(|why| why.contains("rings")));
    rig.end();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    /// Whatever a client writes into its rings and words, the worker lives, refuses, and accounts for every packet and chunk.
    #[test]
    fn random_bytes_from_a_client_cost_nothing_but_its_attachment(
        steps in proptest::collection::vec((0u8..6, any::<u32>(), any::<u16>()), 1..60)
    ) {
        let mut rig = Rig::new(Setup::default());
        let place = rig.layout.queue(0).unwrap();
        let mut held: Vec<Completion> = Vec::new();
        let mut honest = 0u64;
        for (what, a, b) in steps {
            match what {
                0 => rig.wire.send(0, (a % 40) as usize, 1 + (b % 3) as usize),
                1 => held.extend(rig.receive()),
                2 => {
                    // Good returns, as far as the ring has room for them.
                    let back: Vec<_> = held.drain(..).map(|c| RefillEntry::new(c.chunk, c.generation)).collect();
                    honest += rig.client.refills.push_some(&back) as u64;
                    rig.client.refills.publish();
                }
                3 => {
                    rig.client.refills.push_some(&[RefillEntry::new(a, b), RefillEntry::new(a % 64, b), RefillEntry::new(a % 64, b)]);
                    rig.client.refills.publish();
                }
                4 => {
                    let words = [place.completion_consumer, place.sleeping, place.refill_producer];
                    let word = rig.client_memory.word_to_write(words[a as usize % 3]).unwrap();
                    word.store(if b % 2 == 0 { a } else { b.into() });
                }
                _ => {
                    rig.numbers();
                }
            }
        }
        rig.settle();
        let numbers = rig.end();
        prop_assert!(numbers.returned <= numbers.completions);
        // Guessing a generation is possible; being credited for more than was delivered is not.
        prop_assert!(honest == 0 || numbers.completions > 0);
    }
}
