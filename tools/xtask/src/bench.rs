//! `cargo xtask bench`.

mod guest;

use std::time::Instant;

use anyhow::Result;

use crate::shell;

/// Runs the measurements; they print their own tables. `guest` first: those in a guest, with arguments of their own. Other arguments choose among
/// those of the pool.
pub fn run(args: &[String]) -> Result<bool> {
    if let [first, rest @ ..] = args
        && first == "guest"
    {
        return guest::run(rest);
    }
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
    // Ignored as tests, because they assert nothing that a clock says.
    shell::step("driver: a packet through the receive path, and through the XDP program");
    let measured = shell::run(shell::cargo().args([
        "test",
        "--locked",
        "--release",
        "--package",
        "devrx-driver",
        "--",
        "--ignored",
        "--nocapture",
        "--test-threads=1",
        "cost_of_a_packet",
    ]))?;
    let ok = ok && measured;
    println!(
        "bench: {} ({})",
        if ok { "done" } else { "failed" },
        shell::took(start)
    );
    Ok(ok)
}
