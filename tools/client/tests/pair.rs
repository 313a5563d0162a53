//! A client against a small daemon in this process: real sockets, memfds and eventfds, both sides falling asleep, everything
//! accounted for; and daemons that break the protocol.

use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::thread;
use std::time::{Duration, Instant};

use common::{CHUNK, CHUNKS, Daemon, Passed, attach, daemon, daemon_passing, greet, request};
use devrx_client::proto::completion::{Completion, CompletionFlags};
use devrx_client::proto::message::{Failure, FailureCode, Reply};
use devrx_client::proto::refill::RefillEntry;
use devrx_client::proto::shm::Shm;
use devrx_client::proto::socket::Listener;
use devrx_client::proto::wake::{Wake, WakePolicy};
use devrx_client::{Client, ClientError};

mod common;

/// Sends `packets` numbered packets over all queues, of one to three chunks each; answers (chunks delivered, chunks returned,
/// wake-ups, sleeps).
fn traffic(mut daemon: Daemon, packets: u64) -> (u64, u64, u64, u64) {
    let count = daemon.queues.len();
    let share = CHUNKS / count as u32;
    let mut free: Vec<Vec<u32>> = (0..count as u32)
        .map(|queue| (queue * share..(queue + 1) * share).collect())
        .collect();
    let mut generation = vec![0_u16; CHUNKS as usize];
    let mut out = vec![false; CHUNKS as usize];
    let mut policies = vec![WakePolicy::new(8, Duration::from_micros(200)); count];
    let (mut sent, mut delivered, mut returned, mut wakes, mut sleeps) = (0_u64, 0, 0, 0, 0);
    let mut pause = false;
    while sent < packets || returned < delivered {
        for queue in 0..count {
            let rings = &mut daemon.queues[queue];
            let mut back = [RefillEntry::default(); 16];
            loop {
                let found = rings.refills.take(&mut back);
                for entry in &back[..found] {
                    let chunk = entry.chunk as usize;
                    assert!(
                        std::mem::take(&mut out[chunk]),
                        "chunk {chunk} came back twice"
                    );
                    assert_eq!(generation[chunk], entry.generation);
                    free[queue].push(entry.chunk);
                    returned += 1;
                }
                if found == 0 {
                    break;
                }
            }
            for _ in 0..8 {
                let size = 1 + (sent % 3) as usize;
                if sent == packets
                    || sent % count as u64 != queue as u64
                    || free[queue].len() < size
                {
                    break;
                }
                let Some(mut group) = rings.completions.reserve(size as u32) else {
                    break;
                };
                for part in 0..size {
                    let chunk = free[queue].pop().expect("counted");
                    let index = chunk as usize;
                    out[index] = true;
                    generation[index] = generation[index].wrapping_add(1);
                    let number = sent * 4 + part as u64;
                    assert!(
                        daemon
                            .region
                            .copy_in(u64::from(chunk * CHUNK) + 3, &number.to_le_bytes())
                    );
                    if part == 0 {
                        let slot = daemon.layout.header_slot(chunk).expect("exists");
                        assert!(daemon.memory.copy_in(slot, &(!sent).to_le_bytes()));
                    }
                    let mut flags = CompletionFlags::SPLIT;
                    flags.set(CompletionFlags::MORE, part + 1 < size);
                    assert!(group.push(Completion {
                        chunk,
                        generation: generation[index],
                        flow: sent as u16,
                        offset: 3,
                        length: 8,
                        header_length: if part == 0 { 8 } else { 0 },
                        flags: flags.bits(),
                        ..Completion::default()
                    }));
                }
                group.commit();
                delivered += size as u64;
                sent += 1;
                if sent % (packets / 10) == 0 {
                    // Long enough for the client to have seen all, and to sleep: that it does so by itself is chance.
                    pause = true;
                }
            }
            if rings
                .completions
                .publish_for(&mut policies[queue], Instant::now())
                == Wake::Now
            {
                wakes += 1;
                daemon.events[queue].wake.notify();
            }
            assert_eq!((rings.completions.faults(), rings.refills.faults()), (0, 0));
        }
        if std::mem::take(&mut pause) {
            thread::sleep(Duration::from_millis(20));
        }
        // Nothing can be sent until chunks come back to the queue whose turn it is.
        let mut turn = (sent % count as u64) as usize;
        if sent == packets {
            // Or until the last ones are back, to whichever queue they belong.
            turn = free
                .iter()
                .position(|free| free.len() < share as usize)
                .unwrap_or(turn);
        }
        if sent == packets || free[turn].len() <= (sent % 3) as usize {
            daemon.events[turn].kick.drain();
            if daemon.queues[turn].refills.arm() {
                let by = policies.iter().filter_map(WakePolicy::deadline).min();
                let left = by.map_or(Duration::from_secs(10), |by| {
                    by.saturating_duration_since(Instant::now())
                });
                let kick = nix::poll::PollFd::new(
                    daemon.events[turn].kick.as_fd(),
                    nix::poll::PollFlags::POLLIN,
                );
                let waited = nix::poll::ppoll(
                    &mut [kick],
                    Some(nix::sys::time::TimeSpec::from_duration(left)),
                    None,
                );
                let lost = waited == Ok(0) && by.is_none() && returned < delivered;
                assert!(!lost, "the client did not kick in 10 s");
                sleeps += 1;
            }
            daemon.queues[turn].refills.disarm();
        }
    }
    daemon.end("all was sent");
    // The connection stays until the client has seen it.
    let _ = daemon.session.recv();
    (delivered, returned, wakes, sleeps)
}

