//! Programs of Debian 13 on any Debian: packages and all they depend on, unpacked into a folder, run by the loader and the C library in it.
//!
//! QEMU 11 comes from there, whose `vfio-user-pci` the E810 model needs (QEMU 10.1 or later), and what goes into its guests. Nothing is installed, and
//! nothing needs root.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::message::sum;
use super::packages::{Apt, progress};
use crate::command::{run, run_ok};

/// Debian's folder of libraries for x86-64, in the tree and in guests.
pub const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
/// What is wanted; what it depends on comes along.
const PACKAGES: [&str; 7] = [
    "qemu-system-x86",
    // With its qxl card.
    "qemu-system-modules-spice",
    "ethtool",
    "librte-net-ice25",
    "librte-mempool-ring25",
    "librte-bus-pci25",
    "librte-ethdev25",
];
/// What is wanted without what it depends on: headers, and the E810's DDP package.
const ALONE: [&str; 4] = [
    "libdpdk-dev",
    "libbsd-dev",
    "libmd-dev",
    "firmware-intel-misc",
];
/// The DDP package in the tree.
const DDP: &str = "usr/lib/firmware/intel/ice/ddp/ice.pkg";

/// How the folder's name begins.
const TREE: &str = "programs-";

/// The folder.
#[derive(Debug, Clone)]
pub struct Tree(PathBuf);

/// The tree, fetched where it is not in the cache; or the reason why it cannot be had.
pub fn tree(cache: &Path) -> Result<std::result::Result<Tree, String>> {
    let apt = match Apt::trixie(cache)? {
        Ok(apt) => apt,
        Err(reason) => return Ok(Err(reason)),
    };
    if let Err(error) = apt.update() {
        return Ok(Err(format!(
            "Debian 13's package lists cannot be had: {error:#}"
        )));
    }
    let files = match apt.closure(&PACKAGES) {
        Ok(files) => files,
        Err(error) => return Ok(Err(format!("Debian 13 lacks a package: {error:#}"))),
    };
    let folder = cache.join("trixie");
    let key = sum(format!("{files}{ALONE:?}").bytes());
    let tree = folder.join(format!("{TREE}{key:016x}"));
    if !tree.exists() {
        progress("fetching QEMU 11, ethtool and DPDK from Debian 13 (some 60 MB)");
        let work = tempfile::tempdir_in(&folder)?;
        let unpacked = work.path().join("tree");
        apt.unpack_closure(&PACKAGES, &unpacked)?;
        apt.unpack(&ALONE.map(str::to_owned), &unpacked)?;
        for old in std::fs::read_dir(&folder)?.flatten() {
            if old.file_name().to_string_lossy().starts_with(TREE) {
                std::fs::remove_dir_all(old.path())?;
            }
        }
        std::fs::rename(&unpacked, &tree)?;
    }
    let tree = Tree(tree);
    let version = tree.version()?;
    if version < (10, 1) {
        return Ok(Err(format!(
            "QEMU {}.{} has no vfio-user-pci; 10.1 has",
            version.0, version.1
        )));
    }
    Ok(Ok(tree))
}

impl Tree {
    /// A path in it.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        self.0.join(path)
    }

    fn libraries(&self) -> PathBuf {
        self.0.join(LIBRARIES)
    }

    /// A command that runs a program of the tree.
    #[must_use]
    pub fn program(&self, path: &str) -> Command {
        let mut command = Command::new(self.libraries().join("ld-linux-x86-64.so.2"));
        command.arg("--library-path").arg(self.libraries());
        command.arg(self.0.join(path));
        command
    }

    /// A command that runs its QEMU.
    #[must_use]
    pub fn qemu(&self) -> Command {
        let mut command = self.program("usr/bin/qemu-system-x86_64");
        for folder in ["usr/share/qemu", "usr/share/seabios"] {
            command.arg("-L").arg(self.0.join(folder));
        }
        command.env("QEMU_MODULE_DIR", self.libraries().join("qemu"));
        command
    }

    /// Its QEMU's version.
    pub fn version_text(&self) -> Result<String> {
        let said = run_ok(self.qemu().arg("--version"), Duration::from_secs(20))?.stdout;
        let version = said.split_whitespace().nth(3).unwrap_or("unknown");
        Ok(version.to_owned())
    }

    fn version(&self) -> Result<(u32, u32)> {
        let said = run_ok(self.qemu().arg("--version"), Duration::from_secs(20))?.stdout;
        let text = said.split_whitespace().find_map(|word| {
            let mut numbers = word.split('.').map(str::parse);
            Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
        });
        text.with_context(|| format!("no version in {said:?}"))
    }

    /// The DDP package of the E810.
    #[must_use]
    pub fn ddp(&self) -> PathBuf {
        self.0.join(DDP)
    }

    /// The libraries that a program needs, by the names it knows them by; the loader is one of them.
    pub fn needs(&self, program: &Path) -> Result<Vec<(String, PathBuf)>> {
        let mut list = Command::new(self.libraries().join("ld-linux-x86-64.so.2"));
        list.arg("--library-path").arg(self.libraries());
        list.arg("--list").arg(program);
        let said = run(&mut list, Duration::from_secs(20))?.stdout;
        let mut found = vec![(
            "ld-linux-x86-64.so.2".to_owned(),
            self.libraries().join("ld-linux-x86-64.so.2"),
        )];
        for line in said.lines() {
            let Some((name, rest)) = line.trim().split_once(" => ") else {
                continue;
            };
            let path = rest.split(" (").next().unwrap_or(rest);
            ensure!(
                path != "not found",
                "{} needs {name}, which the tree lacks",
                program.display()
            );
            let name = Path::new(name).file_name();
            let name = name.context("a library without a name")?.to_string_lossy();
            if !found.iter().any(|(known, _)| *known == name) {
                found.push((name.into_owned(), path.into()));
            }
        }
        ensure!(
            found.len() > 1,
            "the loader says of {}: {said}",
            program.display()
        );
        Ok(found)
    }
}
