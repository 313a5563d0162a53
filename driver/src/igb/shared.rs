//! What the NIC, its queues and its monitor share.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::clock::SystemTime;
use super::parts::Part;
use super::regs::{GPIE, ICR, gpie, icr};
use super::statistics::Totals;
use crate::DriverError;
use crate::clock::Clock;
use crate::device::{Device, Registers};
use crate::ring::ring;

/// Why a NIC can receive no more, the graver the greater: the gravest is what is reported.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub(super) enum Fault {
    /// Somebody else reset it.
    Reset = 1,
    /// Its memory failed.
    Fatal,
    /// A reset that was to stop it failed.
    Stuck,
    /// Nobody answers any more.
    Gone,
    /// The system reported an error, or wants the device back.
    Trouble,
}

const TROUBLE: &str = "the system reported an error of the NIC that cannot be corrected, or wants the NIC back; the daemon's log says which; \
                       detach, then bind the NIC again";
const GONE: &str = "the NIC does not answer any more: it was pulled, lost power, or its memory decoding was turned off; \
                    detach, then bind the NIC again";
const FATAL: &str =
    "the NIC reported an error in its own memory; detach and attach again, which resets it";
const STUCK: &str = "one of the NIC's queues did not stop, and the NIC could not be reset; detach everything and attach again, which tries once more, \
                     or power the machine off and on";
const RESET_OUTSIDE: &str = "somebody else reset this NIC: had the system do so, or reset the whole card by another of its ports; attach again";
pub(super) const RESET: &str =
    "the NIC was reset because one of its queues did not stop; attach again";

/// Shared by control, queues and monitor.
pub(super) struct Shared<D: Device> {
    pub(super) device: Arc<D>,
    pub(super) registers: Arc<D::Registers>,
    pub(super) part: &'static Part,
    /// Held while registers that several parties use are changed. The monitor never takes it.
    control: Mutex<()>,
    /// Function resets so far. A queue of an earlier epoch has ended.
    pub(super) epoch: AtomicU32,
    /// A [`Fault`], or 0.
    fault: AtomicU32,
    /// The epoch of the transmitter that there is, plus 1; 0 if there is none. Changed under the control lock.
    pub(super) transmitter: AtomicU32,
    /// Written with the first fault that ends the NIC.
    alarm: Mutex<Option<OwnedFd>>,
    /// Held from where causes are read, which clears them, to where what they say is kept: whoever finds none knows all that was said before. For two
    /// register accesses, by anybody off the packet path.
    causes: Mutex<()>,
    /// How often the device said that packets were lost.
    pub(super) overruns: AtomicU64,
    /// Packets that came to each queue since the NIC was opened.
    pub(super) arrived: Box<[AtomicU64]>,
    pub(super) totals: Mutex<Totals>,
    /// The NIC's clock, if it stamps packets.
    pub(super) clock: Option<Arc<Clock>>,
}

impl<D: Device> Shared<D> {
    pub(super) fn new(device: Arc<D>, part: &'static Part, queues: u32) -> Self {
        Self {
            registers: device.registers(),
            device,
            part,
            control: Mutex::new(()),
            epoch: AtomicU32::new(0),
            fault: AtomicU32::new(0),
            transmitter: AtomicU32::new(0),
            alarm: Mutex::new(None),
            causes: Mutex::new(()),
            overruns: AtomicU64::new(0),
            arrived: (0..queues).map(|_| AtomicU64::new(0)).collect(),
            totals: Mutex::default(),
            clock: part.time.ok().map(SystemTime::clock).map(Arc::new),
        }
    }

    /// Whoever changes shared registers holds this.
    pub(super) fn control(&self) -> MutexGuard<'_, ()> {
        self.control.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    pub(super) fn read(&self, offset: u32) -> u32 {
        self.registers.read32(offset)
    }

    /// Writes a register off the packet path.
    pub(super) fn write(&self, offset: u32, value: u32) {
        tracing::trace!(
            offset = format_args!("{offset:#06x}"),
            value = format_args!("{value:#010x}"),
            "write"
        );
        self.registers.write32(offset, value);
    }

    /// From now on every queue reports `fault`, or what is graver. The monitor wakes them, within a second.
    pub(super) fn fail(&self, fault: Fault) {
        if self.fault.fetch_max(fault as u32, Ordering::Release) < fault as u32 {
            self.raise_alarm();
        }
    }

    /// Has `alarm` written once the NIC can serve no more.
    pub(super) fn set_alarm(&self, alarm: OwnedFd) {
        *self.alarm.lock().unwrap_or_else(PoisonError::into_inner) = Some(alarm);
        self.raise_alarm();
    }

    /// Nobody waits long for the lock: it is held for no more than this.
    fn raise_alarm(&self) {
        let alarm = self.alarm.lock().unwrap_or_else(PoisonError::into_inner);
        if let (Some(_), Some(alarm)) = (self.ended(), &*alarm) {
            ring(alarm.as_fd());
        }
    }

