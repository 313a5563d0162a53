//! A network namespace of its own for a test, with a pair of veth interfaces, and the parts of a queue.
#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each test program uses what it needs"
)]

pub mod packet_socket;

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use devrx_driver::afxdp::{AfXdpNic, AfXdpOptions, AfXdpQueue};
use devrx_driver::{
    Flows, HeaderSlots, Nic, QueueConfig, RxBatch, RxChunk, RxFlags, RxQueue, ZeroCopy,
};
use devrx_pool::{DrainState, Pool, PoolConfig};
use devrx_provider::{
    ChunkIndex, Mapping, MemoryProvider, Region, RegionProvider, RegionSpec, memfd,
};

/// Runs `body` on a thread with its own network namespace, in which `rx0` and `tx0` are the ends of a veth pair with `queues` queues and this
/// MTU. Nothing outlives the thread. Says so when it cannot, which takes root.
pub fn in_namespace(mtu: u32, queues: u32, body: impl FnOnce() + Send + 'static) {
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("skipped: not root: network namespaces and AF_XDP sockets need it");
        return;
    }
    let thread = std::thread::spawn(move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("unshare");
        let n = queues;
        ip(&format!(
            "link add rx0 numtxqueues {n} numrxqueues {n} type veth peer name tx0 numtxqueues {n} numrxqueues {n}"
        ));
        for end in ["rx0", "tx0"] {
            // No router solicitations and the like: what arrives is what the test sends.
            // Of this thread's network namespace.
            let switch = format!("/proc/sys/net/ipv6/conf/{end}/disable_ipv6");
            std::fs::write(&switch, "1").expect(&switch);
            ip(&format!("link set {end} mtu {mtu} up"));
        }
        body();
    });
    if let Err(panic) = thread.join() {
        std::panic::resume_unwind(panic);
    }
}

pub fn ip(arguments: &str) {
    run("ip", arguments);
}

pub fn run(program: &str, arguments: &str) -> String {
    let output = Command::new(program)
        .args(arguments.split_whitespace())
        .output()
        .expect(program);
    let text = format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    assert!(output.status.success(), "{program} {arguments}: {text}");
    text
}

/// A queue with its pool and header slots, over the whole of one memfd region.
pub struct Setup {
    pub queue: AfXdpQueue,
    pub pool: Pool,
    pub region: Arc<Region>,
    pub slots: HeaderSlots,
    provider: Arc<RegionProvider>,
}

/// What to make a queue of.
#[derive(Clone, Copy)]
pub struct Wanted {
    pub index: u32,
    pub chunk: u32,
    pub chunks: u32,
    pub ring: u32,
    pub split: bool,
    pub busy_poll: bool,
}

impl Default for Wanted {
    fn default() -> Self {
        Self {
            index: 0,
            chunk: 4096,
            chunks: 512,
            ring: 256,
            split: true,
            busy_poll: false,
        }
    }
}

pub const SLOT: u32 = 256;

pub fn open_nic() -> AfXdpNic {
    AfXdpNic::open("rx0", AfXdpOptions::default()).expect("the interface can be taken")
}

pub fn config(wanted: Wanted) -> (QueueConfig, Arc<RegionProvider>) {
    let spec = RegionSpec {
        size: u64::from(wanted.chunks) * u64::from(wanted.chunk),
        chunk_size: wanted.chunk,
    };
    let region = Arc::new(memfd::create("devrx-test", spec).expect("memfd"));
    let provider = RegionProvider::whole(region);
    let memory = Arc::new(slot_memory(wanted.chunks as usize * SLOT as usize));
    let headers = HeaderSlots {
        memory,
        start: 0,
        slot_size: SLOT,
        first: ChunkIndex(0),
    };
    let config = QueueConfig {
        provider: provider.clone(),
        headers,
        split: wanted.split,
        ring: wanted.ring,
        busy_poll: wanted.busy_poll,
        zero_copy: ZeroCopy::Auto,
        split_extra: 0,
        unsplit: devrx_driver::Unsplit::default(),
        timestamps: devrx_driver::Timestamps::default(),
    };
    (config, provider)
}

fn slot_memory(len: usize) -> Mapping {
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use std::os::fd::AsFd;
    let fd = memfd_create(c"devrx-test-slots", MFdFlags::MFD_CLOEXEC).expect("memfd");
    nix::unistd::ftruncate(&fd, len as i64).expect("ftruncate");
    Mapping::map_shared(fd.as_fd(), 0, len, true).expect("mmap")
}

impl Setup {
    pub fn new(nic: &mut AfXdpNic, wanted: Wanted) -> Self {
        let (config, provider) = config(wanted);
        provider.init(&nic.needs()).expect("the memory fits");
        let (pool, _) = Pool::new(provider.clone(), PoolConfig::default());
        let (slots, region) = (config.headers.clone(), Arc::clone(provider.region()));
        let queue = nic
            .open_queue(wanted.index, config)
            .expect("the queue opens");
        Self {
            queue,
            pool,
            region,
            slots,
            provider,
        }
    }

