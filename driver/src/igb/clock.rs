//! The NIC's clock (SYSTIM), and the stamps it makes of packets.
//!
//! What is known, and from where (none of it was seen on silicon):
//!
//! * 16 bytes stand in front of a packet in the first of its buffers: 8 that are reserved, then SYSTIML and SYSTIMH, little-endian (I210 datasheet 7.1.6). TSIP in the last
//!   descriptor says that they are there. That the reserved ones are zero is what Linux relies on (`igb_ptp_rx_pktstamp`).
//! * The length of the buffer that they are in counts them: PKT_LEN (Linux), or HDR_LEN where a header was split off (I210 datasheet 7.1.4.2 and table 7-16). The header buffer must be
//!   larger than 128 bytes then (7.1.6).
//! * On the I350, where the header buffer is always used (DESCTYPE 101), they stand in front of the header, and HDR_LEN counts them: so Linux's driver took them up to 3.6, when it
//!   still used that. What an I350 does with DESCTYPE 010 no source says that was at hand; [it is refused](super::Part::timestamps).
//! * SYSTIM counts nanoseconds: in 40 bits on the I350 (Linux, `igb_ptp.c`); in seconds and nanoseconds on the I210 (7.8.3.2). Reading SYSTIMR latches the rest.
//! * The 82576 has one latch for one packet of PTP's (RXSTMPL/H), which says nothing of a stream. Of the I211 there was no document.

use super::regs::{
    RXPBSIZE, RXPBSIZE_STAMPS, SYSTIMH, SYSTIML, SYSTIMR, TSAUXC, TSYNCRXCTL, tsyncrxctl,
};
use super::shared::Shared;
use crate::clock::Clock;
use crate::device::Device;
use crate::ring::FRONT;

/// Nanoseconds of a second.
const SECOND: u64 = 1_000_000_000;

/// How a part's clock counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum SystemTime {
    /// Nanoseconds, in 40 bits.
    Nanoseconds,
    /// Seconds in the high, nanoseconds in the low half. Its FIFO must be told to keep stamps (RXPBSIZE).
    Seconds,
}

impl SystemTime {
    /// A clock for it, which does not run yet.
    pub(super) fn clock(self) -> Clock {
        match self {
            Self::Nanoseconds => Clock::new(40, 40),
            Self::Seconds => Clock::new(64, 64),
        }
    }

    /// Nanoseconds, of the halves.
    pub(super) const fn nanoseconds(self, low: u32, high: u32) -> u64 {
        match self {
            Self::Nanoseconds => low as u64 | (high as u64 & 0xff) << 32,
            // Fits, whatever they are.
            Self::Seconds => high as u64 * SECOND + low as u64,
        }
    }

    /// The stamp in front of a packet; `None` if that is none.
    pub(super) fn stamp(self, front: [u8; FRONT as usize]) -> Option<u64> {
        let words = u128::from_le_bytes(front);
        let reserved = words as u64;
        let (low, high) = ((words >> 64) as u32, (words >> 96) as u32);
        (reserved == 0).then(|| self.nanoseconds(low, high))
    }
}

/// Starts the NIC's clock, if it does not run: all packets are stamped, for queues that want it. Under the control lock. It runs until the NIC is reset: what
/// a closed queue still holds is stamped.
pub(super) fn start<D: Device>(shared: &Shared<D>) {
    let Some((clock, time)) = shared.clock.as_ref().zip(shared.part.time.ok()) else {
        return;
    };
    if !clock.is_running() {
        if time == SystemTime::Seconds {
            // Linux sets it while packets arrive, too.
            shared.write(RXPBSIZE, shared.read(RXPBSIZE) | RXPBSIZE_STAMPS);
        }
        // The clock itself is off after a reset; none of its outputs is wanted.
        shared.write(TSAUXC, 0);
        shared.write(TSYNCRXCTL, tsyncrxctl::ENABLE | tsyncrxctl::ALL);
        clock.start();
    }
    relate(shared);
}

/// Relates the NIC's clock to the system's, if it runs.
pub(super) fn relate<D: Device>(shared: &Shared<D>) {
    let Some((clock, time)) = shared.clock.as_ref().zip(shared.part.time.ok()) else {
        return;
    };
    if clock.is_running() {
        clock.relate(shared.device.address(), || {
            shared.read(SYSTIMR);
            let (low, high) = (shared.read(SYSTIML), shared.read(SYSTIMH));
            // All ones is no answer.
            (low != u32::MAX || high != u32::MAX).then(|| time.nanoseconds(low, high))
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_lie_where_the_datasheet_has_them() {
        let front = [
            0, 0, 0, 0, 0, 0, 0, 0, 0x15, 0xcd, 0x5b, 0x07, 2, 0xff, 0, 0,
        ];
        assert_eq!(
            SystemTime::Nanoseconds.stamp(front),
            Some(2 << 32 | 123_456_789)
        );
        assert_eq!(
            SystemTime::Seconds.stamp(front),
            Some(0xff02 * SECOND + 123_456_789)
        );
        assert!(SystemTime::Seconds.stamp([0xff; 16]).is_none());
        let mut most = [0xff; 16];
        most[..8].fill(0);
        assert_eq!(
            SystemTime::Seconds.stamp(most),
            Some(u64::from(u32::MAX) * (SECOND + 1))
        );
        for reserved in 0..8 {
            let mut front = front;
            front[reserved] = 1;
            assert_eq!(SystemTime::Seconds.stamp(front), None);
        }
    }
}
