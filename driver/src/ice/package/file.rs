//! A package's bytes. They come from a file that an administrator installed, and still nothing in them is believed that is not there.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::ice::admin::{BUFFER, full, half};

/// A segment for the E810 (`SEGMENT_TYPE_ICE_E810`).
const SEGMENT: u32 = 0x10;
/// The segment with the package's name (`SEGMENT_TYPE_METADATA`).
const METADATA: u32 = 0x1;
/// The section with the name and version of what is for the device (`ICE_SID_METADATA`).
const NAME: u32 = 1;
/// A section of no use to the device (`ICE_METADATA_BUF`).
const NOT_FOR_THE_DEVICE: u32 = 0x8000_0000;
/// Bytes before what is a segment's own.
const HEAD: usize = 44;
/// Segments and sections at most.
const MOST: usize = 511;

/// A version: major, minor, update, draft.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub(in crate::ice) struct Version {
    pub major: u8,
    pub minor: u8,
    pub update: u8,
    pub draft: u8,
}

impl Version {
    /// The first four of `bytes`.
    pub(super) fn of(bytes: &[u8]) -> Self {
        let &[major, minor, update, draft, ..] = bytes else {
            return Self::default();
        };
        Self {
            major,
            minor,
            update,
            draft,
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            major,
            minor,
            update,
            draft,
        } = self;
        write!(f, "{major}.{minor}.{update}.{draft}")
    }
}

/// A text that ends with its bytes or with a zero.
pub(super) fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0);
    String::from_utf8_lossy(&bytes[..end.unwrap_or(bytes.len())]).into_owned()
}

/// A package.
pub(in crate::ice) struct Package {
    bytes: Arc<[u8]>,
    name: String,
    version: Version,
    /// Where its buffers are, each of 4096 bytes.
    buffers: Range<usize>,
}

impl Package {
    /// Reads a package; an error in words where it is none for this NIC.
    pub(in crate::ice) fn parse(bytes: Arc<[u8]>) -> Result<Self, String> {
        let format = Version::of(&bytes);
        if (format.major, format.minor) != (1, 0) {
            return Err(format!("its format is {format}, and this driver knows 1.0"));
        }
        let count = full(&bytes, 4) as usize;
        if count == 0 || count > MOST {
            return Err(format!("it has {count} segments"));
        }
        let (mut name, mut version) = (String::new(), Version::default());
        let mut buffers = None;
        for index in 0..count {
            let at = full(&bytes, 8 + 4 * index) as usize;
            let segment = Self::segment(&bytes, at)
                .ok_or_else(|| format!("its segment {index} is not within the file"))?;
            match full(&bytes, at) {
                METADATA => {
                    version = Version::of(bytes.get(at + HEAD..).unwrap_or_default());
                    let end = segment.end.min(at + HEAD + 8 + 32);
                    name = text(bytes.get(at + HEAD + 8..end).unwrap_or_default());
                }
                SEGMENT if buffers.is_none() => {
                    buffers = Some(Self::table(&bytes, &segment).ok_or_else(|| {
                        format!("the buffers of its segment {index} are not within it")
                    })?);
                }
                _ => {}
            }
        }
        let buffers = buffers.ok_or("it has no segment for the E810")?;
        let mut new = Self {
            bytes,
            name,
            version,
            buffers,
        };
        // What the device will say that it has.
        let own = new.sections(NAME).next().map(|section| {
            (
                Version::of(section),
                text(section.get(4..32).unwrap_or_default()),
            )
        });
        if let Some((version, name)) = own {
            (new.version, new.name) = (version, name);
        }
        if new.downloads().next().is_none() {
            return Err("it has nothing for the device".to_owned());
        }
        Ok(new)
    }

    /// Where the segment at `at` is.
    fn segment(bytes: &[u8], at: usize) -> Option<Range<usize>> {
        let size = full(bytes.get(at..at + HEAD)?, 8) as usize;
        let end = at.checked_add(size)?;
        (size >= HEAD && end <= bytes.len()).then_some(at..end)
    }

    /// Where the buffers of a segment are: behind the list of devices, that of NVM versions, and their own number.
    fn table(bytes: &[u8], segment: &Range<usize>) -> Option<Range<usize>> {
        let bytes = bytes.get(..segment.end)?;
        let number = |at: usize| Some(full(bytes.get(at..at.checked_add(4)?)?, 0) as usize);
        let devices = segment.start + HEAD;
        let versions = devices + 4 + number(devices)?.checked_mul(8)?;
        let buffers = versions
            .checked_add(4)?
            .checked_add(number(versions)?.checked_mul(4)?)?;
        let count = number(buffers)?;
        let start = buffers + 4;
        let end = start.checked_add(count.checked_mul(BUFFER)?)?;
        (count > 0 && end <= segment.end).then_some(start..end)
    }

