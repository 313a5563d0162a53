//! The worker against a NIC in plain memory and clients of all kinds.

use super::*;
use crate::sys::Watched;
use crate::testing::{FakeQueue, HEADER, PAYLOAD, Wire, needs, wait_for};
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
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::Duration;

mod delivery;
mod device;
mod ending;
mod hostile;
mod waking;

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
