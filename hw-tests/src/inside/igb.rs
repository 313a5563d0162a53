//! An 82576 that a daemon owns, attachments of it in each kind of memory, and a view of that memory from outside of devrx.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use devrx_client::{Attachment, Client};
use devrx_provider::Mapping;

use super::{Host, modules};
use crate::command::wait_for;
use crate::daemon::Daemon;
use crate::guest::machine::IVSHMEM;
use crate::guest::message::{BAR_READ, sum};
use crate::qxl::Card;
use crate::trust::tools::{Mode, firmware};

/// The NIC that the tests use, as the machine calls it.
pub const NIC: &str = "igb0";

/// The NIC that a daemon owns in a test: the E810 on a machine that has one, which these tests drive as well, or else the 82576.
#[must_use]
pub fn nic(host: &Host) -> &'static str {
    if is_e810(host) { "ice0" } else { NIC }
}

/// Whether that NIC is an E810.
#[must_use]
pub fn is_e810(host: &Host) -> bool {
    host.machine().has_e810()
}

/// Starts a daemon that owns the NIC, and takes dma-bufs of the qxl card.
pub fn daemon(host: &Host) -> Result<Daemon> {
    daemon_with(host, "")
}

/// The same with more lines of configuration for the NIC.
pub fn daemon_with(host: &Host, more: &str) -> Result<Daemon> {
    if is_e810(host) {
        firmware(Mode::Full)?;
    }
    let pci = host.pci(nic(host))?;
    let daemon = Daemon::start_here_with(&format!(
        "[dmabuf]\nallow_unpinned = true\n[[interfaces]]\naddress = \"vfio:{pci}\"\n{more}\n"
    ))?;
    // What QEMU holds back while the link is down it loses when a ring is set up meanwhile.
    wait_for("the NIC has a link", Duration::from_secs(5), || {
        Ok(daemon.log().contains("up=true"))
    })?;
    Ok(daemon)
}

/// Ends an endless injection, and takes in what QEMU still holds of it, so that the next test does not find it.
pub fn end_flood(host: &mut Host, daemon: &Daemon) -> Result<()> {
    host.stop_injection(nic(host))?;
    let sink = Wanted {
        name: "sink",
        kind: Kind::Memfd,
        chunks: 256,
        chunk: 2048,
        more: "--queue 0 --flow any",
    };
    let (mut attachment, _) = sink.attach_and_open(host, daemon)?;
    while !attachment
        .recv(Some(Duration::from_millis(200)))?
        .is_empty()
    {}
    drop(attachment);
    daemon.detach("sink")?;
    Ok(())
}

/// A kind of memory, with what it takes to look at it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Shared memory.
    Memfd,
    /// Shared memory in huge pages.
    Hugetlb,
    /// Shared memory that is a dma-buf too.
    Udmabuf,
    /// The first bytes of the ivshmem device's BAR 2.
    Bar,
    /// A buffer in the qxl card's video memory.
    Vram,
}

impl Kind {
    /// As `devrx attach --memory` takes it; of what is handed over, the kind alone.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Memfd => "memfd".into(),
            Self::Hugetlb => "hugetlb".into(),
            Self::Udmabuf => "udmabuf".into(),
            Self::Bar => format!("pci:{IVSHMEM}/2"),
            Self::Vram => "dmabuf".into(),
        }
    }
}

/// What to attach.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The attachment's name.
    pub name: &'a str,
    /// Its memory.
    pub kind: Kind,
    /// How many chunks.
    pub chunks: u32,
    /// Bytes in each.
    pub chunk: u32,
    /// More of `devrx attach`: queue, rules, and so on.
    pub more: &'a str,
}

impl Wanted<'_> {
    /// Bytes of the region.
    #[must_use]
    pub fn size(&self) -> u64 {
        u64::from(self.chunks) * u64::from(self.chunk)
    }

    /// Attaches it with the program: `devrx attach`. What is handed over comes from this process.
    pub fn attach(&self, host: &Host, daemon: &Daemon) -> Result<Memory> {
        let buffer = match self.kind {
            Kind::Vram => Some(vram(self.size())?),
            _ => None,
        };
        let memory = match &buffer {
            Some(buffer) => format!("dmabuf:{}:{}", std::process::id(), raw(buffer)),
            None => self.kind.name(),
        };
        daemon.ok(&format!(
            "attach --name {} --nic {} --memory {memory} --size {} --chunk {} {}",
            self.name,
            host.pci(nic(host))?,
            self.size(),
            self.chunk,
            self.more
        ))?;
        Ok(Memory {
            size: self.size(),
            place: match (self.kind, buffer) {
                (Kind::Bar, _) => Place::Bar,
                (_, Some(buffer)) => Place::Mapped(map(&buffer, self.size(), true)?),
                (_, None) => Place::Unknown,
            },
        })
    }

    /// Attaches it and becomes its consumer: region and all are in view.
    pub fn attach_and_open(&self, host: &Host, daemon: &Daemon) -> Result<(Attachment, Memory)> {
        let mut memory = self.attach(host, daemon)?;
        let attachment = Client::connect(daemon.socket())?.open(self.name)?;
        if matches!(memory.place, Place::Unknown) {
            let region = attachment.region_fd().context("the region is not passed")?;
            // Memory of these kinds is sealed: only the daemon and the NIC can write it.
            let sealed = matches!(self.kind, Kind::Memfd | Kind::Hugetlb);
            memory.place = Place::Mapped(map(region, self.size(), !sealed)?);
        }
        Ok((attachment, memory))
    }
}

