//! The consumer's side of an attachment: waiting, receiving, giving back.

use std::cell::Cell;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use devrx_proto::completion::Completion;
use devrx_proto::endpoints::QueueEndpoints;
use devrx_proto::layout::{Counter, Layout, STATE, State};
use devrx_proto::message::Opened;
use devrx_proto::refill::RefillEntry;
use devrx_proto::ring::{ClientQueue, Word};
use devrx_proto::shm::{Access, Shm, ShmError, ShmWord};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;

use crate::session::{Notice, Session};
use crate::{Batch, ClientError, Held, Memory};

/// Completions taken at once, at most.
const BATCH: usize = 256;
/// A client that only polls asks after the daemon once in so many empty looks.
const EMPTY_LOOKS: u32 = 4096;

/// One queue of an attachment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueInfo {
    /// Its number on the NIC.
    pub queue: u32,
    /// Its first chunk of the region.
    pub first_chunk: u32,
    /// How many chunks it has.
    pub chunks: u32,
}

pub(crate) struct Queue {
    rings: ClientQueue,
    events: QueueEndpoints,
    info: QueueInfo,
    counters: u64,
    /// Returns the daemon left no room for: it broke the protocol.
    refused: u64,
    /// Chunks that were received and not given back.
    chunks: u64,
}

impl Queue {
    /// Puts a chunk into the refill ring; it is shown with [`flush`](Self::flush).
    #[inline]
    pub(crate) fn give(&mut self, entry: RefillEntry) {
        // The ring has room for every chunk there is.
        if self.rings.refills.push(&[entry]) {
            self.chunks -= 1;
        } else {
            self.refused += 1;
        }
    }

    /// Shows the returned chunks, and wakes the daemon if it waits for them.
    #[inline]
    pub(crate) fn flush(&mut self) {
        if let Some(sleep) = self.rings.refills.publish().sleeper {
            self.rings.refills.woken(sleep);
            self.events.kick.notify();
        }
    }
}

/// An attachment that this client consumes: one or several queues. Dropping it ends the consumption; what the client still held
/// goes back.
pub struct Attachment {
    pub(crate) id: u32,
    session: Session,
    pub(crate) opened: Opened,
    pub(crate) memory: Memory,
    client: Arc<Shm>,
    daemon_fd: OwnedFd,
    client_fd: OwnedFd,
    region_fd: Option<OwnedFd>,
    export_fd: Option<OwnedFd>,
    pub(crate) queues: Vec<Queue>,
    /// The queue to look at first.
    next: usize,
    pub(crate) scratch: Box<[Completion]>,
    /// Which entries of the current batch are held.
    pub(crate) held: Box<[Cell<bool>]>,
    pub(crate) any_held: Cell<bool>,
    state: ShmWord,
    empty_looks: u32,
    ended: Option<String>,
}

