//! `cargo xtask bench`.

use std::time::Instant;

use anyhow::Result;

use crate::shell;

/// Runs the benchmarks of the pool; they print their own table.
pub fn run(args: &[String]) -> Result<bool> {
    let start = Instant::now();
    shell::step("pool: recycling against releasing to the provider");
    let ok = shell::run(
        shell::cargo()
            .args([
                "bench",
                "--locked",
                "--package",
                "devrx-pool",
                "--benches",
                "--",
            ])
            .args(args),
    )?;
    println!(
        "bench: {} ({})",
        if ok { "done" } else { "failed" },
        shell::took(start)
    );
    Ok(ok)
}
