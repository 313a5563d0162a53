//! The other end of the E810's cable: a plain NIC with a Linux stack of its own, in a network namespace.

use std::net::UdpSocket;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, unshare};

use super::tools::{Mode, NIC, carrier, ice};
use crate::command::{Output, sh, wait_for};
use crate::inside::Host;

/// The interface at the other end.
pub const FAR: &str = "peer0";
/// Addresses of the E810 and of the other end.
pub const IPV4: [&str; 2] = ["10.8.0.1", "10.8.0.2"];
/// The same, IPv6.
pub const IPV6: [&str; 2] = ["fd08::1", "fd08::2"];

/// Has Linux's ice drive the card in this mode, with its interface up and ready.
pub fn near(host: &Host, mode: Mode) -> Result<()> {
    ice(host, mode)?;
    sh(&format!("ip addr flush dev {NIC}"))?;
    sh(&format!("ip addr add {}/24 dev {NIC}", IPV4[0]))?;
    sh(&format!("ip link set {NIC} up"))?;
    carrier(NIC, true)
}

type Job = Box<dyn FnOnce() + Send>;

/// The namespace, for as long as the process lives; then the NIC comes back by itself.
#[derive(Debug)]
pub struct Peer {
    jobs: mpsc::Sender<Job>,
}

impl Peer {
    /// Linux's ice in this mode, the other end in its namespace, both up with addresses, and the cable plugged in.
    pub fn with_ice(host: &mut Host, mode: Mode) -> Result<Self> {
        let peer = Self::new()?;
        near(host, mode)?;
        Ok(peer)
    }

    /// The other end alone.
    pub fn new() -> Result<Self> {
        let (jobs, take) = mpsc::channel::<Job>();
        let (ready, wait) = mpsc::channel();
        std::thread::spawn(move || {
            let entered = unshare(CloneFlags::CLONE_NEWNET);
            ready.send(entered.map(|()| nix::unistd::gettid())).ok();
            for job in take {
                job();
            }
        });
        let thread = wait.recv()?.context("no network namespace for the peer")?;
        let peer = Self { jobs };
        // It may still be coming back from the last test's namespace.
        wait_for("the peer's NIC", Duration::from_secs(5), || {
            Ok(sh(&format!("ip link set {FAR} netns {thread}")).is_ok())
        })?;
        peer.sh("ip link set lo up")?;
        peer.run(|| {
            let file = format!("/proc/sys/net/ipv6/conf/{FAR}/accept_dad");
            std::fs::write(file, "0").ok();
            Ok(())
        })?;
        peer.sh(&format!("ip link set {FAR} mtu 9000 up"))?;
        peer.sh(&format!("ip addr add {}/24 dev {FAR}", IPV4[1]))?;
        Ok(peer)
    }

    /// Does something in the namespace and waits for it. Sockets opened there stay there.
    pub fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (put, take) = mpsc::channel();
        let job = move || {
            put.send(work()).ok();
        };
        self.jobs
            .send(Box::new(job))
            .ok()
            .context("the peer's thread is gone")?;
        take.recv().context("the peer's thread panicked")?
    }

    /// Runs a command line there.
    pub fn sh(&self, line: &str) -> Result<Output> {
        let line = line.to_owned();
        self.run(move || sh(&line))
    }

    /// Tells both ends the other's address for good: from now on there is no ARP, which would be counted among the packets of a queue.
    pub fn without_arp(&self, host: &Host) -> Result<()> {
        let mac = |id: &str| -> Result<String> {
            let bytes = host.machine().nic(id).context("no such NIC")?.mac();
            Ok(bytes.map(|byte| format!("{byte:02x}")).join(":"))
        };
        sh(&format!(
            "busybox arp -i {NIC} -s {} {}",
            IPV4[1],
            mac(FAR)?
        ))?;
        self.sh(&format!(
            "busybox arp -i {FAR} -s {} {}",
            IPV4[0],
            mac(NIC)?
        ))?;
        Ok(())
    }

    /// A UDP socket there.
    pub fn udp(&self, address: &str) -> Result<UdpSocket> {
        let address = address.to_owned();
        self.run(move || {
            let socket = UdpSocket::bind(&address).with_context(|| format!("bind {address}"))?;
            socket.set_read_timeout(Some(Duration::from_secs(2)))?;
            Ok(socket)
        })
    }
}
