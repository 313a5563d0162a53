//! Queues and their memory as the daemon would have them, for tests of a NIC on its model.

use std::os::fd::AsFd;
use std::sync::Arc;

use devrx_pool::{DrainState, Pool, PoolConfig};
use devrx_provider::{
    ChunkIndex, Mapping, MemoryProvider, Region, RegionProvider, RegionSpec, memfd,
};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{
    HeaderSlots, Nic, QueueConfig, RxBatch, RxFlags, RxQueue, Timestamps, Unsplit, ZeroCopy,
};

/// The memory of queues, and what becomes of packets in it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub queues: u32,
    pub chunks: u32,
    pub chunk: u32,
    pub slot: u32,
    pub ring: u32,
    pub split: bool,
    pub unsplit: Unsplit,
    pub timestamps: Timestamps,
}

/// A packet as a client sees it.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub header: Vec<u8>,
    pub payload: Vec<u8>,
    pub chunks: Vec<u32>,
    pub flags: RxFlags,
    pub flow: u16,
    pub vlan: u16,
    pub hash: u32,
    pub timestamp: u64,
}

impl Packet {
    pub(crate) fn frame(&self) -> Vec<u8> {
        [&self.header[..], &self.payload[..]].concat()
    }
}

/// Whether `fd` can be read within `milliseconds`.
pub(crate) fn readable(fd: impl AsFd, milliseconds: u16) -> bool {
    let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
    poll(&mut fds, PollTimeout::from(milliseconds)).unwrap() > 0
}

/// One queue with its pool.
pub(crate) struct Queue<Q> {
    pub queue: Q,
    pub pool: Option<Pool>,
    pub config: QueueConfig,
}

/// A NIC on its model, and its queues.
pub(crate) struct Rig<N: Nic, M> {
    pub model: Arc<M>,
    pub nic: N,
    pub queues: Vec<Queue<N::Queue>>,
    pub region: Arc<Region>,
}

pub(crate) fn slots(count: u32, size: u32) -> Arc<Mapping> {
    let fd = nix::sys::memfd::memfd_create(c"devrx-test", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)
        .unwrap();
    let len = (count * size).next_multiple_of(4096);
    nix::unistd::ftruncate(&fd, i64::from(len)).unwrap();
    Arc::new(Mapping::map_shared(fd.as_fd(), 0, len as usize, true).unwrap())
}

impl Shape {
    /// The memory of its queues.
    pub(crate) fn configs(&self) -> (Arc<Region>, Vec<QueueConfig>) {
        // Memory of no chunks cannot be had.
        let queues = self.queues.max(1);
        let region = Arc::new(
            memfd::create(
                "devrx-test",
                RegionSpec {
                    size: u64::from(queues * self.chunks * self.chunk).next_multiple_of(4096),
                    chunk_size: self.chunk,
                },
            )
            .unwrap(),
        );
        let providers = RegionProvider::split(Arc::clone(&region), queues).unwrap();
        let configs = providers.into_iter().map(|provider| {
            let chunks = provider.chunks();
            QueueConfig {
                headers: HeaderSlots {
                    memory: slots(chunks.end - chunks.start, self.slot),
                    start: 0,
                    slot_size: self.slot,
                    first: ChunkIndex(chunks.start),
                },
                provider,
                split: self.split,
                ring: self.ring,
                busy_poll: false,
                zero_copy: ZeroCopy::Auto,
                split_extra: 0,
                unsplit: self.unsplit,
                timestamps: self.timestamps,
            }
        });
        (Arc::clone(&region), configs.collect())
    }
}

impl<N: Nic, M> Rig<N, M> {
    /// All queues open and filled, no rules.
    pub(crate) fn over(model: Arc<M>, mut nic: N, shape: Shape) -> Self {
        let (region, configs) = shape.configs();
        let queues = configs
            .into_iter()
            .take(shape.queues as usize)
            .enumerate()
            .map(|(index, config)| Queue::open(&mut nic, index as u32, config))
            .collect();
        Self {
            model,
            nic,
            queues,
            region,
        }
    }

    /// The rule `any` with id 7 on one queue.
    pub(crate) fn any(&mut self, queue: u32) {
        self.rule(queue, 7, "any");
    }

    pub(crate) fn rule(&mut self, queue: u32, id: u16, rule: &str) {
        self.nic
            .add_flow(queue..=queue, id, &rule.parse().unwrap())
            .unwrap();
    }

    /// All that a queue has; its chunks go back to the pool.
    pub(crate) fn drain(&mut self, queue: usize) -> Vec<Packet> {
        let mut packets = Vec::new();
        loop {
            let got = self.poll(queue);
            if got.is_empty() {
                return packets;
            }
            for packet in &got {
                for &chunk in &packet.chunks {
                    self.queues[queue].recycle(chunk);
                }
            }
            packets.extend(got);
            self.queues[queue].refill();
        }
    }

