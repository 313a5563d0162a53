//! Building what the measurements need beside devrx: the plugin for QEMU, and DPDK's side. Nothing is installed: Debian's packages are fetched and
//! unpacked.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::command::run_ok;
use crate::guest::packages::{Apt, progress};

/// Where a package for x86-64 has its libraries.
const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
/// The libraries of DPDK that a program with its igb driver is made of.
const DPDK: [&str; 14] = [
    "bus_pci",
    "bus_vdev",
    "mempool_ring",
    "net_e1000",
    "ethdev",
    "mbuf",
    "mempool",
    "ring",
    "pci",
    "net",
    "meter",
    "eal",
    "telemetry",
    "kvargs",
];
/// Those of them that DPDK loads as plugins where it is in shared libraries.
pub const PLUGINS: [&str; 3] = ["bus_pci", "mempool_ring", "net_e1000"];

/// What was built.
#[derive(Debug)]
pub struct Peer {
    /// The plugin.
    pub plugin: PathBuf,
    /// A folder for the guest: `dpdk_rx`, linked statically; `dpdk_rx_shared` with the libraries it needs.
    pub folder: PathBuf,
    /// DPDK's version.
    pub version: String,
}

/// Builds them in `work`; the reason where that cannot be.
pub fn build(apt: &Apt, cache: &Path, sources: &Path, work: &Path) -> Result<Peer> {
    let fetched = work.join("packages");
    progress("fetching the packages of DPDK, glib's headers and QEMU's source");
    let names = [
        "libdpdk-dev",
        "libnuma-dev",
        "libnuma1",
        "libfdt-dev",
        "libfdt1",
        "libbsd-dev",
        "libbsd0",
        "libmd-dev",
        "libmd0",
        "libglib2.0-dev",
    ]
    .map(str::to_owned);
    apt.unpack(&names, &fetched)?;
    apt.unpack(&shared_packages(&fetched)?, &fetched)?;
    let header = header(cache, work)?;
    progress("building the plugin and DPDK's side");
    let plugin = plugin(&fetched, &header, sources, work, &[])?;
    let folder = work.join("guest");
    std::fs::create_dir_all(&folder)?;
    dpdk_static(&fetched, sources, &folder)?;
    dpdk_shared(&fetched, sources, &folder)?;
    Ok(Peer {
        plugin,
        folder,
        version: version(&fetched)?,
    })
}

/// Builds the plugin alone, for QEMU 11, whose own header is not asked for: `mark.c` knows what changed.
pub fn only_plugin(apt: &Apt, cache: &Path, sources: &Path, work: &Path) -> Result<PathBuf> {
    let fetched = work.join("packages");
    progress("fetching glib's headers and QEMU's source");
    apt.unpack(&["libglib2.0-dev".to_owned()], &fetched)?;
    let header = header(cache, work)?;
    plugin(&fetched, &header, sources, work, &["-DAPI=7"])
}

/// The packages of DPDK's shared libraries, whose names end with the version of its binary interface.
fn shared_packages(fetched: &Path) -> Result<Vec<String>> {
    let link = std::fs::read_link(fetched.join(LIBRARIES).join("librte_eal.so"))?;
    let interface = link.extension().and_then(|end| end.to_str());
    let interface = interface.context("librte_eal.so has no version")?;
    let name = |library: &str| {
        let dash = if library.ends_with(|end: char| end.is_ascii_digit()) {
            "-"
        } else {
            ""
        };
        format!("librte-{}{dash}{interface}", library.replace('_', "-"))
    };
    Ok(DPDK.iter().copied().map(name).collect())
}

/// The folder with `qemu-plugin.h`, of the very version that is installed: Debian's packages lack it, so it comes out of the source.
fn header(cache: &Path, work: &Path) -> Result<PathBuf> {
    let mut ask = Command::new("dpkg-query");
    ask.args(["-W", "-f", "${Version}", "qemu-system-x86"]);
    let version = run_ok(&mut ask, Duration::from_secs(10))
        .context("QEMU is not Debian's, so its source is not known")?
        .stdout;
    let version = version.trim();
    let folder = cache.join("qemu-source").join(version);
    let include = folder.join("include");
    if !include.join("qemu-plugin.h").exists() {
        let apt = Apt::for_sources(cache)?;
        apt.update()?;
        let archive = apt.source("qemu", version, work)?;
        std::fs::create_dir_all(&include)?;
        let mut unpack = Command::new("tar");
        unpack.arg("-xf").arg(&archive).arg("-C").arg(&include);
        unpack.args([
            "--wildcards",
            "--strip-components=3",
            "*/include/qemu/qemu-plugin.h",
        ]);
        run_ok(&mut unpack, Duration::from_secs(120))?;
    }
    Ok(include)
}

