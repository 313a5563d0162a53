//! Both ends of one queue, in one process.
#![allow(
    dead_code,
    clippy::allow_attributes,
    reason = "each test program uses what it needs"
)]

use devrx_proto::layout::{Layout, LayoutParams};
use devrx_proto::ring::{ClientQueue, DaemonQueue, Start};
use devrx_proto::shm::{Access, Shm};
use std::os::fd::AsFd;

pub fn layout() -> Layout {
    Layout::new(&LayoutParams {
        queues: 2,
        completions: 16,
        chunks: 20,
        header_slot: 128,
    })
    .expect("kernel has memfds")
}

pub struct Both {
    pub layout: Layout,
    pub client_memory: std::sync::Arc<Shm>,
    pub daemon_memory: std::sync::Arc<Shm>,
    pub daemon: DaemonQueue,
    pub client: ClientQueue,
}

pub fn both(start: Start) -> Both {
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
