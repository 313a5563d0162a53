//! Sends UDP packets through the small daemon, as an AF_XDP queue with header split delivers them.

use std::time::Duration;

use devrx_client::proto::completion::{Completion, CompletionFlags};
use devrx_client::proto::refill::RefillEntry;

use super::{CHUNK, CHUNKS, Daemon};

/// A UDP packet over IPv4, with `data` behind the UDP header.
pub fn udp(data: &[u8]) -> Vec<u8> {
    let mut frame = vec![2; 12];
    frame.extend([0x08, 0x00, 0x45, 0]);
    frame.extend((28 + data.len() as u16).to_be_bytes());
    frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    frame.extend([0x30, 0x39, 0x13, 0x88]);
    frame.extend((8 + data.len() as u16).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(data);
    // The least an Ethernet frame has.
    frame.resize(frame.len().max(60), 0xee);
    frame
}

/// Sends `frames` on the first queue, each split at its byte `split` (0: not split), as chunks come back; then waits until all are back, and
/// ends the attachment. Answers (chunks delivered, chunks returned).
pub fn send(daemon: Daemon, frames: &[Vec<u8>], split: usize) -> (u64, u64) {
    send_at(daemon, frames, split, 10)
}

/// As [`send`], with payload from byte `offset` of a chunk on. The region's last chunk is taken first.
pub fn send_at(mut daemon: Daemon, frames: &[Vec<u8>], split: usize, offset: u16) -> (u64, u64) {
    let mut free: Vec<u32> = (0..CHUNKS).collect();
    let mut generation = vec![0_u16; CHUNKS as usize];
    let (mut delivered, mut returned, mut idle) = (0, 0, 0);
    let mut frames = frames.iter().peekable();
    while frames.peek().is_some() || returned < delivered {
        let mut back = [RefillEntry::default(); 16];
        let found = daemon.queues[0].refills.take(&mut back);
        for entry in &back[..found] {
            assert_eq!(generation[entry.chunk as usize], entry.generation);
            generation[entry.chunk as usize] += 1;
            free.push(entry.chunk);
        }
        returned += found as u64;
        let mut pushed = false;
        while frames.peek().is_some() && !free.is_empty() {
            let chunk = free.pop().expect("not empty");
            let frame = frames.peek().expect("checked");
            let cut = split.min(frame.len());
            let (header, payload) = frame.split_at(cut);
            let slot = daemon.layout.header_slot(chunk).expect("exists");
            assert!(daemon.memory.copy_in(slot, header));
            let place = u64::from(chunk * CHUNK) + u64::from(offset);
            assert!(daemon.region.copy_in(place, payload));
            let entry = Completion {
                chunk,
                generation: generation[chunk as usize],
                flow: 7,
                offset,
                length: payload.len() as u16,
                header_length: cut as u16,
                flags: (CompletionFlags::SPLIT | CompletionFlags::TIMESTAMP_SW).bits(),
                timestamp: 1_000_000 + delivered,
                ..Completion::default()
            };
            if !daemon.queues[0].completions.push(&[entry]) {
                free.push(chunk);
                break;
            }
            frames.next();
            delivered += 1;
            pushed = true;
        }
        daemon.queues[0].completions.publish();
        if pushed {
            daemon.events[0].wake.notify();
        }
        if pushed || found > 0 {
            idle = 0;
        } else {
            idle += 1;
            assert!(
                idle < 200_000,
                "{returned} of {delivered} chunks came back, and no more in 20 s"
            );
            std::thread::sleep(Duration::from_micros(100));
        }
    }
    daemon.end("all was sent");
    // The connection stays until the client has seen it.
    let _ = daemon.session.recv();
    (delivered, returned)
}
