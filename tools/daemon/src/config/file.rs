//! The configuration file as it is written: TOML, with the words users of comparable programs know. Every table refuses keys it
//! does not know, so that a misspelt one is an error that names it and not a setting silently ignored.

use std::ops::RangeInclusive;
use std::path::PathBuf;

use devrx_proto::message::{Timestamps, Unsplit};
use devrx_provider::dmabuf::Policy;
use serde::Deserialize;

use super::flows::Match;
use super::units;

/// The whole file.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// `[socket]`
    #[serde(default)]
    pub socket: Socket,
    /// `[[memory_regions]]`
    #[serde(default)]
    pub memory_regions: Vec<MemoryRegion>,
    /// `[[interfaces]]`
    #[serde(default)]
    pub interfaces: Vec<Interface>,
    /// `[[policy]]`
    #[serde(default)]
    pub policy: Vec<PolicyRule>,
    /// `[limits]`
    #[serde(default)]
    pub limits: Limits,
    /// `[dmabuf]`
    #[serde(default)]
    pub dmabuf: Dmabuf,
    /// `[gpu]`
    #[serde(default)]
    pub gpu: Gpu,
}

/// `[gpu]`: where the libraries of GPU drivers are, where the loader does not find them by their names. They are run in the daemon.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Gpu {
    /// NVIDIA's; default: `libcuda.so.1`.
    pub libcuda: Option<PathBuf>,
    /// AMD's, with `libhsa`; default: `libamdhip64.so`.
    pub libamdhip: Option<PathBuf>,
    /// AMD's, with `libamdhip`; default: `libhsa-runtime64.so.1`.
    pub libhsa: Option<PathBuf>,
}

impl Gpu {
    /// In the provider's words.
    ///
    /// # Errors
    ///
    /// One library of AMD's without the other, and paths that depend on where the daemon was started.
    pub fn gpus(self) -> Result<crate::attachment::Gpus, String> {
        let named = [&self.libcuda, &self.libamdhip, &self.libhsa];
        if let Some(path) = named.into_iter().flatten().find(|path| !path.is_absolute()) {
            return Err(format!(
                "[gpu]: {} is run in the daemon, so it must be named by its whole path",
                path.display()
            ));
        }
        let mut gpus = crate::attachment::Gpus::default();
        gpus.cuda.library = self.libcuda;
        gpus.hip.libraries = match (self.libamdhip, self.libhsa) {
            (None, None) => None,
            (Some(hip), Some(hsa)) => Some((hip, hsa)),
            _ => return Err("[gpu]: libamdhip and libhsa belong together; name both".into()),
        };
        Ok(gpus)
    }
}

/// `[dmabuf]`: whose dma-bufs are taken.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dmabuf {
    /// Exporters that never move memory once it is exported, as fdinfo's `exp_name` spells them; default: those known not to.
    pub pinned: Option<Vec<String>>,
    /// Take memory of exporters that may move it (amdgpu, xe, qxl, ...). When one does, a NIC goes on writing to where it was: only for
    /// machines on which that cannot happen, or does not matter.
    #[serde(default)]
    pub allow_unpinned: bool,
}

impl Dmabuf {
    /// The policy, in the provider's words.
    #[must_use]
    pub fn policy(self) -> Policy {
        let default = Policy::default();
        Policy {
            pinned: self.pinned.unwrap_or(default.pinned),
            unpinned: default.unpinned,
            allow_unpinned: self.allow_unpinned,
        }
    }
}

/// `[socket]`: where clients find the daemon, and who may connect.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Socket {
    /// Path of the Unix socket.
    pub path: Option<PathBuf>,
    /// Its permissions.
    #[serde(deserialize_with = "units::mode")]
    pub mode: u32,
    /// The group it is given to.
    pub group: Option<String>,
}

impl Default for Socket {
    fn default() -> Self {
        Self {
            path: None,
            mode: 0o660,
            group: None,
        }
    }
}

/// `[[memory_regions]]`: memory that queues name.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MemoryRegion {
    /// The name queues use.
    pub name: String,
    /// `memfd`, `hugetlb`, `udmabuf`, `pci:BDF/BAR`, `cuda:INDEX`, `hip:INDEX`.
    pub kind: String,
    /// Chunks.
    pub num_bufs: u32,
    /// Bytes in a chunk.
    #[serde(deserialize_with = "units::bytes")]
    pub buf_size: Option<u64>,
}

/// `[[interfaces]]`: one NIC.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Interface {
    /// A name of the user's own; default: what follows the colon of the address.
    pub name: Option<String>,
    /// `afxdp:IFNAME` or `vfio:PCI`.
    pub address: String,
    /// The package (DDP) of a NIC that takes one (E810); default: the distribution's, in `/lib/firmware/intel/ice/ddp`.
    pub package: Option<std::path::PathBuf>,
    /// Whether frames to any address are taken (default: yes), or those to its own and to addresses that rules name. 82576 family.
    pub promiscuous: Option<bool>,
    /// Whether the NIC takes VLAN tags out of frames (default: no). Of an owned NIC.
    pub vlan_strip: Option<bool>,
    /// What it receives.
    #[serde(default)]
    pub rx: Rx,
}

