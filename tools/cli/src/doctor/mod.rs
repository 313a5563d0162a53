//! `devrx doctor`: can this machine do it, and what to do about every "no".

mod host;
mod interfaces;

use anyhow::{Result, bail};
use serde::Serialize;

pub use interfaces::{Interface, list as interfaces};

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub struct Check {
    /// Its name, stable for scripts.
    pub name: &'static str,
    /// Whether it is as it should be.
    pub ok: bool,
    /// Whether receiving through AF_XDP needs it. What is not needed brings a feature.
    pub required: bool,
    /// What was found.
    pub found: String,
    /// What to do where it is not ok; empty where it is.
    pub fix: String,
}

/// The whole answer.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Whether receiving through AF_XDP can work here.
    pub ok: bool,
    /// The machine.
    pub checks: Vec<Check>,
    /// Its network interfaces.
    pub interfaces: Vec<Interface>,
}

impl Check {
    fn new(name: &'static str, required: bool, outcome: Result<String, (String, String)>) -> Self {
        match outcome {
            Ok(found) => Self {
                name,
                ok: true,
                required,
                found,
                fix: String::new(),
            },
            Err((found, fix)) => Self {
                name,
                ok: false,
                required,
                found,
                fix,
            },
        }
    }
}

/// Looks at everything.
///
/// # Errors
/// Only when the list of interfaces cannot be read.
pub fn examine() -> Result<Report> {
    let checks = host::checks();
    let ok = checks.iter().all(|check| check.ok || !check.required);
    Ok(Report {
        ok,
        checks,
        interfaces: interfaces::list()?,
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
    for check in &report.checks {
        let mark = match (check.ok, check.required) {
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
    say!("")?;
    say!(
        "AF_XDP: {}",
        if report.ok {
            "can work here"
        } else {
            "cannot work here yet"
        }
    )
}
