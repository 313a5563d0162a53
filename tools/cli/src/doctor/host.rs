//! What the machine itself must offer.

use std::io;
use std::path::Path;

use devrx_driver::vfio::Sysfs;
use nix::sys::resource::{Resource, getrlimit};

use super::{Check, Needed};
use crate::namespace::Namespace;
use crate::sys;

// include/uapi/linux/capability.h
const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;
const CAP_IPC_LOCK: u32 = 14;
const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
const CAP_BPF: u32 = 39;

/// MEMBARRIER_CMD_GLOBAL, from include/uapi/linux/membarrier.h.
const MEMBARRIER_GLOBAL: u32 = 1;
/// Locked memory that a small region needs.
const SOME_MEMORY: u64 = 64 << 20;

/// What was found; where it is not as it should be, with the fix.
pub type Outcome = Result<String, (String, String)>;

/// Every check of the machine.
pub fn checks() -> Vec<Check> {
    vec![
        Check::new("kernel", Needed::Both, kernel()),
        Check::new("privileges", Needed::AfXdp, privileges()),
        Check::new("af_xdp", Needed::AfXdp, af_xdp()),
        Check::new(
            "xdp_program",
            Needed::AfXdp,
            probe("an XDP program loads", sys::probe_xdp_program().map(drop)),
        ),
        Check::new("bpf_link", Needed::AfXdp, bpf_link()),
        Check::new("memlock", Needed::Both, memlock()),
        Check::new("membarrier", Needed::AfXdp, membarrier()),
        Check::new("multi_buffer", Needed::Nothing, multi_buffer()),
        Check::new("ip", Needed::Nothing, ip()),
        Check::new("hugepages", Needed::Nothing, hugepages()),
        Check::new("udmabuf", Needed::Nothing, udmabuf()),
    ]
}

/// The kernel's version, major and minor.
fn version() -> Option<(u32, u32)> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").ok()?;
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn kernel() -> Outcome {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim().to_owned();
    match version() {
        Some(version) if version >= (5, 10) => Ok(format!("Linux {release}")),
        _ => Err((
            format!("Linux {release}"),
            "Linux 5.10 or newer (Debian 12 has 6.1)".into(),
        )),
    }
}

fn multi_buffer() -> Outcome {
    match version() {
        Some(version) if version >= (6, 6) => Ok("frames may be larger than a chunk".into()),
        _ => Err((
            "frames larger than a chunk are not received".into(),
            "Linux 6.6 or newer, or an MTU of at most 3520".into(),
        )),
    }
}

/// The effective capabilities, as bits.
fn capabilities() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or(0)
}

fn can(capability: u32) -> bool {
    capabilities() & (1 << capability) != 0
}

fn privileges() -> Outcome {
    let mut missing = Vec::new();
    for (capability, name) in [
        (CAP_NET_ADMIN, "CAP_NET_ADMIN"),
        (CAP_NET_RAW, "CAP_NET_RAW"),
    ] {
        if !can(capability) {
            missing.push(name);
        }
    }
    if !can(CAP_BPF) && !can(CAP_SYS_ADMIN) {
        missing.push("CAP_BPF");
    }
    // The verifier wants it of programs that compare packet bytes as the flow rules do.
    if !can(CAP_PERFMON) && !can(CAP_SYS_ADMIN) {
        missing.push("CAP_PERFMON");
    }
    if missing.is_empty() {
        Ok("CAP_NET_ADMIN, CAP_NET_RAW, CAP_BPF and CAP_PERFMON".into())
    } else {
        Err((
            format!("{} missing", missing.join(", ")),
            "run the daemon as root, or give it these capabilities (systemd: AmbientCapabilities=)"
                .into(),
        ))
    }
}

fn af_xdp() -> Outcome {
    match sys::probe_af_xdp() {
        Ok(()) => Ok("AF_XDP sockets can be made".into()),
        Err(error) if error.raw_os_error() == Some(libc::EAFNOSUPPORT) => Err((
            error.to_string(),
            "a kernel with CONFIG_XDP_SOCKETS (Debian's have it)".into(),
        )),
        Err(error) => Err((
            error.to_string(),
            "run as root, or with CAP_NET_RAW; a container must allow AF_XDP sockets".into(),
        )),
    }
}

