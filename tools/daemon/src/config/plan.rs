//! From the file to what is done: which NICs, which settings a queue has, which attachments are made at start. Everything that
//! can be found wrong without touching a NIC is found here.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use devrx_driver::flow::FlowRule;
use devrx_proto::message::{Timestamps, Unsplit};

use super::file::{File, Interface, PollMode, QueueRef, RxFlow, RxQueue};
use super::{ConfigError, NicConfig, NicSpec};
use crate::policy;

/// What the configuration says about a range of queues of one NIC; `None` where it says nothing.
#[derive(Clone, Debug)]
pub struct QueueSettings {
    /// The queues.
    pub queues: RangeInclusive<u32>,
    /// The processor of the first queue's thread; the others follow.
    pub cpu_core: Option<u32>,
    /// Completions after which a sleeping client is woken.
    pub batch_size: Option<u32>,
    /// Microseconds after which a sleeping client is woken with fewer.
    pub timeout_us: Option<u32>,
    /// How the thread waits.
    pub poll_mode: PollMode,
    /// Microseconds that the NIC may hold an interrupt back.
    pub moderation_us: Option<u32>,
    /// Bytes of a header slot.
    pub header_slot: Option<u32>,
    /// Descriptors in the queue's ring.
    pub ring: Option<u32>,
    /// Whether headers are split off.
    pub split: Option<bool>,
    /// Bytes behind the header that go to the header slot as well.
    pub split_extra: Option<u32>,
    /// What becomes of packets that cannot be split.
    pub unsplit: Option<Unsplit>,
    /// Whose clock says when packets came.
    pub timestamps: Option<Timestamps>,
    /// `auto`, `copy`, `zero-copy`.
    pub zero_copy: Option<String>,
    /// Whether the kernel is asked for busy polling.
    pub busy_poll: Option<bool>,
}

/// An attachment that the configuration asks for.
#[derive(Clone, Debug)]
pub struct PlannedAttachment {
    /// Its name.
    pub name: String,
    /// The NIC, by interface name or PCI address.
    pub nic: String,
    /// Kind of memory, as the command line spells it.
    pub memory: String,
    /// Bytes.
    pub size: u64,
    /// Bytes in a chunk.
    pub chunk: u32,
    /// Rules, as the command line takes them.
    pub flows: Vec<String>,
    /// Queues, and how they are run.
    pub settings: QueueSettings,
}

fn conflict<T>(text: String) -> Result<T, ConfigError> {
    Err(ConfigError::Conflict(text))
}

/// Checks a file and works out what it asks for.
pub(super) fn plan(file: &File) -> Result<(Vec<NicConfig>, Vec<PlannedAttachment>), ConfigError> {
    let mut regions = HashSet::new();
    for region in &file.memory_regions {
        if !regions.insert(&region.name) {
            return conflict(format!(
                "two memory_regions are called {:?}; names must differ",
                region.name
            ));
        }
    }
    let mut nics: Vec<NicConfig> = Vec::new();
    let mut attachments: Vec<PlannedAttachment> = Vec::new();
    for interface in &file.interfaces {
        let spec: NicSpec = interface.address.parse()?;
        for name in [Some(spec.name()), interface.name.as_deref()]
            .into_iter()
            .flatten()
        {
            if nics
                .iter()
                .any(|nic| nic.spec.name() == name || nic.alias.as_deref() == Some(name))
            {
                return conflict(format!(
                    "two interfaces are called {name:?}; names and addresses must differ"
                ));
            }
        }
        let queues = interface
            .rx
            .queues
            .iter()
            .map(|queue| settings(queue, interface))
            .collect::<Result<Vec<_>, _>>()?;
        for (i, one) in queues.iter().enumerate() {
            if let Some(other) = queues[..i]
                .iter()
                .find(|other| overlap(&one.queues, &other.queues))
            {
                let queue = one.queues.start().max(other.queues.start());
                return conflict(format!(
                    "queue {queue} of {} is described twice",
                    interface.address
                ));
            }
        }
        for (queue, settings) in interface.rx.queues.iter().zip(&queues) {
            attachments.extend(attachment(file, interface, &spec, queue, settings)?);
        }
        for flow in &interface.rx.flows {
            place_flow(interface, &spec, flow, &mut attachments)?;
        }
        if let NicSpec::AfXdp(name) = &spec {
            not_linuxs(name, interface)?;
        }
        nics.push(NicConfig {
            spec,
            alias: interface.name.clone(),
            queues,
            package: interface.package.clone(),
            promiscuous: interface.promiscuous,
            vlan_strip: interface.vlan_strip,
        });
    }
    let mut names = HashSet::new();
    for attachment in &attachments {
        if !names.insert(&attachment.name) {
            return conflict(format!(
                "two queues are called {:?}; attachment names must differ",
                attachment.name
            ));
        }
    }
    Ok((nics, attachments))
}

