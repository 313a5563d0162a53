//! A model of the NIC at the level of its registers, for tests of this driver without a NIC.
//!
//! It follows the 82576 datasheet where that and QEMU differ: header kinds are chosen by PSRTYPE, EtherType filters choose a queue, drops are counted in
//! RQDPC and MPC, header buffers go up to 1024 bytes. What reaches memory goes through an IOMMU of its own, which refuses addresses that are not
//! mapped. It can be told to misbehave: not to stop a queue, to be gone, to fail a reset.
//!
//! It is written from the datasheet by those who wrote the driver, so it proves that the driver does what its writers understood, no more; QEMU's model,
//! which others wrote, is the second opinion.

mod device;
mod frame;
pub mod hostile;
mod interrupts;
mod place;
mod registers;
mod steer;
mod systime;
mod transmit;

use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use self::systime::Systime;
use super::parts::{Part, supports};
use super::regs;
use crate::device::PciId;
use crate::ring::{Iommu, ring};

/// Bytes of the receive FIFO.
const FIFO: usize = 64 * 1024;

/// How the model misbehaves.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Fault {
    /// A queue's enable bit does not clear.
    pub will_not_stop: bool,
    /// Every register reads all ones, and writes do nothing; so does a reset, without an error.
    pub gone: bool,
    /// Every register reads zero, and nobody is there for the system either: as what was torn out of a slot of QEMU's.
    pub gone_as_zeros: bool,
    /// A function reset fails; interrupts and bus mastering are off by then, as with VFIO.
    pub reset_fails: bool,
    /// It is gone as soon as a queue is enabled.
    pub gone_when_enabled: bool,
    /// The transmit queue's enable bit does not clear.
    pub sends_for_ever: bool,
    /// Firmware does not leave the card's semaphore: SWSM.SWESMBI takes no one.
    pub firmware_in_semaphore: bool,
}

/// The modelled NIC. Give it to [`IgbNic::open`](super::IgbNic::open) in an `Arc`, and frames to [`receive`](Self::receive).
#[derive(Debug)]
pub struct IgbModel {
    chip: Arc<Chip>,
    id: PciId,
    trouble: OwnedFd,
}

/// What is behind the bus.
#[derive(Debug)]
pub struct Chip {
    state: Mutex<State>,
    iommu: Arc<Iommu>,
}

/// The chip's insides.
#[derive(Debug)]
struct State {
    registers: Vec<u32>,
    part: &'static Part,
    iommu: Arc<Iommu>,
    /// The eventfds that are armed.
    vectors: Vec<OwnedFd>,
    /// Causes of vectors (EICR).
    causes: u32,
    bus_master: bool,
    fault: Fault,
    link: bool,
    /// Which of the card's ports it is.
    port: u32,
    phy_loopback: bool,
    /// Frames, and what the clock said when each came.
    fifo: VecDeque<(Vec<u8>, u64)>,
    systime: Systime,
    /// What stands in front of packets in place of a stamp.
    front: Option<[u8; 16]>,
    sent: Vec<Vec<u8>>,
    resets: u32,
    tape: crate::hostile::Tape,
}

impl IgbModel {
    /// The port's own address.
    pub const STATION: [u8; 6] = [0x52, 0x54, 0, 0, 0, 0x10];

    /// A part by its PCI device number: 0x10c9 for the 82576.
    ///
    /// # Panics
    ///
    /// When it is none that the driver knows, or there are no descriptors left: this is for tests.
    #[must_use]
    pub fn new(device: u16) -> Arc<Self> {
        let id = PciId {
            vendor: 0x8086,
            device,
            ..PciId::default()
        };
        #[expect(clippy::expect_used, reason = "a model for tests")]
        let (part, trouble) = (
            supports(id).expect("a part the driver knows"),
            device::eventfd().expect("an eventfd"),
        );
        let iommu = Arc::new(Iommu::default());
        let mut state = State {
            registers: vec![0; registers::WORDS],
            part,
            iommu: Arc::clone(&iommu),
            vectors: Vec::new(),
            causes: 0,
            bus_master: false,
            fault: Fault::default(),
            link: false,
            port: 0,
            phy_loopback: false,
            fifo: VecDeque::new(),
            systime: Systime::default(),
            front: None,
            sent: Vec::new(),
            resets: 0,
            tape: crate::hostile::Tape::default(),
        };
        state.reset();
        Arc::new(Self {
            chip: Arc::new(Chip {
                state: Mutex::new(state),
                iommu,
            }),
            id,
            trouble,
        })
    }

    /// A frame arrives from the wire, without FCS. It is lost if nothing takes it, as on a wire.
    pub fn receive(&self, frame: &[u8]) {
        self.chip.state().arrive(frame);
    }

    /// What has been sent to the wire so far.
    #[must_use]
    pub fn sent(&self) -> Vec<Vec<u8>> {
        std::mem::take(&mut self.chip.state().sent)
    }

