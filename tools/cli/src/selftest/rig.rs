//! A queue of the NIC with memory of its own, and frames through it.

use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use devrx_driver::{
    HeaderSlots, Owned, QueueConfig, QueueCounters, RxBatch, RxFlags, RxQueue, Timestamps,
    Transmit, Unsplit, ZeroCopy,
};
use devrx_pool::{DrainState, Pool, PoolConfig};
use devrx_provider::{
    ChunkIndex, Mapping, MemoryProvider, Region, RegionProvider, RegionSpec, memfd, page_size,
};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// Bytes of a chunk.
pub const CHUNK: u32 = 2048;
/// Bytes of a header slot, as the daemon has them by default.
pub const SLOT: u32 = 256;
/// Chunks that the NIC gets, and as many that it does not.
const CHUNKS: u32 = 512;
/// Descriptors.
const RING: u32 = 128;
/// What memory holds before the NIC writes to it.
const CANARY: u8 = 0xa5;
/// How long a frame may take through the NIC.
const PATIENCE: Duration = Duration::from_millis(if cfg!(test) {
    // A model in the same process answers at once.
    100
} else {
    2000
});

/// How a queue treats what it receives.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    /// Headers are split off.
    pub split: bool,
    /// What becomes of frames without a header to split off.
    pub unsplit: Unsplit,
    /// Bytes of a header slot.
    pub slot: u32,
}

/// A frame as it arrived.
#[derive(Clone, Debug)]
pub struct Packet {
    /// What was in the header slot.
    pub header: Vec<u8>,
    /// What was in the chunks.
    pub payload: Vec<u8>,
    /// What the NIC says of it.
    pub flags: RxFlags,
}

/// An open queue.
pub struct Rig<N: Owned> {
    /// The queue.
    pub queue: N::Queue,
    number: u32,
    pool: Option<Pool>,
    region: Arc<Region>,
    headers: HeaderSlots,
}

impl<N: Owned> Rig<N> {
    /// Opens queue `number` and gives it chunks; it takes every frame.
    ///
    /// # Errors
    /// What the system or the NIC refused.
    pub fn open(nic: &mut N, number: u32, manner: Manner) -> Result<Self> {
        let spec = RegionSpec {
            size: u64::from(2 * CHUNKS * CHUNK),
            chunk_size: CHUNK,
        };
        let region = Arc::new(memfd::create("devrx-selftest", spec)?);
        let mapping = region.mapping().context("the memory is not mapped")?;
        fill(mapping, 0, mapping.len())?;
        // Only the first share is the NIC's.
        let shares = RegionProvider::split(Arc::clone(&region), 2)?;
        let provider = shares.into_iter().next().context("no memory")?;
        let chunks = provider.chunks();
        let headers = HeaderSlots {
            memory: Arc::new(slots(chunks.end - chunks.start, manner.slot)?),
            start: 0,
            slot_size: manner.slot,
            first: ChunkIndex(chunks.start),
        };
        provider.init(&nic.needs())?;
        let config = QueueConfig {
            provider: provider.clone(),
            headers: headers.clone(),
            split: manner.split,
            ring: RING,
            busy_poll: false,
            zero_copy: ZeroCopy::Auto,
            split_extra: 0,
            unsplit: manner.unsplit,
            timestamps: Timestamps::Software,
        };
        let (pool, _) = Pool::new(provider, PoolConfig::default());
        let queue = nic.open_queue(number, config)?;
        let mut rig = Self {
            queue,
            number,
            pool: Some(pool),
            region,
            headers,
        };
        rig.refill()?;
        Ok(rig)
    }

    /// Has the NIC bring everything to this queue.
    ///
    /// # Errors
    /// What the NIC refused.
    pub fn take_all(&self, nic: &mut N) -> Result<()> {
        nic.add_flow(self.number..=self.number, 1, &"any".parse()?)?;
        Ok(())
    }

    fn refill(&mut self) -> Result<()> {
        let pool = self.pool.as_mut().context("the pool is gone")?;
        self.queue.refill(pool);
        Ok(())
    }

