//! A small driver, which goes through the registers and memory as any driver does, and what it sees.

mod basics;
mod clock;
mod director;
mod hostile;
mod outside;
mod pipeline;
mod receive;
mod switch;
mod transmit;

use std::sync::{Arc, Mutex, PoisonError};

use crate::{Dma, E810, Interrupts, Personality, Ram};

/// Where the driver's memory begins for the device.
const BASE: u64 = 0x10_0000;
const ATQ: u64 = BASE;
const ARQ: u64 = BASE + 0x1000;
const BUFFER: u64 = BASE + 0x2000;
const EVENTS: u64 = BASE + 0x4000;
/// Rings, one 64 KiB each, and buffers, one 4 KiB each.
const RINGS: u64 = BASE + 0x10_0000;
const PACKETS: u64 = BASE + 0x40_0000;
const HEADERS: u64 = BASE + 0x80_0000;
const ENTRIES: u32 = 32;
/// Descriptors of a receive ring.
const DESCRIPTORS: u16 = 64;

#[derive(Default)]
struct Raised(Mutex<Vec<u16>>);

impl Interrupts for Raised {
    fn raise(&self, vector: u16) {
        let mut raised = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        raised.push(vector);
    }
}

/// The card, its memory, and what the driver keeps.
struct Driver {
    card: Arc<E810>,
    ram: Arc<Ram>,
    raised: Arc<Raised>,
    next: u32,
}

/// How a receive queue is set up.
#[derive(Clone, Copy)]
struct Setup {
    split: u64,
    kinds: u64,
    always: u64,
    header: u64,
    buffer: u64,
    rxdid: u32,
    strip_crc: u64,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            split: 1,
            kinds: 0xf,
            always: 0,
            header: 256,
            buffer: 2048,
            rxdid: 2,
            strip_crc: 1,
        }
    }
}

/// The answer to a command.
struct Answer {
    code: u16,
    params: [u8; 16],
    buffer: Vec<u8>,
}

impl Driver {
    /// A card that has been reset, with its admin queue up.
    fn new(personality: Personality) -> Self {
        let card = E810::new(personality);
        let ram = Arc::new(Ram::new(BASE, 16 << 20));
        let raised = Arc::new(Raised::default());
        card.set_memory(Arc::clone(&ram) as Arc<dyn Dma>);
        card.set_interrupts(Arc::clone(&raised) as Arc<dyn Interrupts>);
        card.config_write(4, &[6, 0]);
        let mut driver = Self {
            card,
            ram,
            raised,
            next: 0,
        };
        driver.admin();
        driver
    }

    fn admin(&mut self) {
        self.next = 0;
        for (queue, base) in [(0, ATQ), (0x80, ARQ)] {
            self.card.write32(0x8_0300 + queue, 0);
            self.card.write32(0x8_0400 + queue, 0);
            self.card.write32(0x8_0000 + queue, base as u32);
            self.card.write32(0x8_0100 + queue, 0);
            self.card.write32(0x8_0200 + queue, ENTRIES | 1 << 31);
        }
        for i in 0..u64::from(ENTRIES) {
            let mut descriptor = [0; 32];
            descriptor[..2].copy_from_slice(&0x1200_u16.to_le_bytes());
            descriptor[4..6].copy_from_slice(&512_u16.to_le_bytes());
            descriptor[28..32].copy_from_slice(&((EVENTS + i * 512) as u32).to_le_bytes());
            self.put(ARQ + i * 32, &descriptor);
        }
        self.card.write32(0x8_0480, ENTRIES - 1);
    }

    fn put(&self, at: u64, bytes: &[u8]) {
        self.ram.write(at, bytes).unwrap();
    }

    fn get(&self, at: u64, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.ram.read(at, &mut bytes).unwrap();
        bytes
    }

    /// Posts a command; with a buffer that is input, `input` is true. Returns where its descriptor is.
    fn post_command(&mut self, opcode: u16, params: [u8; 16], buffer: &[u8], input: bool) -> u64 {
        let mut descriptor = [0; 32];
        let mut flags = 0x2000_u16;
        if !buffer.is_empty() {
            flags |= 0x1000;
            flags |= if buffer.len() > 512 { 0x200 } else { 0 };
            flags |= if input { 0x400 } else { 0 };
        }
        descriptor[..2].copy_from_slice(&flags.to_le_bytes());
        descriptor[2..4].copy_from_slice(&opcode.to_le_bytes());
        descriptor[4..6].copy_from_slice(&(buffer.len() as u16).to_le_bytes());
        descriptor[16..32].copy_from_slice(&params);
        if !buffer.is_empty() {
            descriptor[24..28].fill(0);
            descriptor[28..32].copy_from_slice(&(BUFFER as u32).to_le_bytes());
            self.put(BUFFER, buffer);
        }
        let at = ATQ + u64::from(self.next) * 32;
        self.put(at, &descriptor);
        self.next = (self.next + 1) % ENTRIES;
        self.card.write32(0x8_0400, self.next);
        at
    }

    /// Sends a command that must come back.
    fn send(&mut self, opcode: u16, params: [u8; 16], buffer: &[u8], input: bool) -> Answer {
        let at = self.post_command(opcode, params, buffer, input);
        assert_eq!(self.card.read32(0x8_0300), self.next, "the head follows");
        let done = self.get(at, 32);
        assert_eq!(done[0] & 3, 3, "DD and CMP");
        let mut params = [0; 16];
        params.copy_from_slice(&done[16..]);
        Answer {
            code: u16::from_le_bytes([done[6], done[7]]),
            params,
            buffer: self.get(BUFFER, buffer.len()),
        }
    }