/// Settings of a NIC that only its owner can make.
fn not_linuxs(name: &str, interface: &Interface) -> Result<(), ConfigError> {
    let moderated = |queue: &RxQueue| queue.moderation_us.is_some();
    let keys = [
        (
            "promiscuous",
            interface.promiscuous.is_some(),
            format!("ip link set {name} promisc on"),
        ),
        (
            "vlan_strip",
            interface.vlan_strip.is_some(),
            format!("ethtool -K {name} rxvlan on"),
        ),
        (
            "moderation_us",
            interface.rx.queues.iter().any(moderated),
            format!("ethtool -C {name} rx-usecs N"),
        ),
    ];
    match keys.iter().find(|(_, given, _)| *given) {
        Some((key, _, command)) => conflict(format!(
            "{key}: Linux drives {name}; set it there (`{command}`), or own the NIC (address = \"vfio:PCI\")"
        )),
        None => Ok(()),
    }
}

fn overlap(a: &RangeInclusive<u32>, b: &RangeInclusive<u32>) -> bool {
    a.start() <= b.end() && b.start() <= a.end()
}

fn settings(queue: &RxQueue, interface: &Interface) -> Result<QueueSettings, ConfigError> {
    let Some(queues) = queue.id.clone() else {
        return conflict(format!(
            "a queue of {} has no id; write id = 0, or ids = \"0-3\"",
            interface.address
        ));
    };
    if let Some(mode) = &queue.zero_copy
        && !["auto", "copy", "zero-copy"].contains(&mode.as_str())
    {
        return conflict(format!(
            "zero_copy = {mode:?}: expected \"auto\", \"copy\" or \"zero-copy\""
        ));
    }
    Ok(QueueSettings {
        queues,
        cpu_core: queue.cpu_core,
        batch_size: queue.batch_size,
        timeout_us: queue.timeout_us,
        poll_mode: queue.poll_mode.unwrap_or_default(),
        moderation_us: queue.moderation_us,
        header_slot: queue.header_slot,
        ring: queue.ring,
        split: queue.split,
        split_extra: queue.split_extra,
        unsplit: queue.unsplit,
        timestamps: queue.timestamps,
        zero_copy: queue.zero_copy.clone(),
        busy_poll: queue.busy_poll,
    })
}

fn attachment(
    file: &File,
    interface: &Interface,
    spec: &NicSpec,
    queue: &RxQueue,
    settings: &QueueSettings,
) -> Result<Option<PlannedAttachment>, ConfigError> {
    let name = match queue.memory_regions.as_slice() {
        [] => return Ok(None),
        [name] => name,
        _ => {
            return conflict(format!(
                "queue {:?} of {} names {} memory_regions; it takes one, for payload (headers are kept by the daemon)",
                settings.queues,
                interface.address,
                queue.memory_regions.len()
            ));
        }
    };
    let Some(region) = file
        .memory_regions
        .iter()
        .find(|region| region.name == *name)
    else {
        return conflict(format!(
            "memory_regions = [{name:?}]: no [[memory_regions]] has that name"
        ));
    };
    let chunk = region.buf_size.unwrap_or(4096);
    let (Ok(chunk), Some(size)) = (
        u32::try_from(chunk),
        chunk.checked_mul(u64::from(region.num_bufs)),
    ) else {
        return conflict(format!(
            "memory region {name:?}: buf_size {chunk} is too large; chunks have at most 32 KiB"
        ));
    };
    let default_name = || {
        let (first, last) = (settings.queues.start(), settings.queues.end());
        let of = interface.name.as_deref().unwrap_or(spec.name());
        if first == last {
            format!("{of}-q{first}")
        } else {
            format!("{of}-q{first}-{last}")
        }
    };
    let name = queue.name.clone().unwrap_or_else(default_name);
    policy::check_name(&name).map_err(ConfigError::Conflict)?;
    Ok(Some(PlannedAttachment {
        name,
        nic: spec.name().to_owned(),
        memory: region.kind.clone(),
        size,
        chunk,
        flows: Vec::new(),
        settings: settings.clone(),
    }))
}

fn place_flow(
    interface: &Interface,
    spec: &NicSpec,
    flow: &RxFlow,
    attachments: &mut [PlannedAttachment],
) -> Result<(), ConfigError> {
    let label = flow.name.as_deref().unwrap_or(&flow.matches.0);
    if let Err(error) = flow.matches.0.parse::<FlowRule>() {
        return conflict(format!("flow {label:?} of {}: {error}", interface.address));
    }
    let target = attachments
        .iter_mut()
        .filter(|attachment| attachment.nic == spec.name())
        .find(|attachment| match &flow.action.queue {
            QueueRef::Id(id) => attachment.settings.queues.contains(id),
            QueueRef::Name(name) => attachment.name == *name,
        });
    let Some(target) = target else {
        return conflict(format!(
            "flow {label:?} of {} goes to queue {:?}, but no [[interfaces.rx.queues]] with memory_regions is that queue",
            interface.address, flow.action.queue
        ));
    };
    target.flows.push(flow.matches.0.clone());
    Ok(())
}