    /// What it is called, and its version.
    pub(in crate::ice) fn title(&self) -> String {
        format!("{} {}", self.name, self.version)
    }

    /// Its version.
    pub(in crate::ice) const fn version(&self) -> Version {
        self.version
    }

    fn buffers(&self) -> impl Iterator<Item = &[u8]> {
        self.bytes[self.buffers.clone()].chunks_exact(BUFFER)
    }

    /// What the device is given: the buffers before the first whose first section is not for it.
    pub(in crate::ice) fn downloads(&self) -> impl Iterator<Item = &[u8]> {
        self.buffers()
            .take_while(|buffer| full(buffer, 4) & NOT_FOR_THE_DEVICE == 0)
    }

    /// The sections of a kind, in their order.
    pub(in crate::ice) fn sections(&self, kind: u32) -> impl Iterator<Item = &[u8]> {
        self.buffers().flat_map(move |buffer| {
            let count = usize::from(half(buffer, 0)).min(MOST);
            (0..count).filter_map(move |index| {
                let entry = buffer.get(4 + 8 * index..12 + 8 * index)?;
                if full(entry, 0) != kind {
                    return None;
                }
                let start = usize::from(half(entry, 4));
                buffer.get(start..start + usize::from(half(entry, 6)))
            })
        })
    }
}

impl fmt::Debug for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Package")
            .field("title", &self.title())
            .field("buffers", &(self.buffers.len() / BUFFER))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
pub(in crate::ice) mod tests {
    use super::*;
    use crate::ice::package::changes;

    /// A package of so many buffers of sections, laid out as the drivers that read it have it.
    pub(in crate::ice) fn made(buffers: &[Vec<(u32, Vec<u8>)>]) -> Arc<[u8]> {
        let head = |kind: u32, size: usize| {
            let mut head = vec![0; HEAD];
            head[..4].copy_from_slice(&kind.to_le_bytes());
            head[4..8].copy_from_slice(&[1, 3, 0, 0]);
            head[8..12].copy_from_slice(&(size as u32).to_le_bytes());
            head
        };
        let mut metadata = head(METADATA, HEAD + 40);
        metadata.extend([1, 3, 99, 0, 0, 0, 0, 0]);
        let mut name = b"ICE OS Default Package".to_vec();
        name.resize(32, 0);
        metadata.extend(name);
        let mut own = vec![1, 3, 99, 0];
        own.extend(b"ICE OS Default Package");
        own.resize(36, 0);
        let mut ice = Vec::new();
        // One device, no NVM versions.
        ice.extend(1_u32.to_le_bytes());
        ice.extend([0x92, 0x15, 0x86, 0x80, 0, 0, 0, 0]);
        ice.extend(0_u32.to_le_bytes());
        ice.extend((buffers.len() as u32).to_le_bytes());
        for (index, sections) in buffers.iter().enumerate() {
            let mut sections = sections.clone();
            if index == 0 {
                sections.insert(0, (NAME, own.clone()));
            }
            ice.extend(changes(&sections).unwrap());
        }
        let mut ice_segment = head(SEGMENT, HEAD + ice.len());
        ice_segment.extend(ice);
        let mut file = vec![1, 0, 0, 0, 2, 0, 0, 0];
        file.extend(16_u32.to_le_bytes());
        file.extend((16 + metadata.len() as u32).to_le_bytes());
        file.extend(metadata);
        file.extend(ice_segment);
        file.into()
    }

    fn small() -> Arc<[u8]> {
        made(&[
            vec![(16, vec![1; 8]), (42, vec![2; 4])],
            vec![(16, vec![3; 12])],
            vec![(0x8000_0010, vec![9; 4])],
        ])
    }

    #[test]
    fn a_package_is_read() {
        let package = Package::parse(small()).unwrap();
        assert_eq!(package.title(), "ICE OS Default Package 1.3.99.0");
        assert_eq!(
            package.downloads().count(),
            2,
            "the last is not for the device"
        );
        let lens: Vec<usize> = package.sections(16).map(<[u8]>::len).collect();
        assert_eq!(lens, [8, 12]);
        assert_eq!(package.sections(42).next(), Some(&[2; 4][..]));
        assert_eq!(package.sections(17).count(), 0);
    }

    #[test]
    fn whatever_is_cut_off_or_changed_is_an_error_and_no_panic() {
        let whole = small();
        for len in (0..whole.len()).step_by(7) {
            if let Ok(package) = Package::parse(whole[..len].into()) {
                package.sections(16).for_each(drop);
            }
        }
        assert!(Package::parse(whole[..whole.len() - 1].into()).is_err());
        for at in 0..400 {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = whole.to_vec();
                bytes[at] = value;
                if let Ok(package) = Package::parse(bytes.into()) {
                    package.downloads().for_each(drop);
                    package.sections(16).for_each(drop);
                }
            }
        }
    }
}
