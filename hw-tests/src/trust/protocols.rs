//! More than UDP over IPv4: TCP, IPv6, VLAN tags.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::linux::{exact, ordinary, reachable};
use super::peer::{FAR, IPV4, IPV6, Peer};
use super::split;
use super::test;
use super::tools::{Mode, NIC, Probe, nothing_refused};
use crate::command::sh;
use crate::guest_tests::Test;
use crate::inside::{Host, modules};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    test("linux_ice_carries_tcp_with_its_headers_split", tcp_split),
    test("linux_ice_carries_ipv6", ipv6),
    test("linux_ice_carries_vlan_tags", vlan),
];

/// Bytes of a TCP stream, each way.
const STREAM: usize = 1 << 20;

fn stream_byte(at: usize) -> u8 {
    ((at as u32).wrapping_mul(0x9e37_79b1) >> 24) as u8
}

fn write_stream(mut to: &TcpStream, mask: u8) -> Result<()> {
    let bytes: Vec<u8> = (0..STREAM).map(|at| stream_byte(at) ^ mask).collect();
    to.write_all(&bytes).context("sending the stream")?;
    to.shutdown(std::net::Shutdown::Write)?;
    Ok(())
}

fn read_stream(mut from: &TcpStream, mask: u8) -> Result<()> {
    let mut bytes = Vec::new();
    from.read_to_end(&mut bytes)
        .context("receiving the stream")?;
    ensure!(
        bytes.len() == STREAM,
        "{} bytes of {STREAM} came",
        bytes.len()
    );
    let wrong = (0..STREAM).find(|&at| bytes[at] != stream_byte(at) ^ mask);
    ensure!(wrong.is_none(), "byte {wrong:?} of the stream is another");
    Ok(())
}

/// A stream each way at once, every byte compared.
pub(super) fn streams(peer: &Peer) -> Result<()> {
    let listener = peer.run(|| Ok(TcpListener::bind((IPV4[1], 8000))?))?;
    let far = std::thread::spawn(move || -> Result<()> {
        let (stream, _) = listener.accept()?;
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let also = stream.try_clone()?;
        let sender = std::thread::spawn(move || write_stream(&also, 0xff));
        read_stream(&stream, 0).context("at the other end")?;
        sender.join().ok().context("the sender panicked")?
    });
    let address = format!("{}:8000", IPV4[1]).parse()?;
    let near = TcpStream::connect_timeout(&address, Duration::from_secs(10))?;
    near.set_read_timeout(Some(Duration::from_secs(10)))?;
    let also = near.try_clone()?;
    let sender = std::thread::spawn(move || write_stream(&also, 0));
    read_stream(&near, 0xff)?;
    sender.join().ok().context("the sender panicked")??;
    far.join().ok().context("the other end panicked")?
}

fn tcp_split(host: &mut Host) -> Result<()> {
    let peer = Peer::with_ice(host, Mode::Full)?;
    split::switch(true)?;
    let done = (|| {
        reachable(host)?;
        let probe = Probe::new()?;
        streams(&peer)?;
        // 14 + 20 + 20, and 12 of options where there are timestamps; connections open with more.
        let seen = probe.lengths()?;
        let odd = seen
            .iter()
            .filter(|length| ![54, 66].contains(*length))
            .count();
        ensure!(
            seen.len() > 100 && odd * 10 < seen.len(),
            "split at {seen:?}"
        );
        Ok(())
    })();
    split::switch(false)?;
    done?;
    nothing_refused(host)
}

/// Whether an interface of this namespace speaks IPv6.
fn speaks_ipv6(interface: &str, yes: bool) -> Result<()> {
    for (file, value) in [
        ("accept_dad", "0"),
        ("disable_ipv6", if yes { "0" } else { "1" }),
    ] {
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{interface}/{file}"), value)?;
    }
    Ok(())
}

fn ipv6(host: &mut Host) -> Result<()> {
    let peer = Peer::with_ice(host, Mode::Full)?;
    split::switch(true)?;
    speaks_ipv6(NIC, true)?;
    let done = (|| {
        peer.run(|| speaks_ipv6(FAR, true))?;
        sh(&format!("ip addr add {}/64 dev {NIC}", IPV6[0]))?;
        peer.sh(&format!("ip addr add {}/64 dev {FAR}", IPV6[1]))?;
        let said = sh(&format!("busybox ping -c 3 -i 0.2 -W 2 {}", IPV6[1]))?.stdout;
        ensure!(said.contains(" 0% packet loss"), "{said}");
        let near = UdpSocket::bind((IPV6[0], 0))?;
        near.set_read_timeout(Some(Duration::from_secs(2)))?;
        let far = peer.udp(&format!("[{}]:5000", IPV6[1]))?;
        exact(&near, &far, ordinary().filter(|size| *size <= 1452))?;
        let probe = Probe::new()?;
        exact(&near, &far, [20, 800, 1452].into_iter())?;
        let seen = probe.lengths()?;
        ensure!(
            seen == [62, 62, 62],
            "UDP over IPv6 was split at {seen:?}, not at 62"
        );
        Ok(())
    })();
    speaks_ipv6(NIC, false)?;
    split::switch(false)?;
    done?;
    nothing_refused(host)
}

fn vlan(host: &mut Host) -> Result<()> {
    let peer = Peer::with_ice(host, Mode::Full)?;
    reachable(host)?;
    modules::load("8021q")?;
    let up = |interface: &str, address: &str| {
        [
            format!("ip link add link {interface} name {interface}.5 type vlan id 5"),
            format!("ip addr add {address}/24 dev {interface}.5"),
            format!("ip link set {interface}.5 up"),
        ]
    };
    let done = (|| {
        for line in up(NIC, "10.9.0.1") {
            sh(&line)?;
        }
        for line in up(FAR, "10.9.0.2") {
            peer.sh(&line)?;
        }
        host.forget_seen(NIC)?;
        let near = UdpSocket::bind("10.9.0.1:0")?;
        near.set_read_timeout(Some(Duration::from_secs(2)))?;
        let far = peer.udp("10.9.0.2:5000")?;
        exact(&near, &far, (1..1468).step_by(97))?;
        let frames = host.seen(NIC)?;
        let udp = |frame: &&Vec<u8>| frame.len() > 40 && frame[12..18] == [0x81, 0, 0, 5, 8, 0];
        ensure!(
            frames.iter().filter(udp).count() >= 16,
            "what it sent bears no tag: {:02x?}",
            frames.first()
        );
        Ok(())
    })();
    sh(&format!("ip link del {NIC}.5")).ok();
    done?;
    nothing_refused(host)
}