fn run(queues: u32, packets: u64) {
    let (daemon, path, _folder) = daemon(queues, move |daemon| traffic(daemon, packets));
    let (client, mut attachment) = attach(&path);
    let mut kept = Vec::new();
    let mut received = 0;
    let mut chunks = 0;
    let mut next = vec![None; queues as usize];
    let error = loop {
        let mut late = std::mem::take(&mut kept);
        let batch = match attachment.recv(Some(Duration::from_secs(20))) {
            Ok(batch) => batch,
            Err(error) => break error,
        };
        assert!(
            !batch.is_empty(),
            "a wake-up was lost after {received} packets"
        );
        let mut payload = Vec::with_capacity(64);
        for packet in &batch {
            let mut number = [0; 8];
            assert_eq!(packet.copy_header(&mut number), 8);
            let number = !u64::from_le_bytes(number);
            assert_eq!(packet.header()[..], (!number).to_le_bytes());
            assert_eq!(packet.flow(), number as u16);
            let expected = next[batch.queue()].unwrap_or(batch.queue() as u64);
            assert_eq!(number, expected);
            next[batch.queue()] = Some(number + u64::from(queues));
            payload.clear();
            packet.copy_payload_to(&mut payload).expect("readable");
            assert_eq!(packet.segments().len(), 1 + (number % 3) as usize);
            for (part, bytes) in payload.chunks(8).enumerate() {
                assert_eq!(bytes, (number * 4 + part as u64).to_le_bytes());
                chunks += 1;
            }
            received += 1;
            if number % 7 == 0 {
                kept.extend(packet.hold());
                assert_eq!(packet.hold().count(), 0, "held twice");
            }
        }
        drop(batch);
        // Held over one batch, and given back from another thread's hands.
        for held in &late {
            let mut bytes = Vec::new();
            attachment
                .memory()
                .copy_payload_to(held, &mut bytes)
                .expect("readable");
            assert_eq!(bytes.len(), 8);
        }
        late = thread::scope(|scope| scope.spawn(move || late).join().expect("no panic"));
        late.append(&mut kept);
        let count = late.len();
        assert_eq!(attachment.held(), count as u64);
        assert_eq!(attachment.give_back(late).expect("our own"), count);
        assert_eq!(attachment.held(), 0);
    };
    assert!(
        matches!(&error, ClientError::Ended { reason, .. } if reason == "all was sent"),
        "{error}"
    );
    drop((attachment, client));
    let (delivered, returned, wakes, sleeps) = daemon.join().expect("no panic");
    assert_eq!((received, chunks), (packets, delivered));
    assert_eq!(delivered, returned);
    assert!(
        wakes > 0 && sleeps > 0,
        "nobody slept: {wakes} wake-ups, {sleeps} sleeps"
    );
    println!(
        "{packets} packets, {delivered} chunks, {wakes} wake-ups, {sleeps} sleeps of the daemon"
    );
}

#[test]
fn a_million_entries_on_one_queue() {
    run(1, 500_000);
}

#[test]
fn four_queues() {
    run(4, 100_000);
}

/// Receives until there is an error; the daemon delivers `entries` once.
fn broken(entry: Completion) -> ClientError {
    let (daemon, path, _folder) = daemon(2, move |mut daemon| {
        assert!(daemon.queues[0].completions.push(&[entry]));
        daemon.queues[0].completions.publish();
        daemon.events[0].wake.notify();
        let _ = daemon.session.recv();
    });
    let (client, mut attachment) = attach(&path);
    let error = attachment
        .recv(Some(Duration::from_secs(5)))
        .map(|batch| batch.len())
        .expect_err("it is broken");
    drop((attachment, client));
    daemon.join().expect("no panic");
    error
}

