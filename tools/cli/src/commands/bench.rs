//! `devrx bench`.

use anyhow::{Result, bail};

/// Says where the benchmarks are.
///
/// # Errors
/// Always: this program holds none.
pub fn run() -> Result<()> {
    bail!(
        "the benchmarks are part of the source tree, since they compare with other programs; run `cargo xtask bench` there"
    )
}
