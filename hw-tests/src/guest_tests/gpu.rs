//! Memory of GPUs where there is none: the whole way from the command line to the driver's library, on a NIC that could have it.

use anyhow::{Result, ensure};

use super::Test;
use crate::daemon::Daemon;
use crate::inside::Host;
use crate::inside::igb::{self, Kind, NIC, Wanted};

/// The tests of this file.
pub const TESTS: &[Test] = &[Test::new(
    "igb_memory_of_a_gpu_that_is_not_there_is_refused",
    refused,
)];

/// What is refused says why, and nothing is left of it: the queue takes other memory.
fn refused(host: &mut Host) -> Result<()> {
    let daemon = igb::daemon(host)?;
    says(
        host,
        &daemon,
        "cuda:0",
        &["libcuda.so.1", "install NVIDIA's driver"],
    )?;
    // The tests' daemon allows memory that may move.
    says(
        host,
        &daemon,
        "hip:0",
        &["libamdhip64.so", "install ROCm's runtime"],
    )?;
    says(host, &daemon, "cuda:01", &["cuda:INDEX"])?;
    let doctor = daemon.devrx(["doctor"]).output()?;
    let text = String::from_utf8_lossy(&doctor.stdout);
    ensure!(text.contains("libcuda.so.1 cannot be loaded"), "{text}");
    let wanted = Wanted {
        name: "after",
        kind: Kind::Memfd,
        chunks: 256,
        chunk: 2048,
        more: "--queue 0 --flow any",
    };
    drop(wanted.attach_and_open(host, &daemon)?);
    daemon.detach("after")?;
    drop(daemon);
    let pci = host.pci(NIC)?;
    let daemon = Daemon::start_here(&[&format!("vfio:{pci}")])?;
    says(
        host,
        &daemon,
        "hip:0",
        &["may move its memory", "hipHostRegister", "allow_unpinned"],
    )
}

fn says(host: &Host, daemon: &Daemon, memory: &str, words: &[&str]) -> Result<()> {
    let pci = host.pci(NIC)?;
    let text = daemon.refused(&format!(
        "attach --name gpu --nic {pci} --queue 0 --memory {memory} --size 4M --chunk 2048 --flow any"
    ))?;
    println!("{memory}: {}", text.trim());
    for word in words {
        ensure!(text.contains(word), "{word:?} is not in it");
    }
    ensure!(!daemon.stats()?.alive("gpu"), "something is left of it");
    Ok(())
}