const fn completion(
    chunk: u32,
    offset: u16,
    length: u16,
    header_length: u16,
    flags: u32,
) -> Completion {
    Completion {
        chunk,
        generation: 1,
        flow: 0,
        offset,
        length,
        header_length,
        vlan: 0,
        rss_hash: 0,
        flags,
        timestamp: 0,
    }
}

#[test]
fn what_cannot_be_is_refused() {
    // Chunk of the other queue, payload past the chunk, header past its slot, no end.
    for entry in [
        completion(CHUNKS / 2, 0, 8, 0, 0),
        completion(u32::MAX, 0, 8, 0, 0),
        completion(0, 2047, 2, 0, 0),
        completion(0, u16::MAX, u16::MAX, 0, 0),
        completion(0, 0, 8, 129, 0),
        completion(0, 0, 8, 0, CompletionFlags::MORE.bits()),
    ] {
        let error = broken(entry);
        assert!(matches!(error, ClientError::Broken { .. }), "{error}");
    }
}

/// A tag that the NIC took out goes back behind the addresses, whether those are in the header slot or in the chunk.
#[test]
fn a_vlan_tag_is_put_back_into_the_frame() {
    let (daemon, path, _folder) = daemon(1, |mut daemon| {
        let entries =
            [(0, 16, 14), (1, 30, 0), (2, 11, 0)].map(|(chunk, length, header)| Completion {
                vlan: 0x6123,
                ..completion(chunk, 0, length, header, CompletionFlags::VLAN.bits())
            });
        for entry in entries {
            assert!(daemon.queues[0].completions.push(&[entry]));
        }
        daemon.queues[0].completions.publish();
        daemon.events[0].wake.notify();
        let _ = daemon.session.recv();
    });
    let (client, mut attachment) = attach(&path);
    let mut frames = Vec::new();
    while frames.len() < 3 {
        let batch = attachment
            .recv(Some(Duration::from_secs(5)))
            .expect("a batch");
        assert!(!batch.is_empty());
        for packet in &batch {
            let mut frame = b"before".to_vec();
            packet.copy_frame_to(&mut frame).expect("readable");
            frames.push(frame.split_off(6));
        }
    }
    let tagged = [&[0; 12][..], &[0x81, 0, 0x61, 0x23], &[0; 18]].concat();
    // A frame that ends within its addresses has no place for a tag.
    assert_eq!(frames, [tagged.clone(), tagged, vec![0; 11]]);
    drop((attachment, client));
    daemon.join().expect("no panic");
}

/// A batch that is forgotten keeps its own chunks, not those of the next.
#[test]
fn a_forgotten_batch_leaves_the_next_alone() {
    let (daemon, path, _folder) = daemon(1, |mut daemon| {
        let mut back = Vec::new();
        for chunk in [0, 1] {
            let rings = &mut daemon.queues[0];
            assert!(rings.completions.push(&[completion(chunk, 0, 8, 0, 0)]));
            if let Some(sleep) = rings.completions.publish().sleeper {
                rings.completions.woken(sleep);
                daemon.events[0].wake.notify();
            }
            // The client says when it is done with each.
            while daemon.queues[0].completions.free() < 64 {
                thread::sleep(Duration::from_millis(1));
            }
        }
        drop(daemon.session.recv());
        let mut entries = [RefillEntry::default(); 4];
        let found = daemon.queues[0].refills.take(&mut entries);
        back.extend(entries[..found].iter().map(|entry| entry.chunk));
        back
    });
    let (client, mut attachment) = attach(&path);
    let batch = attachment
        .recv(Some(Duration::from_secs(5)))
        .expect("a batch");
    let packet = batch.packets().next().expect("a packet");
    let mut kept: Vec<_> = packet.hold().collect();
    assert_eq!(kept.len(), 1);
    std::mem::forget(batch);
    assert_eq!(attachment.held(), 1);
    let batch = attachment
        .recv(Some(Duration::from_secs(5)))
        .expect("a batch");
    let packet = batch.packets().next().expect("a packet");
    assert_eq!(packet.entries()[0].chunk, 1);
    drop(batch);
    assert_eq!(attachment.give_back(kept.drain(..)).expect("ours"), 1);
    assert_eq!(attachment.held(), 0);
    drop((attachment, client));
    assert_eq!(daemon.join().expect("no panic"), [1, 0]);
}

