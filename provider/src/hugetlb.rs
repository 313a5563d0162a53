//! Shared host memory in huge pages: fewer TLB misses, and fewer entries in an IOMMU.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd};

use nix::sys::memfd::MFdFlags;

use crate::memfd::{map_pages, new_file, seal, set_size, size_seals};
use crate::region::{Place, Traits};
use crate::{Flush, MapWay, MemoryKind, ProviderError, Region, RegionSpec};

pub(crate) const TRAITS: Traits = Traits {
    kind: MemoryKind::Hugetlb,
    ways: &[MapWay::HostAddress, MapWay::Memfd],
    flush: Flush::None,
    cpu_readable: true,
    no_way: None,
};

/// `HUGETLBFS_MAGIC` (linux/magic.h).
const MAGIC: i64 = 0x9584_58f6;

/// `MFD_HUGE_SHIFT` (linux/memfd.h): where the flags carry the page size's logarithm.
const HUGE_SHIFT: u32 = 26;

/// Makes a region of the machine's default huge pages; otherwise as [`memfd::create`](crate::memfd::create).
///
/// # Errors
///
/// As [`create_sized`].
pub fn create(name: &str, spec: RegionSpec) -> Result<Region, ProviderError> {
    create_sized(name, spec, default_page_size()?)
}

/// Makes a region of huge pages of `page` bytes: what the machine has under `/sys/kernel/mm/hugepages`, on x86-64 2 MiB and 1 GiB.
///
/// # Errors
///
/// [`ProviderError::Unavailable`] when the machine has no such pages, or not enough of them are reserved and free: the text has the command
/// that reserves them. [`ProviderError::BadSize`] when the size is no multiple of the page size.
pub fn create_sized(name: &str, spec: RegionSpec, page: u64) -> Result<Region, ProviderError> {
    spec.check()?;
    if !page.is_power_of_two() || page <= crate::page_size() {
        let why = "use a size that /sys/kernel/mm/hugepages lists".to_owned();
        return Err(ProviderError::BadSize {
            what: "the huge page size",
            value: page,
            why,
        });
    }
    if !spec.size.is_multiple_of(page) {
        let up = spec.size.checked_next_multiple_of(page).unwrap_or(page);
        let why = format!("use a multiple of the huge page size, such as {up}");
        return Err(ProviderError::BadSize {
            what: "the region's size",
            value: spec.size,
            why,
        });
    }
    let pool = PagePool::read(page)?;
    let want = spec.size / page;
    if pool.available() < want {
        return Err(pool.too_few(want));
    }
    let flags =
        MFdFlags::from_bits_retain(page.trailing_zeros() << HUGE_SHIFT) | MFdFlags::MFD_HUGETLB;
    let fd = new_file(name, flags)?;
    // Somebody else may take the pages in between: then the kernel says ENOMEM or ENOSPC, and the reason is the same.
    let too_few = |error| match error {
        ProviderError::Sys { source, .. }
            if matches!(source.raw_os_error(), Some(libc::ENOMEM | libc::ENOSPC)) =>
        {
            pool.too_few(want)
        }
        error => error,
    };
    set_size(fd.as_fd(), spec.size).map_err(too_few)?;
    let mapping = map_pages(fd.as_fd(), spec, page).map_err(too_few)?;
    seal(
        fd.as_fd(),
        size_seals()
            | nix::fcntl::SealFlag::F_SEAL_FUTURE_WRITE
            | nix::fcntl::SealFlag::F_SEAL_SEAL,
    )?;
    Ok(Region::new(TRAITS, spec, Place::file(fd), Some(mapping)))
}

/// Whether a descriptor is a file of huge pages.
pub(crate) fn is_hugetlb(fd: BorrowedFd<'_>) -> bool {
    nix::sys::statfs::fstatfs(fd).is_ok_and(|stat| stat.filesystem_type().0 == MAGIC)
}

/// The huge page size that the kernel uses where none is named, bytes.
///
/// # Errors
///
/// [`ProviderError::Unavailable`] where the kernel has no huge pages.
pub fn default_page_size() -> Result<u64, ProviderError> {
    let meminfo = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    parse_default(&meminfo).ok_or_else(|| ProviderError::Unavailable {
        what: "huge pages".to_owned(),
        fix: "this kernel is built without CONFIG_HUGETLBFS; use the memory kind memfd".to_owned(),
    })
}

fn parse_default(meminfo: &str) -> Option<u64> {
    let line = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("Hugepagesize:"))?;
    let kilobytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kilobytes.checked_mul(1024).filter(|&size| size > 0)
}

/// What the kernel says about the pages of one size.
#[derive(Clone, Copy, Debug)]
struct PagePool {
    page: u64,
    total: u64,
    free: u64,
    /// Free, but promised to mappings that exist.
    reserved: u64,
    /// How many may be allocated on demand.
    overcommit: u64,
    surplus: u64,
}

impl PagePool {
    fn read(page: u64) -> Result<Self, ProviderError> {
        let dir = format!("/sys/kernel/mm/hugepages/hugepages-{}kB", page / 1024);
        let number = |file: &str| -> Option<u64> {
            fs::read_to_string(format!("{dir}/{file}"))
                .ok()?
                .trim()
                .parse()
                .ok()
        };
        let Some(total) = number("nr_hugepages") else {
            return Err(ProviderError::Unavailable {
                what: format!("a huge page size of {page} bytes"),
                fix: format!("this machine has {}", sizes()),
            });
        };
        let get = |file| number(file).unwrap_or(0);
        Ok(Self {
            page,
            total,
            free: get("free_hugepages"),
            reserved: get("resv_hugepages"),
            overcommit: get("nr_overcommit_hugepages"),
            surplus: get("surplus_hugepages"),
        })
    }

    fn available(&self) -> u64 {
        self.free.saturating_sub(self.reserved) + self.overcommit.saturating_sub(self.surplus)
    }

    fn too_few(&self, want: u64) -> ProviderError {
        let kilobytes = self.page / 1024;
        let total = self.total + want - self.available().min(want);
        ProviderError::Unavailable {
            what: format!(
                "{want} free huge pages of {kilobytes} KiB ({} are free of {})",
                self.available(),
                self.total
            ),
            fix: format!(
                "reserve them with `echo {total} > /sys/kernel/mm/hugepages/hugepages-{kilobytes}kB/nr_hugepages` as root \
                 (early after boot, while memory is unfragmented), or use the memory kind memfd"
            ),
        }
    }
}

/// The sizes the machine has, for an error message.
fn sizes() -> String {
    let entries = fs::read_dir("/sys/kernel/mm/hugepages")
        .into_iter()
        .flatten()
        .flatten();
    let mut names: Vec<String> = entries
        .filter_map(|entry| {
            Some(
                entry
                    .file_name()
                    .to_str()?
                    .strip_prefix("hugepages-")?
                    .to_owned(),
            )
        })
        .collect();
    names.sort();
    if names.is_empty() {
        "none (use the memory kind memfd)".to_owned()
    } else {
        names.join(", ")
    }
}
