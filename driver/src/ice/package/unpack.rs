//! Packages as distributions compress them: Linux's firmware loader takes `.zst` and `.xz` too, and several ship nothing else.

use std::io::Read;

use lzma_rust2::XzReader;
use ruzstd::decoding::StreamingDecoder;

/// How a Zstandard frame begins (RFC 8878, 3.1.1).
const ZSTD: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
/// How an xz file begins (The .xz File Format 1.2.1, 2.1.1.1).
const XZ: &[u8] = &[0xfd, b'7', b'z', b'X', b'Z', 0];

/// What a file holds, unpacked if its first bytes say that it is packed; an error in words if that fails, or if there are more bytes than
/// `most`.
pub(super) fn plain(bytes: Vec<u8>, most: u64) -> Result<Vec<u8>, String> {
    if bytes.starts_with(ZSTD) {
        zstd(&bytes, most)
    } else if bytes.starts_with(XZ) {
        bounded("xz", XzReader::new(bytes.as_slice(), true), most)
    } else {
        Ok(bytes)
    }
}

fn zstd(bytes: &[u8], most: u64) -> Result<Vec<u8>, String> {
    let unpacking = StreamingDecoder::new(bytes);
    let mut unpacking = unpacking.map_err(|error| failed("zstd", &error))?;
    let out = bounded("zstd", &mut unpacking, most)?;
    // Comparing is left to the caller. A frame need not have a checksum; the tools write one.
    let frame = &unpacking.decoder;
    let wanted = frame.get_checksum_from_data();
    if wanted.is_some() && wanted != frame.get_calculated_checksum() {
        return Err(failed("zstd", &"its checksum is wrong"));
    }
    Ok(out)
}

/// A few bytes can unpack to any number of them.
fn bounded(how: &str, from: impl Read, most: u64) -> Result<Vec<u8>, String> {
    let mut out = Vec::new();
    from.take(most + 1)
        .read_to_end(&mut out)
        .map_err(|error| failed(how, &error))?;
    if out.len() as u64 > most {
        return Err(format!("unpacked ({how}) it has more than {most} bytes"));
    }
    Ok(out)
}

fn failed(how: &str, error: &dyn std::fmt::Display) -> String {
    format!("it cannot be unpacked ({how}): {error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `seq 1 40`, by `zstd -19` 1.5.4.
    const PACKED_ZSTD: &[u8] = &[
        0x28, 0xb5, 0x2f, 0xfd, 4, 0x68, 0xcd, 1, 0, 0xf2, 0x46, 0xd, 9, 0xb0, 0xeb, 0x24, 0x49,
        0x88, 0x70, 0x52, 0x98, 0x75, 0x83, 0x7c, 0xb1, 0xc5, 0x15, 0x53, 0x3c, 0xb1, 0xc4, 0x11,
        0x37, 0x66, 0xc, 0xf1, 0x75, 0xeb, 0xd5, 0xa9, 0x4f, 0x97, 0x1e, 0xbd, 0x9d, 0x1d, 0xfa,
        0x71, 0xe3, 0xc5, 0x89, 0xf, 0x17, 0x1e, 0xbc, 0x9c, 0x1c, 0xf8, 0x6d, 0xd7, 0xf4, 0x2c,
        0xc7, 0x9d, 1, 0, 0x99, 0x32, 0xff, 0xf3,
    ];
    /// The same, by `xz --check=crc32` 5.4.1, as Linux wants it (Documentation/staging/xz.rst).
    const PACKED_XZ: &[u8] = &[
        0xfd, 0x37, 0x7a, 0x58, 0x5a, 0, 0, 1, 0x69, 0x22, 0xde, 0x36, 2, 0, 0x21, 1, 0x16, 0, 0,
        0, 0x74, 0x2f, 0xe5, 0xa3, 0xe0, 0, 0x6e, 0, 0x4e, 0x5d, 0, 0x18, 0x82, 0x82, 0x8f, 0x22,
        0x4e, 0xf8, 0xa6, 0x55, 0xf7, 0xf0, 0x99, 0xa5, 0x25, 0xd, 0x90, 0x45, 0x91, 0x5a, 0x51,
        0xb4, 0x9b, 0xca, 0xac, 0xdc, 5, 0x32, 0xec, 0x85, 0x52, 0x9f, 0xb1, 0x48, 0x6d, 0xef,
        0xdc, 0xe8, 0x4b, 0xb9, 0x61, 0xba, 0xe0, 0x9c, 0x53, 0x7f, 0x98, 0xc8, 0xa9, 0x54, 0xe,
        0xfc, 0x3d, 0x2a, 0xd3, 6, 0xd7, 0x66, 0x44, 0x3d, 0x56, 0x64, 0xa6, 0xcd, 0x3d, 0xd7,
        0xc7, 0x1f, 0x44, 0xf4, 0x18, 0xe0, 0xf, 0xbf, 0xbe, 5, 0xfa, 0xc5, 0, 0, 0, 0, 0xef, 0xb4,
        0xd0, 0xe4, 0, 1, 0x66, 0x6f, 0xc3, 5, 0x2c, 0xce, 0x90, 0x42, 0x99, 0xd, 1, 0, 0, 0, 0, 1,
        0x59, 0x5a,
    ];

    fn numbers() -> Vec<u8> {
        let lines: Vec<String> = (1..=40).map(|number| format!("{number}\n")).collect();
        lines.concat().into_bytes()
    }

    #[test]
    fn what_the_tools_packed_is_unpacked() {
        for packed in [PACKED_ZSTD, PACKED_XZ] {
            assert_eq!(plain(packed.to_vec(), 1000).unwrap(), numbers());
        }
        assert_eq!(plain(numbers(), 1000).unwrap(), numbers());
    }

    #[test]
    fn what_unpacks_to_too_much_is_refused() {
        let len = numbers().len() as u64;
        for packed in [PACKED_ZSTD, PACKED_XZ] {
            assert!(plain(packed.to_vec(), len).is_ok());
            let why = plain(packed.to_vec(), len - 1).unwrap_err();
            assert!(why.contains("more than"), "{why}");
        }
    }

    #[test]
    fn whatever_is_cut_off_or_changed_is_an_error_and_no_panic() {
        for packed in [PACKED_ZSTD, PACKED_XZ] {
            for len in 6..packed.len() {
                assert!(plain(packed[..len].to_vec(), 1000).is_err(), "{len}");
            }
            for at in 6..packed.len() {
                for value in [0, 1, 0x7f, 0xff] {
                    let mut bytes = packed.to_vec();
                    if std::mem::replace(&mut bytes[at], value) == value {
                        continue;
                    }
                    // Some bytes change nothing.
                    if let Ok(out) = plain(bytes, 1000) {
                        assert_eq!(out, numbers(), "byte {at}");
                    }
                }
            }
        }
    }
}
