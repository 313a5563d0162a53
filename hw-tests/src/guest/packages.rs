//! Debian packages for the guest lane: QEMU is installed, kernels are only fetched and unpacked.
//!
//! Backports are reached through package lists of our own, made from the mirror that the machine's apt uses; the machine's own
//! configuration stays as it is.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};

use crate::command::{run, run_ok};

/// How long package lists are good for: new kernels may wait a day.
const FRESH: Duration = Duration::from_secs(24 * 3600);
/// The suites with QEMU and the kernels.
const SUITES: &str = "bookworm-backports trixie-backports";
/// What the lane needs installed: a file that shows it is, and the package.
const TOOLS: [(&str, &str); 4] = [
    ("/bin/busybox", "busybox-static"),
    ("/sbin/modprobe", "kmod"),
    ("/usr/bin/xz", "xz-utils"),
    ("/usr/bin/zstd", "zstd"),
];
/// QEMU, and its qxl device.
const QEMU: [&str; 2] = ["qemu-system-x86", "qemu-system-modules-spice"];

/// Says what goes on; everything that may take over two seconds says so before.
pub fn progress(what: &str) {
    println!("guest lane: {what}");
}

/// Where packages and what is made of them are kept: `devrx/guest` in `XDG_CACHE_HOME`, or in `.cache` of the home folder.
pub fn cache() -> Result<PathBuf> {
    let home = || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cache"));
    let base = std::env::var_os("XDG_CACHE_HOME")
        .map(PathBuf::from)
        .filter(|path| path.is_absolute());
    let base = base
        .or_else(home)
        .context("neither XDG_CACHE_HOME nor HOME is set: where may packages be kept?")?;
    let cache = base.join("devrx/guest");
    std::fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
    Ok(cache)
}

/// Holds the cache for this process until dropped.
pub fn lock(cache: &Path) -> Result<File> {
    let file = File::create(cache.join("lock"))?;
    if file.try_lock().is_err() {
        progress("waiting for another run to prepare its guests");
        file.lock()?;
    }
    Ok(file)
}

/// Apt with package lists of its own.
#[derive(Debug)]
pub struct Apt {
    folder: PathBuf,
    /// Whether what is installed on this machine counts for nothing.
    alone: bool,
}

impl Apt {
    /// Apt on this machine's mirror, or why that cannot be.
    pub fn new(cache: &Path) -> Result<std::result::Result<Self, String>> {
        if !Path::new("/usr/bin/apt-get").exists() {
            return Ok(Err(
                "no apt-get: QEMU and kernels come as Debian packages".into()
            ));
        }
        let Some(mirror) = mirror(Path::new("/etc/apt")) else {
            return Ok(Err(
                "apt has no Debian mirror (no bookworm or trixie in /etc/apt)".into(),
            ));
        };
        let apt = Self {
            folder: cache.join("apt"),
            alone: false,
        };
        for folder in ["parts", "lists/partial", "archives/partial"] {
            std::fs::create_dir_all(apt.folder.join(folder))?;
        }
        // The machine's own sources stay in force beside ours: packages that are installed keep their updates.
        for (name, text) in sources(Path::new("/etc/apt")) {
            std::fs::write(apt.folder.join("parts").join(name), text)?;
        }
        std::fs::write(apt.folder.join("parts/devrx-backports.sources"), mirror)?;
        Ok(Ok(apt))
    }

    /// Apt for source packages of the backports, with lists of its own, which few runs need. To be updated before use.
    pub fn for_sources(cache: &Path) -> Result<Self> {
        let mirror = mirror(Path::new("/etc/apt")).context("apt has no Debian mirror")?;
        let apt = Self {
            folder: cache.join("apt-sources"),
            alone: false,
        };
        for folder in ["parts", "lists/partial", "archives/partial"] {
            std::fs::create_dir_all(apt.folder.join(folder))?;
        }
        let text = mirror.replace("Types: deb\n", "Types: deb-src\n");
        std::fs::write(apt.folder.join("parts/devrx-backports.sources"), text)?;
        Ok(apt)
    }

