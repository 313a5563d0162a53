//! Control's side of a worker.

use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use devrx_driver::RxQueue;
use devrx_proto::event::Event;
use devrx_proto::ring::Start;

use super::snapshot::{Snapshot, Words};
use super::{ClientSide, Command, Finished, Parts, Worker};

/// How long control waits for a worker's answer before it goes on with what it knows.
const PATIENCE: Duration = Duration::from_secs(2);

/// After so long without an answer, control looks whether the client holds the worker up.
const STEP: Duration = Duration::from_millis(50);

/// What control and a worker share, besides commands. Nothing a packet needs.
#[derive(Debug)]
pub struct Shared {
    /// There are commands.
    pub(super) commanded: AtomicBool,
    /// One of them is to stop.
    pub(super) stop: AtomicBool,
    /// Wakes the worker for them.
    pub(super) doorbell: Event,
    /// Why the attachment must end; set once.
    fault: Mutex<Option<&'static str>>,
    /// Wakes control for it.
    control: Arc<Event>,
}

impl Shared {
    /// Nothing commanded, nothing wrong. `control` is rung when something is.
    ///
    /// # Errors
    ///
    /// What eventfd(2) answers.
    pub fn new(control: Arc<Event>) -> std::io::Result<Self> {
        Ok(Self {
            commanded: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            doorbell: Event::new()?,
            fault: Mutex::new(None),
            control,
        })
    }

    /// Says that the attachment must end. The first reason counts.
    pub(super) fn fail(&self, why: &'static str) {
        let mut fault = self.fault.lock().unwrap_or_else(PoisonError::into_inner);
        if fault.is_none() && !devrx_sabotage::removed("worker-fault") {
            *fault = Some(why);
            self.control.notify();
        }
    }

    /// Why the attachment must end, if it must.
    #[must_use]
    pub fn fault(&self) -> Option<&'static str> {
        *self.fault.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A running worker.
#[derive(Debug)]
pub struct Handle {
    shared: Arc<Shared>,
    commands: SyncSender<Command>,
    thread: JoinHandle<Finished>,
    /// The event that wakes the client: shared with it, and so a way to hold the worker up.
    wake: Event,
    last: Snapshot,
}

/// A channel for commands: the sender is given to [`Seat::start`], the receiver goes into [`Parts`].
#[must_use]
pub fn commands() -> (SyncSender<Command>, Receiver<Command>) {
    sync_channel(16)
}

/// A thread that waits for its worker, and what else can fail to be had. Taken before the queue is opened: an open queue without a worker
/// would have nobody to stop it, and its memory could never be taken from the NIC.
#[derive(Debug)]
pub struct Seat<Q: RxQueue> {
    start: SyncSender<Worker<Q>>,
    is_ready: Receiver<()>,
    thread: JoinHandle<Finished>,
    wake: Event,
    words: Words,
}

impl<Q: RxQueue + 'static> Seat<Q> {
    /// Starts the thread. It ends if the seat is dropped.
    ///
    /// # Errors
    ///
    /// When there is no thread or descriptor to be had, or the layout has no room for the counters.
    pub fn take(parts: &Parts) -> anyhow::Result<Self> {
        let words = Words::new(&parts.layout, parts.place, &parts.memory)?;
        let wake = parts.client.wake.try_clone()?;
        let (start, started) = sync_channel::<Worker<Q>>(1);
        let (ready, is_ready) = sync_channel(1);
        let shared = parts.shared.clone();
        let thread = std::thread::Builder::new()
            .name(parts.manners.name.clone())
            .spawn(move || {
                let Ok(worker) = started.recv() else {
                    return Finished::default();
                };
                let panicked = Panicked(shared);
                let finished = worker.run(move || {
                    let _ = ready.try_send(());
                });
                drop(panicked);
                finished
            })?;
        Ok(Self {
            start,
            is_ready,
            thread,
            wake,
            words,
        })
    }

