//! What the other side can do to us: impossible indices, unsealed memory, messages of random bytes.

use std::os::fd::{AsFd, OwnedFd};

use devrx_proto::completion::Completion;
use devrx_proto::endpoints::{Endpoints, QueueEndpoints};
use devrx_proto::event::Event;
use devrx_proto::layout::{Layout, LayoutParams, MAX_QUEUES};
use devrx_proto::message::{
    Failure, FailureCode, Header, MessageError, Opened, OpenedQueue, RegionInfo, Reply, Request,
};
use devrx_proto::refill::RefillEntry;
use devrx_proto::ring::{ClientQueue, DaemonQueue, Entry, Start, Word};
use devrx_proto::shm::{Access, Shm, ShmError};
use devrx_proto::socket::{MAX_MESSAGE, SocketError, Stream};
use proptest::prelude::*;

fn layout() -> Layout {
    Layout::new(&LayoutParams {
        queues: 2,
        completions: 16,
        chunks: 20,
        header_slot: 128,
    })
    .expect("kernel has memfds")
}

struct Both {
    layout: Layout,
    client_memory: std::sync::Arc<Shm>,
    daemon_memory: std::sync::Arc<Shm>,
    daemon: DaemonQueue,
    client: ClientQueue,
}

fn both(start: Start) -> Both {
    let layout = layout();
    let (daemon_fd, daemon) =
        Shm::create_daemon_written("test", layout.daemon_size()).expect("kernel has memfds");
    let (client_fd, client) =
        Shm::create_client_written("test", layout.client_size()).expect("kernel has memfds");
    let ends = DaemonQueue::new(&layout, 1, &daemon, &client, start).expect("kernel has memfds");
    let daemon_view = Shm::map(daemon_fd.as_fd(), layout.daemon_size(), Access::ReadOnly)
        .expect("kernel has memfds");
    let client_view = Shm::map(client_fd.as_fd(), layout.client_size(), Access::ReadWrite)
        .expect("kernel has memfds");
    let client_ends =
        ClientQueue::new(&layout, 1, &daemon_view, &client_view, start).expect("kernel has memfds");
    Both {
        layout,
        client_memory: client_view,
        daemon_memory: daemon,
        daemon: ends,
        client: client_ends,
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 512, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever a client writes to its indices: the daemon never sees more room or more entries than there can be, and what it
    /// cannot believe is counted. Good indices in between keep working.
    #[test]
    fn impossible_indices_are_refused(start in any::<u32>(), words in prop::collection::vec((any::<bool>(), any::<u32>()), 1..40)) {
        let mut both = both(Start { completion: start, refill: start });
        let place = both.layout.queue(1).unwrap();
        let head = both.client_memory.word_to_write(place.completion_consumer).unwrap();
        let tail = both.client_memory.word_to_write(place.refill_producer).unwrap();
        let completions = &mut both.daemon.completions;
        let refills = &mut both.daemon.refills;
        let (mut pushed, mut freed, mut read) = (0_u32, 0_u32, 0_u32);
        for (near, value) in words {
            // Half of the values close to what would be right.
            let offset = |base: u32| if near { base.wrapping_add(value % 64).wrapping_sub(24) } else { value };
            let (written_head, written_tail) = (offset(start.wrapping_add(freed)), offset(start.wrapping_add(read)));
            head.store(written_head);
            tail.store(written_tail);

            let faults = completions.faults();
            let room = completions.free();
            prop_assert!(room <= 16);
            let claim = written_head.wrapping_sub(start);
            if claim.wrapping_sub(freed) <= pushed - freed {
                freed = claim;
                prop_assert_eq!(completions.faults(), faults);
            } else {
                prop_assert_eq!(completions.faults(), faults + 1);
            }
            prop_assert_eq!(room, 16 - (pushed - freed));
            if completions.push(&[Completion::default(); 3]) {
                pushed += 3;
            }
            completions.publish();

            let faults = refills.faults();
            let mut out = [RefillEntry::default(); 64];
            let count = refills.take(&mut out);
            prop_assert!(count <= 32);
            let claim = written_tail.wrapping_sub(start.wrapping_add(read));
            prop_assert_eq!(count as u32, if claim <= 32 { claim } else { 0 });
            prop_assert_eq!(refills.faults() > faults, claim > 32);
            read += count as u32;
        }
    }

    #[test]
    fn random_bytes_are_no_message(bytes in prop::collection::vec(any::<u8>(), 0..200), fds in 0_usize..4) {
        prop_assert!(Request::decode(&bytes, fds).is_err());
        prop_assert!(Reply::decode(&bytes, fds).is_err());
    }

    /// A right header before anything: an error or a message, never a panic.
    #[test]
    fn random_bodies_are_refused(op in any::<u16>(), small in 0_u16..16, reply in any::<bool>(), body in "\\PC{0,80}|\\{\"name\":\"[a-z]*\"\\}", raw in prop::collection::vec(any::<u8>(), 0..40), text in any::<bool>()) {
        let op = if reply { op } else { small | (op & 0x8000) };
        let body = if text { body.into_bytes() } else { raw };
        let mut bytes = Header { op, length: body.len() as u32, fds: 0, sequence: 1 }.encode().to_vec();
        bytes.extend(body);
        let _ = Request::decode(&bytes, 0);
        let _ = Reply::decode(&bytes, 0);
        prop_assert!(Request::decode(&bytes, 1).is_err());
    }
}

fn failure() -> Reply {
    Reply::Failure(Failure {
        code: FailureCode::Busy,
        message: "taken".to_owned(),
    })
}

#[test]
fn wrong_headers_have_their_errors() {
    let good = failure().encode(9).unwrap();
    assert_eq!(Reply::decode(&good, 0).unwrap(), (9, failure()));
    let change = |at: usize, value: u8| {
        let mut bytes = good.clone();
        bytes[at] = value;
        Reply::decode(&bytes, 0).unwrap_err()
    };
    assert!(matches!(change(0, 0), MessageError::Magic { .. }));
    assert!(matches!(change(4, 77), MessageError::Version { found: 77 }));
    assert!(matches!(change(6, 0x33), MessageError::Op { op: 0xff33 }));
    assert!(matches!(
        change(8, 1),
        MessageError::Length { announced: 1, .. }
    ));
    assert!(matches!(
        change(12, 1),
        MessageError::Fds {
            expected: 1,
            actual: 0
        }
    ));
    assert!(matches!(change(20, 0xff), MessageError::Body { .. }));
    assert!(matches!(
        Reply::decode(&good[..15], 0),
        Err(MessageError::Short { len: 15 })
    ));
    assert!(matches!(
        Reply::decode(&good[..30], 0),
        Err(MessageError::Length { .. })
    ));
    assert!(matches!(
        Reply::decode(&vec![0; MAX_MESSAGE + 1], 0),
        Err(MessageError::TooLong { .. })
    ));
    assert!(matches!(
        Reply::decode(&good, 2),
        Err(MessageError::Fds {
            expected: 0,
            actual: 2
        })
    ));
}

/// A header that agrees with what came is not enough: the operation says how many descriptors there are.
#[test]
fn an_operation_takes_its_descriptors_only() {
    let mut bytes = Request::Nics(devrx_proto::message::Empty {})
        .encode(1)
        .unwrap();
    bytes[12] = 3;
    assert!(matches!(
        Request::decode(&bytes, 3),
        Err(MessageError::Fds {
            expected: 0,
            actual: 3
        })
    ));
}

#[test]
fn memory_that_could_shrink_is_refused() {
    let fd = nix::sys::memfd::memfd_create("test", nix::sys::memfd::MFdFlags::MFD_ALLOW_SEALING)
        .unwrap();
    nix::unistd::ftruncate(&fd, 4096).unwrap();
    assert!(matches!(
        Shm::map(fd.as_fd(), 4096, Access::ReadOnly),
        Err(ShmError::Unsealed)
    ));
}

#[test]
fn memory_of_another_size_is_refused() {
    let (fd, _) = Shm::create_client_written("test", 4096).unwrap();
    let error = Shm::map(fd.as_fd(), 8192, Access::ReadOnly).unwrap_err();
    assert!(matches!(
        error,
        ShmError::Size {
            expected: 8192,
            actual: 4096
        }
    ));
}

/// A daemon maps its header slots once more before the seals are set, and only then.
#[test]
fn a_further_mapping_is_made_before_the_seals() {
    let made =
        Shm::create_daemon_written_with("test", 8192, |fd| Shm::map(fd, 8192, Access::ReadWrite));
    let (fd, first, second) = made.unwrap();
    assert!(second.copy_in(4096, b"slot"));
    let mut out = [0; 4];
    assert!(first.copy_out(4096, &mut out));
    assert_eq!(&out, b"slot");
    assert!(Shm::map(fd.as_fd(), 8192, Access::ReadWrite).is_err());
    assert!(nix::unistd::ftruncate(&fd, 0).is_err());
    let seals = nix::fcntl::FcntlArg::F_ADD_SEALS(nix::fcntl::SealFlag::F_SEAL_WRITE);
    assert!(
        nix::fcntl::fcntl(&fd, seals).is_err(),
        "the seals are sealed"
    );
    let failed =
        Shm::create_daemon_written_with("test", 8192, |_| Err::<(), _>(ShmError::ReadOnly));
    assert!(matches!(failed, Err(ShmError::ReadOnly)));
}

/// What is shared is there before it is touched: 512-byte blocks of the file, nothing written yet.
#[test]
fn shared_memory_is_allocated_when_it_is_made() {
    let size = 1 << 20;
    let daemon = Shm::create_daemon_written("test", size).unwrap();
    let client = Shm::create_client_written("test", size).unwrap();
    for (fd, shm) in [daemon, client] {
        let stat = nix::sys::stat::fstat(&fd).unwrap();
        assert!(stat.st_blocks as u64 * 512 >= size, "{}", stat.st_blocks);
        let mut out = vec![1; size as usize];
        assert!(shm.copy_out(0, &mut out) && out.iter().all(|byte| *byte == 0));
    }
}

/// The seals are the kernel's to keep: nobody else writes the daemon's memfd, or resizes either.
#[test]
fn daemon_written_memory_is_read_only_to_others() {
    let (fd, daemon) = Shm::create_daemon_written("test", 4096).unwrap();
    assert!(daemon.copy_in(5, b"dvrx"));
    assert!(Shm::map(fd.as_fd(), 4096, Access::ReadWrite).is_err());
    assert!(nix::unistd::write(&fd, b"x").is_err());
    assert!(nix::unistd::ftruncate(&fd, 0).is_err());
    let view = Shm::map(fd.as_fd(), 4096, Access::ReadOnly).unwrap();
    let mut out = [0; 4];
    assert!(view.copy_out(5, &mut out));
    assert_eq!(&out, b"dvrx");
    assert!(!view.copy_in(0, b"x") && view.word_to_write(0).is_err() && !view.store_u64(0, 1));
    assert!(!view.copy_out(4093, &mut out) && !view.copy_out(u64::MAX, &mut out));
}

#[test]
fn messages_and_descriptors_travel() {
    let (one, two) = Stream::pair().unwrap();
    let (fd, _shm) = Shm::create_client_written("test", 4096).unwrap();
    one.send(b"hello", &[fd.as_fd(), fd.as_fd()]).unwrap();
    let received = two.recv().unwrap().unwrap();
    assert_eq!(
        (received.bytes.as_slice(), received.fds.len()),
        (&b"hello"[..], 2)
    );
    assert!(matches!(
        one.send(&vec![0; MAX_MESSAGE + 1], &[]),
        Err(SocketError::TooLong { .. })
    ));
    one.send(&vec![7; MAX_MESSAGE], &[]).unwrap();
    assert_eq!(two.recv().unwrap().unwrap().bytes.len(), MAX_MESSAGE);
    let peer = two.peer().unwrap();
    assert_eq!(peer.pid, std::process::id() as i32);
    two.set_nonblocking(true).unwrap();
    assert!(matches!(two.recv(), Err(SocketError::WouldBlock)));
    drop(one);
    assert!(two.recv().unwrap().is_none());
}

fn opened(queues: u32, fd: bool, export: bool) -> Opened {
    let queue = |queue| OpenedQueue {
        queue,
        first_chunk: 0,
        chunks: 1,
        completion_start: 0,
        refill_start: 0,
    };
    Opened {
        name: "a".into(),
        nic: "eth0".into(),
        layout: *layout().params(),
        queues: (0..queues).map(queue).collect(),
        region: RegionInfo {
            memory: "udmabuf".into(),
            size: 4096,
            chunk_size: 2048,
            chunks: 2,
            fd,
            export,
            mappable: true,
        },
        split: true,
        zero_copy: false,
        warnings: vec![],
    }
}

/// A descriptor that can be told from all others.
fn marked(name: &str) -> OwnedFd {
    nix::sys::memfd::memfd_create(name, nix::sys::memfd::MFdFlags::MFD_CLOEXEC).expect("a memfd")
}

fn inode(fd: &impl AsFd) -> u64 {
    nix::sys::stat::fstat(fd.as_fd()).expect("a file").st_ino
}

/// Each descriptor is, on the other side, what it was on this one; the region and its dma-buf may each be missing.
#[test]
fn endpoints_arrive_in_their_order() {
    for (fd, export) in [(true, true), (true, false), (false, true), (false, false)] {
        // As many queues as there can be: a message has room for all.
        let queues = MAX_QUEUES as usize;
        let opened = opened(MAX_QUEUES, fd, export);
        let sent = Endpoints {
            daemon_memory: marked("daemon"),
            client_memory: marked("client"),
            queues: (0..queues)
                .map(|_| QueueEndpoints::new().unwrap())
                .collect(),
            region: fd.then(|| marked("region")),
            export: export.then(|| marked("export")),
        };
        let (one, two) = Stream::pair().unwrap();
        let bytes = Reply::Open(Box::new(opened)).encode(1).unwrap();
        one.send(&bytes, &sent.fds()).unwrap();
        let received = two.recv().unwrap().unwrap();
        let (_, Reply::Open(opened)) =
            Reply::decode(&received.bytes, received.fds.len()).expect("as many as it says")
        else {
            panic!("another message")
        };
        let came = opened.endpoints(received.fds).expect("as many as it says");
        assert_eq!(inode(&came.daemon_memory), inode(&sent.daemon_memory));
        assert_eq!(inode(&came.client_memory), inode(&sent.client_memory));
        assert_eq!(
            came.region.as_ref().map(inode),
            sent.region.as_ref().map(inode)
        );
        assert_eq!(
            came.export.as_ref().map(inode),
            sent.export.as_ref().map(inode)
        );
        for (came, sent) in came.queues.iter().zip(&sent.queues) {
            // All eventfds have the same inode: what is written to one is read from the other.
            let rung = |event: &Event| nix::unistd::read(event, &mut [0; 8]).is_ok();
            assert!(!rung(&came.wake) && !rung(&came.kick));
            sent.kick.notify();
            assert!(!rung(&came.wake) && rung(&came.kick));
        }
    }
}

#[test]
fn endpoints_of_another_number_are_refused() {
    for (fd, export) in [(true, true), (true, false), (false, true), (false, false)] {
        let opened = opened(2, fd, export);
        let right = 6 + usize::from(fd) + usize::from(export);
        for count in 0..10 {
            let fds = (0..count).map(|_| marked("fd")).collect();
            assert_eq!(opened.endpoints(fds).is_some(), count == right);
            let fds = (0..count).map(|_| marked("fd")).collect();
            let plain = Endpoints::from_fds(fds, 2, fd);
            assert_eq!(plain.is_some(), count == 6 + usize::from(fd));
            // The message itself is refused too.
            let reply = Reply::Open(Box::new(opened.clone()));
            let bytes = reply.encode(1).unwrap();
            assert_eq!(Reply::decode(&bytes, count).is_ok(), count == right);
        }
    }
}

/// A daemon from before the export says nothing of it.
#[test]
fn a_region_without_a_word_on_its_export_has_none() {
    let told =
        r#"{"memory":"memfd","size":4096,"chunk_size":2048,"chunks":2,"fd":true,"mappable":true}"#;
    let region: RegionInfo = serde_json::from_str(told).unwrap();
    assert!(region.fd && !region.export);
}

/// The descriptors that arrived with a message that lost others are closed, and the message is refused.
#[test]
fn lost_descriptors_are_an_error_and_leak_nothing() {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    use std::os::fd::AsRawFd;
    let (one, two) = Stream::pair().unwrap();
    let (fd, _shm) = Shm::create_client_written("test", 4096).unwrap();
    let many = vec![fd.as_raw_fd(); 200];
    let open = || {
        std::fs::read_dir("/proc/self/fd")
            .unwrap()
            .filter(|entry| {
                let target = std::fs::read_link(entry.as_ref().unwrap().path());
                target.is_ok_and(|target| target.to_string_lossy().contains("memfd:ctrunc"))
            })
            .count()
    };
    let marked =
        nix::sys::memfd::memfd_create("ctrunc", nix::sys::memfd::MFdFlags::empty()).unwrap();
    let many: Vec<_> = many.iter().map(|_| marked.as_raw_fd()).collect();
    let before = open();
    let parts = [std::io::IoSlice::new(b"x")];
    sendmsg::<()>(
        one.as_fd().as_raw_fd(),
        &parts,
        &[ControlMessage::ScmRights(&many)],
        MsgFlags::empty(),
        None,
    )
    .unwrap();
    assert!(matches!(two.recv(), Err(SocketError::FdsLost)));
    assert_eq!(open(), before);
}

/// A layout's blocks do not overlap, begin on lines of their own, and end within the memfds.
#[test]
fn layouts_fit() {
    for (queues, completions, chunks, header_slot) in [
        (1, 16, 1, 64),
        (64, 1 << 20, 1 << 24, 4096),
        (3, 1024, 4097, 256),
    ] {
        let layout = Layout::new(&LayoutParams {
            queues,
            completions,
            chunks,
            header_slot,
        })
        .unwrap();
        let mut daemon_end = 4096;
        let mut client_end = 0;
        for queue in 0..queues {
            let place = layout.queue(queue).unwrap();
            for offset in [
                place.completion_producer,
                place.refill_consumer,
                place.need_kick,
                place.counters,
                place.completions,
            ] {
                assert!(offset >= daemon_end && offset.is_multiple_of(64));
                daemon_end = offset + 4;
            }
            daemon_end = place.completions + u64::from(completions) * 32;
            for offset in [
                place.completion_consumer,
                place.sleeping,
                place.refill_producer,
                place.refills,
            ] {
                assert!(offset >= client_end && offset.is_multiple_of(64));
                client_end = offset + 4;
            }
            client_end = place.refills + u64::from(layout.refill_capacity()) * 8;
        }
        assert!(layout.refill_capacity() >= chunks && client_end <= layout.client_size());
        assert!(layout.headers() >= daemon_end && layout.headers().is_multiple_of(4096));
        let last = layout.header_slot(chunks - 1).unwrap();
        assert!(last + u64::from(header_slot) <= layout.daemon_size());
        assert_eq!(
            (layout.header_slot(chunks), layout.queue(queues)),
            (None, None)
        );
    }
    for (queues, completions, chunks, header_slot) in [
        (0, 16, 1, 64),
        (65, 16, 1, 64),
        (1, 17, 1, 64),
        (1, 8, 1, 64),
        (1, 16, 0, 64),
        (1, 16, u32::MAX, 64),
        (1, 16, 1, 65),
    ] {
        assert!(
            Layout::new(&LayoutParams {
                queues,
                completions,
                chunks,
                header_slot
            })
            .is_err()
        );
    }
}

/// The whole way once: a packet there, its chunks back, both asleep in between.
#[test]
fn a_packet_goes_there_and_its_chunk_back() {
    let Both {
        mut daemon,
        mut client,
        daemon_memory,
        layout,
        ..
    } = both(Start {
        completion: u32::MAX,
        refill: 3,
    });
    assert!(layout.announce(&daemon_memory) && layout.is_announced_in(&daemon_memory));
    assert!(client.completions.arm());
    let packet = [
        Completion {
            chunk: 4,
            flags: 2,
            ..Completion::default()
        },
        Completion {
            chunk: 5,
            ..Completion::default()
        },
    ];
    assert!(daemon.completions.push(&packet));
    let published = daemon.completions.publish();
    assert_eq!((published.entries, published.sleeper), (2, Some(1)));
    daemon.completions.woken(1);
    assert_eq!(daemon.completions.publish().sleeper, None);
    client.completions.disarm();
    let mut out = [Completion::default(); 8];
    assert_eq!(client.completions.take(&mut out), 2);
    assert_eq!(out[..2], packet);
    assert!(daemon.refills.arm());
    assert_eq!(
        client
            .refills
            .push_some(&[RefillEntry::new(4, 1), RefillEntry::new(5, 1)]),
        2
    );
    assert_eq!(client.refills.publish().sleeper, Some(1));
    daemon.refills.disarm();
    let mut back = [RefillEntry::default(); 8];
    assert_eq!(daemon.refills.take(&mut back), 2);
    assert_eq!(back[1], RefillEntry::new(5, 1));
    assert_eq!(
        daemon.start(),
        Start {
            completion: 1,
            refill: 5
        }
    );
}

/// Entries by four and one by one, over the ring's end: they come out in order, with their marks, and no more than there is room for.
#[test]
fn entries_by_four_are_entries() {
    let entry = |nth: u32| Completion {
        chunk: nth,
        generation: nth as u16 ^ 0x5aa5,
        flow: 7,
        length: 9,
        flags: nth,
        timestamp: u64::from(nth) << 40,
        ..Completion::default()
    };
    for begin in [0, 1, 2, 3, u32::MAX, u32::MAX - 2] {
        let Both {
            mut daemon,
            mut client,
            ..
        } = both(Start {
            completion: begin,
            refill: 0,
        });
        let capacity = daemon.completions.capacity();
        let (mut given, mut taken) = (0, 0);
        for round in 0..40 {
            let mut group = daemon.completions.reserve_some(1, capacity).unwrap();
            let (room, before) = (group.room(), given);
            let written = group.extend_by_four(|| {
                let four: [_; 4] = std::array::from_fn(|nth| entry(given + nth as u32));
                given += 4;
                let marks = four.map(|entry| entry.generation);
                let words = four.map(|entry| {
                    Completion {
                        generation: 0,
                        ..entry
                    }
                    .to_words()
                });
                assert!(
                    given - before <= room,
                    "asked for more than there is room for"
                );
                Some((words, marks))
            });
            assert_eq!(written, room / 4 * 4);
            // The rest one by one, or not all of it.
            let rest = (given..).take(round % 5).map(|nth| entry(nth).to_words());
            given += group.extend(rest);
            group.commit();
            daemon.completions.publish();
            let mut out = [Completion::default(); 5];
            let most = 1 + round % 5;
            let count = client.completions.take(&mut out[..most]);
            for got in &out[..count] {
                assert_eq!(*got, entry(taken));
                taken += 1;
            }
        }
        assert!(taken > capacity);
    }
}
