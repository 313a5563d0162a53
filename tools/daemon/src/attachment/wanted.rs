//! What is asked for: the same from a client's request and from the configuration, with every default filled in.

use std::ops::RangeInclusive;
use std::os::fd::OwnedFd;
use std::time::Duration;

use devrx_driver::flow::FlowRule;
use devrx_driver::{QueueNeeds, Timestamps, Unsplit, ZeroCopy};
use devrx_proto::layout::{Layout, LayoutParams, MAX_COMPLETIONS, MIN_COMPLETIONS};
use devrx_proto::message::{self, AttachRequest};
use devrx_provider::RegionProvider;

use super::bar::BarName;
use super::gpu::GpuName;
use crate::config::{PlannedAttachment, PollMode, QueueSettings};
use crate::error::Refused;
use crate::policy;

/// Completions after which a sleeping client is woken, where nobody says.
const WAKE_BATCH: u32 = 32;
/// Time after which it is woken with fewer, where nobody says.
const WAKE_TIMEOUT: Duration = Duration::from_micros(50);
/// Bytes of a header slot, where nobody says.
const HEADER_SLOT: u32 = 256;
/// Bytes of a chunk, where nobody says and the NIC takes it.
const CHUNK: u32 = 4096;
/// Chunks posted at once, at most, where nobody says.
const RING: u32 = 2048;
/// Most chunks that can be posted at once: what AF_XDP and NICs take at the outside.
const MAX_RING: u32 = 1 << 16;
/// Most rules of a request.
const MAX_FLOWS: usize = 256;

/// Where the region comes from.
#[derive(Debug)]
pub enum Source {
    /// The daemon makes it.
    Kind(String),
    /// The client brings it.
    Brought(String, OwnedFd),
    /// A BAR of another function, which the daemon opens.
    Bar(BarName),
    /// Memory of a GPU, which the daemon allocates.
    Gpu(GpuName),
}

impl Source {
    /// What a request says, and brought.
    ///
    /// # Errors
    ///
    /// A BAR or a GPU that is none, or a descriptor that it has no use for.
    pub fn new(kind: &str, fd: Option<OwnedFd>) -> Result<Self, Refused> {
        if let Some(gpu) = GpuName::parse(kind) {
            return match fd {
                Some(_) => Err(Refused::invalid(
                    "memory of the kinds cuda and hip is allocated by the daemon; hand over no descriptor, or a dma-buf with the kind dmabuf",
                )),
                None => gpu.map(Self::Gpu).map_err(Refused::invalid),
            };
        }
        match (BarName::parse(kind), fd) {
            (Some(_), Some(_)) => Err(Refused::invalid(
                "memory of the kind pci is opened by the daemon; hand over no descriptor, or a dma-buf with the kind dmabuf",
            )),
            (Some(bar), None) => bar.map(Self::Bar).map_err(Refused::invalid),
            (None, Some(fd)) => Ok(Self::Brought(kind.to_owned(), fd)),
            (None, None) => Ok(Self::Kind(kind.to_owned())),
        }
    }

    /// The kind, as it was asked for.
    #[must_use]
    pub fn kind(&self) -> &str {
        match self {
            Self::Kind(kind) | Self::Brought(kind, _) => kind,
            Self::Bar(bar) => bar.text(),
            Self::Gpu(gpu) => gpu.text(),
        }
    }

    /// The kind, as policy calls it: a client's own shared memory is a kind of its own.
    #[must_use]
    pub fn policy_kind(&self) -> &str {
        match self {
            Self::Brought(kind, _) if kind != "dmabuf" => "client",
            Self::Kind(kind) | Self::Brought(kind, _) => kind,
            Self::Bar(bar) => bar.text(),
            Self::Gpu(gpu) => gpu.text(),
        }
    }
}

/// An attachment that somebody wants.
#[derive(Debug)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// The queues.
    pub queues: RangeInclusive<u32>,
    /// Bytes of it.
    pub size: u64,
    /// Bytes in a chunk.
    pub chunk: u32,
    /// The rules.
    pub flows: Vec<FlowRule>,
    /// Bytes of a header slot.
    pub header_slot: u32,
    /// Chunks posted at once; 0 for what suits the region.
    pub ring: u32,
    /// Completions after which a sleeping client is woken.
    pub wake_batch: u32,
    /// Time after which it is woken with fewer.
    pub wake_timeout: Duration,
    /// The client cannot write an eventfd.
    pub polls_refill: bool,
    /// Headers are split off.
    pub split: bool,
    /// What becomes of packets that cannot be split.
    pub unsplit: Unsplit,
    /// Payload bytes that go with the header.
    pub split_extra: u16,
    /// Whose clock says when packets came.
    pub timestamps: Timestamps,
    /// Whether a copy is accepted.
    pub zero_copy: ZeroCopy,
    /// Busy polling by the kernel.
    pub busy_poll: bool,
    /// Where the first worker runs; the others follow.
    pub cpu: Option<u32>,
    /// How the workers wait.
    pub poll_mode: PollMode,
}