/// Chunks that nobody can give back any more stay in the number of those held.
#[test]
fn what_is_lost_is_counted_as_held() {
    let (daemon, path, _folder) = daemon(2, |mut daemon| {
        for (queue, chunk) in [(0, 0), (1, CHUNKS / 2)] {
            let more = CompletionFlags::MORE.bits();
            let packet = [
                completion(chunk, 0, 8, 0, more),
                completion(chunk + 1, 0, 8, 0, 0),
            ];
            let last = [completion(chunk + 2, 0, 8, 0, 0)];
            let rings = &mut daemon.queues[queue].completions;
            assert!(rings.push(&packet) && rings.push(&last));
            rings.publish();
            daemon.events[queue].wake.notify();
        }
        drop(daemon.session.recv());
        let mut back = [RefillEntry::default(); 8];
        let mut take = |queue: usize| daemon.queues[queue].refills.take(&mut back);
        (take(0), take(1))
    });
    let (client, mut attachment) = attach(&path);
    assert_eq!(attachment.held(), 0);
    // Of two queues, in turn: one chunk is dropped, one is not even taken from the iterator.
    for held in [2, 4] {
        let batch = attachment
            .recv(Some(Duration::from_secs(5)))
            .expect("a batch");
        assert_eq!(batch.entries().len(), 3);
        let packet = batch.packets().next().expect("a packet");
        drop(packet.hold().next().expect("a chunk"));
        drop(batch);
        assert_eq!(attachment.held(), held);
    }
    drop((attachment, client));
    assert_eq!(daemon.join().expect("no panic"), (1, 1));
}

/// What another driver is to import reaches the client as what it is, beside the memory that a CPU maps.
#[test]
fn an_exported_region_comes_with_its_dmabuf() {
    let inode = |fd: BorrowedFd<'_>| {
        let file = std::fs::File::from(fd.try_clone_to_owned().expect("fd"));
        file.metadata().expect("a file").ino()
    };
    // Nothing here looks into it: any file stands for a dma-buf.
    let (dmabuf, _) = Shm::create_client_written("dmabuf", 4096).expect("memfd");
    let expected = inode(dmabuf.as_fd());
    let passed = Passed {
        export: Some(dmabuf),
        ..Passed::default()
    };
    let (daemon, path, _folder) = daemon_passing(passed, 2, |daemon| drop(daemon.session.recv()));
    let (client, attachment) = attach(&path);
    assert_eq!(attachment.export_fd().map(inode), Some(expected));
    let region = attachment.region_fd().map(inode);
    assert!(region.is_some_and(|region| region != expected));
    assert!(attachment.memory().region().is_some());
    drop((attachment, client));
    daemon.join().expect("no panic");

    let passed = Passed::default();
    let (daemon, path, _folder) = daemon_passing(passed, 1, |daemon| drop(daemon.session.recv()));
    let (client, attachment) = attach(&path);
    assert!(attachment.export_fd().is_none() && attachment.region_fd().is_some());
    drop((attachment, client));
    daemon.join().expect("no panic");
}

/// A child of fork has the connection, too; here a copy of the descriptor stands for it.
#[test]
fn closing_ends_the_consumption_while_another_has_the_connection() {
    let (daemon, path, _folder) = daemon(1, |daemon| {
        let within = std::thread::spawn(move || daemon.session.recv().expect("no error").is_none());
        let end = Instant::now() + Duration::from_secs(20);
        while !within.is_finished() && Instant::now() < end {
            thread::sleep(Duration::from_millis(1));
        }
        within.is_finished() && within.join().expect("no panic")
    });
    let (client, attachment) = attach(&path);
    let session = attachment.wake_fds().last().expect("the connection");
    let child = session.try_clone_to_owned().expect("a descriptor");
    drop((attachment, client));
    assert!(
        daemon.join().expect("no panic"),
        "the daemon was told nothing"
    );
    drop(child);
}

