//! The model of the E810 (`hw-tests/e810-model`) as a PCI function, for tests and fuzzing.
//!
//! An adapter and no more: what the card does is the model's, which knows nothing of this driver.

pub mod hostile;
mod memory;

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use devrx_e810_model::{ClockOwner, E810, Fault, Personality, small_package};
use devrx_provider::MapWay;
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::regs::ADMIN_SEND;
use crate::DriverError;
use crate::device::{Device, Mapper, PciId, Registers};
use crate::hostile::Tape;
use crate::ring::{Iommu, WAYS, ring};

/// Where the PCI command register is, and its bus master bit.
const COMMAND: usize = 4;
const BUS_MASTER: u8 = 1 << 2;
/// Where its revision and class are.
const CLASS: usize = 8;
/// Where MSI-X is turned on: found by walking the capabilities.
const CAPABILITIES: usize = 0x34;
const MSIX: u8 = 0x11;

/// BAR 0 of the model.
#[derive(Debug)]
pub struct Chip {
    card: Arc<E810>,
    iommu: Arc<Iommu>,
    /// What registers say once, instead of what they have.
    says: Mutex<BTreeMap<u32, u32>>,
    /// What registers say to one thread, whichever it reads.
    tape: Mutex<Tape>,
    /// What is wrong with the next admin answers.
    spoils: Mutex<hostile::Spoils>,
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Registers for Chip {
    fn read32(&self, offset: u32) -> u32 {
        let said = locked(&self.says).remove(&offset);
        let said = said.or_else(|| locked(&self.tape).next());
        said.unwrap_or_else(|| self.card.read32(offset))
    }

    fn write32(&self, offset: u32, value: u32) {
        self.card.write32(offset, value);
        if offset == ADMIN_SEND.tail {
            self.spoil(value);
        }
    }
}

/// The vectors that are armed.
#[derive(Debug, Default)]
struct Wires(Mutex<Vec<OwnedFd>>);

impl Wires {
    fn fds(&self) -> MutexGuard<'_, Vec<OwnedFd>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl devrx_e810_model::Interrupts for Wires {
    fn raise(&self, vector: u16) {
        if let Some(fd) = self.fds().get(usize::from(vector)) {
            ring(fd.as_fd());
        }
    }
}

/// The model as this driver has a NIC.
#[derive(Debug)]
pub struct IceModel {
    chip: Arc<Chip>,
    iommu: Arc<Iommu>,
    wires: Arc<Wires>,
    id: PciId,
    station: [u8; 6],
    vectors: u32,
    resets: AtomicU32,
    reset_fails: AtomicBool,
    /// How often the driver asked whether it is gone.
    asked: AtomicU32,
    trouble: OwnedFd,
}

fn eventfd() -> io::Result<OwnedFd> {
    Ok(EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?.into())
}

fn sys(error: io::Error) -> DriverError {
    DriverError::sys("eventfd", error, "raise the limit of open files")
}

impl IceModel {
    /// A card, as after power-on.
    ///
    /// # Panics
    ///
    /// When there are no descriptors left: it is for tests.
    #[must_use]
    pub fn new(personality: Personality) -> Arc<Self> {
        let id = PciId {
            vendor: personality.vendor,
            device: personality.device,
            subsystem_vendor: personality.subsystem.0,
            subsystem: personality.subsystem.1,
            revision: personality.revision,
        };
        let vectors = u32::from(personality.vectors);
        let station = personality.mac;
        let card = E810::new(personality);
        let iommu = Arc::new(Iommu::default());
        let wires = Arc::new(Wires::default());
        card.set_memory(iommu.clone());
        card.set_interrupts(wires.clone());
        Arc::new(Self {
            chip: Arc::new(Chip {
                card,
                iommu: Arc::clone(&iommu),
                says: Mutex::default(),
                tape: Mutex::default(),
                spoils: Mutex::default(),
            }),
            station,
            iommu,
            wires,
            id,
            vectors,
            resets: AtomicU32::new(0),
            reset_fails: AtomicBool::new(false),
            asked: AtomicU32::new(0),
            trouble: eventfd().expect("a descriptor"),
        })
    }

    /// The card itself.
    #[must_use]
    pub fn card(&self) -> &Arc<E810> {
        &self.chip.card
    }

    /// The port's own address.
    #[must_use]
    pub const fn station(&self) -> [u8; 6] {
        self.station
    }

    /// From now on it misbehaves like this.
    pub fn set_fault(&self, fault: Fault) {
        self.card().set_fault(fault);
    }

    /// Resets by the bus fail from now on, or no more.
    pub fn set_reset_fails(&self, fails: bool) {
        self.reset_fails.store(fails, Ordering::Relaxed);
    }

    /// Resets by the bus so far.
    #[must_use]
    pub fn resets(&self) -> u32 {
        self.resets.load(Ordering::Relaxed)
    }

