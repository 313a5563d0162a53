//! The package (DDP): what tells the NIC's parser and tables what packets look like. Linux's and DPDK's drivers download the same file. Without one there is
//! *safe mode*: no header is split off, nothing is hashed, and only destination addresses tell packets apart.
//!
//! The format is only in drivers, so is what downloading it does: DPDK's `drivers/net/intel/ice/base/ice_ddp.h` and `ice_ddp.c`.

mod file;
mod find;
mod unpack;

use std::sync::Arc;

use super::admin::{Admin, AdminError, BUFFER, Command, Why, code, full, half, opcode};
use super::options::{IceOptions, PackageSource};
use crate::device::Registers;
use crate::ring::pause;
#[cfg(test)]
pub(super) use file::tests;
pub(super) use file::{Package, Version};

/// What the NIC's parser is.
#[derive(Clone, Debug)]
pub(super) enum Parser {
    /// There is no package; why, and what to do.
    Safe(String),
    /// A package is active.
    Package {
        /// Which: name and version.
        name: String,
        /// What was read of it, where the one in the NIC is the one that was found.
        package: Option<Arc<Package>>,
    },
}

impl Parser {
    /// Whether headers are split off.
    pub(super) const fn splits(&self) -> bool {
        matches!(self, Self::Package { .. })
    }

    /// The package whose tables are known.
    pub(super) const fn package(&self) -> Option<&Arc<Package>> {
        match self {
            Self::Package { package, .. } => package.as_ref(),
            Self::Safe(_) => None,
        }
    }
}

/// Versions of the package that both drivers take.
const KNOWN: (u8, u8) = (1, 3);

/// The package that the distribution has for this NIC: name and version.
///
/// # Errors
///
/// Why there is none, in words.
pub fn system_package() -> Result<String, String> {
    match find::find(&PackageSource::System) {
        find::Found::Package(package, _) => Ok(package.title()),
        find::Found::Nothing(why) | find::Found::Bad(why) => Err(why),
    }
}

/// A package in the device.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Loaded {
    name: String,
    version: Version,
    active: bool,
}

/// Puts the package into the NIC, or says why there is none.
pub(super) fn load<R: Registers>(
    nic: &str,
    admin: &mut Admin<R>,
    options: &IceOptions,
) -> Result<Parser, AdminError> {
    let found = find::find(&options.package);
    let (package, asked) = match found {
        find::Found::Package(package, asked) => (package, asked),
        // Who asked for it knows what is lost.
        find::Found::Nothing(why) if options.package == PackageSource::None => {
            return Ok(Parser::Safe(why));
        }
        find::Found::Nothing(why) => return Ok(safe(nic, why)),
        find::Found::Bad(why) => {
            return Err(AdminError::garbled(opcode::DOWNLOAD_PACKAGE, why));
        }
    };
    // Without an answer nothing goes on; nor where the user asked for this package.
    let unfit = |why: String| {
        if asked {
            Err(AdminError::garbled(opcode::DOWNLOAD_PACKAGE, why))
        } else {
            Ok(safe(nic, why))
        }
    };
    let active = match download(nic, admin, &package).and_then(|()| active(admin)) {
        Ok(active) => active,
        Err(error) if asked || matches!(error.why, Why::Silent | Why::Dead) => return Err(error),
        Err(error) => {
            return unfit(format!(
                "the NIC did not take the package {}: {error}",
                package.title()
            ));
        }
    };
    let Some(active) = active else {
        return unfit(format!(
            "the NIC has no package after the download of {}",
            package.title()
        ));
    };
    let title = format!("{} {}", active.name, active.version);
    if (active.version.major, active.version.minor) != KNOWN {
        return unfit(format!(
            "the NIC has the package {title}, which this driver does not know; it knows {}.{}.x",
            KNOWN.0, KNOWN.1
        ));
    }
    let same = active.version == package.version();
    if !same {
        tracing::warn!(
            nic,
            active = title,
            file = package.title(),
            "another package is in the NIC than was found: nothing but destination addresses steers packets; a cold start empties the NIC"
        );
    }
    tracing::info!(nic, package = title, "package");
    Ok(Parser::Package {
        name: title,
        package: same.then_some(package),
    })
}

