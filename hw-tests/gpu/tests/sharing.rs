//! Memory shared with another process, and with the host. Ignored without a GPU: `cargo xtask test gpu`.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use devrx_gpu::Access;
use devrx_gpu::cuda::{Allocation, Attribute, HostMemory};
use devrx_gpu_tests::peer::Peer;
use devrx_gpu_tests::{devices, pattern};
use devrx_provider::{RegionSpec, memfd};

const SIZE: usize = 4 << 20;

fn peer(role: &str) -> Result<Peer> {
    Peer::start(env!("CARGO_BIN_EXE_gpu-peer"), role)
}

#[test]
#[ignore = "needs an NVIDIA GPU: cargo xtask test gpu"]
fn another_process_imports_what_was_exported() -> Result<()> {
    let context = devices()?.swap_remove(0).context()?;
    let memory = Allocation::new(&context, SIZE as u64)?;
    memory.write(0, &pattern(1, SIZE))?;
    let mut peer = peer("import")?;
    peer.send(&SIZE.to_string(), &[memory.export()?.as_fd()])?;
    ensure!(peer.receive()?.0 == "done");
    let mut bytes = vec![0; SIZE];
    memory.read(0, &mut bytes)?;
    ensure!(
        bytes == pattern(2, SIZE),
        "what the other process wrote is not here"
    );
    println!("{SIZE} bytes of VRAM, written by one process and read by another, both ways");
    Ok(())
}

/// What keeps a region's memory when the daemon is killed is that the keeper has its descriptors.
#[test]
#[ignore = "needs an NVIDIA GPU: cargo xtask test gpu"]
fn memory_outlives_the_process_that_made_it() -> Result<()> {
    let context = devices()?.swap_remove(0).context()?;
    let mut peer = peer("export")?;
    peer.send(&SIZE.to_string(), &[])?;
    let (_, fds) = peer.receive()?;
    peer.kill()?;
    let fd: OwnedFd = fds.into_iter().next().context("no descriptor came")?;
    // Whatever the driver frees, it gives to the next.
    let others: Vec<Allocation> = (0..8)
        .map(|_| {
            let other = Allocation::new(&context, SIZE as u64)?;
            other.fill(0xee)?;
            Ok(other)
        })
        .collect::<Result<_>>()?;
    let memory = Allocation::import(&context, fd.as_fd(), SIZE as u64)?;
    drop(fd);
    let mut bytes = vec![0; SIZE];
    memory.read(0, &mut bytes)?;
    ensure!(bytes == pattern(3, SIZE), "the memory was given to others");
    drop(others);
    println!("{SIZE} bytes of VRAM, whole after the process that made them was killed");
    Ok(())
}

#[test]
#[ignore = "needs an NVIDIA GPU: cargo xtask test gpu"]
fn a_gpu_reads_and_writes_registered_host_memory() -> Result<()> {
    let context = devices()?.swap_remove(0).context()?;
    let spec = RegionSpec {
        size: SIZE as u64,
        chunk_size: 4096,
    };
    // The GPU copies to and from its own memory: a copy between host addresses alone could be the CPU's.
    let vram = Allocation::new(&context, SIZE as u64)?;
    // As the daemon makes it: sealed, so that others can map it for reading alone.
    let sealed = memfd::create("devrx-gpu-test", spec)?;
    let mapping = sealed.mapping().context("it is not mapped")?;
    ensure!(mapping.copy_in(0, &pattern(4, SIZE)));
    let fd = sealed.shareable().context("it cannot be shared")?;
    let refused = HostMemory::register(&context, fd, 0, SIZE as u64, Access::ReadWrite);
    println!(
        "to be written: {}",
        refused
            .err()
            .context("sealed memory was registered to be written")?
    );
    match HostMemory::register(&context, fd, 0, SIZE as u64, Access::Read) {
        Ok(host) => {
            let mut bytes = vec![0; SIZE];
            vram.copy_from(0, &host, 0, SIZE)?;
            vram.read(0, &mut bytes)?;
            ensure!(bytes == pattern(4, SIZE), "the GPU reads other bytes");
            ensure!(mapping.copy_in(0, b"newer"));
            vram.copy_from(0, &host, 0, 5)?;
            vram.read(0, &mut bytes[..5])?;
            ensure!(&bytes[..5] == b"newer", "the GPU reads a copy");
            println!(
                "to be read: at {:#x}, every byte read through the GPU",
                host.device_address()
            );
        }
        Err(error) => {
            println!("to be read: {error}");
            let can = context.device().can(Attribute::ReadOnlyHostRegister)?;
            ensure!(!can, "the driver says that it can (attribute 113)");
        }
    }
    // A client's own memory.
    let file = nix::sys::memfd::memfd_create(c"own", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?;
    nix::unistd::ftruncate(&file, i64::try_from(SIZE)?)?;
    let host = HostMemory::register(&context, file.as_fd(), 0, SIZE as u64, Access::ReadWrite)?;
    vram.write(0, &pattern(5, SIZE))?;
    vram.copy_to(0, &host, 0, SIZE)?;
    let seen = devrx_provider::Mapping::map_shared(file.as_fd(), 0, SIZE, false)?;
    let mut bytes = vec![0; SIZE];
    ensure!(
        seen.copy_out(0, &mut bytes) && bytes == pattern(5, SIZE),
        "the GPU wrote elsewhere"
    );
    println!("a client's own: every byte written through the GPU");
    Ok(())
}
