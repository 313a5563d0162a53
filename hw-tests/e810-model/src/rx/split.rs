//! Where a packet parts into header and payload.

use super::context::{Context, Split};
use crate::fault::Fault;
use crate::frame::{Frame, Layer4};

/// Bytes of an Ethernet header without tags.
const ETHERNET: usize = 14;

/// How a packet's first descriptor is filled.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Part {
    /// Bytes that go to the header buffer.
    pub(crate) header: usize,
    /// What the descriptor says of the header's length.
    pub(crate) told: usize,
    /// The packet was split (SPH).
    pub(crate) split: bool,
    /// The header did not fit its buffer (HBO).
    pub(crate) overflow: bool,
}

/// Where the header of the highest kind that is asked for ends.
fn end_of_headers(frame: &Frame<'_>, kinds: u8) -> Option<usize> {
    let l4 = frame.l4.and_then(|(layer, _, end)| match layer {
        Layer4::Udp | Layer4::Tcp => (kinds & 4 != 0).then_some(end),
        Layer4::Sctp => (kinds & 8 != 0).then_some(end),
        _ => None,
    });
    let ip = frame.ip.filter(|_| kinds & 2 != 0).map(|ip| ip.end);
    let l2 = (kinds & 1 != 0).then_some(frame.l2_end);
    l4.or(ip).or(l2)
}

/// Parts a packet. Without a parser no header is found.
pub(crate) fn part(context: &Context, frame: &Frame<'_>, parsed: bool, fault: Fault) -> Part {
    let end = match context.split {
        Split::None => None,
        Split::Headers(kinds) => end_of_headers(frame, kinds).filter(|_| parsed),
        Split::AlwaysL2 => Some(frame.l2_end).filter(|_| parsed),
        Split::Always => {
            let header = context.header.min(frame.bytes.len());
            return Part {
                header,
                told: header,
                split: true,
                overflow: false,
            };
        }
    };
    let Some(end) = end else {
        return Part::default();
    };
    match fault {
        Fault::NoSph => return Part::default(),
        // All is in the packet buffer, and the header's true length is told. Whether silicon sets SPH then is not known; here it is clear.
        Fault::Hbo => {
            return Part {
                told: end,
                overflow: true,
                ..Part::default()
            };
        }
        _ if end > context.header => {
            return Part {
                told: end.min(0x7ff),
                overflow: true,
                ..Part::default()
            };
        }
        _ => {}
    }
    // Not of a bare Ethernet header (ARP): Linux's eth_type_trans stops the machine when it gets less than that, and the check that shall fail is about IP.
    let short = end - usize::from(end > ETHERNET);
    let header = if fault == Fault::SplitOffByOne {
        short
    } else {
        end
    };
    Part {
        header,
        told: if fault == Fault::WrongHeaderLength {
            short
        } else {
            header
        },
        split: true,
        overflow: false,
    }
}
