//! Which card the model is.

/// Who has the timer of the card's clock.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ClockOwner {
    /// Capability 0x46 is not there.
    None,
    /// This function has the timer of this number, 0 or 1.
    This(u8),
    /// Another function has it.
    Other {
        /// The timer's number, 0 or 1.
        timer: u8,
        /// It was set up, and is set up again after each reset of the card.
        runs: bool,
    },
}

impl ClockOwner {
    /// The timer that the function's stamps are of.
    pub(crate) const fn timer(self) -> Option<u8> {
        match self {
            Self::None => None,
            Self::This(timer) | Self::Other { timer, .. } => Some(timer),
        }
    }
}

/// The card's identity and what it offers. The default is an E810-C with a QSFP cage, 8086:1592.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Personality {
    /// PCI vendor.
    pub vendor: u16,
    /// PCI device.
    pub device: u16,
    /// PCI revision.
    pub revision: u8,
    /// PCI subsystem vendor and device.
    pub subsystem: (u16, u16),
    /// The port's own address, as command 0x0107 tells it.
    pub mac: [u8; 6],
    /// Refuse what firmware and hardware refuse. Off, only what cannot be carried out is refused.
    pub strict: bool,
    /// Take a DDP package when one is downloaded. Off, the download fails as with a package that the firmware does not know.
    pub ddp: bool,
    /// Receive queues and transmit queues of the function, each; 1 to 2048.
    pub queues: u16,
    /// MSI-X vectors, 2 to 1024.
    pub vectors: u16,
    /// Flow Director filters: guaranteed to the function, and shared by best effort.
    pub flow_director: (u16, u16),
    /// The admin queue's interface: major, minor, patch. 1.5.9 keeps Linux from asking for what is not modelled; from 1.7.6 on the firmware reports on the
    /// card's health when it is asked to.
    pub api: (u8, u8, u8),
    /// Find L3 and L4 headers without a package. Nobody knows whether silicon does, so it is off.
    pub parses_without_package: bool,
    /// Who has the timer of the clock that packets are stamped by.
    pub clock: ClockOwner,
}

impl Personality {
    /// The number that the whole device gives the function's first queue: not 0, as for any port of a card but its first. Registers of queues, VSIs and the transmit
    /// scheduler number the function's queues from 0; only rules that name a queue, and events, have the device's numbers (DPDK's `ice_switch_filter.c`).
    #[must_use]
    pub fn first_queue(&self) -> u16 {
        2048_u16.saturating_sub(self.queues).min(256)
    }
}

impl Default for Personality {
    fn default() -> Self {
        Self {
            vendor: 0x8086,
            device: 0x1592,
            revision: 2,
            subsystem: (0x8086, 0x0002),
            mac: [0x02, 0xe8, 0x10, 0x00, 0x00, 0x01],
            strict: true,
            ddp: true,
            queues: 256,
            vectors: 64,
            flow_director: (512, 512),
            api: (1, 5, 9),
            parses_without_package: false,
            clock: ClockOwner::This(0),
        }
    }
}