fn plugin(
    fetched: &Path,
    header: &Path,
    sources: &Path,
    work: &Path,
    defines: &[&str],
) -> Result<PathBuf> {
    let built = work.join("libmark.so");
    let mut cc = Command::new("gcc");
    cc.args([
        "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o",
    ]);
    cc.arg(&built).args(defines).arg(sources.join("mark.c"));
    cc.arg("-I").arg(header);
    cc.arg("-I").arg(fetched.join("usr/include/glib-2.0"));
    cc.arg("-I")
        .arg(fetched.join(LIBRARIES).join("glib-2.0/include"));
    run_ok(&mut cc, Duration::from_secs(60)).context("building mark.c")?;
    Ok(built)
}

fn compiler(fetched: &Path, sources: &Path) -> Command {
    let mut cc = Command::new("gcc");
    // What Debian's libdpdk.pc says for programs that use it.
    cc.args([
        "-O3",
        "-march=corei7",
        "-Wall",
        "-Wextra",
        "-include",
        "rte_config.h",
    ]);
    for folder in [
        "usr/include/dpdk",
        "usr/include/x86_64-linux-gnu/dpdk",
        "usr/include",
    ] {
        cc.arg("-I").arg(fetched.join(folder));
    }
    cc.arg(sources.join("dpdk_rx.c"));
    cc.arg("-L").arg(fetched.join(LIBRARIES));
    cc
}

fn dpdk_static(fetched: &Path, sources: &Path, folder: &Path) -> Result<()> {
    let mut cc = compiler(fetched, sources);
    cc.arg("-static").arg("-Wl,--whole-archive");
    cc.args(DPDK.map(|library| format!("-l:librte_{library}.a")));
    cc.arg("-Wl,--no-whole-archive");
    cc.args([
        "-lnuma",
        "-lfdt",
        "-lbsd",
        "-lmd",
        "-lm",
        "-lpthread",
        "-ldl",
    ]);
    cc.arg("-o").arg(folder.join("dpdk_rx"));
    run_ok(&mut cc, Duration::from_secs(120)).context("building dpdk_rx.c, static")?;
    Ok(())
}

/// The program, its loader and libraries, side by side.
fn dpdk_shared(fetched: &Path, sources: &Path, folder: &Path) -> Result<()> {
    let program = folder.join("dpdk_rx_shared");
    let libraries = fetched.join(LIBRARIES);
    let mut cc = compiler(fetched, sources);
    cc.args([
        "-lrte_ethdev",
        "-lrte_mbuf",
        "-lrte_mempool",
        "-lrte_ring",
        "-lrte_eal",
    ]);
    cc.arg("-Wl,--allow-shlib-undefined")
        .arg("-o")
        .arg(&program);
    run_ok(&mut cc, Duration::from_secs(120)).context("building dpdk_rx.c, shared")?;
    let mut needed = vec![program];
    for plugin in PLUGINS {
        needed.push(std::fs::canonicalize(
            libraries.join(format!("librte_{plugin}.so")),
        )?);
        let name = format!("librte_{plugin}.so");
        std::fs::copy(libraries.join(&name), folder.join(&name))?;
    }
    for file in needed {
        let mut ldd = Command::new("ldd");
        ldd.env("LD_LIBRARY_PATH", &libraries).arg(file);
        for line in run_ok(&mut ldd, Duration::from_secs(20))?.stdout.lines() {
            let path = line
                .split_whitespace()
                .find(|word| word.starts_with('/'))
                .map(Path::new);
            if let Some((path, name)) = path.and_then(|path| Some((path, path.file_name()?))) {
                std::fs::copy(path, folder.join(name))
                    .with_context(|| path.display().to_string())?;
            }
        }
    }
    // Loaded where a thread is cancelled.
    let unwinder = Path::new("/").join(LIBRARIES).join("libgcc_s.so.1");
    std::fs::copy(unwinder, folder.join("libgcc_s.so.1"))?;
    Ok(())
}

fn version(fetched: &Path) -> Result<String> {
    let text = std::fs::read_to_string(fetched.join(LIBRARIES).join("pkgconfig/libdpdk.pc"))?;
    let version = text.lines().find_map(|line| line.strip_prefix("Version: "));
    Ok(version.unwrap_or("unknown").to_owned())
}
