//! The configuration space of an open function (PCI Local Bus Specification 3.0, chapter 6).

use bitflags::bitflags;

use super::owned::Owned;
use crate::DriverError;
use crate::device::PciId;

const VENDOR: u64 = 0x00;
const COMMAND: u64 = 0x04;
const STATUS: u64 = 0x06;
const REVISION: u64 = 0x08;
const SUBSYSTEM_VENDOR: u64 = 0x2c;
const CAPABILITIES: u64 = 0x34;
/// Where the extended capabilities of PCI Express begin.
const EXTENDED: u16 = 0x100;

bitflags! {
    /// The command register (6.2.2).
    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    pub struct Command: u16 {
        /// Answers accesses to its memory BARs.
        const MEMORY = 1 << 1;
        /// May do DMA, and so send MSI and MSI-X.
        const BUS_MASTER = 1 << 2;
        /// Does not raise INTx.
        const INTX_DISABLE = 1 << 10;
        // Whatever else the register has is kept.
        const _ = !0;
    }

    /// The status register (6.2.3).
    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    pub struct Status: u16 {
        /// Has a list of capabilities.
        const CAPABILITIES = 1 << 4;
        /// Poisoned data was sent or received by the function as a master.
        const MASTER_DATA_PARITY_ERROR = 1 << 8;
        /// A request of the function ended with a target abort.
        const RECEIVED_TARGET_ABORT = 1 << 12;
        /// A request of the function ended with a master abort.
        const RECEIVED_MASTER_ABORT = 1 << 13;
        /// An error was signalled to the system.
        const SIGNALLED_SYSTEM_ERROR = 1 << 14;
        /// Poisoned data arrived.
        const DETECTED_PARITY_ERROR = 1 << 15;
        const _ = !0;
    }
}

/// Typed access to a function's configuration space. vfio-pci stands between: some fields it keeps for itself.
#[derive(Clone, Copy, Debug)]
pub struct Config<'a> {
    owned: &'a Owned,
}

impl<'a> Config<'a> {
    pub(super) fn new(owned: &'a Owned) -> Self {
        Self { owned }
    }

    fn read<const N: usize>(self, at: u64) -> Result<[u8; N], DriverError> {
        let mut bytes = [0; N];
        self.owned
            .read_config(at, &mut bytes)
            .map_err(|error| failed("pread of the PCI configuration space", error))?;
        Ok(bytes)
    }

    /// Reads 8 bits at `at` bytes.
    ///
    /// # Errors
    ///
    /// What the system refused; beyond the end, too.
    pub fn read8(self, at: u64) -> Result<u8, DriverError> {
        self.read::<1>(at).map(|[byte]| byte)
    }

    /// Reads 16 bits at `at` bytes.
    ///
    /// # Errors
    ///
    /// As [`read8`](Self::read8).
    pub fn read16(self, at: u64) -> Result<u16, DriverError> {
        self.read(at).map(u16::from_le_bytes)
    }

    /// Reads 32 bits at `at` bytes.
    ///
    /// # Errors
    ///
    /// As [`read8`](Self::read8).
    pub fn read32(self, at: u64) -> Result<u32, DriverError> {
        self.read(at).map(u32::from_le_bytes)
    }

    fn write16(self, at: u64, value: u16) -> Result<(), DriverError> {
        self.owned
            .write_config(at, &value.to_le_bytes())
            .map_err(|error| failed("pwrite of the PCI configuration space", error))
    }

    /// Which part it is.
    ///
    /// # Errors
    ///
    /// As [`read8`](Self::read8).
    pub fn id(self) -> Result<PciId, DriverError> {
        let [vendor_low, vendor_high, device_low, device_high] = self.read(VENDOR)?;
        let [sub_low, sub_high, subsystem_low, subsystem_high] = self.read(SUBSYSTEM_VENDOR)?;
        Ok(PciId {
            vendor: u16::from_le_bytes([vendor_low, vendor_high]),
            device: u16::from_le_bytes([device_low, device_high]),
            subsystem_vendor: u16::from_le_bytes([sub_low, sub_high]),
            subsystem: u16::from_le_bytes([subsystem_low, subsystem_high]),
            revision: self.read8(REVISION)?,
        })
    }

