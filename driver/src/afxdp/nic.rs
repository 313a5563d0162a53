//! An interface that Linux drives.

mod flows;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;

use devrx_provider::{MapWay, QueueNeeds, page_size};
use nix::net::if_::if_nametoindex;

use super::bpf::{Steering, XdpMode, grace_period};
use super::ethtool_sys::{Ethtool, FLAG_RX_VLAN};
use super::queue::AfXdpQueue;
use super::receive::Receive;
use super::{bind, discover, ntuple};
use crate::flow::{FlowRule, RuleBoard, Rules};
use crate::packet::MAX_HEADERS;
use crate::{
    DriverError, Interrupts, Link, LinkState, Nic, NicStatistics, QueueConfig, Statistics, Unsplit,
    ZeroCopy,
};

/// The smallest header slot that splits anything worth it: Ethernet, IPv6, TCP without options.
const MIN_SLOT: u32 = 64;
/// The most chunks posted at once; the kernel allows more, memory seldom.
const MAX_RING: u32 = 32_768;

/// How an interface is taken.
#[derive(Clone, Debug)]
pub struct AfXdpOptions {
    /// Where the XDP program runs; `None`: in the driver if it can.
    pub mode: Option<XdpMode>,
    /// Set receive rules (ntuple) on the NIC, so that flows come to their queue.
    pub receive_rules: bool,
    /// Entries of the rx ring, if not as many as chunks can be posted. Fewer make the kernel drop packets while chunks are still posted: for tests.
    pub rx_ring: Option<u32>,
}

impl Default for AfXdpOptions {
    fn default() -> Self {
        Self {
            mode: None,
            receive_rules: true,
            rx_ring: None,
        }
    }
}

/// One flow on a queue.
#[derive(Debug)]
struct Flow {
    id: u16,
    rule: FlowRule,
    /// Where its receive rules are in the NIC's table.
    locations: Vec<u32>,
}

/// An open queue, the controlling side.
#[derive(Debug)]
struct Open {
    board: Arc<RuleBoard>,
    flows: Vec<Flow>,
}

impl Open {
    fn rules(&self) -> Rules {
        self.flows.iter().map(|flow| (flow.id, flow.rule)).collect()
    }
}

/// An interface of this network namespace, with the XDP program attached as long as this lives.
///
/// Needs CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF and CAP_PERFMON.
#[derive(Debug)]
pub struct AfXdpNic {
    name: String,
    driver: String,
    ifindex: u32,
    queues: u32,
    options: AfXdpOptions,
    ethtool: Ethtool,
    steering: Steering,
    open: BTreeMap<u32, Open>,
    warnings: Vec<String>,
}

impl AfXdpNic {
    /// Takes interface `name` of the calling thread's network namespace. Nothing is steered yet: all traffic stays with the kernel.
    ///
    /// # Errors
    ///
    /// [`DriverError::NoNic`] when there is none of that name; what the system refused, for example because another XDP program is attached.
    pub fn open(name: &str, options: AfXdpOptions) -> Result<Self, DriverError> {
        let no_nic = |why: String| DriverError::NoNic {
            nic: name.to_owned(),
            why,
        };
        let ifindex = if_nametoindex(name).map_err(|error| {
            no_nic(format!("there is no such interface in this network namespace ({error}); `devrx nic list` shows what there is"))
        })?;
        let ethtool = Ethtool::new()
            .map_err(|error| DriverError::sys("socket(AF_INET)", error, "see the kernel's log"))?;
        let up = ethtool
            .is_up(name)
            .map_err(|error| no_nic(format!("the kernel does not tell its state ({error})")))?;
        let (driver, _) = ethtool.driver(name).unwrap_or_default();
        let queues = discover::rx_queues(&ethtool, name);
        let steering = Steering::attach(ifindex, queues, options.mode)?;
        let mut warnings = steering.warnings();
        if !up {
            warnings.push(format!(
                "{name} is down, nothing will arrive; `ip link set {name} up`"
            ));
        }
        if driver == "veth" {
            // It has no offload of its own: what the peer leaves outside the frame stays there.
            warnings.push(format!(
                "a VLAN tag that a VLAN interface on the peer of {name} puts on arrives outside the frame, where AF_XDP \
                 cannot see it: such frames look untagged, and rules with `vlan=` miss them; `ethtool -K PEER txvlan off` \
                 puts it inside"
            ));
        } else if ethtool
            .flags(name)
            .is_ok_and(|flags| flags & FLAG_RX_VLAN != 0)
        {
            warnings.push(format!(
                "{name} takes VLAN tags out of frames, and AF_XDP cannot say which: such frames look untagged, and rules \
                 with `vlan=` miss them; `ethtool -K {name} rxvlan off` leaves them in"
            ));
        }
        let driver = if driver.is_empty() {
            "afxdp".to_owned()
        } else {
            format!("afxdp/{driver}")
        };
        Ok(Self {
            name: name.to_owned(),
            driver,
            ifindex,
            queues,
            options,
            ethtool,
            steering,
            open: BTreeMap::new(),
            warnings,
        })
    }

