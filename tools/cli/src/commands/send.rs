//! `devrx send`: frames from a capture, or UDP datagrams, at a steady rate.

use std::borrow::Cow;
use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use arrayvec::ArrayVec;
use clap::Args;
use devrx_driver::vfio::PciAddress;
use nix::sys::socket::{setsockopt, sockopt};
use serde::Serialize;

use super::send_nic::Sender;
use crate::capture::Capture;
use crate::pace::Pace;
use crate::sys::{PacketSocket, SEND_BATCH};
use crate::{progress, selftest, size, stop};

/// An Ethernet header: what the kernel wants of a frame at least.
const SHORTEST: usize = 14;
/// How long a full transmit queue is waited for before that is an error.
const PATIENCE: Duration = Duration::from_secs(5);

/// What to send, and how.
#[derive(Args)]
pub struct SendArgs {
    /// The interface to send through.
    #[arg(
        long,
        value_name = "IF",
        required_unless_present = "nic",
        conflicts_with = "nic"
    )]
    interface: Option<String>,
    /// Or a NIC that is bound to vfio-pci and in no other use, to send through without Linux: vfio:PCI.
    #[arg(long, value_name = "vfio:PCI", value_parser = selftest::nic)]
    nic: Option<PciAddress>,
    /// Send the frames of this capture (pcap or pcapng, Ethernet), as they are.
    #[arg(
        long,
        value_name = "FILE",
        required_unless_present = "udp",
        conflicts_with = "udp"
    )]
    pcap: Option<PathBuf>,
    /// Send UDP datagrams to this address.
    #[arg(long, value_name = "ADDR:PORT", requires = "size")]
    udp: Option<SocketAddr>,
    /// The payload of each datagram, bytes.
    #[arg(long, value_name = "BYTES", value_parser = size::bytes)]
    size: Option<u64>,
    /// Stop after this many packets; a shorter capture is sent again from its start [default: a capture once, UDP until Ctrl-C].
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    /// Packets a second, for example 20k [default: as fast as it goes].
    #[arg(long, value_name = "PPS", value_parser = size::rate)]
    rate: Option<f64>,
}

/// What was sent.
#[derive(Debug, Default, Serialize)]
pub struct Sent {
    /// Packets the kernel took; with `--nic`, the NIC.
    pub sent: u64,
    /// Their bytes: whole frames of a capture, payload of UDP.
    pub bytes: u64,
    /// Seconds from the first to the last.
    pub seconds: f64,
    /// `sent / seconds`.
    pub packets_per_second: f64,
    /// How often a full transmit queue made it wait.
    pub retries: u64,
}

/// Runs the command.
///
/// # Errors
/// What cannot be sent, with the reason.
pub fn run(args: &SendArgs, json: bool) -> Result<()> {
    let mut line = progress::Line::new(json);
    let show = |sent: &Sent| line.show(|| format!("sent {} packets", sent.sent));
    let sent = match (&args.pcap, args.udp) {
        (Some(path), _) => {
            let capture = Capture::read(path)?;
            if capture.cut > 0 {
                tell!(
                    "{} of its {} frames were cut short when captured; they are sent as they are",
                    capture.cut,
                    capture.frames.len()
                );
            }
            let frames = capture.frames;
            let count = args.count.unwrap_or(frames.len() as u64);
            let frame = |at: u64| frames[(at % frames.len() as u64) as usize].as_slice();
            let limit = Limit { count, time: None };
            match (args.nic, &args.interface) {
                (Some(nic), _) => Sender::open(nic)?.send(
                    |at| Ok((Cow::Borrowed(frame(at)), frame(at).len() as u64)),
                    limit,
                    args.rate,
                    show,
                )?,
                (None, interface) => {
                    let socket = packet_socket(interface.as_deref().unwrap_or_default())?;
                    send_frames(
                        &socket,
                        |at| Cow::Borrowed(frame(at)),
                        limit,
                        args.rate,
                        show,
                    )?
                }
            }
        }
        (None, Some(to)) => {
            let size = datagram(args.size.unwrap_or(0))?;
            match (args.nic, &args.interface) {
                (Some(nic), _) => {
                    let mut sender = Sender::open(nic)?;
                    let headers = sender.udp(to);
                    let limit = Limit {
                        count: args.count.unwrap_or(u64::MAX),
                        time: None,
                    };
                    let frame = |at| {
                        let frame = headers.frame(&payload(size, at))?;
                        Ok((Cow::Owned(frame.bytes), size as u64))
                    };
                    sender.send(frame, limit, args.rate, show)?
                }
                (None, interface) => send_udp(
                    interface.as_deref().unwrap_or_default(),
                    to,
                    size,
                    args.count,
                    args.rate,
                    show,
                )?,
            }
        }
        (None, None) => bail!("nothing to send; give --pcap FILE or --udp ADDR:PORT"),
    };
    line.clear();
    if json {
        say!("{}", serde_json::to_string(&sent)?)?;
    } else {
        say!(
            "sent {} packets, {} bytes in {:.3} s ({:.0} packets/s)",
            sent.sent,
            sent.bytes,
            sent.seconds,
            sent.packets_per_second
        )?;
    }
    if args.count.is_some_and(|count| sent.sent < count) {
        bail!(
            "interrupted after {} of {} packets",
            sent.sent,
            args.count.unwrap_or(0)
        );
    }
    Ok(())
}