    /// One poll; the chunks are the caller's.
    pub(crate) fn poll(&mut self, queue: usize) -> Vec<Packet> {
        let mut batch = RxBatch::new();
        let queue = &mut self.queues[queue];
        let count = queue.queue.poll(&mut batch);
        assert_eq!(count, batch.len());
        let mut packets: Vec<Packet> = Vec::new();
        let mut more = false;
        for entry in &batch {
            if !more {
                let mut header = vec![0; usize::from(entry.header_length)];
                if entry.header_length > 0 {
                    let slot = queue.config.headers.offset_of(entry.chunk).unwrap();
                    assert!(queue.config.headers.memory.copy_out(slot, &mut header));
                }
                packets.push(Packet {
                    header,
                    payload: Vec::new(),
                    chunks: Vec::new(),
                    flags: entry.flags,
                    flow: entry.flow,
                    vlan: entry.vlan,
                    hash: entry.rss_hash,
                    timestamp: entry.timestamp,
                });
            }
            let at = self.region.offset_of(entry.chunk).unwrap() as usize;
            let mut payload = vec![0; usize::from(entry.length)];
            let at = at + usize::from(entry.offset);
            assert!(self.region.mapping().unwrap().copy_out(at, &mut payload));
            let packet = packets.last_mut().unwrap();
            packet.payload.extend(payload);
            packet.chunks.push(entry.chunk.0);
            more = entry.flags.contains(RxFlags::MORE);
        }
        assert!(!more, "packets come whole");
        packets
    }

    /// Ends every queue as the daemon does, and sees that nothing is missing.
    pub(crate) fn end_queues(&mut self) {
        for index in 0..self.queues.len() {
            self.nic.close_queue(index as u32).unwrap();
        }
        for queue in self.queues.drain(..) {
            queue.end();
        }
    }
}

impl<Q: RxQueue> Queue<Q> {
    pub(crate) fn open<N: Nic<Queue = Q>>(nic: &mut N, index: u32, config: QueueConfig) -> Self {
        config.provider.init(&nic.needs()).unwrap();
        let provider: Arc<dyn MemoryProvider> = config.provider.clone();
        let (pool, _) = Pool::new(provider, PoolConfig::default());
        let queue = nic.open_queue(index, config.clone()).unwrap();
        let mut new = Self {
            queue,
            pool: Some(pool),
            config,
        };
        new.refill();
        new
    }

    pub(crate) fn refill(&mut self) -> usize {
        self.queue.refill(self.pool.as_mut().unwrap())
    }

    pub(crate) fn recycle(&mut self, chunk: u32) {
        self.pool.as_mut().unwrap().recycle(ChunkIndex(chunk));
    }

    /// Stops, drains, gives everything back; every chunk is accounted for.
    pub(crate) fn end(mut self) {
        self.queue.stop().unwrap();
        let mut batch = RxBatch::new();
        while self.queue.poll(&mut batch) > 0 {
            for entry in batch.drain(..) {
                self.recycle(entry.chunk.0);
            }
        }
        let mut pool = self.pool.take().unwrap();
        self.queue.reclaim(&mut pool);
        assert_eq!(pool.shutdown().poll(), DrainState::Drained);
        let counters = self.queue.counters();
        assert_eq!(counters.refused_chunks, 0);
    }
}

/// An Ethernet frame with IPv4 and UDP, `len` bytes in all (at least 60), checksums right, payload a pattern of its ports.
pub(crate) fn udp(src_port: u16, dst_port: u16, len: usize) -> Vec<u8> {
    udp_to([0x52, 0x54, 0, 0, 0, 0x10], src_port, dst_port, len)
}

/// A broadcast that cannot be split.
pub(crate) fn arp() -> Vec<u8> {
    let mut frame = [&[0xff; 6][..], &[2, 0, 0, 0, 0, 1], &[8, 6]].concat();
    frame.resize(60, 0x5a);
    frame
}

/// The same to another address.
pub(crate) fn udp_to(to: [u8; 6], src_port: u16, dst_port: u16, len: usize) -> Vec<u8> {
    let payload: Vec<u8> = (0..len - 42)
        .map(|at| {
            (at as u16)
                .wrapping_mul(31)
                .wrapping_add(src_port ^ dst_port) as u8
        })
        .collect();
    let mut frame = Vec::new();
    etherparse::PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], to)
        .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
        .udp(src_port, dst_port)
        .write(&mut frame, &payload)
        .unwrap();
    frame
}
