//! Reading captures (pcap and pcapng) and writing pcap.

use std::fs::File;
use std::io::{BufReader, BufWriter, Read, Seek, Write};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use pcap_file::pcap::{PcapHeader, PcapPacket, PcapReader, PcapWriter};
use pcap_file::pcapng::{Block, PcapNgReader};
use pcap_file::{DataLink, Endianness, TsResolution};

/// The longest frame a capture of ours may hold, bytes; the largest that tcpdump takes.
const SNAP_LENGTH: u32 = 262_144;

/// The frames of a capture, in its order.
pub struct Capture {
    /// The frames, Ethernet header first, without checksum.
    pub frames: Vec<Vec<u8>>,
    /// How many of them the capturing program had cut short.
    pub cut: usize,
}

impl Capture {
    /// Reads a whole capture.
    ///
    /// # Errors
    /// A file that cannot be read, is neither pcap nor pcapng, is damaged, holds no frame, or holds something else than Ethernet.
    pub fn read(path: &Path) -> Result<Self> {
        let mut file = File::open(path)
            .with_context(|| format!("cannot open the capture {}", path.display()))?;
        let mut magic = [0; 4];
        file.read_exact(&mut magic)
            .with_context(|| format!("{} is too short for a capture", path.display()))?;
        file.rewind()?;
        let reader = BufReader::new(file);
        // The type of a pcapng file's first block reads the same in both byte orders.
        let capture = if magic == [0x0a, 0x0d, 0x0d, 0x0a] {
            Self::pcapng(reader)
        } else {
            Self::pcap(reader)
        };
        let capture =
            capture.with_context(|| format!("cannot read the capture {}", path.display()))?;
        if capture.frames.is_empty() {
            bail!("the capture {} holds no frame", path.display());
        }
        Ok(capture)
    }

    fn pcap(reader: impl Read) -> Result<Self> {
        let mut reader = PcapReader::new(reader).context("this is neither pcap nor pcapng")?;
        ethernet(reader.header().datalink)?;
        let mut capture = Self {
            frames: Vec::new(),
            cut: 0,
        };
        // The raw form: many tools write snap lengths and fractions that the strict form refuses, and frames need neither.
        while let Some(packet) = reader.next_raw_packet() {
            let packet = packet
                .with_context(|| format!("it is damaged after frame {}", capture.frames.len()))?;
            capture.push(&packet.data, packet.orig_len);
        }
        Ok(capture)
    }

    fn pcapng(reader: impl Read) -> Result<Self> {
        let mut reader = PcapNgReader::new(reader).context("its section header is damaged")?;
        let mut capture = Self {
            frames: Vec::new(),
            cut: 0,
        };
        let mut links: Vec<DataLink> = Vec::new();
        while let Some(block) = reader.next_block() {
            let block = block
                .with_context(|| format!("it is damaged after frame {}", capture.frames.len()))?;
            match block {
                // Interfaces are numbered within their section.
                Block::SectionHeader(_) => links.clear(),
                Block::InterfaceDescription(interface) => links.push(interface.linktype),
                Block::EnhancedPacket(packet) => {
                    ethernet(
                        links
                            .get(packet.interface_id as usize)
                            .copied()
                            .context("a frame of an interface it does not describe")?,
                    )?;
                    capture.push(&packet.data, packet.original_len);
                }
                Block::SimplePacket(packet) => {
                    ethernet(
                        links
                            .first()
                            .copied()
                            .context("a frame of an interface it does not describe")?,
                    )?;
                    capture.push(&packet.data, packet.original_len);
                }
                _ => {}
            }
        }
        Ok(capture)
    }

    fn push(&mut self, frame: &[u8], original: u32) {
        self.cut += usize::from((frame.len() as u64) < u64::from(original));
        self.frames.push(frame.to_vec());
    }
}

fn ethernet(link: DataLink) -> Result<()> {
    if link != DataLink::ETHERNET {
        bail!(
            "its frames are {link:?}, not Ethernet; capture on an Ethernet interface (not on `any`)"
        );
    }
    Ok(())
}

/// Writes a pcap file with nanosecond timestamps.
pub struct Writer {
    inner: PcapWriter<BufWriter<File>>,
}

impl Writer {
    /// Creates the file, or empties it.
    ///
    /// # Errors
    /// What the file system answers.
    pub fn create(path: &Path) -> Result<Self> {
        let file = File::create(path)
            .with_context(|| format!("cannot create the capture {}", path.display()))?;
        let header = PcapHeader {
            snaplen: SNAP_LENGTH,
            datalink: DataLink::ETHERNET,
            ts_resolution: TsResolution::NanoSecond,
            endianness: Endianness::native(),
            ..PcapHeader::default()
        };
        Ok(Self {
            inner: PcapWriter::with_header(BufWriter::new(file), header)
                .context("cannot write the capture's header")?,
        })
    }

    /// Appends one frame; `timestamp` counts nanoseconds since 1970.
    ///
    /// # Errors
    /// A full disk, or a frame longer than a capture may hold.
    pub fn frame(&mut self, timestamp: u64, frame: &[u8]) -> Result<()> {
        let length = u32::try_from(frame.len()).context("a frame of more than 4 GiB")?;
        let packet = PcapPacket::new(Duration::from_nanos(timestamp), length, frame);
        self.inner
            .write_packet(&packet)
            .context("cannot write to the capture")?;
        Ok(())
    }

    /// Writes out what is buffered.
    ///
    /// # Errors
    /// A full disk.
    pub fn finish(self) -> Result<()> {
        self.inner
            .into_writer()
            .flush()
            .context("cannot write out the capture")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> std::path::PathBuf {
        std::env::temp_dir().join(format!("devrx-capture-{}-{name}", std::process::id()))
    }

    #[test]
    fn what_is_written_is_read_back() {
        let path = scratch("round.pcap");
        let frames: Vec<Vec<u8>> = (14..9019_usize)
            .step_by(997)
            .map(|length| (0..length).map(|i| i as u8).collect())
            .collect();
        let mut writer = Writer::create(&path).unwrap();
        for (i, frame) in frames.iter().enumerate() {
            writer
                .frame(1_700_000_000_123_456_789 + i as u64, frame)
                .unwrap();
        }
        writer.finish().unwrap();
        let read = Capture::read(&path).unwrap();
        let magic = std::fs::read(&path).unwrap()[..4].to_vec();
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read.frames, frames);
        assert_eq!(read.cut, 0);
        assert_eq!(
            u32::from_ne_bytes(magic.try_into().unwrap()),
            0xa1b2_3c4d,
            "nanosecond pcap"
        );
    }

    #[test]
    fn a_cut_frame_and_a_zero_snap_length_are_read() {
        let path = scratch("cut.pcap");
        let mut bytes: Vec<u8> = Vec::new();
        for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 0, 1, 1, 2, 16, 60] {
            bytes.extend(word.to_ne_bytes());
        }
        bytes.extend([7; 16]);
        std::fs::write(&path, &bytes).unwrap();
        let read = Capture::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        let damaged = Capture::read(&path);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(read.frames, vec![vec![7; 16]]);
        assert_eq!(read.cut, 1);
        assert!(damaged.is_err());
    }

    #[test]
    fn other_files_are_refused() {
        let path = scratch("other");
        for bytes in [&b""[..], &b"abc"[..], &[0x42; 100][..]] {
            std::fs::write(&path, bytes).unwrap();
            assert!(Capture::read(&path).is_err());
        }
        std::fs::remove_file(&path).unwrap();
    }
}
