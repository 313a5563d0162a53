//! Giving a function to vfio-pci, and back.
//!
//! A function is given away by `driver_override`, which names the one driver that may have it, and holds until it is cleared: unlike
//! vfio-pci's `new_id`, which would take every device of the same part. What the function had before is noted under `/run/devrx/bound`, so
//! that a later [`unbind`] puts just that back: a driver that somebody chose by hand, a `driver_override` of theirs, or no driver at all. Without a note (the
//! machine was started with vfio-pci bound) clearing `driver_override` gives the function to the driver that the kernel would choose for it.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::in_use;
use super::sysfs::{PciFunction, Sysfs, link_name, text};
use super::{PciAddress, group};
use crate::DriverError;

/// VFIO's driver for PCI functions.
pub(super) const VFIO_PCI: &str = "vfio-pci";

/// Where functions are given and taken.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Binder {
    /// The kernel's view.
    pub sysfs: Sysfs,
    /// Where it is noted what a function had before; gone after a restart of the machine, as the binding is.
    pub notes: PathBuf,
}

impl Default for Binder {
    fn default() -> Self {
        Self {
            sysfs: Sysfs::default(),
            notes: "/run/devrx/bound".into(),
        }
    }
}

/// What a [`bind`](Binder::bind) did.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Bound {
    /// Which function.
    pub address: PciAddress,
    /// The driver it had; `None` if it had none.
    pub before: Option<String>,
    /// It was with vfio-pci already; nothing was done.
    pub already: bool,
    /// The interfaces that are gone now.
    pub interfaces: Vec<String>,
    /// What was in use and is cut off, where the caller insisted.
    pub cut_off: Vec<String>,
    /// Its IOMMU group.
    pub group: u32,
}

/// What an [`unbind`](Binder::unbind) did.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Unbound {
    /// Which function.
    pub address: PciAddress,
    /// It was not with vfio-pci; nothing was done.
    pub already: bool,
    /// The driver it has now; `None` if it has none.
    pub now: Option<String>,
    /// Whether that is what was noted when it was bound, rather than the kernel's own choice.
    pub noted: bool,
    /// The interfaces that are there now.
    pub interfaces: Vec<String>,
}

/// What a function had before it was bound.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Note {
    driver: Option<String>,
    driver_override: Option<String>,
}

impl Binder {
    /// Whether a function can be given to vfio-pci, and what that would do; nothing is changed. `others` of its group are to be given away too.
    ///
    /// # Errors
    ///
    /// [`DriverError::NoNic`] with the reason and the way out: there is no such function, an interface of it is in use (unless `force`), no IOMMU guards it, other
    /// functions of its group are with Linux drivers, it has virtual functions.
    pub fn check(
        &self,
        address: PciAddress,
        others: &[PciAddress],
        force: bool,
    ) -> Result<Bound, DriverError> {
        let function = self.sysfs.function(address)?;
        let no_nic = |why: String| refuse(address, why);
        let Some(group) = function.iommu_group else {
            return Err(no_nic(group::no_group_text().to_owned()));
        };
        if self.sysfs.is_no_iommu(group) {
            return Err(no_nic(group::no_iommu_text().to_owned()));
        }
        let mut bound = Bound {
            address,
            before: function.driver.clone(),
            already: function.driver.as_deref() == Some(VFIO_PCI),
            interfaces: function.interfaces.clone(),
            cut_off: Vec::new(),
            group,
        };
        if bound.already {
            return Ok(bound);
        }
        self.check_group(&function, others, group)?;
        if let Some((_, enabled @ 1..)) = function.virtual_functions {
            return Err(no_nic(format!(
                "it has {enabled} virtual functions, which would lose their physical function: `echo 0 > {}` first",
                self.sysfs.folder(address).join("sriov_numvfs").display()
            )));
        }
        bound.cut_off = in_use::uses(&self.sysfs, &function);
        if !force && !bound.cut_off.is_empty() {
            return Err(no_nic(format!(
                "Linux uses it: {}. Take the interface down and its addresses off, or bind with --force to cut it off",
                bound.cut_off.join("; ")
            )));
        }
        Ok(bound)
    }

    /// Gives a function to vfio-pci. Every write is checked by reading back what became of it. `others` of its group are to be given away next, or have been.
    ///
    /// # Errors
    ///
    /// As [`check`](Self::check); and [`DriverError::NoNic`] or [`DriverError::Sys`] where vfio-pci is not there, what the function had cannot be noted, or the
    /// kernel refused.
    pub fn bind(
        &self,
        address: PciAddress,
        others: &[PciAddress],
        force: bool,
    ) -> Result<Bound, DriverError> {
        let bound = self.check(address, others, force)?;
        if bound.already {
            return Ok(bound);
        }
        let function = self.sysfs.function(address)?;
        self.load_vfio(address)?;
        let note = self.note_of(&function);
        self.write_note(address, &note)?;
        let moved = self
            .move_to(address, VFIO_PCI)
            .and_then(|()| self.probe(address, Some(VFIO_PCI)));
        if let Err(error) = moved {
            // Back to what it was, as far as that goes.
            if let Err(also) = self.put_back(address, &note) {
                tracing::warn!(%also, %address, "the function's old driver could not be put back");
            }
            return Err(error);
        }
        Ok(bound)
    }

