//! The bodies of the messages.

use serde::{Deserialize, Serialize};

use crate::layout::LayoutParams;
use crate::ring::Start;

/// First message of a session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Who speaks, for the daemon's log: "devrx 0.1.0".
    pub client: String,
}

/// The daemon introduces itself.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HelloReply {
    /// Its name and version: "devrx 0.1.0".
    pub daemon: String,
    /// Its process id.
    pub pid: u32,
    /// What it can do beyond version 1 of the protocol.
    #[serde(default)]
    pub features: Vec<String>,
}

/// A message without content.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Empty {}

/// How long an attachment lives.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Lifetime {
    /// As long as the session that made it.
    #[default]
    Session,
    /// Until it is detached, or the daemon ends.
    Daemon,
}

/// Whether AF_XDP must, may or may not receive without a copy.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ZeroCopy {
    /// Without a copy where the NIC can, otherwise with one.
    #[default]
    Auto,
    /// Always with a copy.
    Copy,
    /// Without a copy, or refuse.
    ZeroCopy,
}

/// What becomes of packets whose header the NIC cannot split off, on an attachment that splits: ARP and other frames without an IP header,
/// headers longer than a slot.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unsplit {
    /// They come whole in the chunk. Where no CPU reads that, only the rule `any` takes them.
    #[default]
    Deliver,
    /// They are dropped, and counted as `unsplit`.
    Drop,
    /// Their first bytes, as many as a header slot holds, come in the slot.
    Header,
}

/// Whose clock says when packets came. Either way they carry nanoseconds of `CLOCK_REALTIME`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Timestamps {
    /// The daemon's, when a packet is taken from its ring.
    #[default]
    Software,
    /// The NIC's, when it arrived; refused where the NIC cannot say. A packet without a stamp of the NIC carries the daemon's, and its flags say so.
    Nic,
}

/// Asks for an attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct AttachRequest {
    /// Its name: letters, digits, `-`, `_`, `.`; 1 to 64 of them.
    pub name: String,
    /// The NIC, as it was given to `run`.
    pub nic: String,
    /// The first queue.
    pub queue_first: u32,
    /// The last queue.
    pub queue_last: u32,
    /// The kind of memory: `memfd`, `hugetlb`, `udmabuf`, `dmabuf`; `pci:BDF/BAR` for a BAR of another function, such as `pci:0000:03:00.0/2`;
    /// `cuda:INDEX`, `hip:INDEX` for memory of a GPU.
    pub memory: String,
    /// A descriptor goes with this message: the memory itself (`dmabuf`: a dma-buf; `memfd`: the client's own, sealed against
    /// shrinking).
    pub memory_fd: bool,
    /// Bytes of the region.
    pub size: u64,
    /// Bytes of a chunk; 0: what suits the NIC.
    pub chunk: u32,
    /// The flow rules.
    pub flows: Vec<String>,
    /// Bytes of a header slot; 0: 256.
    pub header_slot: u32,
    /// Entries of the NIC's receive ring; 0: what suits the NIC. The completion ring is as long as it must be.
    pub ring: u32,
    /// Wake a sleeping client after so many completions; 0: the daemon's default.
    pub wake_batch: u32,
    /// or after so many microseconds. None: the daemon's default.
    pub wake_timeout_us: Option<u32>,
    /// How long the attachment lives.
    pub lifetime: Lifetime,
    /// The client (a GPU) cannot kick: look at its refill rings every millisecond.
    pub polls_refill: bool,
    /// Split headers off.
    pub split: bool,
    /// Bytes after the L4 header that go with it (software split only).
    pub split_extra: u32,
    /// What becomes of packets that cannot be split. None: the daemon's default, which is to deliver them.
    pub unsplit: Option<Unsplit>,
    /// Whose clock says when packets came. None: the daemon's default, which is software's.
    pub timestamps: Option<Timestamps>,
    /// With or without a copy.
    pub zero_copy: ZeroCopy,
    /// Poll in the kernel's busy-polling mode.
    pub busy_poll: bool,
    /// The CPU the (first) poll thread is pinned to, the next ones following.
    pub cpu: Option<u32>,
    /// Also become its consumer: the reply then carries what an `Open` reply carries.
    pub open: bool,
}

impl Default for AttachRequest {
    fn default() -> Self {
        Self {
            name: String::new(),
            nic: String::new(),
            queue_first: 0,
            queue_last: 0,
            memory: "memfd".to_owned(),
            memory_fd: false,
            size: 0,
            chunk: 0,
            flows: Vec::new(),
            header_slot: 0,
            ring: 0,
            wake_batch: 0,
            wake_timeout_us: None,
            lifetime: Lifetime::Session,
            polls_refill: false,
            split: true,
            split_extra: 0,
            unsplit: None,
            timestamps: None,
            zero_copy: ZeroCopy::Auto,
            busy_poll: false,
            cpu: None,
            open: false,
        }
    }
}

/// An attachment was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AttachReply {
    /// Its name.
    pub name: String,
    /// The flow rules and their numbers, in the order of the request.
    pub flows: Vec<FlowInfo>,
    /// As asked for by the request's `polls_refill`. A daemon that does not know the request's word says nothing, which is no.
    #[serde(default)]
    pub polls_refill: bool,
    /// Whose clock says when packets came. A daemon that does not know the request's word says nothing, which is its own.
    #[serde(default)]
    pub timestamps: Timestamps,
    /// What will not be as one might expect.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// The consumer's side, if the request said `open`.
    #[serde(default)]
    pub opened: Option<Opened>,
}

