//! A reader of classic pcap files, on purpose not the library the product writes them with.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

/// The frames of a capture, in order. Little- and big-endian, micro- and nanosecond files; Ethernet only.
pub fn read(path: &Path) -> Result<Vec<Vec<u8>>> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&bytes).with_context(|| format!("{} is not a capture this test reads", path.display()))
}

fn parse(bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
    let magic = bytes.get(..4).context("shorter than a pcap header")?;
    let big = match magic {
        [0xa1, 0xb2, 0xc3, 0xd4] | [0xa1, 0xb2, 0x3c, 0x4d] => true,
        [0xd4, 0xc3, 0xb2, 0xa1] | [0x4d, 0x3c, 0xb2, 0xa1] => false,
        other => bail!("magic {other:02x?}"),
    };
    let word = |at: usize| -> Result<usize> {
        let word: [u8; 4] = bytes.get(at..at + 4).context("cut off")?.try_into()?;
        Ok(if big {
            u32::from_be_bytes(word)
        } else {
            u32::from_le_bytes(word)
        } as usize)
    };
    ensure!(word(20)? == 1, "link type {}, not Ethernet", word(20)?);
    let (mut frames, mut at) = (Vec::new(), 24);
    while at < bytes.len() {
        let (captured, length) = (word(at + 8)?, word(at + 12)?);
        ensure!(
            captured == length,
            "frame {} was cut to {captured} of {length} bytes",
            frames.len()
        );
        frames.push(
            bytes
                .get(at + 16..at + 16 + captured)
                .context("the last frame is cut off")?
                .to_vec(),
        );
        at += 16 + captured;
    }
    Ok(frames)
}

/// Fails with the first difference unless `got` holds exactly the frames of `want` in order.
pub fn compare(want: &[Vec<u8>], got: &[Vec<u8>]) -> Result<()> {
    for (index, (want_frame, got_frame)) in want.iter().zip(got).enumerate() {
        if want_frame != got_frame {
            let byte = want_frame.iter().zip(got_frame).position(|(a, b)| a != b);
            let later = want
                .iter()
                .skip(index + 1)
                .position(|frame| frame == got_frame);
            bail!(
                "frame {index} differs at byte {byte:?}: sent {} bytes {:02x?}.., got {} bytes {:02x?}..{}",
                want_frame.len(),
                &want_frame[..want_frame.len().min(64)],
                got_frame.len(),
                &got_frame[..got_frame.len().min(64)],
                later.map_or(String::new(), |skip| format!(
                    " (which is sent frame {}: lost or reordered)",
                    index + 1 + skip
                )),
            );
        }
    }
    ensure!(
        want.len() == got.len(),
        "{} frames were sent, {} came out",
        want.len(),
        got.len()
    );
    Ok(())
}
