//! `devrx send --nic`: through a NIC that this program opens itself, with no kernel in between.

use std::borrow::Cow;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use devrx_driver::device::Device;
use devrx_driver::ice::{self, IceNic, IceOptions, PackageSource};
use devrx_driver::igb::{IgbNic, IgbOptions};
use devrx_driver::vfio::{Function, Options, PciAddress};
use devrx_driver::{Link, Owned, Transmit};

use super::send::{Limit, Sent};
use crate::frame::Headers;
use crate::pace::Pace;
use crate::stop;

/// How long the link may take: a negotiation takes 2 to 3 s.
const LINK_PATIENCE: Duration = Duration::from_secs(8);
/// Who a datagram is said to come from: networks for measurements (RFC 2544, RFC 5180).
const FROM: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(198, 18, 0, 1),
    Ipv6Addr::new(0x2001, 2, 0, 0, 0, 0, 0, 1),
);

/// A NIC that sends.
pub struct Sender {
    // Before the NIC it belongs to.
    transmitter: Box<dyn Transmit>,
    nic: Box<dyn Link>,
    station: [u8; 6],
}

impl Sender {
    /// Opens the NIC and waits for its link.
    ///
    /// # Errors
    /// A NIC that is not bound to vfio-pci or in use, and no link.
    pub fn open(address: PciAddress) -> Result<Self> {
        let open = || -> Result<Self> {
            let device: Arc<Function> = Function::open(address, &Options::default())?;
            if ice::supports(device.id()).is_some() {
                let mut options = IceOptions::default();
                // What it tells is for receiving.
                options.package = PackageSource::None;
                return Self::of(IceNic::open(device, options)?);
            }
            Self::of(IgbNic::open(device, IgbOptions::default())?)
        };
        let sender = open().with_context(|| format!("cannot send through {address}"))?;
        let start = Instant::now();
        while !sender.nic.link()?.up {
            ensure!(
                start.elapsed() < LINK_PATIENCE && !stop::asked(),
                "cannot send through {address}: it has no link; see to the cable and the other side"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(sender)
    }

    fn of<N: Owned + 'static>(mut nic: N) -> Result<Self> {
        Ok(Self {
            transmitter: Box::new(nic.transmitter()?),
            station: nic.station(),
            nic: Box::new(nic),
        })
    }

    /// The headers of UDP datagrams to `to`. Nobody is asked for the receiver's Ethernet address: they go to a group's own, or to all.
    pub fn udp(&self, to: SocketAddr) -> Headers {
        let (from, link) = match to.ip() {
            IpAddr::V4(ip) if ip.is_multicast() => {
                // RFC 1112, 6.4.
                let [_, b, c, d] = ip.octets();
                (FROM.0.into(), [0x01, 0x00, 0x5e, b & 0x7f, c, d])
            }
            IpAddr::V4(_) => (FROM.0.into(), [0xff; 6]),
            IpAddr::V6(ip) if ip.is_multicast() => {
                // RFC 2464, 7.
                let [.., a, b, c, d] = ip.octets();
                (FROM.1.into(), [0x33, 0x33, a, b, c, d])
            }
            IpAddr::V6(_) => (IpAddr::from(FROM.1), [0xff; 6]),
        };
        Headers {
            link: (link, self.station),
            vlan: None,
            ends: (SocketAddr::new(from, to.port()), to),
            tcp: false,
        }
    }

    /// Sends frames, the first being `frame(0)`, until the limit; each counts with the bytes that `frame` names. Ends early, without error, when the user asks it to
    /// stop.
    ///
    /// # Errors
    /// A frame that the NIC does not take, with its number and the reason.
    pub fn send<'a>(
        &mut self,
        frame: impl Fn(u64) -> Result<(Cow<'a, [u8]>, u64)>,
        limit: Limit,
        rate: Option<f64>,
        mut show: impl FnMut(&Sent),
    ) -> Result<Sent> {
        let mut pace = Pace::new(rate);
        let mut sent = Sent::default();
        let start = Instant::now();
        while !limit.reached(sent.sent, start) && !stop::asked() {
            for _ in 0..pace.due().min(limit.count - sent.sent) {
                let (bytes, counted) = frame(sent.sent)?;
                self.transmitter
                    .send(&bytes)
                    .with_context(|| format!("cannot send frame {}", sent.sent + 1))?;
                sent.sent += 1;
                sent.bytes += counted;
                if stop::asked() {
                    break;
                }
            }
            show(&sent);
        }
        if !self.transmitter.flush() {
            bail!(
                "the last frames did not leave the NIC within half a second; is the link still up?"
            );
        }
        sent.finish(start);
        Ok(sent)
    }
}
