//! What the kernel says of a device's DMA that the IOMMU stopped.
//!
//! A NIC whose write was stopped goes on as if it had been done: the 82576's descriptor says done. All that can be known is what the
//! IOMMU's driver puts into the kernel's log (drivers/iommu/intel/dmar.c, drivers/iommu/amd/iommu.c), and it drops most of many.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use super::PciAddress;
use crate::DriverError;

/// More than a record of the kernel's log can be (`PRINTK_MESSAGE_MAX`).
const RECORD: usize = 8 * 1024;

/// AMD's `EVENT_FLAG_RW`: the request was a write.
const AMD_WRITE: u64 = 0x20;

/// A DMA that was stopped.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct IommuFault {
    /// Since the machine was started.
    pub at: Duration,
    /// The device wanted to write, not to read.
    pub write: bool,
    /// Where.
    pub iova: u64,
    /// The reason in the IOMMU driver's words.
    pub reason: String,
}

impl fmt::Display for IommuFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.write { "write to" } else { "read from" };
        write!(
            f,
            "the IOMMU stopped a {what} {:#x} ({})",
            self.iova, self.reason
        )
    }
}

/// Watches the kernel's log for faults of one function, from now on.
#[derive(Debug)]
pub struct FaultWatcher {
    log: File,
    address: PciAddress,
    missed: u64,
}

impl FaultWatcher {
    /// Opens the log at its end.
    ///
    /// # Errors
    ///
    /// When the log may not be read: it takes root, or CAP_SYSLOG.
    pub fn new(address: PciAddress) -> Result<Self, DriverError> {
        let open = || -> io::Result<File> {
            let mut log = OpenOptions::new()
                .read(true)
                .custom_flags(libc::O_NONBLOCK)
                .open("/dev/kmsg")?;
            log.seek(SeekFrom::End(0))?;
            Ok(log)
        };
        let log = open().map_err(|error| {
            let fix = "DMA that the IOMMU stops is not reported without: run as root, or with CAP_SYSLOG; a container needs the device";
            DriverError::sys("open of /dev/kmsg", error, fix)
        })?;
        Ok(Self {
            log,
            address,
            missed: 0,
        })
    }

