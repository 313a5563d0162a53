//! The commands, one file each.

pub mod attach;
pub mod bench;
pub mod detach;
pub mod flow;
pub mod nic;
pub mod recv;
pub mod run;
pub mod send;
mod send_nic;
pub mod stats;

use std::path::Path;

use anyhow::{Context, Result};
use devrx_client::Client;

/// Connects to the daemon.
///
/// # Errors
/// No daemon, or no right to speak to it.
pub fn connect(socket: &Path) -> Result<Client> {
    Client::connect(socket).with_context(|| {
        format!(
            "cannot reach the daemon at {}; start one with `devrx run --nic afxdp:IFNAME`, or name its socket with --socket or DEVRX_SOCKET",
            socket.display()
        )
    })
}

/// Shows what the daemon warned of.
pub fn warn(warnings: &[String]) {
    for warning in warnings {
        tell!("note: {warning}");
    }
}