    /// Gives the thread its worker and returns when that has posted its first chunks.
    #[must_use]
    pub fn start(self, queue: Q, parts: Parts, commands: SyncSender<Command>) -> Handle {
        let shared = parts.shared.clone();
        // The channel has room for one, and the thread does not end before it has it.
        let _ = self.start.send(Worker::new(queue, parts, self.words));
        // A worker that died says so by its fault, and by hanging up; one that is slow will post later.
        let _ = self.is_ready.recv_timeout(PATIENCE);
        Handle {
            shared,
            commands,
            thread: self.thread,
            wake: self.wake,
            last: Snapshot::default(),
        }
    }
}

impl Handle {
    fn send(&self, command: Command) -> bool {
        let sent = self.commands.try_send(command).is_ok();
        self.shared.commanded.store(true, Ordering::Release);
        self.shared.doorbell.notify();
        sent
    }

    /// Why the attachment must end, if it must.
    #[must_use]
    pub fn fault(&self) -> Option<&'static str> {
        self.shared.fault()
    }

    /// Asks for the numbers; [`collect`](Self::collect) waits for them. Two steps, so that several workers answer at once.
    #[must_use]
    pub fn ask(&self) -> Receiver<Snapshot> {
        let (answer, answered) = sync_channel(1);
        self.send(Command::Report(answer));
        answered
    }

    /// The numbers asked for; the last known ones if the worker does not answer.
    pub fn collect(&mut self, answered: &Receiver<Snapshot>) -> Snapshot {
        if let Some(numbers) = self.wait(answered) {
            self.last = numbers;
        }
        self.last
    }

    /// Gives the worker a new client's half. `None` if it does not answer: it is dead or dying.
    #[must_use]
    pub fn change_consumer(&mut self, client: ClientSide) -> Option<Start> {
        let (answer, answered) = sync_channel(1);
        let wake = client.wake.try_clone().ok()?;
        self.send(Command::Consumer(client, answer));
        let start = self.wait(&answered);
        self.wake = wake;
        start
    }

    /// Waits for an answer. A worker that takes long may be held up by its client.
    fn wait<T>(&self, answered: &Receiver<T>) -> Option<T> {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            match answered.recv_timeout(STEP) {
                Ok(answer) => return Some(answer),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => self.free(),
            }
        }
        None
    }

    /// Frees a worker that hangs in waking its client: an eventfd that the client filled to the brim and made blocking. Control never
    /// waits for it. A count that no waking adds up to gives that client away.
    fn free(&self) {
        if devrx_sabotage::removed("jammed-wake") {
            return;
        }
        if crate::sys::drain_eventfd(self.wake.as_fd()) > u64::from(u32::MAX) {
            self.shared
                .fail("the client filled the event that wakes it, to hold the daemon up");
        }
    }

    /// Tells the worker to end its queue; steering must be closed. [`join`](Self::join) waits for it.
    pub fn stop(&self) {
        self.shared.stop.store(true, Ordering::Release);
        self.shared.commanded.store(true, Ordering::Release);
        self.shared.doorbell.notify();
    }

    /// Waits for the end of a worker that was told to stop.
    #[must_use]
    pub fn join(self) -> Finished {
        let last = self.last;
        let deadline = Instant::now() + PATIENCE;
        let mut step = Duration::from_micros(50);
        while !self.thread.is_finished() {
            std::thread::sleep(step);
            step = (step * 2).min(STEP);
            if step == STEP {
                self.free();
            }
            if Instant::now() >= deadline + PATIENCE {
                return Finished {
                    numbers: last,
                    leaked: Some("its thread does not end; this is a fault in the daemon".into()),
                };
            }
        }
        self.thread.join().unwrap_or_else(|_| Finished {
            numbers: last,
            leaked: Some("its thread panicked; this is a fault in the daemon".into()),
        })
    }
}

/// Says so when its thread panics.
struct Panicked(Arc<Shared>);

impl Drop for Panicked {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0
                .fail("its thread panicked; this is a fault in the daemon");
        }
    }
}
