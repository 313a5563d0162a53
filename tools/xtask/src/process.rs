//! Other processes: which a command started, and ending them.

use std::collections::{BTreeMap, BTreeSet};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Kills what the process `root` started, and what that started, but not `root`; whether there was anything.
pub fn end_descendants(root: u32) -> bool {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for (process, parent) in all() {
        children.entry(parent).or_default().push(process);
    }
    let mut found = BTreeSet::new();
    let mut next = vec![root];
    while let Some(parent) = next.pop() {
        for &child in children.get(&parent).into_iter().flatten() {
            if found.insert(child) {
                next.push(child);
            }
        }
    }
    for &process in &found {
        if let Ok(process) = i32::try_from(process) {
            let _ = kill(Pid::from_raw(process), Signal::SIGKILL);
        }
    }
    !found.is_empty()
}

/// Every process and its parent, from `/proc/PID/stat` (proc_pid_stat(5)).
fn all() -> impl Iterator<Item = (u32, u32)> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let process = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // The program's name, in parentheses, may hold anything; behind it: state, parent.
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?;
        Some((process, parent.parse().ok()?))
    })
}
