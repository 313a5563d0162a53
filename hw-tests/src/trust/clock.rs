//! The card's clock: Linux's ice makes a PTP clock of it, and what both drivers receive carries stamps of it.

use std::fs::File;
use std::io::IoSliceMut;
use std::net::UdpSocket;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::socket::{
    ControlMessageOwned, MsgFlags, SockaddrIn, TimestampingFlag, recvmsg, setsockopt, sockopt,
};
use nix::sys::time::TimeSpec;
use nix::time::{ClockId, clock_gettime, clock_settime};

use super::dpdk::{Dpdk, PORT, mac};
use super::linux::{reachable, sockets};
use super::peer::{IPV4, Peer, near};
use super::prepare::STAMP_ALL;
use super::test;
use super::tools::{Mode, NIC, carrier, must_fail, nothing_refused, unload};
use crate::command::sh;
use crate::frame;
use crate::guest_tests::{Driver, Test};
use crate::inside::Host;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    test(
        "linux_ice_has_a_clock_that_runs_and_is_set",
        runs_and_is_set,
    ),
    test("linux_ice_stamps_what_it_receives", stamps),
    test("faults_of_the_clock_are_noticed", faults),
    test("dpdk_stamps_what_it_receives_by_the_clock", dpdk).igb(Driver::Vfio),
];

/// Datagrams of a check.
const DATAGRAMS: usize = 20;
/// How long the drivers go by what they read of the clock before, for the upper half of a stamp: DPDK 4 ms, Linux half a second. A clock that went back meanwhile, as
/// with a fault, is not seen until then.
const REMEMBERED: Duration = Duration::from_millis(800);
/// How far a clock may go astray in the tests' short times: guests' clocks are emulated.
const OFF_BY: f64 = 0.02;

/// The PTP clock of the interface.
struct Clock(File);

impl Clock {
    /// Opens it.
    fn of_nic() -> Result<Self> {
        let folder = format!("/sys/class/net/{NIC}/device/ptp");
        let mut found =
            std::fs::read_dir(&folder).with_context(|| format!("{NIC} has no clock"))?;
        let name = found.next().context("no clock")??.file_name();
        let device = Path::new("/dev").join(name);
        let file = File::options().read(true).write(true).open(&device);
        Ok(Self(file.with_context(|| device.display().to_string())?))
    }

    /// As the kernel numbers clocks that are files.
    fn id(&self) -> ClockId {
        ClockId::from_raw(!self.0.as_raw_fd() << 3 | 3)
    }

    /// What it shows, nanoseconds.
    fn now(&self) -> Result<i128> {
        Ok(nanoseconds(clock_gettime(self.id())?))
    }

    fn set(&self, seconds: i64) -> Result<()> {
        Ok(clock_settime(self.id(), TimeSpec::new(seconds, 0))?)
    }
}

fn nanoseconds(time: TimeSpec) -> i128 {
    i128::from(time.tv_sec()) * 1_000_000_000 + i128::from(time.tv_nsec())
}

/// It goes on as the guest's own clock does.
fn runs(clock: &Clock) -> Result<()> {
    // Whoever reads may be interrupted: the time between lies between the inner and the outer readings of the guest's own clock.
    let outer = Instant::now();
    let before = clock.now()?;
    let inner = Instant::now();
    std::thread::sleep(Duration::from_millis(500));
    let least = inner.elapsed();
    let after = clock.now()?;
    let most = outer.elapsed();
    let showed = (after - before) as f64;
    ensure!(
        showed > least.as_nanos() as f64 * (1.0 - OFF_BY)
            && showed < most.as_nanos() as f64 * (1.0 + OFF_BY),
        "in {least:?} to {most:?} of the guest's clock it went on by {showed} ns"
    );
    Ok(())
}

fn runs_and_is_set(host: &mut Host) -> Result<()> {
    let _peer = Peer::with_ice(host, Mode::Full)?;
    let clock = Clock::of_nic()?;
    let apart = clock.now()? - nanoseconds(clock_gettime(ClockId::CLOCK_REALTIME)?);
    ensure!(
        apart.abs() < 1_000_000_000,
        "it begins {apart} ns off the system's clock"
    );
    runs(&clock)?;
    // More than 32 bits of nanoseconds apart.
    for seconds in [1_000_000_000, 5, 2_000_000_000] {
        clock.set(seconds)?;
        let shows = clock.now()? - i128::from(seconds) * 1_000_000_000;
        ensure!(
            (0..500_000_000).contains(&shows),
            "set to {seconds} s, it shows {shows} ns after that"
        );
        runs(&clock)?;
    }
    nothing_refused(host)
}

/// Linux is to stamp all that comes.
fn stamp_all() -> Result<()> {
    sh(&format!("{STAMP_ALL} {NIC}")).map(drop)
}

/// The card's stamp of the next datagram.
fn stamp_of(socket: &UdpSocket) -> Result<i128> {
    let mut buffer = [0; 2048];
    let mut data = [IoSliceMut::new(&mut buffer)];
    let mut room = nix::cmsg_space!([TimeSpec; 3]);
    let message = recvmsg::<SockaddrIn>(
        socket.as_raw_fd(),
        &mut data,
        Some(&mut room),
        MsgFlags::empty(),
    )
    .context("a datagram did not come")?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmTimestampsns(times) = control {
            return Ok(nanoseconds(times.hw_raw));
        }
    }
    anyhow::bail!("a datagram carries no stamp of the card")
}