impl Attachment {
    pub(crate) fn new(
        session: Session,
        mut opened: Opened,
        fds: Vec<OwnedFd>,
    ) -> Result<Self, ClientError> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let layout = Layout::new(&opened.layout).map_err(devrx_proto::shm::ShmError::from)?;
        check(&opened)?;
        let ends = opened.endpoints(fds).ok_or_else(|| {
            ClientError::broken("the descriptors are not those of the attachment")
        })?;
        let daemon = Shm::map(
            ends.daemon_memory.as_fd(),
            layout.daemon_size(),
            Access::ReadOnly,
        )?;
        let client = Shm::map(
            ends.client_memory.as_fd(),
            layout.client_size(),
            Access::ReadWrite,
        )?;
        if !layout.is_announced_in(&daemon) {
            return Err(ClientError::broken(
                "the shared memory is laid out in another way than announced",
            ));
        }
        let region = map_region(ends.region.as_ref(), &mut opened);
        let mut queues = Vec::with_capacity(opened.queues.len());
        for ((index, queue), events) in (0..).zip(&opened.queues).zip(ends.queues) {
            let place = layout
                .queue(index)
                .ok_or_else(|| ClientError::broken("more queues than the layout has"))?;
            queues.push(Queue {
                rings: ClientQueue::new(&layout, index, &daemon, &client, queue.start())?,
                events,
                info: QueueInfo {
                    queue: queue.queue,
                    first_chunk: queue.first_chunk,
                    chunks: queue.chunks,
                },
                counters: place.counters,
                refused: 0,
                chunks: 0,
            });
        }
        session.listen_only()?;
        Ok(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            session,
            memory: Memory {
                layout,
                daemon: Arc::clone(&daemon),
                region,
                kind: opened.region.memory.as_str().into(),
            },
            client,
            daemon_fd: ends.daemon_memory,
            client_fd: ends.client_memory,
            region_fd: ends.region,
            export_fd: ends.export,
            queues,
            next: 0,
            scratch: vec![Completion::default(); BATCH].into(),
            held: vec![Cell::new(false); BATCH].into(),
            any_held: Cell::new(false),
            state: daemon.word(STATE)?,
            empty_looks: 0,
            ended: None,
            opened,
        })
    }

    /// The next packets, if there are any now. The batch is empty if not.
    ///
    /// # Errors
    /// The attachment has ended, and everything that came before was received; or the daemon broke the protocol.
    pub fn poll(&mut self) -> Result<Batch<'_>, ClientError> {
        let (queue, len) = match self.fill()? {
            Some(found) => found,
            None => {
                self.empty_looks += 1;
                let over = self.state.load() != State::Running as u32;
                if over || self.ended.is_some() || self.empty_looks >= EMPTY_LOOKS {
                    self.empty_looks = 0;
                    self.check_session()?;
                    self.after_end()?
                } else {
                    (0, 0)
                }
            }
        };
        Ok(Batch {
            attachment: self,
            queue,
            len,
        })
    }

    /// The next packets. Waits for some, at most for `timeout` (None: as long as it takes); after that the batch is empty.
    ///
    /// # Errors
    /// As [`poll`](Self::poll), or waiting failed. A signal does not end the wait.
    pub fn recv(&mut self, timeout: Option<Duration>) -> Result<Batch<'_>, ClientError> {
        let end = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
        let (queue, len) = loop {
            if let Some(found) = self.fill()? {
                break found;
            }
            if self.state.load() != State::Running as u32 {
                self.check_session()?;
            }
            if self.ended.is_some() {
                break self.after_end()?;
            }
            let left = end.map(|end| end.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                self.check_session()?;
                // What was just read will not be told again: a caller that sleeps after this would sleep for ever.
                break self.after_end()?;
            }
            if self.arm() {
                let waited = self.wait(left);
                self.disarm();
                waited?;
            }
        };
        Ok(Batch {
            attachment: self,
            queue,
            len,
        })
    }

    /// About to wait on [`wake_fds`](Self::wake_fds) elsewhere, for example in an event loop: announces the sleep on all queues and
    /// looks once more. `false`: there are packets, or the end has been told, do not wait. After waiting call [`disarm`](Self::disarm).
    pub fn arm(&mut self) -> bool {
        if self.ended.is_some() {
            return false;
        }
        for queue in &mut self.queues {
            queue.events.wake.drain();
        }
        if self
            .queues
            .iter_mut()
            .all(|queue| queue.rings.completions.arm())
        {
            return true;
        }
        self.disarm();
        false
    }

    /// Awake: the daemon need not write the eventfds.
    pub fn disarm(&mut self) {
        for queue in &mut self.queues {
            queue.rings.completions.disarm();
        }
    }

    /// What to wait on after [`arm`](Self::arm): an eventfd a queue, and the connection to the daemon, which tells when the
    /// attachment ends.
    pub fn wake_fds(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.queues
            .iter()
            .map(|queue| queue.events.wake.as_fd())
            .chain([self.session.as_fd()])
    }

    /// Gives held chunks back, with one check a queue whether the daemon waits for them. Answers how many.
    ///
    /// # Errors
    /// One of them comes from another attachment; those before it were given back, those after it not. They are lost with the iterator
    /// unless that is kept: hand over `&mut chunks` of an iterator (or `&mut vec.drain(..)`) where this can happen.
    pub fn give_back(
        &mut self,
        chunks: impl IntoIterator<Item = Held>,
    ) -> Result<usize, ClientError> {
        let mut count = 0;
        let mut result = Ok(());
        for held in chunks {
            if held.attachment != self.id {
                result = Err(ClientError::Foreign { chunk: held.chunk });
                break;
            }
            self.queues[held.queue()].give(RefillEntry::new(held.chunk, held.generation));
            count += 1;
        }
        for queue in &mut self.queues {
            queue.flush();
        }
        result.map(|()| count)
    }

    /// How many chunks this client has: kept with [`Packet::hold`](crate::Packet::hold) and not given back, whoever has them now; and
    /// lost, because a [`Held`] was dropped or a [`Batch`] forgotten. No packet can be received into any of them. A number that only
    /// grows is a leak; closing the attachment ends it.
    #[must_use]
    pub fn held(&self) -> u64 {
        self.queues.iter().map(|queue| queue.chunks).sum()
    }

    /// A queue that this client has every chunk of, in the sense of [`held`](Self::held): nothing is received on it until some go back, whatever
    /// the other queues have. None: each queue has one left.
    #[must_use]
    pub fn full_queue(&self) -> Option<QueueInfo> {
        let full = |queue: &&Queue| queue.chunks >= u64::from(queue.info.chunks);
        self.queues.iter().find(full).map(|queue| queue.info)
    }

    /// How many chunks with packets lie in the rings.
    pub(crate) fn pending(&mut self) -> usize {
        self.queues
            .iter_mut()
            .map(|queue| queue.rings.completions.available() as usize)
            .sum()
    }

    /// Takes completions of whole packets into the scratch space: from the first queue that has some, in turn.
    fn fill(&mut self) -> Result<Option<(usize, usize)>, ClientError> {
        let count = self.queues.len();
        for turn in 0..count {
            let index = (self.next + turn) % count;
            let len = self.take(index)?;
            if len > 0 {
                self.next = (index + 1) % count;
                return Ok(Some((index, len)));
            }
        }
        Ok(None)
    }

    fn take(&mut self, index: usize) -> Result<usize, ClientError> {
        if self.any_held.replace(false) {
            // The batch before was forgotten, not dropped: its marks are none of this one's.
            self.held.iter().for_each(|held| held.set(false));
        }
        let queue = &mut self.queues[index];
        let completions = &mut queue.rings.completions;
        let found = completions.peek(&mut self.scratch);
        if completions.faults() > 0 {
            return Err(ClientError::broken(
                "the index of its completion ring is impossible",
            ));
        }
        if queue.refused > 0 || queue.rings.refills.faults() > 0 {
            return Err(ClientError::broken(
                "the index of its refill ring is impossible",
            ));
        }
        let Some(last) = self.scratch[..found]
            .iter()
            .rposition(|entry| !entry.more())
        else {
            // The entries of a packet are published together.
            return if found == 0 {
                Ok(0)
            } else {
                Err(ClientError::broken("it published a packet without its end"))
            };
        };
        let len = last + 1;
        let region = &self.opened.region;
        for entry in &self.scratch[..len] {
            let place = entry.chunk.wrapping_sub(queue.info.first_chunk);
            let end = u32::from(entry.offset) + u32::from(entry.length);
            let fits = place < queue.info.chunks
                && end <= region.chunk_size
                && u32::from(entry.header_length) <= self.opened.layout.header_slot;
            if !fits && !devrx_sabotage::removed("client-range") {
                return Err(ClientError::broken(format!(
                    "it delivered what cannot be: {entry:?}"
                )));
            }
        }
        completions.advance(len);
        queue.chunks += len as u64;
        Ok(len)
    }

    fn wait(&mut self, left: Option<Duration>) -> Result<(), ClientError> {
        let mut fds: Vec<_> = self
            .wake_fds()
            .map(|fd| PollFd::new(fd, PollFlags::POLLIN))
            .collect();
        match ppoll(&mut fds, left.map(TimeSpec::from_duration), None) {
            Ok(_) => {}
            Err(nix::Error::EINTR) => return Ok(()),
            Err(errno) => return Err(ClientError::Wait(errno.into())),
        }
        let told = fds.last().and_then(PollFd::any).unwrap_or(false);
        drop(fds);
        if told { self.check_session() } else { Ok(()) }
    }

    /// Looks whether the daemon said something, or is gone.
    fn check_session(&mut self) -> Result<(), ClientError> {
        if self.ended.is_some() {
            return Ok(());
        }
        match self.session.notice()? {
            Notice::None => {}
            Notice::Ended { reason } => self.ended = Some(reason),
            Notice::Closed => {
                self.ended =
                    Some("the daemon ended, or dropped this client: see its log".to_owned());
            }
        }
        Ok(())
    }

    /// The end is an error once everything that came before it was received.
    fn after_end(&mut self) -> Result<(usize, usize), ClientError> {
        let Some(reason) = &self.ended else {
            return Ok((0, 0));
        };
        let error = ClientError::Ended {
            name: self.opened.name.clone(),
            reason: reason.clone(),
        };
        self.fill()?.ok_or(error)
    }

    pub(crate) fn add_warnings(&mut self, mut warnings: Vec<String>) {
        warnings.append(&mut self.opened.warnings);
        self.opened.warnings = warnings;
    }

    /// The attachment's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.opened.name
    }

    /// What the daemon said of the attachment: its queues, region, layout, warnings.
    #[must_use]
    pub fn opened(&self) -> &Opened {
        &self.opened
    }

    /// What will not be as one might expect.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.opened.warnings
    }

    /// The queues.
    pub fn queues(&self) -> impl ExactSizeIterator<Item = QueueInfo> {
        self.queues.iter().map(|queue| queue.info)
    }

    /// A counter of a queue (counted from 0 within the attachment), as the daemon last wrote it.
    #[must_use]
    pub fn counter(&self, queue: usize, counter: Counter) -> Option<u64> {
        self.memory
            .daemon
            .load_u64(self.queues.get(queue)?.counters + 8 * counter.index())
    }

    /// Reads headers and payload of held chunks, from any thread.
    #[must_use]
    pub fn memory(&self) -> &Memory {
        &self.memory
    }

    /// Where everything lies in the two memfds.
    #[must_use]
    pub fn layout(&self) -> &Layout {
        &self.memory.layout
    }

    /// The daemon-written memfd, mapped read-only: completions, header slots, counters.
    #[must_use]
    pub fn daemon_memory(&self) -> &Arc<Shm> {
        &self.memory.daemon
    }

    /// The client-written memfd. Who writes it directly must not use this attachment's own receiving and giving back.
    #[must_use]
    pub fn client_memory(&self) -> &Arc<Shm> {
        &self.client
    }

    /// The descriptors of the two memfds: daemon-written, client-written.
    #[must_use]
    pub fn memory_fds(&self) -> (BorrowedFd<'_>, BorrowedFd<'_>) {
        (self.daemon_fd.as_fd(), self.client_fd.as_fd())
    }

    /// The descriptor of the region, to map. It is a memfd, which is no dma-buf (see [`export_fd`](Self::export_fd)), or the dma-buf
    /// that was handed over when the attachment was made. None: it cannot be passed.
    #[must_use]
    pub fn region_fd(&self) -> Option<BorrowedFd<'_>> {
        self.region_fd.as_ref().map(AsFd::as_fd)
    }

    /// What the daemon exported the region as, beside [`region_fd`](Self::region_fd). Of memory of the kind `cuda` it is the descriptor that CUDA imports
    /// (`cuMemImportFromShareableHandle`; `devrx_gpu::cuda::Allocation::import`). Of the kind `udmabuf` it is a dma-buf: what another driver imports, for example
    /// DRM (`DRM_IOCTL_PRIME_FD_TO_HANDLE`), or ROCm and CUDA where their versions take dma-bufs of host memory. Offsets in it are those of
    /// [`Segment`](crate::Segment). None: the region has no such identity; ask for the kind `udmabuf`, or, where the runtime registers
    /// host memory instead, register a mapping of [`region_fd`](Self::region_fd).
    ///
    /// Whoever imported it keeps the memory, even after the attachment has ended; nothing is received into it then.
    #[must_use]
    pub fn export_fd(&self) -> Option<BorrowedFd<'_>> {
        self.export_fd.as_ref().map(AsFd::as_fd)
    }

    /// The eventfd that wakes the daemon of a queue (NEED_KICK).
    #[must_use]
    pub fn kick_fd(&self, queue: usize) -> Option<BorrowedFd<'_>> {
        self.queues
            .get(queue)
            .map(|queue| queue.events.kick.as_fd())
    }
}

