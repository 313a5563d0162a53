//! The send queue.

use std::sync::Arc;
use std::time::Duration;

use super::command::{AdminError, Answer, Command, Why, code};
use super::{BUFFER, Descriptor, SIZE, address, flag};
use crate::DriverError;
use crate::device::{DmaBuffer, Mapper, Registers};
use crate::ice::regs::{ADMIN_SEND, control};
use crate::ring::{pause, wait};

/// Descriptors. One is in use at a time.
const ENTRIES: u32 = 32;
/// How long an answer may take. Both drivers wait a second.
const PATIENCE: Duration = Duration::from_secs(1);
/// How often a command is repeated that the firmware is too busy for, and how long it is left alone before.
const RETRIES: (u32, Duration) = (5, Duration::from_millis(10));

/// The send queue. Whoever has the control lock has it.
#[derive(Debug)]
pub(in crate::ice) struct Admin<R> {
    registers: Arc<R>,
    /// `None` once leaked.
    memory: Option<Memory>,
    tail: u32,
    alive: bool,
}

#[derive(Debug)]
struct Memory {
    ring: DmaBuffer,
    buffer: DmaBuffer,
}

impl<R: Registers> Admin<R> {
    /// Makes its memory. The device knows of it with [`start`](Self::start).
    pub(in crate::ice) fn new(
        registers: Arc<R>,
        mapper: &Arc<dyn Mapper>,
    ) -> Result<Self, DriverError> {
        let memory = Memory {
            ring: DmaBuffer::new(Arc::clone(mapper), ENTRIES as usize * SIZE)?,
            buffer: DmaBuffer::new(Arc::clone(mapper), BUFFER)?,
        };
        Ok(Self {
            registers,
            memory: Some(memory),
            tail: 0,
            alive: false,
        })
    }

    /// Tells the device. After a reset only: what was under way is forgotten.
    pub(in crate::ice) fn start(&mut self) -> Result<(), String> {
        let regs = ADMIN_SEND;
        let ring = self.memory.as_ref().map_or(0, |memory| memory.ring.iova());
        self.tail = 0;
        let write = |register, value| self.registers.write32(register, value);
        write(regs.length, 0);
        write(regs.head, 0);
        write(regs.tail, 0);
        // 64 bits; the first takes the low half.
        write(regs.base_low, ring as u32);
        write(regs.base_high, (ring >> 32) as u32);
        write(regs.length, ENTRIES | control::ENABLE);
        let back = self.registers.read32(regs.base_low);
        if back != ring as u32 {
            return Err(format!(
                "its admin queue does not take an address: {:#010x} was written and {back:#010x} is read",
                ring as u32
            ));
        }
        self.alive = true;
        Ok(())
    }

    /// No more is asked.
    pub(in crate::ice) fn stop(&mut self) {
        self.alive = false;
        self.registers.write32(ADMIN_SEND.length, 0);
    }

    /// Whether it answers, as far as is known.
    pub(in crate::ice) const fn alive(&self) -> bool {
        self.alive
    }

    /// The device may still write there.
    pub(in crate::ice) fn leak(&mut self) {
        if let Some(Memory { ring, buffer }) = self.memory.take() {
            ring.leak();
            buffer.leak();
        }
    }

    /// Asks, and waits for the answer. `buffer` is what the firmware reads, if the command says so, and is filled with what it wrote.
    pub(in crate::ice) fn run(
        &mut self,
        command: Command,
        buffer: &mut [u8],
    ) -> Result<Answer, AdminError> {
        let (mut left, delay) = RETRIES;
        loop {
            match self.once(command, buffer) {
                Err(error) if error.is(code::EBUSY) && left > 0 => {
                    left -= 1;
                    pause(delay);
                }
                done => return done,
            }
        }
    }

    /// A command without a buffer.
    pub(in crate::ice) fn plain(&mut self, command: Command) -> Result<Answer, AdminError> {
        self.run(command, &mut [])
    }

    fn once(&mut self, command: Command, buffer: &mut [u8]) -> Result<Answer, AdminError> {
        let opcode = command.opcode;
        let fail = |why| AdminError { opcode, why };
        let Some(memory) = self.memory.as_ref().filter(|_| self.alive) else {
            return Err(fail(Why::Dead));
        };
        let mut params = command.params;
        let mut flags = flag::SILENT;
        if !buffer.is_empty() {
            params[8..].copy_from_slice(&address(memory.buffer.iova()));
            flags |= flag::BUFFER;
            if buffer.len() > 512 {
                flags |= flag::LARGE;
            }
            if command.reads {
                flags |= flag::READ;
            }
            if buffer.len() > BUFFER || !memory.buffer.memory().copy_in(0, buffer) {
                return Err(fail(Why::Garbled("its buffer is too long".to_owned())));
            }
        }
        let at = self.tail as usize * SIZE;
        // The buffer's length has been checked.
        let sent = Descriptor::new(flags, opcode, buffer.len() as u16, params);
        for (index, word) in sent.0.into_iter().enumerate() {
            memory.ring.store(at + index * 8, word);
        }
        self.tail = (self.tail + 1) % ENTRIES;
        let tail = self.tail;
        self.registers.write32(ADMIN_SEND.tail, tail);
        let done = wait(PATIENCE, || {
            self.registers.read32(ADMIN_SEND.head) & control::INDEX == tail
        });
        let length = self.registers.read32(ADMIN_SEND.length);
        if !done || length == u32::MAX || length & control::CRITICAL != 0 {
            self.alive = false;
            return Err(fail(Why::Silent));
        }
        let answer = Descriptor([0, 8, 16, 24].map(|offset| memory.ring.acquire(at + offset)));
        if answer.flags() & flag::DONE == 0 || answer.opcode() != opcode {
            self.alive = false;
            return Err(fail(Why::Garbled(format!(
                "it has flags {:#06x} and is for {:#06x}",
                answer.flags(),
                answer.opcode()
            ))));
        }
        if !buffer.is_empty() && !memory.buffer.memory().copy_out(0, buffer) {
            return Err(fail(Why::Garbled("its buffer is not there".to_owned())));
        }
        tracing::trace!(
            opcode = format_args!("{opcode:#06x}"),
            code = answer.code(),
            "admin command"
        );
        let code = answer.code() & 0xff;
        if code != 0 {
            return Err(fail(Why::Code(code)));
        }
        if answer.flags() & flag::ERROR != 0 || answer.flags() & flag::COMPLETE == 0 {
            return Err(fail(Why::Garbled(format!(
                "it has flags {:#06x} and no error code",
                answer.flags()
            ))));
        }
        let len = usize::from(answer.len());
        if len > buffer.len() {
            return Err(fail(Why::Garbled(format!(
                "it fills {len} bytes of {}",
                buffer.len()
            ))));
        }
        Ok(Answer {
            params: answer.params(),
            len,
        })
    }
}
