//! One connection of a client: requests in, replies out. Nothing it sends is trusted, and nothing it does not read is waited for.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use devrx_proto::endpoints::Endpoints;
use devrx_proto::message::{
    Done, Failure, FailureCode, FlowListReply, Hello, HelloReply, MessageError, NicsReply, Reply,
    Request,
};
use devrx_proto::socket::{Received, SocketError, Stream};

use crate::aside::{self, Aside};
use crate::attachment::SessionId;
use crate::error::Refused;
use crate::policy::Peer;
use crate::registry::Registry;

/// A connection.
#[derive(Debug)]
pub struct Session {
    id: SessionId,
    stream: Stream,
    /// Who is at the other end.
    pub peer: Peer,
    greeted: bool,
    aside: Aside,
}

/// Whether a session goes on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// It does.
    Keep,
    /// It is to be closed.
    Close,
}

impl Session {
    /// Who is at the other end of a connection that was just accepted. From here on it is waited for no more.
    ///
    /// # Errors
    ///
    /// When the kernel does not say who it is.
    pub fn peer_of(stream: &Stream) -> Result<Peer, SocketError> {
        stream.set_nonblocking(!devrx_sabotage::removed("session-nonblocking"))?;
        let who = stream.peer()?;
        let mut groups = vec![who.gid];
        // Before Linux 4.13 the kernel does not say; then only the primary group counts.
        groups.extend(crate::sys::peer_groups(stream.as_fd()).unwrap_or_default());
        Ok(Peer {
            pid: who.pid,
            uid: who.uid,
            groups,
        })
    }

    /// Takes a connection.
    #[must_use]
    pub fn new(id: SessionId, stream: Stream, peer: Peer) -> Self {
        Self {
            id,
            stream,
            peer,
            greeted: false,
            aside: Aside::default(),
        }
    }

    /// Reads one message and answers it. One at a time, so that a session that sends many does not keep others waiting.
    pub fn serve(&mut self, registry: &mut Registry) -> Verdict {
        let Received { bytes, fds } = match self.stream.recv() {
            Ok(Some(received)) => received,
            Ok(None) => return Verdict::Close,
            Err(SocketError::WouldBlock) => return Verdict::Keep,
            Err(mut error) => {
                if let SocketError::FdsLost { arrived } = &mut error {
                    self.aside.close_fds(std::mem::take(arrived));
                }
                registry.counters.malformed_messages += 1;
                // Counted; not logged as a warning, for whoever can connect could fill the log.
                tracing::debug!(session = self.id.0, uid = self.peer.uid, %error, "ending a session");
                return Verdict::Close;
            }
        };
        let decoded = Request::decode(&bytes, fds.len());
        let slow = |fd: &OwnedFd| !aside::is_memfd(fd.as_fd());
        let strange = fds
            .iter()
            .any(|fd| slow(fd) && !aside::is_dmabuf(fd.as_fd()));
        // A few at a time, so that a session cannot have more and more closed.
        let too_many = fds.iter().any(slow) && self.aside.crowded();
        let fds = if decoded.is_err() || strange || too_many {
            self.aside.close_fds(fds);
            Vec::new()
        } else {
            fds
        };
        if too_many {
            registry.counters.malformed_messages += 1;
            return Verdict::Close;
        }
        match decoded {
            Ok((sequence, _)) if strange => {
                registry.counters.requests_refused += 1;
                let message = "the descriptor handed over is neither a memfd nor a dma-buf; make a memfd with memfd_create(2) and MFD_ALLOW_SEALING, or hand over a dma-buf that a device driver exported";
                self.send(
                    registry,
                    sequence,
                    &failure(FailureCode::Invalid, message.into()),
                    None,
                )
            }
            Ok((sequence, request)) => {
                // Whatever becomes of a dma-buf, wherever it is refused, dropping it there is not its last close.
                let kept = match aside::slow_ones(fds.iter().map(AsFd::as_fd)) {
                    Ok(kept) => kept,
                    Err(error) => {
                        registry.counters.requests_refused += 1;
                        self.aside.close_fds(fds);
                        let message = format!(
                            "the daemon has no descriptor left for yours: {error}; try again, or raise its RLIMIT_NOFILE"
                        );
                        let failure = failure(FailureCode::Exhausted, message);
                        return self.send(registry, sequence, &failure, None);
                    }
                };
                let verdict = self.answer(registry, sequence, request, fds);
                self.aside.close_fds(kept);
                verdict
            }
            Err(error) => {
                registry.counters.malformed_messages += 1;
                // With what the client wrote in it, line breaks too.
                let why = error.to_string();
                tracing::debug!(session = self.id.0, uid = self.peer.uid, why = %why.escape_debug(), "a message refused");
                // What cannot be read as a message may be anything; after a wrong body the next message may be right.
                let go_on = matches!(error, MessageError::Op { .. } | MessageError::Body { .. });
                let message = format!("the message is refused: {error}");
                let sequence = bytes
                    .get(14..16)
                    .map_or(0, |s| u16::from_le_bytes([s[0], s[1]]));
                let sent = self.send(
                    registry,
                    sequence,
                    &failure(FailureCode::Protocol, message),
                    None,
                );
                if go_on && sent == Verdict::Keep {
                    Verdict::Keep
                } else {
                    Verdict::Close
                }
            }
        }
    }

