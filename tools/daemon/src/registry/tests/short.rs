//! Where descriptors are short, or not to be had back.

use std::sync::mpsc::channel;

use super::*;

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
