//! A NIC that receives into memory of a GPU, and into host memory that the GPU reads. Ignored without a GPU: `cargo xtask test gpu`.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use devrx_gpu::Access;
use devrx_gpu::cuda::{Allocation, Attribute, HostMemory};
use devrx_gpu_tests::rig::{HEADERS, Rig, frame};
use devrx_gpu_tests::{devices, pattern};
use devrx_provider::cuda::Facts;
use devrx_provider::{MemoryKind, Region, RegionSpec, cuda, memfd};

/// As many bytes of payload as fit a chunk, fewer, and more.
const PAYLOADS: [usize; 6] = [18, 64, 512, 1024, 1472, 8000];
/// Frames of each, in rounds that fit the ring.
const ROUNDS: usize = 8;

const SPEC: RegionSpec = RegionSpec {
    size: 4 << 20,
    chunk_size: 2048,
};

/// Has the NIC receive, and compares every byte of payload as `read` sees it.
fn receive(region: &Arc<Region>, read: impl Fn(usize, &mut [u8]) -> Result<()>) -> Result<String> {
    let mut rig = Rig::new(Arc::clone(region))?;
    let (mut packets, mut bytes) = (0, 0);
    for len in PAYLOADS {
        for round in 0..ROUNDS {
            let sent: Vec<Vec<u8>> = (0..8)
                .map(|nth| pattern((8 * round + nth) as u8, len))
                .collect();
            let frames: Vec<Vec<u8>> = sent.iter().map(|payload| frame(payload)).collect();
            let got = rig.receive(&frames)?;
            ensure!(
                got.len() == sent.len(),
                "{} of {} frames arrived",
                got.len(),
                sent.len()
            );
            for (packet, (payload, frame)) in got.iter().zip(sent.iter().zip(&frames)) {
                ensure!(packet.header == frame[..HEADERS], "another header");
                let mut arrived = Vec::new();
                for &(at, len) in &packet.payload {
                    let start = arrived.len();
                    arrived.resize(start + len, 0);
                    read(at, &mut arrived[start..])?;
                }
                ensure!(
                    arrived.len() >= payload.len() && arrived[..payload.len()] == payload[..],
                    "payload of {len} bytes differs"
                );
                packets += 1;
                bytes += payload.len();
            }
            for packet in &got {
                rig.give_back(packet);
            }
        }
    }
    let flush_reads = rig.flush_reads;
    rig.end()?;
    Ok(format!(
        "{packets} packets, {bytes} bytes of payload, every byte read back; {flush_reads} flush reads"
    ))
}

/// The rig itself, where there is no GPU: a CPU reads.
#[test]
fn a_nic_receives_into_host_memory() -> Result<()> {
    let region = Arc::new(memfd::create("devrx-gpu-test", SPEC)?);
    let mapping = region.clone();
    let said = receive(&region, |at, bytes| {
        let mapping = mapping.mapping().context("it is not mapped")?;
        ensure!(mapping.copy_out(at, bytes), "outside of the memory");
        Ok(())
    })?;
    ensure!(said.starts_with("384 packets"), "{said}");
    Ok(())
}

#[test]
#[ignore = "needs an NVIDIA GPU: cargo xtask test gpu"]
fn a_nic_receives_into_vram_where_the_driver_allows_it() -> Result<()> {
    let options = cuda::Options::default();
    let device = devices()?.swap_remove(0);
    let facts = Facts::of(&device, &options)?;
    let region = match cuda::create(0, SPEC, &options) {
        Ok(region) => Arc::new(region),
        Err(error) => {
            println!("refused: {error}");
            ensure!(
                error.to_string().contains("memfd and hugetlb"),
                "the refusal names no way out"
            );
            ensure!(
                facts.way().is_err(),
                "the driver says that there is a way: {:?}",
                facts.way()
            );
            return Ok(());
        }
    };
    ensure!(region.kind() == MemoryKind::Cuda && !region.cpu_readable());
    // Read as a client would, by an import of what it is given.
    let context = device.context()?;
    let export = region.export_fd().context("it was not exported")?;
    let memory = Allocation::import(&context, export, SPEC.size)?;
    let said = receive(&region, |at, bytes| Ok(memory.read(at, bytes)?))?;
    println!("VRAM, {:?}: {said}", facts.way()?);
    // The client's import keeps the memory, and nobody writes it any more.
    drop(region);
    memory.read(0, &mut [0; 64])?;
    Ok(())
}

#[test]
#[ignore = "needs an NVIDIA GPU: cargo xtask test gpu"]
fn a_nic_receives_into_host_memory_that_the_gpu_reads() -> Result<()> {
    let context = devices()?.swap_remove(0).context()?;
    let region = Arc::new(memfd::create("devrx-gpu-test", SPEC)?);
    if !context.device().can(Attribute::ReadOnlyHostRegister)? {
        println!("skipped: this driver registers nothing to be read only (attribute 113)");
        return Ok(());
    }
    let fd = region.shareable().context("it cannot be shared")?;
    let host = HostMemory::register(&context, fd, 0, SPEC.size, Access::Read)?;
    // The GPU copies to its own memory first: a copy between host addresses alone could be the CPU's.
    let vram = Allocation::new(&context, 1 << 16)?;
    let said = receive(&region, |at, bytes| {
        vram.copy_from(0, &host, at, bytes.len())?;
        Ok(vram.read(0, bytes)?)
    })?;
    println!("registered host memory: {said}");
    Ok(())
}