    fn answer(
        &mut self,
        registry: &mut Registry,
        sequence: u16,
        request: Request,
        fds: Vec<OwnedFd>,
    ) -> Verdict {
        if !self.greeted && !matches!(request, Request::Hello(_)) {
            registry.counters.malformed_messages += 1;
            let message = "the first message of a session is Hello";
            self.send(
                registry,
                sequence,
                &failure(FailureCode::Protocol, message.into()),
                None,
            );
            return Verdict::Close;
        }
        let (reply, endpoints) = match self.act(registry, request, fds) {
            Ok(answer) => answer,
            Err(refused) => {
                registry.counters.requests_refused += 1;
                // As above.
                let why = refused.message.escape_debug();
                tracing::debug!(session = self.id.0, uid = self.peer.uid, %why, "refused");
                (Reply::Failure(refused.into()), None)
            }
        };
        self.send(registry, sequence, &reply, endpoints.as_ref())
    }

    fn act(
        &mut self,
        registry: &mut Registry,
        request: Request,
        fds: Vec<OwnedFd>,
    ) -> Result<(Reply, Option<Endpoints>), Refused> {
        let peer = &self.peer;
        let reply = match request {
            Request::Hello(Hello { client }) => {
                self.greeted = true;
                tracing::debug!(session = self.id.0, uid = self.peer.uid, pid = self.peer.pid, client = %client.escape_debug(), "hello");
                Reply::Hello(HelloReply {
                    daemon: concat!("devrx ", env!("CARGO_PKG_VERSION")).into(),
                    pid: std::process::id(),
                    features: Vec::new(),
                })
            }
            Request::Attach(request) => {
                let (reply, endpoints) =
                    registry.attach(peer, self.id, &request, fds.into_iter().next())?;
                return Ok((Reply::Attach(Box::new(reply)), endpoints));
            }
            Request::Open(request) => {
                let (opened, endpoints) = registry.open(peer, self.id, &request.name)?;
                return Ok((Reply::Open(Box::new(opened)), Some(endpoints)));
            }
            Request::Close(request) => {
                registry.close(peer, self.id, &request.name)?;
                Reply::Close(Done::default())
            }
            Request::Detach(request) => {
                registry.detach(peer, &request.name)?;
                Reply::Detach(Done::default())
            }
            Request::FlowAdd(request) => {
                Reply::FlowAdd(registry.flow_add(peer, &request.name, &request.rule)?)
            }
            Request::FlowDel(request) => {
                registry.flow_del(peer, &request.name, request.id)?;
                Reply::FlowDel(Done::default())
            }
            Request::FlowList(request) => Reply::FlowList(FlowListReply {
                flows: registry.flow_list(request.name.as_deref())?,
            }),
            Request::Stats(request) => {
                Reply::Stats(Box::new(registry.stats(request.name.as_deref())?))
            }
            Request::Nics(_) => Reply::Nics(NicsReply {
                nics: registry.nic_infos(),
            }),
        };
        Ok((reply, None))
    }

