//! The admin queue: commands from the driver (ATQ), events from the firmware (ARQ); and the mailbox queue, which nobody answers.
//!
//! Rings and their use: DPDK `ice_controlq.c`. Commands are carried out while the tail is written; real firmware takes microseconds to seconds.

mod caps;
mod command;
mod ddp;
mod generic;
mod nvm;
mod port;
mod recipes;
mod resources;
mod rss;
mod rules;
mod sched;
mod txq;
mod vsi;

pub(crate) use command::{Code, Command, Done, Refused, answer, refuse};
pub(crate) use generic::Locks;
pub(crate) use nvm::Flash;
pub(crate) use port::Port;
pub(crate) use resources::{FD_PROFILE, FD_TCAM, HASH_PROFILE, HASH_TCAM, Resources};

use std::collections::VecDeque;

use command::{BUFFER_LARGE, BUFFER_MAX, DESCRIPTOR, FLAG_BUFFER, FLAG_DONE, FLAG_LARGE};

use crate::bytes;
use crate::clock::{NEIGHBOUR, message};
use crate::fault::Fault;
use crate::regs::{self, QueueRegs};
use crate::state::State;

/// Events that wait for a free descriptor; more are lost.
const EVENTS: usize = 64;

/// Something the firmware tells the driver.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    pub(crate) opcode: u16,
    pub(crate) params: [u8; 16],
    pub(crate) buffer: Vec<u8>,
}

/// Events that were not delivered yet.
pub(crate) type Events = VecDeque<Event>;

/// What carries a command out.
type Handler = fn(&mut State, &mut Command) -> Done;

/// Who answers which opcode. What is not here gets ENOSYS.
fn handler(opcode: u16) -> Option<Handler> {
    Some(match opcode {
        0x0001 => generic::get_version,
        0x0002 => generic::driver_version,
        0x0003 => generic::shut_down,
        0x0008 => generic::request,
        0x0009 => generic::release,
        0x000a | 0x000b => caps::list,
        0x0107 => generic::read_mac,
        0x0108 => generic::write_mac,
        0x0110 => generic::clear_pxe,
        0x0200 => port::switch_config,
        0x0203 => port::set_params,
        0x0204 => resources::allocation,
        0x0208 => resources::allocate,
        0x0209 => resources::free,
        0x020a => resources::descriptors,
        0x020d => port::vlan_mode,
        0x0210 => vsi::add,
        0x0211 => vsi::update,
        0x0212 => vsi::get,
        0x0213 => vsi::free,
        0x0290 => recipes::add,
        0x0291 => recipes::set_profile,
        0x0292 => recipes::get,
        0x0293 => recipes::get_profile,
        0x02a0 => rules::add,
        0x02a1 => rules::update,
        0x02a2 => rules::remove,
        0x02a4 => generic::clear_configuration,
        0x0400 => sched::default_topology,
        0x0401 => sched::add,
        0x0403 => sched::configure,
        0x0404 => sched::query,
        0x0408 => sched::move_nodes,
        0x0409 | 0x040a => sched::suspend_or_resume,
        0x040e => sched::query_port_ets,
        0x040f => sched::delete,
        0x0410 => sched::add_rate_profiles,
        0x0412 => sched::query_resources,
        0x0413 => sched::node_to_root,
        0x0415 => sched::remove_rate_profiles,
        0x0600 => port::phy_caps,
        0x0601 => port::set_phy,
        0x0603 => port::set_mac_config,
        0x0605 => port::restart_link,
        0x0607 => port::link_status,
        0x0613 => port::event_mask,
        0x0620 => port::set_loopback,
        0x06e9 => port::identify,
        0x06ea => port::options,
        0x0701 => nvm::read,
        0x0b02 => rss::set_key,
        0x0b03 => rss::set_table,
        0x0b04 => rss::get_key,
        0x0b05 => rss::get_table,
        NEIGHBOUR => message,
        0x0c30 => txq::add,
        0x0c31 => txq::disable,
        0x0c40 => ddp::download,
        0x0c41 => ddp::upload,
        0x0c42 => ddp::update,
        0x0c43 => ddp::list,
        0xff20 => generic::want_health,
        _ => return None,
    })
}

