//! A model NIC with one queue that receives into a region, whatever memory that is.

use std::os::fd::AsFd;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use devrx_driver::igb::model::IgbModel;
use devrx_driver::igb::{IgbNic, IgbOptions, IgbQueue};
use devrx_driver::{
    Flows, HeaderSlots, Nic, QueueConfig, RxBatch, RxFlags, RxQueue, Timestamps, Unsplit, ZeroCopy,
};
use devrx_pool::{DrainState, Pool, PoolConfig};
use devrx_provider::{
    ChunkIndex, Flush, Mapping, MemoryProvider, Region, RegionProvider, page_size,
};
use nix::sys::memfd::{MFdFlags, memfd_create};

/// The 82576.
const DEVICE: u16 = 0x10c9;
/// Bytes of a header slot.
const SLOT: u32 = 256;
/// Descriptors.
const RING: u32 = 64;
/// Bytes of the headers that [`frame`] makes: Ethernet, IPv4 and UDP.
pub const HEADERS: usize = 14 + 20 + 8;

/// A packet: its header, and where its payload lies in the region.
#[derive(Clone, Debug)]
pub struct Packet {
    /// What is in the header slot.
    pub header: Vec<u8>,
    /// Offset in the region and length, bytes; one a chunk.
    pub payload: Vec<(usize, usize)>,
    chunks: Vec<ChunkIndex>,
}

/// The NIC, its queue and its pool.
pub struct Rig {
    model: Arc<IgbModel>,
    nic: IgbNic<IgbModel>,
    queue: IgbQueue<IgbModel>,
    pool: Pool,
    headers: HeaderSlots,
    region: Arc<Region>,
    /// Reads that pushed writes to a device.
    pub flush_reads: u64,
}

impl Rig {
    /// Opens a NIC's queue over a region. It takes every frame, and splits.
    ///
    /// # Errors
    /// What the NIC refuses, such as memory that it cannot be given.
    pub fn new(region: Arc<Region>) -> Result<Self> {
        let model = IgbModel::new(DEVICE);
        let mut nic = IgbNic::open(Arc::clone(&model), IgbOptions::default())?;
        let provider = RegionProvider::whole(Arc::clone(&region));
        provider.init(&nic.needs())?;
        let headers = HeaderSlots {
            memory: Arc::new(slots(region.chunks())?),
            start: 0,
            slot_size: SLOT,
            first: ChunkIndex(0),
        };
        let config = QueueConfig {
            provider: provider.clone(),
            headers: headers.clone(),
            split: true,
            ring: RING,
            busy_poll: false,
            zero_copy: ZeroCopy::Auto,
            split_extra: 0,
            unsplit: Unsplit::Drop,
            timestamps: Timestamps::Software,
        };
        let (pool, _) = Pool::new(provider, PoolConfig::default());
        let queue = nic.open_queue(0, config)?;
        nic.add_flow(0..=0, 1, &"any".parse()?)?;
        let mut rig = Self {
            model,
            nic,
            queue,
            pool,
            headers,
            region,
            flush_reads: 0,
        };
        rig.queue.refill(&mut rig.pool);
        Ok(rig)
    }

    /// Sends frames through the NIC, and answers what arrived. The chunks stay taken until [`give_back`](Self::give_back).
    ///
    /// # Errors
    /// Memory that cannot be read, and packets without an end.
    pub fn receive(&mut self, frames: &[Vec<u8>]) -> Result<Vec<Packet>> {
        for frame in frames {
            self.model.receive(frame);
        }
        // Memory of a GPU is mapped write-combining: what this processor stored may wait in it, where a NIC's writes never are.
        std::sync::atomic::fence(std::sync::atomic::Ordering::SeqCst);
        let mut packets: Vec<Packet> = Vec::new();
        let mut batch = RxBatch::new();
        while self.queue.poll(&mut batch) > 0 {
            let mut more = false;
            let mut last = None;
            for entry in batch.drain(..) {
                if !more {
                    let mut header = vec![0; entry.header_length.into()];
                    let slot = self.headers.offset_of(entry.chunk);
                    let slot = slot.context("a chunk without a header slot")?;
                    ensure!(self.headers.memory.copy_out(slot, &mut header), "no header");
                    packets.push(Packet {
                        header,
                        payload: Vec::new(),
                        chunks: Vec::new(),
                    });
                }
                let start = self.region.offset_of(entry.chunk);
                let start = usize::try_from(start.context("a chunk outside of the memory")?)?;
                let at = start + usize::from(entry.offset);
                let packet = packets.last_mut().context("no packet")?;
                packet.payload.push((at, entry.length.into()));
                packet.chunks.push(entry.chunk);
                more = entry.flags.contains(RxFlags::MORE);
                last = Some(at + usize::from(entry.length).max(1) - 1);
            }
            ensure!(!more, "a packet came without its end");
            // As the daemon's worker does, between a batch and its publication.
            if let (Flush::ReadPerBatch, Some(at)) = (self.region.flush(), last) {
                let mapping = self.region.mapping().context("the memory is not mapped")?;
                ensure!(mapping.touch(at), "the flush read is outside of the memory");
                self.flush_reads += 1;
            }
        }
        Ok(packets)
    }

    /// Gives a packet's chunks back to the NIC.
    pub fn give_back(&mut self, packet: &Packet) {
        for &chunk in &packet.chunks {
            self.pool.recycle(chunk);
        }
        self.queue.refill(&mut self.pool);
    }

    /// Ends the queue; every chunk must be back.
    ///
    /// # Errors
    /// A queue that does not stop, and chunks that are missing.
    pub fn end(self) -> Result<()> {
        let Self {
            model,
            mut nic,
            mut queue,
            mut pool,
            ..
        } = self;
        nic.close_queue(0)?;
        queue.stop()?;
        queue.reclaim(&mut pool);
        ensure!(
            pool.shutdown().poll() == DrainState::Drained,
            "not every chunk came back when the queue ended"
        );
        // It holds the NIC's mappings of the memory.
        drop(queue);
        ensure!(model.mapped() == 0, "the NIC can still reach memory");
        Ok(())
    }
}

fn slots(count: u32) -> Result<Mapping> {
    let fd = memfd_create(c"devrx-gpu-headers", MFdFlags::MFD_CLOEXEC)?;
    let len = u64::from(count) * u64::from(SLOT);
    let len = len.next_multiple_of(page_size());
    nix::unistd::ftruncate(&fd, i64::try_from(len)?)?;
    Ok(Mapping::map_shared(
        fd.as_fd(),
        0,
        usize::try_from(len)?,
        true,
    )?)
}

/// A UDP packet to port 5000 with a payload; no checksum, which UDP over IPv4 allows.
#[must_use]
pub fn frame(payload: &[u8]) -> Vec<u8> {
    let udp = (payload.len() + 8) as u16;
    let mut ip = [
        0x45, 0, 0, 0, 0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2,
    ];
    ip[2..4].copy_from_slice(&(udp + 20).to_be_bytes());
    let sum: u32 = ip
        .chunks(2)
        .map(|word| u32::from(u16::from_be_bytes([word[0], word[1]])))
        .sum();
    let sum = !((sum & 0xffff) + (sum >> 16)) as u16;
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
    let mut frame = Vec::with_capacity(HEADERS + payload.len());
    frame.extend(IgbModel::STATION);
    frame.extend([2, 0, 0, 0, 0, 1, 8, 0]);
    frame.extend(ip);
    frame.extend([0x30, 0x39, 0x13, 0x88]);
    frame.extend(udp.to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    frame
}
