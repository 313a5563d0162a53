//! A reset while packets come and go: what follows is as if nothing had been.

use std::net::UdpSocket;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::linux::{exact, ordinary, reachable, sockets};
use super::peer::{IPV4, Peer};
use super::steering;
use super::test;
use super::tools::{Mode, NIC, carrier, dma_faults, log_lines, nothing_refused};
use crate::command::wait_for;
use crate::guest_tests::Test;
use crate::inside::Host;

/// The tests of this file.
pub const TESTS: &[Test] = &[test("linux_ice_is_reset_under_traffic", under_traffic)];

/// Datagrams both ways until this is dropped.
struct Traffic {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
}

impl Traffic {
    fn start(peer: &Peer) -> Result<Self> {
        let (stop, answered) = (
            Arc::new(AtomicBool::new(false)),
            Arc::new(AtomicU64::new(0)),
        );
        let far = peer.udp(&format!("{}:5500", IPV4[1]))?;
        far.set_read_timeout(Some(Duration::from_millis(100)))?;
        let near = UdpSocket::bind((IPV4[0], 0))?;
        near.set_read_timeout(Some(Duration::from_millis(100)))?;
        let ended = stop.clone();
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !ended.load(Ordering::Relaxed) {
                if let Ok((length, from)) = far.recv_from(&mut buffer) {
                    far.send_to(&buffer[..length], from).ok();
                }
            }
        });
        let (ended, count) = (stop.clone(), answered.clone());
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while !ended.load(Ordering::Relaxed) {
                // Losses are what a reset is like.
                near.send_to(&[3; 1000], (IPV4[1], 5500)).ok();
                if near.recv(&mut buffer).is_ok() {
                    count.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        Ok(Self { stop, answered })
    }

    /// Waits until more datagrams have come back.
    fn goes_on(&self) -> Result<()> {
        let before = self.answered.load(Ordering::Relaxed);
        wait_for("traffic goes on", Duration::from_secs(15), || {
            Ok(self.answered.load(Ordering::Relaxed) > before + 20)
        })
        .map(drop)
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// The bus resets the function twice while datagrams come and go, which go on after it.
pub(super) fn twice(host: &Host, peer: &Peer) -> Result<()> {
    let traffic = Traffic::start(peer)?;
    traffic.goes_on()?;
    let file = Path::new("/sys/bus/pci/devices")
        .join(host.pci(NIC)?)
        .join("reset");
    for _ in 0..2 {
        std::fs::write(&file, "1").context("the function's reset")?;
        carrier(NIC, true)?;
        traffic.goes_on()?;
    }
    Ok(())
}

fn under_traffic(host: &mut Host) -> Result<()> {
    let peer = Peer::with_ice(host, Mode::Full)?;
    reachable(host)?;
    twice(host, &peer)?;
    let (near, far) = sockets(&peer)?;
    exact(&near, &far, ordinary().step_by(5))?;
    peer.without_arp(host)?;
    steering::spreads(&peer)?;
    ensure!(dma_faults()? == 0, "{:?}", log_lines("DMAR")?);
    nothing_refused(host)
}