/// Opcodes that a driver asks for and that this firmware does not have, with what it says; it is no mistake of the driver.
fn declined(opcode: u16) -> Option<Code> {
    Some(match opcode {
        // Link topology handles: no clock chip is on this board.
        0x06e0 | 0x06e1 => Code::NoEntry,
        // The LLDP agent of the firmware is off.
        0x0a00..=0x0a0b | 0x0302 | 0x0303 => Code::NotPermitted,
        _ => return None,
    })
}

impl State {
    /// The tail of the command queue was written.
    pub(crate) fn run_commands(&mut self) {
        let queue = regs::ATQ;
        let len = self.regs.get(queue.len);
        let entries = len & regs::QLEN_ENTRIES;
        let tail = self.regs.get(queue.tail);
        if len & regs::QLEN_ENABLE == 0 {
            // Drivers clear the tail before they enable the queue.
            if tail == 0 {
                return;
            }
            self.refuse(
                "ATQ: the tail was written while the queue is not enabled (PF_FW_ATQLEN bit 31)"
                    .to_owned(),
            );
            return;
        }
        if tail >= entries {
            self.refuse(format!(
                "ATQ: tail {tail} is beyond the {entries} descriptors"
            ));
            self.regs.set_bits(queue.len, regs::QLEN_OVERFLOW);
            return;
        }
        if self.fault == Fault::AdminQueueHangs {
            return;
        }
        let mut head = self.regs.get(queue.head);
        while head != tail && head < entries {
            if !self.one_command(queue, head) {
                self.regs.set_bits(queue.len, regs::QLEN_CRITICAL);
                return;
            }
            head = (head + 1) % entries;
            self.regs.set(queue.head, head);
            // A command may have reset the device.
            if self.regs.get(queue.len) & regs::QLEN_ENABLE == 0 {
                return;
            }
        }
        self.deliver_events();
    }

    fn ring_address(&self, queue: QueueRegs, index: u32) -> u64 {
        let base = u64::from(self.regs.get(queue.base_high)) << 32
            | u64::from(self.regs.get(queue.base_low));
        base.wrapping_add(u64::from(index) * DESCRIPTOR as u64)
    }

    /// False if the ring itself cannot be reached.
    fn one_command(&mut self, queue: QueueRegs, index: u32) -> bool {
        let at = self.ring_address(queue, index);
        let mut descriptor = [0; DESCRIPTOR];
        if let Err(error) = self.dma_read(at, &mut descriptor) {
            self.refuse(format!("ATQ: descriptor {index}: {error}"));
            return false;
        }
        let mut command = Command::new(&descriptor);
        *self.commands.entry(command.opcode).or_default() += 1;
        let done = self.carry_out(&mut command);
        let code = done.as_ref().err().map(|refused| refused.code);
        tracing::debug!(
            opcode = format_args!("{:#06x}", command.opcode),
            len = command.len,
            ?code,
            "admin command"
        );
        if let Err(refused) = &done
            && !refused.why.is_empty()
        {
            self.refuse(format!(
                "command {:#06x}: {:?}: {}",
                command.opcode, refused.code, refused.why
            ));
        }
        let back = command.answered.min(command.buffer.len());
        if back > 0
            && let Err(error) = self.dma_write(command.address(), &command.buffer[..back])
        {
            self.refuse(format!(
                "command {:#06x}: its buffer: {error}",
                command.opcode
            ));
        }
        // The parameters of a command with a buffer keep the address.
        if command.flags & FLAG_BUFFER != 0 {
            command.params[8..16].copy_from_slice(&descriptor[24..32]);
        }
        if let Err(error) = self.dma_write(at, &command.finished(&descriptor, code)) {
            self.refuse(format!("ATQ: descriptor {index}: {error}"));
            return false;
        }
        true
    }

