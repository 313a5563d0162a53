//! The guest's side of the guest lane: what runs as `/init`, and what tests in a guest call.

pub mod consumer;
pub mod devices;
pub mod host;
pub mod igb;
pub mod init;
pub mod modules;

pub use host::Host;

/// Where the program under test is in a guest.
pub const DEVRX: &str = "/bin/devrx";
/// Where the captures are that both sides have.
pub const CAPTURES: &str = "/captures";
/// Where the host says what to run.
pub const PLAN: &str = "/etc/devrx-guest.json";

/// A test's reason for not running here; see [`skip`].
#[derive(Debug)]
pub struct Skip(String);

impl std::fmt::Display for Skip {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.write_str(&self.0)
    }
}

impl std::error::Error for Skip {}

/// The error to return from a test that cannot run in this guest: it counts as skipped, with this reason.
pub fn skip(reason: impl Into<String>) -> anyhow::Error {
    anyhow::Error::new(Skip(reason.into()))
}
