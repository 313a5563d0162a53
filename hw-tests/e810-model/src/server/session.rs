//! One client: what each command does to the card.

use std::io;
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use super::channel::{Channel, DESCRIPTORS, Message};
use super::interrupts::Vectors;
use super::memory::GuestMemory;
use crate::{BAR0_LEN, BAR3_LEN, CONFIG_SPACE, E810};

/// Commands, by their numbers.
mod command {
    pub const VERSION: u16 = 1;
    pub const DMA_MAP: u16 = 2;
    pub const DMA_UNMAP: u16 = 3;
    pub const DEVICE_GET_INFO: u16 = 4;
    pub const DEVICE_GET_REGION_INFO: u16 = 5;
    pub const DEVICE_GET_IRQ_INFO: u16 = 7;
    pub const DEVICE_SET_IRQS: u16 = 8;
    pub const REGION_READ: u16 = 9;
    pub const REGION_WRITE: u16 = 10;
    pub const DEVICE_RESET: u16 = 13;
}

/// Numbers of errors, errno(3).
const EINVAL: i32 = 22;
const ENOTSUP: i32 = 95;

/// Regions and interrupts of a PCI device, `vfio_pci` in vfio.h.
const REGIONS: u32 = 9;
const REGION_BAR0: u32 = 0;
const REGION_BAR3: u32 = 3;
const REGION_CONFIG: u32 = 7;
const IRQS: u32 = 5;
const IRQ_MSIX: u32 = 2;

/// The most data of one region access.
const TRANSFER: usize = 1 << 20;

type Answer = Result<Vec<u8>, i32>;

/// A client being served.
#[derive(Debug)]
pub(super) struct Session<'a> {
    card: &'a Arc<E810>,
    memory: &'a Arc<GuestMemory>,
    vectors: &'a Arc<Vectors>,
    channel: Channel,
}

impl<'a> Session<'a> {
    pub(super) fn new(
        card: &'a Arc<E810>,
        memory: &'a Arc<GuestMemory>,
        vectors: &'a Arc<Vectors>,
        stream: UnixStream,
    ) -> Self {
        Self {
            card,
            memory,
            vectors,
            channel: Channel::new(stream),
        }
    }

    pub(super) fn run(&mut self) -> io::Result<()> {
        while let Some(mut message) = self.channel.receive()? {
            let answer = self.obey(&mut message);
            if let Err(error) = answer {
                tracing::debug!("command {} is refused: errno {error}", message.command);
            }
            self.channel.answer(&message, answer)?;
        }
        Ok(())
    }

    fn obey(&self, message: &mut Message) -> Answer {
        match message.command {
            command::VERSION => Ok(version()),
            command::DMA_MAP => self.map(message),
            command::DMA_UNMAP => {
                let (flags, address, size) = (message.u32(4), message.u64(8), message.u64(16));
                // Flag 2: everything.
                if flags & 2 == 0 {
                    self.memory.unmap(address, size);
                } else {
                    self.memory.clear();
                }
                Ok(words(&[24, flags], &[address, size]))
            }
            // A PCI device (2) that can be reset (1).
            command::DEVICE_GET_INFO => Ok(words(&[16, 2 | 1, REGIONS, IRQS], &[])),
            command::DEVICE_GET_REGION_INFO => region_info(message.u32(8)),
            command::DEVICE_GET_IRQ_INFO => self.irq_info(message.u32(8)),
            command::DEVICE_SET_IRQS => self.set_irqs(message),
            command::REGION_READ => self.read(message),
            command::REGION_WRITE => self.write(message),
            command::DEVICE_RESET => {
                self.card.reset();
                Ok(Vec::new())
            }
            _ => Err(ENOTSUP),
        }
    }

    fn map(&self, message: &mut Message) -> Answer {
        if message.files.len() > 1 {
            return Err(EINVAL);
        }
        let file = message.files.pop();
        let (flags, offset) = (message.u32(4), message.u64(8));
        let (address, size) = (message.u64(16), message.u64(24));
        match self.memory.map(address, size, file, offset, flags) {
            Ok(()) => Ok(Vec::new()),
            Err(error) => Err(error.raw_os_error().unwrap_or(EINVAL)),
        }
    }

    fn vectors_of_card(&self) -> u32 {
        // The MSI-X capability's table size, less one, where the model has it: found as software finds it.
        let mut byte = [0];
        let mut at = 0x34;
        for _ in 0..48 {
            self.card.config_read(at, &mut byte);
            at = usize::from(byte[0]);
            let mut head = [0; 4];
            self.card.config_read(at, &mut head);
            if at != 0 && head[0] == 0x11 {
                return u32::from(u16::from_le_bytes([head[2], head[3]]) & 0x7ff) + 1;
            }
            at += 1;
        }
        0
    }

    fn irq_info(&self, index: u32) -> Answer {
        if index >= IRQS {
            return Err(EINVAL);
        }
        // MSI-X alone, by eventfd (1), each vector by itself.
        let (flags, count) = match index {
            IRQ_MSIX => (1, self.vectors_of_card()),
            _ => (0, 0),
        };
        Ok(words(&[16, flags, index, count], &[]))
    }