/// Opens a socket for whole frames, with errors that say what to do.
///
/// # Errors
/// No such interface, or not root.
pub fn packet_socket(interface: &str) -> Result<PacketSocket> {
    PacketSocket::open(interface).map_err(|error| {
        let fix = match error.raw_os_error() {
            Some(libc::ENODEV | libc::ENXIO) => {
                "there is no such interface in this network namespace; `ip link` lists them"
            }
            Some(libc::EPERM) => "sending whole frames takes CAP_NET_RAW; run this as root",
            _ => "check the interface with `ip link`",
        };
        anyhow::Error::new(error).context(format!("cannot send through {interface}: {fix}"))
    })
}

/// How much to send.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    /// So many frames at most.
    pub count: u64,
    /// Less when this time is over, but no less than so many.
    pub time: Option<(Duration, u64)>,
}

impl Limit {
    pub(super) fn reached(&self, sent: u64, start: Instant) -> bool {
        sent >= self.count
            || self
                .time
                .is_some_and(|(time, least)| sent >= least && start.elapsed() >= time)
    }
}

/// Sends frames, the first being `frame(0)`, until the limit. Ends early, without error, when the user asks it to stop.
///
/// # Errors
/// A frame the kernel does not take, with its number and the reason.
pub fn send_frames<'a>(
    socket: &PacketSocket,
    frame: impl Fn(u64) -> Cow<'a, [u8]>,
    limit: Limit,
    rate: Option<f64>,
    mut show: impl FnMut(&Sent),
) -> Result<Sent> {
    let mut pace = Pace::new(rate);
    let mut sent = Sent::default();
    let start = Instant::now();
    while !limit.reached(sent.sent, start) && !stop::asked() {
        let due = pace.due().min(limit.count - sent.sent);
        let mut done = 0;
        while done < due && !stop::asked() {
            let first = sent.sent;
            let length = ((due - done) as usize).min(SEND_BATCH);
            let frames: ArrayVec<Cow<'_, [u8]>, SEND_BATCH> =
                (first..first + length as u64).map(&frame).collect();
            let batch: ArrayVec<&[u8], SEND_BATCH> = frames.iter().map(AsRef::as_ref).collect();
            if let Some(short) = batch.iter().position(|frame| frame.len() < SHORTEST) {
                bail!(
                    "frame {} has {} bytes, less than an Ethernet header ({SHORTEST}); it cannot be sent",
                    first + short as u64 + 1,
                    batch[short].len()
                );
            }
            let Some(taken) = patiently(&mut sent.retries, stop::asked, || socket.send(&batch))
                .with_context(|| refusal(first, batch[0].len()))?
            else {
                break;
            };
            sent.bytes += batch[..taken]
                .iter()
                .map(|frame| frame.len() as u64)
                .sum::<u64>();
            sent.sent += taken as u64;
            done += taken as u64;
        }
        show(&sent);
    }
    sent.finish(start);
    Ok(sent)
}

/// What `--size` asks for.
fn datagram(size: u64) -> Result<usize> {
    usize::try_from(size)
        .ok()
        .filter(|&size| size <= 65_507)
        .context("--size: a UDP datagram holds at most 65507 bytes")
}

/// The payload of a datagram: its number in the first eight bytes, as far as they fit, then counting bytes.
fn payload(size: usize, number: u64) -> Vec<u8> {
    let mut payload: Vec<u8> = (0..size).map(|i| i as u8).collect();
    let number = number.to_be_bytes();
    let fits = size.min(number.len());
    payload[..fits].copy_from_slice(&number[..fits]);
    payload
}

