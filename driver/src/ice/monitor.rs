//! The monitor: a thread for each NIC that hears of everything but packets.
//!
//! It waits for the vector of other causes, for notice from the system, and for a second to pass; then it looks at causes, the firmware's events and counters.
//! It never takes the control lock, so nobody who holds that waits for more than a look.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::admin::{Event, Health, LinkInfo, opcode};
use super::fault::Fault;
use super::interrupts;
use super::regs::{
    ADMIN_RECEIVE, CAUSE_ENABLE, GL_MDET_RX, GL_MDET_TX_PQM, GL_MDET_TX_TCLAN, GLGEN_RSTAT,
    GLGEN_RSTAT_COUNTS, GLGEN_RSTAT_STATE, PF_MDET_RX, PF_MDET_TX_PQM, PF_MDET_TX_TCLAN,
    PFINT_FW_CTL, PFINT_OICR, cause, control, malicious,
};
use super::shared::Shared;
use crate::DriverError;
use crate::device::{Device, stays_silent};
use crate::ring::{Vectors, drain, ring};

/// How often the thread looks at least, milliseconds.
const TICK: u16 = 1000;
/// How often counters are read, and the system is asked whether the card is there. A queue that sends raises the vector thousands of times a second.
const COUNT: Duration = Duration::from_millis(900);

/// The running thread; it ends when this is dropped.
#[derive(Debug)]
pub(super) struct Monitor {
    quit: OwnedFd,
    thread: Option<JoinHandle<()>>,
}

/// What the thread looks at.
struct Watch<D: Device> {
    shared: Arc<Shared<D>>,
    vectors: Arc<Vectors>,
    quit: OwnedFd,
    /// The vector of other causes.
    vector: u32,
    port: u32,
    epoch: u32,
    /// How often the card had been reset when this began ([`GLGEN_RSTAT_COUNTS`]).
    resets: u32,
}

impl Monitor {
    /// Starts watching.
    pub(super) fn start<D: Device>(
        shared: Arc<Shared<D>>,
        vectors: Arc<Vectors>,
        vector: u32,
        port: u32,
    ) -> Result<Self, DriverError> {
        let quit: OwnedFd = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
            .map_err(|error| {
                DriverError::sys(
                    "eventfd",
                    error.into(),
                    "raise the limit of open files (`ulimit -n`)",
                )
            })?
            .into();
        let theirs = quit
            .try_clone()
            .map_err(|error| DriverError::sys("dup", error, "raise the limit of open files"))?;
        let watch = Watch {
            epoch: shared.epoch.load(Ordering::Acquire),
            resets: shared.read(GLGEN_RSTAT) & GLGEN_RSTAT_COUNTS,
            shared,
            vectors,
            quit: theirs,
            vector,
            port,
        };
        let thread = std::thread::Builder::new()
            .name("ice-monitor".to_owned())
            .spawn(move || watch.run())
            .map_err(|error| DriverError::sys("clone", error, "raise the limit of threads"))?;
        Ok(Self {
            quit,
            thread: Some(thread),
        })
    }
}

impl Drop for Monitor {
    fn drop(&mut self) {
        ring(self.quit.as_fd());
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the monitor of a NIC had panicked; this is a fault in this program");
        }
    }
}

impl<D: Device> Watch<D> {
    fn nic(&self) -> &str {
        self.shared.device.address()
    }

    /// Whether the device is still as this thread knew it.
    fn current(&self) -> bool {
        self.shared.epoch.load(Ordering::Acquire) == self.epoch
    }

    fn run(&self) {
        // Which fault the queues have been woken for: whoever saw it first need not have been this thread.
        let mut told = 0;
        let mut troubled = false;
        let mut counted = Instant::now();
        loop {
            let mut fds = vec![
                PollFd::new(self.quit.as_fd(), PollFlags::POLLIN),
                PollFd::new(self.vectors.other(), PollFlags::POLLIN),
            ];
            // Once reported it stays readable: no longer waited for.
            if let Some(trouble) = self.shared.device.trouble()
                && !troubled
            {
                fds.push(PollFd::new(trouble, PollFlags::POLLIN));
            }
            // An interrupted wait is as good as a tick.
            let _ = poll(&mut fds, PollTimeout::from(TICK));
            let readable = |fd: Option<&PollFd<'_>>| fd.is_some_and(|fd| fd.any().unwrap_or(false));
            if readable(fds.first()) {
                return;
            }
            if readable(fds.get(2)) {
                let why = self.shared.device.trouble_text();
                tracing::error!(nic = self.nic(), why, "the NIC must end");
                troubled = true;
                self.shared.fail(Fault::Trouble);
            }
            drain(self.vectors.other());
            let second = counted.elapsed() >= COUNT;
            if second {
                counted = Instant::now();
            }
            if self.look(second) && second {
                self.shared.collect(self.port);
                self.shared.all_discards();
                self.shared.relate();
                if self.shared.clock.is_running() {
                    // Its stamps of 32 bits say when a packet came if the queue was looked at not long before; whoever sleeps looks now.
                    self.vectors.wake_all();
                }
            }
            let failed = self.shared.failed();
            if failed != told {
                told = failed;
                self.vectors.wake_all();
            }
        }
    }

