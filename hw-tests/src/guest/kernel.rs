//! Debian kernels for guests: chosen by name, fetched, and made ready to boot.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::initramfs::Archive;
use super::message::sum;
use super::packages::{Apt, filter, progress};
use crate::command::run_ok;

/// The modules that guests may load; what they depend on comes along.
const MODULES: [&str; 9] = [
    "vfio-pci",
    "vfio_iommu_type1",
    "igb",
    "igbvf",
    "virtio_net",
    "virtio_console",
    "qxl",
    "vgem",
    "veth",
];
/// Those of them that some of the kernels have built in. Not every package says what is.
const MAY_BE_BUILT_IN: [&str; 1] = ["virtio_console"];
/// The programs that busybox plays in a guest.
const APPLETS: [&str; 12] = [
    "sh", "ip", "ls", "cat", "dmesg", "ps", "lsmod", "rmmod", "grep", "sleep", "kill", "mount",
];

/// A kernel that can be booted.
#[derive(Debug, Clone)]
pub struct Kernel {
    /// Its name in reports: the first two numbers of its version.
    pub name: String,
    /// Its release, as `uname -r` says it.
    pub release: String,
    /// The image for QEMU's `-kernel`.
    pub image: PathBuf,
    /// The part of the initramfs with its modules.
    pub base: PathBuf,
}

/// A line of kernels, and its packages.
struct Line {
    /// Matches the package that names the release, which follows `prefix`.
    expression: &'static str,
    prefix: &'static str,
    /// A second package, `linux-modules-RELEASE`.
    modules: bool,
}

/// Debian 12's backport of 6.12, and the newest one in Debian 13's backports.
const LINES: [Line; 2] = [
    Line {
        expression: r"^linux-image-6\.12\.[0-9.]*\+deb12[.0-9]*-amd64$",
        prefix: "linux-image-",
        modules: false,
    },
    Line {
        expression: r"^linux-binary-[0-9.]*\+deb13[.0-9]*-amd64$",
        prefix: "linux-binary-",
        modules: true,
    },
];

/// The newest kernel that Debian's backports have, ready; fetched where it is not in the cache.
pub fn newest(apt: &Apt, cache: &Path) -> Result<Kernel> {
    let line = &LINES[LINES.len() - 1];
    ready(apt, cache, line, &line.newest(apt)?)
}

/// More modules for a kernel, and what they need, to be a part of an initramfs.
pub fn add_modules(archive: &mut Archive, kernel: &Kernel, modules: &[&str]) -> Result<()> {
    let folder = kernel.base.parent().context("a kernel without a folder")?;
    modules_into(archive, folder, &kernel.release, modules)
}

impl Line {
    fn newest(&self, apt: &Apt) -> Result<String> {
        let releases = apt.names(self.expression)?;
        let newest = releases
            .iter()
            .filter_map(|name| name.strip_prefix(self.prefix))
            .max_by_key(|release| numbers(release));
        let newest = newest.with_context(|| format!("no package matches {}", self.expression))?;
        Ok(newest.to_owned())
    }
}

/// The kernels of the lane, ready; fetched where they are not in the cache. `only`: those of this name.
pub fn all(apt: &Apt, cache: &Path, only: Option<&str>) -> Result<Vec<Kernel>> {
    let mut kernels = Vec::new();
    for line in &LINES {
        let release = line.newest(apt)?;
        if only.is_none_or(|only| only == name_of(&release)) {
            kernels.push(ready(apt, cache, line, &release)?);
        }
    }
    ensure!(
        !kernels.is_empty(),
        "no kernel of the lane is called {}",
        only.unwrap_or_default()
    );
    Ok(kernels)
}

