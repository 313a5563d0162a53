//! The test lanes, and the report at the end.

use std::time::Instant;

use anyhow::Result;
use clap::ValueEnum;

use crate::{card, gpu, guest, model, netns, unit};

/// A lane of tests.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum Lane {
    /// The code itself: format, lints, tests, documentation, loom models, protections taken out.
    Unit,
    /// Linux AF_XDP on veth, the real program.
    Netns,
    /// A QEMU guest with a NIC behind an IOMMU.
    Guest,
    /// The E810 model: its own tests, and other people's drivers on it in a QEMU guest.
    Model,
    /// An NVIDIA GPU.
    Gpu,
    /// A NIC of the user's own.
    Card,
}

/// What the steps of a lane came to.
#[derive(Default)]
pub struct Tally {
    /// Tests and checks that passed.
    pub passed: u64,
    /// Tests and checks that failed.
    pub failed: u64,
    /// Tests and checks that could not run.
    pub skipped: u64,
    /// Why the whole lane could not run.
    pub reason: Option<String>,
    /// Lines about what failed and what was skipped.
    notes: Vec<String>,
}

impl Tally {
    /// A lane that cannot run.
    pub fn skip_lane(reason: impl Into<String>) -> Self {
        Self {
            skipped: 1,
            reason: Some(reason.into()),
            ..Self::default()
        }
    }

    /// Counts one check.
    pub fn check(&mut self, name: &str, ok: bool) {
        if ok {
            self.passed += 1;
        } else {
            self.failed += 1;
            self.notes.push(format!("failed: {name}"));
        }
    }

    /// Counts one check that could not run, and says so.
    pub fn skip(&mut self, name: &str, reason: &str) {
        println!("{name}: skipped: {reason}");
        self.skipped += 1;
        self.notes.push(format!("skipped: {name}: {reason}"));
    }

    /// Keeps a line for the report.
    pub fn note(&mut self, line: String) {
        self.notes.push(line);
    }
}

impl Lane {
    const ALL: [Self; 6] = [
        Self::Unit,
        Self::Netns,
        Self::Guest,
        Self::Model,
        Self::Gpu,
        Self::Card,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Unit => "unit",
            Self::Netns => "netns",
            Self::Guest => "guest",
            Self::Model => "model",
            Self::Gpu => "gpu",
            Self::Card => "card",
        }
    }

    fn run(self) -> Result<Tally> {
        match self {
            Self::Unit => unit::run(),
            Self::Netns => netns::run(),
            Self::Guest => guest::run(),
            Self::Model => model::run(),
            Self::Gpu => gpu::run(),
            Self::Card => card::run(),
        }
    }
}

/// Runs the lanes named, or all; true when none failed.
pub fn run(lanes: &[Lane]) -> Result<bool> {
    let lanes = if lanes.is_empty() { &Lane::ALL } else { lanes };
    let mut lines = Vec::new();
    let mut notes = Vec::new();
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for &lane in lanes {
        let start = Instant::now();
        let tally = lane.run().unwrap_or_else(|error| {
            eprintln!("{}: {error:#}", lane.name());
            let mut tally = Tally::default();
            tally.check(&format!("{error:#}"), false);
            tally
        });
        passed += tally.passed;
        failed += tally.failed;
        skipped += tally.skipped;
        let seconds = start.elapsed().as_secs();
        lines.push(match &tally.reason {
            Some(reason) => format!("{}: skipped: {reason}", lane.name()),
            None if tally.failed > 0 => format!(
                "{}: FAILED: {} of {} ({seconds} s)",
                lane.name(),
                tally.failed,
                tally.failed + tally.passed
            ),
            None => format!("{}: passed ({seconds} s)", lane.name()),
        });
        notes.extend(
            tally
                .notes
                .into_iter()
                .map(|note| format!("{}: {note}", lane.name())),
        );
    }
    println!();
    for line in notes.iter().chain(&lines) {
        println!("{line}");
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    Ok(failed == 0)
}
