//! What the trust tests have in their guests beside the rest: Linux's ice, the E810's DDP package, ethtool, and a program of DPDK's.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command::run_ok;
use crate::guest::initramfs::Archive;
use crate::guest::kernel::{Kernel, add_modules};
use crate::guest::trixie::{LIBRARIES, Tree};

use super::dpdk::PROGRAM;
use super::tools::{DDP, ETHTOOL};

/// Where `stamp_all` is in the guest.
pub const STAMP_ALL: &str = "/usr/bin/stamp_all";
/// Where `dpdk_rx` is in the guest.
pub const BENCH: &str = "/usr/bin/dpdk_rx";

/// The kernel's modules.
const MODULES: [&str; 2] = ["ice", "8021q"];

/// What DPDK's program is linked with: its drivers and buses register themselves when they are loaded.
const DPDK: [&str; 11] = [
    "net_ice",
    "bus_pci",
    "mempool_ring",
    "ethdev",
    "mbuf",
    "mempool",
    "ring",
    "eal",
    "log",
    "net",
    "kvargs",
];

/// A part of an initramfs with all of it; `sources` is where the C programs are, `work` a folder to build in.
pub fn archive(tree: &Tree, kernel: &Kernel, sources: &Path, work: &Path) -> Result<Vec<u8>> {
    let dpdk = work.join("dpdk_split");
    build(tree, &sources.join("dpdk_split.c"), &dpdk)?;
    let stamp_all = work.join("stamp_all");
    let mut cc = Command::new("gcc");
    cc.args(["-O2", "-Wall", "-Wextra", "-Werror"]);
    cc.arg(sources.join("stamp_all.c"))
        .arg("-o")
        .arg(&stamp_all);
    run_ok(&mut cc, Duration::from_secs(60)).context("building stamp_all.c")?;
    pack(tree, kernel, &[(PROGRAM, &dpdk), (STAMP_ALL, &stamp_all)])
}

/// The same with `dpdk_rx.c` instead, for measurements.
pub fn bench(tree: &Tree, kernel: &Kernel, sources: &Path, work: &Path) -> Result<Vec<u8>> {
    let dpdk = work.join("dpdk_rx");
    build(tree, &sources.join("dpdk_rx.c"), &dpdk)?;
    pack(tree, kernel, &[(BENCH, &dpdk)])
}

/// DPDK's version in the tree.
pub fn dpdk_version(tree: &Tree) -> Result<String> {
    let text = std::fs::read_to_string(tree.path(LIBRARIES).join("pkgconfig/libdpdk.pc"))?;
    let version = text.lines().find_map(|line| line.strip_prefix("Version: "));
    Ok(version.unwrap_or("unknown").to_owned())
}

/// Compiles DPDK's program against the headers and libraries of the tree.
fn build(tree: &Tree, source: &Path, program: &Path) -> Result<()> {
    let libraries = tree.path(LIBRARIES);
    // The version of DPDK's binary interface, which ends the libraries' names.
    let link = std::fs::read_link(libraries.join("librte_eal.so"))?;
    let link = link.to_string_lossy().into_owned();
    let (_, version) = link
        .split_once(".so.")
        .context("librte_eal.so has no version")?;
    let mut cc = Command::new("gcc");
    cc.args(["-O2", "-march=corei7", "-Wall", "-Wextra", "-Werror"]);
    cc.args(["-include", "rte_config.h"]);
    for folder in [
        "usr/include/dpdk",
        "usr/include/x86_64-linux-gnu/dpdk",
        "usr/include/x86_64-linux-gnu",
        "usr/include",
    ] {
        cc.arg("-isystem").arg(tree.path(folder));
    }
    cc.arg(source).arg("-o").arg(program);
    cc.args(["-Wl,--no-as-needed", "-Wl,--allow-shlib-undefined"]);
    for library in DPDK {
        cc.arg(libraries.join(format!("librte_{library}.so.{version}")));
    }
    run_ok(&mut cc, Duration::from_secs(60))
        .with_context(|| format!("building {}", source.display()))?;
    Ok(())
}

fn pack(tree: &Tree, kernel: &Kernel, programs: &[(&str, &Path)]) -> Result<Vec<u8>> {
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
        archive.copy(name.trim_start_matches('/'), file)?;
        libraries.extend(tree.needs(file)?);
    }
    // Loaded where a thread is cancelled.
    let unwinder = "libgcc_s.so.1";
    libraries.push((unwinder.to_owned(), tree.path(LIBRARIES).join(unwinder)));
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