    /// Where the XDP program runs.
    #[must_use]
    pub fn mode(&self) -> XdpMode {
        self.steering.mode()
    }

    fn bad(what: &'static str, value: impl ToString, why: impl Into<String>) -> DriverError {
        DriverError::BadConfig {
            what,
            value: value.to_string(),
            why: why.into(),
        }
    }

    /// Everything about a configuration that can be known without the system.
    fn check(&self, config: &QueueConfig) -> Result<u32, DriverError> {
        if !config.ring.is_power_of_two() || !(2..=MAX_RING).contains(&config.ring) {
            return Err(Self::bad(
                "ring",
                config.ring,
                format!("use a power of two from 2 to {MAX_RING}"),
            ));
        }
        let rx_ring = self.options.rx_ring.unwrap_or(config.ring);
        if !rx_ring.is_power_of_two() || rx_ring > config.ring {
            return Err(Self::bad(
                "rx_ring",
                rx_ring,
                format!(
                    "use a power of two, at most the {} chunks of `ring`",
                    config.ring
                ),
            ));
        }
        let headers = &config.headers;
        if config.split {
            if config.unsplit != Unsplit::Deliver {
                return Err(DriverError::Unsupported {
                    nic: self.name.clone(),
                    driver: self.driver.clone(),
                    what: "treat packets without a header to split in another way",
                    why: "it splits in software, and delivers the others whole; leave the option out (`--unsplit deliver`), or add flow \
                          rules that only take packets with an IP header"
                        .to_owned(),
                });
            }
            if !(MIN_SLOT..=MAX_HEADERS as u32).contains(&headers.slot_size) {
                return Err(Self::bad(
                    "header slot",
                    headers.slot_size,
                    format!("use {MIN_SLOT} to {MAX_HEADERS} bytes"),
                ));
            }
            let chunks = config.provider.chunks();
            let covers = |chunk: u32| {
                headers
                    .offset_of(devrx_provider::ChunkIndex(chunk))
                    .is_some()
            };
            if !headers.memory.writable()
                || !covers(chunks.start)
                || !covers(chunks.end.saturating_sub(1))
            {
                let why = format!(
                    "they must be writable and there must be one for each of the chunks {} to {}",
                    chunks.start, chunks.end
                );
                return Err(Self::bad("header slots", headers.memory.len(), why));
            }
        }
        Ok(rx_ring)
    }

    fn opened(&mut self, queue: u32) -> Result<&mut Open, DriverError> {
        self.open
            .get_mut(&queue)
            .ok_or_else(|| DriverError::QueueClosed {
                nic: self.name.clone(),
                queue,
            })
    }

    fn flow_error(&self, queue: u32, rule: impl ToString, why: impl Into<String>) -> DriverError {
        DriverError::Flow {
            nic: self.name.clone(),
            queue,
            rule: rule.to_string(),
            why: why.into(),
        }
    }
}

impl Nic for AfXdpNic {
    type Queue = AfXdpQueue;

    fn name(&self) -> &str {
        &self.name
    }

    fn driver(&self) -> &str {
        &self.driver
    }

    fn queues(&self) -> u32 {
        self.queues
    }

    fn needs(&self) -> QueueNeeds {
        QueueNeeds {
            min_chunk: 2048,
            max_chunk: u32::try_from(page_size()).unwrap_or(4096).min(4096),
            chunk_multiple: 2048,
            cpu_reads_payload: true,
            ways: &[MapWay::HostAddress],
        }
    }

    /// Linux hands stamps to XDP programs of some drivers alone, and of a clock that Linux keeps.
    fn timestamps(&self) -> Result<(), String> {
        Err(
            "AF_XDP hands over no timestamps of the NIC; attach without `--timestamps nic`, and packets carry the time at which they were taken from the ring, or use a NIC \
             that can be owned (`devrx nic list`)"
                .to_owned(),
        )
    }

