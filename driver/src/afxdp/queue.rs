//! A receive queue: a socket and what it receives.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use devrx_pool::{Pool, Returns};
use nix::sys::eventfd::{EfdFlags, EventFd};

use super::receive::Receive;
use super::teardown;
use super::xsk_sys::{Socket, Statistics};
use crate::{DriverError, QueueCounters, RxQueue, RxSink};

/// One queue of an [`AfXdpNic`](super::AfXdpNic), owned by the thread that polls it.
pub struct AfXdpQueue {
    /// Before the socket: its rings are mapped through the socket, and as long as they are, closing it ends nothing.
    receive: Receive,
    /// `None` once stopped.
    socket: Option<Socket>,
    /// Where `(ifindex, queue)` is to be proven free before the chunks are; only in zero-copy mode.
    unproven: bool,
    /// The kernel's last word, once stopped.
    last: Statistics,
    /// Readable always: what a thread waits on after the end.
    ended: OwnedFd,
    ifindex: u32,
    index: u32,
    zero_copy: bool,
    busy_poll: bool,
}

impl std::fmt::Debug for AfXdpQueue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AfXdpQueue")
            .field("ifindex", &self.ifindex)
            .field("index", &self.index)
            .field("zero_copy", &self.zero_copy)
            .field("posted", &self.receive.posted())
            .field("stopped", &self.socket.is_none())
            .finish_non_exhaustive()
    }
}

impl AfXdpQueue {
    pub(super) fn new(
        receive: Receive,
        socket: Socket,
        ifindex: u32,
        index: u32,
        zero_copy: bool,
        busy_poll: bool,
    ) -> Result<Self, DriverError> {
        let ended =
            EventFd::from_value_and_flags(1, EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)
                .map_err(|error| {
                    DriverError::sys(
                        "eventfd",
                        error.into(),
                        "raise the limit of open files (`ulimit -n`)",
                    )
                })?;
        Ok(Self {
            receive,
            socket: Some(socket),
            unproven: false,
            last: Statistics::default(),
            ended: ended.into(),
            ifindex,
            index,
            zero_copy,
            busy_poll,
        })
    }

    /// Whether the NIC writes the region itself.
    #[must_use]
    pub const fn zero_copy(&self) -> bool {
        self.zero_copy
    }

    /// The queue's number.
    #[must_use]
    pub const fn index(&self) -> u32 {
        self.index
    }

    /// The socket, while the queue is not stopped: for the steering.
    pub(super) fn socket(&self) -> Option<&Socket> {
        self.socket.as_ref()
    }

    fn prove(&mut self) -> Result<(), DriverError> {
        if self.unproven {
            teardown::wait_until_free(self.ifindex, self.index)
                .map_err(|error| teardown::not_free(self.ifindex, self.index, error))?;
            self.unproven = false;
        }
        Ok(())
    }
}

impl RxQueue for AfXdpQueue {
    #[inline]
    fn poll<S: RxSink>(&mut self, out: &mut S) -> usize {
        self.receive.poll(out)
    }

    #[inline]
    fn post<I>(&mut self, returns: Returns<'_, I>) -> bool
    where
        I: ExactSizeIterator<Item = (u32, u16)>,
    {
        self.receive.post(returns)
    }

    #[inline]
    fn refill(&mut self, pool: &mut Pool) -> usize {
        let posted = self.receive.refill(pool);
        if let Some(socket) = &self.socket
            && (self.busy_poll || self.receive.needs_wakeup())
        {
            socket.kick();
        }
        posted
    }

    fn posted(&self) -> u32 {
        self.receive.posted()
    }

    fn capacity(&self) -> u32 {
        self.receive.capacity()
    }

    fn room(&self) -> u32 {
        self.receive.room()
    }

    fn wait_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_ref().map_or(self.ended.as_fd(), AsFd::as_fd)
    }

    fn arm(&mut self) -> bool {
        if self.receive.has_work() {
            return false;
        }
        match &self.socket {
            Some(socket) => {
                // The socket becomes readable by itself; the driver may want to be told of new chunks.
                if self.receive.needs_wakeup() {
                    socket.kick();
                }
                true
            }
            // Nothing will come: who sleeps would sleep for ever, but for `ended`.
            None => true,
        }
    }

    fn counters(&self) -> QueueCounters {
        let kernel = match &self.socket {
            Some(socket) => socket.statistics().unwrap_or(self.last),
            None => self.last,
        };
        let counts = self.receive.counts();
        QueueCounters {
            received: counts.received,
            bytes: counts.bytes,
            no_descriptor: kernel.dropped,
            rx_ring_full: kernel.ring_full,
            bad_descriptor: counts.bad_descriptor,
            oversize: counts.oversize,
            incomplete: counts.incomplete,
            unsplit: counts.unsplit,
            refused_chunks: counts.refused_chunks + kernel.invalid_fill,
            copied: !self.zero_copy,
            exact: !self.zero_copy,
            ..QueueCounters::default()
        }
    }

    fn stop(&mut self) -> Result<(), DriverError> {
        if let Some(socket) = self.socket.take() {
            // What has arrived comes to private memory, then the rings are unmapped: a mapping keeps a closed socket alive.
            self.receive.end();
            self.last = socket.statistics().unwrap_or(self.last);
            // Closing waits for packets that are being copied (net/xdp/xsk.c:xsk_unbind_dev, synchronize_net). A NIC that writes
            // by itself is told to let go later, by a kernel worker; the queue is free then, in either mode.
            teardown::close(socket);
            self.unproven = self.zero_copy;
        }
        self.prove()
    }

    fn reclaim(&mut self, pool: &mut Pool) {
        if self.socket.is_none() && !self.unproven {
            self.receive.reclaim(pool);
        }
    }
}
