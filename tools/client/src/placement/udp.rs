//! The end of a frame's UDP header.

/// A UDP datagram in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Udp {
    /// Where its header ends, in bytes from the frame's begin.
    pub(super) end: usize,
    /// Bytes behind its header, by its length field. What follows them in the frame is padding.
    pub(super) len: usize,
}

const VLAN: [u16; 3] = [0x8100, 0x88a8, 0x9100];
const UDP: u8 = 17;

fn u16_at(frame: &[u8], at: usize) -> Option<u16> {
    let bytes = frame.get(at..at + 2)?;
    Some(u16::from_be_bytes([bytes[0], bytes[1]]))
}

/// Finds the UDP header in a frame's first bytes. None: there is none, it is cut off, or the datagram is a fragment.
///
/// What lies before it is what header split knows (at most two VLAN tags, IPv4 with options, IPv6 with extension headers).
pub(super) fn find(frame: &[u8]) -> Option<Udp> {
    let mut at = 12;
    let mut kind = u16_at(frame, at)?;
    for _ in 0..2 {
        if VLAN.contains(&kind) {
            at += 4;
            kind = u16_at(frame, at)?;
        }
    }
    at += 2;
    let at = match kind {
        0x0800 => behind_ipv4(frame, at)?,
        0x86dd => behind_ipv6(frame, at)?,
        _ => return None,
    };
    let length = usize::from(u16_at(frame, at + 4)?);
    // The checksum is the last of the header.
    u16_at(frame, at + 6)?;
    Some(Udp {
        end: at + 8,
        len: length.checked_sub(8)?,
    })
}

fn behind_ipv4(frame: &[u8], at: usize) -> Option<usize> {
    let header = frame.get(at..at + 20)?;
    let words = usize::from(header[0] & 0x0f);
    // More fragments, or an offset. "Don't fragment" may be set.
    let fragment = u16::from_be_bytes([header[6], header[7]]) & 0x3fff != 0;
    (header[0] >> 4 == 4 && words >= 5 && header[9] == UDP && !fragment).then_some(at + 4 * words)
}

