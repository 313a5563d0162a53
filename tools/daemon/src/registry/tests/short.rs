//! Where descriptors are short, or not to be had back.

use std::os::fd::AsRawFd;
use std::sync::mpsc::channel;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::*;

/// Set in the process that this test makes: what a process may open, it may open in all its threads.
const ALONE: &str = "DEVRX_TEST_ALONE";

#[test]
fn out_of_descriptors_an_attach_leaves_nothing_behind() {
    let name = "registry::tests::short::out_of_descriptors_an_attach_leaves_nothing_behind";
    if std::env::var_os(ALONE).is_none() {
        let mut alone = std::process::Command::new(std::env::current_exe().unwrap());
        alone.args(["--exact", name, "--nocapture"]).env(ALONE, "1");
        let output = alone.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        return;
    }
    let (_wire, mut registry) = registry(1, "");
    let wanted = AttachRequest {
        open: true,
        ..request("a", 0)
    };
    let lowest = std::fs::File::open("/dev/null").unwrap().as_raw_fd();
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    // One more each time, so that it fails at every step that takes one.
    let mut failed = 0;
    for limit in u64::try_from(lowest).unwrap().. {
        setrlimit(Resource::RLIMIT_NOFILE, limit, hard).unwrap();
        let attached = registry.attach(&ROOT, SESSION, &wanted, None).map(drop);
        setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
        if attached.is_ok() {
            break;
        }
        assert!(registry.attachments.is_empty(), "{attached:?}");
        wait_for("what there was is closed", || registry.closers.left() == 0);
        failed += 1;
    }
    assert!(failed > 5, "{failed} steps take a descriptor");
    registry.shut_down();
}

#[test]
fn who_has_much_that_cannot_be_closed_gets_no_more() {
    struct Slow(std::sync::mpsc::Receiver<()>);
    impl Drop for Slow {
        fn drop(&mut self) {
            let _ = self.0.recv();
        }
    }
    let (_wire, mut registry) = registry(2, "");
    attach(&mut registry, &request("first", 0)).unwrap();
    let (end, wait) = channel();
    registry.closers.close(ROOT.uid, Slow(wait));
    for _ in 1..MOST_LEFT {
        registry.closers.close(ROOT.uid, ());
    }
    let more = request("more", 1);
    refused(&mut registry, &more, FailureCode::Busy, "uid 0");
    assert!(registry.open(&ROOT, SESSION, "first").is_err());
    drop(end);
    wait_for("all is closed", || registry.closers.left() == 0);
    attach(&mut registry, &more).unwrap();
    registry.open(&ROOT, SESSION, "first").unwrap();
    registry.shut_down();
}
