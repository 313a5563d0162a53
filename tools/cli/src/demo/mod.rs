//! `devrx demo`: two network namespaces, a daemon, a client, traffic, and every byte verified.

mod check;
mod daemon;
mod report;
mod stage;
mod synthetic;
mod traffic;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{doctor, progress, size};

/// What to show.
#[derive(Args)]
pub struct DemoArgs {
    /// Send the frames of this capture, again and again, instead of made ones.
    #[arg(long, value_name = "FILE")]
    pcap: Option<PathBuf>,
    /// How long to send.
    #[arg(long, value_name = "S", value_parser = size::seconds, default_value = "5")]
    seconds: Duration,
    /// Packets a second.
    #[arg(long, value_name = "PPS", value_parser = size::rate, default_value = "20k")]
    rate: f64,
}

/// Runs the demo.
///
/// # Errors
/// What is missing on this machine, and a demo that did not end as it must.
pub fn run(args: &DemoArgs, json: bool) -> Result<()> {
    let source = match &args.pcap {
        Some(path) => traffic::Source::capture(path)?,
        None => traffic::Source::synthetic(),
    };
    able()?;
    let line = progress::Line::logged(json);
    let mut stage = stage::Stage::set(&source).context("cannot set the stage")?;
    if !json {
        tell!(
            "{} at {:.0} packets/s for {:.0} s, through a veth pair, into an AF_XDP queue of the daemon (pid {})",
            source.describe(),
            args.rate,
            args.seconds.as_secs_f64(),
            stage.daemon.pid()
        );
    }
    let played = stage.play(&source, args, line)?;
    let report = report::Report::new(&played, stage.end()?);
    report.print(json)?;
    if !report.ok {
        bail!(
            "the demo did not end as it must: {}",
            report.problems.join("; ")
        );
    }
    Ok(())
}

/// Refuses on a machine where the demo cannot work, with the fix.
fn able() -> Result<()> {
    if !nix::unistd::Uid::effective().is_root() {
        bail!(
            "the demo makes network namespaces and an AF_XDP socket, which takes root; run it with sudo"
        );
    }
    let report = doctor::examine()?;
    for check in &report.checks {
        if !check.ok && (check.required || check.name == "ip") {
            bail!("{}: {}; fix: {}", check.name, check.found, check.fix);
        }
    }
    Ok(())
}
