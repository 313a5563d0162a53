//! A small daemon in the test's process: real sockets, memfds and eventfds.
#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each test program uses what it needs"
)]

use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use devrx_client::proto::endpoints::{Endpoints, QueueEndpoints};
use devrx_client::proto::layout::{Layout, LayoutParams, State};
use devrx_client::proto::message::{
    AttachReply, Event, HelloReply, Opened, OpenedQueue, RegionInfo, Reply, Request, Timestamps,
};
use devrx_client::proto::ring::{DaemonQueue, Start};
use devrx_client::proto::shm::Shm;
use devrx_client::proto::socket::{Listener, Stream};
use devrx_client::{AttachOptions, Attachment, Client};

pub mod wire;

pub const CHUNK: u32 = 2048;
pub const CHUNKS: u32 = 64;
pub const SLOT: u32 = 128;

/// The daemon's side of one attachment.
pub struct Daemon {
    pub session: Stream,
    pub layout: Layout,
    pub memory: Arc<Shm>,
    pub region: Arc<Shm>,
    pub queues: Vec<DaemonQueue>,
    pub events: Vec<QueueEndpoints>,
}

/// The region's descriptors, as this daemon passes them, in place of those it has; and what it says.
#[derive(Default)]
pub struct Passed {
    pub region: Option<OwnedFd>,
    pub export: Option<OwnedFd>,
    /// Whether it says that it looks at the refill rings by itself.
    pub polls_refill: bool,
    /// Whose time it says that packets carry.
    pub timestamps: Timestamps,
    /// Whether it says that nothing is split off.
    pub unsplit: bool,
}

/// Serves one control connection and one attachment, then does `run` with it.
pub fn daemon<T: Send + 'static>(
    queues: u32,
    run: impl FnOnce(Daemon) -> T + Send + 'static,
) -> (JoinHandle<T>, PathBuf, tempfile::TempDir) {
    daemon_passing(Passed::default(), queues, run)
}

pub fn daemon_passing<T: Send + 'static>(
    passed: Passed,
    queues: u32,
    run: impl FnOnce(Daemon) -> T + Send + 'static,
) -> (JoinHandle<T>, PathBuf, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder for the socket");
    let path = folder.path().join("devrx.sock");
    let listener = Listener::bind(&path, 0o600).expect("a socket");
    let thread = thread::spawn(move || {
        let control = listener.accept().expect("the control connection");
        greet(&control);
        let session = listener.accept().expect("the attachment's connection");
        greet(&session);
        let result = run(open(session, queues, passed));
        drop(control);
        result
    });
    (thread, path, folder)
}

pub fn request(stream: &Stream) -> (u16, Request) {
    let received = stream.recv().expect("a message").expect("not the end");
    Request::decode(&received.bytes, received.fds.len()).expect("a request")
}

pub fn greet(stream: &Stream) {
    let (sequence, Request::Hello(_)) = request(stream) else {
        panic!("no hello")
    };
    let hello = Reply::Hello(HelloReply {
        daemon: "test".into(),
        pid: 1,
        features: vec![],
    });
    stream
        .send(&hello.encode(sequence).expect("short"), &[])
        .expect("sent");
}

pub fn open(session: Stream, count: u32, passed: Passed) -> Daemon {
    let (sequence, name, nic, opens) = match request(&session) {
        (sequence, Request::Attach(request)) => {
            assert!(request.open);
            (sequence, request.name, request.nic, false)
        }
        (sequence, Request::Open(request)) => (sequence, request.name, "eth0".into(), true),
        _ => panic!("neither attach nor open"),
    };
    let params = LayoutParams {
        queues: count,
        completions: 64,
        chunks: CHUNKS,
        header_slot: SLOT,
    };
    let layout = Layout::new(&params).expect("a layout");
    let (daemon_memory, memory) =
        Shm::create_daemon_written("daemon", layout.daemon_size()).expect("memfd");
    let (client_memory, client) =
        Shm::create_client_written("client", layout.client_size()).expect("memfd");
    let size = u64::from(CHUNK * CHUNKS);
    let (region_fd, region) = Shm::create_daemon_written("region", size).expect("memfd");
    assert!(layout.announce(&memory));
    let start = Start {
        completion: u32::MAX - 100,
        refill: u32::MAX - 7,
    };
    let queues = (0..count)
        .map(|queue| DaemonQueue::new(&layout, queue, &memory, &client, start).expect("queue"));
    let queues: Vec<_> = queues.collect();
    let events: Vec<_> = queues
        .iter()
        .map(|_| QueueEndpoints::new().expect("eventfds"))
        .collect();
    let share = CHUNKS / count;
    let opened = Opened {
        name: name.clone(),
        nic,
        layout: params,
        queues: (0..count)
            .map(|queue| OpenedQueue {
                queue,
                first_chunk: queue * share,
                chunks: share,
                completion_start: start.completion,
                refill_start: start.refill,
            })
            .collect(),
        region: RegionInfo {
            memory: "memfd".into(),
            size,
            chunk_size: CHUNK,
            chunks: CHUNKS,
            fd: true,
            export: passed.export.is_some(),
            mappable: true,
        },
        split: !passed.unsplit,
        zero_copy: false,
        polls_refill: passed.polls_refill,
        warnings: vec![],
    };
    let ends = Endpoints {
        daemon_memory,
        client_memory,
        queues: events
            .iter()
            .map(|ends| QueueEndpoints {
                wake: ends.wake.try_clone().expect("fd"),
                kick: ends.kick.try_clone().expect("fd"),
            })
            .collect(),
        region: Some(passed.region.unwrap_or(region_fd)),
        export: passed.export,
    };
    let reply = if opens {
        Reply::Open(Box::new(opened))
    } else {
        Reply::Attach(Box::new(AttachReply {
            name,
            flows: vec![],
            polls_refill: passed.polls_refill,
            timestamps: passed.timestamps,
            warnings: vec![],
            opened: Some(opened),
        }))
    };
    let reply = reply.encode(sequence).expect("short");
    session.send(&reply, &ends.fds()).expect("sent");
    Daemon {
        session,
        layout,
        memory,
        region,
        queues,
        events,
    }
}

impl Daemon {
    /// Ends the attachment, with a reason.
    pub fn end(&self, reason: &str) {
        self.tell_end(reason);
        Layout::set_state(&self.memory, State::Ended);
    }

    /// Says on the connection that the attachment ends, and writes nothing.
    pub fn tell_end(&self, reason: &str) {
        let event = Reply::Event(Event::Ended {
            name: "test".into(),
            reason: reason.into(),
        });
        let _ = self.session.send(&event.encode(0).expect("short"), &[]);
    }
}

pub fn attach(path: &PathBuf) -> (Client, Attachment) {
    let mut client = Client::connect(path).expect("a daemon");
    let options = AttachOptions::new("test", "eth0", 0).flow("any");
    let attachment = client.attach(&options).expect("an attachment");
    (client, attachment)
}
