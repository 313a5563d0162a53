//! Which memory VFIO's type1 driver takes, and what is said of the rest: each kind through the provider and a NIC's own mapper.

use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use devrx_driver::device::{Device, DmaMapping, Memory};
use devrx_driver::vfio::{Function, Options, peer};
use devrx_provider::{MapWay, QueueNeeds, Region, RegionSpec, dmabuf, memfd, pci, udmabuf};

use super::Test;
use crate::command::wait_for;
use crate::guest::machine::{BAR, IVSHMEM};
use crate::inside::{Host, modules};
use crate::qxl::{Card, system_heap};

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::new(
        "memory_of_the_host_is_mapped_and_a_udmabuf_by_its_memfd",
        host_memory,
    ),
    Test::new(
        "memory_of_another_functions_bar_is_mapped_and_seen_outside",
        bar,
    ),
    Test::new(
        "memory_of_a_gpu_is_mapped_where_the_administrator_allows_it",
        vram,
    ),
    Test::new(
        "memory_of_the_host_behind_a_dmabuf_is_refused_with_the_way_out",
        refused_dmabufs,
    ),
];

const SPEC: RegionSpec = RegionSpec {
    size: 4 << 20,
    chunk_size: 2048,
};

fn nic(host: &Host) -> Result<Arc<Function>> {
    Ok(Function::open(
        host.pci("igb0")?.parse()?,
        &Options::default(),
    )?)
}

/// Maps a region, all of it, as a queue of the NIC would.
fn map(nic: &Function, region: &Arc<Region>) -> Result<DmaMapping> {
    let needs = QueueNeeds {
        min_chunk: 1024,
        max_chunk: 16384,
        chunk_multiple: 1024,
        cpu_reads_payload: false,
        ways: nic.ways(),
    };
    needs.check(region)?;
    let len = usize::try_from(region.size())?;
    let memory = Memory::Region(Arc::clone(region));
    let mapping = DmaMapping::new(nic.mapper(), memory, 0..len)?;
    let first = mapping.iova_of(0).context("the first byte is not mapped")?;
    ensure!(first != 0 && mapping.iova_of(len - 1) == Some(first + len as u64 - 1));
    Ok(mapping)
}

fn refused<T>(result: Result<T>, parts: &[&str]) -> Result<()> {
    let text = format!("{:#}", result.err().context("it was taken")?);
    println!("refused: {text}");
    for part in parts {
        ensure!(text.contains(part), "{part:?} is not in {text:?}");
    }
    Ok(())
}

/// Since when a kernel has something.
fn kernel_has(least: [u32; 2]) -> Result<bool> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    let numbers = release
        .split(['.', '-', '+'])
        .map_while(|number| number.parse().ok());
    Ok(numbers.take(2).collect::<Vec<u32>>().as_slice() >= least.as_slice())
}

fn host_memory(host: &mut Host) -> Result<()> {
    let nic = nic(host)?;
    drop(map(&nic, &Arc::new(memfd::create("host", SPEC)?))?);
    let region = Arc::new(udmabuf::create("exported", SPEC)?);
    let exporter = dmabuf::exporter(region.export_fd().context("no dma-buf")?)?;
    ensure!(exporter == "udmabuf", "{exporter}");
    drop(map(&nic, &region)?);
    // The dma-buf of the same memory is refused before the kernel is asked.
    let export = region
        .export_fd()
        .context("no dma-buf")?
        .try_clone_to_owned()?;
    let adopted = Arc::new(dmabuf::adopt(export, SPEC, &dmabuf::Policy::default())?);
    refused(map(&nic, &adopted), &["the memfd under it", "udmabuf"])?;
    // 6.12 has a limit of 64 MiB, 7.3 none.
    let large = RegionSpec {
        size: 128 << 20,
        ..SPEC
    };
    let limit = udmabuf::limits().context("no limits can be read")?.size_mb;
    println!("udmabuf size_limit_mb: {limit}");
    if limit < 128 {
        refused(
            udmabuf::create("large", large).map_err(Into::into),
            &[
                "allows 64 MiB",
                "echo 128 > /sys/module/udmabuf/parameters/size_limit_mb",
            ],
        )?;
    } else {
        drop(map(&nic, &Arc::new(udmabuf::create("large", large)?))?);
    }
    Ok(())
}

