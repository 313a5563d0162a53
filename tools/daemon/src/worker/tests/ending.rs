//! What a dead client held, and a queue that does not stop.

use super::*;

#[test]
fn everything_a_dead_client_held_is_taken_back() {
    let mut rig = Rig::new(Setup {
        chunks: 32,
        ring: 32,
        ..Setup::default()
    });
    rig.wire.send(0, 32, 1);
    assert_eq!(rig.settle().with_client, 32);
    let read = rig
        .client
        .completions
        .take(&mut [Completion::default(); 10]);
    assert_eq!(read, 10);
    let (fresh, memory, _, _) = side();
    let start = rig.handle.change_consumer(fresh).expect("answered");
    assert_eq!(
        start.completion, 32,
        "the next one starts with an empty ring"
    );
    assert_eq!(rig.numbers().with_client, 0);
    // The dead client's memory means nothing any more.
    rig.client_memory
        .word_to_write(rig.layout.queue(0).unwrap().refill_producer)
        .unwrap()
        .store(0xdead_beef);
    rig.client = ClientQueue::new(&rig.layout, 0, &rig.daemon_memory, &memory, start).unwrap();
    rig.wire.send(0, 32, 1);
    assert_eq!(rig.settle().delivered, 64);
    assert_eq!(rig.receive().len(), 32);
    assert_eq!(rig.handle.fault(), None);
    rig.end();
}

#[test]
fn a_queue_that_does_not_stop_keeps_its_memory() {
    let rig = Rig::new(Setup::default());
    rig.wire.lock().refuse_stop = usize::MAX;
    rig.handle.stop();
    let finished = rig.handle.join();
    assert!(finished.leaked.is_some());
    assert!(
        !rig.wire.take_log().contains(&"drop 0".to_owned()),
        "neither closed nor freed"
    );
    assert!(finished.numbers.hold > finished.numbers.release);
}