fn raw(fd: &OwnedFd) -> i32 {
    use std::os::fd::AsRawFd;
    fd.as_raw_fd()
}

fn map(fd: impl AsFd, size: u64, writable: bool) -> Result<Mapping> {
    let mapping = Mapping::map_shared(fd.as_fd(), 0, usize::try_from(size)?, writable);
    mapping.context("the region cannot be mapped by the test")
}

/// A buffer of the qxl card, whose module is loaded if it is not. It lives as long as its descriptors.
pub fn vram(size: u64) -> Result<OwnedFd> {
    modules::load("qxl")?;
    wait_for("the card is there", Duration::from_secs(10), || {
        Ok(Path::new("/dev/dri/card0").exists())
    })?;
    Card::open()?.vram(u32::try_from(size)?)
}

/// A region's memory, seen without devrx: through a mapping of the descriptor, or by the host behind the BAR.
#[derive(Debug)]
pub struct Memory {
    size: u64,
    place: Place,
}

#[derive(Debug)]
enum Place {
    Mapped(Mapping),
    Bar,
    /// The daemon made it, and nobody has opened it.
    Unknown,
}

impl Memory {
    /// Memory behind a descriptor.
    pub fn of(fd: OwnedFd, size: u64) -> Result<Self> {
        Ok(Self {
            size,
            place: Place::Mapped(map(fd, size, true)?),
        })
    }

    /// The first bytes of the BAR.
    #[must_use]
    pub fn of_bar(size: u64) -> Self {
        Self {
            size,
            place: Place::Bar,
        }
    }

    /// The memory of a process's memfd whose name has this in it, for example that of the attachment.
    pub fn of_process(pid: i32, name: &str, size: u64) -> Result<Self> {
        for entry in std::fs::read_dir(format!("/proc/{pid}/fd"))?.flatten() {
            let link = std::fs::read_link(entry.path()).unwrap_or_default();
            let link = link.to_string_lossy();
            if !link.starts_with("/memfd:") || !link.contains(name) {
                continue;
            }
            let file = File::options().read(true).write(true).open(entry.path());
            let Ok(file) = file else { continue };
            if file.metadata()?.len() == size {
                return Self::of(file.into(), size);
            }
        }
        bail!("process {pid} has no memfd {name} of {size} bytes")
    }

