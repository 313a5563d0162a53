//! The guest's memory, as far as the IOMMU lets the device reach it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};

use crate::{Dma, Unmapped};

/// A range of the device's addresses, and what is behind it.
#[derive(Debug, Clone)]
pub struct Mapping {
    size: u64,
    /// Which of the client's files. `None`: the client gave none, so that nothing can be reached.
    file: Option<Arc<File>>,
    offset: u64,
    readable: bool,
    writable: bool,
}

/// All maps, and the files behind them: each once, however many maps there are.
#[derive(Debug, Default)]
struct Maps {
    by_address: BTreeMap<u64, Mapping>,
    /// By device and inode.
    files: BTreeMap<(u64, u64), Arc<File>>,
}

/// The memory of a client. Accesses go through its files (pread, pwrite), so nothing is mapped here.
#[derive(Debug, Default)]
pub struct GuestMemory {
    maps: RwLock<Maps>,
    refused: AtomicU64,
}

/// Flags of `DMA_MAP`.
const READ: u32 = 1;
const WRITE: u32 = 2;

impl GuestMemory {
    /// Maps; `flags` as in the message.
    ///
    /// # Errors
    ///
    /// An empty range or one past the end of addresses, or what fstat says of the file.
    pub fn map(
        &self,
        address: u64,
        size: u64,
        file: Option<File>,
        offset: u64,
        flags: u32,
    ) -> io::Result<()> {
        if size == 0 || address.checked_add(size - 1).is_none() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
        let file = match file {
            Some(file) => {
                let data = file.metadata()?;
                let key = (data.dev(), data.ino());
                Some(
                    maps.files
                        .entry(key)
                        .or_insert_with(|| Arc::new(file))
                        .clone(),
                )
            }
            None => None,
        };
        let mapping = Mapping {
            size,
            file,
            offset,
            readable: flags & READ != 0,
            writable: flags & WRITE != 0,
        };
        maps.cut(address, size);
        maps.by_address.insert(address, mapping);
        Ok(())
    }

    /// Takes a range away, whether or not anything is mapped in it.
    pub fn unmap(&self, address: u64, size: u64) {
        let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
        maps.cut(address, size);
    }

    /// Takes everything away.
    pub fn clear(&self) {
        *self.maps.write().unwrap_or_else(PoisonError::into_inner) = Maps::default();
    }

    /// How many maps there are.
    #[must_use]
    pub fn count(&self) -> usize {
        let maps = self.maps.read().unwrap_or_else(PoisonError::into_inner);
        maps.by_address.len()
    }

    /// How many accesses of the device were refused.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Calls `go` with each piece of a range: the file, where in it, and which bytes of the range.
    fn walk(
        &self,
        address: u64,
        len: usize,
        may: impl Fn(&Mapping) -> bool,
        mut go: impl FnMut(&File, u64, std::ops::Range<usize>) -> io::Result<()>,
    ) -> Result<(), Unmapped> {
        let maps = self.maps.read().unwrap_or_else(PoisonError::into_inner);
        let mut done = 0;
        while done < len {
            let piece = address
                .checked_add(done as u64)
                .and_then(|at| maps.at(at).filter(|(_, mapping)| may(mapping)));
            let reached = piece.and_then(|(inside, mapping)| {
                let file = mapping.file.as_ref()?;
                let left = usize::try_from(mapping.size - inside).unwrap_or(usize::MAX);
                let end = done + left.min(len - done);
                go(file, mapping.offset + inside, done..end).ok()?;
                Some(end)
            });
            let Some(end) = reached else {
                self.refused.fetch_add(1, Ordering::Relaxed);
                tracing::debug!("DMA to {address:#x}, {len} bytes, after {done}: no such memory");
                return Err(Unmapped { address, len });
            };
            done = end;
        }
        Ok(())
    }
}

impl Maps {
    /// The map with this address, and how far the address is in it.
    fn at(&self, address: u64) -> Option<(u64, &Mapping)> {
        let (start, mapping) = self.by_address.range(..=address).next_back()?;
        let inside = address - start;
        (inside < mapping.size).then_some((inside, mapping))
    }

