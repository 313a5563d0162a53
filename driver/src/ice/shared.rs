//! What the NIC, its queues and its monitor share.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::admin::{Admin, AdminError, Events, LinkInfo};
use super::fault::{self, Fault};
use super::init;
use super::parts::Part;
use super::regs::{PFGEN_CTRL, PFGEN_CTRL_RESET};
use super::statistics::{Discarded, Discards, Totals};
use crate::DriverError;
use crate::clock::Clock;
use crate::device::{Device, Registers};
use crate::ring::{ring, wait};

/// What the control lock guards besides registers.
#[derive(Debug)]
pub(super) struct Control<R: Registers> {
    pub admin: Admin<R>,
    /// The node of the transmit scheduler that queues are added to, once it is there.
    pub group: Option<u32>,
    /// There is a transmitter, or one that was not proven to have stopped.
    pub transmits: bool,
}

impl<R: Registers> Control<R> {
    /// Nothing is left of what was before a reset of the function.
    pub(super) const fn forget(&mut self) {
        self.group = None;
        self.transmits = false;
    }
}

/// What VSIs have discarded.
#[derive(Debug, Default)]
struct Ledger {
    /// The VSI of a queue that is open, or was last.
    of_queue: BTreeMap<u32, Arc<Discards>>,
    live: Vec<Arc<Discards>>,
    /// What VSIs of one queue and of several discarded that are gone.
    past: [Discarded; 2],
    /// What VSIs discarded that were a queue's own before it was opened last.
    before: BTreeMap<u32, u64>,
}

/// Shared by control, queues and monitor.
pub(super) struct Shared<D: Device> {
    pub(super) device: Arc<D>,
    pub(super) registers: Arc<D::Registers>,
    pub(super) part: &'static Part,
    /// The unit of interrupt throttles, microseconds.
    pub(super) throttle_unit: u32,
    /// Held while the firmware is asked, and while registers that several parties use are changed. The monitor never takes it.
    control: Mutex<Control<D::Registers>>,
    events: Mutex<Events<D::Registers>>,
    link: Mutex<LinkInfo>,
    /// What the firmware said last of the card's health.
    health: Mutex<Option<String>>,
    /// Function resets so far. A queue of an earlier epoch has ended.
    pub(super) epoch: AtomicU32,
    /// A [`Fault`], or 0.
    fault: AtomicU32,
    /// Written with the first fault that ends the NIC.
    alarm: Mutex<Option<OwnedFd>>,
    /// Packets that each queue's thread has dealt with since the NIC was opened.
    pub(super) arrived: Box<[AtomicU64]>,
    pub(super) totals: Mutex<Totals>,
    /// The card's clock; it runs while somebody wants its stamps.
    pub(super) clock: Arc<Clock>,
    /// Which of the card's timers that is.
    pub(super) timer: AtomicU32,
    ledger: Mutex<Ledger>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl<D: Device> Shared<D> {
    /// `queues`: how many of the function's receive queues are used.
    pub(super) fn new(
        device: Arc<D>,
        part: &'static Part,
        queues: u32,
    ) -> Result<Self, DriverError> {
        let registers = device.registers();
        let mapper = device.mapper();
        let admin = Admin::new(Arc::clone(&registers), &mapper)?;
        let events = Events::new(Arc::clone(&registers), &mapper)?;
        Ok(Self {
            throttle_unit: init::throttle_unit(&*registers),
            registers,
            device,
            part,
            control: Mutex::new(Control {
                admin,
                group: None,
                transmits: false,
            }),
            events: Mutex::new(events),
            link: Mutex::new(init::no_link()),
            health: Mutex::default(),
            epoch: AtomicU32::new(0),
            fault: AtomicU32::new(0),
            alarm: Mutex::new(None),
            arrived: (0..queues).map(|_| AtomicU64::new(0)).collect(),
            totals: Mutex::default(),
            // Stamps have the low half of the nanoseconds.
            clock: Arc::new(Clock::new(64, 32)),
            timer: AtomicU32::new(0),
            ledger: Mutex::default(),
        })
    }

    /// Whoever asks the firmware or changes shared registers holds this.
    pub(super) fn control(&self) -> MutexGuard<'_, Control<D::Registers>> {
        lock(&self.control)
    }

