//! Ending on Ctrl-C and SIGTERM, in an orderly way.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};

static STOPPED: AtomicBool = AtomicBool::new(false);

/// Whether somebody asked this program to end.
pub fn asked() -> bool {
    STOPPED.load(Ordering::Relaxed)
}

/// Asks this program to end, as Ctrl-C would.
pub fn ask() {
    STOPPED.store(true, Ordering::Relaxed);
}

/// From here on SIGINT and SIGTERM set the flag that [`asked`] reads; the second one ends the program at once. Must be called
/// before other threads start, for they inherit what is blocked.
///
/// # Errors
/// A kernel that refuses to block signals.
pub fn on_signals() -> Result<()> {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGTERM);
    signals.thread_block().context("cannot block signals")?;
    // Waiting in a thread needs no signal handler, so nothing runs in the middle of anything.
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || {
            while signals.wait().is_ok() {
                if STOPPED.swap(true, Ordering::Relaxed) {
                    std::process::exit(130);
                }
            }
        })
        .context("cannot start the thread that waits for signals")?;
    Ok(())
}
