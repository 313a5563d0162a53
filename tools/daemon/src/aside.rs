//! Closing what a client handed over. close(2) can wait: for the peer of a socket that lingers, for the program behind a FUSE file. So
//! control closes nothing of a client's choice itself.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::{Arc, Weak};

use nix::fcntl::{FcntlArg, fcntl};

/// How many lots of descriptors of one session may be being closed at a time.
const MOST: usize = 8;

/// What a session has given to be closed. It is over when the last one is closed.
#[derive(Debug, Default)]
pub struct Aside(Arc<()>);

impl Aside {
    /// Drops something that owns descriptors of a client's choice, on a thread of its own.
    pub fn close<T: Send + 'static>(&self, what: T) {
        if devrx_sabotage::removed("close-aside") {
            return drop(what);
        }
        let token = self.0.clone();
        let close = move || {
            drop(what);
            drop(token);
        };
        let name = "devrx-close".to_owned();
        if let Err(error) = std::thread::Builder::new().name(name).spawn(close) {
            tracing::error!(%error, "no thread to close a client's descriptors; control closed them");
        }
    }

    /// Whether so much is not closed yet that a session must not add to it. One thread each: a few are what a machine under load takes
    /// to close ordinary descriptors, many are a client that means to.
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

/// Whether a descriptor is a memfd or a dma-buf, closing which waits for nobody. The question waits for nobody either: only memory
/// files have seals, and only a dma-buf's fdinfo has an exporter.
#[must_use]
pub fn is_memory(fd: BorrowedFd<'_>) -> bool {
    fcntl(fd.as_fd(), FcntlArg::F_GET_SEALS).is_ok()
        || std::fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd()))
            .is_ok_and(|text| text.lines().any(|line| line.starts_with("exp_name:")))
}

/// Whether all of them are memory: then they can be dropped anywhere.
#[must_use]
pub fn are_memory(fds: &[OwnedFd]) -> bool {
    fds.iter().all(|fd| is_memory(fd.as_fd()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_lots_are_no_crowd() {
        let aside = Aside::default();
        let lots: Vec<_> = (0..MOST).map(|_| aside.0.clone()).collect();
        assert!(aside.crowded());
        drop(lots);
        let _few = [aside.0.clone(), aside.0.clone()];
        assert!(aside.busy() && !aside.crowded());
    }
}