    /// Polls and refills until `count` frames are there or nothing came for a while; the frames rejoined.
    pub fn receive(&mut self, count: usize) -> Vec<Frame> {
        let mut frames = Vec::new();
        let mut quiet = Instant::now();
        while frames.len() < count && quiet.elapsed() < Duration::from_millis(500) {
            self.queue.refill(&mut self.pool);
            if self.poll_into(&mut frames) > 0 {
                quiet = Instant::now();
            }
        }
        frames
    }

    /// One poll; chunks go straight back to the pool.
    pub fn poll_into(&mut self, frames: &mut Vec<Frame>) -> usize {
        let mut batch = RxBatch::new();
        let entries = self.queue.poll(&mut batch);
        assert_eq!(entries, batch.len());
        let mut parts = Vec::new();
        for entry in &batch {
            parts.push(*entry);
            if !entry.flags.contains(RxFlags::MORE) {
                frames.push(self.frame(&parts));
                parts.clear();
            }
        }
        assert!(parts.is_empty(), "a batch ends with a whole packet");
        for entry in batch {
            self.pool.recycle(entry.chunk);
        }
        entries
    }

    fn frame(&self, parts: &[RxChunk]) -> Frame {
        let mapping = self.region.mapping().expect("mapped");
        let first = parts[0];
        let mut header = vec![0; usize::from(first.header_length)];
        let slot = self
            .slots
            .offset_of(first.chunk)
            .expect("a slot for each chunk");
        assert!(self.slots.memory.copy_out(slot, &mut header));
        let mut payload = Vec::new();
        for part in parts {
            let at = payload.len();
            payload.resize(at + usize::from(part.length), 0);
            let offset = self.region.offset_of(part.chunk).expect("in the region") as usize
                + usize::from(part.offset);
            assert!(mapping.copy_out(offset, &mut payload[at..]));
        }
        Frame {
            header,
            payload,
            first,
            parts: parts.len(),
        }
    }

    /// Ends the queue the way it is to be ended; what had arrived is returned. Everything is accounted for, and every packet the program sent
    /// here is received or in a drop counter.
    pub fn finish(self, nic: &mut AfXdpNic, received: u64) -> Vec<Frame> {
        self.finish_from(nic, received, 0)
    }

    /// The same for a queue that was opened when `before` packets had been sent to its like.
    pub fn finish_from(mut self, nic: &mut AfXdpNic, received: u64, before: u64) -> Vec<Frame> {
        let index = self.queue.index();
        nic.close_queue(index).expect("close_queue");
        self.queue.stop().expect("stop");
        let mut rest = Vec::new();
        while self.poll_into(&mut rest) > 0 {}
        let counters = self.queue.counters();
        let matched = nic.queue_packets(index) - before;
        let drops: u64 = counters.drops().iter().map(|(_, count)| count).sum();
        assert!(
            counters.exact && counters.copied,
            "veth copies: {counters:?}"
        );
        assert_eq!(
            counters.received,
            received + rest.len() as u64,
            "{counters:?}"
        );
        assert_eq!(
            matched,
            counters.received + drops,
            "packets = received + drops: {counters:?}"
        );
        self.queue.reclaim(&mut self.pool);
        assert_eq!(self.queue.posted(), 0);
        let draining = self.pool.shutdown();
        assert!(
            matches!(draining.poll(), DrainState::Drained),
            "every chunk is back: {:?}",
            draining.counts()
        );
        drop(self.queue);
        self.provider.uninstall();
        rest
    }
}

/// A received frame.
#[derive(Clone, Debug)]
pub struct Frame {
    pub header: Vec<u8>,
    pub payload: Vec<u8>,
    pub first: RxChunk,
    pub parts: usize,
}

impl Frame {
    pub fn whole(&self) -> Vec<u8> {
        [self.header.as_slice(), self.payload.as_slice()].concat()
    }
}

/// An Ethernet, IPv4, UDP frame to port `port` with `payload` bytes of a pattern that begins with `number`.
pub fn udp(port: u16, number: u32, payload: usize) -> Vec<u8> {
    let total = 20 + 8 + payload;
    let mut frame = vec![0x02, 0, 0, 0, 0, 1, 0x02, 0, 0, 0, 0, 2, 0x08, 0x00];
    frame.extend([0x45, 0]);
    frame.extend((total as u16).to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 9, 0, 2, 10, 9, 0, 1]);
    frame.extend(4000_u16.to_be_bytes());
    frame.extend(port.to_be_bytes());
    frame.extend(((8 + payload) as u16).to_be_bytes());
    frame.extend([0, 0]);
    let pattern = number
        .to_be_bytes()
        .into_iter()
        .chain((0_u32..).map(|at| (at.wrapping_mul(31).wrapping_add(number) >> 2) as u8));
    frame.extend(pattern.take(payload));
    frame
}
