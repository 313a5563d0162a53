//! A client whose wish the daemon does not know is told.

use common::{Passed, daemon_passing};
use devrx_client::proto::message::Timestamps;
use devrx_client::{AttachOptions, Client};

mod common;

/// The warnings of an attachment at a daemon that says so, and what the client knows then of the looks at its refill rings.
fn attach(passed: Passed, wish: impl FnOnce(&mut AttachOptions)) -> (Vec<String>, bool) {
    let (daemon, path, _folder) = daemon_passing(passed, 1, |daemon| drop(daemon.session.recv()));
    let mut client = Client::connect(&path).expect("a daemon");
    let mut options = AttachOptions::new("test", "eth0", 0).flow("any");
    wish(&mut options);
    let attachment = client.attach(&options).expect("an attachment");
    let known = (
        attachment.warnings().to_vec(),
        attachment.opened().polls_refill,
    );
    drop(attachment);
    daemon.join().expect("no panic");
    known
}

fn polls_refill(asked: bool, says: bool) -> (Vec<String>, bool) {
    let passed = Passed {
        polls_refill: says,
        ..Passed::default()
    };
    attach(passed, |options| options.request.polls_refill = asked)
}

fn stamps(asked: Timestamps, timestamps: Timestamps) -> Vec<String> {
    let passed = Passed {
        timestamps,
        ..Passed::default()
    };
    attach(passed, |options| options.request.timestamps = Some(asked)).0
}

fn one(warnings: &[String], part: &str) {
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(warnings[0].contains(part), "{warnings:?}");
}

#[test]
fn a_client_that_cannot_kick_is_told_when_nobody_looks_for_its_chunks() {
    let (warnings, looks) = polls_refill(true, false);
    assert!(!looks);
    one(&warnings, "looks at the refill ring by itself");
    assert_eq!(polls_refill(true, true), (vec![], true));
    assert_eq!(polls_refill(false, false), (vec![], false));
}

#[test]
fn who_wants_the_nics_time_is_told_when_it_gets_the_daemons() {
    let warnings = stamps(Timestamps::Nic, Timestamps::Software);
    one(&warnings, "took them from the ring");
    assert!(stamps(Timestamps::Nic, Timestamps::Nic).is_empty());
    assert!(stamps(Timestamps::Software, Timestamps::Software).is_empty());
}
