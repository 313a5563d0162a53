//! `devrx detach`.

use std::path::Path;

use anyhow::Result;
use clap::Args;

use super::{connect, warn};

/// Which attachment to end.
#[derive(Args)]
pub struct DetachArgs {
    /// The attachment's name.
    name: String,
}

/// Runs the command; when it returns, the queues are free and the NIC writes to the memory no more.
///
/// # Errors
/// What the daemon answers.
pub fn run(args: &DetachArgs, socket: &Path, json: bool) -> Result<()> {
    let warnings = connect(socket)?.detach(&args.name)?;
    warn(&warnings);
    if json {
        say!(
            "{}",
            serde_json::json!({ "name": args.name, "detached": true, "warnings": warnings })
        )?;
    } else {
        say!("detached {}", args.name)?;
    }
    Ok(())
}