    /// Readable when the kernel has logged something.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.log.as_fd()
    }

    /// The faults that were logged since the last call. Never waits. When the log fails they are none.
    pub fn read_faults(&mut self) -> Vec<IommuFault> {
        let mut faults = Vec::new();
        let mut record = [0; RECORD];
        loop {
            match self.log.read(&mut record) {
                Ok(0) => break,
                Ok(len) => {
                    let text = String::from_utf8_lossy(&record[..len]);
                    faults.extend(fault(&text, self.address));
                    self.missed += suppressed(&text);
                }
                // The log has gone round; the next read begins with the oldest record there is.
                Err(error) if error.raw_os_error() == Some(libc::EPIPE) => self.missed += 1,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        faults
    }

    /// How many messages may have been faults but were not seen, of any device: the kernel suppressed them, or the log had gone round.
    #[must_use]
    pub fn missed(&self) -> u64 {
        self.missed
    }
}

/// Takes a record apart: `priority,sequence,microseconds,flags;message`, then lines that begin with a blank
/// (Documentation/ABI/testing/dev-kmsg).
fn message(record: &str) -> Option<(Duration, &str)> {
    let (head, rest) = record.split_once(';')?;
    let micros = head.split(',').nth(2)?.parse().ok()?;
    Some((Duration::from_micros(micros), rest.lines().next()?))
}

/// A fault of the function at `address`, if the record is one.
fn fault(record: &str, address: PciAddress) -> Option<IommuFault> {
    let (at, message) = message(record)?;
    let (device, write, iova, reason) = intel(message).or_else(|| amd(message))?;
    same(device, address).then(|| IommuFault {
        at,
        write,
        iova,
        reason: reason.to_owned(),
    })
}

/// `DMAR: [DMA Write NO_PASID] Request device [0000:00:01.0] fault addr 0x1000 [fault reason 0x05] PTE Write access is not set`
fn intel(message: &str) -> Option<(&str, bool, u64, &str)> {
    let rest = message.strip_prefix("DMAR: [DMA ")?;
    let (kind, rest) = rest.split_once("] Request device [")?;
    let (device, rest) = rest.split_once("] fault addr ")?;
    let (iova, reason) = rest.split_once(' ')?;
    Some((device, kind.starts_with("Write"), hex(iova)?, reason))
}

/// `AMD-Vi: Event logged [IO_PAGE_FAULT device=0000:01:00.0 domain=0x000d address=0x1000 flags=0x0020]`, or
/// `vfio-pci 0000:01:00.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x000d address=0x1000 flags=0x0020]`
fn amd(message: &str) -> Option<(&str, bool, u64, &str)> {
    let (before, rest) = message.split_once("AMD-Vi: Event logged [IO_PAGE_FAULT ")?;
    let fields = rest.strip_suffix(']').unwrap_or(rest);
    let field = |name: &str| {
        fields
            .split_whitespace()
            .find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
    };
    let device = field("device").or_else(|| {
        before
            .trim_end()
            .strip_suffix(':')?
            .split_whitespace()
            .next_back()
    })?;
    let write = hex(field("flags")?)? & AMD_WRITE != 0;
    Some((
        device,
        write,
        hex(field("address")?)?,
        rest_from_flags(fields),
    ))
}

/// `flags=0x0020`, which is what AMD's message has for a reason.
fn rest_from_flags(fields: &str) -> &str {
    fields.find("flags=").map_or(fields, |at| &fields[at..])
}

/// `dmar_fault: 12 callbacks suppressed`, and AMD's `amd_iommu_report_page_fault: ...`.
fn suppressed(record: &str) -> u64 {
    let count = || {
        let (_, message) = message(record)?;
        let (what, rest) = message.split_once(": ")?;
        let count = rest.strip_suffix(" callbacks suppressed")?;
        (what.contains("dmar") || what.contains("amd_iommu")).then(|| count.parse().ok())?
    };
    count().unwrap_or(0)
}

/// Whether the kernel means this function; before Linux 6.13 Intel's driver left the domain out.
fn same(device: &str, address: PciAddress) -> bool {
    let Ok(named) = device.parse::<PciAddress>() else {
        return false;
    };
    let has_domain = device.matches(':').count() == 2;
    let domain = if has_domain {
        named.domain
    } else {
        address.domain
    };
    PciAddress { domain, ..named } == address
}

fn hex(text: &str) -> Option<u64> {
    u64::from_str_radix(text.strip_prefix("0x")?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(message: &str) -> Option<IommuFault> {
        let record = format!("3,812,9000001,-;{message}\n SUBSYSTEM=pci\n");
        fault(&record, "00:01.0".parse().unwrap())
    }

    #[test]
    fn intels_faults_are_read_in_both_forms() {
        for device in ["0000:00:01.0", "00:01.0"] {
            let fault = read(&format!(
                "DMAR: [DMA Write NO_PASID] Request device [{device}] fault addr 0x7654000 [fault reason 0x05] PTE Write access is not set"
            ))
            .unwrap();
            assert_eq!(fault.at, Duration::from_micros(9_000_001));
            assert!(fault.write);
            assert_eq!(fault.iova, 0x765_4000);
            assert_eq!(
                fault.reason,
                "[fault reason 0x05] PTE Write access is not set"
            );
        }
        let fault = read(
            "DMAR: [DMA Read PASID 0x1] Request device [0000:00:01.0] fault addr 0x10 [fault reason 0x06] PTE Read access is not set",
        );
        assert!(!fault.unwrap().write);
    }

    #[test]
    fn amds_faults_are_read_in_both_forms() {
        for message in [
            "AMD-Vi: Event logged [IO_PAGE_FAULT device=0000:00:01.0 domain=0x000d address=0xf7c4a000 flags=0x0020]",
            "vfio-pci 0000:00:01.0: AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x000d address=0xf7c4a000 flags=0x0020]",
        ] {
            let fault = read(message).unwrap();
            assert_eq!((fault.write, fault.iova), (true, 0xf7c4_a000), "{message}");
            assert_eq!(fault.reason, "flags=0x0020");
        }
    }

    #[test]
    fn other_devices_and_other_messages_are_not_ours() {
        for message in [
            "DMAR: [DMA Write NO_PASID] Request device [0000:00:02.0] fault addr 0x1000 [fault reason 0x05] x",
            "DMAR: [DMA Write NO_PASID] Request device [0001:00:01.0] fault addr 0x1000 [fault reason 0x05] x",
            "DMAR: [DMA Write NO_PASID] Request device [0000:00:01.0] fault addr",
            "DMAR: DRHD: handling fault status reg 2",
            "DMAR: [INTR-REMAP] Request device [0000:00:01.0] fault index 0x1 [fault reason 0x25] x",
            "AMD-Vi: Event logged [IO_PAGE_FAULT domain=0x1 address=0x1 flags=0x20]",
            "",
        ] {
            assert_eq!(read(message), None, "{message}");
        }
        assert_eq!(fault("no record", "00:01.0".parse().unwrap()), None);
    }

    #[test]
    fn what_the_kernel_suppressed_is_counted() {
        assert_eq!(
            suppressed("4,1,1,-;dmar_fault: 12 callbacks suppressed\n"),
            12
        );
        assert_eq!(
            suppressed("4,1,1,-;net_ratelimit: 12 callbacks suppressed\n"),
            0
        );
    }
}
