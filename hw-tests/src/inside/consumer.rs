//! A client that can be killed: a process that attaches, receives and gives back until it ends. The attachment lives as long as it.

use std::os::fd::AsFd;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Result, bail};
use devrx_client::{AttachOptions, Client};

use super::Host;
use super::igb::{Kind, Memory, nic, vram};
use crate::command::{Process, wait_for};
use crate::daemon::Daemon;

/// Bytes in a chunk of its region.
const CHUNK: u32 = 2048;
/// The verb that `devrx-guest` knows it by.
pub const VERB: &str = "consume";

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
    wait_for("the client has attached", Duration::from_secs(5), || {
        if !process.running()? {
            bail!("the client ended at once: {:?}", process.written());
        }
        Ok(daemon.stats()?.alive(name))
    })?;
    let memory = match (kind, buffer) {
        (Kind::Bar, _) => Memory::of_bar(size),
        (_, Some(buffer)) => Memory::of(buffer, size)?,
        (_, None) => Memory::of_process(daemon.pid().as_raw(), name, size)?,
    };
    Ok((process, memory))
}

/// The process: `SOCKET NAME NIC MEMORY SIZE`, with memory to hand over as standard input.
pub fn run(arguments: &[String]) -> Result<()> {
    let [socket, name, nic, memory, size] = arguments else {
        bail!("{VERB}: SOCKET NAME NIC MEMORY SIZE");
    };
    let mut options = AttachOptions::new(name, nic, 0)
        .size(size.parse()?)
        .chunk(CHUNK)
        .flow("any");
    options = if memory == "dmabuf" {
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
