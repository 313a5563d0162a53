//! The control thread: one epoll over the listening socket, the sessions, the workers' doorbell, the keeper, devices that memory is of, and the end. No packet
//! comes by here, and no client is waited for.

use std::collections::BTreeMap;
use std::os::fd::AsFd;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use devrx_proto::event::Event;
use devrx_proto::message::Reply;
use devrx_proto::socket::{Listener, SocketError, Stream};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::resource::{Resource, getrlimit};

use crate::attachment::SessionId;
use crate::closers::Closers;
use crate::nic::NicSlot;
use crate::registry::Registry;
use crate::session::{Session, Verdict};
use crate::shutdown::Shutdown;

const LISTENER: u64 = 0;
const SHUTDOWN: u64 = 1;
const WORKERS: u64 = 2;
const KEEPER: u64 = 3;
const FAULTS: u64 = 4;
const LENDERS: u64 = 5;
/// Sessions are numbered from here.
const SESSIONS: u64 = 16;

/// How long no connection is accepted when the daemon is out of descriptors or close to it, rather than spinning on one that cannot be.
const BREATHER: Duration = Duration::from_millis(100);

/// Threads that close refused connections: so many users can be slow at a time before it shows.
const CLOSERS: usize = 32;

/// The control thread's own things.
pub struct Control<'a> {
    epoll: Epoll,
    listener: &'a Listener,
    doorbell: Arc<Event>,
    sessions: BTreeMap<SessionId, Session>,
    /// Sessions that are over, with their users, while something of theirs is still being closed: they count.
    closing: Vec<(u32, Weak<()>)>,
    /// Closes connections that are refused, with whatever lies in them.
    refused: Closers,
    /// Nothing is accepted while so many of them are not closed yet.
    most_refused: usize,
    next: u64,
    /// No accepting before this.
    accept_at: Option<Instant>,
    /// A keeper that could not be started is tried again then.
    mend_at: Option<Instant>,
}

impl<'a> Control<'a> {
    /// Watches everything there is to watch.
    ///
    /// # Errors
    ///
    /// What epoll(7) answers.
    pub fn new(
        listener: &'a Listener,
        shutdown: &Shutdown,
        doorbell: Arc<Event>,
        registry: &mut Registry,
    ) -> anyhow::Result<Self> {
        listener.set_nonblocking(true)?;
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        let readable = |token| EpollEvent::new(EpollFlags::EPOLLIN, token);
        epoll.add(listener.as_fd(), readable(LISTENER))?;
        epoll.add(shutdown.as_fd(), readable(SHUTDOWN))?;
        epoll.add(doorbell.as_fd(), readable(WORKERS))?;
        if let Some(keeper) = registry.keeper().watch() {
            epoll.add(keeper, readable(KEEPER))?;
        }
        epoll.add(registry.lenders().as_fd(), readable(LENDERS))?;
        for watcher in registry.nics.iter().filter_map(|slot| slot.faults.as_ref()) {
            epoll.add(watcher.fd(), readable(FAULTS))?;
        }
        Ok(Self {
            epoll,
            listener,
            doorbell,
            sessions: BTreeMap::new(),
            closing: Vec::new(),
            refused: Closers::new(CLOSERS),
            most_refused: descriptors() / 4,
            next: SESSIONS,
            accept_at: None,
            mend_at: None,
        })
    }

