//! How a guest ended, from QEMU's exit status.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// What the guest writes to the isa-debug-exit port when all its tests have ended, whatever came of them.
pub const DONE: u8 = 1;
/// The same when the guest could not run tests at all.
pub const BROKEN: u8 = 2;

/// How a guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The guest said this code. QEMU exits with 2n + 1 then, so no code is success to a shell.
    Said(u8),
    /// The guest switched itself off, or its kernel panicked.
    Off,
    /// QEMU was killed, or killed itself, with this signal.
    Crashed(i32),
    /// QEMU ended in another way, as it does when it is given arguments it cannot take.
    Refused(i32),
}

impl Outcome {
    /// Reads QEMU's exit status.
    #[must_use]
    pub fn of(status: ExitStatus) -> Self {
        match (status.signal(), status.code()) {
            (Some(signal), _) => Self::Crashed(signal),
            (None, Some(0)) => Self::Off,
            // 1 is QEMU's own way to fail; the guest never says 0.
            (None, Some(code)) if code % 2 == 1 && code > 1 => {
                u8::try_from(code / 2).map_or(Self::Refused(code), Self::Said)
            }
            (None, code) => Self::Refused(code.unwrap_or(-1)),
        }
    }

    /// Whether this is QEMU's fault as far as can be told: an abort, or a kill by the machine's memory manager.
    #[must_use]
    pub fn is_crash(self) -> bool {
        matches!(self, Self::Crashed(SIGABRT | SIGKILL | SIGSEGV))
    }
}

const SIGABRT: i32 = nix::sys::signal::Signal::SIGABRT as i32;
const SIGKILL: i32 = nix::sys::signal::Signal::SIGKILL as i32;
const SIGSEGV: i32 = nix::sys::signal::Signal::SIGSEGV as i32;

impl std::fmt::Display for Outcome {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Said(DONE) => write!(to, "the guest ended by itself"),
            Self::Said(BROKEN) => write!(to, "the guest could not start its tests"),
            Self::Said(code) => write!(to, "the guest ended with code {code}"),
            Self::Off => write!(to, "the guest switched itself off, or its kernel panicked"),
            Self::Crashed(signal) => write!(to, "QEMU died of signal {signal}"),
            Self::Refused(code) => write!(to, "QEMU failed with exit status {code}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_end_is_taken_for_another() {
        let of = |raw| Outcome::of(ExitStatus::from_raw(raw));
        assert_eq!(of(0), Outcome::Off);
        assert_eq!(of(3 << 8), Outcome::Said(DONE));
        assert_eq!(of(5 << 8), Outcome::Said(BROKEN));
        assert_eq!(of(1 << 8), Outcome::Refused(1));
        assert_eq!(of(2 << 8), Outcome::Refused(2));
        assert_eq!(of(6), Outcome::Crashed(6));
        assert!(of(6).is_crash() && of(9).is_crash() && !of(15).is_crash());
        assert!(!of(0).is_crash() && !of(3 << 8).is_crash());
    }
}
