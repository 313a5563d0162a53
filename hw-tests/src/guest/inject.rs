//! The host's end of a guest's NIC: frames in, and a record of the frames that come out.

use std::io::{Read, Write};
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use super::machine::{Backend, Nic};

/// How many frames of a NIC are kept for the tests to look at.
const KEPT: usize = 16 << 10;
/// The longest frame: jumbo frames, and more than the models take.
const LONGEST: usize = 64 << 10;
/// How often a blocked sender looks whether it is to stop.
const LOOK: Duration = Duration::from_millis(50);

/// Frames by number, made when they are sent.
pub type Source = Box<dyn FnMut(u64) -> Vec<u8> + Send>;

/// What to send.
pub struct Lot {
    /// Makes frame n of the lot.
    pub source: Source,
    /// How many there are.
    pub count: u64,
    /// Frames a second; `None`: as fast as it goes.
    pub rate: Option<u32>,
}

/// The far end of one NIC.
#[derive(Debug)]
pub struct Port {
    wire: Wire,
    /// What the NIC sent.
    seen: Arc<Mutex<Seen>>,
    sending: Option<Sending>,
}

/// Frames that a NIC sent.
#[derive(Debug, Default)]
pub struct Seen {
    /// All of them.
    pub count: u64,
    /// The first ones.
    pub frames: Vec<Vec<u8>>,
}

#[derive(Debug)]
enum Wire {
    Datagram {
        socket: Arc<UnixDatagram>,
        guest: PathBuf,
    },
    Stream {
        listener: UnixListener,
        stream: Option<UnixStream>,
    },
}

#[derive(Debug)]
struct Sending {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    /// `None` once it has ended and its error was told.
    thread: Option<JoinHandle<Result<()>>>,
}

impl Sending {
    fn join(&mut self) -> Result<()> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        thread
            .join()
            .map_err(|_| anyhow::anyhow!("the sender panicked"))?
    }
}

impl Port {
    /// Opens the host's end in `folder`; QEMU, started after this, finds it there.
    ///
    /// What the NIC sends goes on to `far`, if its cable ends there.
    pub fn open(nic: &Nic, far: Option<&Nic>, folder: &Path) -> Result<Self> {
        let path = folder.join(format!("{}.host", nic.id));
        let seen = Arc::default();
        let wire = match nic.backend {
            Backend::Datagram => {
                let socket = Arc::new(UnixDatagram::bind(&path)?);
                socket.set_write_timeout(Some(LOOK))?;
                let (from, seen) = (Arc::clone(&socket), Arc::clone(&seen));
                let far = far.map(|far| folder.join(format!("{}.guest", far.id)));
                std::thread::spawn(move || watch_datagrams(&from, &seen, far.as_deref()));
                Wire::Datagram {
                    socket,
                    guest: folder.join(format!("{}.guest", nic.id)),
                }
            }
            Backend::Stream => Wire::Stream {
                listener: UnixListener::bind(&path)?,
                stream: None,
            },
        };
        Ok(Self {
            wire,
            seen,
            sending: None,
        })
    }

    /// The arguments of QEMU's `-netdev` for this end.
    #[must_use]
    pub fn netdev(nic: &Nic, folder: &Path) -> String {
        let id = nic.id;
        let at = |end: &str| folder.join(format!("{id}.{end}")).display().to_string();
        match nic.backend {
            Backend::Datagram => format!(
                "dgram,id={id},local.type=unix,local.path={},remote.type=unix,remote.path={}",
                at("guest"),
                at("host")
            ),
            Backend::Stream => {
                format!(
                    "stream,id={id},server=off,addr.type=unix,addr.path={}",
                    at("host")
                )
            }
        }
    }

    /// Starts to send; what is still being sent from before must have ended.
    pub fn send(&mut self, lot: Lot) -> Result<()> {
        ensure!(
            !self.state()?.1,
            "frames are still being sent to this NIC; wait for them or stop them"
        );
        let (stop, sent) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let link = self.link()?;
        let thread = std::thread::spawn({
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            move || match link {
                Link::Datagram(socket, guest) => send_datagrams(&socket, &guest, lot, &stop, &sent),
                Link::Stream(stream) => send_stream(stream, lot, &stop, &sent),
            }
        });
        self.sending = Some(Sending {
            stop,
            sent,
            thread: Some(thread),
        });
        Ok(())
    }

    /// Frames sent by the last [`Port::send`], and whether it goes on; its error, once.
    pub fn state(&mut self) -> Result<(u64, bool)> {
        let Some(sending) = &mut self.sending else {
            return Ok((0, false));
        };
        let running = sending
            .thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished());
        if !running {
            sending.join()?;
        }
        Ok((sending.sent.load(Ordering::Acquire), running))
    }

    /// Stops sending; how many frames QEMU has taken.
    pub fn stop(&mut self) -> Result<u64> {
        let Some(sending) = &mut self.sending else {
            return Ok(0);
        };
        sending.stop.store(true, Ordering::Release);
        sending.join()?;
        Ok(sending.sent.load(Ordering::Acquire))
    }

    /// Looks at what the NIC sent.
    pub fn seen<T>(&mut self, look: impl FnOnce(&mut Seen) -> T) -> Result<T> {
        // A stream is read from the moment it is there.
        if matches!(self.wire, Wire::Stream { .. }) {
            self.link()?;
        }
        Ok(look(
            &mut self.seen.lock().unwrap_or_else(PoisonError::into_inner),
        ))
    }

    fn link(&mut self) -> Result<Link> {
        match &mut self.wire {
            Wire::Datagram { socket, guest } => {
                Ok(Link::Datagram(Arc::clone(socket), guest.clone()))
            }
            Wire::Stream { listener, stream } => {
                if stream.is_none() {
                    let (found, _) = listener.accept().context("QEMU's end of the stream")?;
                    found.set_write_timeout(Some(LOOK))?;
                    let (from, seen) = (found.try_clone()?, Arc::clone(&self.seen));
                    std::thread::spawn(move || watch_stream(from, &seen));
                    *stream = Some(found);
                }
                let stream = stream.as_ref().context("no stream")?;
                Ok(Link::Stream(stream.try_clone()?))
            }
        }
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.stop().ok();
        // Ends the watching thread. The stream's ends with QEMU.
        if let Wire::Datagram { socket, .. } = &self.wire {
            socket.shutdown(std::net::Shutdown::Both).ok();
        }
    }
}

