//! Measurements in a guest: devrx's igb driver and worker beside DPDK's igb driver, on one kernel, one NIC, the same frames.
//!
//! `cargo xtask bench guest` runs them. `hw-tests/bench` has what is not Rust: a plugin that makes QEMU count the guest's instructions between
//! markers ([`marks`]), and DPDK's side ([`peer`] builds both). What happens in the guest is in [`crate::guest_tests::bench`]; [`table`] says
//! what came of it.

pub mod marks;
pub mod peer;
pub mod table;
