//! Little-endian fields of buffers that a driver wrote. Beyond a buffer's end is zero, and writes there do nothing.

pub(crate) fn get<const N: usize>(from: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    if let Some(rest) = from.get(at..) {
        let n = rest.len().min(N);
        out[..n].copy_from_slice(&rest[..n]);
    }
    out
}

pub(crate) fn u8_at(from: &[u8], at: usize) -> u8 {
    from.get(at).copied().unwrap_or(0)
}

pub(crate) fn u16_at(from: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(get(from, at))
}

pub(crate) fn u32_at(from: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(get(from, at))
}

pub(crate) fn u64_at(from: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(get(from, at))
}

/// Network byte order.
pub(crate) fn be16_at(from: &[u8], at: usize) -> u16 {
    u16::from_be_bytes(get(from, at))
}

pub(crate) fn put(into: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(rest) = into.get_mut(at..) {
        let n = rest.len().min(bytes.len());
        rest[..n].copy_from_slice(&bytes[..n]);
    }
}

pub(crate) fn put16(into: &mut [u8], at: usize, value: u16) {
    put(into, at, &value.to_le_bytes());
}

pub(crate) fn put32(into: &mut [u8], at: usize, value: u32) {
    put(into, at, &value.to_le_bytes());
}

pub(crate) fn put64(into: &mut [u8], at: usize, value: u64) {
    put(into, at, &value.to_le_bytes());
}

/// `width` bits (64 at most) from bit `lsb` on, as queue contexts are packed.
pub(crate) fn bits(from: &[u8], lsb: usize, width: usize) -> u64 {
    let mut value = 0;
    for i in (0..width).rev() {
        let at = lsb + i;
        let bit = u8_at(from, at / 8) >> (at % 8) & 1;
        value = value << 1 | u64::from(bit);
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_buffers_read_as_zero_and_swallow_writes() {
        assert_eq!(u32_at(&[1, 2, 3], 1), 0x0302);
        assert_eq!(u16_at(&[1], 7), 0);
        let mut short = [0; 3];
        put32(&mut short, 2, 0xffff_ffff);
        put32(&mut short, 9, 0xffff_ffff);
        assert_eq!(short, [0, 0, 0xff]);
    }

    #[test]
    fn bits_cross_bytes() {
        assert_eq!(bits(&[0x80, 0x01], 7, 2), 3);
        assert_eq!(bits(&[0xff; 8], 3, 57), (1 << 57) - 1);
        assert_eq!(bits(&[0xff], 6, 4), 3);
    }
}