    /// Takes a function from vfio-pci and puts back what it had before.
    ///
    /// # Errors
    ///
    /// [`DriverError::NoNic`] when there is no such function, or the driver that it had did not take it back.
    pub fn unbind(&self, address: PciAddress) -> Result<Unbound, DriverError> {
        let function = self.sysfs.function(address)?;
        let note = self.read_note(address);
        let mut unbound = Unbound {
            address,
            already: function.driver.as_deref() != Some(VFIO_PCI),
            now: function.driver,
            noted: note.is_some(),
            interfaces: function.interfaces,
        };
        if unbound.already && function.driver_override.as_deref() != Some(VFIO_PCI) {
            self.forget(address);
            return Ok(unbound);
        }
        match note {
            Some(note) => self.put_back(address, &note)?,
            None => {
                self.set_override(address, None)?;
                self.release(address)?;
                self.probe(address, None)?;
            }
        }
        let function = self.sysfs.function(address)?;
        unbound.now = function.driver;
        unbound.interfaces = function.interfaces;
        unbound.already = false;
        Ok(unbound)
    }

    /// What [`unbind`](Self::unbind) would put back: `None` where nothing is noted, `Some(None)` where there was no driver.
    #[must_use]
    pub fn noted(&self, address: PciAddress) -> Option<Option<String>> {
        self.read_note(address).map(|note| note.driver)
    }

    /// What is to be put back. A bind that was interrupted has left the override that it wrote, and perhaps no driver: what the function had
    /// before is in the note of that bind.
    fn note_of(&self, function: &PciFunction) -> Note {
        let now = Note {
            driver: function.driver.clone(),
            driver_override: function.driver_override.clone(),
        };
        if now.driver_override.as_deref() != Some(VFIO_PCI) {
            return now;
        }
        self.read_note(function.address)
            .filter(|note| now.driver.is_none() || now.driver == note.driver)
            .unwrap_or(now)
    }

    fn check_group(
        &self,
        function: &PciFunction,
        others: &[PciAddress],
        group: u32,
    ) -> Result<(), DriverError> {
        let members = function.group_members.iter();
        let held: Vec<_> = members
            .filter(|member| !member.harmless() && !others.contains(&member.address))
            .collect();
        if held.is_empty() {
            return Ok(());
        }
        let named: Vec<String> = held.iter().map(ToString::to_string).collect();
        let addresses = held.iter().map(|member| member.address.to_string());
        let addresses: Vec<String> = addresses.collect();
        Err(refuse(
            function.address,
            format!(
                "the IOMMU cannot tell it from the other functions of its group {group}, which Linux drives: {}. Give them all away together, \
                 `devrx nic bind {} {}`, or put the card in a slot whose bridge keeps functions apart (PCIe ACS), which has a group of its own",
                named.join(", "),
                function.address,
                addresses.join(" ")
            ),
        ))
    }

    /// Loads vfio-pci, and the IOMMU driver that goes with it, where they are not there.
    fn load_vfio(&self, address: PciAddress) -> Result<(), DriverError> {
        let folder = self.sysfs.driver_folder(VFIO_PCI);
        let mut said = String::new();
        for module in ["vfio-pci", "vfio_iommu_type1"] {
            if module == VFIO_PCI && folder.is_dir() {
                continue;
            }
            said = match Command::new("modprobe").arg(module).output() {
                Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
                Err(error) => format!("modprobe: {error}"),
            };
        }
        if folder.is_dir() {
            return Ok(());
        }
        Err(refuse(
            address,
            format!(
                "the kernel module vfio-pci is not loaded and could not be ({said}): install the modules of the running kernel; one built without \
                 CONFIG_VFIO_PCI cannot be used"
            ),
        ))
    }

    /// Puts back what a note says, then drops the note.
    fn put_back(&self, address: PciAddress, note: &Note) -> Result<(), DriverError> {
        self.set_override(address, note.driver_override.as_deref())?;
        self.release(address)?;
        match note.driver.as_deref() {
            None => {}
            Some(driver) => {
                // The kernel's own choice is that driver, unless it had been bound by hand.
                self.write(address, &self.sysfs.drivers_probe(), &address.to_string())?;
                if self.driver(address).as_deref() != Some(driver) {
                    self.release(address)?;
                    let bind = self.sysfs.driver_folder(driver).join("bind");
                    self.write(address, &bind, &address.to_string())?;
                }
                self.check_driver(address, Some(driver))?;
            }
        }
        self.forget(address);
        Ok(())
    }