/// Maps the region to read payload. Without a mapping packets come as well, so that a refusal is no more than a warning; the reason is
/// kept for whoever wants to read payload all the same.
fn map_region(fd: Option<&OwnedFd>, opened: &mut Opened) -> Result<Arc<Shm>, Arc<str>> {
    let Some(fd) = fd else {
        return Err("the daemon has no descriptor of it to pass".into());
    };
    if !opened.region.mappable {
        return Err("no CPU can".into());
    }
    Shm::map_region(fd.as_fd(), opened.region.size).map_err(|error| {
        let reason = match &error {
            ShmError::System { what, source } => format!("{what}: {source}"),
            other => other.to_string(),
        };
        opened.warnings.push(format!(
            "payload cannot be read by this process, because its {} memory cannot be mapped ({reason}): packets arrive, and their \
             offsets hold on the device; to read payload here, check the limit of address space (ulimit -v), or attach \
             with memory that a CPU can map, such as memfd",
            opened.region.memory
        ));
        reason.into()
    })
}

/// Checks what the daemon said of the attachment against itself.
fn check(opened: &Opened) -> Result<(), ClientError> {
    let region = &opened.region;
    let fail = |what: &str| Err(ClientError::broken(what));
    if opened.queues.len() != opened.layout.queues as usize {
        return fail("the attachment and its layout have different numbers of queues");
    }
    if region.chunks != opened.layout.chunks {
        return fail("the region and the layout have different numbers of chunks");
    }
    if u64::from(region.chunks) * u64::from(region.chunk_size) > region.size {
        return fail("the chunks do not fit the region");
    }
    for queue in &opened.queues {
        if queue
            .first_chunk
            .checked_add(queue.chunks)
            .is_none_or(|end| end > region.chunks)
        {
            return fail("a queue has chunks outside of the region");
        }
    }
    Ok(())
}

impl std::fmt::Debug for Attachment {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Attachment")
            .field("opened", &self.opened)
            .finish_non_exhaustive()
    }
}
