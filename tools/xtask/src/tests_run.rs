//! Reading what libtest prints.

use crate::lane::Tally;
use crate::shell::HUNG;

/// Counts the tests in the lines of `cargo test`, or of a test program.
#[derive(Default)]
pub struct Counter {
    /// Tests that passed, those that skipped themselves included.
    pub passed: u64,
    /// Tests that failed.
    pub failed: u64,
    ignored: u64,
    skips: Vec<String>,
    failures: Vec<String>,
    /// Failed tests are being named.
    listing: bool,
}

impl Counter {
    /// Takes in one line.
    pub fn see(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            self.listing = false;
            // "ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s"
            for part in result.split(['.', ';']) {
                let mut words = part.split_whitespace();
                if let (Some(count), Some(what)) = (
                    words.next().and_then(|word| word.parse::<u64>().ok()),
                    words.next(),
                ) {
                    match what {
                        "passed" => self.passed += count,
                        "failed" => self.failed += count,
                        "ignored" => self.ignored += count,
                        _ => {}
                    }
                }
            }
        } else if let Some(what) = line.strip_prefix(HUNG) {
            // Libtest could not count it: its program was ended.
            self.failed += 1;
            self.failures.push(what.to_owned());
        } else if let Some(at) = line.find("skipped: ") {
            self.skips.push(line[at + "skipped: ".len()..].to_owned());
        } else if line == "failures:" {
            // At its end libtest names what failed; before, what tests print may stand anywhere.
            self.listing = true;
        } else if self.listing
            && let Some(name) = line.strip_prefix("    ")
            && !name.contains(' ')
            && !self.failures.iter().any(|known| known == name)
        {
            self.failures.push(name.to_owned());
        }
    }

    /// Why tests skipped themselves, one each.
    pub fn skips(&self) -> &[String] {
        &self.skips
    }

    /// Adds the counts to a lane's tally. `ok` is whether the command succeeded: one that failed without a failed test (it did
    /// not build, or died) counts as one failure.
    pub fn add_to(self, tally: &mut Tally, name: &str, ok: bool) {
        let skips = u64::try_from(self.skips.len())
            .unwrap_or(0)
            .min(self.passed);
        tally.passed += self.passed - skips;
        tally.skipped += self.ignored + skips;
        tally.failed += self.failed;
        for skip in self.skips {
            tally.note(format!("skipped: {name}: {skip}"));
        }
        for failure in self.failures {
            tally.note(format!("failed: {name}: {failure}"));
        }
        if !ok && self.failed == 0 {
            tally.check(&format!("{name}: it did not build, or died"), false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_results_skips_and_failures() {
        let mut counter = Counter::default();
        for line in [
            "running 4 tests",
            "test a ... ok",
            "test b ... FAILED",
            "test c ... skipped: not root",
            "test d ... about to print",
            "test of mine",
            "FAILED",
            "failures:",
            "",
            "failures:",
            "    b",
            "    it::d",
            "",
            "test result: FAILED. 2 passed; 2 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        ] {
            counter.see(line);
        }
        assert_eq!((counter.passed, counter.failed, counter.ignored), (2, 2, 1));
        assert_eq!(counter.failures, ["b", "it::d"]);
        let mut tally = Tally::default();
        counter.add_to(&mut tally, "x", false);
        assert_eq!((tally.passed, tally.failed, tally.skipped), (1, 2, 2));
    }

    #[test]
    fn what_hung_is_a_failure_and_named() {
        let mut counter = Counter::default();
        counter.see("test a has been running for over 60 seconds");
        counter.see(&format!(
            "{HUNG}ended after 9 s without a line; the last was: x"
        ));
        assert_eq!(counter.failed, 1);
        assert!(counter.failures[0].ends_with("the last was: x"));
    }

    #[test]
    fn a_command_that_died_without_a_failed_test_is_a_failure() {
        let mut tally = Tally::default();
        Counter::default().add_to(&mut tally, "x", false);
        assert_eq!(tally.failed, 1);
    }
}
