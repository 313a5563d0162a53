//! Why the E810 model can be believed: drivers that others wrote run on it unmodified, and see what they should.
//!
//! Linux's ice, without and with its DDP package, and DPDK's net_ice run in a guest whose E810 is the model; at the other end of its cable is a plain NIC
//! with a Linux stack of its own. Controls put a fault into the model, and then the same checks must fail. `docs/src/e810.md` says what this proves and
//! what it cannot see. `cargo xtask test model` runs all of it; `cargo xtask model --filter NAME` some.

use crate::guest::machine::E810;
use crate::guest_tests::{
    Driver, Test, hotplug, igb_neighbours, igb_receive, igb_round_trip, igb_safety, igb_sums,
    selftest,
};

pub mod clock;
pub mod controls;
pub mod dpdk;
pub mod lengths;
pub mod linux;
pub mod own;
pub mod peer;
pub mod prepare;
pub mod protocols;
pub mod resets;
pub mod split;
pub mod stamps;
pub mod steering;
pub mod tools;

/// A test on the machine with the E810, which nobody drives when it begins or Linux's ice.
const fn test(name: &'static str, run: fn(&mut crate::inside::Host) -> anyhow::Result<()>) -> Test {
    Test::new(name, run).on(E810).igb(Driver::Any).limit(60)
}

/// Every test, in the order they run in.
#[must_use]
pub fn all() -> Vec<Test> {
    [
        linux::TESTS,
        lengths::TESTS,
        split::TESTS,
        steering::TESTS,
        protocols::TESTS,
        resets::TESTS,
        clock::TESTS,
        controls::TESTS,
        dpdk::TESTS,
        own::TESTS,
        stamps::TESTS,
        igb_receive::E810_TESTS,
        igb_round_trip::E810_TESTS,
        hotplug::E810_TESTS,
        igb_safety::E810_TESTS,
        igb_neighbours::E810_TESTS,
        igb_sums::E810_TESTS,
        selftest::E810_TESTS,
    ]
    .concat()
}