enum Link {
    Datagram(Arc<UnixDatagram>, PathBuf),
    Stream(UnixStream),
}

fn blocked(error: &std::io::Error) -> bool {
    matches!(
        error.kind(),
        std::io::ErrorKind::WouldBlock
            | std::io::ErrorKind::TimedOut
            | std::io::ErrorKind::Interrupted
    )
}

/// Waits until frame `number` is due; true when it was not yet.
fn early(start: Instant, number: u64, rate: Option<u32>) -> bool {
    let Some(rate) = rate else {
        return false;
    };
    let due = Duration::from_secs_f64(number as f64 / f64::from(rate));
    let Some(early) = due.checked_sub(start.elapsed()) else {
        return false;
    };
    std::thread::sleep(early.clamp(Duration::from_micros(100), LOOK));
    true
}

fn send_datagrams(
    socket: &UnixDatagram,
    guest: &Path,
    mut lot: Lot,
    stop: &AtomicBool,
    sent: &AtomicU64,
) -> Result<()> {
    let start = Instant::now();
    let mut number = 0;
    while number < lot.count && !stop.load(Ordering::Acquire) {
        if early(start, number, lot.rate) {
            continue;
        }
        let frame = (lot.source)(number);
        loop {
            match socket.send_to(&frame, guest) {
                Ok(_) => break,
                // The guest takes nothing at the moment: this is what makes the backend lossless.
                Err(error) if blocked(&error) => {
                    if stop.load(Ordering::Acquire) {
                        return Ok(());
                    }
                }
                Err(error) => {
                    return Err(error).with_context(|| format!("send frame {number}"));
                }
            }
        }
        number += 1;
        sent.store(number, Ordering::Release);
    }
    Ok(())
}

/// Sends in writes of some 64 kB, which is what keeps QEMU's reader fast.
fn send_stream(
    mut stream: UnixStream,
    mut lot: Lot,
    stop: &AtomicBool,
    sent: &AtomicU64,
) -> Result<()> {
    const BATCH: usize = 64 << 10;
    let start = Instant::now();
    let (mut number, mut batch) = (0, Vec::with_capacity(2 * BATCH));
    while number < lot.count && !stop.load(Ordering::Acquire) {
        if early(start, number, lot.rate) {
            continue;
        }
        let due = lot.rate.map_or(lot.count, |rate| {
            (start.elapsed().as_secs_f64() * f64::from(rate)) as u64 + 1
        });
        batch.clear();
        while number < lot.count.min(due) && batch.len() < BATCH {
            let frame = (lot.source)(number);
            batch.extend(u32::try_from(frame.len())?.to_be_bytes());
            batch.extend(frame);
            number += 1;
        }
        let mut left = &batch[..];
        while !left.is_empty() {
            match stream.write(left) {
                Ok(count) => left = &left[count..],
                // A frame cut in two garbles all that follow, so nothing may be sent after this.
                Err(error) if blocked(&error) && stop.load(Ordering::Acquire) => {
                    bail!("stopped where the guest took nothing: the stream cannot be used again")
                }
                Err(error) if blocked(&error) => {}
                Err(error) => return Err(error).context("send to the stream"),
            }
        }
        sent.store(number, Ordering::Release);
    }
    Ok(())
}

fn keep(seen: &Mutex<Seen>, frame: &[u8]) {
    let mut seen = seen.lock().unwrap_or_else(PoisonError::into_inner);
    seen.count += 1;
    if seen.frames.len() < KEPT {
        seen.frames.push(frame.to_vec());
    }
}

/// Reads what a NIC sends, always: QEMU would wait for it otherwise.
fn watch_datagrams(socket: &UnixDatagram, seen: &Mutex<Seen>, far: Option<&Path>) {
    let mut buffer = vec![0; LONGEST];
    // Nothing is what a socket that was shut down gives; no frame is empty.
    while let Ok(length @ 1..) = socket.recv(&mut buffer) {
        keep(seen, &buffer[..length]);
        // An end that takes nothing for as long as a write may wait loses the frame, as on a wire.
        if let Some(far) = far {
            socket.send_to(&buffer[..length], far).ok();
        }
    }
}

fn watch_stream(mut stream: UnixStream, seen: &Mutex<Seen>) {
    let (mut length, mut buffer) = ([0; 4], vec![0; LONGEST]);
    while stream.read_exact(&mut length).is_ok() {
        let length = u32::from_be_bytes(length) as usize;
        if length > LONGEST || stream.read_exact(&mut buffer[..length]).is_err() {
            return;
        }
        keep(seen, &buffer[..length]);
    }
}