    /// Everything but packets, once, and with `ask` whether the system still has the card; whether counters can be read.
    fn look(&self, ask: bool) -> bool {
        // All ones where nothing answers, as while the system resets the function: they tell of no cause.
        let causes = match self.shared.read(PFINT_OICR) {
            u32::MAX => 0,
            causes => causes,
        };
        let mut state = 0;
        let silent = stays_silent(|| {
            state = self.shared.read(GLGEN_RSTAT);
            state == u32::MAX
        });
        let gone = silent || ask && self.shared.device.gone();
        if !self.current() {
            // It is being reset, or was, and is not set up: what it answers says nothing.
            return false;
        }
        if gone {
            if self.shared.failed() < Fault::Gone as u32 {
                tracing::error!(nic = self.nic(), "the NIC does not answer any more");
            }
            self.shared.fail(Fault::Gone);
            return false;
        }
        // A reset clears where causes go, and may have cleared the cause itself: then the card's count of resets tells whether it was all of the card's.
        let forgotten = self.shared.read(PFINT_FW_CTL) & CAUSE_ENABLE == 0;
        let announced = causes & cause::RESET != 0 || state & GLGEN_RSTAT_STATE != 0;
        if announced || forgotten {
            let (fault, what) = if announced || state & GLGEN_RSTAT_COUNTS != self.resets {
                (Fault::DeviceReset, "the whole card is being reset")
            } else {
                (Fault::FunctionReset, "somebody else has reset this NIC")
            };
            if self.shared.failed() < fault as u32 {
                tracing::warn!(nic = self.nic(), "{what}; its queues have ended");
            }
            self.shared.fail(fault);
            return false;
        }
        if causes & cause::MALICIOUS != 0 {
            self.look_at_malicious();
        }
        let fatal = cause::ECC | cause::PCI | cause::HMC | cause::CRITICAL;
        if causes & fatal != 0 {
            tracing::error!(
                nic = self.nic(),
                causes = format_args!("{:#010x}", causes & fatal),
                "the NIC reported an error that only a reset takes away"
            );
            self.shared.fail(Fault::Fatal);
        }
        // The firmware could not write what it had to say.
        let events = self.shared.read(ADMIN_RECEIVE.length);
        if events & control::ENABLE != 0 && events & control::CRITICAL != 0 && events != u32::MAX {
            if self.shared.failed() < Fault::Fatal as u32 {
                tracing::error!(
                    nic = self.nic(),
                    length = format_args!("{events:#010x}"),
                    "the firmware cannot tell its events any more"
                );
            }
            self.shared.fail(Fault::Fatal);
        }
        // Ends: more than the ring holds come with the next look.
        for _ in 0..32 {
            let event = self.shared.events().next();
            let Some(event) = event else {
                break;
            };
            self.take(&event);
        }
        interrupts::unmask(&self.shared, self.vector);
        true
    }

    /// Which queue the device has stopped, and why.
    fn look_at_malicious(&self) {
        let units = [
            (GL_MDET_RX, PF_MDET_RX, "receive"),
            (GL_MDET_TX_PQM, PF_MDET_TX_PQM, "transmit (PQM)"),
            (GL_MDET_TX_TCLAN, PF_MDET_TX_TCLAN, "transmit (TCLAN)"),
        ];
        for (device, function, unit) in units {
            let event = self.shared.read(device);
            let ours = self.shared.read(function);
            if event == u32::MAX || ours == u32::MAX || event & malicious::VALID == 0 {
                continue;
            }
            // Whoever caused it clears it; others would take it away from them.
            if ours & 1 == 0 {
                continue;
            }
            tracing::error!(
                nic = self.nic(),
                unit,
                kind = event >> malicious::TYPE_SHIFT & 0x1f,
                queue = event & malicious::RX_QUEUE,
                "malicious driver detection: the NIC stopped a queue of this driver"
            );
            self.shared.write(device, u32::MAX);
            self.shared.write(function, 0xffff);
            self.shared.fail(Fault::Malicious);
        }
    }

    /// What the firmware says by itself.
    fn take(&self, event: &Event) {
        match event.opcode {
            opcode::LINK_STATUS => {
                let Some(link) = LinkInfo::parse(&event.data) else {
                    return;
                };
                let before = self.shared.set_link(link);
                if before.up != link.up {
                    tracing::info!(
                        nic = self.nic(),
                        up = link.up,
                        media = link.media,
                        speed = link.speed,
                        "link"
                    );
                }
                if let Some(trouble) = link.trouble
                    && before.trouble != link.trouble
                {
                    tracing::warn!(nic = self.nic(), trouble, "link");
                }
            }
            opcode::HEALTH => {
                for report in Health::of(event) {
                    tracing::warn!(
                        nic = self.nic(),
                        code = format_args!("{:#06x}", report.code),
                        about = report.about,
                        means = report.text(),
                        "the firmware reports on the card's health"
                    );
                    self.shared.set_health(format!(
                        "the firmware reported on {} (code {:#06x}): {}",
                        report.about,
                        report.code,
                        report.text()
                    ));
                }
            }
            opcode::OVERFLOW => tracing::warn!(
                nic = self.nic(),
                "the NIC's internal buffers overflowed (LAN overflow event)"
            ),
            opcode => tracing::debug!(
                nic = self.nic(),
                opcode = format_args!("{opcode:#06x}"),
                "an event that nobody waits for"
            ),
        }
    }
}
