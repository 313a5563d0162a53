//! Messages and their descriptors over a socket: all, in their order, and none is lost silently.

use devrx_proto::endpoints::{Endpoints, QueueEndpoints};
use devrx_proto::event::Event;
use devrx_proto::layout::MAX_QUEUES;
use devrx_proto::message::{AttachReply, Opened, OpenedQueue, RegionInfo, Reply, Timestamps};
use devrx_proto::shm::Shm;
use devrx_proto::socket::{MAX_MESSAGE, SocketError, Stream};
use std::os::fd::{AsFd, OwnedFd};

use common::layout;

mod common;

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
        polls_refill: false,
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

#[test]
fn a_daemon_without_a_word_on_a_wish_does_not_fulfil_it() {
    let reply: AttachReply = serde_json::from_str(r#"{"name":"a","flows":[]}"#).unwrap();
    assert!(!reply.polls_refill);
    assert_eq!(reply.timestamps, Timestamps::Software);
    let mut told = serde_json::to_value(opened(1, true, false)).unwrap();
    told.as_object_mut()
        .unwrap()
        .remove("polls_refill")
        .unwrap();
    let opened: Opened = serde_json::from_value(told).unwrap();
    assert!(!opened.polls_refill);
}