fn behind_ipv6(frame: &[u8], at: usize) -> Option<usize> {
    let header = frame.get(at..at + 40)?;
    if header[0] >> 4 != 6 {
        return None;
    }
    let (mut next, mut at) = (header[6], at + 40);
    // RFC 8200, section 4.
    for _ in 0..=8 {
        let len = match next {
            UDP => return Some(at),
            // Hop-by-hop, routing, destination options, mobility, HIP, Shim6: in units of 8 bytes, the first not counted.
            0 | 43 | 60 | 135 | 139 | 140 => 8 * (usize::from(*frame.get(at + 1)?) + 1),
            // Authentication (RFC 4302): in units of 4 bytes, the first two not counted.
            51 => 4 * (usize::from(*frame.get(at + 1)?) + 2),
            // A fragment header that says "whole".
            44 if u16_at(frame, at + 2)? & 0xfff9 == 0 => 8,
            _ => return None,
        };
        next = *frame.get(at)?;
        at += len;
    }
    None
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn frame(tags: usize, ip: &[u8]) -> Vec<u8> {
        let mut frame = vec![2; 12];
        for _ in 0..tags {
            frame.extend([0x81, 0, 0, 5]);
        }
        frame.extend(if ip[0] >> 4 == 4 {
            [0x08, 0x00]
        } else {
            [0x86, 0xdd]
        });
        frame.extend(ip);
        frame.extend([0, 1, 0, 2, 0, 8 + 5, 0, 0]);
        frame
    }

    /// With one tag of another kind.
    fn tagged(kind: u16, ip: &[u8]) -> Vec<u8> {
        let mut frame = frame(1, ip);
        frame[12..14].copy_from_slice(&kind.to_be_bytes());
        frame
    }

    fn ipv4(words: u8, protocol: u8, fragment: u16) -> Vec<u8> {
        let mut ip = vec![0; 4 * usize::from(words)];
        ip[0] = 0x40 | words;
        ip[6..8].copy_from_slice(&fragment.to_be_bytes());
        ip[9] = protocol;
        ip
    }

    fn ipv6(headers: &[(u8, &[u8])]) -> Vec<u8> {
        let mut ip = vec![0; 40];
        ip[0] = 0x60;
        let mut next = 6;
        for (kind, bytes) in headers {
            ip[next] = *kind;
            next = ip.len();
            ip.extend(*bytes);
        }
        ip[next] = UDP;
        ip
    }

    /// Frames with a UDP header behind all that may come before it, and with too much.
    pub(in super::super) fn frames() -> Vec<Vec<u8>> {
        let eight: Vec<(u8, &[u8])> = vec![(60, &[0; 8]); 8];
        let nine: Vec<(u8, &[u8])> = vec![(60, &[0; 8]); 9];
        let long: Vec<(u8, &[u8])> = vec![
            (0, &[0; 8]),
            (43, &[0; 8]),
            (135, &[0; 8]),
            (139, &[0; 8]),
            (140, &[0; 8]),
        ];
        vec![
            frame(0, &ipv4(5, UDP, 0x4000)),
            frame(2, &ipv4(15, UDP, 0)),
            frame(3, &ipv4(5, UDP, 0)),
            tagged(0x88a8, &ipv4(5, UDP, 0)),
            tagged(0x9100, &ipv6(&[])),
            tagged(0x9200, &ipv4(5, UDP, 0)),
            frame(0, &ipv4(5, UDP, 1)),
            frame(1, &ipv6(&[])),
            frame(
                0,
                &ipv6(&[
                    (0, &[0; 8]),
                    (44, &[0; 8]),
                    (51, &[0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
                ]),
            ),
            frame(0, &ipv6(&[(44, &[0, 0, 0, 1, 0, 0, 0, 0])])),
            frame(2, &ipv6(&eight)),
            frame(0, &ipv6(&nine)),
            frame(1, &ipv6(&long)),
        ]
    }

    #[test]
    fn finds_the_end_of_udp() {
        let udp = |end| Some(Udp { end, len: 5 });
        assert_eq!(find(&frame(0, &ipv4(5, UDP, 0x4000))), udp(42));
        assert_eq!(find(&frame(2, &ipv4(15, UDP, 0))), udp(90));
        assert_eq!(find(&frame(1, &ipv6(&[]))), udp(66));
        let extended = ipv6(&[
            (0, &[0, 0, 0, 0, 0, 0, 0, 0]),
            (44, &[0; 8]),
            (51, &[0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            (60, &[0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        ]);
        assert_eq!(find(&frame(0, &extended)), udp(62 + 8 + 8 + 12 + 16));
    }

    #[test]
    fn nothing_where_there_is_no_whole_datagram() {
        assert_eq!(find(&frame(0, &ipv4(5, 6, 0))), None);
        assert_eq!(find(&frame(0, &ipv4(4, UDP, 0))), None);
        // More fragments; a later one.
        assert_eq!(find(&frame(0, &ipv4(5, UDP, 0x2000))), None);
        assert_eq!(find(&frame(0, &ipv4(5, UDP, 1))), None);
        assert_eq!(
            find(&frame(0, &ipv6(&[(44, &[0, 0, 0, 1, 0, 0, 0, 0])]))),
            None
        );
        assert_eq!(find(&frame(3, &ipv4(5, UDP, 0))), None);
        // A length that has no room for the header.
        let mut short = frame(0, &ipv4(5, UDP, 0));
        short[39] = 7;
        assert_eq!(find(&short), None);
        // Cut off, anywhere.
        let whole = frame(1, &ipv6(&[(0, &[0; 8])]));
        assert!(find(&whole).is_some());
        for len in 0..whole.len() {
            assert_eq!(find(&whole[..len]), None, "{len}");
        }
    }
}
