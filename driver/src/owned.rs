//! What a NIC that is owned as a whole can do besides receiving: send a few packets, and hear itself. A self-test needs no more.

use crate::{DriverError, Nic};

/// Sends frames, one transmitter at a time for each NIC; it ends when this is dropped. For a few packets: each frame is copied.
pub trait Transmit: Send {
    /// Sends a frame, Ethernet header first, without FCS. It is on its way when this returns; frames shorter than 60 bytes are padded.
    ///
    /// # Errors
    ///
    /// [`DriverError::BadConfig`] for a length that no frame has; [`DriverError::QueueBusy`] when nothing has left for half a second, or the NIC
    /// sends no more.
    fn send(&mut self, frame: &[u8]) -> Result<(), DriverError>;

    /// Waits until everything has left, half a second at most; whether it has.
    #[must_use]
    fn flush(&self) -> bool;
}

/// A NIC that is owned as a whole.
pub trait Owned: Nic {
    /// What sends.
    type Transmitter: Transmit;

    /// The port's own address, which the card's memory holds.
    fn station(&self) -> [u8; 6];

    /// Starts transmission, for sending a few packets. One transmitter at a time; it goes before the NIC is given up.
    ///
    /// # Errors
    ///
    /// [`DriverError::QueueBusy`], or what the system or the NIC refused.
    fn transmitter(&mut self) -> Result<Self::Transmitter, DriverError>;

    /// What is sent comes back to the NIC, and nothing goes to the wire or comes from it; or the usual again.
    ///
    /// # Errors
    ///
    /// What the NIC refused.
    fn set_loopback(&mut self, on: bool) -> Result<(), DriverError>;

    /// Whether the NIC is ready for frames after [`set_loopback`](Self::set_loopback)`(true)`, which may take some seconds.
    ///
    /// # Errors
    ///
    /// A NIC that is gone.
    fn hears_itself(&self) -> Result<bool, DriverError>;

    /// Lets the NIC raise the interrupt of `queue` by itself: to see that interrupts arrive.
    fn raise_interrupt(&mut self, queue: u32);

    /// Bytes that a queue which splits has in the header slot of a frame without an IP header (ARP): 14 where the NIC splits such frames behind the
    /// Ethernet header, 0 where it does not split them.
    fn splits_without_ip(&self) -> usize;
}
