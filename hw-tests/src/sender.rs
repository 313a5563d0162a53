//! Traffic from the far end of a link, from a packet socket on a thread of its own.

use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, bind, send, socket};
use nix::unistd::Pid;

use crate::frame;
use crate::link::{FAR_IF, Link};
use crate::namespace::join;

/// What to send.
#[derive(Debug, Clone, Copy)]
pub struct Traffic {
    /// UDP destination port.
    pub port: u16,
    /// UDP payload bytes.
    pub payload: usize,
    /// Packets a second; `None`: as fast as it goes.
    pub rate: Option<u32>,
    /// How many; `None`: until stopped.
    pub count: Option<u64>,
    /// The queue to arrive on, on links of several queues: the thread is pinned to the CPU that picks it.
    pub queue: Option<u32>,
}

impl Traffic {
    /// `count` frames to `port` at `rate`, of a size that is neither small nor large.
    #[must_use]
    pub fn paced(port: u16, count: u64, rate: u32) -> Self {
        Self {
            port,
            payload: 600,
            rate: Some(rate),
            count: Some(count),
            queue: None,
        }
    }

    /// A flood to `port` until stopped.
    #[must_use]
    pub fn flood(port: u16) -> Self {
        Self {
            port,
            payload: 1000,
            rate: None,
            count: None,
            queue: None,
        }
    }

    /// The same to arrive on `queue`.
    #[must_use]
    pub fn on(self, queue: u32) -> Self {
        Self {
            queue: Some(queue),
            ..self
        }
    }
}

/// A running sender; dropping it stops it.
#[derive(Debug)]
pub struct Sender {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: Option<JoinHandle<Result<u64>>>,
}

impl Sender {
    /// Starts sending numbered frames (see [`frame::numbered`]) from the far end of `link`.
    pub fn start(link: &Link, traffic: Traffic) -> Result<Self> {
        let (stop, sent) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let thread = link.far.spawn({
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            move || transmit(traffic, &stop, &sent)
        })?;
        Ok(Self {
            stop,
            sent,
            thread: Some(thread),
        })
    }

    /// How many frames the interface has taken so far.
    #[must_use]
    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Stops it and says how many frames the interface took.
    pub fn stop(mut self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().map_or(Ok(0), join)
    }

    /// Waits until all of a counted lot is sent.
    pub fn finish(mut self) -> Result<u64> {
        self.thread.take().map_or(Ok(0), join)
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().ok();
        }
    }
}

/// A packet socket bound to the far interface; call on a thread inside its namespace.
fn open() -> Result<OwnedFd> {
    let fd = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        None,
    )
    .context("packet socket")?;
    let address = nix::ifaddrs::getifaddrs()?
        .filter(|entry| entry.interface_name == FAR_IF)
        .find_map(|entry| {
            entry
                .address
                .and_then(|address| address.as_link_addr().copied())
        })
        .with_context(|| format!("{FAR_IF} has no link address"))?;
    bind(fd.as_raw_fd(), &address).context("bind the packet socket")?;
    Ok(fd)
}

fn transmit(traffic: Traffic, stop: &AtomicBool, sent: &AtomicU64) -> Result<u64> {
    if let Some(queue) = traffic.queue {
        let mut set = CpuSet::new();
        set.set(queue as usize)?;
        sched_setaffinity(Pid::from_raw(0), &set).context("pin the sender")?;
    }
    let fd = open()?;
    let start = Instant::now();
    let mut number = 0;
    while !stop.load(Ordering::Relaxed) && traffic.count.is_none_or(|count| number < count) {
        if let Some(rate) = traffic.rate {
            let due = Duration::from_secs_f64(number as f64 / f64::from(rate));
            if let Some(early) = due.checked_sub(start.elapsed()) {
                std::thread::sleep(early.max(Duration::from_millis(1)));
                continue;
            }
        }
        let bytes = frame::numbered(traffic.port, number, traffic.payload);
        match send(fd.as_raw_fd(), &bytes, MsgFlags::empty()) {
            Ok(_) => {}
            // The socket's send buffer or the interface is full for a moment: the same frame again.
            Err(Errno::ENOBUFS | Errno::EAGAIN | Errno::EINTR) => {
                std::thread::yield_now();
                continue;
            }
            Err(error) => return Err(error).context("send a frame"),
        }
        number += 1;
        sent.store(number, Ordering::Relaxed);
    }
    Ok(number)
}

/// Sends the given frames once, `rate` a second.
pub fn send_frames(link: &Link, frames: Vec<Vec<u8>>, rate: u32) -> Result<()> {
    link.far.enter(move || {
        let fd = open()?;
        let start = Instant::now();
        for (index, bytes) in frames.iter().enumerate() {
            let due = Duration::from_secs_f64(index as f64 / f64::from(rate));
            if let Some(early) = due.checked_sub(start.elapsed()) {
                std::thread::sleep(early);
            }
            send(fd.as_raw_fd(), bytes, MsgFlags::empty())
                .with_context(|| format!("send frame {index}"))?;
        }
        Ok(())
    })
}