    /// Why the NIC can serve no more, not even after it was reset: it is gone, or wanted back.
    pub(super) fn ended(&self) -> Option<String> {
        match self.fault.load(Ordering::Relaxed) {
            code if code == Fault::Trouble as u32 => Some(self.device.trouble_text()),
            code if code == Fault::Gone as u32 => Some(GONE.to_owned()),
            _ => None,
        }
    }

    /// What has failed, as a number: the greater, the graver. 0 for nothing.
    pub(super) fn failed(&self) -> u32 {
        self.fault.load(Ordering::Relaxed)
    }

    /// Resets the function, which ends every queue of this epoch, or has each of them report that it failed. Under the control lock.
    pub(super) fn reset(&self) -> Result<(), DriverError> {
        let before = self.epoch.load(Ordering::Relaxed);
        // The reset clears the counters.
        self.collect();
        // First, so that nobody takes what the registers say after the reset for the queue's of before it. Whoever asks whether a queue has stopped
        // holds the control lock.
        self.epoch.store(before.wrapping_add(1), Ordering::Release);
        self.device.reset().inspect_err(|_| {
            self.epoch.store(before, Ordering::Release);
            self.fail(Fault::Stuck);
        })?;
        // Nor does the monitor look before the NIC is set up again.
        self.end_if_gone();
        Ok(())
    }

    /// Has the NIC end if there is nothing any more where it was.
    pub(super) fn end_if_gone(&self) {
        if self.device.gone() {
            tracing::error!(nic = self.device.address(), "the NIC is not there any more");
            self.fail(Fault::Gone);
        }
    }

    /// Whether the port's counters hold every packet that was lost: the device never lost some that it did not count, and no reset threw away what it held.
    pub(super) fn counts_all(&self) -> bool {
        let lost = self.overruns.load(Ordering::Relaxed) != 0;
        // What has failed serves again only after a reset.
        !lost && self.failed() == 0 && self.epoch.load(Ordering::Relaxed) == 0
    }

    /// Looks whether somebody else has reset the function that was set up in `epoch`; then every queue reports it. Any reset clears how interrupts come, and
    /// nobody but this driver sets that up. Reads a register, so it is nothing for the packet path.
    pub(super) fn look_for_reset(&self, epoch: u32) -> bool {
        // All ones have the bit: what does not answer, because the system is just resetting it or because it is gone, tells nothing.
        let cleared = self.read(GPIE) & gpie::MULTIPLE_MSIX == 0;
        // This driver's own resets clear it as well, and change the epoch first.
        let current = || self.epoch.load(Ordering::Acquire) == epoch;
        if !cleared || !current() {
            return false;
        }
        if self.failed() == 0 {
            // What was torn out from behind QEMU's root ports reads zero.
            self.end_if_gone();
        }
        if current() {
            self.was_reset();
        }
        true
    }

    fn was_reset(&self) {
        if self.failed() < Fault::Reset as u32 {
            tracing::warn!(
                nic = self.device.address(),
                "somebody else has reset this NIC; its queues have ended"
            );
        }
        self.fail(Fault::Reset);
    }

    /// A function reset that succeeded clears what went before it.
    pub(super) fn forgive(&self) {
        self.fault.store(0, Ordering::Release);
    }

    /// Why a queue opened in `epoch` can receive no more.
    #[inline]
    pub(super) fn fault_of(&self, epoch: u32) -> Option<&'static str> {
        match self.fault.load(Ordering::Relaxed) {
            0 if self.epoch.load(Ordering::Relaxed) == epoch => None,
            0 => Some(RESET),
            code if code == Fault::Reset as u32 => Some(RESET_OUTSIDE),
            code if code == Fault::Fatal as u32 => Some(FATAL),
            code if code == Fault::Stuck as u32 => Some(STUCK),
            code if code == Fault::Gone as u32 => Some(GONE),
            _ => Some(TROUBLE),
        }
    }

    /// Reads and clears the interrupt causes, and keeps what they say. Queues and monitor may both do so at any time: each cause is read by
    /// one of them.
    pub(super) fn take_causes(&self) {
        let _kept = self.causes.lock().unwrap_or_else(PoisonError::into_inner);
        let causes = self.read(ICR);
        if causes == u32::MAX {
            // The device is gone; the monitor finds out.
            return;
        }
        if causes != 0 {
            // QEMU does not clear by reading in every mode; a cause that stays set raises no further interrupt.
            self.registers.write32(ICR, causes);
        }
        if causes & icr::RXO != 0 {
            self.overruns.fetch_add(1, Ordering::Relaxed);
        }
        if causes & icr::FER != 0 {
            self.fail(Fault::Fatal);
        }
        if causes & icr::DRSTA != 0 {
            self.was_reset();
        }
    }
}

impl<D: Device> std::fmt::Debug for Shared<D> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shared")
            .field("part", &self.part.name)
            .field("epoch", &self.epoch)
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}
