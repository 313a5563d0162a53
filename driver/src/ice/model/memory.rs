//! Memory as the model reaches it: an IOMMU.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use devrx_e810_model::{Dma, Unmapped};
use devrx_provider::MapWay;

use crate::DriverError;
use crate::device::{Mapper, Memory};

pub(super) const WAYS: &[MapWay] = &[MapWay::HostAddress, MapWay::PfnAddress];

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

/// Translates the model's addresses and refuses those that are not mapped.
#[derive(Debug, Default)]
pub(super) struct Iommu {
    table: Mutex<Table>,
    faults: AtomicU64,
}

impl Iommu {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn faults(&self) -> u64 {
        self.faults.load(Ordering::Relaxed)
    }

    pub(super) fn mapped(&self) -> usize {
        self.table().entries.values().map(|entry| entry.len).sum()
    }

    fn reach(
        &self,
        iova: u64,
        len: usize,
        go: impl FnOnce(&Memory, usize) -> bool,
    ) -> Result<(), Unmapped> {
        let table = self.table();
        let entry = table.entries.range(..=iova).next_back();
        let done = entry.is_some_and(|(base, entry)| {
            let within = (iova - base) as usize;
            within.checked_add(len).is_some_and(|end| end <= entry.len)
                && go(&entry.memory, entry.start + within)
        });
        if done {
            return Ok(());
        }
        self.faults.fetch_add(1, Ordering::Relaxed);
        Err(Unmapped { address: iova, len })
    }
}

impl Dma for Iommu {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Unmapped> {
        let len = into.len();
        self.reach(address, len, |memory, at| {
            memory
                .mapping()
                .is_some_and(|mapping| mapping.copy_out(at, into))
        })
    }

    fn write(&self, address: u64, from: &[u8]) -> Result<(), Unmapped> {
        self.reach(address, from.len(), |memory, at| {
            memory
                .mapping()
                .is_some_and(|mapping| mapping.copy_in(at, from))
        })
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