    fn carry_out(&mut self, command: &mut Command) -> Done {
        match self.fault {
            Fault::FailCommand(opcode) if opcode == command.opcode => return answer(Code::Io),
            Fault::FailCommandWith(opcode, code) if opcode == command.opcode => {
                return answer(Code::of(code));
            }
            _ => {}
        }
        if command.len > BUFFER_MAX {
            command.answered = 0;
            return refuse(
                Code::Invalid,
                format!("a buffer of {} bytes; 4096 is the limit", command.len),
            );
        }
        if self.card.strict && command.len > BUFFER_LARGE && command.flags & FLAG_LARGE == 0 {
            command.answered = 0;
            return refuse(
                Code::Invalid,
                format!("a buffer of {} bytes without the LB flag", command.len),
            );
        }
        command.buffer = vec![0; command.len];
        if command.reads() && command.len > 0 {
            let mut buffer = std::mem::take(&mut command.buffer);
            let read = self.dma_read(command.address(), &mut buffer);
            command.buffer = buffer;
            if let Err(error) = read {
                command.answered = 0;
                return refuse(Code::BadAddress, format!("its buffer: {error}"));
            }
        }
        match handler(command.opcode) {
            Some(handler) => handler(self, command),
            None => match declined(command.opcode) {
                Some(code) => answer(code),
                None => answer(Code::NoSystem),
            },
        }
    }

    /// The firmware has something to tell.
    pub(crate) fn post_event(&mut self, event: Event) {
        if self.events.len() < EVENTS {
            self.events.push_back(event);
        }
        self.deliver_events();
    }

    /// Writes waiting events to the receive queue, as far as it has descriptors.
    pub(crate) fn deliver_events(&mut self) {
        let queue = regs::ARQ;
        let len = self.regs.get(queue.len);
        let entries = len & regs::QLEN_ENTRIES;
        if len & regs::QLEN_ENABLE == 0 || self.events.is_empty() {
            return;
        }
        let tail = self.regs.get(queue.tail);
        let mut told = false;
        while let Some(event) = self.events.front() {
            let head = self.regs.get(queue.head);
            if head == tail || head >= entries {
                break;
            }
            let event = event.clone();
            if let Err(why) = self.one_event(head, &event) {
                self.refuse(format!("ARQ: descriptor {head}: {why}"));
                self.regs.set_bits(queue.len, regs::QLEN_CRITICAL);
                break;
            }
            self.events.pop_front();
            self.regs.set(queue.head, (head + 1) % entries);
            told = true;
        }
        if told {
            self.cause(regs::PFINT_FW_CTL);
        }
    }

    fn one_event(&mut self, head: u32, event: &Event) -> Result<(), String> {
        let at = self.ring_address(regs::ARQ, head);
        let mut descriptor = [0; DESCRIPTOR];
        self.dma_read(at, &mut descriptor)
            .map_err(|error| error.to_string())?;
        let flags = bytes::u16_at(&descriptor, 0);
        let room = usize::from(bytes::u16_at(&descriptor, 4));
        if flags & FLAG_BUFFER == 0 || room < event.buffer.len() {
            return Err(format!(
                "flags {flags:#x} and {room} bytes; an event of {} bytes needs the BUF flag and room",
                event.buffer.len()
            ));
        }
        let address = u64::from(bytes::u32_at(&descriptor, 24)) << 32
            | u64::from(bytes::u32_at(&descriptor, 28));
        self.dma_write(address, &event.buffer)
            .map_err(|error| error.to_string())?;
        bytes::put16(&mut descriptor, 0, flags | FLAG_DONE);
        bytes::put16(&mut descriptor, 2, event.opcode);
        bytes::put16(&mut descriptor, 4, event.buffer.len() as u16);
        bytes::put16(&mut descriptor, 6, 0);
        bytes::put(&mut descriptor, 16, &event.params[..8]);
        self.dma_write(at, &descriptor)
            .map_err(|error| error.to_string())
    }

    /// The mailbox takes messages for virtual functions; there are none, so each is only taken.
    pub(crate) fn run_mailbox(&mut self) {
        let queue = regs::MBX_ATQ;
        let len = self.regs.get(queue.len);
        let tail = self.regs.get(queue.tail);
        if len & regs::QLEN_ENABLE != 0 && tail < len & regs::QLEN_ENTRIES {
            self.regs.set(queue.head, tail);
        }
    }
}