    /// Closes the connection, with what may still lie in it; the client sees its end at once. Upgradable until that is done.
    pub fn close(self) -> std::sync::Weak<()> {
        self.stream.hang_up();
        let watch = self.aside.watch();
        self.aside.close(self.stream);
        watch
    }

    /// Sends, or gives the session up: who does not read loses its connection, not the daemon's time.
    pub fn send(
        &self,
        registry: &mut Registry,
        sequence: u16,
        reply: &Reply,
        endpoints: Option<&Endpoints>,
    ) -> Verdict {
        let bytes = reply.encode(sequence).or_else(|error| {
            let message =
                format!("the answer is too long: {error}; ask for one attachment at a time");
            failure(FailureCode::Exhausted, message).encode(sequence)
        });
        let Ok(bytes) = bytes else {
            return Verdict::Close;
        };
        let fds = endpoints.map(Endpoints::fds).unwrap_or_default();
        match self.stream.send(&bytes, &fds) {
            Ok(()) => Verdict::Keep,
            Err(SocketError::WouldBlock) => {
                registry.counters.stalled_sessions += 1;
                tracing::debug!(
                    session = self.id.0,
                    uid = self.peer.uid,
                    pid = self.peer.pid,
                    "ending a session that does not read its answers"
                );
                Verdict::Close
            }
            Err(_) => Verdict::Close,
        }
    }
}

impl AsFd for Session {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

fn failure(code: FailureCode, message: String) -> Reply {
    Reply::Failure(Failure { code, message })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream};
    use std::time::{Duration, Instant};

    use nix::sys::socket::{setsockopt, sockopt};

    use super::*;
    use crate::config::Config;
    use crate::keeper::Keeper;

    /// A socket whose last close waits: for a peer that does not read. The peer comes with it.
    fn lingering() -> (OwnedFd, TcpStream) {
        use std::io::Write;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut one = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (peer, _) = listener.accept().unwrap();
        one.set_nonblocking(true).unwrap();
        while one.write(&[0; 1 << 16]).is_ok() {}
        one.set_nonblocking(false).unwrap();
        let linger = libc::linger {
            l_onoff: 1,
            l_linger: 10,
        };
        setsockopt(&one, sockopt::Linger, &linger).unwrap();
        (one.into(), peer)
    }

    /// Whoever may connect could otherwise hold up everybody else.
    #[test]
    fn descriptors_that_are_slow_to_close_hold_nobody_up() {
        let keeper = Keeper::start_as(vec!["cat".into()]).unwrap();
        let control = std::sync::Arc::new(devrx_proto::event::Event::new().unwrap());
        let config = Config::parse("").unwrap();
        let mut registry = Registry::new(&config, Vec::new(), keeper, control).unwrap();
        let (ours, theirs) = Stream::pair().unwrap();
        let peer = Session::peer_of(&ours).unwrap();
        let mut session = Session::new(SessionId(16), ours, peer);
        let nics = Request::Nics(Default::default()).encode(1).unwrap();
        let mut peers = Vec::new();
        let mut send = || {
            let (fd, peer) = lingering();
            peers.push(peer);
            theirs.send(&nics, &[fd.as_fd()]).unwrap();
        };
        // One to be refused; then one that lies in the connection unread.
        send();
        let start = Instant::now();
        session.serve(&mut registry);
        assert!(session.aside.busy(), "it is being closed");
        send();
        let watch = session.close();
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "it was waited for"
        );
        assert!(watch.upgrade().is_some(), "the session counts meanwhile");
        drop(peers);
        crate::testing::wait_for("both are closed", || watch.upgrade().is_none());
    }
}
