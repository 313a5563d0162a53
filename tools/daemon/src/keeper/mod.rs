//! The keeper: a second process that holds memory for the daemon.
//!
//! A killed daemon runs no code. Its descriptors close in no particular order, and memory that a NIC may still write must not be
//! freed before the NIC has been taken from it. So a small process holds duplicates of the descriptors of every region until the
//! daemon's pidfd says that the daemon is gone, with everything it had open; only then it lets go, after removing what outlives a
//! process in the kernel (ntuple rules). It touches no packet, opens nothing, and knows nothing of regions but their descriptors.
//!
//! [`main`] is that process: `devrx keeper`, which only the daemon starts. [`Keeper`] is the daemon's side: it starts the process,
//! tells it what to hold, and starts another when it dies, handing everything over again.

mod hold;
mod process;
mod wire;

pub use hold::{HoldId, Keeper};
pub use process::main;
