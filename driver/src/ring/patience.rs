//! Waiting for a device.

use std::time::{Duration, Instant};

/// Waits, but not where fuzzing would only be slower for it.
pub(crate) fn pause(time: Duration) {
    if !cfg!(fuzzing) {
        std::thread::sleep(time);
    }
}

/// How often a device is looked at where fuzzing would only be slower for waiting: a model that works is done by then.
const LOOKS: u32 = 16;

/// Waits until `done` or `patience` is over; whether it is done.
pub(crate) fn wait(patience: Duration, mut done: impl FnMut() -> bool) -> bool {
    if cfg!(fuzzing) {
        return (0..LOOKS).any(|_| done());
    }
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
