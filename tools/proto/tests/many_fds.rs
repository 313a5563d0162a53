//! More descriptors than a message may carry. A program of its own, for one test lowers what the whole process may open.

use std::os::fd::{AsFd, AsRawFd, RawFd};

use devrx_proto::socket::{SocketError, Stream};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};

/// Most that Linux lets anybody send at once.
const MOST: usize = 253;

/// How many descriptors of this process lead to the memfd of the test.
fn open() -> usize {
    let entries = std::fs::read_dir("/proc/self/fd").into_iter().flatten();
    let links = entries.filter_map(|entry| std::fs::read_link(entry.ok()?.path()).ok());
    links
        .filter(|link| link.to_string_lossy().contains("memfd:marked"))
        .count()
}

/// What does not arrive is closed by the kernel before recvmsg(2) returns, by whoever receives: so everything arrives for which the process
/// has room, with the error too.
#[test]
fn lost_descriptors_are_an_error_and_leak_nothing() {
    let (one, two) = Stream::pair().unwrap();
    let marked = memfd_create("marked", MFdFlags::MFD_CLOEXEC).unwrap();
    let many: Vec<RawFd> = vec![marked.as_raw_fd(); MOST];
    let send = || {
        sendmsg::<()>(
            one.as_fd().as_raw_fd(),
            &[std::io::IoSlice::new(b"x")],
            &[ControlMessage::ScmRights(&many)],
            MsgFlags::empty(),
            None,
        )
        .unwrap();
    };
    send();
    let received = two.recv().unwrap().unwrap();
    assert_eq!(received.fds.len(), MOST);
    assert_eq!(open(), 1 + MOST);
    drop(received);
    assert_eq!(open(), 1);

    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, 100, hard).unwrap();
    send();
    let error = two.recv().expect_err("there is no room");
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard).unwrap();
    let SocketError::FdsLost { arrived } = error else {
        panic!("{error}");
    };
    assert!(!arrived.is_empty() && arrived.len() < 100, "{arrived:?}");
    assert_eq!(open(), 1 + arrived.len());
    drop(arrived);
    assert_eq!(open(), 1);
}