    /// Whether nobody answers: all ones is what a root complex makes of that (PCI Express Base Specification 4.0, 2.3.2), and no function's class is `ffffff`.
    pub(super) fn is_silent(self) -> bool {
        self.read32(REVISION).is_ok_and(|value| value == u32::MAX)
    }

    /// Turns bus mastering off where nobody answers, so where neither the command register can be read before nor the outcome after.
    pub(super) fn cut_off(self) {
        let command = Command::MEMORY | Command::INTX_DISABLE;
        if let Err(error) = self.write16(COMMAND, command.bits()) {
            tracing::debug!(%error, "nobody took it");
        }
    }

    /// The command register.
    ///
    /// # Errors
    ///
    /// As [`read8`](Self::read8).
    pub fn command(self) -> Result<Command, DriverError> {
        self.read16(COMMAND).map(Command::from_bits_retain)
    }

    /// The status register.
    ///
    /// # Errors
    ///
    /// As [`read8`](Self::read8).
    pub fn status(self) -> Result<Status, DriverError> {
        self.read16(STATUS).map(Status::from_bits_retain)
    }

    /// Sets or clears bits of the command register, and reads back that they are. The read is answered by the device after what it had
    /// written to memory before (PCI Express Base Specification, 2.4.1: completions do not pass posted requests).
    ///
    /// # Errors
    ///
    /// What the system refused, or that the bits did not change.
    pub(super) fn set_command(self, bits: Command, on: bool) -> Result<(), DriverError> {
        let mut command = self.command()?;
        command.set(bits, on);
        self.write16(COMMAND, command.bits())?;
        let now = self.command()?;
        let done = if on {
            now.contains(bits)
        } else {
            !now.intersects(bits)
        };
        if done {
            return Ok(());
        }
        Err(failed(
            "pwrite of the PCI command register",
            std::io::Error::other(format!("it reads {now:?} after {command:?} was written")),
        ))
    }

    /// Where the capability `id` begins (6.7); `None` if the function has none.
    ///
    /// # Errors
    ///
    /// As [`read8`](Self::read8).
    pub fn capability(self, id: u8) -> Result<Option<u8>, DriverError> {
        if !self.status()?.contains(Status::CAPABILITIES) {
            return Ok(None);
        }
        let mut at = self.read8(CAPABILITIES)?;
        // Each takes 4 bytes at least, behind the 64 of the header: a longer list goes in circles.
        for _ in 0..48 {
            at &= !3;
            if at < 0x40 {
                break;
            }
            let [its_id, next] = self.read(at.into())?;
            if its_id == id {
                return Ok(Some(at));
            }
            at = next;
        }
        Ok(None)
    }

    /// Where the extended capability `id` begins (PCI Express Base Specification, 7.6.3); `None` if the function has none, or has
    /// only the configuration space of conventional PCI.
    ///
    /// # Errors
    ///
    /// As [`read8`](Self::read8).
    pub fn extended_capability(self, id: u16) -> Result<Option<u16>, DriverError> {
        let mut at = EXTENDED;
        for _ in 0..960 {
            let Ok(header) = self.read32(at.into()) else {
                break;
            };
            if header == 0 || header == u32::MAX {
                break;
            }
            if (header & 0xffff) as u16 == id {
                return Ok(Some(at));
            }
            at = (header >> 20) as u16 & !3;
            if at < EXTENDED {
                break;
            }
        }
        Ok(None)
    }
}

fn failed(call: &'static str, error: std::io::Error) -> DriverError {
    DriverError::sys(
        call,
        error,
        "the device does not answer as it should: `dmesg` may say more; a reset of the slot or a restart of the machine brings it back",
    )
}