/// Asks to become the consumer of an attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenRequest {
    /// Its name.
    pub name: String,
}

/// Names an attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NameRequest {
    /// Its name.
    pub name: String,
}

/// The consumer's side of an attachment. With the message go the descriptors of [`crate::endpoints::Endpoints`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// The attachment's name.
    pub name: String,
    /// The NIC.
    pub nic: String,
    /// The layout of the two memfds.
    pub layout: LayoutParams,
    /// The queues, in the order of the layout.
    pub queues: Vec<OpenedQueue>,
    /// The region.
    pub region: RegionInfo,
    /// Whether headers are split off.
    pub split: bool,
    /// Whether payload arrives without a copy.
    pub zero_copy: bool,
    /// Whether the daemon looks at the refill rings by itself, every millisecond: what a client that cannot kick has to know. A daemon that does not know of it
    /// says nothing, which is no.
    #[serde(default)]
    pub polls_refill: bool,
    /// What will not be as one might expect.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// One queue of an opened attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenedQueue {
    /// Its number on the NIC.
    pub queue: u32,
    /// Its first chunk of the region.
    pub first_chunk: u32,
    /// How many chunks it has.
    pub chunks: u32,
    /// The index its completion ring begins with.
    pub completion_start: u32,
    /// The index its refill ring begins with.
    pub refill_start: u32,
}

impl OpenedQueue {
    /// The indices that the rings begin with.
    #[must_use]
    pub fn start(&self) -> Start {
        Start {
            completion: self.completion_start,
            refill: self.refill_start,
        }
    }
}

/// The region of an attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegionInfo {
    /// The kind of memory.
    pub memory: String,
    /// Bytes.
    pub size: u64,
    /// Bytes of a chunk.
    pub chunk_size: u32,
    /// Chunks.
    pub chunks: u32,
    /// A descriptor of it goes with the message.
    pub fd: bool,
    /// What it is exported as goes with the message too, as a descriptor of its own: a dma-buf (`udmabuf`), what CUDA imports (`cuda:INDEX`).
    #[serde(default)]
    pub export: bool,
    /// The descriptor can be mapped to be read by a CPU.
    pub mappable: bool,
}

/// Something was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Done {
    /// What will not be as one might expect.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// Adds a flow rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowAddRequest {
    /// The attachment.
    pub name: String,
    /// The rule.
    pub rule: String,
}

/// A flow rule was added.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowAddReply {
    /// The rule.
    pub flow: FlowInfo,
    /// What will not arrive.
    #[serde(default)]
    pub warnings: Vec<String>,
}

/// Removes a flow rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowDelRequest {
    /// The attachment.
    pub name: String,
    /// The rule's number.
    pub id: u16,
}

/// Asks for the flow rules.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowListRequest {
    /// Of this attachment only.
    #[serde(default)]
    pub name: Option<String>,
}

/// The flow rules.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowListReply {
    /// The rules.
    pub flows: Vec<FlowInfo>,
}

/// A flow rule of an attachment.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FlowInfo {
    /// The attachment.
    pub name: String,
    /// The rule's number within the attachment: `flow` of its completions.
    pub id: u16,
    /// The rule.
    pub rule: String,
}

/// Asks for the numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StatsRequest {
    /// Of this attachment (and its NIC and queues) only.
    #[serde(default)]
    pub name: Option<String>,
}

/// The NICs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicsReply {
    /// The NICs.
    pub nics: Vec<NicInfo>,
}

/// A NIC that the daemon runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicInfo {
    /// Its name, as it was given to `run`.
    pub nic: String,
    /// `afxdp`, `igb`, `ice`.
    pub driver: String,
    /// Receive queues.
    pub queues: u32,
    /// The attachments on its queues.
    #[serde(default)]
    pub attachments: Vec<NicAttachment>,
    /// It has failed or was taken away, and the daemon has let go of it: the notes say why.
    #[serde(default)]
    pub gone: bool,
    /// What else there is to say.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// Who holds queues of a NIC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NicAttachment {
    /// The attachment.
    pub name: String,
    /// Its first queue.
    pub queue_first: u32,
    /// Its last queue.
    pub queue_last: u32,
}

/// Why something was not done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The kind of failure, for programs.
    pub code: FailureCode,
    /// What failed, why, and what to do, for people.
    pub message: String,
}

/// Kinds of failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum FailureCode {
    /// The message is not one the daemon takes.
    Protocol,
    /// Something in the request cannot be right.
    Invalid,
    /// No such NIC, queue, attachment or flow.
    NotFound,
    /// The name, the queue or the consumer's place is taken.
    Busy,
    /// The policy does not allow it.
    Denied,
    /// This host, NIC or memory cannot do it.
    Unsupported,
    /// Out of memory, descriptors or another limit.
    Exhausted,
    /// The daemon failed.
    Internal,
    /// A kind that came after this version.
    #[serde(other)]
    Other,
}

/// Something happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "event")]
pub enum Event {
    /// The attachment this session consumed has ended, or its consumption has. Its memory stays mapped, and nothing more comes.
    Ended {
        /// The attachment.
        name: String,
        /// Why.
        reason: String,
    },
}
