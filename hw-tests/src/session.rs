//! A client made of bare messages and bare files: what a hostile one would use. It knows the protocol, not the client library.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;

use anyhow::{Context, Result, bail};
use devrx_proto::layout::{Layout, QueueLayout};
use devrx_proto::message::{Hello, OpenRequest, Opened, Reply, Request};
use devrx_proto::socket::Stream;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::time::TimeVal;

/// How long an answer may take.
const PATIENCE: i64 = 5;

/// A connection that said hello.
#[derive(Debug)]
pub struct Session {
    stream: Stream,
    sequence: u16,
}

/// A bare connection: no hello yet, every answer bounded in time.
pub fn connect(socket: &Path) -> Result<Stream> {
    let stream = Stream::connect(socket).context("connect to the daemon")?;
    setsockopt(
        &stream.as_fd(),
        sockopt::ReceiveTimeout,
        &TimeVal::new(PATIENCE, 0),
    )?;
    Ok(stream)
}

impl Session {
    /// Connects and says hello.
    pub fn start(socket: &Path) -> Result<Self> {
        let mut session = Self {
            stream: connect(socket)?,
            sequence: 0,
        };
        match session.ask(
            &Request::Hello(Hello {
                client: "hostile 0".into(),
            }),
            &[],
        )? {
            (Reply::Hello(_), _) => Ok(session),
            (other, _) => bail!("hello was answered by {other:?}"),
        }
    }

    /// The connection.
    #[must_use]
    pub fn stream(&self) -> &Stream {
        &self.stream
    }

    /// Sends a request and waits for its answer; events in between are dropped.
    pub fn ask(
        &mut self,
        request: &Request,
        fds: &[BorrowedFd<'_>],
    ) -> Result<(Reply, Vec<OwnedFd>)> {
        self.sequence = self.sequence.wrapping_add(1);
        self.stream.send(&request.encode(self.sequence)?, fds)?;
        loop {
            let received = self
                .stream
                .recv()?
                .with_context(|| format!("the daemon hung up on {request:?}"))?;
            match Reply::decode(&received.bytes, received.fds.len())? {
                (_, Reply::Event(_)) => {}
                (sequence, reply) if sequence == self.sequence => return Ok((reply, received.fds)),
                (sequence, reply) => {
                    bail!("answer {sequence} to request {}: {reply:?}", self.sequence)
                }
            }
        }
    }

    /// Sends a request that must be refused; the reason.
    pub fn refused(&mut self, request: &Request, fds: &[BorrowedFd<'_>]) -> Result<String> {
        match self.ask(request, fds)?.0 {
            Reply::Failure(failure) => Ok(failure.message),
            other => bail!("{request:?} was accepted: {other:?}"),
        }
    }

    /// Becomes the consumer of an attachment.
    pub fn open(&mut self, name: &str) -> Result<Consumer> {
        match self.ask(&Request::Open(OpenRequest { name: name.into() }), &[])? {
            (Reply::Open(opened), fds) => Consumer::new(*opened, fds),
            (other, _) => bail!("open was answered by {other:?}"),
        }
    }
}

/// The consumer's side of an attachment, as files.
#[derive(Debug)]
pub struct Consumer {
    /// What the daemon said of it.
    pub opened: Opened,
    /// Where things lie.
    pub layout: Layout,
    /// The daemon-written memfd.
    pub daemon_memory: File,
    /// The client-written memfd.
    pub client_memory: File,
    /// The region, if it was passed.
    pub region: Option<File>,
    /// The eventfds.
    pub queues: Vec<devrx_proto::endpoints::QueueEndpoints>,
}

/// One completion, as far as returning its chunk needs it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delivered {
    /// The chunk.
    pub chunk: u32,
    /// The generation it was delivered under.
    pub generation: u16,
}

impl Consumer {
    fn new(opened: Opened, fds: Vec<OwnedFd>) -> Result<Self> {
        let ends = opened
            .endpoints(fds)
            .context("wrong number of descriptors")?;
        Ok(Self {
            layout: Layout::new(&opened.layout)?,
            daemon_memory: ends.daemon_memory.into(),
            client_memory: ends.client_memory.into(),
            region: ends.region.map(File::from),
            queues: ends.queues,
            opened,
        })
    }

    /// Where the blocks of its first queue lie.
    pub fn queue(&self) -> Result<QueueLayout> {
        self.layout.queue(0).context("no queue")
    }

    /// How many completions there were since it was opened.
    pub fn produced(&self) -> Result<u32> {
        let producer = word(&self.daemon_memory, self.queue()?.completion_producer)?;
        Ok(producer.wrapping_sub(self.opened.queues[0].completion_start))
    }

    /// The completion at `index`, counted from the first since it was opened.
    pub fn completion(&self, index: u32) -> Result<Delivered> {
        let slot = self.opened.queues[0].completion_start.wrapping_add(index)
            & (self.opened.layout.completions - 1);
        let mut bytes = [0; 6];
        self.daemon_memory
            .read_exact_at(&mut bytes, self.queue()?.completions + u64::from(slot) * 32)?;
        let [a, b, c, d, e, f] = bytes;
        Ok(Delivered {
            chunk: u32::from_le_bytes([a, b, c, d]),
            generation: u16::from_le_bytes([e, f]),
        })
    }

    /// Puts entries into the refill ring at `index` (counted from its start), publishes them and kicks the daemon.
    pub fn give_back(&self, index: u32, entries: &[Delivered]) -> Result<()> {
        let queue = self.queue()?;
        let start = self.opened.queues[0].refill_start.wrapping_add(index);
        for (position, entry) in (0..).zip(entries) {
            let slot = start.wrapping_add(position) & (self.layout.refill_capacity() - 1);
            let mut bytes = [0; 8];
            bytes[..4].copy_from_slice(&entry.chunk.to_le_bytes());
            bytes[4..6].copy_from_slice(&entry.generation.to_le_bytes());
            self.client_memory
                .write_all_at(&bytes, queue.refills + u64::from(slot) * 8)?;
        }
        let end = start.wrapping_add(u32::try_from(entries.len())?);
        self.client_memory
            .write_all_at(&end.to_le_bytes(), queue.refill_producer)?;
        self.kick()
    }

    /// Says that the first `count` completions since it was opened are read.
    pub fn consumed(&self, count: u32) -> Result<()> {
        let index = self.opened.queues[0].completion_start.wrapping_add(count);
        Ok(self
            .client_memory
            .write_all_at(&index.to_le_bytes(), self.queue()?.completion_consumer)?)
    }

    /// Wakes the daemon.
    pub fn kick(&self) -> Result<()> {
        let kick = self.queues[0].kick.as_fd().try_clone_to_owned()?;
        nix::unistd::write(&kick, &1_u64.to_ne_bytes())?;
        Ok(())
    }
}

fn word(file: &File, offset: u64) -> Result<u32> {
    let mut bytes = [0; 4];
    file.read_exact_at(&mut bytes, offset)?;
    Ok(u32::from_le_bytes(bytes))
}