    /// Serves until told to end.
    ///
    /// # Errors
    ///
    /// When epoll fails, which it does not.
    pub fn run(&mut self, registry: &mut Registry) -> anyhow::Result<()> {
        let mut events = [EpollEvent::empty(); 64];
        loop {
            let count = match self.epoll.wait(&mut events, self.timeout()) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR) => continue,
                Err(error) => return Err(error.into()),
            };
            for event in &events[..count] {
                match event.data() {
                    SHUTDOWN => {
                        self.hang_up();
                        return Ok(());
                    }
                    LISTENER => self.accept(registry),
                    WORKERS => {
                        self.doorbell.drain();
                        registry.sweep();
                    }
                    LENDERS => registry.sweep(),
                    KEEPER => self.mend(registry),
                    FAULTS => registry.nics.iter_mut().for_each(NicSlot::look_at_faults),
                    id => self.serve(registry, SessionId(id)),
                }
                self.spread_news(registry);
            }
            let now = Instant::now();
            if self.mend_at.is_some_and(|at| now >= at) {
                self.mend(registry);
            }
            if self.accept_at.is_some_and(|at| now >= at) {
                self.accept_at = None;
                self.listen(true);
            }
        }
    }

    fn timeout(&self) -> EpollTimeout {
        let Some(at) = self.mend_at.into_iter().chain(self.accept_at).min() else {
            return EpollTimeout::NONE;
        };
        let left = at.saturating_duration_since(Instant::now()).as_millis() + 1;
        EpollTimeout::try_from(left.min(60_000)).unwrap_or(EpollTimeout::NONE)
    }

    fn listen(&self, on: bool) {
        let flags = if on {
            EpollFlags::EPOLLIN
        } else {
            EpollFlags::empty()
        };
        let mut event = EpollEvent::new(flags, LISTENER);
        if let Err(error) = self.epoll.modify(self.listener.as_fd(), &mut event) {
            tracing::error!(%error, "watching the listening socket");
        }
    }

    fn accept(&mut self, registry: &mut Registry) {
        // Each is a descriptor. Whose the next connection is shows only when it is accepted, so that this keeps everybody waiting.
        if self.refused.left() >= self.most_refused {
            tracing::debug!("too many refused connections are not closed yet");
            return self.breathe();
        }
        let stream = match self.listener.accept() {
            Ok(stream) => stream,
            Err(SocketError::WouldBlock) => return,
            Err(error) => {
                tracing::error!(%error, "no connection can be accepted; trying again in a moment");
                registry.counters.sessions_refused += 1;
                return self.breathe();
            }
        };
        let peer = match Session::peer_of(&stream) {
            Ok(peer) => peer,
            Err(error) => {
                tracing::debug!(%error, "a connection that is not known is refused");
                return self.refuse(registry, u32::MAX, stream);
            }
        };
        self.closing.retain(|(_, open)| open.strong_count() > 0);
        let limits = registry.limits();
        let master = registry.policy().is_master(&peer);
        let uid = peer.uid;
        let of_user = self
            .sessions
            .values()
            .map(|other| other.peer.uid)
            .chain(self.closing.iter().map(|(uid, _)| *uid))
            .filter(|other| *other == uid)
            .count();
        if self.sessions.len() + self.closing.len() >= limits.sessions as usize
            || (!master && of_user >= limits.sessions_per_user as usize)
        {
            // Counted; not logged as a warning, for whoever can connect could fill the log.
            tracing::debug!(uid, of_user, "too many sessions; refusing another");
            return self.refuse(registry, uid, stream);
        }
        let id = SessionId(self.next);
        if let Err(error) = self
            .epoll
            .add(stream.as_fd(), EpollEvent::new(EpollFlags::EPOLLIN, id.0))
        {
            tracing::error!(%error, "a session cannot be watched");
            return self.refuse(registry, uid, stream);
        }
        self.next += 1;
        registry.counters.sessions += 1;
        self.sessions.insert(id, Session::new(id, stream, peer));
    }

    /// Refuses a connection. The client sees its end at once; it is closed when that is possible.
    fn refuse(&self, registry: &mut Registry, uid: u32, stream: Stream) {
        registry.counters.sessions_refused += 1;
        if devrx_sabotage::removed("close-refused") {
            return drop(stream);
        }
        stream.hang_up();
        self.refused.close(uid, stream);
    }

    /// Accepts nothing for a moment.
    fn breathe(&mut self) {
        self.accept_at = Some(Instant::now() + BREATHER);
        self.listen(false);
    }

    fn serve(&mut self, registry: &mut Registry, id: SessionId) {
        let Some(session) = self.sessions.get_mut(&id) else {
            return;
        };
        if session.serve(registry) == Verdict::Close {
            self.close(registry, id);
        }
    }

    /// Closes every connection, waiting for none: the end of the process takes what takes long.
    fn hang_up(&mut self) {
        for session in std::mem::take(&mut self.sessions).into_values() {
            let _ = session.close();
        }
    }

    fn close(&mut self, registry: &mut Registry, id: SessionId) {
        if let Some(session) = self.sessions.remove(&id) {
            // A client may have passed its socket on; the watch must not depend on the last descriptor.
            let _ = self.epoll.delete(session.as_fd());
            self.closing.push((session.peer.uid, session.close()));
            registry.session_ended(id);
        }
    }

    /// Tells consumers what happened to their attachments. Who does not read it is gone, and that may be news again.
    fn spread_news(&mut self, registry: &mut Registry) {
        loop {
            let news = registry.take_news();
            if news.is_empty() {
                return;
            }
            for (id, event) in news {
                let Some(session) = self.sessions.get(&id) else {
                    continue;
                };
                if session.send(registry, 0, &Reply::Event(event), None) == Verdict::Close {
                    self.close(registry, id);
                }
            }
        }
    }

    /// The keeper died, or could not be started a moment ago.
    fn mend(&mut self, registry: &mut Registry) {
        if let Some(dead) = registry.keeper().watch() {
            let _ = self.epoll.delete(dead);
        }
        self.mend_at = registry.keeper().mend().map(|pause| Instant::now() + pause);
        if let Some(keeper) = registry.keeper().watch()
            && let Err(error) = self
                .epoll
                .add(keeper, EpollEvent::new(EpollFlags::EPOLLIN, KEEPER))
        {
            tracing::error!(%error, "the keeper cannot be watched");
        }
    }
}

/// How many descriptors this process may have.
fn descriptors() -> usize {
    let (most, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
    usize::try_from(most).unwrap_or(usize::MAX)
}