/// A queue that has nothing left is told, whatever the other has.
#[test]
fn a_queue_whose_chunks_are_all_held_is_told() {
    let (daemon, path, _folder) = daemon(2, |mut daemon| {
        let rings = &mut daemon.queues[1];
        for chunk in CHUNKS / 2..CHUNKS {
            assert!(rings.completions.push(&[completion(chunk, 0, 8, 4, 0)]));
        }
        rings.completions.publish();
        daemon.events[1].wake.notify();
        drop(daemon.session.recv());
    });
    let (client, mut attachment) = attach(&path);
    let mut held = Vec::new();
    while held.len() < (CHUNKS / 2) as usize {
        assert_eq!(attachment.full_queue(), None);
        let batch = attachment
            .recv(Some(Duration::from_secs(5)))
            .expect("packets");
        held.extend(batch.packets().flat_map(|packet| packet.hold()));
    }
    let full = attachment.full_queue().expect("all held");
    assert_eq!((full.queue, full.chunks), (1, CHUNKS / 2));
    attachment.give_back(held.pop()).expect("its own");
    assert_eq!(attachment.full_queue(), None);
    drop((attachment, client, held));
    daemon.join().expect("no panic");
}

/// A region that the kernel does not map costs the reading of payload, and nothing else.
#[test]
fn a_region_that_cannot_be_mapped_is_still_received_into() {
    let unmappable = nix::sys::eventfd::EventFd::new().expect("an eventfd");
    let passed = Passed {
        region: Some(unmappable.into()),
        ..Passed::default()
    };
    let (daemon, path, _folder) = daemon_passing(passed, 1, |mut daemon| {
        let slot = daemon.layout.header_slot(5).expect("exists");
        assert!(daemon.memory.copy_in(slot, b"head"));
        let rings = &mut daemon.queues[0];
        assert!(rings.completions.push(&[completion(5, 3, 8, 4, 0)]));
        rings.completions.publish();
        daemon.events[0].wake.notify();
        drop(daemon.session.recv());
        let mut back = [RefillEntry::default(); 4];
        daemon.queues[0].refills.take(&mut back)
    });
    let (client, mut attachment) = attach(&path);
    assert!(attachment.memory().region().is_none() && attachment.region_fd().is_some());
    let [warning] = attachment.warnings() else {
        panic!("{:?}", attachment.warnings())
    };
    assert!(warning.contains("mmap: No such device"), "{warning}");
    let batch = attachment
        .recv(Some(Duration::from_secs(5)))
        .expect("a batch");
    let packet = batch.packets().next().expect("a packet");
    assert_eq!(packet.header()[..], *b"head");
    let segment = packet.segments().next().expect("one");
    assert_eq!(segment.offset, u64::from(5 * CHUNK + 3));
    let mut out = Vec::new();
    let error = packet.copy_payload_to(&mut out).expect_err("not readable");
    assert!(out.is_empty());
    let ClientError::NotReadable { memory, reason } = &error else {
        panic!("{error}")
    };
    assert_eq!(memory, "memfd");
    assert!(reason.starts_with("mmap: No such device"), "{reason}");
    assert!(error.to_string().contains("use the chunk offsets"));
    drop(batch);
    drop((attachment, client));
    assert_eq!(daemon.join().expect("no panic"), 1);
}

#[test]
fn a_daemon_that_is_gone_is_an_error() {
    let (daemon, path, _folder) = daemon(1, drop);
    let (_client, mut attachment) = attach(&path);
    daemon.join().expect("no panic");
    assert!(matches!(
        attachment.recv(None).map(|batch| batch.len()),
        Err(ClientError::Ended { .. })
    ));
    assert!(matches!(
        attachment.recv(None).map(|batch| batch.len()),
        Err(ClientError::Ended { .. })
    ));
}

#[test]
fn a_timeout_is_an_empty_batch() {
    let (daemon, path, _folder) = daemon(1, |daemon| drop(daemon.session.recv()));
    let (client, mut attachment) = attach(&path);
    let start = Instant::now();
    assert!(
        attachment
            .recv(Some(Duration::from_millis(20)))
            .expect("no error")
            .is_empty()
    );
    assert!(start.elapsed() >= Duration::from_millis(20));
    assert!(attachment.poll().expect("no error").is_empty());
    drop((attachment, client));
    daemon.join().expect("no panic");
}

#[test]
fn a_refusal_has_the_daemons_words() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("devrx.sock");
    let listener = Listener::bind(&path, 0o600).expect("a socket");
    let daemon = thread::spawn(move || {
        let stream = listener.accept().expect("a connection");
        greet(&stream);
        let (sequence, _) = request(&stream);
        let failure = Failure {
            code: FailureCode::NotFound,
            message: "there is no attachment camera".into(),
        };
        stream
            .send(
                &Reply::Failure(failure).encode(sequence).expect("short"),
                &[],
            )
            .expect("sent");
    });
    let mut client = Client::connect(&path).expect("a daemon");
    let error = client.detach("camera").expect_err("refused");
    assert_eq!(error.to_string(), "there is no attachment camera");
    daemon.join().expect("no panic");
}
