//! A model of the Intel E810 (100 Gb/s Ethernet, the hardware behind the drivers `ice`) at the level of its registers.
//!
//! It is for tests without the card: linked into a test, or as a device of a virtual machine. It shares no definition with this project's driver, so
//! the two can disagree; drivers that others wrote decide who is right. Facts come from DPDK's BSD-licensed base code (`drivers/net/intel/ice/base`), each
//! module names its files. Nothing here was compared with silicon.
//!
//! Nothing that a driver writes may panic the model: what makes no sense is refused or dropped, and [`E810::refusals`] says why.

#![forbid(unsafe_code)]

mod adminq;
mod bus;
mod bytes;
mod checksum;
mod clock;
mod config;
mod fault;
mod frame;
mod image;
mod interrupts;
mod personality;
mod pipeline;
mod refusals;
mod registers;
mod regs;
mod reset;
mod rx;
#[cfg(feature = "server")]
pub mod server;
mod state;
mod stats;
mod switch;
#[cfg(test)]
mod tests;
mod tree;
mod tx;
mod vsi;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use bus::{Dma, Interrupts, Ram, Unmapped};
pub use config::{BAR0_LEN, BAR3_LEN, CONFIG_SPACE, MSIX_PBA};
pub use fault::{Fault, UnknownFault};
pub use image::small_package;
pub use personality::{ClockOwner, Personality};
pub use reset::Reset;

use state::State;

/// What is called with each frame that goes to the wire.
pub type OnSent = Box<dyn Fn(&[u8]) + Send + Sync>;

/// Where the device's outputs go.
struct Outside {
    interrupts: Arc<dyn Interrupts>,
    sink: Option<Arc<OnSent>>,
}

/// The modelled card, one port.
///
/// All methods may be called from any thread. One lock is held while the device acts; interrupts and sent frames are handed out after it is released, in order
/// for one thread.
pub struct E810 {
    state: Mutex<State>,
    outside: Mutex<Outside>,
}

impl fmt::Debug for E810 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("E810").finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl E810 {
    /// The card, as after power-on: bus mastering off, no memory reachable, the link up.
    #[must_use]
    pub fn new(personality: Personality) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::new(personality)),
            outside: Mutex::new(Outside {
                interrupts: Arc::new(bus::Nothing),
                sink: None,
            }),
        })
    }

    /// Acts on the state, then hands out what came of it.
    fn act<T>(&self, go: impl FnOnce(&mut State) -> T) -> T {
        let (done, vectors, frames) = {
            let mut state = lock(&self.state);
            let done = go(&mut state);
            (done, state.take_raised(), state.take_sent())
        };
        if vectors.is_empty() && frames.is_empty() {
            return done;
        }
        let (interrupts, sink) = {
            let outside = lock(&self.outside);
            (Arc::clone(&outside.interrupts), outside.sink.clone())
        };
        match sink {
            Some(sink) => frames.iter().for_each(|frame| sink(frame)),
            None if frames.is_empty() => {}
            None => lock(&self.state).keep_sent(frames),
        }
        for vector in vectors {
            interrupts.raise(vector);
        }
        done
    }

    /// Reads a register of BAR 0. `offset` is in bytes; beyond the BAR or not a multiple of 4 reads as ones.
    #[must_use]
    pub fn read32(&self, offset: u32) -> u32 {
        self.act(|state| state.read32(offset))
    }

    /// Writes a register of BAR 0. What it starts has happened when this returns.
    pub fn write32(&self, offset: u32, value: u32) {
        self.act(|state| state.write32(offset, value));
    }

    /// Reads PCI configuration space; beyond its 4096 bytes are ones.
    pub fn config_read(&self, offset: usize, into: &mut [u8]) {
        self.act(|state| state.config_read(offset, into));
    }

    /// Writes PCI configuration space. The device honours the bus master bit: without it, no DMA and no interrupts.
    pub fn config_write(&self, offset: usize, from: &[u8]) {
        self.act(|state| state.config_write(offset, from));
    }

    /// The memory that everything the device reads or writes goes through.
    pub fn set_memory(&self, memory: Arc<dyn Dma>) {
        self.act(|state| state.set_memory(memory));
    }

    /// Where interrupts go.
    pub fn set_interrupts(&self, interrupts: Arc<dyn Interrupts>) {
        lock(&self.outside).interrupts = interrupts;
    }

    /// The bus resets the function (`VFIO_DEVICE_RESET`, function level reset).
    pub fn reset(&self) {
        self.act(State::bus_reset);
    }

    /// A frame arrives from the wire, without FCS; a short one is padded with zeros to 60 bytes, as its sender would have done. False when nobody got it:
    /// lost for want of descriptors or by an error (GLV_RDPC, GLV_REPC of the VSI), too long (GLPRT_ROC), or wanted by no rule, which nothing counts.
    pub fn receive(&self, frame: &[u8]) -> bool {
        self.act(|state| state.receive(frame))
    }

    /// A frame with a bad check sequence arrives from the wire. It is dropped, and GLPRT_CRCERRS counts it.
    pub fn receive_damaged(&self) {
        self.act(State::receive_damaged);
    }

    /// The frames that went to the wire since the last call, without FCS. Empty while [`on_sent`](Self::on_sent) takes them. It keeps the newest 65,536.
    #[must_use]
    pub fn sent(&self) -> Vec<Vec<u8>> {
        lock(&self.state).kept_sent()
    }

    /// Calls `f` with each frame that goes to the wire, instead of keeping it. No lock is held, so it may call the model.
    pub fn on_sent(&self, f: OnSent) {
        lock(&self.outside).sink = Some(Arc::new(f));
    }

    /// The link comes up or goes down.
    pub fn set_link(&self, up: bool) {
        self.act(|state| state.set_link(up));
    }

    /// From now on it misbehaves like this.
    pub fn set_fault(&self, fault: Fault) {
        self.act(|state| state.fault = fault);
    }

    /// What strict checks refused and why, oldest first; at most 1,024, the oldest go first.
    #[must_use]
    pub fn refusals(&self) -> Vec<String> {
        lock(&self.state).refusals.after(0)
    }

    /// How many refusals there were so far, and those after the first `told`, as far as they are kept.
    #[must_use]
    pub fn refusals_after(&self, told: u64) -> (u64, Vec<String>) {
        let state = lock(&self.state);
        (state.refusals.total(), state.refusals.after(told))
    }

    /// The numbers of the error codes (`ICE_AQ_RC_*`) that refused commands are answered with.
    #[must_use]
    pub fn codes() -> [u16; 12] {
        adminq::Code::ALL.map(|code| code as u16)
    }

    /// Something other than the driver resets the device: the firmware, another function, an error. The driver gets an interrupt (OICR, GRST) before it
    /// happens; frames and register accesses let it go on.
    pub fn start_reset(&self, reset: Reset) {
        self.act(|state| state.start_reset(reset));
    }

    /// The firmware reports a condition of the card's health (`ICE_AQC_HEALTH_STATUS_*` in DPDK's `ice_adminq_cmd.h`), if the driver asked for reports:
    /// `source` is 1 for a function, 2 for a port, 3 for the card. It needs [`Personality::api`] 1.7.6.
    pub fn report_health(&self, code: u16, source: u16) {
        self.act(|state| state.report_health(code, source));
    }

    /// How often each admin command was sent, by opcode.
    #[must_use]
    pub fn commands(&self) -> BTreeMap<u16, u64> {
        lock(&self.state).commands.clone()
    }
}
