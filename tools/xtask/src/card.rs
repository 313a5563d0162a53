//! The card lane: a NIC of the user's own, by loopback.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use serde::Deserialize;

use crate::lane::Tally;
use crate::{guest, shell};

/// The variable that names the card by its PCI address.
const CARD: &str = "DEVRX_TEST_PCI";

/// What `devrx selftest --json` prints.
#[derive(Deserialize)]
struct Report {
    checks: Vec<Check>,
    ok: bool,
}

#[derive(Deserialize)]
struct Check {
    name: String,
    ok: bool,
    #[serde(default)]
    found: String,
}

/// Runs the lane: the card is bound to vfio-pci for the time of its self-test, where it is not already.
pub fn run() -> Result<Tally> {
    let Some(card) = std::env::var(CARD).ok().filter(|card| !card.is_empty()) else {
        return Ok(Tally::skip_lane(format!(
            "no card named in {CARD}; a NIC that is in no other use can be, for example {CARD}=0000:03:00.0"
        )));
    };
    if !nix::unistd::Uid::effective().is_root() {
        return Ok(Tally::skip_lane("not root: owning a NIC needs it"));
    }
    shell::step("card: building the program (release)");
    if !shell::run(shell::cargo().args(["build", "--locked", "--release", "--package", "devrx"]))? {
        bail!("devrx did not build");
    }
    let devrx = guest::built("release", "devrx");
    let mut tally = Tally::default();
    let bound = is_bound(&card);
    if !bound {
        shell::step(&format!("card: binding {card} to vfio-pci"));
        let ok = shell::run(Command::new(&devrx).args(["nic", "bind", &card]))?;
        tally.check(&format!("{card} can be bound to vfio-pci"), ok);
        if !ok {
            return Ok(tally);
        }
    }
    let tested = selftest(&devrx, &card, &mut tally);
    if !bound {
        let ok = shell::run(Command::new(&devrx).args(["nic", "unbind", &card]))?;
        tally.check(&format!("{card} is given back to its driver"), ok);
    }
    tested.map(|()| tally)
}

fn is_bound(card: &str) -> bool {
    let driver = Path::new("/sys/bus/pci/devices").join(card).join("driver");
    std::fs::read_link(driver).is_ok_and(|path| path.ends_with("vfio-pci"))
}

fn selftest(devrx: &Path, card: &str, tally: &mut Tally) -> Result<()> {
    shell::step(&format!("card: devrx selftest {card}"));
    let output = Command::new(devrx)
        .args(["selftest", card, "--json"])
        .output()
        .context("devrx does not start")?;
    let said = String::from_utf8_lossy(&output.stderr);
    eprint!("{said}");
    count(&String::from_utf8_lossy(&output.stdout), &said, tally);
    Ok(())
}

/// Counts the checks of a report; without one, what was said on standard error is the failure.
fn count(report: &str, said: &str, tally: &mut Tally) {
    let Ok(report) = serde_json::from_str::<Report>(report.trim()) else {
        let why = said.lines().last().unwrap_or("it printed no report");
        tally.check(&format!("devrx selftest: {why}"), false);
        return;
    };
    for check in &report.checks {
        println!("{}: {}", check.name, check.found);
        tally.check(&format!("{}: {}", check.name, check.found), check.ok);
    }
    if !report.ok && report.checks.iter().all(|check| check.ok) {
        tally.check("devrx selftest did not pass", false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_check_of_a_report_counts() {
        let mut tally = Tally::default();
        let report = r#"{"nic":"0000:03:00.0","checks":[{"name":"open","ok":true,"found":"reset"},{"name":"split","ok":false,"found":"no"}],"ok":false}"#;
        count(report, "", &mut tally);
        assert_eq!((tally.passed, tally.failed), (1, 1));
    }

    #[test]
    fn a_card_that_cannot_be_opened_is_a_failure() {
        let mut tally = Tally::default();
        count(
            "",
            "devrx: cannot open 0000:03:00.0: no such device",
            &mut tally,
        );
        assert_eq!((tally.passed, tally.failed), (0, 1));
    }
}
