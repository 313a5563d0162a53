//! Numbered UDP frames: made by the sender, recognised in what a client received.

use anyhow::{Context, Result, bail};

use crate::link::{FAR_MAC, NEAR_MAC};

/// Bytes of Ethernet, IPv4 and UDP header in front of the payload.
pub const HEADERS: usize = 42;
/// The smallest payload: its number.
pub const NUMBER: usize = 8;

/// One IPv4 UDP frame from 10.77.0.2 to 10.77.0.1 and `port`, of `payload` bytes (at least [`NUMBER`]) that start with
/// `number` and go on with a pattern made from it. No UDP checksum, a right IPv4 one.
#[must_use]
pub fn numbered(port: u16, number: u64, payload: usize) -> Vec<u8> {
    numbered_to(NEAR_MAC, port, number, payload)
}

/// The same to another MAC address.
#[must_use]
pub fn numbered_to(mac: [u8; 6], port: u16, number: u64, payload: usize) -> Vec<u8> {
    let payload = payload.max(NUMBER);
    let mut frame = Vec::with_capacity(HEADERS + payload);
    frame.extend(mac);
    frame.extend(FAR_MAC);
    frame.extend([8, 0, 0x45, 0]);
    frame.extend(length(payload + 28));
    frame.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 10, 77, 0, 2, 10, 77, 0, 1]);
    let sum = checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame.extend(4000_u16.to_be_bytes());
    frame.extend(port.to_be_bytes());
    frame.extend(length(payload + 8));
    frame.extend([0, 0]);
    frame.extend(number.to_be_bytes());
    frame.extend((NUMBER..payload).map(|at| pattern(number, at)));
    frame
}

/// The number of a frame made by [`numbered`], after checking every byte of it.
pub fn check(frame: &[u8], port: u16) -> Result<u64> {
    check_to(NEAR_MAC, frame, port)
}

/// The same for a frame made by [`numbered_to`].
pub fn check_to(mac: [u8; 6], frame: &[u8], port: u16) -> Result<u64> {
    let number = frame
        .get(HEADERS..HEADERS + NUMBER)
        .context("shorter than a numbered frame")?;
    let number = u64::from_be_bytes(number.try_into()?);
    let want = numbered_to(mac, port, number, frame.len() - HEADERS);
    let damaged = frame.iter().zip(&want).position(|(a, b)| a != b);
    if let Some(at) = damaged {
        let until = frame.len().min(at + 16);
        bail!(
            "frame {number} to port {port} arrived damaged: from byte {at} of {} on it is {:02x?}, not {:02x?}",
            frame.len(),
            &frame[at..until],
            &want[at..until]
        );
    }
    Ok(number)
}

/// Whether this is an untagged IPv4 or IPv6 (without extension headers) UDP frame to `port`.
#[must_use]
pub fn is_udp_to(frame: &[u8], port: u16) -> bool {
    let (protocol, at) = match frame.get(12..15) {
        Some([8, 0, first]) => (23, 14 + usize::from(first & 15) * 4),
        Some([0x86, 0xdd, _]) => (20, 54),
        _ => return false,
    };
    frame.get(protocol) == Some(&17) && frame.get(at + 2..at + 4) == Some(&port.to_be_bytes()[..])
}

fn length(bytes: usize) -> [u8; 2] {
    u16::try_from(bytes)
        .expect("a payload of less than 64 KiB")
        .to_be_bytes()
}

fn pattern(number: u64, at: usize) -> u8 {
    (number as usize)
        .wrapping_mul(31)
        .wrapping_add(at.wrapping_mul(7)) as u8
}

fn checksum(header: &[u8]) -> u16 {
    let words = header
        .chunks(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum = words.fold(0, |sum, word| {
        let sum: u32 = sum + word;
        (sum & 0xffff) + (sum >> 16)
    });
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_numbered_frame_is_recognised_and_a_damaged_one_is_not() {
        let mut frame = numbered(5000, 77, 1000);
        assert_eq!(frame.len(), HEADERS + 1000);
        assert_eq!(check(&frame, 5000).unwrap(), 77);
        assert!(is_udp_to(&frame, 5000) && !is_udp_to(&frame, 5001));
        assert_eq!(checksum(&frame[14..34]), 0);
        frame[500] ^= 1;
        assert!(check(&frame, 5000).is_err());
    }
}
