//! The E810 model as a process: a virtual machine's vfio-user-pci device connects to it. The guest lane's harness starts it.

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use devrx_e810_model::server::{Control, Server, Wire};
use devrx_e810_model::{E810, Fault, Personality};

/// How often new refusals are looked for.
const LOOK: Duration = Duration::from_millis(100);

/// Serves the E810 model to one virtual machine, and ends with it.
#[derive(Parser)]
struct Arguments {
    /// The socket that the virtual machine connects to.
    #[arg(long)]
    socket: PathBuf,
    /// Where frames arrive: a datagram socket, which is made.
    #[arg(long, requires = "wire_to")]
    wire: Option<PathBuf>,
    /// Where frames go that the card sends: somebody's datagram socket.
    #[arg(long)]
    wire_to: Option<PathBuf>,
    /// A socket for requests; see `server::Control`.
    #[arg(long)]
    control: Option<PathBuf>,
    /// The port's MAC address.
    #[arg(long)]
    mac: Option<String>,
    /// Misbehave in this way from the beginning.
    #[arg(long, default_value_t = Fault::None)]
    fault: Fault,
    /// Refuse only what cannot be carried out.
    #[arg(long)]
    lenient: bool,
    /// What to log, for example `debug`.
    #[arg(long, default_value = "warn")]
    log: String,
}

fn main() -> ExitCode {
    match serve(&Arguments::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("e810-server: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: &Arguments) -> Result<()> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::try_new(&arguments.log)?)
        .with_ansi(false)
        .with_writer(std::io::stderr)
        .init();
    let mut personality = Personality {
        strict: !arguments.lenient,
        ..Personality::default()
    };
    if let Some(text) = &arguments.mac {
        personality.mac = mac(text)?;
    }
    let card = E810::new(personality);
    card.set_fault(arguments.fault);
    let server = Server::new(card.clone());
    let wire = match (&arguments.wire, &arguments.wire_to) {
        (Some(here), Some(there)) => Some(Wire::connect(&card, here, there).context("the wire")?),
        _ => None,
    };
    if let Some(path) = &arguments.control {
        let listener = UnixListener::bind(path).context("the control socket")?;
        let control = Control {
            card: card.clone(),
            memory: server.memory().clone(),
            wire,
            told: Arc::default(),
        };
        control.listen(listener);
    }
    watch(&card);
    // Last: when this socket is there, all is ready.
    let listener = UnixListener::bind(&arguments.socket).context("the device's socket")?;
    server.serve_one(&listener).context("the virtual machine")
}

/// Prints what the card refuses.
fn watch(card: &Arc<E810>) {
    let card = card.clone();
    std::thread::spawn(move || {
        let mut told = 0;
        loop {
            let (total, new) = card.refusals_after(told);
            for refusal in new {
                println!("refused: {refusal}");
            }
            told = total;
            std::thread::sleep(LOOK);
        }
    });
}

fn mac(text: &str) -> Result<[u8; 6]> {
    let mut mac = [0; 6];
    let mut parts = text.split(':');
    for byte in &mut mac {
        let part = parts
            .next()
            .with_context(|| format!("no MAC address: {text}"))?;
        *byte = u8::from_str_radix(part, 16).with_context(|| format!("no MAC address: {text}"))?;
    }
    ensure!(parts.next().is_none(), "no MAC address: {text}");
    Ok(mac)
}
