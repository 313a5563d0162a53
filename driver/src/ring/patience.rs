//! Waiting for a device.

use std::time::{Duration, Instant};

/// Waits, but not where fuzzing would only be slower for it.
pub(crate) fn pause(time: Duration) {
    if !cfg!(fuzzing) {
        std::thread::sleep(time);
    }
}

/// Waits until `done` or `patience` is over; whether it is done.
pub(crate) fn wait(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    let patience = if cfg!(fuzzing) {
        Duration::ZERO
    } else {
        patience
    };
    let deadline = Instant::now() + patience;
    loop {
        if done() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_micros(50));
    }
}
