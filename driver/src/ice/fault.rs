//! Why a NIC can receive no more, and what whoever waits for packets is told.

/// The graver the greater: the gravest is what is reported.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u32)]
pub(super) enum Fault {
    /// It stopped a queue for what its driver did (malicious driver detection).
    Malicious = 1,
    /// Its function was reset, by the bus: somebody else asked the system for that.
    FunctionReset,
    /// The whole device was reset, by another function or by itself.
    DeviceReset,
    /// Its memory failed, or its way to the host's.
    Fatal,
    /// A reset that was to stop it failed.
    Stuck,
    /// Nobody answers any more.
    Gone,
    /// The system reported an error, or wants the device back.
    Trouble,
}

const MALICIOUS: &str = "the NIC stopped a queue because its driver told it what it does not take (malicious driver detection; the daemon's log says what); this is \
                         a fault in this program: please report it, then detach and attach again, which resets the NIC";
const FUNCTION_RESET: &str =
    "somebody else had the system reset this NIC (its function, not the whole card); attach again";
const DEVICE_RESET: &str =
    "the whole card was reset, by another of its functions or by its own firmware; attach again";
const FATAL: &str = "the NIC reported an error in its own memory or on the bus; detach and attach again, which resets it";
const STUCK: &str = "one of the NIC's queues did not stop, and the NIC could not be reset; detach everything and attach again, which tries once more, \
                     or power the machine off and on";
/// Registers read all ones, or nobody is there at all.
pub(super) const GONE: &str = "the NIC does not answer any more: it was pulled, lost power, or its memory decoding was turned off; \
                               detach, then bind the NIC again";
const TROUBLE: &str = "the system reported an error of the NIC that cannot be corrected, or wants the NIC back; the daemon's log says which; \
                       detach, then bind the NIC again";
const RESET: &str = "the NIC was reset because one of its queues did not stop, or its firmware did not answer; attach again";

/// What is said of a fault, given as a number; 0 is a reset that this driver made.
pub(super) const fn text(code: u32) -> &'static str {
    const TEXTS: [&str; 8] = [
        RESET,
        MALICIOUS,
        FUNCTION_RESET,
        DEVICE_RESET,
        FATAL,
        STUCK,
        GONE,
        TROUBLE,
    ];
    if code as usize >= TEXTS.len() {
        return TROUBLE;
    }
    TEXTS[code as usize]
}

const _: () = assert!(Fault::Trouble as usize == 7, "each has a text");