fn probe(what: &str, outcome: io::Result<()>) -> Outcome {
    match outcome {
        Ok(()) => Ok(what.into()),
        Err(error) => {
            let fix = match error.raw_os_error() {
                Some(libc::EPERM | libc::EACCES) => {
                    "run as root, or with CAP_BPF and CAP_NET_ADMIN; a container must allow bpf(2)"
                }
                Some(libc::ENOSYS) => "a kernel with CONFIG_BPF_SYSCALL",
                _ => "Linux 5.10 or newer with CONFIG_BPF_SYSCALL",
            };
            Err((error.to_string(), fix.into()))
        }
    }
}

/// The loopback interface of a new network namespace.
const LOOPBACK: u32 = 1;

fn bpf_link() -> Outcome {
    let what = "XDP programs attach by a link that ends with the daemon";
    match Namespace::new().and_then(|namespace| namespace.run(|| Ok(sys::probe_xdp_link(LOOPBACK))))
    {
        Ok(outcome) => probe(what, outcome),
        // Without a place to try, the daemon may still do it where it runs.
        Err(error) => Err((format!("cannot be tried: {error:#}"), "run as root".into())),
    }
}

fn memlock() -> Outcome {
    if can(CAP_IPC_LOCK) {
        return Ok("CAP_IPC_LOCK: no limit on locked memory".into());
    }
    match getrlimit(Resource::RLIMIT_MEMLOCK) {
        Ok((soft, _)) if soft >= SOME_MEMORY => Ok(format!("{} MiB may be locked", soft >> 20)),
        Ok((soft, _)) => Err((
            format!("only {} KiB may be locked", soft >> 10),
            "ulimit -l unlimited (systemd: LimitMEMLOCK=infinity), or CAP_IPC_LOCK".into(),
        )),
        Err(error) => Err((error.to_string(), "ulimit -l unlimited".into())),
    }
}

fn membarrier() -> Outcome {
    match sys::membarrier_commands() {
        Ok(commands) if commands & MEMBARRIER_GLOBAL != 0 => {
            Ok("a detach can wait until no XDP program still runs".into())
        }
        Ok(_) => Err((
            "it offers no global barrier".into(),
            "a kernel without nohz_full, or devrx cannot prove a queue stopped".into(),
        )),
        Err(error) => Err((error.to_string(), "a kernel with CONFIG_MEMBARRIER".into())),
    }
}

fn ip() -> Outcome {
    let path = std::env::var_os("PATH").unwrap_or_default();
    match std::env::split_paths(&path)
        .map(|dir| dir.join("ip"))
        .find(|file| file.is_file())
    {
        Some(file) => Ok(file.display().to_string()),
        None => Err((
            "`ip` is not on the path".into(),
            "apt-get install iproute2; only `devrx demo` needs it".into(),
        )),
    }
}

fn hugepages() -> Outcome {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let number = |key: &str| -> u64 {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|rest| {
            rest.trim_start_matches(':')
                .split_whitespace()
                .next()?
                .parse()
                .ok()
        })
        .unwrap_or(0)
    };
    let (free, total, size) = (
        number("HugePages_Free"),
        number("HugePages_Total"),
        number("Hugepagesize"),
    );
    let found = format!("{free} of {total} huge pages of {size} KiB are free");
    if free > 0 {
        Ok(found)
    } else {
        Err((
            found,
            "sysctl vm.nr_hugepages=64; only `--memory hugetlb` needs it".into(),
        ))
    }
}

fn udmabuf() -> Outcome {
    if !Path::new("/dev/udmabuf").exists() {
        return Err((
            "/dev/udmabuf is not there".into(),
            "modprobe udmabuf (CONFIG_UDMABUF); only `--memory udmabuf` needs it".into(),
        ));
    }
    let sysfs = Sysfs::default();
    let limit = |name| sysfs.module_parameter("udmabuf", name);
    Ok(match limit("size_limit_mb") {
        Some(size) => {
            format!("/dev/udmabuf: memory can be shared as dma-bufs of up to {size} MiB each")
        }
        None => "/dev/udmabuf: memory can be shared as a dma-buf".into(),
    })
}
