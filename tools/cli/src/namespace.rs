//! A network namespace without a name: it ends when the last process in it and the last descriptor of it are gone, so nothing is
//! left behind however this program ends.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, anyhow, bail};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, setns, unshare};

/// A network namespace.
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// Makes one.
    ///
    /// # Errors
    /// Not root, or a kernel or container without network namespaces.
    pub fn new() -> Result<Self> {
        let file = apart(|| {
            unshare(CloneFlags::CLONE_NEWNET).context(
                "cannot make a network namespace; this takes CAP_SYS_ADMIN, run it as root",
            )?;
            File::open("/proc/thread-self/ns/net")
                .context("cannot open the network namespace; is /proc mounted?")
        })?;
        let namespace = Self { file };
        // Nothing but our frames: without IPv6 addresses the kernel has nothing to announce. A container may refuse; then a few
        // frames more are seen, and not counted as ours.
        namespace.run(|| {
            for which in ["all", "default"] {
                let _ =
                    std::fs::write(format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6"), "1");
            }
            Ok(())
        })?;
        Ok(namespace)
    }

    /// Runs `work` in a thread that is in this namespace. What it starts and opens stays there.
    ///
    /// # Errors
    /// What `work` answers.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        apart(|| {
            setns(&self.file, CloneFlags::CLONE_NEWNET)
                .context("cannot enter the network namespace")?;
            work()
        })
    }

    /// As [`run`](Self::run), with a /sys that shows this namespace's interfaces.
    ///
    /// # Errors
    /// What `work` answers.
    pub fn run_with_sys<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.run(|| {
            unshare(CloneFlags::CLONE_NEWNS).context("cannot make a mount namespace")?;
            let none: Option<&str> = None;
            mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SLAVE, none)
                .context("cannot keep mounts to this namespace")?;
            // Some containers forbid it; what reads /sys then falls back.
            let _ = mount(Some("sysfs"), "/sys", Some("sysfs"), MsFlags::empty(), none);
            work()
        })
    }

    /// Runs `ip` with these arguments in this namespace.
    ///
    /// # Errors
    /// What `ip` printed.
    pub fn ip(&self, arguments: &str) -> Result<()> {
        self.run(|| {
            let output = Command::new("ip")
                .args(arguments.split_whitespace())
                .output()
                .context("cannot run `ip`; install iproute2")?;
            if !output.status.success() {
                bail!(
                    "`ip {arguments}` failed: {}",
                    String::from_utf8_lossy(&output.stderr).trim()
                );
            }
            Ok(())
        })
    }

    /// A path by which `ip` can name this namespace while this program runs.
    pub fn path(&self) -> PathBuf {
        use std::os::fd::AsRawFd;
        format!("/proc/{}/fd/{}", std::process::id(), self.file.as_raw_fd()).into()
    }
}

/// Runs `work` in a thread of its own, for namespaces belong to threads.
fn apart<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .spawn_scoped(scope, work)
            .context("cannot start a thread")?;
        thread
            .join()
            .unwrap_or_else(|_| Err(anyhow!("a thread in the namespace panicked")))
    })
}
