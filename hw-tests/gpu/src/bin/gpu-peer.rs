//! The second process of the GPU lane: it imports memory that a test exported, or exports memory and is killed.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, bail, ensure};
use devrx_gpu::cuda::Allocation;
use devrx_gpu_tests::{devices, pattern, peer};
use devrx_proto::socket::Stream;

fn main() -> Result<()> {
    let socket = peer::own_end()?;
    match std::env::args().nth(1).as_deref() {
        Some("import") => import(&socket),
        Some("export") => export(&socket),
        _ => bail!("gpu-peer import | export: the tests of the GPU lane start it"),
    }
}

fn message(socket: &Stream) -> Result<(String, Vec<OwnedFd>)> {
    let message = socket.recv()?.context("the test ended")?;
    Ok((String::from_utf8(message.bytes)?, message.fds))
}

/// Gets a size and a descriptor; checks one pattern and leaves another.
fn import(socket: &Stream) -> Result<()> {
    let (size, fds) = message(socket)?;
    let size: usize = size.parse()?;
    let fd = fds.into_iter().next().context("no descriptor came")?;
    let context = devices()?.swap_remove(0).context()?;
    let memory = Allocation::import(&context, fd.as_fd(), size as u64)?;
    let mut bytes = vec![0; size];
    memory.read(0, &mut bytes)?;
    ensure!(bytes == pattern(1, size), "other bytes than the test wrote");
    memory.write(0, &pattern(2, size))?;
    socket.send(b"done", &[])?;
    // Until the test has looked.
    let _ = message(socket);
    Ok(())
}

/// Gets a size; exports memory with a pattern in it, and waits to be killed.
fn export(socket: &Stream) -> Result<()> {
    let size: usize = message(socket)?.0.parse()?;
    let context = devices()?.swap_remove(0).context()?;
    let memory = Allocation::new(&context, size as u64)?;
    memory.write(0, &pattern(3, size))?;
    let fd = memory.export()?;
    socket.send(b"exported", &[fd.as_fd()])?;
    drop(fd);
    let _ = message(socket);
    bail!("nobody killed this process");
}
