//! The receive queue: what the firmware says by itself.

use std::sync::Arc;

use super::{BUFFER, Descriptor, SIZE, address, flag};
use crate::DriverError;
use crate::device::{DmaBuffer, Mapper, Registers};
use crate::ice::regs::{ADMIN_RECEIVE, control};

/// Descriptors, each with a buffer.
const ENTRIES: u32 = 32;

/// An event.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::ice) struct Event {
    pub opcode: u16,
    pub params: [u8; 16],
    /// What the firmware wrote into the buffer.
    pub data: Vec<u8>,
}

/// The receive queue.
#[derive(Debug)]
pub(in crate::ice) struct Events<R> {
    registers: Arc<R>,
    /// `None` once leaked.
    memory: Option<Memory>,
    next: u32,
    running: bool,
}

#[derive(Debug)]
struct Memory {
    ring: DmaBuffer,
    buffers: DmaBuffer,
}

impl<R: Registers> Events<R> {
    /// Makes its memory. The device knows of it with [`start`](Self::start).
    pub(in crate::ice) fn new(
        registers: Arc<R>,
        mapper: &Arc<dyn Mapper>,
    ) -> Result<Self, DriverError> {
        let memory = Memory {
            ring: DmaBuffer::new(Arc::clone(mapper), ENTRIES as usize * SIZE)?,
            buffers: DmaBuffer::new(Arc::clone(mapper), ENTRIES as usize * BUFFER)?,
        };
        Ok(Self {
            registers,
            memory: Some(memory),
            next: 0,
            running: false,
        })
    }

    /// Tells the device. After a reset only.
    pub(in crate::ice) fn start(&mut self) {
        let regs = ADMIN_RECEIVE;
        let write = |register, value| self.registers.write32(register, value);
        write(regs.length, 0);
        write(regs.head, 0);
        write(regs.tail, 0);
        let Some(memory) = &self.memory else {
            return;
        };
        for index in 0..ENTRIES {
            memory.post(index);
        }
        let ring = memory.ring.iova();
        write(regs.base_low, ring as u32);
        write(regs.base_high, (ring >> 32) as u32);
        write(regs.length, ENTRIES | control::ENABLE);
        write(regs.tail, ENTRIES - 1);
        self.next = 0;
        self.running = true;
    }

    /// Nothing more is taken.
    pub(in crate::ice) fn stop(&mut self) {
        self.running = false;
        self.registers.write32(ADMIN_RECEIVE.length, 0);
    }

    /// The device may still write there.
    pub(in crate::ice) fn leak(&mut self) {
        if let Some(Memory { ring, buffers }) = self.memory.take() {
            ring.leak();
            buffers.leak();
        }
    }

    /// The next event, if there is one.
    pub(in crate::ice) fn next(&mut self) -> Option<Event> {
        let memory = self.memory.as_ref().filter(|_| self.running)?;
        let head = self.registers.read32(ADMIN_RECEIVE.head);
        // All ones, and what is no index: the device is gone or being reset.
        if head & !control::INDEX != 0 || head >= ENTRIES || head == self.next {
            return None;
        }
        let index = self.next;
        let at = index as usize * SIZE;
        let descriptor = Descriptor([0, 8, 16, 24].map(|offset| memory.ring.acquire(at + offset)));
        if descriptor.flags() & flag::DONE == 0 {
            return None;
        }
        let len = usize::from(descriptor.len()).min(BUFFER);
        let mut data = vec![0; len];
        if !memory
            .buffers
            .memory()
            .copy_out(index as usize * BUFFER, &mut data)
        {
            data.clear();
        }
        let event = Event {
            opcode: descriptor.opcode(),
            params: descriptor.params(),
            data,
        };
        memory.post(index);
        self.registers.write32(ADMIN_RECEIVE.tail, index);
        self.next = (index + 1) % ENTRIES;
        Some(event)
    }
}

impl Memory {
    /// Gives descriptor `index` to the device.
    fn post(&self, index: u32) {
        let mut params = [0; 16];
        params[8..].copy_from_slice(&address(
            self.buffers.iova() + u64::from(index) * BUFFER as u64,
        ));
        let flags = flag::BUFFER | flag::LARGE;
        // 4 KiB.
        let descriptor = Descriptor::new(flags, 0, BUFFER as u16, params);
        for (word, value) in descriptor.0.into_iter().enumerate() {
            self.ring.store(index as usize * SIZE + word * 8, value);
        }
    }
}

/// What an answer or event says of the link (`struct ice_aqc_get_link_status_data`).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(in crate::ice) struct LinkInfo {
    pub up: bool,
    /// A cable or module is there.
    pub media: bool,
    /// Megabits a second.
    pub speed: Option<u32>,
    /// What is sent comes back.
    pub loopback: bool,
    /// Why the firmware thinks that it cannot be up.
    pub trouble: Option<&'static str>,
}

impl LinkInfo {
    /// Cuts the bytes into fields; `None` where there are too few.
    pub(in crate::ice) fn parse(data: &[u8]) -> Option<Self> {
        let &[
            conflict,
            config_error,
            info,
            _,
            _,
            loops,
            _,
            _,
            _,
            _,
            speed_low,
            speed_high,
            ..,
        ] = data
        else {
            return None;
        };
        let up = info & 1 != 0;
        let speed = match u16::from_le_bytes([speed_low, speed_high]) & 0xfff {
            0x001 => 10,
            0x002 => 100,
            0x004 => 1000,
            0x008 => 2500,
            0x010 => 5000,
            0x020 => 10_000,
            0x040 => 20_000,
            0x080 => 25_000,
            0x100 => 40_000,
            0x200 => 50_000,
            0x400 => 100_000,
            0x800 => 200_000,
            _ => 0,
        };
        let trouble = if conflict & 0b111 != 0 {
            Some("the firmware finds the port's topology or media in conflict")
        } else if conflict & 1 << 7 != 0 {
            Some("the module in the cage is not supported")
        } else if config_error & 1 << 5 != 0 {
            Some("the module in the cage needs more power than the cage gives")
        } else if config_error & 1 << 6 != 0 {
            Some("the PHY's firmware was not loaded")
        } else if config_error != 0 {
            Some("the firmware finds the link's configuration invalid")
        } else {
            None
        };
        Some(Self {
            up,
            media: info & 1 << 6 != 0,
            // In the MAC (`ICE_AQ_LINK_LB_MAC_LCL`).
            loopback: loops & 1 << 2 != 0,
            speed: (up && speed > 0).then_some(speed),
            trouble,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_told_from_their_bytes() {
        let mut data = [0; 32];
        assert_eq!(LinkInfo::parse(&data), Some(LinkInfo::default()));
        data[2] = 1 | 1 << 6;
        data[11] = 4;
        let link = LinkInfo::parse(&data).unwrap();
        assert_eq!((link.up, link.media), (true, true));
        assert_eq!((link.speed, link.trouble), (Some(100_000), None));
        data[0] = 1 << 7;
        assert!(LinkInfo::parse(&data).unwrap().trouble.is_some());
        assert_eq!(LinkInfo::parse(&data[..11]), None);
    }
}
