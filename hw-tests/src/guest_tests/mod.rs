//! The tests that run in guests, one file a subject. How to add one is said in [`crate::guest`].

use anyhow::Result;

use crate::guest::machine::{Machine, STANDARD};
use crate::inside::Host;

pub mod bench;
pub mod book;
pub mod boot;
pub mod gpu;
pub mod harness;
pub mod hotplug;
pub mod igb_idle;
pub mod igb_neighbours;
pub mod igb_receive;
pub mod igb_reset;
pub mod igb_round_trip;
pub mod igb_safety;
pub mod igb_settings;
pub mod igb_sums;
pub mod iommu_group;
pub mod lender;
pub mod memory;
pub mod nic_commands;
pub mod samples;
pub mod selftest;
pub mod vfio;
pub mod vfio_bind;
pub mod vfio_dma;
pub mod zero_copy;

/// Who has the guest's 82576 NICs when a test begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Driver {
    /// vfio-pci.
    Vfio,
    /// Linux's igb; the interfaces are up, and called as the machine calls the NICs.
    Linux,
    /// Nobody, and no `driver_override` is left: for tests of `devrx nic bind`.
    None,
    /// Whoever had them last: the test sees to it.
    Any,
}

/// A test.
#[derive(Debug, Clone, Copy)]
pub struct Test {
    /// Its name, unlike all others.
    pub name: &'static str,
    /// What it does.
    pub run: fn(&mut Host) -> Result<()>,
    /// The guest it runs in.
    pub machine: Machine,
    /// Who has the 82576s.
    pub igb: Driver,
    /// Seconds it may take.
    pub limit: u64,
}

impl Test {
    /// A test on the standard machine, with the 82576s at vfio-pci, that takes at most half a minute.
    #[must_use]
    pub const fn new(name: &'static str, run: fn(&mut Host) -> Result<()>) -> Self {
        Self {
            name,
            run,
            machine: STANDARD,
            igb: Driver::Vfio,
            limit: 30,
        }
    }

    /// The same on another machine.
    #[must_use]
    pub const fn on(self, machine: Machine) -> Self {
        Self { machine, ..self }
    }

    /// The same with the 82576s elsewhere.
    #[must_use]
    pub const fn igb(self, igb: Driver) -> Self {
        Self { igb, ..self }
    }

    /// The same with another limit, in seconds.
    #[must_use]
    pub const fn limit(self, limit: u64) -> Self {
        Self { limit, ..self }
    }
}

/// Every test, in the order they run in.
#[must_use]
pub fn all() -> Vec<Test> {
    [
        book::TESTS,
        boot::TESTS,
        gpu::TESTS,
        harness::TESTS,
        iommu_group::TESTS,
        hotplug::TESTS,
        igb_receive::TESTS,
        igb_reset::TESTS,
        igb_round_trip::TESTS,
        igb_safety::TESTS,
        igb_settings::TESTS,
        igb_neighbours::TESTS,
        igb_sums::TESTS,
        igb_idle::TESTS,
        lender::TESTS,
        memory::TESTS,
        nic_commands::TESTS,
        selftest::TESTS,
        vfio::TESTS,
        vfio_bind::TESTS,
        vfio_dma::TESTS,
        zero_copy::TESTS,
    ]
    .concat()
}

/// The test of this name, or the measurement.
#[must_use]
pub fn find(name: &str) -> Option<Test> {
    let measurements = [bench::COUNTS, bench::ICE_COUNTS, bench::RATES].concat();
    let mut known = all()
        .into_iter()
        .chain(measurements)
        .chain(crate::trust::all());
    known.find(|test| test.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unlike_each_other() {
        let tests = all().into_iter().chain(crate::trust::all());
        let mut names: Vec<_> = tests.map(|test| test.name).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