    /// What the firmware says by itself.
    pub(super) fn events(&self) -> MutexGuard<'_, Events<D::Registers>> {
        lock(&self.events)
    }

    /// The link, as the firmware said last.
    pub(super) fn link(&self) -> LinkInfo {
        *lock(&self.link)
    }

    /// Takes in what the firmware says of the link; what it said before.
    pub(super) fn set_link(&self, link: LinkInfo) -> LinkInfo {
        std::mem::replace(&mut *lock(&self.link), link)
    }

    /// What the firmware said last of the card's health.
    pub(super) fn health(&self) -> Option<String> {
        lock(&self.health).clone()
    }

    /// Takes in what the firmware says of the card's health.
    pub(super) fn set_health(&self, text: String) {
        *lock(&self.health) = Some(text);
    }

    #[inline]
    pub(super) fn read(&self, offset: u32) -> u32 {
        self.registers.read32(offset)
    }

    /// Writes a register off the packet path.
    pub(super) fn write(&self, offset: u32, value: u32) {
        tracing::trace!(
            offset = format_args!("{offset:#08x}"),
            value = format_args!("{value:#010x}"),
            "write"
        );
        self.registers.write32(offset, value);
    }

    /// What a refused command is to whoever called the driver.
    pub(super) fn refused(&self, error: AdminError) -> DriverError {
        error.of(self.device.address())
    }

    /// From now on every queue reports `fault`, or what is graver. The monitor wakes them, within a second.
    pub(super) fn fail(&self, fault: Fault) {
        if self.fault.fetch_max(fault as u32, Ordering::Release) < fault as u32 {
            self.raise_alarm();
        }
    }

    /// Has `alarm` written once the NIC can serve no more.
    pub(super) fn set_alarm(&self, alarm: OwnedFd) {
        *lock(&self.alarm) = Some(alarm);
        self.raise_alarm();
    }

    /// Nobody waits long for the lock: it is held for no more than this.
    fn raise_alarm(&self) {
        let alarm = lock(&self.alarm);
        if let (Some(_), Some(alarm)) = (self.ended(), &*alarm) {
            ring(alarm.as_fd());
        }
    }

    /// Why the NIC can serve no more, not even after it was reset: it is gone, or wanted back.
    pub(super) fn ended(&self) -> Option<String> {
        match self.failed() {
            code if code == Fault::Trouble as u32 => Some(self.device.trouble_text()),
            code if code == Fault::Gone as u32 => Some(fault::GONE.to_owned()),
            _ => None,
        }
    }

    /// What has failed, as a number: the greater, the graver. 0 for nothing.
    pub(super) fn failed(&self) -> u32 {
        self.fault.load(Ordering::Relaxed)
    }

    /// Resets the function, which ends every queue of this epoch, or has each of them report that it failed. Under the control lock.
    pub(super) fn reset(&self, control: &mut Control<D::Registers>) -> Result<(), DriverError> {
        let before = self.epoch.load(Ordering::Relaxed);
        // First, so that nobody takes what the registers say after the reset for the queue's of before it. Whoever asks whether a queue has stopped
        // holds the control lock.
        self.epoch.store(before.wrapping_add(1), Ordering::Release);
        // Before the counters may be another VSI's with the same number.
        self.end_all_discards();
        self.clock.stop();
        // Nothing is asked of firmware that has forgotten where to answer.
        control.admin.stop();
        self.events().stop();
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

    /// A function reset that succeeded clears what went before it.
    pub(super) fn forgive(&self) {
        self.fault.store(0, Ordering::Release);
    }

    /// Why a queue opened in `epoch` can receive no more.
    #[inline]
    pub(super) fn fault_of(&self, epoch: u32) -> Option<&'static str> {
        let code = self.failed();
        if code == 0 && self.epoch.load(Ordering::Relaxed) == epoch {
            return None;
        }
        Some(fault::text(code))
    }

    /// From now on what `vsi` discards counts for `queues`.
    pub(super) fn begin_discards(&self, vsi: u16, queues: std::ops::RangeInclusive<u32>) {
        let alone = queues.start() == queues.end();
        let new = Arc::new(Discards::begin(&*self.registers, vsi, alone));
        let mut ledger = lock(&self.ledger);
        ledger.live.push(Arc::clone(&new));
        for queue in queues {
            ledger.of_queue.insert(queue, Arc::clone(&new));
        }
    }

    /// The VSI of `queue` goes.
    pub(super) fn end_discards(&self, queue: u32) {
        let mut ledger = lock(&self.ledger);
        let Some(ending) = ledger.of_queue.get(&queue).map(Arc::clone) else {
            return;
        };
        ending.end(&*self.registers);
        let live = ledger.live.len();
        ledger.live.retain(|other| !Arc::ptr_eq(other, &ending));
        if ledger.live.len() < live {
            let count = ending.count(&*self.registers);
            let past = &mut ledger.past[usize::from(!ending.alone)];
            *past = sum(*past, count);
        }
    }

    /// All VSIs go, with a reset. Their queues keep what they know.
    fn end_all_discards(&self) {
        let mut ledger = lock(&self.ledger);
        for ending in std::mem::take(&mut ledger.live) {
            ending.end(&*self.registers);
            let count = ending.count(&*self.registers);
            let past = &mut ledger.past[usize::from(!ending.alone)];
            *past = sum(*past, count);
        }
    }

    /// A queue begins: what its predecessor's VSI discarded is not its own.
    pub(super) fn forget_discards(&self, queue: u32) {
        let mut ledger = lock(&self.ledger);
        let before = ledger.of_queue.remove(&queue);
        if let Some(before) = before.filter(|before| before.alone) {
            let count = before.count(&*self.registers).total;
            *ledger.before.entry(queue).or_default() += count;
        }
    }

    /// Packets that were steered to `queue` since the NIC was opened.
    pub(super) fn steered(&self, queue: u32) -> u64 {
        let Some(arrived) = self.arrived.get(queue as usize) else {
            return 0;
        };
        let (discarded, alone) = self.discards_of(queue);
        let before = lock(&self.ledger).before.get(&queue).copied().unwrap_or(0);
        arrived.load(Ordering::Relaxed) + before + if alone { discarded.total } else { 0 }
    }

    /// What the VSI of `queue` discarded; and whether that was all this queue's.
    pub(super) fn discards_of(&self, queue: u32) -> (Discarded, bool) {
        let found = lock(&self.ledger).of_queue.get(&queue).map(Arc::clone);
        found.map_or((Discarded::default(), true), |found| {
            (found.count(&*self.registers), found.alone)
        })
    }

    /// What VSIs of several queues discarded.
    pub(super) fn discards_of_several(&self) -> Discarded {
        let ledger = lock(&self.ledger);
        let live = ledger.live.iter().filter(|discards| !discards.alone);
        live.map(|discards| discards.count(&*self.registers))
            .fold(ledger.past[1], sum)
    }

    /// What all VSIs discarded.
    pub(super) fn all_discards(&self) -> Discarded {
        let ledger = lock(&self.ledger);
        let live = ledger.live.iter();
        live.map(|discards| discards.count(&*self.registers))
            .fold(sum(ledger.past[0], ledger.past[1]), sum)
    }
}

