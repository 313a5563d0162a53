//! Addresses as a device sees them: which are free.

use std::collections::BTreeMap;

/// Below this nothing is handed out: 0 means "none" to some NICs, and a small number in a descriptor that was never filled in
/// shall fault.
const LOWEST: u64 = 1 << 20;

const HUGE_2M: u64 = 2 << 20;
const HUGE_1G: u64 = 1 << 30;

/// Hands out ranges within the windows that the IOMMU translates and that nothing is reserved in; lowest first.
#[derive(Debug)]
pub(super) struct IovaSpace {
    page: u64,
    /// Free ranges, start to end, exclusive. They do not touch one another.
    free: BTreeMap<u64, u64>,
}

impl IovaSpace {
    /// All of the `windows`, first to last address, in pages of `page` bytes, a power of two.
    pub(super) fn new(windows: &[(u64, u64)], page: u64) -> Self {
        debug_assert!(page.is_power_of_two());
        let mut space = Self {
            page,
            free: BTreeMap::new(),
        };
        for &(first, last) in windows {
            let start = first
                .max(LOWEST)
                .checked_next_multiple_of(page)
                .unwrap_or(u64::MAX);
            // The last page of 2^64 stays unused, so that an end always fits.
            let end = last.saturating_add(1) / page * page;
            if start < end {
                space.insert(start, end);
            }
        }
        space
    }

    /// Takes `len` bytes, rounded up to pages. They start on a multiple of the size, at most 1 GiB, as large pages need. `None`
    /// when no free range is large enough.
    pub(super) fn take(&mut self, len: u64) -> Option<u64> {
        if len == 0 {
            return None;
        }
        let len = len.checked_next_multiple_of(self.page)?;
        let align = alignment(len).max(self.page);
        let (start, end, at) = self.free.iter().find_map(|(&start, &end)| {
            let at = start.checked_next_multiple_of(align)?;
            (at.checked_add(len)? <= end).then_some((start, end, at))
        })?;
        self.free.remove(&start);
        if start < at {
            self.free.insert(start, at);
        }
        if at + len < end {
            self.free.insert(at + len, end);
        }
        Some(at)
    }

    /// Gives back what [`take`](Self::take) gave, with the same length.
    pub(super) fn give_back(&mut self, start: u64, len: u64) {
        let len = len.next_multiple_of(self.page);
        self.insert(start, start + len);
    }

    /// Adds a free range, joined with its neighbours.
    fn insert(&mut self, mut start: u64, mut end: u64) {
        if let Some((&before, &its_end)) = self.free.range(..=start).next_back()
            && its_end >= start
        {
            debug_assert!(its_end == start || before == start, "given back twice");
            start = before;
            end = end.max(its_end);
        }
        while let Some((&after, &its_end)) = self.free.range(start..).next()
            && after <= end
        {
            self.free.remove(&after);
            end = end.max(its_end);
        }
        self.free.insert(start, end);
    }

    /// Bytes free.
    #[cfg(test)]
    fn left(&self) -> u64 {
        self.free.iter().map(|(start, end)| end - start).sum()
    }
}

/// The size's power of two, below: an IOMMU's large page needs as much, and larger than 1 GiB none is.
fn alignment(len: u64) -> u64 {
    if len >= HUGE_1G {
        HUGE_1G
    } else if len >= HUGE_2M {
        HUGE_2M
    } else {
        len.next_power_of_two()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PAGE: u64 = 4096;

    #[test]
    fn windows_are_kept_and_zero_is_not_in_them() {
        // What QEMU's IOMMU has: the MSI window is not in it.
        let mut space = IovaSpace::new(&[(0, 0xfedf_ffff), (0xfef0_0000, 0xffff_ffff_ffff)], PAGE);
        assert_eq!(space.take(PAGE), Some(LOWEST));
        assert_eq!(space.take(0xfedf_ffff), Some(0x1_0000_0000));
        assert_eq!(space.take(1 << 48), None);
        assert_eq!(space.take(0), None);
        assert_eq!(space.take(u64::MAX), None);
        let mut whole = IovaSpace::new(&[(0, u64::MAX)], PAGE);
        assert!(whole.take(1 << 63).is_some());
        let mut none = IovaSpace::new(&[(5, 9), (0, 4095)], PAGE);
        assert_eq!(none.take(PAGE), None);
    }

    #[test]
    fn large_ranges_start_where_large_pages_do() {
        let mut space = IovaSpace::new(&[(0, (1 << 40) - 1)], PAGE);
        assert_eq!(space.take(PAGE), Some(LOWEST));
        assert_eq!(space.take(5 * PAGE), Some(LOWEST + 8 * PAGE));
        assert_eq!(space.take(3 * HUGE_2M), Some(HUGE_2M));
        assert_eq!(space.take(HUGE_1G + PAGE), Some(HUGE_1G));
        // The gaps are used by what fits.
        assert_eq!(space.take(PAGE), Some(LOWEST + PAGE));
    }

    #[derive(Clone, Debug)]
    enum Op {
        Take(u64),
        Give(usize),
    }

    fn ops() -> impl Strategy<Value = Vec<Op>> {
        let op = prop_oneof![
            (1_u64..60).prop_map(|pages| Op::Take(pages * PAGE - 7)),
            any::<usize>().prop_map(Op::Give),
        ];
        prop::collection::vec(op, 1..120)
    }

    proptest! {
        /// Against a table with one flag a page, which knows only what may be had.
        #[test]
        fn behaves_as_a_table_of_pages(ops in ops()) {
            let windows = [(0, LOWEST + 40 * PAGE - 1), (LOWEST + 45 * PAGE, LOWEST + 200 * PAGE - 1)];
            let usable = |page: u64| page < 40 || (45..200).contains(&page);
            let mut used = [false; 200];
            let mut held: Vec<(u64, u64)> = Vec::new();
            let mut space = IovaSpace::new(&windows, PAGE);
            for op in ops {
                match op {
                    Op::Take(len) => {
                        let pages = len.div_ceil(PAGE);
                        let align = pages.next_power_of_two();
                        let fits = |first: u64| (first..first + pages).all(|page| usable(page) && !used[page as usize]);
                        // LOWEST is a multiple of every alignment that is asked for here.
                        let expected = (0..200).step_by(align as usize).find(|&first| fits(first));
                        let got = space.take(len);
                        prop_assert_eq!(got, expected.map(|first| LOWEST + first * PAGE));
                        if let Some(first) = expected {
                            used[first as usize..(first + pages) as usize].fill(true);
                            held.push((first, len));
                        }
                    }
                    Op::Give(which) if !held.is_empty() => {
                        let (first, len) = held.swap_remove(which % held.len());
                        used[first as usize..(first + len.div_ceil(PAGE)) as usize].fill(false);
                        space.give_back(LOWEST + first * PAGE, len);
                    }
                    Op::Give(_) => {}
                }
                let free = (0..200).filter(|&page| usable(page) && !used[page as usize]).count() as u64;
                prop_assert_eq!(space.left(), free * PAGE);
            }
        }
    }
}
