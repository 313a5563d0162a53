//! Network namespaces, named after this process so that the next run can sweep away what a killed one left.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result};
use nix::sched::{CloneFlags, setns};

use crate::command::sh;

/// First part of the name of every namespace of this lane; the process id follows.
const PREFIX: &str = "devrx-tests-";
/// Where iproute2 keeps named namespaces.
const DIRECTORY: &str = "/run/netns";

/// A network namespace; dropping it deletes it and with it every interface in it.
#[derive(Debug)]
pub struct Namespace {
    name: String,
}

impl Namespace {
    /// Makes a new namespace; `role` becomes part of its name.
    pub fn new(role: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "{PREFIX}{}-{}-{role}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        sh(&format!("ip netns add {name}"))?;
        let namespace = Self { name };
        namespace.sh("ip link set lo up")?;
        Ok(namespace)
    }

    /// The name `ip netns` knows it by.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that runs inside. It dies with the *thread* that starts it: keep the starting thread as long as the process.
    #[must_use]
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("ip");
        // Both helpers end in exec, so the child's process id is the program's.
        command
            .args([
                "netns",
                "exec",
                &self.name,
                "setpriv",
                "--pdeathsig",
                "KILL",
                "--",
            ])
            .arg(program);
        command
    }

    /// Runs a command line (split at spaces) inside; it must succeed within ten seconds.
    pub fn sh(&self, line: &str) -> Result<crate::command::Output> {
        sh(&format!("ip netns exec {} {line}", self.name))
    }

    /// Writes a file of /proc/sys or /sys as seen from inside.
    pub fn write(&self, path: &str, value: &str) -> Result<()> {
        let mut command = self.command("sh");
        command.args(["-c", "printf %s \"$1\" > \"$0\"", path, value]);
        crate::command::run_ok(&mut command, std::time::Duration::from_secs(10)).map(drop)
    }

    /// Runs `work` on a new thread inside the namespace and returns the thread; sockets it opens stay in the namespace.
    pub fn spawn<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<std::thread::JoinHandle<Result<T>>> {
        let path = Path::new(DIRECTORY).join(&self.name);
        let namespace =
            File::open(&path).with_context(|| format!("cannot open {}", path.display()))?;
        Ok(std::thread::spawn(move || {
            setns(&namespace, CloneFlags::CLONE_NEWNET)
                .context("cannot enter the network namespace")?;
            work()
        }))
    }

    /// Runs `work` inside the namespace and waits for it.
    pub fn enter<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        join(self.spawn(work)?)
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        if let Err(error) = sh(&format!("ip netns del {}", self.name)) {
            eprintln!("namespace {} is left behind: {error:#}", self.name);
        }
    }
}

/// Waits for a thread started by [`Namespace::spawn`]; its panic becomes ours.
pub fn join<T>(thread: std::thread::JoinHandle<Result<T>>) -> Result<T> {
    match thread.join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Deletes the namespaces of earlier runs whose process no longer exists.
pub fn sweep() {
    let Ok(entries) = std::fs::read_dir(DIRECTORY) else {
        return;
    };
    for name in entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
    {
        let owner = name
            .strip_prefix(PREFIX)
            .and_then(|rest| rest.split('-').next());
        if owner
            .is_some_and(|pid| pid.parse::<u32>().is_ok() && !Path::new("/proc").join(pid).exists())
        {
            sh(&format!("ip netns del {name}")).ok();
        }
    }
}