    /// Bytes.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    fn mapping(&self) -> Result<&Mapping> {
        match &self.place {
            Place::Mapped(mapping) => Ok(mapping),
            _ => bail!("this memory is not mapped here"),
        }
    }

    /// Fills all of it with `byte`, if it can be written; answers with what it is filled with. Memory that was just made holds zeros.
    pub fn prepare(&self, host: &mut Host, byte: u8) -> Result<u8> {
        if matches!(&self.place, Place::Mapped(mapping) if !mapping.writable()) {
            return Ok(0);
        }
        self.fill(host, byte)?;
        Ok(byte)
    }

    /// Fills all of it with one byte.
    pub fn fill(&self, host: &mut Host, byte: u8) -> Result<()> {
        if matches!(self.place, Place::Bar) {
            return host.bar_fill(0, self.size, byte);
        }
        self.fill_here(byte)
    }

    /// The same for memory that is mapped here, which takes no host.
    pub fn fill_here(&self, byte: u8) -> Result<()> {
        let page = [byte; 4096];
        for offset in (0..usize::try_from(self.size)?).step_by(page.len()) {
            ensure!(self.mapping()?.copy_in(offset, &page), "cannot be written");
        }
        Ok(())
    }

    /// Some bytes of it.
    pub fn read(&self, host: &mut Host, offset: u64, len: usize) -> Result<Vec<u8>> {
        if matches!(self.place, Place::Bar) {
            return host.bar_read(offset, len as u64);
        }
        let mut bytes = vec![0; len];
        let read = self
            .mapping()?
            .copy_out(usize::try_from(offset)?, &mut bytes);
        ensure!(read, "{len} bytes at {offset} cannot be read");
        Ok(bytes)
    }

    /// The blocks of `block` bytes that are not as in `want`, which is all of the memory.
    pub fn differences(&self, host: &mut Host, want: &[u8], block: usize) -> Result<Vec<u64>> {
        ensure!(want.len() as u64 == self.size);
        let mut found = Vec::new();
        if matches!(self.place, Place::Bar) {
            // By halves: a sum is one request, whatever its span.
            let mut spans = Vec::from([(0, want.len())]);
            while let Some((start, end)) = spans.pop() {
                let span = start..end;
                let there = host.bar_sum(start as u64, span.len() as u64)?;
                if there == sum(want[span.clone()].iter().copied()) {
                    continue;
                }
                if span.len() <= block {
                    found.push(start as u64);
                    continue;
                }
                let half = start + (span.len() / 2).next_multiple_of(block);
                spans.extend([(half, end), (start, half)]);
            }
            return Ok(found);
        }
        let mut bytes = vec![0; want.len()];
        ensure!(self.mapping()?.copy_out(0, &mut bytes), "cannot be read");
        for (at, (want, there)) in (0..).zip(want.chunks(block).zip(bytes.chunks(block))) {
            if want != there {
                found.push(at * block as u64);
            }
        }
        Ok(found)
    }

    /// Fails unless it is as `want`, with the first byte that is not.
    pub fn must_be(&self, host: &mut Host, want: &[u8], chunk: usize) -> Result<()> {
        let different = self.differences(host, want, chunk)?;
        let Some(&first) = different.first() else {
            return Ok(());
        };
        let len = chunk.min(usize::try_from(BAR_READ)?);
        let there = self.read(host, first, len)?;
        let want = &want[usize::try_from(first)?..][..len];
        let at = want.iter().zip(&there).position(|(a, b)| a != b);
        let from = at.unwrap_or(0);
        let until = (from + 24).min(len);
        bail!(
            "{} chunks of the region are not as they should be; the first is at {first:#x}, where byte {at:?} on is {:02x?} instead of {:02x?}",
            different.len(),
            &there[from..until],
            &want[from..until]
        )
    }

    /// Fails if a byte is not `byte` any more. For memory that is mapped here, which takes no host.
    pub fn must_be_filled_here(&self, byte: u8) -> Result<()> {
        let mut bytes = vec![0; usize::try_from(self.size)?];
        ensure!(self.mapping()?.copy_out(0, &mut bytes), "cannot be read");
        let other = bytes.iter().position(|there| *there != byte);
        ensure!(other.is_none(), "byte {other:?} has changed");
        Ok(())
    }

    /// Fails if a byte is not `byte` any more.
    pub fn must_be_filled(&self, host: &mut Host, byte: u8) -> Result<()> {
        let want = vec![byte; usize::try_from(self.size)?];
        self.must_be(host, &want, 2048)
    }
}

/// A packet as it was delivered: its header copied out, its payload where it is.
#[derive(Debug)]
pub struct Delivered {
    /// The bytes in the header slot.
    pub header: Vec<u8>,
    /// Offset in the region and length of each piece of payload.
    pub payload: Vec<(u64, usize)>,
    /// What else the daemon said.
    pub flags: devrx_client::CompletionFlags,
    /// The tag that the NIC took out.
    pub vlan: Option<u16>,
    /// The queue, counted within the attachment.
    pub queue: usize,
}

/// Receives until `count` packets are there, and keeps their chunks: none is used twice. Gives up after `limit`.
pub fn collect(
    attachment: &mut Attachment,
    count: usize,
    limit: Duration,
) -> Result<(Vec<Delivered>, Vec<devrx_client::Held>)> {
    let (mut found, mut held) = (Vec::new(), Vec::new());
    let end = Instant::now() + limit;
    while found.len() < count {
        let left = end.saturating_duration_since(Instant::now());
        ensure!(
            !left.is_zero(),
            "after {limit:?} {} of {count} packets are there",
            found.len()
        );
        let batch = attachment.recv(Some(left.min(Duration::from_millis(100))))?;
        for packet in &batch {
            let mut header = vec![0; packet.header_len()];
            ensure!(packet.copy_header(&mut header) == header.len());
            let pieces = packet.segments();
            found.push(Delivered {
                header,
                payload: pieces.map(|piece| (piece.offset, piece.len)).collect(),
                flags: packet.flags(),
                vlan: packet.vlan(),
                queue: batch.queue(),
            });
            held.extend(packet.hold());
        }
    }
    Ok((found, held))
}
