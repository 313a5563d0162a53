//! Faults by name: how the model can be told to misbehave, to see whether a driver notices.

use std::fmt;
use std::str::FromStr;

/// One way to misbehave. Each has a name, which [`FromStr`] reads and [`fmt::Display`] writes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Fault {
    /// It works. `none`
    #[default]
    None,
    /// A split packet's header goes to the packet buffer's address and the payload to the header buffer's. `swapped-buffers`
    SwappedBuffers,
    /// The descriptor's header length is one less than what was written to the header buffer. `wrong-header-length`
    WrongHeaderLength,
    /// Header and payload part one byte early; the descriptor says so truthfully. `split-off-by-one`
    SplitOffByOne,
    /// The descriptor's packet length counts the header as well. `wrong-packet-length`
    WrongPacketLength,
    /// Each packet overflows its header buffer: HBO is set and all bytes are in the packet buffer. `hbo`
    Hbo,
    /// No packet is split: SPH is clear and all bytes are in the packet buffer. `no-sph`
    NoSph,
    /// A descriptor is written back only when the next event comes: its interrupt is too early. `late-descriptor`
    LateDescriptor,
    /// Descriptors are written back with the done bit clear. `no-done-bit`
    NoDoneBit,
    /// Received frames carry the receive error bit. `receive-error`
    ReceiveError,
    /// Queue interrupts are never raised. `lost-interrupt`
    LostInterrupt,
    /// The RSS hash of descriptors has its bits inverted; the queue is chosen by the true one. `wrong-hash`
    WrongHash,
    /// The RSS hash is told, and chooses no queue: all packets of a VSI go to its first. `no-spread`
    NoSpread,
    /// Flow Director filters are accepted and have no effect. `no-flow-director`
    NoFlowDirector,
    /// Rules added with command 0x02A0 are accepted and have no effect. `no-rules`
    NoRules,
    /// Receive queues do not stop when asked to. `queue-will-not-stop`
    QueueWillNotStop,
    /// Descriptors of transmit queues are never written back; their frames leave. `no-transmit-report`
    NoTransmitReport,
    /// What is sent goes nowhere; its descriptors are written back. `transmit-lost`
    TransmitLost,
    /// One byte of each frame that is sent is inverted on its way out. `transmit-garbled`
    TransmitGarbled,
    /// The MAC's loopback is turned on and off by word only. `no-loopback`
    NoLoopback,
    /// Resets do not complete. `reset-hangs`
    ResetHangs,
    /// The admin queue takes commands and never answers. `admin-queue-hangs`
    AdminQueueHangs,
    /// Packets are written to addresses that nobody gave the card; headers and descriptors to the right ones. `stray-buffers`
    StrayBuffers,
    /// Receive descriptors are read from addresses that nobody gave the card. `stray-ring`
    StrayRing,
    /// Receive queues do not start when asked to. `queue-will-not-start`
    QueueWillNotStart,
    /// Every register reads all ones, and writes do nothing: the card is gone from the bus. `gone`
    Gone,
    /// The PHY's stamps never say that they are valid. `stamp-invalid`
    StampInvalid,
    /// Packets carry stamps of a timer that is 1.5 s ahead, and say that they are valid. `stamp-of-other-timer`
    StampOfOtherTimer,
    /// The clock takes all commands, and its time does not go on. `clock-stands`
    ClockStands,
    /// Another function holds the clock's semaphore and does not give it back. `semaphore-held`
    SemaphoreHeld,
    /// The admin command with this opcode fails with EIO. `fail-command:OPCODE`, with the opcode in hexadecimal
    FailCommand(u16),
    /// The admin command with this opcode fails with this of the firmware's codes (`ICE_AQ_RC_*`). `fail-command:OPCODE:CODE`, the code in decimal
    FailCommandWith(u16, u16),
}

/// A name that is no fault's.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "No fault is called {0:?}; known are: none, swapped-buffers, wrong-header-length, split-off-by-one, wrong-packet-length, hbo, no-sph, \
     late-descriptor, no-done-bit, receive-error, lost-interrupt, wrong-hash, no-spread, no-flow-director, no-rules, queue-will-not-stop, reset-hangs, \
     no-transmit-report, transmit-lost, transmit-garbled, no-loopback, queue-will-not-start, stray-buffers, stray-ring, admin-queue-hangs, gone, \
     stamp-invalid, stamp-of-other-timer, clock-stands, semaphore-held, fail-command:OPCODE[:CODE]"
)]
pub struct UnknownFault(pub String);

