//! Steering: which packets come to which queue.
//!
//! The hardware can tell packets apart in two ways, and what is attached decides which of them is in use:
//!
//! * **By address** (VMDq pools, or on the I210 the queue in RAH). Each attachment has one queue. One of them takes what no other rule names,
//!   broadcast and multicast included; every rule of the others has a `dst-mac=` of its own.
//! * **By hash** (RSS). One attachment of several queues, from queue 0 on, since that is where packets go that cannot be hashed.
//!
//! [`Plan::of`] decides, without touching hardware; [`apply`] writes the registers, only those that another plan left different, so that queues whose
//! packets do not change lose none.

use std::ops::RangeInclusive;

use super::init::LONGEST;
use super::parts::{MacSteering, Part};
use super::regs::{
    ETQF, MRQC, MTA, OFFLOAD_STRIP_CRC, OFFLOAD_STRIP_VLAN, RAH_POOL_SHIFT, RAH_QUEUE_ENABLE,
    RAH_VALID, RCTL, RETA, RPLOLR, RSSRK, VFRE, VFTE, VMOLR, VT_CTL, etqf, mrqc, rctl,
    receive_address, vmolr, vt_ctl,
};
use super::shared::Shared;
use crate::device::Device;
use crate::flow::FlowRule;

/// The key of the hash: the one that Microsoft's specification of RSS checks implementations with, which tests can compare with.
pub(super) const HASH_KEY: [u8; 40] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
    0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
    0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
];

/// A rule and the queues it was added to.
#[derive(Clone, Debug)]
pub(super) struct Flow {
    pub id: u16,
    pub rule: FlowRule,
    pub queues: RangeInclusive<u32>,
    /// The function reset that its queues were opened after.
    pub epoch: u32,
}

/// What the hardware shall do.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(super) enum Plan {
    /// Nothing is received.
    #[default]
    Off,
    /// By destination address.
    Address {
        /// Takes what no rule names.
        default: Option<u32>,
        /// Addresses and their queues, no address twice.
        addresses: Vec<([u8; 6], u32)>,
    },
    /// By hash over so many queues, from queue 0 on.
    Hash {
        /// How many.
        queues: u32,
        /// Ether types that rules name; their packets go to queue 0.
        ether_types: Vec<u16>,
    },
}

/// `queue 3` or `queues 0 to 3`.
pub(super) fn queues_text(queues: &RangeInclusive<u32>) -> String {
    if queues.start() == queues.end() {
        format!("queue {}", queues.start())
    } else {
        format!("queues {} to {}", queues.start(), queues.end())
    }
}

impl Plan {
    /// What `flows` ask for. `Err` with what is there and what to do, when the last of them does not go with the others.
    pub(super) fn of(part: &Part, flows: &[Flow]) -> Result<Self, String> {
        let Some((last, before)) = flows.split_last() else {
            return Ok(Self::Off);
        };
        if let Some(other) = before.iter().find(|flow| {
            flow.queues != last.queues
                && (flow.queues.start() != flow.queues.end()
                    || last.queues.start() != last.queues.end())
        }) {
            return Err(format!(
                "{} are steered by hash, which this NIC does for one attachment alone, and {} has rules already; end that attachment, or attach each \
                 with one queue and give the rules of all but one a `dst-mac=`",
                queues_text(if last.queues.start() == last.queues.end() {
                    &other.queues
                } else {
                    &last.queues
                }),
                queues_text(if last.queues.start() == last.queues.end() {
                    &last.queues
                } else {
                    &other.queues
                }),
            ));
        }
        if last.queues.start() != last.queues.end() {
            return Self::hash(flows, &last.queues);
        }
        Self::address(part, flows)
    }

    fn hash(flows: &[Flow], queues: &RangeInclusive<u32>) -> Result<Self, String> {
        if *queues.start() != 0 {
            return Err(format!(
                "packets that cannot be hashed go to queue 0, so several queues must begin there; use queues 0 to {}",
                queues.end() - queues.start()
            ));
        }
        let mut ether_types: Vec<u16> = flows
            .iter()
            .filter_map(|flow| flow.rule.ether_type())
            .filter(|&kind| !FlowRule::is_ip(kind))
            .collect();
        ether_types.sort_unstable();
        ether_types.dedup();
        ether_types.truncate(ETQF.count() as usize);
        Ok(Self::Hash {
            queues: queues.end() + 1,
            ether_types,
        })
    }