    /// Takes a range out; maps that reach over its ends keep what is outside.
    fn cut(&mut self, address: u64, size: u64) {
        let Some(last) = size.checked_sub(1).map(|less| address.saturating_add(less)) else {
            return;
        };
        let before = self.by_address.range(..address).next_back();
        let first = before
            .filter(|(start, mapping)| **start + (mapping.size - 1) >= address)
            .map_or(address, |(start, _)| *start);
        let hit: Vec<u64> = self
            .by_address
            .range(first..=last)
            .map(|(at, _)| *at)
            .collect();
        for start in hit {
            let Some(mapping) = self.by_address.remove(&start) else {
                continue;
            };
            let end = start + (mapping.size - 1);
            if start < address {
                let front = Mapping {
                    size: address - start,
                    ..mapping.clone()
                };
                self.by_address.insert(start, front);
            }
            if end > last {
                let back = Mapping {
                    size: end - last,
                    offset: mapping.offset + (last + 1 - start),
                    ..mapping
                };
                self.by_address.insert(last + 1, back);
            }
        }
    }
}

impl Dma for GuestMemory {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Unmapped> {
        let may = |mapping: &Mapping| mapping.readable;
        self.walk(address, into.len(), may, |file, at, range| {
            file.read_exact_at(&mut into[range], at)
        })
    }

    fn write(&self, address: u64, from: &[u8]) -> Result<(), Unmapped> {
        let may = |mapping: &Mapping| mapping.writable;
        self.walk(address, from.len(), may, |file, at, range| {
            file.write_all_at(&from[range], at)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(bytes: &[u8]) -> File {
        let name = c"devrx-e810-test";
        let fd = rustix::fs::memfd_create(name, rustix::fs::MemfdFlags::CLOEXEC).unwrap();
        let file = File::from(fd);
        file.write_all_at(bytes, 0).unwrap();
        file
    }

    fn read(memory: &GuestMemory, at: u64, len: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len];
        memory.read(at, &mut bytes).ok().map(|()| bytes)
    }

    #[test]
    fn an_access_goes_over_maps_that_touch_and_no_further() {
        let memory = GuestMemory::default();
        let backing = file(b"0123456789abcdef");
        memory
            .map(0x1000, 4, backing.try_clone().ok(), 8, READ)
            .unwrap();
        memory
            .map(0x1004, 4, backing.try_clone().ok(), 0, READ | WRITE)
            .unwrap();
        assert_eq!(read(&memory, 0x1002, 4).as_deref(), Some(&b"ab01"[..]));
        assert_eq!(read(&memory, 0x1006, 3), None);
        assert_eq!(read(&memory, 0xfff, 2), None);
        assert!(memory.write(0x1004, b"xy").is_ok());
        // Mapped for reading only.
        assert!(memory.write(0x1003, b"x").is_err());
        assert_eq!(memory.refused(), 3);
        let mut bytes = [0; 16];
        backing.read_exact_at(&mut bytes, 0).unwrap();
        assert_eq!(&bytes, b"xy23456789abcdef");
    }

    #[test]
    fn what_is_unmapped_is_gone_and_the_rest_stays() {
        let memory = GuestMemory::default();
        memory
            .map(0x1000, 16, Some(file(b"0123456789abcdef")), 0, READ)
            .unwrap();
        memory.unmap(0x1004, 4);
        assert_eq!(read(&memory, 0x1000, 4).as_deref(), Some(&b"0123"[..]));
        assert_eq!(read(&memory, 0x1008, 8).as_deref(), Some(&b"89abcdef"[..]));
        assert_eq!(read(&memory, 0x1003, 2), None);
        // Ranges where nothing is are no error, and the end of addresses is no overflow.
        memory.unmap(0x10_0000_0000, 0x10_0000_0000);
        memory.unmap(0, u64::MAX);
        assert_eq!(memory.count(), 0);
        assert!(memory.map(u64::MAX, 2, None, 0, READ).is_err());
    }
}