/// `[interfaces.rx]`
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rx {
    /// `[[interfaces.rx.queues]]`
    #[serde(default)]
    pub queues: Vec<RxQueue>,
    /// `[[interfaces.rx.flows]]`
    #[serde(default)]
    pub flows: Vec<RxFlow>,
}

/// `[[interfaces.rx.queues]]`: an attachment made at start if it names memory, otherwise settings for whoever attaches later.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RxQueue {
    /// The attachment's name; default: interface and queue.
    pub name: Option<String>,
    /// The queue, or a range of queues for one attachment.
    #[serde(default, deserialize_with = "units::queues", alias = "ids")]
    pub id: Option<RangeInclusive<u32>>,
    /// The processor the queue's thread is pinned to; queue n of a range gets the n-th after it.
    pub cpu_core: Option<u32>,
    /// Completions after which a sleeping client is woken.
    pub batch_size: Option<u32>,
    /// Microseconds after which a sleeping client is woken with fewer.
    pub timeout_us: Option<u32>,
    /// How the queue's thread waits.
    pub poll_mode: Option<PollMode>,
    /// The regions payload goes to: one.
    #[serde(default)]
    pub memory_regions: Vec<String>,
    /// Microseconds that the NIC may hold an interrupt back (default: what its driver finds right). Of an owned NIC.
    pub moderation_us: Option<u32>,
    /// Bytes of a header slot.
    pub header_slot: Option<u32>,
    /// Descriptors in the queue's ring.
    pub ring: Option<u32>,
    /// Whether headers are split off (default: yes).
    pub split: Option<bool>,
    /// Bytes behind the header that go to the header slot as well (default: 0). Software split only.
    pub split_extra: Option<u32>,
    /// What becomes of packets that cannot be split: `deliver`, `drop`, `header` (default: `deliver`).
    pub unsplit: Option<Unsplit>,
    /// Whose clock says when packets came: `software`, `nic` (default: `software`).
    pub timestamps: Option<Timestamps>,
    /// Whether the NIC may be asked to write into the region itself: `auto`, `copy`, `zero-copy`.
    pub zero_copy: Option<String>,
    /// Whether the kernel is asked for busy polling.
    pub busy_poll: Option<bool>,
}

/// How a queue's thread waits for packets.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(rename_all = "kebab-case")]
pub enum PollMode {
    /// Spins while packets come, sleeps when they stop.
    #[default]
    Adaptive,
    /// Never sleeps: a whole processor for the lowest latency.
    Busy,
    /// Sleeps whenever there is nothing to do.
    Sleep,
}

/// `[[interfaces.rx.flows]]`: which packets go to which queue.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RxFlow {
    /// For people; shown in messages.
    pub name: Option<String>,
    /// A table of fields, or a rule as the command line takes it.
    #[serde(rename = "match")]
    pub matches: Match,
    /// Where they go.
    pub action: Action,
}

/// `action = { queue = 0 }`
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Action {
    /// The queue's number, or its attachment's name.
    pub queue: QueueRef,
}

/// A queue by number or by its attachment's name.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
#[serde(
    untagged,
    expecting = "a queue number, or the name of an [[interfaces.rx.queues]] entry"
)]
pub enum QueueRef {
    /// The queue's number.
    Id(u32),
    /// The name of an `[[interfaces.rx.queues]]` entry.
    Name(String),
}

/// `[[policy]]`: what somebody other than root and the daemon's own user may do. Exactly one of the first four.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicyRule {
    /// A user by number.
    pub uid: Option<u32>,
    /// A group by number.
    pub gid: Option<u32>,
    /// A user by name.
    pub user: Option<String>,
    /// A group by name.
    pub group: Option<String>,
    /// NICs, by name or address; `"*"` for all.
    #[serde(default)]
    pub nics: Vec<String>,
    /// Queues; default: all.
    #[serde(default, deserialize_with = "units::queues")]
    pub queues: Option<RangeInclusive<u32>>,
    /// Kinds of memory; default: `["memfd"]`. `"*"` is all but `pci`, which is named, or a BAR of it.
    pub kinds: Option<Vec<String>>,
    /// Bytes that all attachments of one user may have together; default 256 MiB.
    #[serde(default, deserialize_with = "units::bytes")]
    pub max_memory: Option<u64>,
    /// Attachments that one user may have; default 16.
    pub max_attachments: Option<u32>,
    /// May choose the processors that the threads of its queues run on, and busy polling: it can then take time from others.
    #[serde(default)]
    pub tune: bool,
    /// May make attachments that outlive the session that made them.
    #[serde(default)]
    pub persist: bool,
    /// Attachments of others (by name, `"*"` for all) that it may consume and end.
    #[serde(default)]
    pub attachments: Vec<String>,
}

/// `[limits]`: what the daemon as a whole puts up with.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Connections at a time.
    pub sessions: u32,
    /// Connections of one user other than root at a time.
    pub sessions_per_user: u32,
    /// Attachments at a time.
    pub attachments: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            sessions: 256,
            sessions_per_user: 32,
            attachments: 256,
        }
    }
}
