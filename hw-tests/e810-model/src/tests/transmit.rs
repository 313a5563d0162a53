//! Transmit: queues in the scheduler's tree, descriptors, where frames go.

use super::*;

const RING: u64 = BASE + 0xc0_0000;
const DATA: u64 = RING + 0x8000;

impl Driver {
    /// Nodes down to a queue group, and a queue below it: `struct ice_aqc_add_tx_qgrp`.
    pub(super) fn start_tx(&mut self, queue: u16, vsi: u16, ring: u64) -> u32 {
        let parent = self.queue_group();
        let answer = self.try_tx(parent, queue, vsi, ring, 64);
        assert_eq!(answer.code, 0, "{:?}", self.card.refusals());
        u32::from_le_bytes(answer.buffer[12..16].try_into().unwrap())
    }

    fn queue_group(&mut self) -> u32 {
        let topology = self.send(0x0400, [0; 16], &[0; 4096], false).buffer;
        let mut parent = u32::from_le_bytes(topology[8 + 24 + 4..8 + 24 + 8].try_into().unwrap());
        for _ in 2..8 {
            let mut buffer = vec![0; 32];
            buffer[..4].copy_from_slice(&parent.to_le_bytes());
            buffer[4] = 1;
            buffer[8..12].copy_from_slice(&parent.to_le_bytes());
            buffer[16] = 3;
            buffer[17] = 7;
            let mut params = [0; 16];
            params[0] = 1;
            let answer = self.done(0x0401, params, &buffer);
            parent = u32::from_le_bytes(answer.buffer[12..16].try_into().unwrap());
        }
        parent
    }

    fn try_tx(&mut self, parent: u32, queue: u16, vsi: u16, ring: u64, len: u64) -> Answer {
        let mut buffer = vec![0; 56];
        buffer[..4].copy_from_slice(&parent.to_le_bytes());
        buffer[4] = 1;
        buffer[8..10].copy_from_slice(&queue.to_le_bytes());
        for (lsb, value) in [
            (0, ring >> 7),
            (78, 2),
            (80, u64::from(vsi)),
            (135, len),
            (152, 1),
            (164, 1),
        ] {
            for bit in 0..57 {
                if value >> bit & 1 != 0 {
                    buffer[16 + (lsb + bit) / 8] |= 1 << ((lsb + bit) % 8);
                }
            }
        }
        buffer[8 + 33] = 7;
        let mut params = [0; 16];
        params[0] = 1;
        self.send(0x0c30, params, &buffer, true)
    }

    fn post(&self, index: u64, command: u64, frame: &[u8]) {
        self.put(DATA + index * 4096, frame);
        let mut descriptor = (DATA + index * 4096).to_le_bytes().to_vec();
        descriptor.extend(((frame.len() as u64) << 34 | command << 4).to_le_bytes());
        self.put(RING + index * 16, &descriptor);
    }
}

#[test]
fn a_frame_goes_to_the_wire_and_its_descriptor_comes_back() {
    let mut driver = Driver::new(Personality::default());
    let vsi = driver.add_vsi(0, 1);
    driver.start_tx(5, vsi, RING);
    driver.card.write32(0x14_0014, 2 | 1 << 30);
    driver.card.write32(0x16_0008, 1);
    let frame = udp([2; 6], (1, 2), &[3; 100]);
    driver.post(0, 0, &frame[..40]);
    driver.post(1, 3, &frame[40..]);
    driver.card.write32(0x2c_0014, 2);
    assert_eq!(driver.card.sent(), std::slice::from_ref(&frame));
    assert_eq!(driver.get(RING + 24, 8), [0xf, 0, 0, 0, 0, 0, 0, 0]);
    assert_eq!(driver.interrupts(), [2]);
    assert_eq!(driver.card.read32(0x38_11c0), 1);
    driver.card.set_link(false);
    driver.post(2, 3, &frame);
    driver.card.write32(0x2c_0014, 3);
    assert!(driver.card.sent().is_empty());
}

#[test]
fn queues_that_firmware_would_refuse() {
    let mut driver = Driver::new(Personality::default());
    let vsi = driver.add_vsi(0, 1);
    let parent = driver.queue_group();
    assert_eq!(driver.try_tx(parent, 5, vsi, RING, 65).code, 14, "length");
    assert_eq!(driver.try_tx(parent, 5, vsi + 1, RING, 64).code, 14, "VSI");
    assert_eq!(
        driver.try_tx(parent - 1, 5, vsi, RING, 64).code,
        14,
        "parent"
    );
    assert_eq!(driver.try_tx(parent, 5, vsi, 0, 64).code, 14, "base");
    assert_eq!(driver.try_tx(parent, 300, vsi, RING, 64).code, 14, "number");
    assert_eq!(driver.try_tx(parent, 5, vsi, RING, 64).code, 0);
    assert_eq!(driver.try_tx(parent, 5, vsi, RING, 64).code, 13, "again");
    assert_eq!(driver.card.refusals().len(), 6);
    // A VSI with queues is not freed.
    let mut params = [0; 16];
    params[..2].copy_from_slice(&(vsi | 1 << 15).to_le_bytes());
    assert_eq!(driver.send(0x0213, params, &[], false).code, 12);
    let mut buffer = parent.to_le_bytes().to_vec();
    buffer.extend([1, 0, 5, 0]);
    let mut disable = [0; 16];
    disable[1] = 1;
    driver.done(0x0c31, disable, &buffer);
    driver.done(0x0213, params, &[]);
}

#[test]
fn what_no_driver_may_send_stops_the_queue() {
    for command in [3 | 4, 3] {
        let mut driver = Driver::new(Personality::default());
        let vsi = driver.add_vsi(0, 1);
        driver.start_tx(5, vsi, RING);
        let frame: &[u8] = if command == 3 { &[0; 10] } else { &[0; 60] };
        driver.post(0, command, frame);
        driver.card.write32(0x2c_0014, 1);
        assert!(driver.card.sent().is_empty());
        assert_eq!(driver.card.read32(0xf_c068) & 0x7fff, 5);
        assert_eq!(driver.card.read32(0xf_c000), 1);
        assert_eq!(driver.card.refusals().len(), 1);
        driver.post(1, 3, &[0; 60]);
        driver.card.write32(0x2c_0014, 2);
        assert!(driver.card.sent().is_empty());
    }
}

#[test]
fn mac_loopback_brings_frames_back() {
    let mut driver = Driver::new(Personality {
        parses_without_package: true,
        ..Personality::default()
    });
    let vsi = driver.add_vsi(0, 1);
    driver.add_mac(vsi, [2; 6]);
    assert!(driver.start(0, Setup::default()));
    driver.start_tx(5, vsi, RING);
    let mut params = [0; 16];
    params[0] = 1;
    driver.done(0x0620, params, &[]);
    driver.card.set_link(false);
    let frame = udp([2; 6], (1, 2), &[3; 100]);
    driver.post(0, 3, &frame);
    driver.card.write32(0x2c_0014, 1);
    assert!(driver.card.sent().is_empty());
    assert_eq!(driver.header(0, 0, 42), frame[..42]);
}
