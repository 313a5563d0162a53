//! Which queue a packet goes to: by its hash, and by Flow Director.

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::linux::reachable;
use super::peer::{IPV4, Peer};
use super::test;
use super::tools::{Mode, NIC, ethtool, nothing_refused, received};
use crate::guest_tests::Test;
use crate::inside::Host;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    test("linux_ice_spreads_flows_as_the_hash_says", spread),
    test("linux_ice_steers_a_flow_to_either_queue", steer),
];

/// Receive queues in these tests.
pub(super) const QUEUES: u32 = 2;
/// The port that flows go to.
const PORT: u16 = 6000;

/// The hash that Microsoft calls Toeplitz, over `input` with `key`.
pub(super) fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
    let bit = |bytes: &[u8], at: usize| {
        bytes
            .get(at / 8)
            .is_some_and(|byte| byte & (0x80 >> (at % 8)) != 0)
    };
    let window =
        |at: usize| (0..32).fold(0, |word, next| word << 1 | u32::from(bit(key, at + next)));
    (0..input.len() * 8)
        .filter(|at| bit(input, *at))
        .fold(0, |hash, at| hash ^ window(at))
}

/// The hash key and the indirection table, as ethtool tells them.
fn hash_settings() -> Result<(Vec<u8>, Vec<u64>)> {
    let text = ethtool(&format!("-x {NIC}"))?;
    let mut key = Vec::new();
    let mut table = Vec::new();
    for line in text.lines() {
        let line = line.trim();
        if line.split(':').count() >= 40 {
            key = line
                .split(':')
                .map(|byte| u8::from_str_radix(byte, 16))
                .collect::<Result<_, _>>()?;
        } else if let Some((index, queues)) = line.split_once(':')
            && index.parse::<u32>().is_ok()
        {
            for queue in queues.split_whitespace() {
                table.push(queue.parse()?);
            }
        }
    }
    ensure!(
        !key.is_empty() && table.len().is_power_of_two(),
        "not understood: {text}"
    );
    Ok((key, table))
}

/// Sends one datagram from each of these ports of the other end, and waits until all were received; how many each queue took.
fn flows(peer: &Peer, near: &UdpSocket, ports: impl IntoIterator<Item = u16>) -> Result<Vec<u64>> {
    let before = received(QUEUES)?;
    let mut buffer = [0; 64];
    for port in ports {
        let far = peer.udp(&format!("{}:{port}", IPV4[1]))?;
        far.send_to(&port.to_be_bytes(), near.local_addr()?)?;
        let (length, from) = near
            .recv_from(&mut buffer)
            .with_context(|| format!("the datagram from port {port} was not received"))?;
        ensure!(
            buffer[..length] == port.to_be_bytes(),
            "what came is another"
        );
        ensure!(from.port() == port, "it came from port {}", from.port());
    }
    let after = received(QUEUES)?;
    Ok(after
        .iter()
        .zip(&before)
        .map(|(after, before)| after - before)
        .collect())
}

fn socket() -> Result<UdpSocket> {
    let near = UdpSocket::bind((IPV4[0], PORT))?;
    near.set_read_timeout(Some(Duration::from_secs(2)))?;
    Ok(near)
}

/// Each queue takes just those flows whose hash the table gives to it.
pub(super) fn spreads(peer: &Peer) -> Result<()> {
    // Far apart: the hash is linear, and under one key in 64 ports that differ in six bits all hash alike. Linux makes a new key each time.
    let ports: Vec<u16> = (0..48).map(|flow| 7000 + flow * 1201).collect();
    ethtool(&format!("-N {NIC} rx-flow-hash udp4 sdfn"))?;
    let (key, table) = hash_settings()?;
    let [near, far] = IPV4.map(|address| address.parse::<Ipv4Addr>().map(|ip| ip.octets()));
    let (near, far) = (near?, far?);
    let mut expected = vec![0; QUEUES as usize];
    for &port in &ports {
        let input: Vec<u8> = [&far[..], &near, &port.to_be_bytes(), &PORT.to_be_bytes()].concat();
        let hash = toeplitz(&key, &input) as usize;
        let queue = usize::try_from(table[hash % table.len()])?;
        *expected
            .get_mut(queue)
            .context("the table names a third queue")? += 1;
    }
    let found = flows(peer, &socket()?, ports.iter().copied())?;
    println!(
        "of {} flows: expected {expected:?}, found {found:?}",
        ports.len()
    );
    ensure!(
        expected.iter().all(|count| *count > 0),
        "all flows hash to one queue"
    );
    ensure!(found == expected, "expected {expected:?}, found {found:?}");
    Ok(())
}

fn spread(host: &mut Host) -> Result<()> {
    let peer = Peer::with_ice(host, Mode::Full)?;
    reachable(host)?;
    peer.without_arp(host)?;
    spreads(&peer)?;
    nothing_refused(host)
}

/// A rule takes a flow to each queue in turn: whichever its hash says, one of the two shows that the rule works.
pub(super) fn steers(peer: &Peer) -> Result<()> {
    const FLOW: u16 = 7777;
    ethtool(&format!("-K {NIC} ntuple on"))?;
    let near = socket()?;
    let bare = flows(peer, &near, [FLOW])?;
    for queue in [0, 1] {
        let said = ethtool(&format!(
            "-N {NIC} flow-type udp4 src-ip {} dst-ip {} src-port {FLOW} dst-port {PORT} action {queue}",
            IPV4[1], IPV4[0]
        ))?;
        let Some(id) = said
            .split_whitespace()
            .last()
            .and_then(|id| id.parse::<u32>().ok())
        else {
            bail!("ethtool said {said:?}");
        };
        let mut wanted = vec![0; QUEUES as usize];
        let mut found = wanted.clone();
        for _ in 0..8 {
            let one = flows(peer, &near, [FLOW])?;
            found
                .iter_mut()
                .zip(one)
                .for_each(|(sum, count)| *sum += count);
        }
        wanted[queue] = 8;
        // Another flow is none of the rule's business: it goes where its hash says, which is checked by `spreads`.
        ethtool(&format!("-N {NIC} delete {id}"))?;
        println!("rule to queue {queue}: {found:?}; without one {bare:?}");
        ensure!(
            found == wanted,
            "told to go to queue {queue}, packets went {found:?}"
        );
    }
    let after = flows(peer, &near, [FLOW])?;
    ensure!(
        after == bare,
        "without rules it went {bare:?}, and after them {after:?}"
    );
    Ok(())
}

fn steer(host: &mut Host) -> Result<()> {
    let peer = Peer::with_ice(host, Mode::Full)?;
    reachable(host)?;
    peer.without_arp(host)?;
    steers(&peer)?;
    nothing_refused(host)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From Microsoft's "Verifying the RSS Hash Calculation".
    #[test]
    fn the_hash_is_toeplitz() {
        let key = [
            0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3,
            0x8f, 0xb0, 0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3,
            0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa,
        ];
        let input = [66, 9, 149, 187, 161, 142, 100, 80, 0x0a, 0xea, 0x06, 0xe6];
        assert_eq!(toeplitz(&key, &input), 0x51cc_c178);
    }
}
