//! What a container's IOMMU can do: the answer of `VFIO_IOMMU_GET_INFO`, taken apart.

use vfio_bindings::bindings::vfio as uapi;

/// The IOMMU behind a container.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct IommuInfo {
    /// The page sizes it has, one bit each; the lowest is the granule of every mapping.
    pub page_sizes: u64,
    /// The windows that it translates, first to last address, without what is reserved (the MSI window). The whole 64 bits where the kernel does
    /// not tell (before Linux 5.4).
    pub windows: Vec<(u64, u64)>,
    /// How many mappings may still be made; `None` where the kernel does not tell (before Linux 5.10).
    pub mappings_left: Option<u32>,
}

impl IommuInfo {
    /// The smallest page, bytes.
    #[must_use]
    pub fn page(&self) -> u64 {
        match self.page_sizes {
            0 => devrx_provider::page_size(),
            sizes => 1 << sizes.trailing_zeros(),
        }
    }

    /// The highest address it translates.
    #[must_use]
    pub fn last(&self) -> u64 {
        self.windows
            .iter()
            .map(|&(_, last)| last)
            .max()
            .unwrap_or(0)
    }

    /// Reads `struct vfio_iommu_type1_info` and the chain of capabilities behind it. What is cut off or goes in circles is left out.
    pub(super) fn parse(bytes: &[u8]) -> Self {
        let mut info = Self {
            windows: vec![(0, u64::MAX)],
            ..Self::default()
        };
        let flags = u32_at(bytes, 4).unwrap_or(0);
        if flags & uapi::VFIO_IOMMU_INFO_PGSIZES != 0 {
            info.page_sizes = u64_at(bytes, 8).unwrap_or(0);
        }
        if flags & uapi::VFIO_IOMMU_INFO_CAPS == 0 {
            return info;
        }
        // cap_offset, then struct vfio_info_cap_header { u16 id, u16 version, u32 next }.
        let mut at = u32_at(bytes, 16).unwrap_or(0) as usize;
        for _ in 0..64 {
            let Some(word) = u32_at(bytes, at).filter(|_| at != 0) else {
                break;
            };
            match word & 0xffff {
                uapi::VFIO_IOMMU_TYPE1_INFO_CAP_IOVA_RANGE => {
                    info.windows = windows(bytes, at).unwrap_or_default();
                }
                uapi::VFIO_IOMMU_TYPE1_INFO_DMA_AVAIL => {
                    info.mappings_left = u32_at(bytes, at + 8);
                }
                _ => {}
            }
            at = u32_at(bytes, at + 4).unwrap_or(0) as usize;
        }
        info
    }
}

/// `struct vfio_iommu_type1_info_cap_iova_range`: header, nr_iovas, reserved, then { u64 start, u64 end, inclusive }.
fn windows(bytes: &[u8], at: usize) -> Option<Vec<(u64, u64)>> {
    let count = u32_at(bytes, at + 8)? as usize;
    let first = at + 16;
    let ranges = bytes.get(first..)?.chunks_exact(16).take(count);
    Some(
        ranges
            .filter_map(|range| Some((u64_at(range, 0)?, u64_at(range, 8)?)))
            .filter(|(start, end)| start <= end)
            .collect(),
    )
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    let four = bytes.get(at..at.checked_add(4)?)?;
    Some(u32::from_ne_bytes(four.try_into().ok()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    let eight = bytes.get(at..at.checked_add(8)?)?;
    Some(u64::from_ne_bytes(eight.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What Linux answers: the head, then a capability of unknown kind, the windows, the mappings left.
    fn answer() -> Vec<u8> {
        let mut bytes = Vec::new();
        let u32s = |bytes: &mut Vec<u8>, words: &[u32]| {
            bytes.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        };
        let u64s = |bytes: &mut Vec<u8>, words: &[u64]| {
            bytes.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
        };
        u32s(&mut bytes, &[0, 3]);
        u64s(&mut bytes, &[0x4020_1000]);
        u32s(&mut bytes, &[24, 0]);
        // At 24: migration, 16 bytes cut short.
        u32s(&mut bytes, &[2 | 1 << 16, 40, 0, 0]);
        // At 40.
        u32s(&mut bytes, &[1 | 1 << 16, 88, 2, 0]);
        u64s(&mut bytes, &[0, 0xfedf_ffff, 0xfef0_0000, 0xffff_ffff_ffff]);
        // At 88.
        u32s(&mut bytes, &[3 | 1 << 16, 0, 65535, 0]);
        bytes
    }

    #[test]
    fn windows_and_page_sizes_are_read() {
        let info = IommuInfo::parse(&answer());
        assert_eq!(info.page(), 4096);
        assert_eq!(
            info.windows,
            [(0, 0xfedf_ffff), (0xfef0_0000, 0xffff_ffff_ffff)]
        );
        assert_eq!(info.last(), 0xffff_ffff_ffff);
        assert_eq!(info.mappings_left, Some(65535));
    }

    #[test]
    fn no_capabilities_leave_the_whole_space() {
        let mut bytes = answer();
        bytes[4] = 1;
        let info = IommuInfo::parse(&bytes);
        assert_eq!(info.windows, [(0, u64::MAX)]);
        assert_eq!(info.mappings_left, None);
    }

    #[test]
    fn answers_that_are_cut_or_circular_end() {
        let whole = answer();
        for len in 0..whole.len() {
            let _ = IommuInfo::parse(&whole[..len]);
        }
        let mut circular = whole.clone();
        circular[44..48].copy_from_slice(&40_u32.to_ne_bytes());
        assert_eq!(IommuInfo::parse(&circular).windows.len(), 2);
        let mut far = whole;
        far[16..20].copy_from_slice(&u32::MAX.to_ne_bytes());
        assert_eq!(IommuInfo::parse(&far).windows, [(0, u64::MAX)]);
    }
}
