//! Who has an IOMMU group open.

use std::fmt;
use std::fs;
use std::path::Path;

use serde::Serialize;

/// A process that has a group open.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Holder {
    /// Its process id.
    pub pid: u32,
    /// Its name.
    pub command: String,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (pid {})", self.command, self.pid)
    }
}

/// The processes that have the file of IOMMU group `number` open, as far as this one may look: all of them for root. An unbind of a function of
/// the group waits in the kernel until they have let go of it (drivers/vfio/vfio_main.c: vfio_unregister_group_dev).
pub fn holders(number: u32) -> Vec<Holder> {
    holding(
        Path::new("/proc"),
        Path::new(&format!("/dev/vfio/{number}")),
    )
}

fn holding(proc: &Path, node: &Path) -> Vec<Holder> {
    let mut found = Vec::new();
    let Ok(processes) = fs::read_dir(proc) else {
        return found;
    };
    for process in processes.flatten() {
        let name = process.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        let Ok(descriptors) = fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        let holds = descriptors
            .flatten()
            .any(|fd| fs::read_link(fd.path()).is_ok_and(|target| target == node));
        if holds {
            let command = fs::read_to_string(process.path().join("comm")).unwrap_or_default();
            found.push(Holder {
                pid,
                command: command.trim().to_owned(),
            });
        }
    }
    found.sort_by_key(|holder| holder.pid);
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_found_by_what_it_has_open() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let found = holding(Path::new("/proc"), file.path());
        let [holder] = found.as_slice() else {
            panic!("{found:?}");
        };
        assert_eq!(holder.pid, std::process::id());
        assert!(!holder.command.is_empty());
        let path = file.path().to_owned();
        drop(file);
        assert!(holding(Path::new("/proc"), &path).is_empty());
    }
}
