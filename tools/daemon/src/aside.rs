//! Closing what a client handed over. close(2) can wait: for the peer of a socket that lingers, for the program behind a FUSE file, for
//! who holds an epoll that a descriptor is in. So control closes nothing of a client's choice itself.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use nix::fcntl::{FcntlArg, fcntl};

/// How many descriptors of one session may be being closed at a time, before it adds to them.
const MOST: usize = 64;

/// What a lot of descriptors counts at least: each has a thread.
const LOT: usize = 8;

/// What no thread was to be had for. It stays open, and counts, until there is one: that costs less than control.
static STRANDED: Mutex<Vec<Lot>> = Mutex::new(Vec::new());

type Lot = Box<dyn Send>;
type Job = Box<dyn FnOnce() + Send>;

fn spawn(job: Job) -> io::Result<()> {
    let thread = std::thread::Builder::new().name("devrx-close".to_owned());
    thread.spawn(job).map(drop)
}

/// Drops a lot on a thread of its own, and then those that were stranded before, as long as there are threads.
fn hand_over(stranded: &Mutex<Vec<Lot>>, lot: Lot, spawn: impl Fn(Job) -> io::Result<()>) {
    let locked = |lots: &Mutex<Vec<Lot>>| -> Option<Lot> {
        lots.lock().unwrap_or_else(PoisonError::into_inner).pop()
    };
    let mut next = Some(lot);
    while let Some(lot) = next {
        // Not the closure's own: it is dropped here where no thread takes it.
        let slot = Arc::new(Mutex::new(vec![lot]));
        let theirs = slot.clone();
        if let Err(error) = spawn(Box::new(move || drop(locked(&theirs)))) {
            tracing::error!(%error, "no thread to close a client's descriptors; they stay open for now");
            let mut stranded = stranded.lock().unwrap_or_else(PoisonError::into_inner);
            stranded.extend(locked(&slot));
            return;
        }
        next = locked(stranded);
    }
}

/// What a session has given to be closed. It is over when the last one is closed.
#[derive(Debug, Default)]
pub struct Aside(Arc<()>);

impl Aside {
    /// Drops something of a client's choice, on a thread of its own.
    pub fn close<T: Send + 'static>(&self, what: T) {
        self.close_counting(what, 1);
    }

    /// Closes descriptors of a client's choice, on a thread of their own.
    pub fn close_fds(&self, fds: Vec<OwnedFd>) {
        if !fds.is_empty() {
            let count = fds.len().max(LOT);
            self.close_counting(fds, count);
        }
    }

    fn close_counting<T: Send + 'static>(&self, what: T, count: usize) {
        if devrx_sabotage::removed("close-aside") {
            return drop(what);
        }
        // In this order: it counts until it is closed.
        hand_over(
            &STRANDED,
            Box::new((what, vec![self.0.clone(); count])),
            spawn,
        );
    }

    /// Whether so much is not closed yet that a session must not add to it. A few are what a machine under load takes to close ordinary
    /// descriptors, many are a client that means to.
    #[must_use]
    pub fn crowded(&self) -> bool {
        Arc::strong_count(&self.0) > MOST
    }

    /// Whether something given is not closed yet.
    #[cfg(test)]
    #[must_use]
    pub fn busy(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    /// To be kept for as long as it may matter that something is not closed yet: until it cannot be upgraded.
    #[must_use]
    pub fn watch(&self) -> Weak<()> {
        Arc::downgrade(&self.0)
    }
}

/// Whether a descriptor is a memfd, closing which waits for nobody: it cannot be polled, so it is in nobody's epoll. Only memory files have
/// seals.
#[must_use]
pub fn is_memfd(fd: BorrowedFd<'_>) -> bool {
    fcntl(fd, FcntlArg::F_GET_SEALS).is_ok()
}

/// Whether a descriptor is a dma-buf: only its fdinfo has an exporter.
///
/// The question waits for nobody, which takes care: to read any fdinfo runs code of whatever the file is, and that of an epoll waits
/// for who holds it. The link waits for nobody, and a dma-buf's begins like this (`dmabuffs_dname`, drivers/dma-buf/dma-buf.c).
#[must_use]
pub fn is_dmabuf(fd: BorrowedFd<'_>) -> bool {
    let number = fd.as_raw_fd();
    let link = std::fs::read_link(format!("/proc/self/fd/{number}"));
    let named = link.is_ok_and(|link| link.as_os_str().as_encoded_bytes().starts_with(b"/dmabuf:"));
    (named || devrx_sabotage::removed("fdinfo-link"))
        && std::fs::read_to_string(format!("/proc/self/fdinfo/{number}"))
            .is_ok_and(|text| text.lines().any(|line| line.starts_with("exp_name:")))
}

/// Second descriptors of those whose last close can wait.
///
/// # Errors
///
/// Out of descriptors.
pub fn slow_ones<'a>(fds: impl IntoIterator<Item = BorrowedFd<'a>>) -> io::Result<Vec<OwnedFd>> {
    fds.into_iter()
        .filter(|fd| !is_memfd(*fd))
        .map(|fd| fd.try_clone_to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn what_found_no_thread_is_closed_with_the_next() {
        let stranded = Mutex::default();
        let (first, second) = (Arc::new(()), Arc::new(()));
        let none = |_| Err(io::Error::from_raw_os_error(libc::EAGAIN));
        hand_over(&stranded, Box::new(first.clone()), none);
        assert_eq!(Arc::strong_count(&first), 2, "open, and counted");
        let at_once = |job: Job| {
            job();
            Ok(())
        };
        hand_over(&stranded, Box::new(second.clone()), at_once);
        assert_eq!([&first, &second].map(Arc::strong_count), [1, 1]);
    }

    #[test]
    fn a_few_descriptors_are_no_crowd() {
        let aside = Aside::default();
        let some = vec![aside.0.clone(); MOST];
        assert!(aside.crowded());
        drop(some);
        let _few = vec![aside.0.clone(); LOT];
        assert!(aside.busy() && !aside.crowded());
    }

    #[test]
    fn what_is_no_memory_is_told_from_memory() {
        let memfd = nix::sys::memfd::memfd_create(c"test", nix::sys::memfd::MFdFlags::MFD_CLOEXEC);
        let memfd = memfd.unwrap();
        assert!(is_memfd(memfd.as_fd()) && !is_dmabuf(memfd.as_fd()));
        let null = std::fs::File::open("/dev/null").unwrap();
        assert!(!is_memfd(null.as_fd()) && !is_dmabuf(null.as_fd()));
        assert_eq!(slow_ones([memfd.as_fd(), null.as_fd()]).unwrap().len(), 1);
    }
}
