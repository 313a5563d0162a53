//! The first file system of a guest, as cpio archives in the `newc` format (Linux Documentation/driver-api/early-userspace/buffer-format.rst).

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, Result};

/// Kinds of files, as in `st_mode`.
const DIRECTORY: u32 = 0o040_000;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_000;
const CHARACTER: u32 = 0o020_000;

/// An archive being written. Several, each finished, can follow each other in one initramfs; later entries go over earlier ones.
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    folders: std::collections::BTreeSet<String>,
}

impl Archive {
    /// An empty archive.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a directory and those above it.
    pub fn folder(&mut self, path: &str) {
        let path = path.trim_matches('/');
        if path.is_empty() || self.folders.contains(path) {
            return;
        }
        if let Some((above, _)) = path.rsplit_once('/') {
            self.folder(above);
        }
        self.folders.insert(path.to_owned());
        self.entry(path, DIRECTORY | 0o755, &[], 0);
    }

    /// Adds a file and the directories above it.
    pub fn file(&mut self, path: &str, mode: u32, data: &[u8]) {
        self.parent(path);
        self.entry(path, FILE | mode, data, 0);
    }

    /// Adds a copy of a file of this machine.
    pub fn copy(&mut self, path: &str, from: &Path) -> Result<()> {
        let data =
            std::fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
        let mode = std::fs::metadata(from)?.permissions().mode() & 0o777;
        self.file(path, mode, &data);
        Ok(())
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        self.parent(path);
        self.entry(path, LINK | 0o777, target.as_bytes(), 0);
    }

    /// Adds a character device.
    pub fn device(&mut self, path: &str, major: u32, minor: u32) {
        self.parent(path);
        self.entry(path, CHARACTER | 0o600, &[], major << 8 | minor);
    }

    /// The finished archive, aligned so that another may follow.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, &[], 0);
        self.bytes
    }

    fn parent(&mut self, path: &str) {
        if let Some((above, _)) = path.trim_matches('/').rsplit_once('/') {
            self.folder(above);
        }
    }

    fn entry(&mut self, path: &str, mode: u32, data: &[u8], device: u32) {
        let name = path.trim_matches('/');
        // A number of its own for each entry: equal ones would be taken for hard links.
        self.entries += 1;
        let size = u32::try_from(data.len()).expect("a file of less than 4 GiB");
        let name_size = u32::try_from(name.len() + 1).expect("a short name");
        self.bytes.extend_from_slice(b"070701");
        #[rustfmt::skip]
        let fields = [
            self.entries, mode, 0, 0, 1, 0, size, 0, 0, device >> 8, device & 0xff, name_size, 0,
        ];
        for field in fields {
            // Writing to a Vec cannot fail.
            write!(self.bytes, "{field:08x}").ok();
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.align();
        self.bytes.extend_from_slice(data);
        self.align();
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Busybox's cpio reads it where there is one; the kernel reads it in every guest.
    #[test]
    fn an_archive_is_aligned_and_names_what_was_added() {
        let mut archive = Archive::new();
        archive.file("a/b/file", 0o644, b"12345");
        archive.link("init", "a/b/file");
        let bytes = archive.finish();
        assert_eq!(bytes.len() % 4, 0);
        let text = String::from_utf8_lossy(&bytes);
        let at = |name: &str| text.find(&format!("{name}\0")).expect(name);
        assert!(at("a") < at("a/b") && at("a/b") < at("a/b/file") && at("init") < at("TRAILER!!!"));
        assert_eq!(text.matches("070701").count(), 5);
    }
}
