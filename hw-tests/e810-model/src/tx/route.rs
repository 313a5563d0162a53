//! Where a frame that a VSI sends goes: to the wire, back through the MAC, to other VSIs of the port.

use crate::bytes;
use crate::fault::Fault;
use crate::state::State;
use crate::switch::{Action, Direction, recipe};

impl State {
    /// A frame leaves a VSI.
    pub(super) fn route(&mut self, vsi: u16, mut frame: Vec<u8>) {
        if self.fault == Fault::TransmitLost {
            return;
        }
        if self.fault == Fault::TransmitGarbled
            && let Some(byte) = frame.last_mut()
        {
            *byte = !*byte;
        }
        if self.is_dropped(vsi, &frame) {
            self.count_not_sent(vsi);
            return;
        }
        self.count_vsi_sent(vsi, &frame);
        let others = self.neighbours(vsi, &frame);
        let unicast = frame.first().is_some_and(|first| first & 1 == 0);
        let stays = unicast && !others.is_empty();
        for other in others {
            self.loop_back(other, &frame);
        }
        if stays || !self.vsis.get(&vsi).is_some_and(|vsi| vsi.reaches_lan()) {
            return;
        }
        if self.port.loopback && self.fault != Fault::NoLoopback {
            self.take_in(&frame);
        } else if self.link_is_up() {
            self.count_port_sent(&frame);
            self.send(frame);
        }
    }

    /// A rule of the VSI drops frames with this EtherType.
    fn is_dropped(&self, vsi: u16, frame: &[u8]) -> bool {
        self.switch.rules.values().any(|rule| {
            rule.direction == Direction::Transmit
                && rule.recipe == recipe::ETHER_TYPE
                && rule.source == vsi
                && rule.action == Action::Drop
                && rule.header.get(12..14) == frame.get(12..14)
        })
    }

    /// VSIs of the port that have a rule for the frame's address, if the sender may reach them.
    fn neighbours(&self, vsi: u16, frame: &[u8]) -> Vec<u16> {
        if !self.vsis.get(&vsi).is_some_and(|vsi| vsi.loops_back()) {
            return Vec::new();
        }
        let to: [u8; 6] = bytes::get(frame, 0);
        self.switch
            .rules
            .values()
            .filter(|rule| rule.recipe == recipe::MAC && bytes::get(&rule.header, 0) == to)
            .filter_map(|rule| match rule.action {
                Action::ToVsi { vsi: other, .. } if other != vsi => Some(other),
                _ => None,
            })
            .collect()
    }
}
