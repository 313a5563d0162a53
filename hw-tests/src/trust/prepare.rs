//! What the trust tests have in their guests beside the rest: Linux's ice, the E810's DDP package, ethtool, and a program of DPDK's.

use std::path::Path;

use anyhow::{Context, Result};

use crate::guest::initramfs::Archive;
use crate::guest::kernel::{Kernel, add_modules};
use crate::guest::trixie::{LIBRARIES, Tree};

use super::tools::{DDP, ETHTOOL};

/// The kernel's modules.
const MODULES: [&str; 2] = ["ice", "8021q"];

/// A part of an initramfs with all of it.
pub fn archive(tree: &Tree, kernel: &Kernel, programs: &[(&str, &Path)]) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    add_modules(&mut archive, kernel, &MODULES)?;
    // Not where the kernel looks for it: tests put it there, or leave ice without.
    archive
        .copy(DDP.trim_start_matches('/'), &tree.ddp())
        .context("the DDP package of firmware-intel-misc")?;
    let ethtool = tree.path("usr/sbin/ethtool");
    let mut libraries = tree.needs(&ethtool)?;
    archive.copy(ETHTOOL.trim_start_matches('/'), &ethtool)?;
    for (name, file) in programs {
        archive.copy(name, file)?;
        libraries.extend(tree.needs(file)?);
    }
    libraries.sort();
    libraries.dedup_by(|a, b| a.0 == b.0);
    for (name, file) in libraries {
        let name = match name.as_str() {
            "ld-linux-x86-64.so.2" => format!("lib64/{name}"),
            _ => format!("{LIBRARIES}/{name}"),
        };
        archive.copy(&name, &file)?;
    }
    Ok(archive.finish())
}