    fn open_queue(&mut self, index: u32, config: QueueConfig) -> Result<AfXdpQueue, DriverError> {
        if index >= self.queues {
            return Err(DriverError::NoQueue {
                nic: self.name.clone(),
                queue: index,
                queues: self.queues,
            });
        }
        if self.open.contains_key(&index) {
            let why = "this process has opened it already; close it first".to_owned();
            return Err(DriverError::QueueBusy {
                nic: self.name.clone(),
                queue: index,
                why,
            });
        }
        self.check_timestamps(config.timestamps)?;
        let rx_ring = self.check(&config)?;
        let share = bind::share(&self.name, &config)?;
        let mtu = self.ethtool.mtu(&self.name).unwrap_or(1500);
        let bound = bind::bind(
            &self.name,
            self.ifindex,
            index,
            mtu,
            share,
            rx_ring,
            &config,
        )?;
        let (mode, busy_poll) = (config.zero_copy, config.busy_poll);
        let board = Arc::new(RuleBoard::default());
        let receive = Receive::new(bound.rx, bound.fill, config, share.base, Arc::clone(&board));
        let queue = AfXdpQueue::new(
            receive,
            bound.socket,
            self.ifindex,
            index,
            bound.zero_copy,
            busy_poll,
        )?;
        if let Some(socket) = queue.socket() {
            self.steering.insert_socket(index, socket.as_fd())?;
        }
        self.open.insert(
            index,
            Open {
                board,
                flows: Vec::new(),
            },
        );
        tracing::info!(
            nic = self.name,
            queue = index,
            zero_copy = bound.zero_copy,
            multi_buffer = bound.multi_buffer,
            "queue opened"
        );
        if mode == ZeroCopy::Auto && !bound.zero_copy {
            tracing::debug!(
                nic = self.name,
                queue = index,
                "no zero-copy here: the kernel copies packets into the region"
            );
        }
        Ok(queue)
    }

    fn close_queue(&mut self, queue: u32) -> Result<(), DriverError> {
        let Some(open) = self.open.remove(&queue) else {
            return Ok(());
        };
        for flow in &open.flows {
            ntuple::remove(&self.ethtool, &self.name, &flow.locations);
        }
        // All of it, whatever fails on the way.
        let rules = self.steering.set_rules([(queue, Vec::new())]);
        let socket = self.steering.remove_socket(queue);
        let grace = grace_period();
        rules.and(socket).and(grace)
    }

    fn warnings(&self) -> Vec<String> {
        self.warnings.clone()
    }

    fn leftover_rules(&self) -> Vec<(u32, u32)> {
        let flows = self.open.values().flat_map(|open| &open.flows);
        flows
            .flat_map(|flow| &flow.locations)
            .map(|&location| (self.ifindex, location))
            .collect()
    }
}

impl Link for AfXdpNic {
    fn link(&self) -> Result<LinkState, DriverError> {
        let gone = |error| {
            DriverError::sys(
                "ioctl(SIOCGIF*)",
                error,
                format!("{} may have gone; `ip link` shows what there is", self.name),
            )
        };
        Ok(LinkState {
            up: self.ethtool.is_up(&self.name).map_err(gone)?
                && self.ethtool.link(&self.name).unwrap_or(true),
            speed: self.ethtool.speed(&self.name).unwrap_or(None),
            mtu: self.ethtool.mtu(&self.name).map_err(gone)?,
        })
    }
}

impl Statistics for AfXdpNic {
    /// From the calling thread's network namespace.
    fn statistics(&self) -> Result<NicStatistics, DriverError> {
        discover::statistics(&self.name).map_err(|error| {
            DriverError::sys(
                "reading /proc/thread-self/net/dev",
                error,
                format!("is {} still in this network namespace?", self.name),
            )
        })
    }
}

impl Interrupts for AfXdpNic {
    fn set_moderation(&mut self, _queue: u32, _microseconds: u32) -> Result<(), DriverError> {
        Err(DriverError::Unsupported {
            nic: self.name.clone(),
            driver: self.driver.clone(),
            what: "set interrupt moderation",
            why: format!(
                "Linux owns its interrupts; use `ethtool -C {} rx-usecs N`",
                self.name
            ),
        })
    }
}

impl Drop for AfXdpNic {
    fn drop(&mut self) {
        for open in self.open.values() {
            for flow in &open.flows {
                ntuple::remove(&self.ethtool, &self.name, &flow.locations);
            }
        }
    }
}

/// Removes a receive rule that a process which was killed has left on a NIC (see [`Nic::leftover_rules`]). Needs CAP_NET_ADMIN.
///
/// # Errors
///
/// What the system answered: `ENOENT` if the rule is gone, `ENXIO` if the interface is.
pub fn remove_leftover_rule(ifindex: u32, location: u32) -> io::Result<()> {
    let name = nix::net::if_::if_indextoname(ifindex)?;
    let name = name.to_str().map_err(io::Error::other)?;
    Ethtool::new()?.delete_rule(name, location)
}
