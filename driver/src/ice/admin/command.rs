//! Commands by name, and the firmware's refusals in words.

use crate::DriverError;

/// Opcodes.
pub(in crate::ice) mod opcode {
    /// Firmware and interface version.
    pub const GET_VERSION: u16 = 0x0001;
    /// Tells the firmware which driver it is.
    pub const DRIVER_VERSION: u16 = 0x0002;
    /// Ends the queue.
    pub const SHUT_DOWN: u16 = 0x0003;
    /// Takes a resource that functions share.
    pub const REQUEST_RESOURCE: u16 = 0x0008;
    /// Gives it back.
    pub const RELEASE_RESOURCE: u16 = 0x0009;
    /// What this function can do.
    pub const FUNCTION_CAPABILITIES: u16 = 0x000a;
    /// The port's addresses.
    pub const READ_MAC: u16 = 0x0107;
    /// Ends what the boot code set up.
    pub const CLEAR_PXE: u16 = 0x0110;
    /// The switch as it is.
    pub const SWITCH_CONFIGURATION: u16 = 0x0200;
    /// Takes entries of the device's tables.
    pub const ALLOCATE: u16 = 0x0208;
    /// Gives them back.
    pub const FREE: u16 = 0x0209;
    /// Makes a VSI.
    pub const ADD_VSI: u16 = 0x0210;
    /// Changes a VSI.
    pub const UPDATE_VSI: u16 = 0x0211;
    /// Ends a VSI.
    pub const FREE_VSI: u16 = 0x0213;
    /// Makes recipes.
    pub const ADD_RECIPE: u16 = 0x0290;
    /// Says for which packets a recipe is asked.
    pub const SET_PROFILE_RECIPES: u16 = 0x0291;
    /// A recipe as it was made, and those that it chains.
    pub const GET_RECIPE: u16 = 0x0292;
    /// For which recipes a profile's packets are asked.
    pub const GET_PROFILE_RECIPES: u16 = 0x0293;
    /// Adds rules to the switch.
    pub const ADD_RULES: u16 = 0x02a0;
    /// Takes rules off.
    pub const REMOVE_RULES: u16 = 0x02a2;
    /// Takes everything off that this function had.
    pub const CLEAR_FUNCTION: u16 = 0x02a4;
    /// The transmit scheduler's tree after a reset.
    pub const DEFAULT_BRANCH: u16 = 0x0400;
    /// Adds nodes to it.
    pub const ADD_NODES: u16 = 0x0401;
    /// Takes nodes out.
    pub const DELETE_NODES: u16 = 0x040f;
    /// What the tree can have.
    pub const SCHEDULER: u16 = 0x0412;
    /// How the MAC shall work.
    pub const SET_MAC: u16 = 0x0603;
    /// Brings the link up or down.
    pub const RESTART_LINK: u16 = 0x0605;
    /// The link; also an event.
    pub const LINK_STATUS: u16 = 0x0607;
    /// Which link events are wanted.
    pub const LINK_EVENTS: u16 = 0x0613;
    /// Sends back what is sent.
    pub const LOOPBACK: u16 = 0x0620;
    /// The key of the hash.
    pub const SET_HASH_KEY: u16 = 0x0b02;
    /// The table of the hash.
    pub const SET_HASH_TABLE: u16 = 0x0b03;
    /// A message to a neighbour of the card's: its PHY.
    pub const NEIGHBOUR: u16 = 0x0c00;
    /// Starts transmit queues.
    pub const ADD_TRANSMIT_QUEUES: u16 = 0x0c30;
    /// Stops them.
    pub const DISABLE_TRANSMIT_QUEUES: u16 = 0x0c31;
    /// A piece of a package.
    pub const DOWNLOAD_PACKAGE: u16 = 0x0c40;
    /// Changes tables that a package filled.
    pub const UPDATE_PACKAGE: u16 = 0x0c42;
    /// Which packages there are.
    pub const PACKAGE_LIST: u16 = 0x0c43;
    /// An event: a queue's transmission was held up for too long.
    pub const OVERFLOW: u16 = 0x1001;
    /// Which reports of the card's health are wanted.
    pub const SET_HEALTH: u16 = 0xff20;
    /// An event: the firmware's view of the card's health.
    pub const HEALTH: u16 = 0xff22;
}

