//! Memory within a device's reach: what VFIO maps and refuses, what the IOMMU stops. The 82576 sends frames to itself, so that nothing but
//! the test decides when it writes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use devrx_driver::DriverError;
use devrx_driver::device::{Device, DmaBuffer, DmaMapping, Memory, Registers};
use devrx_driver::vfio::{Bar, FaultWatcher, Function, IommuFault, Options, peer};
use devrx_provider::{MapWay, Mapping, Region, RegionSpec, hugetlb, memfd, pci, udmabuf};

use super::Test;
use crate::guest::machine::{BAR, IVSHMEM};
use crate::inside::Host;

/// The tests of this file.
pub const TESTS: &[Test] = &[
    Test::new(
        "vfio_a_nic_writes_into_memfd_hugetlb_and_udmabuf_memory",
        host_memory,
    ),
    Test::new("vfio_a_nic_writes_into_a_bar_and_the_host_sees_it", bar),
    Test::new(
        "vfio_a_udmabufs_own_mapping_is_refused_with_the_way_out",
        refusals,
    ),
    Test::new(
        "vfio_more_mappings_than_a_container_may_have_are_refused",
        limit,
    ),
    Test::new(
        "vfio_addresses_are_within_the_windows_and_never_overlap",
        addresses,
    ),
    Test::new(
        "vfio_a_write_to_an_unmapped_address_is_stopped_and_reported",
        stopped,
    ),
    Test::new(
        "vfio_memory_that_was_taken_back_is_not_written_any_more",
        taken_back,
    ),
    Test::new("vfio_mappings_keep_the_device_open", order),
];

/// Registers of the 82576 (datasheet, chapter 8) that a loop needs; queue 0 of both directions.
mod reg {
    pub const CTRL: u32 = 0x0;
    pub const STATUS: u32 = 0x8;
    pub const MDIC: u32 = 0x20;
    pub const RCTL: u32 = 0x100;
    pub const TCTL: u32 = 0x400;
    pub const RDBAL: u32 = 0xc000;
    pub const TDBAL: u32 = 0xe000;
    // From the base of a ring.
    pub const HIGH: u32 = 0x4;
    pub const LEN: u32 = 0x8;
    pub const SRRCTL: u32 = 0xc;
    pub const HEAD: u32 = 0x10;
    pub const TAIL: u32 = 0x18;
    pub const CONTROL: u32 = 0x28;
}

const ENTRIES: u32 = 32;
const SIZE: u64 = 4 << 20;
const SPEC: RegionSpec = RegionSpec {
    size: SIZE,
    chunk_size: 2048,
};
/// Bytes in each frame that goes round.
const FRAME: usize = 256;

/// An 82576 that sends to itself.
struct Loop {
    function: Arc<Function>,
    registers: Arc<Bar>,
    receive: DmaBuffer,
    transmit: DmaBuffer,
    frame: DmaBuffer,
    next: u32,
}

impl Loop {
    fn new(host: &Host) -> Result<Self> {
        let function = Function::open(host.pci("igb0")?.parse()?, &Options::default())?;
        let buffer = |len| DmaBuffer::new(function.mapper(), len);
        let ring = ENTRIES as usize * 16;
        let this = Self {
            registers: function.registers(),
            receive: buffer(ring)?,
            transmit: buffer(ring)?,
            frame: buffer(4096)?,
            function,
            next: 0,
        };
        this.start()?;
        Ok(this)
    }

    fn start(&self) -> Result<()> {
        let write = |offset, value| self.registers.write32(offset, value);
        write(reg::CTRL, 1 << 26);
        std::thread::sleep(Duration::from_millis(5));
        // Restart autonegotiation: QEMU's link comes half a second later.
        write(reg::MDIC, 0x1340 | 1 << 21 | 1 << 26);
        let end = Instant::now() + Duration::from_secs(5);
        while self.registers.read32(reg::STATUS) & 2 == 0 {
            ensure!(Instant::now() < end, "no link");
            std::thread::sleep(Duration::from_millis(20));
        }
        self.function.set_bus_master(true)?;
        for (base, ring) in [(reg::RDBAL, &self.receive), (reg::TDBAL, &self.transmit)] {
            write(base + reg::CONTROL, 0);
            write(base, ring.iova() as u32);
            write(base + reg::HIGH, (ring.iova() >> 32) as u32);
            write(base + reg::LEN, ENTRIES * 16);
            write(base + reg::HEAD, 0);
            write(base + reg::TAIL, 0);
        }
        // Advanced descriptors, one buffer of 2 KiB.
        write(reg::RDBAL + reg::SRRCTL, 0x0200_0002);
        write(reg::RDBAL + reg::CONTROL, 0x0201_0808);
        write(reg::TDBAL + reg::CONTROL, 1 << 25);
        // Promiscuous, MAC loopback.
        write(reg::RCTL, 0x0400_805e);
        write(reg::TCTL, 0x0104_010a);
        Ok(())
    }