    fn address(part: &Part, flows: &[Flow]) -> Result<Self, String> {
        let mut default: Option<u32> = None;
        let mut addresses: Vec<([u8; 6], u32)> = Vec::new();
        for flow in flows {
            let queue = *flow.queues.start();
            if queue >= part.mac_queues {
                return Err(format!(
                    "this NIC steers single queues by address, and only queues 0 to {} can be; use one of those",
                    part.mac_queues - 1
                ));
            }
            let Some(address) = flow.rule.dst_mac() else {
                match default {
                    Some(other) if other != queue => {
                        return Err(format!(
                            "queue {other} takes what no other rule names already, and this NIC tells queues apart by destination address; \
                             add `dst-mac=ADDRESS` to the rule"
                        ));
                    }
                    _ => default = Some(queue),
                }
                continue;
            };
            match addresses.iter().find(|(taken, _)| *taken == address) {
                Some(&(_, other)) if other != queue => {
                    return Err(format!(
                        "queue {other} has the packets to that address already; end its rule first, or ask for another address"
                    ));
                }
                Some(_) => {}
                None => addresses.push((address, queue)),
            }
        }
        if let Some((_, queue)) = addresses
            .iter()
            .find(|(address, queue)| address[0] & 1 == 1 && Some(*queue) != default)
        {
            return Err(format!(
                "broadcasts and multicasts go to the queue that takes what no other rule names; queue {queue} would see them only with a rule without `dst-mac=`"
            ));
        }
        // The first register is the port's own address.
        let room = part.addresses as usize - 1;
        if addresses.len() > room {
            return Err(format!(
                "this NIC has room for {room} addresses, all taken; end another rule first"
            ));
        }
        Ok(Self::Address { default, addresses })
    }
}

/// What of the port's configuration the steering depends on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Manners {
    /// The port's own address.
    pub station: [u8; 6],
    /// Frames to any address are taken.
    pub promiscuous: bool,
    /// VLAN tags are taken out.
    pub strip_vlan: bool,
    /// What is sent comes back.
    pub loopback: bool,
}

/// Writes what `plan` needs. Reception is off afterwards exactly if nothing is steered.
pub(super) fn apply<D: Device>(shared: &Shared<D>, plan: &Plan, manners: Manners) {
    match plan {
        Plan::Off => set_ether_types(shared, &[]),
        Plan::Address { default, addresses } => address(shared, *default, addresses, manners),
        Plan::Hash {
            queues,
            ether_types,
        } => hash(shared, *queues, ether_types, manners),
    }
    set(shared, RCTL, receive_control(shared.part, plan, manners));
    // A read pushes the writes.
    shared.read(RCTL);
}

/// The receive control register for `plan`.
fn receive_control(part: &Part, plan: &Plan, manners: Manners) -> u32 {
    let everybody = match plan {
        Plan::Off => return rctl::SECRC | rctl::LPE,
        Plan::Hash { .. } => true,
        Plan::Address { default, .. } => {
            // Pools sort out by themselves who takes what nobody named; a part without pools sends it to the default queue.
            default.is_some() || part.mac_steering == MacSteering::Pools
        }
    };
    let mut value = rctl::EN | rctl::SECRC | rctl::LPE;
    if manners.loopback {
        value |= rctl::LBM_MAC;
    }
    if everybody {
        value |= rctl::BAM | rctl::MPE;
        if manners.promiscuous {
            value |= rctl::UPE;
        }
    }
    value
}

/// Writes a register if it is not so already.
fn set<D: Device>(shared: &Shared<D>, offset: u32, value: u32) {
    if shared.read(offset) != value {
        shared.write(offset, value);
    }
}

/// Receive address `index`; `bits` are those of RAH besides the address.
fn set_address<D: Device>(shared: &Shared<D>, index: u32, address: [u8; 6], bits: u32) {
    let (low, high) = receive_address(index);
    let [a, b, c, d, e, f] = address;
    let (low_value, high_value) = (
        u32::from_le_bytes([a, b, c, d]),
        u32::from_le_bytes([e, f, 0, 0]) | bits,
    );
    let before = shared.read(high);
    if shared.read(low) == low_value && before & 0xffff == high_value & 0xffff {
        // The same address, perhaps for another queue.
        if before != high_value {
            shared.write(high, high_value);
        }
        return;
    }
    // Off while it is half written.
    shared.write(high, 0);
    shared.write(low, low_value);
    shared.write(high, high_value);
}

/// Ether types whose packets go to queue 0.
fn set_ether_types<D: Device>(shared: &Shared<D>, ether_types: &[u16]) {
    for index in 0..ETQF.count() {
        let value = ether_types.get(index as usize).map_or(0, |&kind| {
            u32::from(kind) | etqf::ENABLE | etqf::QUEUE_ENABLE | 0 << etqf::QUEUE_SHIFT
        });
        set(shared, ETQF.at(index), value);
    }
}