    /// Sends a command that must succeed.
    fn done(&mut self, opcode: u16, params: [u8; 16], buffer: &[u8]) -> Answer {
        let answer = self.send(opcode, params, buffer, true);
        assert_eq!(answer.code, 0, "{opcode:#06x}: {:?}", self.card.refusals());
        answer
    }

    /// Adds a VSI with `count` queues (a power of 2) from `first` on.
    fn add_vsi(&mut self, first: u16, count: u16) -> u16 {
        let mut context = [0_u8; 128];
        context[2] = 1;
        context[4] = 1 << 4;
        // Tags stay in packets.
        context[12] = 3 | 3 << 3;
        context[30..32].copy_from_slice(&first.to_le_bytes());
        context[32..34].copy_from_slice(&count.to_le_bytes());
        let class = (count.trailing_zeros() as u16) << 11;
        context[62..64].copy_from_slice(&class.to_le_bytes());
        let mut params = [0; 16];
        params[6] = 2;
        let answer = self.done(0x0210, params, &context);
        u16::from_le_bytes([answer.params[0], answer.params[1]]) & 0x3ff
    }

    /// A rule: frames to a MAC address go to a VSI.
    fn mac_rule(vsi: u16, mac: [u8; 6]) -> Vec<u8> {
        let mut rule = vec![0; 32];
        rule[0] = 1;
        rule[4] = 1;
        rule[6..8].copy_from_slice(&vsi.to_le_bytes());
        let action = u32::from(vsi) << 4 | 1 << 17;
        rule[8..12].copy_from_slice(&action.to_le_bytes());
        rule[14] = 16;
        rule[16..22].copy_from_slice(&mac);
        rule[22] = 2;
        rule[28] = 0x81;
        rule
    }

    fn add_mac(&mut self, vsi: u16, mac: [u8; 6]) {
        let mut params = [0; 16];
        params[0] = 1;
        self.done(0x02a0, params, &Self::mac_rule(vsi, mac));
    }

    /// Writes a queue's context and asks for it to start; whether it did.
    fn start(&self, queue: u32, setup: Setup) -> bool {
        let ring = RINGS + u64::from(queue) * 0x1_0000;
        let mut words = [0_u32; 8];
        let mut set = |lsb: usize, value: u64| {
            for bit in 0..64 {
                if value >> bit & 1 != 0 {
                    words[(lsb + bit) / 32] |= 1 << ((lsb + bit) % 32);
                }
            }
        };
        for (lsb, value) in [
            (32, ring >> 7),
            (89, u64::from(DESCRIPTORS)),
            (102, setup.buffer / 128),
            (109, setup.header / 64),
            (114, setup.split),
            (116, 1),
            (117, setup.strip_crc),
            (119, 1),
            (120, setup.kinds),
            (124, setup.always),
            (174, 9728),
            (201, 1),
        ] {
            set(lsb, value);
        }
        for (i, word) in words.iter().enumerate() {
            self.card
                .write32(0x28_0000 + i as u32 * 8192 + queue * 4, *word);
        }
        self.card
            .write32(0x48_0000 + queue * 4, setup.rxdid | 3 << 8);
        for i in 0..u64::from(DESCRIPTORS) {
            let mut descriptor = [0; 32];
            let at = (u64::from(queue) * u64::from(DESCRIPTORS) + i) * 4096;
            descriptor[..8].copy_from_slice(&(PACKETS + at).to_le_bytes());
            descriptor[8..16].copy_from_slice(&(HEADERS + at).to_le_bytes());
            self.put(ring + i * 32, &descriptor);
        }
        self.card.write32(0x12_0000 + queue * 4, 1);
        self.card
            .write32(0x29_0000 + queue * 4, u32::from(DESCRIPTORS) - 8);
        self.card.read32(0x12_0000 + queue * 4) & 4 != 0
    }

    fn descriptor(&self, queue: u64, index: u64) -> Vec<u8> {
        self.get(RINGS + queue * 0x1_0000 + index * 32, 32)
    }

    fn packet(&self, queue: u64, index: u64, len: usize) -> Vec<u8> {
        self.get(
            PACKETS + (queue * u64::from(DESCRIPTORS) + index) * 4096,
            len,
        )
    }

    fn header(&self, queue: u64, index: u64, len: usize) -> Vec<u8> {
        self.get(
            HEADERS + (queue * u64::from(DESCRIPTORS) + index) * 4096,
            len,
        )
    }

    fn interrupts(&self) -> Vec<u16> {
        let mut raised = self.raised.0.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut raised)
    }
}

/// A UDP datagram over IPv4 with right sums.
fn udp(to: [u8; 6], ports: (u16, u16), payload: &[u8]) -> Vec<u8> {
    let mut frame = to.to_vec();
    frame.extend([2, 0, 0, 0, 0, 9, 8, 0]);
    let len = 28 + payload.len() as u16;
    frame.extend([0x45, 0]);
    frame.extend(len.to_be_bytes());
    frame.extend([0, 0, 0, 0, 64, 17, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2]);
    let sum = !crate::checksum::sum(&[&frame[14..34]]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame.extend(ports.0.to_be_bytes());
    frame.extend(ports.1.to_be_bytes());
    frame.extend((len - 20).to_be_bytes());
    frame.extend([0, 0]);
    frame.extend(payload);
    let mut pseudo = frame[26..34].to_vec();
    pseudo.extend([0, 17]);
    pseudo.extend((len - 20).to_be_bytes());
    let sum = !crate::checksum::sum(&[&pseudo, &frame[34..]]);
    frame[40..42].copy_from_slice(&sum.to_be_bytes());
    frame
}