    /// Takes the function from the driver that has it and names the one that may.
    fn move_to(&self, address: PciAddress, driver: &str) -> Result<(), DriverError> {
        // First the name, so that nobody else gets it in between.
        self.set_override(address, Some(driver))?;
        self.release(address)
    }

    /// Has the kernel look for a driver; `expected` must have taken the function.
    fn probe(&self, address: PciAddress, expected: Option<&str>) -> Result<(), DriverError> {
        self.write(address, &self.sysfs.drivers_probe(), &address.to_string())?;
        match expected {
            Some(_) => self.check_driver(address, expected),
            None => Ok(()),
        }
    }

    fn set_override(&self, address: PciAddress, driver: Option<&str>) -> Result<(), DriverError> {
        let folder = self.sysfs.folder(address);
        // An empty line clears it.
        self.write(
            address,
            &folder.join("driver_override"),
            &format!("{}\n", driver.unwrap_or("")),
        )?;
        let now = text(&folder, "driver_override").unwrap_or_default();
        if now == driver.unwrap_or("(null)") || (driver.is_none() && now.is_empty()) {
            return Ok(());
        }
        Err(refuse(
            address,
            format!(
                "its driver_override reads {now:?} after {driver:?} was written; somebody else changes it too"
            ),
        ))
    }

    /// Takes the function from the driver that has it, if any.
    fn release(&self, address: PciAddress) -> Result<(), DriverError> {
        if self.driver(address).is_none() {
            return Ok(());
        }
        let unbind = self.sysfs.folder(address).join("driver/unbind");
        self.write(address, &unbind, &address.to_string())?;
        self.check_driver(address, None)
    }

    fn driver(&self, address: PciAddress) -> Option<String> {
        link_name(&self.sysfs.folder(address), "driver")
    }

    fn check_driver(&self, address: PciAddress, expected: Option<&str>) -> Result<(), DriverError> {
        let now = self.driver(address);
        if now.as_deref() == expected {
            return Ok(());
        }
        let (now, expected) = (now.as_deref().unwrap_or("none"), expected.unwrap_or("none"));
        Err(refuse(
            address,
            format!(
                "its driver is {now} where {expected} was asked for; `dmesg` says why the driver did not take it or let it go"
            ),
        ))
    }

    fn write(&self, address: PciAddress, file: &Path, text: &str) -> Result<(), DriverError> {
        fs::write(file, text).map_err(|error| {
            let fix = match error.kind() {
                ErrorKind::PermissionDenied => "run as root; in a container, /sys must be writable",
                ErrorKind::NotFound => {
                    "the kernel has no such file: the module is not loaded, or the device is gone"
                }
                _ => "`dmesg` says more",
            };
            refuse(
                address,
                format!(
                    "writing {:?} to {} failed ({error}): {fix}",
                    text.trim(),
                    file.display()
                ),
            )
        })
    }

    fn note_file(&self, address: PciAddress) -> PathBuf {
        self.notes.join(address.to_string())
    }

    /// Two lines: the driver, the override; empty for none.
    fn write_note(&self, address: PciAddress, note: &Note) -> Result<(), DriverError> {
        let line = |name: &Option<String>| name.clone().unwrap_or_default();
        let text = format!("{}\n{}\n", line(&note.driver), line(&note.driver_override));
        let written =
            fs::create_dir_all(&self.notes).and_then(|()| fs::write(self.note_file(address), text));
        written.map_err(|error| {
            DriverError::sys(
                "write of the note of the old driver",
                error,
                format!(
                    "{} must be writable, so that the driver can be put back: run as root",
                    self.notes.display()
                ),
            )
        })
    }

    fn read_note(&self, address: PciAddress) -> Option<Note> {
        let text = fs::read_to_string(self.note_file(address)).ok()?;
        let mut lines = text.lines();
        // Names of drivers go into paths.
        let mut name = || {
            let name = lines.next().unwrap_or("");
            (!name.is_empty() && !name.contains('/') && name != "..").then(|| name.to_owned())
        };
        Some(Note {
            driver: name(),
            driver_override: name(),
        })
    }

    fn forget(&self, address: PciAddress) {
        match fs::remove_file(self.note_file(address)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                tracing::warn!(%error, %address, "the note of the old driver stays");
            }
            _ => {}
        }
    }
}

fn refuse(address: PciAddress, why: String) -> DriverError {
    DriverError::NoNic {
        nic: address.to_string(),
        why,
    }
}

#[cfg(test)]
#[path = "bind_tests.rs"]
mod tests;
