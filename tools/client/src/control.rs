//! Talking to the daemon.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use devrx_proto::message::{
    AttachReply, Empty, FlowAddReply, FlowAddRequest, FlowDelRequest, FlowInfo, FlowListRequest,
    HelloReply, NameRequest, NicInfo, OpenRequest, Reply, Request, StatsRequest, Timestamps,
};
use devrx_proto::stats::Stats;
use devrx_proto::{DEFAULT_SOCKET, SOCKET_ENV};

use crate::attachment::Attachment;
use crate::session::{Session, unexpected};
use crate::{AttachOptions, ClientError};

/// A connection to the daemon, for control. Every [`Attachment`] has a connection of its own and does not need this one.
#[derive(Debug)]
pub struct Client {
    path: PathBuf,
    session: Session,
    daemon: HelloReply,
}

/// Sends a request and takes the one reply that answers it.
macro_rules! call {
    ($session:expr, $request:expr, $reply:ident) => {
        match $session.call(&$request, &[])? {
            (Reply::$reply(reply), _) => Ok(reply),
            (other, _) => Err(unexpected(&other)),
        }
    };
}

impl Client {
    /// Connects to the daemon that listens at `path`.
    ///
    /// # Errors
    /// Nobody listens there, this user may not connect, or it is no devrx daemon of this version.
    pub fn connect(path: impl AsRef<Path>) -> Result<Self, ClientError> {
        let path = path.as_ref().to_owned();
        let (session, daemon) = Session::connect(&path)?;
        Ok(Self {
            path,
            session,
            daemon,
        })
    }

    /// The path of the daemon's socket: `DEVRX_SOCKET`, or `/run/devrx/devrx.sock`.
    #[must_use]
    pub fn default_path() -> PathBuf {
        std::env::var_os(SOCKET_ENV).map_or_else(|| PathBuf::from(DEFAULT_SOCKET), PathBuf::from)
    }

    /// What the daemon said of itself.
    #[must_use]
    pub fn daemon(&self) -> &HelloReply {
        &self.daemon
    }

    /// Makes an attachment and becomes its consumer.
    ///
    /// # Errors
    /// The daemon refuses, or its shared memory cannot be mapped.
    pub fn attach(&mut self, options: &AttachOptions) -> Result<Attachment, ClientError> {
        let (mut session, _) = Session::connect(&self.path)?;
        let (mut reply, fds) = Self::make(&mut session, options, true)?;
        let opened = reply
            .opened
            .take()
            .ok_or_else(|| ClientError::broken("it made an attachment and did not open it"))?;
        let mut attachment = Attachment::new(session, opened, fds)?;
        attachment.add_warnings(reply.warnings);
        Ok(attachment)
    }

    /// Makes an attachment without becoming its consumer. It lives with this connection, or with the daemon: see
    /// [`AttachOptions::lifetime`].
    ///
    /// # Errors
    /// The daemon refuses.
    pub fn create(&mut self, options: &AttachOptions) -> Result<AttachReply, ClientError> {
        Self::make(&mut self.session, options, false).map(|(reply, _)| reply)
    }

    fn make(
        session: &mut Session,
        options: &AttachOptions,
        open: bool,
    ) -> Result<(AttachReply, Vec<std::os::fd::OwnedFd>), ClientError> {
        let mut request = options.request.clone();
        request.open = open;
        request.memory_fd = options.memory.is_some();
        let fds: Vec<_> = options.memory.iter().map(AsFd::as_fd).collect();
        match session.call(&Request::Attach(Box::new(request)), &fds)? {
            (Reply::Attach(mut reply), fds) => {
                if options.request.polls_refill && !reply.polls_refill {
                    reply.warnings.push(
                        "the daemon does not say that it looks at the refill ring by itself, and is perhaps too old for it: chunks that are given back \
                         without a kick, as a GPU does, may lie there until the next packet; use a newer daemon"
                            .to_owned(),
                    );
                }
                if options.request.timestamps == Some(Timestamps::Nic)
                    && reply.timestamps != Timestamps::Nic
                {
                    reply.warnings.push(
                        "the daemon does not say that the NIC's clock tells when packets came, and is perhaps too old for it: they carry the time at which the                          daemon took them from the ring, as their flags say; use a newer daemon"
                            .to_owned(),
                    );
                }
                Ok((*reply, fds))
            }
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Becomes the consumer of an attachment that exists.
    ///
    /// # Errors
    /// There is none of that name, it has a consumer, or this user may not.
    pub fn open(&mut self, name: &str) -> Result<Attachment, ClientError> {
        let (mut session, _) = Session::connect(&self.path)?;
        match session.call(
            &Request::Open(OpenRequest {
                name: name.to_owned(),
            }),
            &[],
        )? {
            (Reply::Open(opened), fds) => Attachment::new(session, *opened, fds),
            (other, _) => Err(unexpected(&other)),
        }
    }

    /// Ends an attachment. Answers the daemon's warnings.
    ///
    /// # Errors
    /// There is none of that name, or this user may not.
    pub fn detach(&mut self, name: &str) -> Result<Vec<String>, ClientError> {
        let request = Request::Detach(NameRequest {
            name: name.to_owned(),
        });
        call!(self.session, request, Detach).map(|done| done.warnings)
    }

    /// Adds a flow rule to an attachment.
    ///
    /// # Errors
    /// The rule is not one, the NIC cannot do it, or there is no such attachment.
    pub fn flow_add(&mut self, name: &str, rule: &str) -> Result<FlowAddReply, ClientError> {
        let request = Request::FlowAdd(FlowAddRequest {
            name: name.to_owned(),
            rule: rule.to_owned(),
        });
        call!(self.session, request, FlowAdd)
    }

    /// Removes a flow rule, by its number.
    ///
    /// # Errors
    /// There is no such attachment or rule.
    pub fn flow_del(&mut self, name: &str, id: u16) -> Result<Vec<String>, ClientError> {
        let request = Request::FlowDel(FlowDelRequest {
            name: name.to_owned(),
            id,
        });
        call!(self.session, request, FlowDel).map(|done| done.warnings)
    }

    /// The flow rules, of one attachment or of all.
    ///
    /// # Errors
    /// There is no such attachment.
    pub fn flow_list(&mut self, name: Option<&str>) -> Result<Vec<FlowInfo>, ClientError> {
        let request = Request::FlowList(FlowListRequest {
            name: name.map(str::to_owned),
        });
        call!(self.session, request, FlowList).map(|list| list.flows)
    }

    /// The numbers, of one attachment (with its NIC and queues) or of everything.
    ///
    /// # Errors
    /// There is no such attachment.
    pub fn stats(&mut self, name: Option<&str>) -> Result<Stats, ClientError> {
        let request = Request::Stats(StatsRequest {
            name: name.map(str::to_owned),
        });
        call!(self.session, request, Stats).map(|stats| *stats)
    }

    /// The NICs the daemon runs.
    ///
    /// # Errors
    /// The daemon is gone.
    pub fn nics(&mut self) -> Result<Vec<NicInfo>, ClientError> {
        call!(self.session, Request::Nics(Empty {}), Nics).map(|list| list.nics)
    }
}