fn bar(host: &mut Host) -> Result<()> {
    let nic = nic(host)?;
    let address = IVSHMEM.parse()?;
    let open =
        |len| -> Result<_> { Ok(peer::open_bar(address, 2, &Options::default())?.into_bar(len)?) };
    let region = Arc::new(pci::region(open(SPEC.size)?, SPEC)?);
    // VFIO exports BARs since Linux 6.19.
    ensure!(region.shareable().is_some() == kernel_has([6, 19])?);
    if let Some(shared) = region.shareable() {
        ensure!(dmabuf::size(shared)? == SPEC.size);
        let exporter = dmabuf::exporter(shared)?;
        println!("a BAR's dma-buf is exported by {exporter}");
        dmabuf::Policy::default().check(&exporter)?;
        let view = devrx_provider::Mapping::map_shared(shared, 0, 4096, false);
        ensure!(view.is_err(), "no process can map it");
    }
    ensure!(!region.cpu_readable());
    let mapping = map(&nic, &region)?;
    let bytes: Vec<u8> = (0..64).collect();
    ensure!(
        region
            .mapping()
            .context("not mapped")?
            .copy_in(8192, &bytes)
    );
    ensure!(
        host.bar_read(8192, 64)? == bytes,
        "the host sees other bytes"
    );
    drop(mapping);
    drop(region);
    // The function was closed; all of the BAR can be had, and no more.
    let whole = RegionSpec { size: BAR, ..SPEC };
    drop(map(&nic, &Arc::new(pci::region(open(BAR)?, whole)?))?);
    let more = RegionSpec {
        size: BAR + 4096,
        ..SPEC
    };
    refused(
        pci::region(open(BAR)?, more).map_err(Into::into),
        &["use that or less"],
    )?;
    refused(
        peer::open_bar(address, 0, &Options::default()).map_err(Into::into),
        &["of 256 bytes cannot be mapped", "2 (16777216 bytes)"],
    )
}

fn card() -> Result<Card> {
    modules::load("qxl")?;
    wait_for("the card is there", Duration::from_secs(10), || {
        Ok(Path::new("/dev/dri/card0").exists())
    })?;
    Card::open()
}

fn unpinned() -> dmabuf::Policy {
    dmabuf::Policy {
        allow_unpinned: true,
        ..dmabuf::Policy::default()
    }
}

fn vram(host: &mut Host) -> Result<()> {
    let nic = nic(host)?;
    let card = card()?;
    let buffer = card.vram(4 << 20)?;
    let exporter = dmabuf::exporter(buffer.as_fd())?;
    ensure!(exporter == "drm", "{exporter}");
    refused(
        dmabuf::adopt(buffer.try_clone()?, SPEC, &dmabuf::Policy::default()).map_err(Into::into),
        &["may move its memory", "allow_unpinned"],
    )?;
    let region = Arc::new(dmabuf::adopt(buffer.try_clone()?, SPEC, &unpinned())?);
    ensure!(region.ways() == [MapWay::PfnAddress] && !region.cpu_readable());
    let mapping = map(&nic, &region)?;
    // Whoever handed it over may map its own descriptor.
    let own = devrx_provider::Mapping::map_shared(buffer.as_fd(), 0, 4 << 20, true)?;
    ensure!(own.copy_in((4 << 20) - 5, b"there"));
    drop(mapping);
    Ok(())
}

fn refused_dmabufs(host: &mut Host) -> Result<()> {
    let nic = nic(host)?;
    // Memory of the host, though nothing but the kernel's answer shows it.
    let dumb = card()?.dumb(4 << 20)?;
    let region = Arc::new(dmabuf::adopt(dumb, SPEC, &unpinned())?);
    refused(
        map(&nic, &region),
        &["VFIO_IOMMU_MAP_DMA", "os error 14", "dumb buffers", "memfd"],
    )?;
    let heap = system_heap(4 << 20)?;
    ensure!(dmabuf::exporter(heap.as_fd())?.starts_with("system"));
    let region = Arc::new(dmabuf::adopt(heap, SPEC, &dmabuf::Policy::default())?);
    refused(map(&nic, &region), &["ordinary memory", "memfd"])?;
    Ok(())
}
