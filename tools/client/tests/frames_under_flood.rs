//! The time of a receiver of frames is over even while packets that complete no frame keep coming.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use common::wire::udp;
use common::{CHUNKS, Daemon, attach, daemon};
use devrx_client::placement::{FrameReceiver, PlacementOptions};
use devrx_client::proto::completion::{Completion, CompletionFlags};
use devrx_client::proto::refill::RefillEntry;

mod common;

/// So many that those looked at first are full again when the last one was looked at.
const QUEUES: u32 = 8;

/// Sends the same packet on all queues, again and again, as fast as chunks come back, until it is stopped. Answers how many.
fn flood(mut daemon: Daemon, packet: &[u8], stop: &AtomicBool) -> u64 {
    for chunk in 0..CHUNKS {
        let slot = daemon.layout.header_slot(chunk).expect("exists");
        assert!(daemon.memory.copy_in(slot, packet));
    }
    let mut sent = 0;
    let mut ready = [RefillEntry::default(); (CHUNKS / QUEUES) as usize];
    for turn in 0_u64.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        for (index, queue) in (0..).zip(&mut daemon.queues) {
            let found = if turn == 0 {
                let chunks = index * CHUNKS / QUEUES..;
                for (entry, chunk) in ready.iter_mut().zip(chunks) {
                    *entry = RefillEntry::new(chunk, 0);
                }
                ready.len()
            } else {
                queue.refills.take(&mut ready)
            };
            for back in &ready[..found] {
                let entry = Completion {
                    chunk: back.chunk,
                    generation: back.generation,
                    header_length: packet.len() as u16,
                    flags: CompletionFlags::SPLIT.bits(),
                    ..Completion::default()
                };
                assert!(queue.completions.push(&[entry]), "room for all");
            }
            sent += found as u64;
            if queue.completions.publish().sleeper.is_some() {
                daemon.events[index as usize].wake.notify();
            }
        }
    }
    daemon.end("stopped");
    let _ = daemon.session.recv();
    sent
}

/// Receives without waiting under a flood of `packet`, until `packets` were looked at; answers the most packets of a call.
fn most_in_a_call(packet: Vec<u8>, packets: u64) -> u64 {
    let stop = Arc::new(AtomicBool::new(false));
    let seen = Arc::clone(&stop);
    let (daemon, path, _folder) = daemon(QUEUES, move |daemon| flood(daemon, &packet, &seen));
    let (_client, attachment) = attach(&path);
    let options = PlacementOptions::new(2, 100).sequence(0, 8).window(3);
    let mut receiver = FrameReceiver::new(attachment, &options).expect("sound");
    let (mut before, mut most) = (0, 0);
    let start = Instant::now();
    while before < packets {
        assert!(
            start.elapsed() < Duration::from_secs(60),
            "{before} packets"
        );
        assert!(
            receiver
                .recv(Some(Duration::ZERO))
                .expect("no end")
                .is_none()
        );
        let now = receiver.stats().packets;
        most = most.max(now - before);
        before = now;
    }
    stop.store(true, Ordering::Relaxed);
    let stats = receiver.stats();
    assert_eq!(stats.frames_complete + stats.frames_incomplete, 0);
    drop(receiver);
    assert!(daemon.join().expect("no panic") >= stats.packets);
    most
}

/// No UDP at all, and a packet that is there already: neither completes a frame.
fn packets() -> [Vec<u8>; 2] {
    [vec![0xee; 60], udp(&[0; 16])]
}

#[test]
fn a_look_without_a_wait_takes_what_is_there_and_no_more() {
    for packet in packets() {
        let most = most_in_a_call(packet, 100_000);
        // The ring may be full at the look, and again when the time is found to be over.
        assert!(most <= 2 * u64::from(CHUNKS), "{most} packets in one look");
    }
}
