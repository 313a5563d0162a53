//! A client that cannot kick is told when the daemon does not look for its chunks by itself.

use common::{Passed, daemon_passing};
use devrx_client::{AttachOptions, Client};

mod common;

/// The warnings of an attachment at a daemon that says `says`, and what the client knows then.
fn attach(asked: bool, says: bool) -> (Vec<String>, bool) {
    let passed = Passed {
        polls_refill: says,
        ..Passed::default()
    };
    let (daemon, path, _folder) = daemon_passing(passed, 1, |daemon| drop(daemon.session.recv()));
    let mut client = Client::connect(&path).expect("a daemon");
    let mut options = AttachOptions::new("test", "eth0", 0).flow("any");
    options.request.polls_refill = asked;
    let attachment = client.attach(&options).expect("an attachment");
    let known = (
        attachment.warnings().to_vec(),
        attachment.opened().polls_refill,
    );
    drop(attachment);
    daemon.join().expect("no panic");
    known
}

#[test]
fn a_daemon_that_does_not_know_the_wish_is_warned_of() {
    let (warnings, looks) = attach(true, false);
    assert!(!looks);
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].contains("looks at the refill ring by itself"),
        "{warnings:?}"
    );
}

#[test]
fn a_daemon_that_does_as_asked_is_not() {
    assert_eq!(attach(true, true), (vec![], true));
    assert_eq!(attach(false, false), (vec![], false));
}