    /// Sends a frame filled with `byte` to itself, to be received at `iova`; returns how many bytes the descriptor says.
    fn send(&mut self, iova: u64, byte: u8) -> Result<u16> {
        let slot = (self.next % ENTRIES) as usize * 16;
        self.next += 1;
        let tail = self.next % ENTRIES;
        let mut bytes = [byte; FRAME];
        // To everybody, from a station of ours, of an EtherType for experiments.
        bytes[..14].copy_from_slice(&[255, 255, 255, 255, 255, 255, 2, 0, 0, 0, 0, 1, 0x88, 0xb5]);
        ensure!(
            self.frame.memory().copy_in(0, &bytes),
            "the frame does not fit"
        );
        self.receive.store(slot, iova);
        self.receive.store(slot + 8, 0);
        self.registers.write32(reg::RDBAL + reg::TAIL, tail);
        self.transmit.store(slot, self.frame.iova());
        self.transmit
            .store(slot + 8, 0x2b30_0000 | FRAME as u64 | (FRAME as u64) << 46);
        self.registers.write32(reg::TDBAL + reg::TAIL, tail);
        let end = Instant::now() + Duration::from_secs(2);
        loop {
            let done = self.receive.acquire(slot + 8);
            if done & 1 != 0 {
                return Ok((done >> 32) as u16);
            }
            ensure!(Instant::now() < end, "no frame came round");
        }
    }
}

/// The frame as it must lie in memory.
fn landed(mapping: &Mapping, offset: usize, byte: u8) -> Result<()> {
    let mut bytes = [0; FRAME];
    ensure!(
        mapping.copy_out(offset, &mut bytes),
        "outside of the mapping"
    );
    ensure!(
        bytes[12..14] == [0x88, 0xb5] && bytes[14..].iter().all(|&found| found == byte),
        "at {offset} is {bytes:02x?}"
    );
    Ok(())
}

/// Has the NIC write to the first and the last chunk and one between.
fn through(nic: &mut Loop, region: &Arc<Region>) -> Result<()> {
    let began = Instant::now();
    let mapping = DmaMapping::new(
        nic.function.mapper(),
        Memory::Region(region.clone()),
        0..region.size() as usize,
    )?;
    println!(
        "{}: {} bytes mapped in {:?}",
        region.kind(),
        region.size(),
        began.elapsed()
    );
    let memory = region.mapping().context("no mapping")?;
    for (byte, offset) in [(1, 0), (2, 2048 * 77), (3, region.size() as usize - 2048)] {
        let iova = mapping.iova_of(offset).context("not within the mapping")?;
        let len = nic.send(iova, byte)?;
        ensure!(usize::from(len) == FRAME, "{len} bytes");
        landed(memory, offset, byte)?;
    }
    Ok(())
}

fn host_memory(host: &mut Host) -> Result<()> {
    let mut nic = Loop::new(host)?;
    for region in [
        memfd::create("devrx-test", SPEC)?,
        hugetlb::create("devrx-test", SPEC)?,
        udmabuf::create("devrx-test", SPEC)?,
    ] {
        through(&mut nic, &Arc::new(region))?;
    }
    Ok(())
}

fn bar_region() -> Result<Region> {
    let memory = peer::open_bar(IVSHMEM.parse()?, 2, &Options::default())?;
    ensure!(memory.size() == BAR, "the BAR has {} bytes", memory.size());
    println!("exported as a dma-buf: {}", memory.exports_dmabuf());
    let region = pci::region(memory.into_bar(SIZE)?, SPEC)?;
    ensure!(region.ways().contains(&MapWay::PfnAddress), "{region:?}");
    Ok(region)
}