fn safe(nic: &str, why: String) -> Parser {
    tracing::warn!(
        nic,
        why,
        "safe mode: no header split, so memory that the CPU does not read is refused; no hashing over several queues; only destination addresses steer \
         packets. Install the package (Debian: firmware-intel-misc; elsewhere linux-firmware), then start again"
    );
    Parser::Safe(why)
}

/// What the request for the lock on the device's tables came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Lock {
    /// It is ours.
    Taken,
    /// The package has been downloaded by somebody.
    Done,
}

/// The lock on the device's tables, which functions of the card share.
const GLOBAL: u16 = 4;
/// The lock on changes of the tables, once a package is there.
pub(super) const CHANGES: u16 = 3;

/// Takes a lock of the device's; the status that the firmware gave with it.
fn take_lock<R: Registers>(admin: &mut Admin<R>, lock: u16) -> Result<u16, AdminError> {
    let mut params = [0; 14];
    params[..2].copy_from_slice(&lock.to_le_bytes());
    // To write.
    params[2] = 2;
    params[4..8].copy_from_slice(&3000_u32.to_le_bytes());
    let answer = admin.plain(Command::new(opcode::REQUEST_RESOURCE, params))?;
    Ok(answer.half(12))
}

/// Does something with a lock of the device's.
pub(super) fn with_lock<R: Registers, T>(
    admin: &mut Admin<R>,
    lock: u16,
    go: impl FnOnce(&mut Admin<R>) -> Result<T, AdminError>,
) -> Result<T, AdminError> {
    take_lock(admin, lock)?;
    let done = go(admin);
    let freed = free_lock(admin, lock);
    done.and_then(|done| freed.map(|()| done))
}

fn free_lock<R: Registers>(admin: &mut Admin<R>, lock: u16) -> Result<(), AdminError> {
    let [low, high] = lock.to_le_bytes();
    admin
        .plain(Command::new(opcode::RELEASE_RESOURCE, [low, high]))
        .map(drop)
}

/// Takes the lock on the tables; another function may be just downloading.
fn take_global<R: Registers>(admin: &mut Admin<R>) -> Result<Lock, AdminError> {
    for _ in 0..300 {
        match take_lock(admin, GLOBAL) {
            Ok(0) => return Ok(Lock::Taken),
            Ok(2) => return Ok(Lock::Done),
            // Another has it.
            Ok(1) => {}
            Ok(other) => {
                return Err(AdminError::garbled(
                    opcode::REQUEST_RESOURCE,
                    format!("the lock's status is {other}"),
                ));
            }
            Err(error) if error.is(code::EEXIST) => return Ok(Lock::Done),
            Err(error) if error.is(code::EBUSY) => {}
            Err(error) => return Err(error),
        }
        pause(std::time::Duration::from_millis(10));
    }
    Err(AdminError::garbled(
        opcode::REQUEST_RESOURCE,
        "another function of the card has held the lock on its tables for three seconds",
    ))
}

fn download<R: Registers>(
    nic: &str,
    admin: &mut Admin<R>,
    package: &Package,
) -> Result<(), AdminError> {
    match take_global(admin)? {
        Lock::Done => {
            tracing::debug!(nic, "the NIC has its package already");
            return Ok(());
        }
        Lock::Taken => {}
    }
    let sent = send(admin, package);
    let freed = free_lock(admin, GLOBAL);
    sent.and(freed)
}