/// All faults without a parameter, with their names.
const NAMES: &[(Fault, &str)] = &[
    (Fault::None, "none"),
    (Fault::SwappedBuffers, "swapped-buffers"),
    (Fault::WrongHeaderLength, "wrong-header-length"),
    (Fault::SplitOffByOne, "split-off-by-one"),
    (Fault::WrongPacketLength, "wrong-packet-length"),
    (Fault::Hbo, "hbo"),
    (Fault::NoSph, "no-sph"),
    (Fault::LateDescriptor, "late-descriptor"),
    (Fault::NoDoneBit, "no-done-bit"),
    (Fault::ReceiveError, "receive-error"),
    (Fault::LostInterrupt, "lost-interrupt"),
    (Fault::WrongHash, "wrong-hash"),
    (Fault::NoSpread, "no-spread"),
    (Fault::NoFlowDirector, "no-flow-director"),
    (Fault::NoRules, "no-rules"),
    (Fault::QueueWillNotStop, "queue-will-not-stop"),
    (Fault::NoTransmitReport, "no-transmit-report"),
    (Fault::TransmitLost, "transmit-lost"),
    (Fault::TransmitGarbled, "transmit-garbled"),
    (Fault::NoLoopback, "no-loopback"),
    (Fault::ResetHangs, "reset-hangs"),
    (Fault::AdminQueueHangs, "admin-queue-hangs"),
    (Fault::StrayBuffers, "stray-buffers"),
    (Fault::StrayRing, "stray-ring"),
    (Fault::QueueWillNotStart, "queue-will-not-start"),
    (Fault::Gone, "gone"),
    (Fault::StampInvalid, "stamp-invalid"),
    (Fault::StampOfOtherTimer, "stamp-of-other-timer"),
    (Fault::ClockStands, "clock-stands"),
    (Fault::SemaphoreHeld, "semaphore-held"),
];

impl Fault {
    /// Every fault without a parameter, [`Fault::None`] among them.
    pub fn all() -> impl Iterator<Item = Self> {
        NAMES.iter().map(|(fault, _)| *fault)
    }
}

impl FromStr for Fault {
    type Err = UnknownFault;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let unknown = || UnknownFault(text.to_owned());
        if let Some(opcode) = text.strip_prefix("fail-command:") {
            let (opcode, code) = match opcode.split_once(':') {
                Some((opcode, code)) => (opcode, Some(code)),
                None => (opcode, None),
            };
            let digits = opcode.trim_start_matches("0x");
            let opcode = u16::from_str_radix(digits, 16).map_err(|_| unknown())?;
            return Ok(match code {
                Some(code) => Self::FailCommandWith(opcode, code.parse().map_err(|_| unknown())?),
                None => Self::FailCommand(opcode),
            });
        }
        NAMES
            .iter()
            .find(|(_, name)| *name == text)
            .map(|(fault, _)| *fault)
            .ok_or_else(unknown)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Self::FailCommand(opcode) = self {
            return write!(f, "fail-command:{opcode:04x}");
        }
        if let Self::FailCommandWith(opcode, code) = self {
            return write!(f, "fail-command:{opcode:04x}:{code}");
        }
        let name = NAMES
            .iter()
            .find(|(fault, _)| fault == self)
            .map_or("unknown", |(_, name)| name);
        f.write_str(name)
    }
}

#[cfg(test)]
mod tests {
    use super::{Fault, NAMES};

    /// What the list of names must have; it does not build when a fault is added that it does not know.
    const fn has_no_parameter(fault: Fault) -> bool {
        match fault {
            Fault::FailCommand(_) | Fault::FailCommandWith(..) => false,
            Fault::None
            | Fault::SwappedBuffers
            | Fault::WrongHeaderLength
            | Fault::SplitOffByOne
            | Fault::WrongPacketLength
            | Fault::Hbo
            | Fault::NoSph
            | Fault::LateDescriptor
            | Fault::NoDoneBit
            | Fault::ReceiveError
            | Fault::LostInterrupt
            | Fault::WrongHash
            | Fault::NoSpread
            | Fault::NoFlowDirector
            | Fault::NoRules
            | Fault::QueueWillNotStop
            | Fault::ResetHangs
            | Fault::AdminQueueHangs
            | Fault::StrayBuffers
            | Fault::StrayRing
            | Fault::QueueWillNotStart
            | Fault::NoTransmitReport
            | Fault::TransmitLost
            | Fault::TransmitGarbled
            | Fault::NoLoopback
            | Fault::Gone
            | Fault::StampInvalid
            | Fault::StampOfOtherTimer
            | Fault::ClockStands
            | Fault::SemaphoreHeld => true,
        }
    }

    #[test]
    fn the_list_is_complete() {
        // So many are named in `has_no_parameter`.
        assert_eq!(NAMES.len(), 30);
        let mut seen = Vec::new();
        for (fault, name) in NAMES {
            assert!(has_no_parameter(*fault), "{name}");
            assert!(!seen.contains(fault), "{name} is there twice");
            seen.push(*fault);
        }
    }

    #[test]
    fn names_go_round() {
        for (fault, name) in NAMES {
            assert_eq!(name.parse::<Fault>().as_ref(), Ok(fault));
            assert_eq!(fault.to_string(), *name);
            if *fault != Fault::None {
                let list = super::UnknownFault(String::new()).to_string();
                assert!(list.contains(name), "{name} is not told");
            }
        }
        let failing = Fault::FailCommand(0x2a0);
        assert_eq!(failing.to_string().parse::<Fault>(), Ok(failing));
        assert!("fail-command:".parse::<Fault>().is_err());
        let failing = Fault::FailCommandWith(0x2a0, 13);
        assert_eq!(failing.to_string().parse::<Fault>(), Ok(failing));
        assert!("fail-command:02a0:".parse::<Fault>().is_err());
    }
}
