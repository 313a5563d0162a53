//! Memory as a model of a NIC reaches it: an IOMMU.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use devrx_provider::MapWay;

use crate::DriverError;
use crate::device::{Mapper, Memory};

pub(crate) const WAYS: &[MapWay] = &[MapWay::HostAddress, MapWay::PfnAddress];

/// One mapping: where it begins in the memory, and how long it is.
#[derive(Debug)]
struct Entry {
    memory: Memory,
    start: usize,
    len: usize,
}

#[derive(Debug, Default)]
struct Table {
    entries: BTreeMap<u64, Entry>,
    next: u64,
}

/// Translates a model's addresses and refuses those that are not mapped.
#[derive(Debug, Default)]
pub(crate) struct Iommu {
    table: Mutex<Table>,
    faults: AtomicU64,
}

impl Iommu {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    pub(crate) fn mapped(&self) -> usize {
        self.table().entries.values().map(|entry| entry.len).sum()
    }

    fn reach(&self, iova: u64, len: usize, go: impl FnOnce(&Memory, usize) -> bool) -> bool {
        let table = self.table();
        let done = table
            .entries
            .range(..=iova)
            .next_back()
            .is_some_and(|(base, entry)| {
                let within = (iova - base) as usize;
                within.checked_add(len).is_some_and(|end| end <= entry.len)
                    && go(&entry.memory, entry.start + within)
            });
        if !done {
            self.faults.fetch_add(1, Ordering::Relaxed);
        }
        done
    }

    /// Whether the device reaches the range.
    #[cfg(any(test, feature = "igb-model"))]
    pub(crate) fn covers(&self, iova: u64, len: usize) -> bool {
        let table = self.table();
        table
            .entries
            .range(..=iova)
            .next_back()
            .is_some_and(|(base, entry)| iova - base + len as u64 <= entry.len as u64)
    }

    /// The device writes. False if it is not let.
    pub(crate) fn write(&self, iova: u64, bytes: &[u8]) -> bool {
        self.reach(iova, bytes.len(), |memory, at| {
            memory
                .mapping()
                .is_some_and(|mapping| mapping.copy_in(at, bytes))
        })
    }

    /// The device reads. False, and zeros, if it is not let.
    pub(crate) fn read(&self, iova: u64, bytes: &mut [u8]) -> bool {
        self.reach(iova, bytes.len(), |memory, at| {
            memory
                .mapping()
                .is_some_and(|mapping| mapping.copy_out(at, bytes))
        })
    }

    /// Reads a word.
    #[cfg(any(test, feature = "igb-model"))]
    pub(crate) fn word(&self, iova: u64) -> u64 {
        let mut bytes = [0; 8];
        self.read(iova, &mut bytes);
        u64::from_le_bytes(bytes)
    }
}

impl Mapper for Iommu {
    fn map(&self, memory: &Memory, range: Range<usize>) -> Result<u64, DriverError> {
        let mut table = self.table();
        // Above 4 GiB, so that high halves of addresses count, and a hole behind every mapping.
        let iova = table.next.max(0x1_0010_0000);
        let len = range.end - range.start;
        table.next = iova + (len as u64).next_multiple_of(0x1000) + 0x1000;
        let entry = Entry {
            memory: memory.clone(),
            start: range.start,
            len,
        };
        table.entries.insert(iova, entry);
        Ok(iova)
    }

    fn unmap(&self, iova: u64, len: usize) -> Result<(), DriverError> {
        match self.table().entries.remove(&iova) {
            Some(entry) if entry.len == len => Ok(()),
            other => Err(DriverError::BadConfig {
                what: "range to unmap",
                value: format!("{iova:#x}, {len} bytes"),
                why: format!("mapped is {other:?}"),
            }),
        }
    }

    fn ways(&self) -> &'static [MapWay] {
        WAYS
    }
}