fn send_udp(
    interface: &str,
    to: SocketAddr,
    size: usize,
    count: Option<u64>,
    rate: Option<f64>,
    mut show: impl FnMut(&Sent),
) -> Result<Sent> {
    let index = nix::net::if_::if_nametoindex(interface).with_context(|| {
        format!("cannot send through {interface}: there is no such interface; `ip link` lists them")
    })?;
    // Not connected: an ICMP error for one datagram would otherwise fail the next.
    let (from, to) = match to {
        SocketAddr::V4(_) => ("0.0.0.0:0", to),
        SocketAddr::V6(mut address) => {
            if address.scope_id() == 0 && address.ip().is_unicast_link_local() {
                address.set_scope_id(index);
            }
            ("[::]:0", SocketAddr::V6(address))
        }
    };
    let socket = UdpSocket::bind(from).context("cannot make a UDP socket")?;
    setsockopt(&socket, sockopt::BindToDevice, &interface.into())
        .with_context(|| format!("cannot bind a UDP socket to {interface}; this takes CAP_NET_RAW on older kernels, run it as root"))?;
    socket
        .set_broadcast(true)
        .context("cannot allow broadcasts")?;
    let mut payload = payload(size, 0);
    let mut pace = Pace::new(rate);
    let mut sent = Sent::default();
    let count = count.unwrap_or(u64::MAX);
    let start = Instant::now();
    while sent.sent < count && !stop::asked() {
        for _ in 0..pace.due().min(count - sent.sent) {
            // The first eight bytes number the datagram, as far as they fit.
            let number = sent.sent.to_be_bytes();
            let fits = size.min(number.len());
            payload[..fits].copy_from_slice(&number[..fits]);
            let taken = patiently(&mut sent.retries, stop::asked, || socket.send_to(&payload, to))
                .with_context(|| format!("cannot send datagram {} to {to} through {interface}; check the route with `ip route get`", sent.sent + 1))?;
            if taken.is_none() {
                break;
            }
            sent.sent += 1;
            sent.bytes += size as u64;
            if stop::asked() {
                break;
            }
        }
        show(&sent);
    }
    sent.finish(start);
    Ok(sent)
}

/// Tries again while the transmit queue is full, and counts how often. None: it was still full when the user asked to stop.
fn patiently<T>(
    retries: &mut u64,
    stopped: impl Fn() -> bool,
    mut attempt: impl FnMut() -> io::Result<T>,
) -> Result<Option<T>> {
    let start = Instant::now();
    loop {
        match attempt() {
            Ok(done) => return Ok(Some(done)),
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR) => {}
                Some(libc::ENOBUFS | libc::EAGAIN) if stopped() => return Ok(None),
                Some(libc::ENOBUFS | libc::EAGAIN) if start.elapsed() < PATIENCE => {
                    *retries += 1;
                    std::thread::sleep(Duration::from_micros(100));
                }
                _ => return Err(error.into()),
            },
        }
    }
}

fn refusal(at: u64, length: usize) -> String {
    format!(
        "the kernel refused frame {} ({length} bytes); a frame may be 14 bytes longer than the interface's MTU (18 with a VLAN tag): \
         `ip link set IF mtu N`, and the interface must be up",
        at + 1
    )
}

impl Sent {
    pub(super) fn finish(&mut self, start: Instant) {
        self.seconds = start.elapsed().as_secs_f64();
        self.packets_per_second = if self.seconds > 0.0 {
            self.sent as f64 / self.seconds
        } else {
            0.0
        };
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[test]
    fn a_full_queue_is_no_fault_of_whoever_stops() {
        let full = || Err::<(), _>(io::Error::from_raw_os_error(libc::ENOBUFS));
        let looks = Cell::new(0);
        // Asked at the third look.
        let stopped = || looks.replace(looks.get() + 1) == 2;
        let mut retries = 0;
        assert_eq!(patiently(&mut retries, stopped, full).unwrap(), None);
        assert_eq!(retries, 2);
        // What is refused is refused, also then.
        let refused = || Err::<(), _>(io::Error::from_raw_os_error(libc::EMSGSIZE));
        patiently(&mut retries, || true, refused).unwrap_err();
        // And what was taken counts.
        assert_eq!(patiently(&mut retries, || true, || Ok(7)).unwrap(), Some(7));
    }
}
