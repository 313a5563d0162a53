//! A NIC in plain memory, for tests: packets are pushed onto its wire, and everything done to it is written down.

use std::collections::{BTreeMap, VecDeque};
use std::ops::RangeInclusive;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard};

use devrx_driver::flow::FlowRule;
use devrx_driver::{
    DriverError, Flows, Interrupts, Link, LinkState, Nic, NicStatistics, QueueConfig,
    QueueCounters, QueueNeeds, RxChunk, RxFlags, RxQueue, RxSink, Statistics, Timestamps, Unsplit,
};
use devrx_pool::{Pool, Returns};
use devrx_proto::event::Event;
use devrx_provider::{ChunkIndex, MapWay, MemoryProvider};

/// What is on the wire and what was done.
#[derive(Default)]
pub struct State {
    /// Packets that have not arrived, as chunks each, by queue.
    packets: BTreeMap<u32, VecDeque<usize>>,
    arrived: BTreeMap<u32, u64>,
    events: BTreeMap<u32, Arc<Event>>,
    /// What was done to the NIC, in order.
    pub log: Vec<String>,
    /// The n-th rule from here on is refused.
    pub refuse_flow: Option<usize>,
    /// So many more attempts to stop a queue fail.
    pub refuse_stop: usize,
    /// Queues refuse what clients return.
    pub refuse_post: bool,
    /// The NIC has failed.
    pub fault: Option<String>,
    /// Queues refuse to open.
    pub refuse_open: Option<u32>,
}

/// The wire: shared by the NIC, its queues and the test.
#[derive(Clone, Default)]
pub struct Wire(Arc<Mutex<State>>);

impl Wire {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Puts packets of `chunks` chunks each on the wire.
    pub fn send(&self, queue: u32, count: usize, chunks: usize) {
        let mut state = self.lock();
        state
            .packets
            .entry(queue)
            .or_default()
            .extend(std::iter::repeat_n(chunks, count));
        if let Some(event) = state.events.get(&queue) {
            event.notify();
        }
    }

    /// Packets that have not arrived yet.
    pub fn waiting(&self, queue: u32) -> usize {
        self.lock().packets.get(&queue).map_or(0, VecDeque::len)
    }

    pub fn arrived(&self, queue: u32) -> u64 {
        self.lock().arrived.get(&queue).copied().unwrap_or(0)
    }

    fn note(&self, what: String) {
        self.lock().log.push(what);
    }

    /// What was done since the last look.
    pub fn take_log(&self) -> Vec<String> {
        std::mem::take(&mut self.lock().log)
    }
}

/// Payload bytes in each chunk of a packet, and header bytes in its first.
pub const PAYLOAD: u16 = 1000;
pub const HEADER: u16 = 42;

pub struct FakeQueue {
    wire: Wire,
    queue: u32,
    posted: VecDeque<ChunkIndex>,
    capacity: u32,
    counters: QueueCounters,
    event: Arc<Event>,
    stopped: bool,
    /// Keeps the provider alive as a mapping would, and tells when it goes.
    _provider: Arc<dyn MemoryProvider>,
}

impl FakeQueue {
    pub fn new(wire: &Wire, queue: u32, config: &QueueConfig) -> Self {
        let event = Arc::new(Event::new().unwrap());
        wire.lock().events.insert(queue, event.clone());
        Self {
            wire: wire.clone(),
            queue,
            posted: VecDeque::new(),
            capacity: config.ring,
            counters: QueueCounters {
                copied: true,
                exact: true,
                ..QueueCounters::default()
            },
            event,
            stopped: false,
            _provider: config.provider.clone(),
        }
    }
}

impl Drop for FakeQueue {
    fn drop(&mut self) {
        self.wire.note(format!("drop {}", self.queue));
    }
}

impl RxQueue for FakeQueue {
    fn poll<S: RxSink>(&mut self, out: &mut S) -> usize {
        let before = out.room();
        let mut state = self.wire.lock();
        while let Some(chunks) = state
            .packets
            .entry(self.queue)
            .or_default()
            .front()
            .copied()
        {
            if out.room() < chunks {
                break;
            }
            state.packets.entry(self.queue).or_default().pop_front();
            *state.arrived.entry(self.queue).or_default() += 1;
            if self.posted.len() < chunks {
                self.counters.no_descriptor += 1;
                continue;
            }
            self.counters.received += 1;
            for nth in 0..chunks {
                let chunk = self.posted.pop_front().unwrap();
                let mut flags = RxFlags::empty();
                flags.set(RxFlags::MORE, nth + 1 < chunks);
                let header_length = if nth == 0 { HEADER } else { 0 };
                out.push(RxChunk {
                    chunk,
                    offset: 256,
                    length: PAYLOAD,
                    header_length,
                    vlan: 0,
                    rss_hash: 0,
                    flags,
                    flow: 0,
                    timestamp: 0,
                });
            }
        }
        before - out.room()
    }

