//! What is in the guests of the guest lane: `/init`, and each test's process. Of no use anywhere else.

use std::process::ExitCode;

use anyhow::{Result, bail};
use devrx_hw_tests::inside::{consumer, init};

fn main() -> ExitCode {
    match start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("devrx-guest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    match &arguments[..] {
        [name, rest @ ..] if name.ends_with("setpriv") => init::setpriv(rest),
        [_, verb, name] if verb == "test" => init::test(name),
        [_, verb, rest @ ..] if verb == consumer::VERB => consumer::run(rest),
        _ if std::process::id() == 1 => init::run(),
        _ => bail!("this program belongs into a guest; `cargo xtask guest` starts one"),
    }
}