fn numbers(release: &str) -> Vec<u32> {
    release
        .trim_end_matches("-amd64")
        .split(|letter: char| !letter.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

fn name_of(release: &str) -> String {
    let mut parts = release.split('.');
    format!(
        "{}.{}",
        parts.next().unwrap_or_default(),
        parts.next().unwrap_or_default()
    )
}

fn ready(apt: &Apt, cache: &Path, line: &Line, release: &str) -> Result<Kernel> {
    let folder = cache.join("kernels").join(release);
    if !folder.exists() {
        progress(&format!("fetching Linux {release}"));
        let mut packages = vec![format!("{}{release}", line.prefix)];
        if line.modules {
            packages.push(format!("linux-modules-{release}"));
        }
        std::fs::create_dir_all(cache.join("kernels"))?;
        let work = tempfile::tempdir_in(cache.join("kernels"))?;
        let unpacked = work.path().join("unpacked");
        apt.unpack(&packages, &unpacked)?;
        let kernel = work.path().join("kernel");
        arrange(&unpacked, &kernel, release)?;
        // Complete or not there at all.
        std::fs::rename(&kernel, &folder)?;
    }
    let key = format!("{MODULES:?}{APPLETS:?}2");
    let base = folder.join(format!("base-{:016x}.cpio", sum(key.bytes())));
    if !base.exists() {
        progress(&format!("collecting the modules of Linux {release}"));
        let archive = base_archive(&folder, release)?;
        let part = base.with_extension("part");
        std::fs::write(&part, archive)?;
        std::fs::rename(&part, &base)?;
    }
    Ok(Kernel {
        name: name_of(release),
        release: release.to_owned(),
        image: folder.join("image"),
        base,
    })
}

/// Makes `image` and `lib/modules/RELEASE` of an unpacked package, whichever way it lays them out.
fn arrange(unpacked: &Path, kernel: &Path, release: &str) -> Result<()> {
    let modules = ["usr/lib/modules", "lib/modules"]
        .map(|folder| unpacked.join(folder).join(release))
        .into_iter()
        .find(|folder| folder.join("kernel").is_dir())
        .context("the kernel's package has no modules where they are known to be")?;
    let image = [
        unpacked.join(format!("boot/vmlinuz-{release}")),
        unpacked.join(format!("usr/lib/modules/{release}/vmlinuz")),
    ]
    .into_iter()
    .find(|file| file.is_file())
    .context("the kernel's package has no vmlinuz where it is known to be")?;
    std::fs::create_dir_all(kernel.join("lib/modules"))?;
    std::fs::write(kernel.join("image"), uncompressed(&std::fs::read(image)?)?)?;
    std::fs::rename(modules, kernel.join("lib/modules").join(release))?;
    let mut depmod = Command::new("/sbin/depmod");
    run_ok(
        depmod.arg("-b").arg(kernel).arg(release),
        Duration::from_secs(60),
    )?;
    Ok(())
}

/// The ELF image inside a bzImage: QEMU boots it directly (PVH), which saves the guest the unpacking. A kernel compressed in
/// another way than zstd is booted as it is.
fn uncompressed(image: &[u8]) -> Result<Vec<u8>> {
    const ZSTD: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
    for at in (0..image.len().saturating_sub(4)).filter(|&at| image[at..at + 4] == ZSTD) {
        let plain = filter("zstd", &["-dc"], &image[at..])?;
        if plain.starts_with(b"\x7fELF") {
            return Ok(plain);
        }
    }
    Ok(image.to_vec())
}

/// Busybox, the modules and, for each, the list of what to load in order.
fn base_archive(folder: &Path, release: &str) -> Result<Vec<u8>> {
    let mut archive = Archive::new();
    for name in ["proc", "sys", "dev", "tmp", "run", "mnt", "root", "etc"] {
        archive.folder(name);
    }
    archive.device("dev/console", 5, 1);
    archive.copy("bin/busybox", Path::new("/bin/busybox"))?;
    for applet in APPLETS {
        archive.link(&format!("bin/{applet}"), "busybox");
    }
    modules_into(&mut archive, folder, release, &MODULES)?;
    Ok(archive.finish())
}

fn modules_into(
    archive: &mut Archive,
    folder: &Path,
    release: &str,
    modules: &[&str],
) -> Result<()> {
    let mut packed = std::collections::BTreeSet::new();
    for module in modules {
        let mut list = String::new();
        for path in closure(folder, release, module)? {
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .context("a module without a name")?;
            let (name, plain) = plain_module(name, &path)?;
            list += &format!("{name}\n");
            if packed.insert(name.clone()) {
                archive.file(&format!("lib/devrx/{name}"), 0o644, &plain);
            }
        }
        archive.file(&format!("lib/devrx/{module}.list"), 0o644, list.as_bytes());
    }
    Ok(())
}

/// The files of a module and of what it needs, in the order to load them in.
fn closure(folder: &Path, release: &str, module: &str) -> Result<Vec<PathBuf>> {
    let mut modprobe = Command::new("/sbin/modprobe");
    modprobe
        .arg("-d")
        .arg(folder)
        .args(["-S", release, "--show-depends", module]);
    let output = match run_ok(&mut modprobe, Duration::from_secs(20)) {
        Err(_) if MAY_BE_BUILT_IN.contains(&module) => return Ok(Vec::new()),
        found => found.with_context(|| format!("Linux {release} has no module {module}"))?,
    };
    let files = output
        .stdout
        .lines()
        .filter_map(|line| line.strip_prefix("insmod "));
    Ok(files.map(|file| PathBuf::from(file.trim())).collect())
}

fn plain_module(name: &str, path: &Path) -> Result<(String, Vec<u8>)> {
    let bytes = std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))?;
    let (name, plain) = if let Some(name) = name.strip_suffix(".xz") {
        (name, filter("xz", &["-dc"], &bytes)?)
    } else if let Some(name) = name.strip_suffix(".zst") {
        (name, filter("zstd", &["-dc"], &bytes)?)
    } else {
        (name, bytes)
    };
    if !plain.starts_with(b"\x7fELF") {
        bail!(
            "{} is no module, or packed in an unknown way",
            path.display()
        );
    }
    Ok((name.to_owned(), plain))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_release_is_found_by_its_numbers() {
        assert!(numbers("6.12.100+deb12-amd64") > numbers("6.12.95+deb12-amd64"));
        assert!(numbers("6.12.90+deb12.1-amd64") > numbers("6.12.90+deb12-amd64"));
        assert_eq!(name_of("7.3.4+deb13-amd64"), "7.3");
    }

    #[test]
    fn an_image_that_is_not_zstd_stays_as_it_is() {
        assert_eq!(uncompressed(b"MZ whatever").unwrap(), b"MZ whatever");
    }
}