    /// Sends `frames` and answers what came back: `expected` packets, or what came until the time was up.
    ///
    /// # Errors
    /// A NIC that sends nothing, and memory that cannot be read.
    pub fn exchange(
        &mut self,
        sender: &mut N::Transmitter,
        frames: &[&[u8]],
        expected: usize,
    ) -> Result<Vec<Packet>> {
        let mut packets = Vec::new();
        let mut waiting = frames.iter();
        let mut sent = 0;
        let mut end = Instant::now() + PATIENCE;
        loop {
            // No more on the way than the ring takes, whatever their size.
            while sent < packets.len() + (RING / 8) as usize
                && let Some(frame) = waiting.next()
            {
                sender.send(frame)?;
                sent += 1;
            }
            let before = packets.len();
            self.receive(&mut packets)?;
            if packets.len() > before {
                end = Instant::now() + PATIENCE;
            }
            if (packets.len() >= expected && sent == frames.len()) || Instant::now() >= end {
                return Ok(packets);
            }
            if packets.len() == before {
                std::thread::sleep(Duration::from_micros(50));
            }
        }
    }

    /// Takes what has arrived, and gives the chunks back as they were before.
    ///
    /// # Errors
    /// Entries that cannot be, and memory that cannot be read.
    pub fn receive(&mut self, packets: &mut Vec<Packet>) -> Result<()> {
        let mut batch = RxBatch::new();
        self.queue.poll(&mut batch);
        let mapping = self.region.mapping().context("the memory is not mapped")?;
        let mut more = false;
        for entry in &batch {
            if !more {
                let mut header = vec![0; entry.header_length.into()];
                let slot = self.headers.offset_of(entry.chunk);
                let slot = slot.context("a chunk without a header slot")?;
                ensure!(
                    self.headers.memory.copy_out(slot, &mut header),
                    "the header slots cannot be read"
                );
                packets.push(Packet {
                    header,
                    payload: Vec::new(),
                    flags: entry.flags,
                });
            }
            let start = self.region.offset_of(entry.chunk);
            let start = usize::try_from(start.context("a chunk outside the memory")?)?;
            let mut payload = vec![0; entry.length.into()];
            ensure!(
                mapping.copy_out(start + usize::from(entry.offset), &mut payload),
                "the memory cannot be read"
            );
            if let Some(packet) = packets.last_mut() {
                packet.payload.extend(payload);
            }
            more = entry.flags.contains(RxFlags::MORE);
            fill(mapping, start, CHUNK as usize)?;
            let pool = self.pool.as_mut().context("the pool is gone")?;
            pool.recycle(entry.chunk);
        }
        ensure!(!more, "a packet came without its end");
        self.refill()
    }

    /// Whether the memory beside that which the NIC was given is as it was.
    ///
    /// # Errors
    /// Where it is not, or cannot be read.
    pub fn untouched(&self) -> Result<()> {
        let mapping = self.region.mapping().context("the memory is not mapped")?;
        let mut chunk = vec![0; CHUNK as usize];
        for at in CHUNKS..2 * CHUNKS {
            let start = (at * CHUNK) as usize;
            ensure!(mapping.copy_out(start, &mut chunk), "it cannot be read");
            if let Some(byte) = chunk.iter().position(|&byte| byte != CANARY) {
                bail!("byte {byte} of chunk {at}, which the NIC was not given, was written");
            }
        }
        Ok(())
    }

    /// Ends the queue; every chunk must be back.
    ///
    /// # Errors
    /// A queue that does not stop, and chunks that are missing.
    pub fn end(mut self, nic: &mut N) -> Result<QueueCounters> {
        nic.close_queue(self.number)?;
        self.queue.stop()?;
        let mut left = Vec::new();
        loop {
            let before = left.len();
            self.receive(&mut left)?;
            if left.len() == before {
                break;
            }
        }
        let counters = self.queue.counters();
        let mut pool = self.pool.take().context("the pool is gone")?;
        self.queue.reclaim(&mut pool);
        ensure!(
            pool.shutdown().poll() == DrainState::Drained,
            "not every chunk came back when the queue ended"
        );
        self.untouched()?;
        Ok(counters)
    }
}

fn slots(count: u32, size: u32) -> Result<Mapping> {
    let fd = memfd_create(c"devrx-selftest-headers", MFdFlags::MFD_CLOEXEC)?;
    let len = u64::from(count * size).next_multiple_of(page_size());
    nix::unistd::ftruncate(&fd, i64::try_from(len)?)?;
    let mapping = Mapping::map_shared(fd.as_fd(), 0, usize::try_from(len)?, true)?;
    Ok(mapping)
}

fn fill(mapping: &Mapping, start: usize, len: usize) -> Result<()> {
    let canary = [CANARY; CHUNK as usize];
    for at in (start..start + len).step_by(canary.len()) {
        ensure!(mapping.copy_in(at, &canary), "the memory cannot be written");
    }
    Ok(())
}