const NAMES: &[(u16, &str)] = &[
    (opcode::GET_VERSION, "get version"),
    (opcode::DRIVER_VERSION, "driver version"),
    (opcode::SHUT_DOWN, "queue shutdown"),
    (opcode::REQUEST_RESOURCE, "request resource"),
    (opcode::RELEASE_RESOURCE, "release resource"),
    (opcode::FUNCTION_CAPABILITIES, "list function capabilities"),
    (opcode::READ_MAC, "read MAC addresses"),
    (opcode::CLEAR_PXE, "clear PXE mode"),
    (opcode::SWITCH_CONFIGURATION, "get switch configuration"),
    (opcode::ALLOCATE, "allocate resources"),
    (opcode::FREE, "free resources"),
    (opcode::ADD_VSI, "add VSI"),
    (opcode::UPDATE_VSI, "update VSI"),
    (opcode::FREE_VSI, "free VSI"),
    (opcode::ADD_RECIPE, "add recipe"),
    (opcode::SET_PROFILE_RECIPES, "recipe to profile"),
    (opcode::GET_RECIPE, "get recipe"),
    (opcode::GET_PROFILE_RECIPES, "get recipe to profile"),
    (opcode::ADD_RULES, "add switch rules"),
    (opcode::REMOVE_RULES, "remove switch rules"),
    (opcode::CLEAR_FUNCTION, "clear PF configuration"),
    (opcode::DEFAULT_BRANCH, "get default scheduler topology"),
    (opcode::ADD_NODES, "add scheduling elements"),
    (opcode::DELETE_NODES, "delete scheduling elements"),
    (opcode::SCHEDULER, "query scheduler resources"),
    (opcode::SET_MAC, "set MAC configuration"),
    (opcode::RESTART_LINK, "restart autonegotiation"),
    (opcode::LINK_STATUS, "get link status"),
    (opcode::LINK_EVENTS, "set event mask"),
    (opcode::LOOPBACK, "set MAC loopback"),
    (opcode::SET_HASH_KEY, "set RSS key"),
    (opcode::SET_HASH_TABLE, "set RSS table"),
    (opcode::NEIGHBOUR, "neighbour device request"),
    (opcode::ADD_TRANSMIT_QUEUES, "add Tx LAN queues"),
    (opcode::DISABLE_TRANSMIT_QUEUES, "disable Tx LAN queues"),
    (opcode::DOWNLOAD_PACKAGE, "download package"),
    (opcode::UPDATE_PACKAGE, "update package"),
    (opcode::PACKAGE_LIST, "get package list"),
    (opcode::SET_HEALTH, "set health status configuration"),
];

/// The firmware's codes (`enum ice_aq_err`), by number.
const CODES: &[(&str, &str)] = &[
    ("OK", "success"),
    ("EPERM", "not permitted"),
    ("ENOENT", "no such element"),
    ("ESRCH", "bad opcode"),
    ("EINTR", "interrupted"),
    ("EIO", "I/O error"),
    ("ENXIO", "no such resource"),
    ("E2BIG", "too long"),
    ("EAGAIN", "try again"),
    ("ENOMEM", "out of memory"),
    ("EACCES", "permission denied"),
    ("EFAULT", "bad address"),
    ("EBUSY", "busy"),
    ("EEXIST", "exists already"),
    ("EINVAL", "invalid argument"),
    ("ENOTTY", "not a typewriter"),
    ("ENOSPC", "no space left"),
    ("ENOSYS", "not implemented"),
    ("ERANGE", "out of range"),
    ("EFLUSHED", "flushed after an earlier error"),
    ("BAD_ADDR", "bad pointer in a descriptor"),
    ("EMODE", "not allowed in the device's mode"),
    ("EFBIG", "file too big"),
    ("ESBCOMP", "internal bus error"),
    ("ENOSEC", "missing security manifest"),
    ("EBADSIG", "bad signature"),
    ("ESVN", "security version too low"),
    ("EBADMAN", "manifest does not match"),
    ("EBADBUF", "buffer does not match its manifest"),
];

/// Codes that are acted upon.
pub(in crate::ice) mod code {
    /// There is none (of what was asked for).
    pub const ENOENT: u16 = 2;
    /// Somebody else has it.
    pub const EBUSY: u16 = 12;
    /// It is there already.
    pub const EEXIST: u16 = 13;
}