    fn set_irqs(&self, message: &mut Message) -> Answer {
        const DATA_NONE: u32 = 1;
        const DATA_EVENTFD: u32 = 1 << 2;
        const TRIGGER: u32 = 1 << 5;
        let (flags, index) = (message.u32(4), message.u32(8));
        let (first, count) = (message.u32(12) as usize, message.u32(16) as usize);
        if index != IRQ_MSIX {
            // Nothing to connect: there is no such interrupt.
            return if count == 0 {
                Ok(Vec::new())
            } else {
                Err(EINVAL)
            };
        }
        if first
            .checked_add(count)
            .is_none_or(|end| end > self.vectors_of_card() as usize)
        {
            return Err(EINVAL);
        }
        let files = std::mem::take(&mut message.files);
        match flags {
            flags if flags == DATA_NONE | TRIGGER && count == 0 => self.vectors.clear(),
            flags if flags == DATA_EVENTFD | TRIGGER && files.is_empty() => {
                self.vectors.connect(first, (0..count).map(|_| None));
            }
            flags if flags == DATA_EVENTFD | TRIGGER && files.len() == count => {
                self.vectors.connect(first, files.into_iter().map(Some));
            }
            _ => return Err(EINVAL),
        }
        Ok(Vec::new())
    }

    fn read(&self, message: &Message) -> Answer {
        let (offset, region, count) = access(message)?;
        let mut data = vec![0; count];
        match region {
            REGION_CONFIG => self.card.config_read(offset, &mut data),
            REGION_BAR0 => {
                // Registers are 32 bits wide; wider and narrower accesses are made of those.
                let mut have = None;
                for (index, byte) in data.iter_mut().enumerate() {
                    let at = offset + index;
                    let word = match have {
                        Some((base, word)) if base == at & !3 => word,
                        _ => self.card.read32((at & !3) as u32),
                    };
                    have = Some((at & !3, word));
                    *byte = word.to_le_bytes()[at & 3];
                }
            }
            // The client keeps the MSI-X table and its pending bits itself.
            _ => {}
        }
        let mut body = message.body[..16].to_vec();
        body.extend(data);
        Ok(body)
    }

    fn write(&self, message: &Message) -> Answer {
        let (offset, region, count) = access(message)?;
        let data = message.body.get(16..16 + count).ok_or(EINVAL)?;
        match region {
            REGION_CONFIG => self.card.config_write(offset, data),
            REGION_BAR0 => {
                let (parts, rest) = data.as_chunks::<4>();
                if !offset.is_multiple_of(4) || !rest.is_empty() {
                    tracing::warn!("a write of {count} bytes at {offset:#x} of BAR 0 is dropped");
                    return Ok(message.body[..16].to_vec());
                }
                for (index, part) in parts.iter().enumerate() {
                    let at = (offset + 4 * index) as u32;
                    self.card.write32(at, u32::from_le_bytes(*part));
                }
            }
            _ => {}
        }
        Ok(message.body[..16].to_vec())
    }
}

/// Offset, region and count of a region access, each within bounds.
fn access(message: &Message) -> Result<(usize, u32, usize), i32> {
    if message.body.len() < 16 {
        return Err(EINVAL);
    }
    let (offset, region, count) = (message.u64(0), message.u32(8), message.u32(12));
    let end = offset.checked_add(u64::from(count)).ok_or(EINVAL)?;
    if end > size(region).ok_or(EINVAL)? || count as usize > TRANSFER {
        return Err(EINVAL);
    }
    Ok((offset as usize, region, count as usize))
}

/// The size of a region; `None` for one that no PCI device has.
fn size(region: u32) -> Option<u64> {
    match region {
        REGION_BAR0 => Some(BAR0_LEN),
        REGION_BAR3 => Some(BAR3_LEN),
        REGION_CONFIG => Some(CONFIG_SPACE as u64),
        _ if region < REGIONS => Some(0),
        _ => None,
    }
}

fn region_info(region: u32) -> Answer {
    let size = size(region).ok_or(EINVAL)?;
    // Readable (1) and writable (2), through messages only.
    let flags = if size == 0 { 0 } else { 1 | 2 };
    Ok(words(&[32, flags, region, 0], &[size, 0]))
}

fn version() -> Vec<u8> {
    let mut body = vec![0; 4];
    let text = format!(
        r#"{{"capabilities":{{"max_msg_fds":{DESCRIPTORS},"max_data_xfer_size":{TRANSFER}}}}}"#
    );
    body.extend(text.as_bytes());
    body.push(0);
    body
}

fn words(first: &[u32], then: &[u64]) -> Vec<u8> {
    let first = first.iter().flat_map(|word| word.to_le_bytes());
    first
        .chain(then.iter().flat_map(|word| word.to_le_bytes()))
        .collect()
}