fn bar(host: &mut Host) -> Result<()> {
    host.bar_fill(0, BAR, 0xee)?;
    let mut nic = Loop::new(host)?;
    let region = Arc::new(bar_region()?);
    // The device serves a second attachment at the same time.
    drop(bar_region()?);
    through(&mut nic, &region)?;
    for (byte, offset) in [(1, 0), (2, 2048 * 77), (3, SIZE - 2048)] {
        let bytes = host.bar_read(offset, FRAME as u64 + 1)?;
        ensure!(
            bytes[14..FRAME].iter().all(|&found| found == byte) && bytes[FRAME] == 0xee,
            "the host sees {bytes:02x?} at {offset}"
        );
    }
    for (bar, part) in [(0, "2 (16777216 bytes)"), (4, "BAR"), (9, "BARs 0 to 5")] {
        let error = peer::open_bar(IVSHMEM.parse()?, bar, &Options::default());
        let error = error.err().context("it was not refused")?.to_string();
        println!("{error}");
        ensure!(error.contains(part), "{error}");
    }
    Ok(())
}

fn refusal(result: std::result::Result<u64, DriverError>) -> Result<String> {
    match result {
        Ok(iova) => bail!("it was mapped at {iova:#x}"),
        Err(error) => Ok(error.to_string()),
    }
}

fn refusals(host: &mut Host) -> Result<()> {
    let function = Function::open(host.pci("igb0")?.parse()?, &Options::default())?;
    let mapper = function.mapper();
    let region = udmabuf::create("devrx-test", SPEC)?;
    let export = region.export_fd().context("no dma-buf")?;
    let own = Mapping::map_shared(export, 0, SIZE as usize, true)?;
    let error = refusal(mapper.map(&Memory::Host(Arc::new(own)), 0..SIZE as usize))?;
    println!("{error}");
    for part in ["VFIO_IOMMU_MAP_DMA", "os error 14", "hand over the memfd"] {
        ensure!(error.contains(part), "{part:?} is not in {error:?}");
    }
    // Nothing of the refused try is left: the addresses are used again.
    let memory = Memory::Region(Arc::new(memfd::create("devrx-test", SPEC)?));
    let first = mapper.map(&memory, 0..SIZE as usize)?;
    let error = mapper
        .unmap(first, 4096)
        .err()
        .context("a part was unmapped")?;
    println!("{error}");
    ensure!(
        error.to_string().contains("VFIO_IOMMU_UNMAP_DMA"),
        "{error}"
    );
    mapper.unmap(first, SIZE as usize)?;
    ensure!(
        mapper.unmap(first, SIZE as usize).is_err(),
        "what is not mapped was unmapped"
    );
    for range in [
        100..SIZE as usize,
        0..5000,
        0..SIZE as usize + 4096,
        4096..4096,
    ] {
        let error = refusal(mapper.map(&memory, range.clone()))?;
        ensure!(error.contains("whole pages"), "{range:?}: {error}");
    }
    let read_only = Mapping::map_shared(region.mapped_fd(), 0, 4096, false)?;
    let error = refusal(mapper.map(&Memory::Host(Arc::new(read_only)), 0..4096))?;
    ensure!(error.contains("for reading only"), "{error}");
    Ok(())
}

/// The container's own limit, made small for a moment.
fn limit(host: &mut Host) -> Result<()> {
    let file = "/sys/module/vfio_iommu_type1/parameters/dma_entry_limit";
    let before = std::fs::read_to_string(file)?;
    std::fs::write(file, "2")?;
    let result = (|| {
        let function = Function::open(host.pci("igb0")?.parse()?, &Options::default())?;
        ensure!(
            function.iommu().mappings_left == Some(2),
            "{:?}",
            function.iommu()
        );
        let buffers = [
            DmaBuffer::new(function.mapper(), 4096)?,
            DmaBuffer::new(function.mapper(), 4096)?,
        ];
        let third = DmaBuffer::new(function.mapper(), 4096);
        let error = third.err().context("a third was mapped")?.to_string();
        for part in ["VFIO_IOMMU_MAP_DMA", "os error 28", "dma_entry_limit"] {
            ensure!(error.contains(part), "{part:?} is not in {error:?}");
        }
        drop(buffers);
        drop(DmaBuffer::new(function.mapper(), 4096)?);
        Ok(())
    })();
    std::fs::write(file, before.trim())?;
    result
}

