//! What came of a self-test.

use anyhow::Result;
use serde::Serialize;

/// What this test does not show, whatever its outcome.
const NOT_CHECKED: &[&str] = &[
    "cable, link partner and speed: everything stayed within the card",
    "rates: frames went one by one or in short bursts",
    "device memory: payload went to ordinary host memory",
    "steering by address or hash, VLAN stripping, virtual functions",
];

/// One thing that was looked at.
#[derive(Debug, Serialize)]
pub struct Check {
    /// Its name, stable for scripts.
    pub name: &'static str,
    /// Whether it held.
    pub ok: bool,
    /// What was seen.
    pub found: String,
}

/// The whole answer. Keys may be added, never renamed.
#[derive(Debug, Serialize)]
pub struct Report {
    /// The NIC's PCI address.
    pub nic: String,
    /// What it is called, where that is known.
    pub part: Option<String>,
    /// What was checked, in order. After a failure that leaves nothing to go on with, the rest is missing.
    pub checks: Vec<Check>,
    /// What was not.
    pub not_checked: Vec<&'static str>,
    /// Whether every check held, and none is missing.
    pub ok: bool,
    #[serde(skip)]
    quiet: bool,
}

impl Report {
    /// Nothing checked yet; `quiet`: nothing is printed meanwhile.
    pub fn new(nic: String, part: Option<String>, quiet: bool) -> Self {
        Self {
            nic,
            part,
            checks: Vec::new(),
            not_checked: NOT_CHECKED.to_vec(),
            ok: false,
            quiet,
        }
    }

    /// Notes how a check ended, and shows it. `None` where it did not hold.
    ///
    /// # Errors
    /// What [`say!`] answers.
    pub fn check<T>(
        &mut self,
        name: &'static str,
        outcome: Result<(String, T)>,
    ) -> Result<Option<T>> {
        let (ok, found, value) = match outcome {
            Ok((found, value)) => (true, found, Some(value)),
            Err(error) => (false, format!("{error:#}"), None),
        };
        if !self.quiet {
            say!("{:>4}  {name:<18} {found}", if ok { "ok" } else { "FAIL" })?;
        }
        self.checks.push(Check { name, ok, found });
        Ok(value)
    }

    /// Says how it ended; `whole` if nothing was left out.
    ///
    /// # Errors
    /// What [`say!`] answers.
    pub fn end(&mut self, whole: bool) -> Result<()> {
        self.ok = whole && self.checks.iter().all(|check| check.ok);
        if self.quiet {
            return Ok(());
        }
        say!("not checked:")?;
        for left in &self.not_checked {
            say!("      {left}")?;
        }
        say!("{}", if self.ok { "ok" } else { "NOT OK" })
    }
}
