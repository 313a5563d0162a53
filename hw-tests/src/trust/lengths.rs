//! Frames are as long as they were sent: IP trims what follows its end, so only a look at whole frames sees a length that is too great.

use std::os::fd::{AsRawFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket,
    sockopt,
};
use nix::sys::time::TimeVal;

use super::linux::{reachable, sockets};
use super::peer::Peer;
use super::split;
use super::test;
use super::tools::{Mode, NIC, nothing_refused};
use crate::guest_tests::Test;
use crate::inside::Host;

/// The tests of this file.
pub const TESTS: &[Test] = &[test(
    "linux_ice_receives_frames_as_long_as_they_were",
    lengths,
)];

/// Ethernet's shortest frame, without FCS.
const SHORTEST: usize = 60;
/// Headers of a UDP datagram.
const HEADERS: usize = 42;

/// A socket that has every frame which the interfaces of this namespace receive, as it is.
#[derive(Debug)]
struct Frames(OwnedFd);

impl Frames {
    fn new() -> Result<Self> {
        let fd = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::EthAll,
        )?;
        setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::new(1, 0))?;
        Ok(Self(fd))
    }

    /// The next frame that an interface received for this MAC address.
    fn next(&self, interface: &str, mac: [u8; 6]) -> Result<Vec<u8>> {
        let index = nix::net::if_::if_nametoindex(interface)? as usize;
        let mut buffer = vec![0; 10_000];
        loop {
            let (length, from) = recvfrom::<LinkAddr>(self.0.as_raw_fd(), &mut buffer)?;
            let here = from.is_some_and(|from| from.ifindex() == index);
            if here && buffer[..length].starts_with(&mac) {
                return Ok(buffer[..length].to_vec());
            }
        }
    }
}

/// Datagrams of these sizes arrive in frames of just the length they need.
pub(super) fn right(host: &Host, peer: &Peer, sizes: &[usize]) -> Result<()> {
    let (near, far) = sockets(peer)?;
    let mac = host.machine().nic(NIC).context("no NIC")?.mac();
    for &size in sizes {
        let frames = Frames::new()?;
        far.send_to(&vec![7; size], near.local_addr()?)?;
        let frame = frames
            .next(NIC, mac)
            .with_context(|| format!("a datagram of {size} bytes did not come"))?;
        let expected = (HEADERS + size).max(SHORTEST);
        ensure!(
            frame.len() == expected,
            "a datagram of {size} bytes came in a frame of {}, not {expected}",
            frame.len()
        );
    }
    Ok(())
}

/// Sizes to look at.
pub(super) const SIZES: [usize; 7] = [1, 17, 18, 19, 100, 1001, 1472];

fn lengths(host: &mut Host) -> Result<()> {
    let peer = Peer::with_ice(host, Mode::Full)?;
    reachable(host)?;
    right(host, &peer, &SIZES)?;
    split::switch(true)?;
    let done = reachable(host).and_then(|()| right(host, &peer, &SIZES));
    split::switch(false)?;
    done?;
    nothing_refused(host)
}