    /// How often the driver has asked whether the card is gone.
    #[must_use]
    pub fn asked(&self) -> u32 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Whether nobody answers at its place in configuration space.
    fn silent(&self) -> bool {
        let mut class = [0; 4];
        self.card().config_read(CLASS, &mut class);
        class == [u8::MAX; 4]
    }

    /// Bytes that the card can reach.
    #[must_use]
    pub fn mapped(&self) -> usize {
        self.iommu.mapped()
    }

    /// Accesses of the card that nothing was mapped for.
    #[must_use]
    pub fn dma_faults(&self) -> u64 {
        self.iommu.faults()
    }

    /// Registers say this the next time they are read, and the vector of everything but queues is raised: what the card's hardware would have to say by itself.
    pub fn say(&self, registers: &[(u32, u32)]) {
        let says = &self.chip.says;
        says.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .extend(registers.iter().copied());
        if let Some(fd) = self.wires.fds().last() {
            ring(fd.as_fd());
        }
    }

    /// Writes descriptor `index` of receive queue `queue` back, whatever the card would have to say: the ring is where the queue's context has it.
    pub fn scribble(&self, queue: u32, index: u32, words: [u64; 4]) {
        // The words of a context are 8 KiB apart; the ring is from bit 32 on, in units of 128 bytes.
        let word = |at: u32| u64::from(self.card().read32(0x28_0000 + at * 0x2000 + queue * 4));
        let ring = (word(1) | (word(2) & 0x1ff_ffff) << 32) << 7;
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let _ = self
            .iommu
            .write(ring.wrapping_add(u64::from(index) * 32), &bytes);
    }

    /// Writes memory that the card can reach, as if it had.
    pub fn corrupt(&self, iova: u64, bytes: &[u8]) {
        let _ = self.iommu.write(iova, bytes);
    }

    /// The system reports an error of the NIC.
    pub fn make_trouble(&self) {
        ring(self.trouble.as_fd());
    }

    /// Turns MSI-X on or off, where the card has that.
    fn set_msix(&self, on: bool) {
        let byte = |at: usize| {
            let mut byte = [0];
            self.card().config_read(at, &mut byte);
            byte[0]
        };
        let mut at = usize::from(byte(CAPABILITIES));
        for _ in 0..16 {
            if at == 0 {
                return;
            }
            if byte(at) == MSIX {
                let high = byte(at + 3) & 0x7f;
                self.card()
                    .config_write(at + 3, &[high | u8::from(on) << 7]);
                return;
            }
            at = usize::from(byte(at + 1));
        }
    }
}

impl Device for IceModel {
    type Registers = Chip;

    fn address(&self) -> &str {
        "model"
    }

    fn id(&self) -> PciId {
        self.id
    }

    fn registers(&self) -> Arc<Chip> {
        Arc::clone(&self.chip)
    }

    fn mapper(&self) -> Arc<dyn Mapper> {
        self.iommu.clone()
    }

    fn set_bus_master(&self, on: bool) -> Result<(), DriverError> {
        let mut command = [0];
        self.card().config_read(COMMAND, &mut command);
        let [command] = command;
        // Memory decoding (bit 1) as vfio-pci has it for a function that is open.
        let command = command & !BUS_MASTER | 1 << 1 | if on { BUS_MASTER } else { 0 };
        self.card().config_write(COMMAND, &[command]);
        Ok(())
    }

    fn reset(&self) -> Result<(), DriverError> {
        self.wires.fds().clear();
        // As with VFIO.
        if self.silent() {
            return Ok(());
        }
        self.set_bus_master(false)?;
        if self.reset_fails.load(Ordering::Relaxed) {
            return Err(sys(io::Error::from_raw_os_error(libc::EIO)));
        }
        self.card().reset();
        self.set_bus_master(false)?;
        self.resets.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn vectors(&self) -> u32 {
        self.vectors
    }

    fn arm_vectors(&self, count: u32) -> Result<Vec<OwnedFd>, DriverError> {
        let fds = (0..count)
            .map(|_| eventfd())
            .collect::<io::Result<Vec<_>>>()
            .map_err(sys)?;
        let ours = fds
            .iter()
            .map(OwnedFd::try_clone)
            .collect::<io::Result<Vec<_>>>()
            .map_err(sys)?;
        *self.wires.fds() = ours;
        self.set_msix(true);
        Ok(fds)
    }

    fn trouble(&self) -> Option<BorrowedFd<'_>> {
        Some(self.trouble.as_fd())
    }

    fn trouble_text(&self) -> String {
        "the model was told to make trouble".to_owned()
    }

    fn gone(&self) -> bool {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.silent()
    }

    fn ways(&self) -> &'static [MapWay] {
        WAYS
    }
}
