//! The daemon's side of its keeper.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};
use nix::sys::time::TimeVal;

use devrx_proto::socket::Stream;

use super::wire::{self, Order};

/// How long a keeper may take to read an order before it counts as dead.
const PATIENCE: Duration = Duration::from_secs(2);

/// The least time between two starts, so that a keeper that cannot live does not eat the machine.
const PAUSE: Duration = Duration::from_secs(1);

/// What something is held under.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct HoldId(u64);

/// A running keeper, and what it was told to hold.
#[derive(Debug)]
pub struct Keeper {
    program: Vec<OsString>,
    running: Option<Running>,
    /// Duplicates, to be handed over again when the keeper dies.
    held: BTreeMap<u64, (String, Vec<OwnedFd>)>,
    rules: Vec<(u32, u32)>,
    next: u64,
    started: Instant,
    restarts: u64,
}

#[derive(Debug)]
struct Running {
    child: Child,
    socket: Stream,
}

impl Keeper {
    /// Starts a keeper: this program again, with the argument `keeper`.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start() -> io::Result<Self> {
        Self::start_as(vec!["/proc/self/exe".into(), "keeper".into()])
    }

    /// Starts a keeper from another program.
    ///
    /// # Errors
    ///
    /// When it cannot be started.
    pub fn start_as(program: Vec<OsString>) -> io::Result<Self> {
        let mut keeper = Self {
            program,
            running: None,
            held: BTreeMap::new(),
            rules: Vec::new(),
            next: 0,
            started: Instant::now(),
            restarts: 0,
        };
        keeper.spawn()?;
        Ok(keeper)
    }

    fn spawn(&mut self) -> io::Result<()> {
        self.started = Instant::now();
        let (ours, theirs) = socketpair(
            AddressFamily::Unix,
            SockType::SeqPacket,
            None,
            SockFlag::SOCK_CLOEXEC,
        )?;
        setsockopt(
            &ours,
            sockopt::SendTimeout,
            &TimeVal::new(PATIENCE.as_secs().cast_signed(), 0),
        )?;
        let (program, arguments) = self
            .program
            .split_first()
            .ok_or_else(|| io::Error::other("no program to start as keeper"))?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::from(theirs))
            .stdout(Stdio::null())
            .spawn()
            .map_err(|e| {
                io::Error::new(
                    e.kind(),
                    format!("the keeper process cannot be started: {e}"),
                )
            })?;
        let mut running = Running {
            child,
            socket: Stream::from_fd(ours),
        };
        if let Err(error) = self.introduce(&running.socket) {
            // Nobody would wait for it, and one that was told half of it is none.
            let _ = running.child.kill();
            let _ = running.child.wait();
            return Err(error);
        }
        tracing::debug!(
            pid = running.child.id(),
            held = self.held.len(),
            "keeper started"
        );
        self.running = Some(running);
        Ok(())
    }

    /// Tells a new keeper all there is to know.
    fn introduce(&self, socket: &Stream) -> io::Result<()> {
        let daemon = crate::sys::pidfd_open(std::process::id())?;
        wire::send(socket, &Order::Daemon, &[daemon.as_fd()])?;
        for (id, (what, fds)) in &self.held {
            if devrx_sabotage::removed("keeper-handover") {
                break;
            }
            let fds: Vec<BorrowedFd<'_>> = fds.iter().map(AsFd::as_fd).collect();
            wire::send(
                socket,
                &Order::Hold {
                    id: *id,
                    what: what.clone(),
                },
                &fds,
            )?;
        }
        if !self.rules.is_empty() {
            wire::send(
                socket,
                &Order::Rules {
                    rules: self.rules.clone(),
                },
                &[],
            )?;
        }
        Ok(())
    }

    /// What becomes readable when the keeper has died. `None` when none runs.
    #[must_use]
    pub fn watch(&self) -> Option<BorrowedFd<'_>> {
        self.running.as_ref().map(|running| running.socket.as_fd())
    }

    /// The keeper's process.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.child.id())
    }

    /// How often a keeper had to be started again.
    #[must_use]
    pub fn restarts(&self) -> u64 {
        self.restarts
    }

    /// To be called when [`watch`](Self::watch) is readable (a keeper never speaks: it is dead), and from time to time while there
    /// is none. Starts another one and hands everything over again. Returns how long to wait before calling again, if it must be.
    pub fn mend(&mut self) -> Option<Duration> {
        if let Some(mut dead) = self.running.take() {
            let _ = dead.child.kill();
            let status = dead.child.wait();
            tracing::error!(?status, "the keeper process died; starting another");
        }
        if let Some(early) = PAUSE.checked_sub(self.started.elapsed()) {
            return Some(early);
        }
        self.restarts += 1;
        match self.spawn() {
            Ok(()) => None,
            Err(error) => {
                tracing::error!(%error, "no keeper: should the daemon be killed now, memory may be freed while a NIC writes it");
                Some(PAUSE)
            }
        }
    }

    /// Has the keeper hold duplicates of `fds` from now on. When this returns, they outlive the daemon.
    ///
    /// # Errors
    ///
    /// When no duplicate can be made, or no keeper can be reached.
    pub fn hold(&mut self, what: &str, fds: &[BorrowedFd<'_>]) -> io::Result<HoldId> {
        if fds.len() > wire::MAX_FDS {
            return Err(io::Error::other(format!(
                "{what} has {} descriptors; a keeper takes {}",
                fds.len(),
                wire::MAX_FDS
            )));
        }
        let id = self.next;
        self.next += 1;
        let duplicates = fds
            .iter()
            .map(BorrowedFd::try_clone_to_owned)
            .collect::<io::Result<Vec<_>>>()?;
        self.held.insert(id, (what.to_owned(), duplicates));
        let order = Order::Hold {
            id,
            what: what.to_owned(),
        };
        if let Err(error) = self.tell(&order, fds) {
            self.held.remove(&id);
            return Err(io::Error::new(
                error.kind(),
                format!("the keeper does not take {what}: {error}"),
            ));
        }
        Ok(HoldId(id))
    }

    /// Lets go. To be called when no NIC can write the memory any more and the daemon has let go itself.
    pub fn release(&mut self, id: HoldId) {
        self.held.remove(&id.0);
        // A keeper that cannot be told is dead and gets a new list anyway.
        let _ = self.tell(&Order::Drop { id: id.0 }, &[]);
    }

    /// Tells which rules outlive the daemon now.
    pub fn rules(&mut self, rules: Vec<(u32, u32)>) {
        if rules != self.rules {
            self.rules = rules;
            let _ = self.tell(
                &Order::Rules {
                    rules: self.rules.clone(),
                },
                &[],
            );
        }
    }

    fn tell(&mut self, order: &Order, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let running = self.running.as_mut().ok_or_else(|| {
            io::Error::other("the keeper process is not running; try again in a second")
        })?;
        let told = wire::send(&running.socket, order, fds);
        if let Err(error) = &told
            && error.kind() == io::ErrorKind::TimedOut
        {
            // It would go on with a list that is no longer right, and cost as long again with every order. Its death shows in `watch`.
            tracing::error!("the keeper process does not read its orders; ending it");
            let _ = running.child.kill();
        }
        told
    }

    /// Ends the keeper in order. Everything must have been released.
    pub fn farewell(mut self) {
        let _ = self.tell(&Order::Farewell, &[]);
        let Some(mut running) = self.running.take() else {
            return;
        };
        drop(running.socket);
        let patience = Instant::now() + PATIENCE;
        while Instant::now() < patience {
            if !matches!(running.child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        // Nor is it waited for any longer: it may be closing what a client has closed slowly. It has let go of everything else.
        tracing::warn!("the keeper does not end; killing it");
        let _ = running.child.kill();
    }
}
