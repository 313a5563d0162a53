//! Buffers of a package: DPDK `ice_ddp.h` (`struct ice_buf_hdr`, `ice_section_entry`).

use crate::bytes;

/// Bytes of a buffer.
pub(crate) const BUFFER: usize = 4096;
/// Sections of a buffer, at most.
const SECTIONS: usize = 511;
/// Bytes before the first section's data can begin.
const HEADER: usize = 12;

/// The buffer's sections, each its type and data; the reason if it is no such buffer.
pub(super) fn split(buffer: &[u8]) -> Result<Vec<(u32, &[u8])>, String> {
    let count = usize::from(bytes::u16_at(buffer, 0));
    let end = usize::from(bytes::u16_at(buffer, 2));
    if count == 0 || count > SECTIONS {
        return Err(format!("{count} sections; 1 to {SECTIONS} go"));
    }
    if !(HEADER..=BUFFER).contains(&end) || end > buffer.len() {
        return Err(format!("its data ends at byte {end}"));
    }
    (0..count)
        .map(|i| {
            let at = 4 + i * 8;
            let from = usize::from(bytes::u16_at(buffer, at + 4));
            let len = usize::from(bytes::u16_at(buffer, at + 6));
            if from < HEADER || len == 0 || from + len > end {
                return Err(format!("section {i}: {len} bytes from {from} on"));
            }
            let data = buffer.get(from..from + len).unwrap_or_default();
            Ok((bytes::u32_at(buffer, at), data))
        })
        .collect()
}
