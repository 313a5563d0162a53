//! Who sleeps is woken, and who cannot wake the worker is looked after.

use super::*;

#[test]
fn a_client_that_cannot_kick_is_looked_after() {
    let mut manners = Setup::default().manners;
    manners.polls_refill = true;
    let mut rig = Rig::new(Setup {
        chunks: 16,
        ring: 16,
        manners,
        ..Setup::default()
    });
    rig.wire.send(0, 16, 1);
    rig.settle();
    let entries = rig.receive();
    wait_for("the worker sleeps", || {
        rig.client.refills.sleeper().is_some()
    });
    rig.give(&entries);
    // Nobody kicks, and nobody asks for numbers, which would wake it.
    wait_for("the ring is read all the same", || {
        rig.client.refills.free() == 16
    });
    rig.end();
}

#[test]
fn a_sleeping_client_is_woken_after_a_batch_or_a_time() {
    let mut manners = Setup::default().manners;
    (manners.wake_batch, manners.wake_timeout) = (4, Duration::from_millis(300));
    let mut rig = Rig::new(Setup {
        manners,
        ..Setup::default()
    });
    let woken = |rig: &Rig, wait: u16| {
        poll(
            &mut [PollFd::new(rig.wake.as_fd(), PollFlags::POLLIN)],
            PollTimeout::from(wait),
        )
        .unwrap()
            == 1
    };
    assert!(rig.client.completions.arm());
    rig.wire.send(0, 3, 1);
    assert!(!woken(&rig, 100), "three of four, and the time is not over");
    assert!(woken(&rig, 5000), "the time is over");
    rig.client.completions.disarm();
    rig.wake.drain();
    rig.receive();
    assert!(rig.client.completions.arm());
    rig.wire.send(0, 4, 1);
    assert!(woken(&rig, 200), "a batch");
    rig.client.completions.disarm();
    rig.wake.drain();
    rig.wire.send(0, 8, 1);
    rig.settle();
    assert!(!woken(&rig, 350), "who does not sleep is not woken");
    rig.end();
}

#[test]
fn a_client_that_jams_its_wake_event_cannot_keep_its_queue() {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let mut rig = Rig::new(Setup::default());
    fcntl(rig.wake.as_fd(), FcntlArg::F_SETFL(OFlag::empty())).unwrap();
    nix::unistd::write(&rig.wake, &(u64::MAX - 1).to_ne_bytes()).unwrap();
    assert!(rig.client.completions.arm());
    rig.wire.send(0, 4, 1);
    wait_for("the worker hangs in waking its client", || {
        rig.wire.waiting(0) == 0
    });
    let numbers = rig.settle();
    assert_eq!(numbers.delivered, 4);
    assert!(
        rig.handle.fault().is_some_and(|why| why.contains("wakes")),
        "and the attachment must end"
    );
    rig.end();
}