    /// The clock says this from now on, in nanoseconds; and stands still if it does not run.
    pub fn set_time(&self, nanoseconds: u64, runs: bool) {
        self.chip.state().systime = Systime {
            base: nanoseconds,
            since: runs.then(Instant::now),
        };
    }

    /// From now on this stands in front of packets that are stamped, in place of the stamp.
    pub fn set_front(&self, front: Option<[u8; 16]>) {
        self.chip.state().front = front;
    }

    /// From now on it misbehaves like this.
    pub fn set_fault(&self, fault: Fault) {
        self.chip.state().fault = fault;
    }

    /// It is another of the card's ports, below 4.
    pub fn set_port(&self, port: u32) {
        self.chip.state().port = port;
    }

    /// The link comes up or goes down.
    pub fn set_link(&self, up: bool) {
        let mut state = self.chip.state();
        state.link = up;
        state.raise_other(regs::icr::LSC);
    }

    /// The system reports an error of the device.
    pub fn make_trouble(&self) {
        use std::os::fd::AsFd;
        ring(self.trouble.as_fd());
    }

    /// Function resets by its driver so far.
    #[must_use]
    pub fn resets(&self) -> u32 {
        self.chip.state().resets
    }

    /// Somebody else has the system reset the function, which sets its configuration space up as before: interrupts are armed, and it masters the bus.
    pub fn reset_from_outside(&self) {
        self.chip.state().reset();
    }

    /// DMA transfers that the IOMMU refused.
    #[must_use]
    pub fn dma_faults(&self) -> u64 {
        self.chip.iommu.faults()
    }

    /// Bytes within the device's reach.
    #[must_use]
    pub fn mapped(&self) -> usize {
        self.chip.iommu.mapped()
    }

    /// The register at `offset`, without the effects that reading has.
    #[must_use]
    pub fn peek(&self, offset: u32) -> u32 {
        self.chip.state().get(offset)
    }

    /// Sets the register at `offset`, without the effects that writing has: what the device did by itself.
    pub fn poke(&self, offset: u32, value: u32) {
        self.chip.state().put(offset, value);
    }

    /// RDT of `queue`.
    #[must_use]
    pub fn tail(&self, queue: u32) -> u32 {
        self.peek(regs::RxQueueRegs::of(queue).rdt())
    }

    /// Whether the last `count` descriptors that `queue` was given name buffers within the device's reach: `chunk` bytes of payload, `slot` of
    /// header.
    ///
    /// # Panics
    ///
    /// When one does not.
    pub fn check_posted(&self, queue: u32, count: u32, chunk: u32, slot: u32) {
        let state = self.chip.state();
        let ring = regs::RxQueueRegs::of(queue);
        let entries = state.get(ring.rdlen()) / 16;
        if entries == 0 {
            return;
        }
        let tail = state.get(ring.rdt()) % entries;
        // Those that a waiting frame has used up already are the device's words.
        let left = (tail + entries - state.get(ring.rdh()) % entries) % entries;
        let mut at = (tail + entries - count.min(left)) % entries;
        while at != tail {
            let descriptor = state.ring_base(queue) + u64::from(at) * 16;
            let (packet, header) = (
                state.iommu.word(descriptor),
                state.iommu.word(descriptor + 8),
            );
            let fits = |iova, len: u32| state.iommu.covers(iova, len as usize);
            assert!(fits(packet, chunk), "a packet buffer within reach");
            assert!(
                header == 0 || fits(header, slot),
                "a header buffer within reach"
            );
            at = (at + 1) % entries;
        }
    }

    /// Writes 16 bytes over the descriptor at `index` of queue `queue`'s ring, whatever the driver thinks of it: a broken device.
    pub fn scribble(&self, queue: u32, index: u32, words: [u64; 2]) {
        let state = self.chip.state();
        let at = state.ring_base(queue) + u64::from(index) * 16;
        let _ = state.iommu.write(at, &words[0].to_le_bytes());
        let _ = state.iommu.write(at + 8, &words[1].to_le_bytes());
    }
}

impl Chip {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn get(&self, offset: u32) -> u32 {
        self.registers
            .get(offset as usize / 4)
            .copied()
            .unwrap_or(0)
    }

    fn put(&mut self, offset: u32, value: u32) {
        if let Some(register) = self.registers.get_mut(offset as usize / 4) {
            *register = value;
        }
    }

    /// Counts one more in a register that stays at its end.
    fn count(&mut self, offset: u32, by: u32, bits: u32) {
        let most = u32::MAX >> (32 - bits);
        self.put(offset, self.get(offset).saturating_add(by).min(most));
    }

    fn ring_base(&self, queue: u32) -> u64 {
        let ring = regs::RxQueueRegs::of(queue);
        u64::from(self.get(ring.rdbal())) | u64::from(self.get(ring.rdbah())) << 32
    }
}
