//! A client that can be killed: a process that attaches, receives and gives back until it ends. The attachment lives as long as it.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, bail};
use devrx_client::{AttachOptions, Client};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::unistd::ftruncate;

use super::Host;
use super::igb::{Kind, Memory, nic, vram};
use crate::command::{Process, wait_for};
use crate::daemon::Daemon;
use crate::qxl::Card;

/// Bytes in a chunk of its region.
const CHUNK: u32 = 2048;
/// The verb that `devrx-guest` knows it by.
pub const VERB: &str = "consume";

/// Memory that such a client makes itself. Nobody but it and the daemon has it: when it is killed, only the daemon keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Own {
    /// A sealed memfd.
    Memfd,
    /// A buffer in the qxl card's video memory. The card's module must be loaded.
    Vram,
}

impl Own {
    /// What the process's arguments call it.
    fn verb(self) -> &'static str {
        match self {
            Self::Memfd => "own-memfd",
            Self::Vram => "own-vram",
        }
    }

    /// How the names of such memory begin in /proc.
    #[must_use]
    pub fn file(self) -> &'static str {
        match self {
            Self::Memfd => "/memfd:clients-own",
            Self::Vram => "/dmabuf:",
        }
    }

    /// As the protocol calls the kind, and a new piece of it.
    fn make(self, size: u64) -> Result<(&'static str, OwnedFd)> {
        Ok(match self {
            Self::Vram => ("dmabuf", Card::open()?.vram(u32::try_from(size)?)?),
            Self::Memfd => {
                let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
                let fd = memfd_create(c"clients-own", flags)?;
                ftruncate(&fd, i64::try_from(size)?)?;
                let seals = SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW;
                fcntl(&fd, FcntlArg::F_ADD_SEALS(seals))?;
                ("memfd", fd)
            }
        })
    }
}

/// Starts one that makes its memory itself; `program` is `devrx-guest`. Its attachment `name` takes everything on queue 0 of `nic`. Waits for that.
pub fn start_owner(
    daemon: &Daemon,
    program: &Path,
    name: &str,
    nic: &str,
    own: Own,
    size: u64,
) -> Result<Process> {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--"])
        .arg(program)
        .arg(VERB)
        .arg(daemon.socket())
        .args([name, nic, own.verb(), &size.to_string()]);
    let mut process = Process::start(&mut command)?;
    attached(daemon, name, &mut process)?;
    Ok(process)
}

fn attached(daemon: &Daemon, name: &str, process: &mut Process) -> Result<()> {
    wait_for("the client has attached", Duration::from_secs(5), || {
        if !process.running()? {
            bail!("the client ended at once: {:?}", process.written());
        }
        Ok(daemon.stats()?.alive(name))
    })?;
    Ok(())
}

/// Starts one, whose attachment is called `name` and takes everything on queue 0, and waits for that. Its region, seen from here, outlives it.
pub fn start(
    host: &Host,
    daemon: &Daemon,
    name: &str,
    kind: Kind,
    size: u64,
) -> Result<(Process, Memory)> {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--", "/bin/devrx-guest", VERB])
        .arg(daemon.socket())
        .args([name, &host.pci(nic(host))?, &kind.name(), &size.to_string()]);
    let buffer = (kind == Kind::Vram).then(|| vram(size)).transpose()?;
    let mut process = match &buffer {
        Some(buffer) => Process::start_with(&mut command, Stdio::from(buffer.try_clone()?))?,
        None => Process::start(&mut command)?,
    };
    attached(daemon, name, &mut process)?;
    let memory = match (kind, buffer) {
        (Kind::Bar, _) => Memory::of_bar(size),
        (_, Some(buffer)) => Memory::of(buffer, size)?,
        (_, None) => Memory::of_process(daemon.pid().as_raw(), name, size)?,
    };
    Ok((process, memory))
}

/// The process: `SOCKET NAME NIC MEMORY SIZE`; MEMORY is what it makes itself, or `dmabuf` with memory to hand over as standard input, or what the daemon makes.
pub fn run(arguments: &[String]) -> Result<()> {
    let [socket, name, nic, memory, size] = arguments else {
        bail!("{VERB}: SOCKET NAME NIC MEMORY SIZE");
    };
    let mut options = AttachOptions::new(name, nic, 0)
        .size(size.parse()?)
        .chunk(CHUNK)
        .flow("any");
    let own = [Own::Memfd, Own::Vram]
        .into_iter()
        .find(|own| own.verb() == memory);
    options = if let Some(own) = own {
        let (kind, fd) = own.make(options.request.size)?;
        options.own_memory(kind, fd)
    } else if memory == "dmabuf" {
        options.own_memory(memory, std::io::stdin().as_fd().try_clone_to_owned()?)
    } else {
        options.memory(memory)
    };
    let mut attachment = Client::connect(Path::new(socket))?.attach(&options)?;
    loop {
        // The chunks go back with the batch.
        drop(attachment.recv(None)?);
    }
}