fn addresses(host: &mut Host) -> Result<()> {
    let function = Function::open(host.pci("igb0")?.parse()?, &Options::default())?;
    let info = function.iommu();
    let memory = Arc::new(memfd::create("devrx-test", SPEC)?);
    let sizes = [4096, 3 * 4096, 64 << 10, 1 << 20, SIZE as usize];
    let mut held: Vec<(DmaMapping, u64, u64)> = Vec::new();
    for round in 0..40 {
        let len = sizes[round % sizes.len()];
        let mapping = DmaMapping::new(function.mapper(), Memory::Region(memory.clone()), 0..len)?;
        let iova = mapping.iova_of(0).context("empty")?;
        let end = iova + len as u64;
        ensure!(iova != 0 && iova % 4096 == 0, "{iova:#x}");
        ensure!(
            info.windows
                .iter()
                .any(|&(first, last)| first <= iova && end - 1 <= last),
            "{iova:#x} is outside of the windows"
        );
        ensure!(
            len < 2 << 20 || iova % (2 << 20) == 0,
            "{len} bytes at {iova:#x}"
        );
        ensure!(
            mapping.iova_of(len).is_none() && mapping.iova_of(len - 1) == Some(end - 1),
            "{mapping:?}"
        );
        for (_, other, other_end) in &held {
            ensure!(
                end <= *other || *other_end <= iova,
                "{iova:#x} overlaps {other:#x}"
            );
        }
        held.push((mapping, iova, end));
        if round % 3 == 2 {
            held.remove(round % held.len());
        }
    }
    Ok(())
}

/// Waits for faults to be logged.
fn faults(watcher: &mut FaultWatcher) -> Result<Vec<IommuFault>> {
    let end = Instant::now() + Duration::from_secs(5);
    loop {
        let faults = watcher.read_faults();
        if !faults.is_empty() {
            return Ok(faults);
        }
        ensure!(Instant::now() < end, "the kernel logged no fault");
        std::thread::sleep(Duration::from_millis(20));
    }
}

const NOWHERE: u64 = 0x7_6543_2000;

fn stopped(host: &mut Host) -> Result<()> {
    let mut watcher = FaultWatcher::new(host.pci("igb0")?.parse()?)?;
    let mut other = FaultWatcher::new(host.pci("igb1")?.parse()?)?;
    let mut nic = Loop::new(host)?;
    let region = Arc::new(memfd::create("devrx-test", SPEC)?);
    through(&mut nic, &region)?;
    ensure!(watcher.read_faults().is_empty(), "faults without a reason");
    let len = nic.send(NOWHERE, 9)?;
    println!("the descriptor says that {len} bytes were written to nowhere");
    let found = faults(&mut watcher)?;
    for fault in &found {
        println!("{fault}");
    }
    ensure!(
        found
            .iter()
            .any(|fault| fault.write && fault.iova & !0xfff == NOWHERE),
        "{found:x?}"
    );
    ensure!(other.read_faults().is_empty(), "the other NIC is blamed");
    // What comes after it is received as ever.
    through(&mut nic, &region)
}

/// A mapping that was dropped, of host memory and of a BAR: the NIC is told to write there all the same.
fn taken_back(host: &mut Host) -> Result<()> {
    let mut watcher = FaultWatcher::new(host.pci("igb0")?.parse()?)?;
    let mut nic = Loop::new(host)?;
    for region in [memfd::create("devrx-test", SPEC)?, bar_region()?] {
        let region = Arc::new(region);
        let memory = region.mapping().context("no mapping")?;
        let mapping = DmaMapping::new(
            nic.function.mapper(),
            Memory::Region(region.clone()),
            0..SIZE as usize,
        )?;
        let iova = mapping.iova_of(8192).context("not within the mapping")?;
        nic.send(iova, 5)?;
        landed(memory, 8192, 5)?;
        drop(mapping);
        nic.send(iova, 6)?;
        landed(memory, 8192, 5).context("it was written after it had been taken back")?;
        // The kernel logs but some of many faults.
        let found = faults(&mut watcher)?;
        ensure!(
            found
                .iter()
                .any(|fault| fault.iova & !0xfff == iova & !0xfff),
            "{found:x?}"
        );
    }
    Ok(())
}

fn order(host: &mut Host) -> Result<()> {
    let pci = host.pci("igb0")?.parse()?;
    let function = Function::open(pci, &Options::default())?;
    let region = Arc::new(memfd::create("devrx-test", SPEC)?);
    let mapping = DmaMapping::new(function.mapper(), Memory::Region(region), 0..4096)?;
    drop(function);
    if Function::open(pci, &Options::default()).is_ok() {
        bail!("the device was closed under a mapping");
    }
    drop(mapping);
    drop(Function::open(pci, &Options::default())?);
    // One that is leaked does not keep it: the kernel takes the mapping from the device when that is closed.
    let function = Function::open(pci, &Options::default())?;
    let buffer = DmaBuffer::new(function.mapper(), 4096)?;
    buffer.leak();
    drop(function);
    Function::open(pci, &Options::default())?;
    Ok(())
}
