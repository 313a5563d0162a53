//! Descriptors that are slow: to close, or to be asked anything.

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags};
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg, setsockopt, sockopt};
use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use devrx_proto::socket::Stream;

/// A socket whose last close waits: a minute, for a peer that does not read. The peer comes with it; drop it, and nobody waits.
pub fn lingering() -> Result<(OwnedFd, TcpStream)> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let mut one = TcpStream::connect(listener.local_addr()?)?;
    let (peer, _) = listener.accept()?;
    one.set_nonblocking(true)?;
    while one.write(&[0; 1 << 16]).is_ok() {}
    one.set_nonblocking(false)?;
    let linger = nix::libc::linger {
        l_onoff: 1,
        l_linger: 60,
    };
    setsockopt(&one, sockopt::Linger, &linger)?;
    Ok((one.into(), peer))
}

/// Sends more descriptors than the protocol's own sender would.
pub fn send_raw(stream: &Stream, message: &[u8], fds: &[RawFd]) -> Result<()> {
    sendmsg::<()>(
        stream.as_fd().as_raw_fd(),
        &[std::io::IoSlice::new(message)],
        &[ControlMessage::ScmRights(fds)],
        MsgFlags::MSG_NOSIGNAL,
        None,
    )?;
    Ok(())
}

/// An epoll that is held, with the kernel's lock on it, for as long as this lives: something is being added whose poll is not answered, a
/// file of a file system (FUSE) that this serves.
pub struct Held {
    folder: tempfile::TempDir,
    threads: Vec<JoinHandle<()>>,
}

impl Held {
    /// Holds `epoll` from here on. `None` where this kernel has no FUSE.
    pub fn new(epoll: &OwnedFd) -> Result<Option<Self>> {
        let device = File::options().read(true).write(true).open("/dev/fuse");
        let Ok(device) = device else {
            eprintln!("skipped: there is no /dev/fuse");
            return Ok(None);
        };
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("file");
        File::create(&file)?;
        // The whole file system is one file.
        let options = format!(
            "fd={},rootmode=100000,user_id=0,group_id=0",
            device.as_raw_fd()
        );
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        mount(
            Some("devrx-test"),
            &file,
            Some("fuse"),
            flags,
            Some(options.as_str()),
        )
        .context("mounting a FUSE file system")?;
        let mut this = Self {
            folder,
            threads: Vec::new(),
        };
        let (asked, is_asked) = channel();
        this.threads
            .push(std::thread::spawn(move || serve(&device, &asked)));
        let slow = File::open(&file).context("opening the slow file")?;
        let epoll = Epoll(epoll.try_clone()?);
        this.threads.push(std::thread::spawn(move || {
            epoll
                .add(&slow, EpollEvent::new(EpollFlags::EPOLLIN, 0))
                .ok();
        }));
        is_asked
            .recv_timeout(Duration::from_secs(5))
            .context("the slow file is not polled")?;
        Ok(Some(this))
    }

    /// An epoll that nobody holds yet.
    pub fn epoll() -> Result<Epoll> {
        Ok(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        // By force: what is not answered fails.
        let file = self.folder.path().join("file");
        umount2(&file, MntFlags::MNT_FORCE | MntFlags::MNT_DETACH).ok();
        for thread in self.threads.drain(..) {
            thread.join().ok();
        }
    }
}

/// Serves one file that can be opened, and whose polls are never answered; says when there is one. linux/fuse.h.
fn serve(device: &File, asked: &Sender<()>) {
    const OPEN: u32 = 14;
    const INIT: u32 = 26;
    const POLL: u32 = 40;
    let mut request = vec![0; 1 << 17];
    while (&*device).read(&mut request).is_ok() {
        let word = |at: usize| request[at..at + 4].try_into().map_or(0, u32::from_ne_bytes);
        let (error, body): (i32, Vec<u32>) = match word(4) {
            // Version 7.31, and nothing it could do more.
            INIT => (0, [7, 31].into_iter().chain([0; 14]).collect()),
            OPEN => (0, vec![0; 4]),
            POLL => {
                asked.send(()).ok();
                continue;
            }
            _ => (-nix::libc::ENOSYS, Vec::new()),
        };
        let mut answer = Vec::new();
        answer.extend((16 + 4 * body.len() as u32).to_ne_bytes());
        answer.extend(error.to_ne_bytes());
        answer.extend(&request[8..16]);
        answer.extend(body.iter().flat_map(|word| word.to_ne_bytes()));
        (&*device).write_all(&answer).ok();
    }
}