fn send<R: Registers>(admin: &mut Admin<R>, package: &Package) -> Result<(), AdminError> {
    let count = package.downloads().count();
    let mut buffer = [0; BUFFER];
    for (index, piece) in package.downloads().enumerate() {
        buffer.copy_from_slice(piece);
        let last = u8::from(index + 1 == count);
        let command = Command::new(opcode::DOWNLOAD_PACKAGE, [last]).reading();
        match admin.run(command, &mut buffer) {
            Ok(_) => {}
            // It is there already: an earlier download was complete.
            Err(error) if error.is(code::EEXIST) => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// The package that the NIC works with.
fn active<R: Registers>(admin: &mut Admin<R>) -> Result<Option<Loaded>, AdminError> {
    let mut buffer = vec![0; BUFFER];
    admin.run(Command::new(opcode::PACKAGE_LIST, []), &mut buffer)?;
    Ok(list(&buffer).into_iter().find(|loaded| loaded.active))
}

/// The packages of an answer (`struct ice_aqc_get_pkg_info_resp`).
fn list(bytes: &[u8]) -> Vec<Loaded> {
    const ENTRY: usize = 40;
    // Four at the most, both drivers say.
    let count = (full(bytes, 0) as usize).min(8);
    let entries = bytes.get(4..).unwrap_or_default().chunks_exact(ENTRY);
    entries
        .take(count)
        .map(|entry| Loaded {
            version: Version::of(entry),
            name: file::text(entry.get(4..32).unwrap_or_default()),
            active: entry.get(37).is_some_and(|&active| active != 0),
        })
        .collect()
}

/// A section of changes to the tables: the buffer for `update package` (`struct ice_buf_hdr`).
pub(super) fn changes(sections: &[(u32, Vec<u8>)]) -> Option<[u8; BUFFER]> {
    let mut buffer = [0; BUFFER];
    let head = 4 + 8 * sections.len();
    let mut end = head;
    for (index, (kind, bytes)) in sections.iter().enumerate() {
        // Each begins at a multiple of four.
        end = end.next_multiple_of(4);
        let entry = 4 + 8 * index;
        buffer
            .get_mut(end..end + bytes.len())?
            .copy_from_slice(bytes);
        buffer[entry..entry + 4].copy_from_slice(&kind.to_le_bytes());
        // All of it is 4096 bytes.
        buffer[entry + 4..entry + 6].copy_from_slice(&(end as u16).to_le_bytes());
        buffer[entry + 6..entry + 8].copy_from_slice(&(bytes.len() as u16).to_le_bytes());
        end += bytes.len();
    }
    buffer[..2].copy_from_slice(&(sections.len() as u16).to_le_bytes());
    buffer[2..4].copy_from_slice(&(end as u16).to_le_bytes());
    debug_assert_eq!(half(&buffer, 0) as usize, sections.len());
    Some(buffer)
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn lists_are_read_and_bounded() {
        let mut bytes = vec![0; BUFFER];
        bytes[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(list(&bytes).len(), 8);
        bytes[..4].copy_from_slice(&1_u32.to_le_bytes());
        bytes[4..8].copy_from_slice(&[1, 3, 41, 0]);
        bytes[8..13].copy_from_slice(b"Comms");
        bytes[4 + 37] = 1;
        let [only] = &list(&bytes)[..] else {
            panic!("one");
        };
        assert_eq!((only.name.as_str(), only.active), ("Comms", true));
        assert_eq!(only.version.to_string(), "1.3.41.0");
        assert!(list(&[]).is_empty());
    }

    #[test]
    fn changes_are_packed_as_both_drivers_do() {
        let buffer = changes(&[(43, vec![1, 2, 3]), (44, vec![4; 8])]).unwrap();
        assert_eq!(buffer[..4], [2, 0, 32, 0]);
        assert_eq!(buffer[4..12], [43, 0, 0, 0, 20, 0, 3, 0]);
        assert_eq!(buffer[12..20], [44, 0, 0, 0, 24, 0, 8, 0]);
        assert_eq!(buffer[20..28], [1, 2, 3, 0, 4, 4, 4, 4]);
        assert!(changes(&[(1, vec![0; 4096])]).is_none());
    }
}