    /// Apt for Debian 13 with its backports and firmware, as if nothing were installed; or why that cannot be.
    pub fn trixie(cache: &Path) -> Result<std::result::Result<Self, String>> {
        if !Path::new("/usr/bin/apt-get").exists() {
            return Ok(Err("no apt-get: QEMU comes as a Debian package".into()));
        }
        let Some(mirror) = mirror(Path::new("/etc/apt")) else {
            return Ok(Err(
                "apt has no Debian mirror (no bookworm or trixie in /etc/apt)".into(),
            ));
        };
        let apt = Self {
            folder: cache.join("trixie/apt"),
            alone: true,
        };
        for folder in ["parts", "lists/partial", "archives/partial"] {
            std::fs::create_dir_all(apt.folder.join(folder))?;
        }
        let text = mirror
            .replace(SUITES, "trixie trixie-backports")
            .replace("Components: main\n", "Components: main non-free-firmware\n");
        std::fs::write(apt.folder.join("parts/devrx-trixie.sources"), text)?;
        std::fs::write(apt.folder.join("status"), "")?;
        Ok(Ok(apt))
    }

    /// The files of packages and of all they depend on, backports preferred, as apt names them; versions are in the names.
    pub fn closure(&self, packages: &[&str]) -> Result<String> {
        let mut list = self.get();
        list.args(CLOSURE).arg("--print-uris").args(packages);
        let said = run_ok(&mut list, Duration::from_secs(60))?.stdout;
        let name = |line: &str| line.split_whitespace().nth(1).map(str::to_owned);
        let lines = said.lines().filter(|line| line.starts_with('\''));
        Ok(lines.filter_map(name).collect::<Vec<_>>().join("\n"))
    }

    /// Fetches packages with all they depend on and unpacks them under `into`.
    pub fn unpack_closure(&self, packages: &[&str], into: &Path) -> Result<()> {
        let folder = tempfile::tempdir_in(&self.folder)?;
        std::fs::create_dir_all(folder.path().join("partial"))?;
        let mut download = self.get();
        download.args(CLOSURE).arg("--download-only");
        let archives = format!("Dir::Cache::archives={}", folder.path().display());
        download.args(["-o", &archives]).args(packages);
        run_ok(&mut download, Duration::from_secs(600))?;
        unpack_all(folder.path(), into)
    }

    /// Fetches the upstream archive of a source package of exactly this version; where it lies.
    pub fn source(&self, package: &str, version: &str, into: &Path) -> Result<PathBuf> {
        let folder = into.join(package);
        std::fs::create_dir_all(&folder)?;
        let mut download = self.get();
        // The archive alone: what Debian changed is not asked for.
        download.args(["source", "--download-only", "--tar-only"]);
        download.arg(format!("{package}={version}"));
        run_ok(download.current_dir(&folder), Duration::from_secs(600))?;
        let file = std::fs::read_dir(&folder)?.next();
        Ok(file.context("apt fetched no archive")??.path())
    }

