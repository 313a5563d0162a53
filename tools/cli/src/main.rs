//! devrx receives network packets straight into device memory: the daemon and its commands.
#![deny(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "println! and eprintln! panic when the reader goes away; `out` does not"
)]

#[macro_use]
mod out;

mod capture;
mod commands;
mod demo;
mod doctor;
mod frame;
mod functions;
mod namespace;
mod pace;
mod progress;
mod selftest;
mod size;
mod stop;
mod sys;

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use devrx_proto::DEFAULT_SOCKET;
use tracing_subscriber::EnvFilter;

use crate::commands::{attach, bench, detach, flow, nic, recv, run, send, stats};

/// Receives network packets straight into device memory.
#[derive(Parser)]
#[command(name = "devrx", version, max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    command: Command,
    /// Print data as JSON.
    #[arg(long, global = true)]
    json: bool,
    /// What to log to stderr, for example `debug` or `devrx_daemon=trace` [default: RUST_LOG, or info for `run`, warn elsewhere].
    #[arg(long, global = true, value_name = "FILTER")]
    log: Option<String>,
    /// The daemon's socket.
    /// [default: /run/devrx/devrx.sock; `run`: what its configuration says]
    #[arg(long, global = true, env = "DEVRX_SOCKET", value_name = "PATH")]
    socket: Option<PathBuf>,
}

#[derive(Subcommand)]
enum Command {
    /// Check whether this host and its NICs can do it; every "no" comes with its fix.
    Doctor,
    /// List NICs, or hand them to and take them from vfio-pci.
    #[command(subcommand)]
    Nic(nic::NicCommand),
    /// Run the daemon.
    Run(run::RunArgs),
    /// Attach memory to queues of a NIC; the attachment stays until it is detached.
    Attach(attach::AttachArgs),
    /// End an attachment.
    Detach(detach::DetachArgs),
    /// Add, remove and list the flow rules of attachments.
    #[command(subcommand)]
    Flow(flow::FlowCommand),
    /// Consume an attachment: count its packets, or write them to a capture.
    Recv(recv::RecvArgs),
    /// Send a capture or UDP datagrams, at a steady rate.
    Send(send::SendArgs),
    /// Test a NIC that is bound to vfio-pci: it sends to itself, and every byte is looked for where it belongs.
    Selftest(selftest::SelftestArgs),
    /// Show what the daemon counts.
    Stats(stats::StatsArgs),
    /// Show it working: two network namespaces, a daemon, a client, traffic, every byte verified.
    Demo(demo::DemoArgs),
    /// How to measure.
    Bench,
    /// Hold the memory of attachments until the daemon is gone; started by the daemon.
    #[command(hide = true)]
    Keeper,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let default = if matches!(cli.command, Command::Run(_)) {
        "info"
    } else {
        "warn"
    };
    let filter = match &cli.log {
        Some(filter) => EnvFilter::try_new(filter),
        None => EnvFilter::try_from_default_env().or_else(|_| EnvFilter::try_new(default)),
    };
    match filter {
        Ok(filter) => tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(std::io::stderr().is_terminal())
            .with_writer(std::io::stderr)
            .init(),
        Err(error) => {
            tell!("devrx: --log: {error}; write for example --log debug");
            return ExitCode::from(2);
        }
    }
    if matches!(cli.command, Command::Keeper) {
        return devrx_daemon::keeper::main();
    }
    match dispatch(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        // `devrx stats --watch | head` is no fault of anybody's.
        Err(error) if error.is::<out::ReaderGone>() => ExitCode::from(out::READER_GONE_STATUS),
        Err(error) => {
            tell!("devrx: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(cli: &Cli) -> Result<()> {
    // Only what looks whether it was asked to end. The others end as any program does, also while a daemon does not answer them; the daemon takes its
    // signals in its own way.
    let looks = match &cli.command {
        Command::Recv(_) | Command::Send(_) | Command::Demo(_) => true,
        Command::Stats(args) => args.watch,
        _ => false,
    };
    if looks {
        stop::on_signals()?;
    }
    let socket = cli.socket.clone().unwrap_or_else(|| DEFAULT_SOCKET.into());
    match &cli.command {
        Command::Doctor => doctor::run(cli.json),
        Command::Nic(command) => nic::run(command, &socket, cli.json),
        Command::Run(args) => run::run(args, cli.socket.clone(), cli.json),
        Command::Attach(args) => attach::run(args, &socket, cli.json),
        Command::Detach(args) => detach::run(args, &socket, cli.json),
        Command::Flow(command) => flow::run(command, &socket, cli.json),
        Command::Recv(args) => recv::run(args, &socket, cli.json),
        Command::Send(args) => send::run(args, cli.json),
        Command::Selftest(args) => selftest::run(args, cli.json),
        Command::Stats(args) => stats::run(args, &socket, cli.json),
        Command::Demo(args) => demo::run(args, cli.json),
        Command::Bench => bench::run(),
        Command::Keeper => Ok(()),
    }
}
