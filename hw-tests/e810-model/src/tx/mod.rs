//! Transmit: queues, descriptors, offloads, and where a frame goes.

mod offload;
mod ring;
mod route;

use crate::bytes;
use crate::state::State;

/// Bytes of a queue's context in command 0x0C30.
pub(crate) const CONTEXT: usize = 22;

/// What the driver configured for a queue: DPDK `ice_tlan_ctx_info` in `ice_common.c`.
#[derive(Clone, Debug)]
pub(crate) struct Context {
    pub(crate) base: u64,
    pub(crate) len: u16,
    pub(crate) vsi: u16,
    port: u64,
    function: u64,
    owner: u64,
    segments: bool,
    legacy: bool,
    unused: u64,
}

impl Context {
    pub(crate) fn new(raw: &[u8; CONTEXT]) -> Self {
        let get = |lsb, width| bytes::bits(raw, lsb, width);
        Self {
            base: get(0, 57) << 7,
            len: get(135, 13) as u16,
            vsi: get(80, 10) as u16,
            port: get(57, 3),
            function: get(65, 3),
            owner: get(78, 2),
            segments: get(152, 1) == 1,
            legacy: get(164, 1) == 1,
            unused: get(91, 1),
        }
    }

    /// What real firmware would refuse, or what would make the queue not work.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.base == 0 {
            return Err("BASE is 0".to_owned());
        }
        if self.len == 0 || !self.len.is_multiple_of(32) || self.len > 8160 {
            return Err(format!(
                "QLEN {} is not a multiple of 32 up to 8160",
                self.len
            ));
        }
        if !self.legacy {
            return Err("LEGACY_INT is 0: the advanced host interface is not modelled".to_owned());
        }
        if self.owner != 1 && self.owner != 2 {
            return Err(format!(
                "VMVF_TYPE {}; 2 is the function, 1 a VMDq queue",
                self.owner
            ));
        }
        if self.port != 0 || self.function != 0 {
            return Err(format!(
                "port {} of function {}; both are 0",
                self.port, self.function
            ));
        }
        if self.unused != 0 {
            return Err("INTERNAL_USAGE is set".to_owned());
        }
        Ok(())
    }

    /// Whether it may segment (TSO_ENA).
    pub(crate) fn segments(&self) -> bool {
        self.segments
    }
}

/// A queue that runs.
#[derive(Clone, Debug)]
pub(crate) struct Queue {
    pub(crate) context: Context,
    /// Its leaf in the scheduler's tree.
    pub(crate) teid: u32,
    /// The descriptor that is next.
    head: u16,
    /// It broke a rule and is stopped.
    detected: bool,
    /// What was read of the packet so far.
    building: ring::Building,
}

impl Queue {
    pub(crate) fn new(context: Context, teid: u32) -> Self {
        Self {
            context,
            teid,
            head: 0,
            detected: false,
            building: ring::Building::default(),
        }
    }
}

impl State {
    /// Whether a VSI has transmit queues.
    pub(crate) fn transmits_from(&self, vsi: u16) -> bool {
        self.tx.values().any(|queue| queue.context.vsi == vsi)
    }
}