fn sum(a: Discarded, b: Discarded) -> Discarded {
    // What the device says is not checked.
    Discarded {
        total: a.total.wrapping_add(b.total),
        errors: a.errors.wrapping_add(b.errors),
    }
}

impl<D: Device> Drop for Shared<D> {
    /// The last that had to do with the NIC is gone. The admin queues' memory goes with it, once the function is reset.
    fn drop(&mut self) {
        let (registers, control) = (
            &self.registers,
            self.control
                .get_mut()
                .unwrap_or_else(PoisonError::into_inner),
        );
        if control.admin.alive() {
            let _ = control.admin.shut_down();
        }
        let events = self
            .events
            .get_mut()
            .unwrap_or_else(PoisonError::into_inner);
        control.admin.stop();
        events.stop();
        registers.write32(PFGEN_CTRL, PFGEN_CTRL_RESET);
        let mut value = 0;
        // A card that is gone is not waited for.
        let reset = wait(init::FUNCTION_PATIENCE, || {
            value = registers.read32(PFGEN_CTRL);
            value == u32::MAX || value & PFGEN_CTRL_RESET == 0
        }) && value != u32::MAX;
        // Where the function does not say that it was reset, the bus may.
        if !reset && self.device.reset().is_err() {
            tracing::error!(
                nic = self.device.address(),
                "the NIC was not reset; the memory of its admin queues stays its own until this process ends"
            );
            control.admin.leak();
            events.leak();
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