    fn post<I>(&mut self, returns: Returns<'_, I>) -> bool
    where
        I: ExactSizeIterator<Item = (u32, u16)>,
    {
        let fits = returns.len() <= self.room() as usize && !self.wire.lock().refuse_post;
        if fits {
            returns.take_back(|chunk| self.posted.push_back(chunk));
        }
        fits
    }

    fn refill(&mut self, pool: &mut Pool) -> usize {
        if self.stopped {
            return 0;
        }
        let mut chunks = vec![ChunkIndex(0); self.capacity as usize - self.posted.len()];
        let got = pool.take(&mut chunks);
        self.posted.extend(&chunks[..got]);
        got
    }

    fn posted(&self) -> u32 {
        u32::try_from(self.posted.len()).unwrap()
    }

    fn capacity(&self) -> u32 {
        self.capacity
    }

    fn room(&self) -> u32 {
        if self.stopped {
            return 0;
        }
        self.capacity - self.posted()
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.event.as_fd()
    }

    fn arm(&mut self) -> bool {
        self.event.drain();
        self.wire.waiting(self.queue) == 0
    }

    fn counters(&self) -> QueueCounters {
        self.counters
    }

    fn stop(&mut self) -> Result<(), DriverError> {
        let mut state = self.wire.lock();
        if state.refuse_stop > 0 {
            state.refuse_stop -= 1;
            return Err(DriverError::QueueClosed {
                nic: "fake0".into(),
                queue: self.queue,
            });
        }
        state.log.push(format!("stop {}", self.queue));
        self.stopped = true;
        Ok(())
    }

    fn reclaim(&mut self, pool: &mut Pool) {
        if self.stopped {
            self.wire.note(format!("reclaim {}", self.queue));
            for chunk in self.posted.drain(..) {
                pool.recycle(chunk);
            }
        }
    }
}

/// The NIC.
pub struct FakeNic {
    pub wire: Wire,
    queues: u32,
}

impl FakeNic {
    pub fn new(wire: &Wire, queues: u32) -> Self {
        Self {
            wire: wire.clone(),
            queues,
        }
    }
}

pub fn needs() -> QueueNeeds {
    QueueNeeds {
        min_chunk: 2048,
        max_chunk: 4096,
        chunk_multiple: 2048,
        cpu_reads_payload: true,
        ways: &[MapWay::HostAddress],
    }
}

impl Nic for FakeNic {
    type Queue = FakeQueue;

    fn name(&self) -> &str {
        "fake0"
    }

    fn driver(&self) -> &str {
        "fake"
    }

    fn queues(&self) -> u32 {
        self.queues
    }

    fn needs(&self) -> QueueNeeds {
        needs()
    }

    fn fault(&self) -> Option<String> {
        self.wire.lock().fault.clone()
    }

    fn timestamps(&self) -> Result<(), String> {
        Ok(())
    }

    fn open_queue(&mut self, index: u32, config: QueueConfig) -> Result<FakeQueue, DriverError> {
        // The queue takes a descriptor.
        let full = Event::new().is_err();
        if full || self.wire.lock().refuse_open == Some(index) {
            return Err(DriverError::QueueBusy {
                nic: "fake0".into(),
                queue: index,
                why: "the test says so".into(),
            });
        }
        let unsplit = match config.unsplit {
            Unsplit::Deliver => String::new(),
            other => format!(" {other:?}"),
        };
        let stamps = match config.timestamps {
            Timestamps::Software => "",
            Timestamps::Nic => " stamped",
        };
        self.wire.note(format!("open {index}{unsplit}{stamps}"));
        Ok(FakeQueue::new(&self.wire, index, &config))
    }

    fn close_queue(&mut self, queue: u32) -> Result<(), DriverError> {
        self.wire.note(format!("close {queue}"));
        Ok(())
    }
}

impl Drop for FakeNic {
    fn drop(&mut self) {
        self.wire.note("drop the NIC".into());
    }
}

impl Flows for FakeNic {
    fn add_flow(
        &mut self,
        queues: RangeInclusive<u32>,
        id: u16,
        rule: &FlowRule,
    ) -> Result<Vec<String>, DriverError> {
        let mut state = self.wire.lock();
        if let Some(left) = &mut state.refuse_flow {
            if *left == 0 {
                state.refuse_flow = None;
                let why = "the test says so".to_owned();
                return Err(DriverError::Flow {
                    nic: "fake0".into(),
                    queue: *queues.start(),
                    rule: rule.to_string(),
                    why,
                });
            }
            *left -= 1;
        }
        for queue in queues {
            state.log.push(format!("add {queue}/{id}"));
        }
        Ok(vec!["a note".into()])
    }

    fn remove_flow(&mut self, queues: RangeInclusive<u32>, id: u16) -> Result<(), DriverError> {
        for queue in queues {
            self.wire.note(format!("remove {queue}/{id}"));
        }
        Ok(())
    }

    fn queue_packets(&self, queue: u32) -> u64 {
        self.wire.arrived(queue)
    }
}

impl Link for FakeNic {
    fn link(&self) -> Result<LinkState, DriverError> {
        Ok(LinkState::default())
    }
}

impl Statistics for FakeNic {
    fn statistics(&self) -> Result<NicStatistics, DriverError> {
        Ok(NicStatistics::default())
    }
}

impl Interrupts for FakeNic {
    fn set_moderation(&mut self, _: u32, _: u32) -> Result<(), DriverError> {
        Ok(())
    }
}

/// Waits until `done`, five seconds at most.
pub fn wait_for(what: &str, mut done: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + std::time::Duration::from_secs(5);
    while !done() {
        assert!(std::time::Instant::now() < end, "in vain: {what}");
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
}
