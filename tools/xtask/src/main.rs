//! cargo xtask demo | test | guest | model | wheel | bench: what a newcomer, a developer and a CI machine run.

mod bench;
mod book;
mod build;
mod card;
mod demo;
mod gpu;
mod guest;
mod lane;
mod licences;
mod model;
mod netns;
mod nvrtc;
mod packages;
mod process;
mod python;
mod removal;
mod shell;
mod tests_run;
mod unit;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::lane::Lane;

/// Builds, demonstrates, tests and measures devrx.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Installs what is missing, builds, and runs `devrx demo` with the given arguments.
    Demo {
        /// Arguments for `devrx demo`, for example `--seconds 10`.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Runs test lanes; without a name, all that can run here.
    Test {
        /// The lanes to run.
        lanes: Vec<Lane>,
    },
    /// Runs tests of the guest lane by kernel or name: `--kernel 6.12 --filter NAME`; `--help` says more.
    #[command(disable_help_flag = true)]
    Guest {
        /// Arguments for the lane.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Runs tests of the model lane by name: `--filter NAME`; `--help` says more.
    #[command(disable_help_flag = true)]
    Model {
        /// Arguments for the lane.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
    /// Builds the wheel of the Python package, in target/wheels.
    Wheel {
        /// Also tests it, with the real daemon; as root.
        #[arg(long)]
        test: bool,
    },
    /// Runs the benchmarks and prints their tables.
    Bench {
        /// Arguments for the benchmarks.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let done = match cli.task {
        Task::Demo { args } => demo::run(&args),
        Task::Test { lanes } => lane::run(&lanes),
        Task::Guest { args } => guest::some(&args),
        Task::Model { args } => model::some(&args),
        Task::Wheel { test: false } => python::wheel(),
        Task::Wheel { test: true } => python::alone(),
        Task::Bench { args } => bench::run(&args),
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// The workspace's root folder.
fn root() -> &'static Path {
    // Known when this program is compiled, and it is compiled in the tree it works on.
    static ROOT: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    ROOT.get_or_init(|| {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .ancestors()
            .nth(2)
            .map_or_else(PathBuf::new, Path::to_path_buf)
    })
}

/// Where cargo builds: `CARGO_TARGET_DIR`, else `target` in the workspace.
fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| root().join("target"), |dir| root().join(dir))
}
