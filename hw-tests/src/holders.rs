//! Who has a piece of memory: processes with a descriptor of it, or a mapping.

use std::fs;

/// The processes that have a file open or mapped whose name in /proc begins with `name`, such as `/memfd:` or `/dmabuf:`.
#[must_use]
pub fn of(name: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let file_name = process.file_name();
        let Some(pid) = file_name.to_str().and_then(|text| text.parse().ok()) else {
            continue;
        };
        let fds = fs::read_dir(process.path().join("fd"));
        let open = fds.into_iter().flatten().flatten().any(|fd| {
            fs::read_link(fd.path()).is_ok_and(|link| link.to_string_lossy().starts_with(name))
        });
        let mapped = || {
            let maps = fs::read_to_string(process.path().join("maps")).unwrap_or_default();
            maps.lines().any(|line| {
                line.split_whitespace()
                    .nth(5)
                    .is_some_and(|file| file.starts_with(name))
            })
        };
        if open || mapped() {
            found.push(pid);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_descriptor_and_a_mapping_are_seen_and_then_no_more() {
        use nix::sys::memfd::{MFdFlags, memfd_create};
        let name = "/memfd:devrx-held";
        assert!(of(name).is_empty());
        let fd = memfd_create(c"devrx-held", MFdFlags::MFD_CLOEXEC).expect("a memfd");
        nix::unistd::ftruncate(&fd, 4096).expect("its size");
        assert_eq!(of(name), [std::process::id()]);
        let mapping =
            devrx_provider::Mapping::map_shared(std::os::fd::AsFd::as_fd(&fd), 0, 4096, true)
                .expect("a mapping");
        drop(fd);
        assert_eq!(of(name), [std::process::id()]);
        drop(mapping);
        assert!(of(name).is_empty());
    }
}
