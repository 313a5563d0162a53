//! `devrx doctor`: can this machine do it, and what to do about every "no".

mod gpu;
mod host;
mod interfaces;
mod vfio;

use anyhow::{Result, bail};
use serde::Serialize;

use crate::functions::{self, Function};

pub use interfaces::{Interface, list as interfaces};

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub struct Check {
    /// Its name, stable for scripts.
    pub name: &'static str,
    /// Whether it is as it should be.
    pub ok: bool,
    /// Whether receiving through AF_XDP needs it. What neither way needs brings a feature.
    pub required: bool,
    /// Whether owning a NIC through VFIO needs it.
    pub required_by_vfio: bool,
    /// What was found.
    pub found: String,
    /// What to do where it is not ok; empty where it is.
    pub fix: String,
}

/// What needs a thing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Needed {
    /// Receiving through AF_XDP.
    AfXdp,
    /// Owning a NIC through VFIO.
    Vfio,
    /// Either way.
    Both,
    /// Some feature only.
    Nothing,
}

/// The whole answer.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether receiving through AF_XDP can work here.
    pub ok: bool,
    /// Whether a NIC can be owned through VFIO here, if there is one that devrx drives.
    pub vfio_ok: bool,
    /// The machine.
    pub checks: Vec<Check>,
    /// Its network interfaces.
    pub interfaces: Vec<Interface>,
    /// Its network controllers on the PCI buses.
    pub functions: Vec<Function>,
}

impl Check {
    fn new(name: &'static str, needed: Needed, outcome: host::Outcome) -> Self {
        let (ok, found, fix) = match outcome {
            Ok(found) => (true, found, String::new()),
            Err((found, fix)) => (false, found, fix),
        };
        Self {
            name,
            ok,
            required: matches!(needed, Needed::AfXdp | Needed::Both),
            required_by_vfio: matches!(needed, Needed::Vfio | Needed::Both),
            found,
            fix,
        }
    }
}

/// Looks at everything.
///
/// # Errors
/// Only when the list of interfaces cannot be read.
pub fn examine() -> Result<Report> {
    let mut checks = host::checks();
    checks.extend(vfio::checks());
    checks.extend(gpu::checks());
    let ok = checks.iter().all(|check| check.ok || !check.required);
    let vfio_ok = checks
        .iter()
        .all(|check| check.ok || !check.required_by_vfio);
    Ok(Report {
        ok,
        vfio_ok,
        checks,
        interfaces: interfaces::list()?,
        // A machine without PCI is no fault.
        functions: functions::list().unwrap_or_default(),
    })
}

/// Runs the command.
///
/// # Errors
/// When receiving through AF_XDP cannot work here.
pub fn run(json: bool) -> Result<()> {
    let report = examine()?;
    if json {
        say!("{}", serde_json::to_string(&report)?)?;
    } else {
        print(&report)?;
    }
    let missing: Vec<&str> = report
        .checks
        .iter()
        .filter(|check| check.required && !check.ok)
        .map(|check| check.name)
        .collect();
    if !report.ok {
        bail!(
            "AF_XDP cannot work here yet: {}; the fixes are above",
            missing.join(", ")
        );
    }
    Ok(())
}

fn print(report: &Report) -> Result<()> {
    let mut section = false;
    for check in &report.checks {
        if check.name == "cuda" {
            say!("\nto have a NIC write into a GPU's memory, or a GPU read the host's:")?;
        }
        if check.required_by_vfio && !check.required && !section {
            section = true;
            say!("\nto own a NIC through VFIO:")?;
        }
        let mark = match (check.ok, check.required || check.required_by_vfio) {
            (true, _) => "yes",
            (false, true) => "NO",
            (false, false) => "no",
        };
        say!("{mark:>4}  {:<18} {}", check.name, check.found)?;
        if !check.fix.is_empty() {
            say!("{:>4}  {:<18}   fix: {}", "", "", check.fix)?;
        }
    }
    say!("")?;
    for interface in &report.interfaces {
        say!("{interface}")?;
        for note in &interface.notes {
            say!("        {note}")?;
        }
    }
    if !report.functions.is_empty() {
        say!("")?;
    }
    for function in &report.functions {
        say!("{function}")?;
        for note in &function.notes {
            say!("        {note}")?;
        }
    }
    say!("")?;
    say!("AF_XDP: {}", verdict(report.ok))?;
    let drives = |function: &Function| function.devrx_driver.is_some();
    if report.vfio_ok && !report.functions.iter().any(drives) {
        say!("VFIO: could work here, but there is no NIC that devrx drives")
    } else {
        say!("VFIO: {}", verdict(report.vfio_ok))
    }
}

fn verdict(ok: bool) -> &'static str {
    if ok {
        "can work here"
    } else {
        "cannot work here yet"
    }
}
