//! Controls: a fault in the model, and the same checks, which must fail now. Without these, a check that passes proves nothing.

use anyhow::{Context, Result};

use super::lengths;
use super::linux::{exact, reachable, sockets};
use super::peer::{Peer, near};
use super::split;
use super::steering;
use super::test;
use super::tools::{Mode, NIC, Probe, must_fail, unload};
use crate::guest_tests::Test;
use crate::inside::Host;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    test("faults_of_receiving_are_noticed", receiving),
    test("faults_of_splitting_are_noticed", splitting),
    test("faults_of_steering_are_noticed", steering_faults),
    test("faults_of_commands_are_noticed", commands),
];

/// Runs a check, which must pass; with a fault in the model, which it must notice; and once more without.
fn control(
    host: &mut Host,
    fault: &str,
    mut check: impl FnMut(&mut Host) -> Result<()>,
) -> Result<()> {
    check(host).with_context(|| format!("before {fault}"))?;
    host.card(NIC, &format!("fault {fault}"))?;
    let noticed = must_fail(fault, check(host));
    host.card(NIC, "fault none")?;
    noticed?;
    check(host).with_context(|| format!("after {fault}"))
}

fn bytes(peer: &Peer) -> Result<()> {
    let (near, far) = sockets(peer)?;
    exact(&near, &far, [1, 18, 500, 1472].into_iter())
}

fn receiving(host: &mut Host) -> Result<()> {
    let peer = Peer::with_ice(host, Mode::Full)?;
    split::switch(false)?;
    reachable(host)?;
    for fault in ["receive-error", "no-done-bit", "lost-interrupt"] {
        // What a fault leaves in the queue goes with the queue.
        unload()?;
        near(host, Mode::Full)?;
        bytes(&peer)?;
        host.card(NIC, &format!("fault {fault}"))?;
        let mut noticed = must_fail(fault, bytes(&peer));
        // Where a packet that Linux itself sent a moment ago is not reported done either, Linux takes its queue for hanging and looks at all of the vector's
        // by itself, once: what was received is found then.
        for _ in 0..4 {
            if noticed.is_err() && fault == "lost-interrupt" {
                noticed = must_fail(fault, bytes(&peer));
            }
        }
        host.card(NIC, "fault none")?;
        noticed?;
    }
    unload()?;
    Ok(())
}

fn splitting(host: &mut Host) -> Result<()> {
    let peer = Peer::with_ice(host, Mode::Full)?;
    split::switch(true)?;
    let done = (|| {
        reachable(host)?;
        for fault in ["swapped-buffers", "hbo"] {
            control(host, fault, |_| bytes(&peer))?;
        }
        let probe = Probe::new()?;
        for fault in ["wrong-header-length", "split-off-by-one", "no-sph"] {
            control(host, fault, |_| {
                split::header_is(&peer, &probe, &split::SIZES, |_| 42)
            })?;
        }
        control(host, "wrong-packet-length", |host| {
            lengths::right(host, &peer, &lengths::SIZES)
        })
    })();
    split::switch(false)?;
    done
}

fn steering_faults(host: &mut Host) -> Result<()> {
    let peer = Peer::with_ice(host, Mode::Full)?;
    reachable(host)?;
    peer.without_arp(host)?;
    control(host, "no-flow-director", |_| steering::steers(&peer))
}

/// Linux's ice comes up and is reachable, from the beginning.
fn comes_up(host: &mut Host) -> Result<()> {
    unload().ok();
    Peer::with_ice(host, Mode::Full).and_then(|_peer| reachable(host))
}

fn commands(host: &mut Host) -> Result<()> {
    comes_up(host)?;
    for fault in ["no-rules", "fail-command:0210", "fail-command:0c30"] {
        host.card(NIC, &format!("fault {fault}"))?;
        let noticed = must_fail(fault, comes_up(host));
        host.card(NIC, "fault none")?;
        noticed?;
    }
    comes_up(host)
}
