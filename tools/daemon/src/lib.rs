//! The devrx daemon: it owns the NICs' receive queues and shares them out to clients.
//!
//! | module | what it does |
//! |---|---|
//! | `config` | what it shall do: file and command line |
//! | `policy` | who may do what |
//! | `run` | from configuration to service, and back in order |
//! | `control` | the control thread: sessions, workers' news, the keeper |
//! | `session` | one connection of a client |
//! | `aside` | closing what a client handed over, without waiting for it |
//! | `closers` | the same for what is a user's rather than a session's |
//! | `registry` | NICs and attachments: what clients ask for is done here |
//! | `attachment` | making and ending an attachment, and its consumer |
//! | `worker` | one thread a queue: packets to the client, chunks back to the NIC |
//! | `nic` | the NICs |
//! | `keeper` | a second process that holds memory until the daemon is gone |
//! | `stats`, `openmetrics`, `counters` | the numbers |
//!
//! A client that dies, stops or misbehaves costs only its own attachment: control never waits for one, and a worker serves one queue
//! only.

mod aside;
mod attachment;
mod closers;
pub mod config;
mod control;
mod counters;
mod error;
pub mod keeper;
mod nic;
pub mod openmetrics;
pub mod policy;
mod registry;
mod run;
mod session;
mod shutdown;
mod stats;
mod sys;
#[cfg(test)]
mod testing;
mod worker;

pub use config::{Config, ConfigError};
pub use run::run;
pub use shutdown::{Shutdown, ShutdownHandle};