/// A command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::ice) struct Command {
    pub opcode: u16,
    /// The last eight bytes are overwritten where there is a buffer.
    pub params: [u8; 16],
    /// The firmware reads the buffer before it fills it.
    pub reads: bool,
}

impl Command {
    /// A command whose parameters begin with `params`, the rest 0.
    pub(in crate::ice) fn new<const N: usize>(opcode: u16, params: [u8; N]) -> Self {
        let mut whole = [0; 16];
        for (to, from) in whole.iter_mut().zip(params) {
            *to = from;
        }
        Self {
            opcode,
            params: whole,
            reads: false,
        }
    }

    /// The same, with a buffer that the firmware reads.
    pub(in crate::ice) fn reading(self) -> Self {
        Self {
            reads: true,
            ..self
        }
    }
}

/// What came back: the parameters, and how many bytes of the buffer are filled.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::ice) struct Answer {
    pub params: [u8; 16],
    pub len: usize,
}

impl Answer {
    /// The 16 bits at byte `at` of the parameters.
    pub(in crate::ice) fn half(&self, at: usize) -> u16 {
        let bytes = self.params.get(at..at + 2);
        bytes.map_or(0, |bytes| u16::from_le_bytes([bytes[0], bytes[1]]))
    }
}

/// Why a command did not do what it says.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::ice) enum Why {
    /// The firmware refused.
    Code(u16),
    /// It did not answer in time. Nothing more is asked of it before a reset.
    Silent,
    /// It did not answer an earlier command.
    Dead,
    /// What it answered cannot be.
    Garbled(String),
}

/// A command that failed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::ice) struct AdminError {
    pub opcode: u16,
    pub why: Why,
}

impl AdminError {
    /// An answer that cannot be.
    pub(in crate::ice) fn garbled(opcode: u16, what: impl Into<String>) -> Self {
        Self {
            opcode,
            why: Why::Garbled(what.into()),
        }
    }

    /// Whether the firmware refused with `code`.
    pub(in crate::ice) fn is(&self, code: u16) -> bool {
        self.why == Why::Code(code)
    }

    /// For whoever called the driver.
    pub(in crate::ice) fn of(self, nic: &str) -> DriverError {
        let fix = match self.why {
            Why::Code(_) => {
                "see that no other driver has a function of this card, and that its firmware is current"
            }
            Why::Silent | Why::Dead | Why::Garbled(_) => {
                "detach everything and attach again, which resets the NIC; if it goes on, power the machine off and on"
            }
        };
        DriverError::Firmware {
            nic: nic.to_owned(),
            what: self.to_string(),
            fix: fix.to_owned(),
        }
    }
}

impl std::fmt::Display for AdminError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let name = NAMES.iter().find(|(opcode, _)| *opcode == self.opcode);
        let name = name.map_or("a command", |(_, name)| name);
        let opcode = self.opcode;
        match &self.why {
            Why::Code(code) => {
                let (short, text) = CODES
                    .get(usize::from(*code))
                    .copied()
                    .unwrap_or(("?", "a code that is not known"));
                write!(
                    f,
                    "`{name}` ({opcode:#06x}) was refused: {short} ({code}), {text}"
                )
            }
            Why::Silent => write!(f, "`{name}` ({opcode:#06x}) was not answered in time"),
            Why::Dead => write!(
                f,
                "`{name}` ({opcode:#06x}) was not sent, since an earlier command was not answered"
            ),
            Why::Garbled(what) => {
                write!(
                    f,
                    "the answer to `{name}` ({opcode:#06x}) cannot be: {what}"
                )
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_in_words() {
        let error = AdminError {
            opcode: opcode::ADD_VSI,
            why: Why::Code(14),
        };
        assert_eq!(
            error.to_string(),
            "`add VSI` (0x0210) was refused: EINVAL (14), invalid argument"
        );
        let text = error.of("0000:03:00.0").to_string();
        assert!(
            text.contains("0000:03:00.0") && text.contains("EINVAL"),
            "{text}"
        );
        let strange = AdminError {
            opcode: 0x1234,
            why: Why::Code(99),
        };
        assert!(strange.to_string().contains("not known"));
    }
}