impl Wanted {
    /// How rings and header slots lie. Looks at the request alone: nothing is made for what no layout can have.
    ///
    /// # Errors
    ///
    /// What is out of range.
    pub fn layout(&self) -> Result<Layout, Refused> {
        // A range of all numbers is refused for its length, not counted round to none.
        let queues = (self.queues.end() - self.queues.start()).saturating_add(1);
        let chunks = u32::try_from(self.size / u64::from(self.chunk.max(1))).unwrap_or(u32::MAX);
        let layout = |largest: u32| {
            Layout::new(&LayoutParams {
                queues,
                // Room for every chunk a queue has: a client that gives back in the order of arrival never sees it full.
                completions: largest
                    .checked_next_power_of_two()
                    .unwrap_or(u32::MAX)
                    .clamp(MIN_COMPLETIONS, MAX_COMPLETIONS),
                chunks,
                header_slot: self.header_slot,
            })
        };
        // What is out of range is said before the shares are counted out.
        layout(chunks)?;
        let largest = RegionProvider::shares(chunks, self.chunk.max(1), queues)?
            .into_iter()
            .map(|share| share.end - share.start)
            .max();
        Ok(layout(largest.unwrap_or(0))?)
    }

    /// Bytes that it will take in all: region, rings and header slots. What no layout can have is refused later, and counts as the
    /// region alone here.
    #[must_use]
    pub fn memory(&self) -> u64 {
        let rings = self
            .layout()
            .map_or(0, |layout| layout.daemon_size() + layout.client_size());
        self.size.saturating_add(rings)
    }

    /// What a client asks for. `settings` are those of its first queue.
    ///
    /// # Errors
    ///
    /// What cannot be right about it.
    pub fn of_request(
        request: &AttachRequest,
        needs: &QueueNeeds,
        settings: Option<&QueueSettings>,
    ) -> Result<Self, Refused> {
        policy::check_name(&request.name).map_err(Refused::invalid)?;
        if request.queue_last < request.queue_first {
            let (first, last) = (request.queue_first, request.queue_last);
            return Err(Refused::invalid(format!(
                "queues {first}-{last} are no range; write the smaller queue first"
            )));
        }
        if request.flows.len() > MAX_FLOWS {
            return Err(Refused::invalid(format!(
                "{} flow rules; an attachment takes {MAX_FLOWS}",
                request.flows.len()
            )));
        }
        let or = |asked: u32, configured: Option<u32>, default: u32| match asked {
            0 => configured.unwrap_or(default),
            asked => asked,
        };
        let header_slot = or(
            request.header_slot,
            settings.and_then(|s| s.header_slot),
            HEADER_SLOT,
        );
        let extra = or(
            request.split_extra,
            settings.and_then(|s| s.split_extra.filter(|_| request.split)),
            0,
        );
        Ok(Self {
            name: request.name.clone(),
            queues: request.queue_first..=request.queue_last,
            size: request.size,
            chunk: if request.chunk == 0 {
                suitable_chunk(needs)
            } else {
                request.chunk
            },
            flows: parse(&request.flows)?,
            header_slot,
            ring: or(request.ring, settings.and_then(|s| s.ring), 0),
            wake_batch: or(
                request.wake_batch,
                settings.and_then(|s| s.batch_size),
                WAKE_BATCH,
            ),
            wake_timeout: timeout(
                request
                    .wake_timeout_us
                    .or(settings.and_then(|s| s.timeout_us)),
            ),
            polls_refill: request.polls_refill,
            split: request.split,
            unsplit: unsplit(request.unsplit.or(settings.and_then(|s| s.unsplit))),
            split_extra: split_extra(extra, request.split, header_slot)?,
            timestamps: timestamps(request.timestamps.or(settings.and_then(|s| s.timestamps))),
            zero_copy: match request.zero_copy {
                message::ZeroCopy::Copy => ZeroCopy::Copy,
                message::ZeroCopy::ZeroCopy => ZeroCopy::ZeroCopy,
                message::ZeroCopy::Auto => settings.map_or(ZeroCopy::Auto, zero_copy),
            },
            busy_poll: request.busy_poll || settings.and_then(|s| s.busy_poll).unwrap_or(false),
            cpu: request.cpu.or(settings.and_then(|s| s.cpu_core)),
            poll_mode: settings.map_or(PollMode::default(), |s| s.poll_mode),
        })
    }