/// Each datagram's stamp lies between the clock's readings before it was sent and after it was received, and behind the one before it.
fn stamped(peer: &Peer) -> Result<()> {
    let clock = Clock::of_nic()?;
    let (near, far) = sockets(peer)?;
    let wanted = TimestampingFlag::SOF_TIMESTAMPING_RX_HARDWARE
        | TimestampingFlag::SOF_TIMESTAMPING_RAW_HARDWARE;
    setsockopt(&near, sockopt::Timestamping, &wanted)?;
    let to = (IPV4[0], near.local_addr()?.port());
    let mut last = 0;
    for number in 0..DATAGRAMS {
        let before = clock.now()?;
        far.send_to(&[7; 100], to)?;
        let stamp = stamp_of(&near)?;
        let after = clock.now()?;
        ensure!(
            before < stamp && stamp < after,
            "datagram {number}: its stamp lies {} ns behind the reading before it was sent, and {} ns before the one after it was received",
            stamp - before,
            after - stamp
        );
        ensure!(
            stamp > last,
            "datagram {number}: it came before the one before it"
        );
        last = stamp;
    }
    Ok(())
}

fn stamps(host: &mut Host) -> Result<()> {
    let peer = Peer::with_ice(host, Mode::Full)?;
    reachable(host)?;
    stamp_all()?;
    stamped(&peer)?;
    // A clock that was set is one.
    Clock::of_nic()?.set(1_000_000_000)?;
    stamped(&peer)?;
    // A reset of the function is none of the clock's.
    let file = Path::new("/sys/bus/pci/devices")
        .join(host.pci(NIC)?)
        .join("reset");
    std::fs::write(&file, "1").context("the function's reset")?;
    carrier(NIC, true)?;
    reachable(host)?;
    stamped(&peer)?;
    let shows = Clock::of_nic()?.now()?;
    ensure!(
        shows < 1_100_000_000_000_000_000,
        "the reset set the clock: it shows {shows} ns"
    );
    nothing_refused(host)
}

/// Linux's ice comes with a clock that runs.
fn comes_with_a_clock(host: &Host) -> Result<()> {
    unload().ok();
    near(host, Mode::Full)?;
    runs(&Clock::of_nic()?)
}

fn faults(host: &mut Host) -> Result<()> {
    let peer = Peer::with_ice(host, Mode::Full)?;
    reachable(host)?;
    stamp_all()?;
    stamped(&peer)?;
    for fault in ["stamp-invalid", "stamp-of-other-timer", "clock-stands"] {
        host.card(NIC, &format!("fault {fault}"))?;
        let noticed = must_fail(fault, stamped(&peer));
        host.card(NIC, "fault none")?;
        noticed?;
        std::thread::sleep(REMEMBERED);
        stamped(&peer).with_context(|| format!("after {fault}"))?;
    }
    for fault in ["fail-command:0c00", "semaphore-held", "clock-stands"] {
        host.card(NIC, &format!("fault {fault}"))?;
        let noticed = must_fail(fault, comes_with_a_clock(host));
        host.card(NIC, "fault none")?;
        noticed?;
    }
    comes_with_a_clock(host)
}

impl Dpdk {
    /// What the card's clock shows, nanoseconds.
    fn clock(&mut self) -> Result<u64> {
        self.say("clock")?;
        let (_, said) = self.until("clock ")?;
        Ok(said.trim_start_matches("clock ").parse()?)
    }
}

/// The same of DPDK: each packet's stamp lies between the clock's readings before and after it.
fn dpdk_stamped(host: &mut Host, dpdk: &mut Dpdk) -> Result<()> {
    let mac = mac(host)?;
    let mut last = 0;
    for number in 0..8 {
        let frame = frame::numbered_to(mac, PORT, number, 100);
        let before = dpdk.clock()?;
        host.inject_frames(NIC, &[frame], Some(1000))?;
        let packets = dpdk.receive(1)?;
        let after = dpdk.clock()?;
        let stamp = packets.first().context("a packet did not come")?.stamp;
        ensure!(
            before < stamp && stamp < after && stamp > last,
            "packet {number}: its stamp is {stamp}, the clock showed {before} and {after}, the stamp before was {last}"
        );
        last = stamp;
    }
    Ok(())
}

fn dpdk(host: &mut Host) -> Result<()> {
    let mut dpdk = Dpdk::start_with(host, &["--", "stamps"])?;
    dpdk_stamped(host, &mut dpdk)?;
    for fault in ["stamp-of-other-timer", "clock-stands"] {
        host.card(NIC, &format!("fault {fault}"))?;
        let noticed = must_fail(fault, dpdk_stamped(host, &mut dpdk));
        host.card(NIC, "fault none")?;
        noticed?;
        std::thread::sleep(REMEMBERED);
        dpdk_stamped(host, &mut dpdk).with_context(|| format!("after {fault}"))?;
    }
    drop(dpdk);
    nothing_refused(host)
}
