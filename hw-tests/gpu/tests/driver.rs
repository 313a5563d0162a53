//! What the driver answers. Ignored without a GPU: `cargo xtask test gpu`.

use std::os::fd::AsFd;

use anyhow::{Result, ensure};
use devrx_gpu::cuda::{Allocation, Attribute};
use devrx_gpu::{GpuError, bar};
use devrx_gpu_tests::devices;
use devrx_provider::cuda::{self, Facts};
use devrx_provider::{Mapping, RegionSpec, dmabuf};

const SIZE: u64 = 4 << 20;

#[test]
#[ignore = "needs an NVIDIA GPU: cargo xtask test gpu"]
fn what_the_gpus_answer() -> Result<()> {
    let options = cuda::Options::default();
    let module = bar::nvidia_module();
    println!("kernel module {}", module.as_deref().unwrap_or("unknown"));
    for device in devices()? {
        let facts = Facts::of(&device, &options)?;
        println!(
            "{}, CUDA {}, {} MiB",
            facts.device,
            facts.version(),
            device.memory()? >> 20
        );
        for attribute in [
            Attribute::Integrated,
            Attribute::HostRegister,
            Attribute::VirtualMemory,
            Attribute::PosixHandle,
            Attribute::RdmaWithVirtualMemory,
            Attribute::ReadOnlyHostRegister,
            Attribute::Rdma,
            Attribute::RdmaFlush,
            Attribute::RdmaOrdering,
            Attribute::DmaBuf,
            Attribute::HostDmaBuf,
            Attribute::DmaBufMmap,
        ] {
            let value = match device.attribute(attribute)? {
                Some(value) => value.to_string(),
                None => "not known to this driver".into(),
            };
            println!(
                "    attribute {:>3} {attribute:?}: {value}",
                attribute as i32
            );
        }
        let bar1 = facts.bar1.map(|bytes| format!("{} MiB", bytes >> 20));
        println!(
            "    BAR1 {}, gdrdrv {:?}",
            bar1.unwrap_or("not shown".into()),
            facts.gdrdrv
        );
        match facts.way() {
            Ok(way) => println!(
                "    a NIC is given access by {way:?}, then {:?}",
                facts.flush()
            ),
            Err(error) => println!("    {error}"),
        }
    }
    Ok(())
}

#[test]
#[ignore = "needs an NVIDIA GPU: cargo xtask test gpu"]
fn what_export_and_mmap_answer() -> Result<()> {
    for device in devices()? {
        let context = device.context()?;
        let memory = Allocation::new(&context, SIZE)?;
        println!(
            "cuda:{}: {} bytes at {:#x}",
            device.index(),
            memory.bytes(),
            memory.device_address()
        );
        // It began as zeros, and reads back what is written.
        let mut bytes = vec![1; 4096];
        memory.read(0, &mut bytes)?;
        ensure!(
            bytes.iter().all(|&byte| byte == 0),
            "fresh memory is not zeros"
        );
        memory.write(100, b"written")?;
        memory.read(100, &mut bytes[..7])?;
        ensure!(&bytes[..7] == b"written", "{:?}", &bytes[..7]);
        drop(memory.export()?);
        println!("    cuMemExportToShareableHandle: a descriptor");
        let says = device.can(Attribute::DmaBuf)?;
        let fd = match memory.export_dmabuf(SIZE) {
            Ok(fd) => fd,
            Err(error) => {
                println!("    cuMemGetHandleForAddressRange: {error}");
                ensure!(
                    !says,
                    "the driver says that it exports dma-bufs (attribute 124)"
                );
                continue;
            }
        };
        println!(
            "    cuMemGetHandleForAddressRange: a dma-buf of {}, {} bytes",
            dmabuf::exporter(fd.as_fd())?,
            dmabuf::size(fd.as_fd())?
        );
        ensure!(
            dmabuf::size(fd.as_fd())? == SIZE,
            "it is of more or less than was asked for"
        );
        let says = device.can(Attribute::DmaBufMmap)?;
        match Mapping::map_shared(fd.as_fd(), 0, usize::try_from(SIZE)?, true) {
            Ok(mapping) => {
                ensure!(
                    mapping.copy_in(200, b"by the CPU") && mapping.touch(209),
                    "outside"
                );
                memory.read(200, &mut bytes[..10])?;
                ensure!(
                    &bytes[..10] == b"by the CPU",
                    "the mapping is of other memory"
                );
                println!("    mmap of it: the GPU's memory (attribute 152 says {says})");
            }
            Err(error) => {
                println!("    mmap of it: {error} (attribute 152 says {says})");
                ensure!(
                    !says,
                    "the driver says that it can be mapped (attribute 152)"
                );
            }
        }
        let _: Result<(), GpuError> = context.flush().inspect_err(|error| println!("    {error}"));
    }
    Ok(())
}

#[test]
#[ignore = "needs an NVIDIA GPU: cargo xtask test gpu"]
fn a_region_larger_than_the_window_is_refused() -> Result<()> {
    let options = cuda::Options::default();
    let facts = Facts::of(&devices()?[0], &options)?;
    let Some(bar1) = facts.bar1 else {
        println!("skipped: the kernel does not show the GPU's BARs");
        return Ok(());
    };
    if facts.way().is_err() {
        println!("skipped: no NIC can be given access, whatever the size");
        return Ok(());
    }
    let spec = RegionSpec {
        size: bar1 + (2 << 20),
        chunk_size: 32768,
    };
    let Err(error) = cuda::create(0, spec, &options) else {
        anyhow::bail!("more than BAR1 ({bar1} bytes) was made");
    };
    println!("{error}");
    ensure!(error.to_string().contains("BAR1"), "{error}");
    Ok(())
}