    /// What the configuration asks for.
    ///
    /// # Errors
    ///
    /// A rule that is none.
    pub fn of_plan(plan: &PlannedAttachment) -> Result<Self, Refused> {
        let settings = &plan.settings;
        let header_slot = settings.header_slot.unwrap_or(HEADER_SLOT);
        let split = settings.split.unwrap_or(true);
        Ok(Self {
            name: plan.name.clone(),
            queues: settings.queues.clone(),
            size: plan.size,
            chunk: plan.chunk,
            flows: parse(&plan.flows)?,
            header_slot,
            ring: settings.ring.unwrap_or(0),
            wake_batch: settings.batch_size.unwrap_or(WAKE_BATCH),
            wake_timeout: timeout(settings.timeout_us),
            polls_refill: false,
            split,
            unsplit: unsplit(settings.unsplit),
            split_extra: split_extra(settings.split_extra.unwrap_or(0), split, header_slot)?,
            timestamps: timestamps(settings.timestamps),
            zero_copy: zero_copy(settings),
            busy_poll: settings.busy_poll.unwrap_or(false),
            cpu: settings.cpu_core,
            poll_mode: settings.poll_mode,
        })
    }

    /// Chunks posted at once on a queue that has `chunks` of them: a power of two.
    ///
    /// # Errors
    ///
    /// When what was asked for is none.
    pub(super) fn ring_for(&self, chunks: u32) -> Result<u32, Refused> {
        if self.ring == 0 {
            return Ok(chunks.next_power_of_two().clamp(64, RING));
        }
        if !self.ring.is_power_of_two() || self.ring > MAX_RING {
            return Err(Refused::invalid(format!(
                "a receive ring of {} entries: use a power of two up to {MAX_RING}",
                self.ring
            )));
        }
        Ok(self.ring)
    }
}

fn timeout(microseconds: Option<u32>) -> Duration {
    microseconds.map_or(WAKE_TIMEOUT, |us| Duration::from_micros(us.into()))
}

/// Bytes that go to the header slot behind the header: it must have room for them and for some header before them.
fn split_extra(bytes: u32, split: bool, header_slot: u32) -> Result<u16, Refused> {
    if bytes > 0 && !split {
        return Err(Refused::invalid(format!(
            "{bytes} bytes are to go to the header slot behind the header, and headers are not to be split off: leave out one of the two"
        )));
    }
    let fits = u16::try_from(bytes)
        .ok()
        .filter(|_| bytes == 0 || bytes < header_slot);
    fits.ok_or_else(|| {
        Refused::invalid(format!(
            "{bytes} bytes behind the header do not fit a header slot of {header_slot}: the header comes first, 42 bytes of it for UDP over IPv4 \
             and 62 over IPv6, each VLAN tag 4 more; use a larger header slot (--header-slot), or fewer bytes"
        ))
    })
}

fn unsplit(asked: Option<message::Unsplit>) -> Unsplit {
    match asked {
        None | Some(message::Unsplit::Deliver) => Unsplit::Deliver,
        Some(message::Unsplit::Drop) => Unsplit::Drop,
        Some(message::Unsplit::Header) => Unsplit::Header,
    }
}

fn timestamps(asked: Option<message::Timestamps>) -> Timestamps {
    match asked {
        None | Some(message::Timestamps::Software) => Timestamps::Software,
        Some(message::Timestamps::Nic) => Timestamps::Nic,
    }
}

fn zero_copy(settings: &QueueSettings) -> ZeroCopy {
    match settings.zero_copy.as_deref() {
        Some("copy") => ZeroCopy::Copy,
        Some("zero-copy") => ZeroCopy::ZeroCopy,
        _ => ZeroCopy::Auto,
    }
}

fn parse(rules: &[String]) -> Result<Vec<FlowRule>, Refused> {
    let parse = |text: &String| {
        text.parse::<FlowRule>()
            .map_err(|e| Refused::invalid(format!("flow rule {text:?}: {e}")))
    };
    rules.iter().map(parse).collect()
}

fn suitable_chunk(needs: &QueueNeeds) -> u32 {
    let chunk = CHUNK.clamp(needs.min_chunk, needs.max_chunk);
    (chunk - chunk % needs.chunk_multiple.max(1)).max(needs.min_chunk)
}
