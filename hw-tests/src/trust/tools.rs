//! What trust tests do in their guest: Linux's ice with and without its package, its counters, a probe in the kernel.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::command::{sh, wait_for};
use crate::inside::{Host, devices, modules};

/// Where the DDP package is kept.
pub const DDP: &str = "/lib/devrx/ice.pkg";
/// Where Linux's ice looks for it.
const FIRMWARE: &str = "/lib/firmware/intel/ice/ddp/ice.pkg";
/// ethtool.
pub const ETHTOOL: &str = "/usr/sbin/ethtool";
/// The E810's interface and its addresses; the other end has the next ones.
pub const NIC: &str = "ice0";
/// The kernel's tracing files.
const TRACING: &str = "/sys/kernel/tracing";

/// Which form of itself Linux's ice takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Without a DDP package: one queue, no offload.
    Safe,
    /// With its package.
    Full,
}

/// Has Linux's ice drive the card, anew if it is in the other mode, and gives its interface the name and addresses of the tests.
pub fn ice(host: &Host, mode: Mode) -> Result<()> {
    let pci = host.pci(NIC)?;
    let there = Path::new(FIRMWARE).exists();
    let bound = devices::driver(&pci).as_deref() == Some("ice");
    if bound && there != (mode == Mode::Full) {
        unload()?;
    }
    firmware(mode)?;
    modules::load("ice")?;
    devices::give(&pci, Some("ice"))?;
    let name = devices::interface(&pci)?;
    if name != NIC {
        sh(&format!("ip link set {name} name {NIC}"))?;
    }
    Ok(())
}

/// Puts the DDP package where drivers look for it, or takes it from there.
pub fn firmware(mode: Mode) -> Result<()> {
    let there = Path::new(FIRMWARE).exists();
    match mode {
        Mode::Full if !there => {
            let folder = Path::new(FIRMWARE).parent().context("a folder")?;
            std::fs::create_dir_all(folder)?;
            std::os::unix::fs::symlink(DDP, FIRMWARE)?;
        }
        Mode::Safe if there => std::fs::remove_file(FIRMWARE)?,
        _ => {}
    }
    Ok(())
}

/// Takes Linux's ice away.
pub fn unload() -> Result<()> {
    modules::unload("ice")
}

/// Waits until an interface has a carrier, or has none.
pub fn carrier(interface: &str, wanted: bool) -> Result<()> {
    let file = format!("/sys/class/net/{interface}/carrier");
    let want = if wanted { "1" } else { "0" };
    wait_for(
        &format!("{interface}'s carrier becomes {want}"),
        Duration::from_secs(10),
        || Ok(std::fs::read_to_string(&file).is_ok_and(|text| text.trim() == want)),
    )
    .map(drop)
}

/// Runs ethtool; what it prints.
pub fn ethtool(arguments: &str) -> Result<String> {
    Ok(sh(&format!("{ETHTOOL} {arguments}"))?.stdout)
}

/// One of the interface's own counters.
pub fn counter(name: &str) -> Result<u64> {
    let all = ethtool(&format!("-S {NIC}"))?;
    let value = all.lines().find_map(|line| {
        let (found, value) = line.trim().split_once(": ")?;
        (found == name).then(|| value.trim().parse().ok())?
    });
    value.with_context(|| format!("{NIC} has no counter {name}"))
}

/// Packets that each receive queue took.
pub fn received(queues: u32) -> Result<Vec<u64>> {
    (0..queues)
        .map(|queue| counter(&format!("rx_queue_{queue}_packets")))
        .collect()
}

/// Lines of the kernel's log that have this in them.
pub fn log_lines(with: &str) -> Result<Vec<String>> {
    let log = sh("dmesg")?.stdout;
    Ok(log
        .lines()
        .filter(|line| line.contains(with))
        .map(str::to_owned)
        .collect())
}

/// How many DMA faults the IOMMU told of since the guest began.
pub fn dma_faults() -> Result<usize> {
    Ok(log_lines("DMAR: [DMA")?.len())
}

/// A probe at the function that makes a socket buffer of a frame: the bytes of the frame's linear part, which is its header where header and payload were
/// split. The first argument of `xdp_build_skb_from_buff` (net/core/xdp.c) is an `xdp_buff`, which begins with the addresses `data` and `data_end`.
#[derive(Debug)]
pub struct Probe;

impl Probe {
    /// Places it.
    pub fn new() -> Result<Self> {
        if !Path::new(TRACING).join("trace").exists() {
            sh(&format!("mount -t tracefs none {TRACING}"))?;
        }
        let put = |file: &str, text: &str| {
            let path = Path::new(TRACING).join(file);
            std::fs::write(&path, text).with_context(|| format!("{text:?} to {}", path.display()))
        };
        put(
            "kprobe_events",
            "p:devrx_split xdp_build_skb_from_buff a=+0(%di):u64 b=+8(%di):u64",
        )?;
        let probe = Self;
        put("events/kprobes/devrx_split/enable", "1")?;
        put("trace", "")?;
        Ok(probe)
    }

    /// The lengths it saw since it was last asked, oldest first.
    pub fn lengths(&self) -> Result<Vec<u64>> {
        let path = Path::new(TRACING).join("trace");
        let text = std::fs::read_to_string(&path)?;
        std::fs::write(&path, "")?;
        let mut found = Vec::new();
        for line in text.lines().filter(|line| line.contains("devrx_split:")) {
            let value = |name: &str| {
                let rest = line.split_once(name)?.1;
                rest.split_whitespace().next()?.parse::<u64>().ok()
            };
            let (Some(a), Some(b)) = (value(" a="), value(" b=")) else {
                bail!("the probe's line is not understood: {line}");
            };
            found.push(b - a);
        }
        Ok(found)
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let put = |file: &str, text: &str| std::fs::write(Path::new(TRACING).join(file), text).ok();
        put("events/kprobes/devrx_split/enable", "0");
        put("kprobe_events", "-:devrx_split");
    }
}

/// What a control run is for: with a fault in the model, the check must fail.
pub fn must_fail(what: &str, result: Result<()>) -> Result<()> {
    let Err(error) = result else {
        bail!("{what}: the check passed with the fault in the model, so it checks nothing");
    };
    println!("{what}: noticed: {error:#}");
    Ok(())
}

/// What the model refused since the test began must be nothing.
pub fn nothing_refused(host: &mut Host) -> Result<()> {
    let refusals = host.card(NIC, "refusals")?;
    let count = refusals.lines().count();
    let first: Vec<&str> = refusals.lines().take(8).collect();
    ensure!(count == 0, "the model refused {count}: {first:#?}");
    Ok(())
}
