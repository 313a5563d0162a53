//! An attack on queue 0 beside a neighbour on queue 1, and what it is made of.
#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each test program uses what it needs"
)]

use anyhow::{Result, ensure};
use devrx_hw_tests::daemon::Daemon;
use devrx_hw_tests::lane;
use devrx_hw_tests::link::{Link, LinkSpec, NEAR_IF};
use devrx_hw_tests::neighbour::Neighbour;
use devrx_hw_tests::sender::{Sender, Traffic};
use devrx_proto::message::AttachRequest;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::time::Duration;

pub mod slow;

/// Random numbers good enough to be garbage, the same every run (xorshift).
pub struct Garbage(pub u64);

impl Garbage {
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub fn bytes(&mut self, count: usize) -> Vec<u8> {
        (0..count).map(|_| (self.next() >> 24) as u8).collect()
    }
}

/// Runs `attack` beside a neighbour, then checks that the daemon lives, serves, and that the neighbour and the sums are whole.
pub fn beside_a_neighbour(
    seconds: u32,
    attack: impl FnOnce(&Link, &Daemon, &Neighbour) -> Result<()>,
) {
    lane::test(|| {
        let link = Link::new(LinkSpec {
            queues: 2,
            ..LinkSpec::default()
        })?;
        let mut daemon = Daemon::start(&link)?;
        let neighbour = Neighbour::start(&daemon, &link, seconds)?;
        attack(&link, &daemon, &neighbour)?;
        ensure!(daemon.running()?, "the daemon died");
        neighbour.finish(&daemon)?;
        // Queue 0 is as good as new.
        if daemon.stats()?.alive("hostile") {
            daemon.detach_and_check("hostile")?;
        }
        daemon.attach("after", "0", 256, 4096, &["any"])?;
        let (recv, _) = daemon.recv_pcap("after", 500, 5)?;
        Sender::start(&link, Traffic::paced(5000, 500, 5000).on(0))?.finish()?;
        ensure!(
            recv.wait(Duration::from_secs(8))?.status.success(),
            "queue 0 does not work after the attack"
        );
        daemon.detach_and_check("after")?;
        ensure!(daemon.running()?, "the daemon died");
        Ok(())
    });
}

pub fn attachment(name: &str, size: u64) -> AttachRequest {
    AttachRequest {
        name: name.into(),
        nic: NEAR_IF.into(),
        memory: "memfd".into(),
        size,
        chunk: 4096,
        flows: vec!["udp,dst-port=5000".into()],
        ..AttachRequest::default()
    }
}

pub fn memfd(size: u64, seals: SealFlag) -> Result<OwnedFd> {
    let fd = memfd_create(
        "hostile",
        MFdFlags::MFD_ALLOW_SEALING | MFdFlags::MFD_CLOEXEC,
    )?;
    File::from(fd.try_clone()?).set_len(size)?;
    fcntl(&fd, FcntlArg::F_ADD_SEALS(seals))?;
    Ok(fd)
}