/// The entries for receive addresses 1 and up. An address that has a register keeps it: moved, it would be nobody's for a moment, or two's.
fn places<D: Device>(
    shared: &Shared<D>,
    addresses: &[([u8; 6], u32)],
) -> Vec<Option<([u8; 6], u32)>> {
    let mut left = addresses.to_vec();
    let mut places: Vec<_> = (1..shared.part.addresses)
        .map(|index| {
            let (low, high) = receive_address(index);
            let high = shared.read(high);
            let [a, b, c, d] = shared.read(low).to_le_bytes();
            let [e, f, ..] = high.to_le_bytes();
            let at = left
                .iter()
                .position(|(address, _)| *address == [a, b, c, d, e, f])?;
            (high & RAH_VALID != 0).then(|| left.swap_remove(at))
        })
        .collect();
    // There is room: the plan has seen to that.
    let mut left = left.into_iter();
    for place in places.iter_mut().filter(|place| place.is_none()) {
        *place = left.next();
    }
    places
}

fn address<D: Device>(
    shared: &Shared<D>,
    default: Option<u32>,
    addresses: &[([u8; 6], u32)],
    manners: Manners,
) {
    let pools = shared.part.mac_steering == MacSteering::Pools;
    let target = |queue: u32| {
        RAH_VALID
            | if pools {
                1 << (RAH_POOL_SHIFT + queue)
            } else {
                queue << RAH_POOL_SHIFT | RAH_QUEUE_ENABLE
            }
    };
    let named = |address: [u8; 6]| addresses.iter().any(|(taken, _)| *taken == address);
    // The port's own address belongs to the default queue, if no rule names it.
    let own = default
        .filter(|_| !named(manners.station))
        .map_or(0, target);
    set_address(shared, 0, manners.station, own);
    for (index, place) in (1..).zip(places(shared, addresses)) {
        match place {
            Some((address, queue)) => set_address(shared, index, address, target(queue)),
            None => set_address(shared, index, [0; 6], 0),
        }
    }
    set_ether_types(shared, &[]);
    if pools {
        self::pools(shared, default, manners);
    } else {
        set(
            shared,
            MRQC,
            default.unwrap_or(0) << mrqc::DEFAULT_QUEUE_SHIFT,
        );
    }
}

/// Pools: who takes broadcasts, multicasts and what matched no address.
fn pools<D: Device>(shared: &Shared<D>, default: Option<u32>, manners: Manners) {
    let mut offloads = OFFLOAD_STRIP_CRC;
    if manners.strip_vlan {
        offloads |= OFFLOAD_STRIP_VLAN;
    }
    set(shared, RPLOLR, offloads);
    let common = vmolr::LPE | LONGEST | vmolr::AUPE | offloads;
    for pool in 0..VMOLR.count() {
        let takes = if Some(pool) == default {
            vmolr::BAM | vmolr::ROMPE | vmolr::MPME
        } else {
            0
        };
        set(shared, VMOLR.at(pool), common | takes);
    }
    for index in 0..MTA.count() {
        // QEMU asks the table where silicon goes by MPME alone.
        set(shared, MTA.at(index), u32::MAX);
    }
    set(shared, VFRE, 0xff);
    set(shared, VFTE, 0xff);
    let mut control = vt_ctl::REPLICATE;
    control |= match default {
        Some(pool) if manners.promiscuous => pool << vt_ctl::DEFAULT_POOL_SHIFT,
        Some(pool) => pool << vt_ctl::DEFAULT_POOL_SHIFT | vt_ctl::NO_DEFAULT_POOL,
        None => vt_ctl::NO_DEFAULT_POOL,
    };
    set(shared, VT_CTL, control);
    set(shared, MRQC, mrqc::VMDQ);
}

fn hash<D: Device>(shared: &Shared<D>, queues: u32, ether_types: &[u16], manners: Manners) {
    set_address(shared, 0, manners.station, RAH_VALID);
    for index in 1..shared.part.addresses {
        set_address(shared, index, [0; 6], 0);
    }
    for (index, word) in HASH_KEY.as_chunks::<4>().0.iter().enumerate() {
        set(shared, RSSRK.at(index as u32), u32::from_le_bytes(*word));
    }
    for index in 0..RETA.count() {
        let entry = |byte: u32| ((index * 4 + byte) % queues) << (8 * byte);
        set(
            shared,
            RETA.at(index),
            entry(0) | entry(1) | entry(2) | entry(3),
        );
    }
    set_ether_types(shared, ether_types);
    set(shared, VT_CTL, 0);
    set(shared, MRQC, mrqc::RSS | mrqc::FIELDS);
}
