//! The Internet checksum (RFC 1071) and the frame check sequence (IEEE 802.3).

use crate::bytes;
use crate::frame::{Frame, Ip, Layer4};

/// Sum of 16-bit words in network byte order, folded.
pub(crate) fn sum(parts: &[&[u8]]) -> u16 {
    let mut total = 0_u64;
    for part in parts {
        let mut words = part.chunks_exact(2);
        for word in &mut words {
            total += u64::from(u16::from_be_bytes([word[0], word[1]]));
        }
        if let [last] = words.remainder() {
            total += u64::from(*last) << 8;
        }
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// The pseudo header that TCP and UDP sum over.
pub(crate) fn pseudo_header(frame: &[u8], ip: Ip, len: usize, protocol: u8) -> Vec<u8> {
    let (from, to) = if ip.version == 4 {
        (ip.at + 12, ip.at + 20)
    } else {
        (ip.at + 8, ip.at + 40)
    };
    let mut out = frame.get(from..to).unwrap_or_default().to_vec();
    out.extend_from_slice(&(len as u32).to_be_bytes());
    out.extend_from_slice(&[0, 0, 0, protocol]);
    out
}

/// Whether a packet's checksums are wrong: of the IPv4 header, of TCP or UDP. None without an IP header.
pub(crate) fn verdict(frame: &Frame<'_>) -> Option<(bool, bool)> {
    let ip = frame.ip?;
    let header = frame.bytes.get(ip.at..ip.end).unwrap_or_default();
    let bad_ip = ip.version == 4 && sum(&[header]) != 0xffff;
    let bad_l4 = match frame.l4 {
        Some((layer @ (Layer4::Udp | Layer4::Tcp), at, _)) => {
            let data = frame.bytes.get(at..ip.packet_end).unwrap_or_default();
            let unused = layer == Layer4::Udp && bytes::be16_at(data, 6) == 0 && ip.version == 4;
            let pseudo = pseudo_header(frame.bytes, ip, data.len(), ip.protocol);
            !unused && sum(&[&pseudo, data]) != 0xffff
        }
        _ => false,
    };
    Some((bad_ip, bad_l4))
}

/// The frame check sequence as it is on the wire.
pub(crate) fn crc(frame: &[u8]) -> [u8; 4] {
    let mut crc = u32::MAX;
    for byte in frame {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            let low = crc & 1;
            crc >>= 1;
            if low != 0 {
                crc ^= 0xedb8_8320;
            }
        }
    }
    (!crc).to_le_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_values() {
        assert_eq!(crc(b"123456789"), 0xcbf4_3926_u32.to_le_bytes());
        assert_eq!(
            sum(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]),
            0xddf2
        );
    }
}