    /// Brings the package lists up to date unless they are a day old at most.
    pub fn update(&self) -> Result<()> {
        let stamp = self.folder.join("updated");
        let age = std::fs::metadata(&stamp)
            .and_then(|data| data.modified())
            .ok()
            .and_then(|then| SystemTime::now().duration_since(then).ok());
        if age.is_some_and(|age| age < FRESH) {
            return Ok(());
        }
        progress("reading the package lists of Debian's backports");
        match run_ok(self.get().arg("update"), Duration::from_secs(300)) {
            Ok(_) => Ok(std::fs::write(stamp, "")?),
            Err(error) if age.is_some() => {
                progress(&format!("going on with older package lists: {error:#}"));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// The names of packages that match a regular expression.
    pub fn names(&self, expression: &str) -> Result<Vec<String>> {
        let mut search = self.command("apt-cache");
        search.args(["search", "--names-only", expression]);
        let found = run_ok(&mut search, Duration::from_secs(60))?;
        let name = |line: &str| line.split_whitespace().next().map(str::to_owned);
        Ok(found.stdout.lines().filter_map(name).collect())
    }

    /// Fetches packages and unpacks them under `into`.
    pub fn unpack(&self, packages: &[String], into: &Path) -> Result<()> {
        let folder = tempfile::tempdir_in(&self.folder)?;
        let mut download = self.get();
        download.arg("download").args(packages);
        download.current_dir(folder.path());
        run_ok(&mut download, Duration::from_secs(600))?;
        unpack_all(folder.path(), into)
    }

    /// Installs what is missing of QEMU and the tools; the reason where that cannot be.
    pub fn install(&self) -> Result<Option<String>> {
        let qemu: &[&str] = if qemu_will_do()? { &[] } else { &QEMU };
        let reason = self.install_with(qemu)?;
        ensure!(
            reason.is_some() || qemu.is_empty() || qemu_will_do()?,
            "the QEMU that was installed has no igb or no qxl"
        );
        Ok(reason)
    }

    /// The same without QEMU.
    pub fn install_tools(&self) -> Result<Option<String>> {
        self.install_with(&[])
    }

    fn install_with(&self, more: &[&str]) -> Result<Option<String>> {
        let tools = TOOLS.iter().filter(|(file, _)| !Path::new(file).exists());
        let mut missing: Vec<&str> = tools.map(|(_, package)| *package).collect();
        missing.extend(more);
        if missing.is_empty() {
            return Ok(None);
        }
        let list = missing.join(" ");
        if !nix::unistd::geteuid().is_root() {
            return Ok(Some(format!(
                "missing, and not root: apt-get install {list} (QEMU from bookworm-backports or later)"
            )));
        }
        progress(&format!("installing {list}"));
        self.update()?;
        let mut install = self.get();
        install.env("DEBIAN_FRONTEND", "noninteractive");
        install.args([
            "-o",
            "DPkg::Lock::Timeout=180",
            "install",
            "-y",
            "--no-install-recommends",
        ]);
        if std::fs::read_to_string("/etc/os-release")?.contains("bookworm") {
            install.args(["-t", "bookworm-backports"]);
        }
        run_ok(install.args(&missing), Duration::from_secs(600))?;
        Ok(None)
    }

    fn get(&self) -> Command {
        let mut command = self.command("apt-get");
        command.arg("-q");
        command
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let at =
            |option: &str, path: &str| format!("{option}={}", self.folder.join(path).display());
        for option in [
            "Dir::Etc::sourcelist=/dev/null".into(),
            at("Dir::Etc::sourceparts", "parts"),
            at("Dir::State::lists", "lists"),
            at("Dir::Cache", ""),
            at("Dir::Cache::archives", "archives"),
            // The cache is in a folder that apt's own user may not enter.
            "APT::Sandbox::User=root".into(),
            "Acquire::Languages=none".into(),
            "Acquire::Retries=3".into(),
        ] {
            command.args(["-o", &option]);
        }
        if self.alone {
            command.args(["-o", &at("Dir::State::status", "status")]);
            command.args(["-o", "Dir::Etc::preferencesparts=/dev/null"]);
        }
        command
    }
}

/// How packages are asked for together with what they depend on.
const CLOSURE: [&str; 5] = [
    "install",
    "-y",
    "--no-install-recommends",
    "-t",
    "trixie-backports",
];

/// Unpacks each package in a folder.
fn unpack_all(folder: &Path, into: &Path) -> Result<()> {
    std::fs::create_dir_all(into)?;
    for file in std::fs::read_dir(folder)? {
        let file = file?.path();
        if file.extension().is_some_and(|end| end == "deb") {
            let mut unpack = Command::new("dpkg-deb");
            unpack.arg("-x").arg(file).arg(into);
            run_ok(&mut unpack, Duration::from_secs(120))?;
        }
    }
    Ok(())
}

/// Whether there is a QEMU with the devices that the lane uses.
fn qemu_will_do() -> Result<bool> {
    let mut help = Command::new("qemu-system-x86_64");
    help.args(["-device", "help"]).stdin(Stdio::null());
    let Ok(help) = run(&mut help, Duration::from_secs(20)) else {
        return Ok(false);
    };
    Ok(["\"igb\"", "\"qxl\"", "\"ivshmem-plain\""]
        .iter()
        .all(|device| help.stdout.contains(device)))
}

/// The machine's apt sources: names and contents of the files.
fn sources(etc: &Path) -> Vec<(String, String)> {
    let mut files = vec![etc.join("sources.list")];
    if let Ok(entries) = std::fs::read_dir(etc.join("sources.list.d")) {
        files.extend(entries.flatten().map(|entry| entry.path()));
    }
    let wanted = |path: &PathBuf| {
        path.extension()
            .is_some_and(|end| end == "list" || end == "sources")
    };
    let read = |path: PathBuf| {
        let name = path.file_name()?.to_string_lossy().into_owned();
        Some((name, std::fs::read_to_string(path).ok()?))
    };
    files.into_iter().filter(wanted).filter_map(read).collect()
}

/// A source of the backports on the mirror that the machine has Debian itself from.
fn mirror(etc: &Path) -> Option<String> {
    sources(etc).iter().find_map(|(name, text)| {
        if name.ends_with(".list") {
            text.lines().find_map(mirror_of_line)
        } else {
            text.split("\n\n").find_map(mirror_of_stanza)
        }
    })
}

fn is_debian(suite: &str) -> bool {
    matches!(
        suite,
        "bookworm" | "trixie" | "stable" | "testing" | "oldstable" | "sid"
    )
}

fn stanza(uris: &str, signed: Option<&str>) -> String {
    let signed = signed.map_or(String::new(), |signed| format!("Signed-By: {signed}\n"));
    format!("Types: deb\nURIs: {uris}\nSuites: {SUITES}\nComponents: main\n{signed}")
}

/// From `deb [signed-by=KEY] URI SUITE COMPONENT...`, sources.list(5).
fn mirror_of_line(line: &str) -> Option<String> {
    let mut rest = line.strip_prefix("deb ")?.trim();
    let mut signed = None;
    if let Some(inside) = rest.strip_prefix('[') {
        let (options, after) = inside.split_once(']')?;
        signed = options
            .split_whitespace()
            .find_map(|option| option.strip_prefix("signed-by="));
        rest = after.trim();
    }
    let mut words = rest.split_whitespace();
    let (uri, suite) = (words.next()?, words.next()?);
    is_debian(suite).then(|| stanza(uri, signed))
}

/// From a stanza of `URIs:`, `Suites:` and `Signed-By:` lines, sources.list(5).
fn mirror_of_stanza(text: &str) -> Option<String> {
    let field = |name: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(name));
        value.map(str::trim).filter(|value| !value.is_empty())
    };
    let enabled = field("Enabled:") != Some("no");
    let debian = field("Suites:")?.split_whitespace().any(is_debian);
    (enabled && debian).then(|| Some(stanza(field("URIs:")?, field("Signed-By:"))))?
}

/// Pipes `input` through a program and answers with what it wrote, whether or not it liked all of its input.
pub fn filter(program: &str, arguments: &[&str], input: &[u8]) -> Result<Vec<u8>> {
    use std::io::Write;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {program}"))?;
    let Some(mut stdin) = child.stdin.take() else {
        bail!("{program} has no standard input");
    };
    let input = input.to_vec();
    // A program that stops reading early closes the pipe: then what it wrote is what counts.
    let writer = std::thread::spawn(move || stdin.write_all(&input).ok());
    let output = child.wait_with_output()?;
    writer.join().ok();
    Ok(output.stdout)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mirror_is_found_in_both_ways_of_writing_it() {
        let line =
            mirror_of_line("deb [arch=amd64 signed-by=/k.gpg] http://m/debian bookworm main")
                .unwrap();
        assert!(line.contains("URIs: http://m/debian\n") && line.contains("Signed-By: /k.gpg\n"));
        assert_eq!(mirror_of_line("# deb http://m/debian bookworm main"), None);
        assert_eq!(
            mirror_of_line("deb http://m/security bookworm-security main"),
            None
        );
        let text = "Types: deb\nURIs: http://m/debian\nSuites: bookworm bookworm-updates\nSigned-By: /k.gpg";
        assert_eq!(mirror_of_stanza(text).unwrap(), line);
        assert_eq!(mirror_of_stanza(&format!("{text}\nEnabled: no")), None);
    }
}
