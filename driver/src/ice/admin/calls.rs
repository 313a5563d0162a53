//! The commands this driver gives, each as a function: what goes in is packed here, what comes out is checked.

use super::command::{AdminError, Command, opcode};
use super::events::LinkInfo;
use super::{Admin, BUFFER};
use crate::device::Registers;
use crate::ice::clock::Timer;

/// The longest frame the MAC takes, bytes with FCS.
pub(in crate::ice) const LONGEST: u16 = 9728;

/// What the function has, as the firmware tells (`ICE_AQC_CAPS_*`).
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(in crate::ice) struct Capabilities {
    /// Receive queues.
    pub queues: u32,
    /// MSI-X vectors.
    pub vectors: u32,
    /// VSIs that are kept for the function.
    pub vsis: u32,
    /// Entries of the function's hash table; 0: it does not hash.
    pub hash_entries: u32,
    /// The largest frame, bytes; 0: not told.
    pub frame: u32,
    /// The timer of the clock that packets are stamped by, if there is one.
    pub timer: Option<Timer>,
}

/// The port's place in the switch.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(in crate::ice) struct Port {
    /// Its logical number.
    pub number: u16,
    /// The switch it belongs to.
    pub switch: u16,
}

/// A VSI of this function, as the firmware numbers it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::ice) struct VsiId(pub u16);

/// A rule of the switch: its recipe, and its place among that recipe's rules.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::ice) struct RuleId {
    pub recipe: u16,
    pub index: u16,
}

/// The low 16 bits at `at`.
pub(in crate::ice) fn half(bytes: &[u8], at: usize) -> u16 {
    let two = bytes.get(at..at + 2);
    two.map_or(0, |two| u16::from_le_bytes([two[0], two[1]]))
}

/// The 32 bits at `at`.
pub(in crate::ice) fn full(bytes: &[u8], at: usize) -> u32 {
    u32::from(half(bytes, at)) | u32::from(half(bytes, at + 2)) << 16
}

/// Puts `value` at `at`.
pub(in crate::ice) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

/// Numbers of capabilities.
mod capability {
    pub const VSI: u16 = 0x17;
    pub const RSS: u16 = 0x40;
    pub const RX_QUEUES: u16 = 0x41;
    pub const VECTORS: u16 = 0x43;
    pub const CLOCK: u16 = 0x46;
    pub const MAX_FRAME: u16 = 0x47;
}

/// The firmware's interface that this driver was written for. A greater major number may mean anything.
const INTERFACE: u8 = 1;

impl<R: Registers> Admin<R> {
    /// The firmware's version, in words, and its interface's minor and patch number; an error where that is not one this driver knows.
    pub(in crate::ice) fn version(&mut self) -> Result<(String, (u8, u8)), AdminError> {
        let answer = self.plain(Command::new(opcode::GET_VERSION, []))?;
        let [
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            _,
            major,
            minor,
            patch,
            _,
            api,
            api_minor,
            api_patch,
        ] = answer.params;
        if api > INTERFACE {
            return Err(AdminError::garbled(
                opcode::GET_VERSION,
                format!(
                    "the firmware's interface is {api}.{api_minor}, and this driver knows {INTERFACE}.x; a newer devrx may know it"
                ),
            ));
        }
        let text = format!("{major}.{minor}.{patch}, interface {api}.{api_minor}.{api_patch}");
        Ok((text, (api_minor, api_patch)))
    }

    /// Reports of the card's health are wanted: this function's, the ports', the card's.
    pub(in crate::ice) fn want_health(&mut self) -> Result<(), AdminError> {
        self.plain(Command::new(opcode::SET_HEALTH, [0b111]))
            .map(drop)
    }

    /// Tells the firmware that a driver is there.
    pub(in crate::ice) fn tell_driver(&mut self) -> Result<(), AdminError> {
        let mut name = *b"devrx\0\0\0";
        let command = Command::new(opcode::DRIVER_VERSION, [0, 1, 0, 0]).reading();
        self.run(command, &mut name).map(drop)
    }

    /// The driver goes.
    pub(in crate::ice) fn shut_down(&mut self) -> Result<(), AdminError> {
        self.plain(Command::new(opcode::SHUT_DOWN, [1])).map(drop)
    }

    /// Takes off what the function had: VSIs, rules.
    pub(in crate::ice) fn clear_function(&mut self) -> Result<(), AdminError> {
        self.plain(Command::new(opcode::CLEAR_FUNCTION, []))
            .map(drop)
    }

    /// Ends what the boot code left.
    pub(in crate::ice) fn clear_pxe(&mut self) -> Result<(), AdminError> {
        // Bit 1 of the first byte: received packets may be counted.
        self.plain(Command::new(opcode::CLEAR_PXE, [0x2])).map(drop)
    }

    /// What the function has.
    pub(in crate::ice) fn capabilities(&mut self) -> Result<Capabilities, AdminError> {
        let mut buffer = vec![0; BUFFER];
        let answer = self.run(Command::new(opcode::FUNCTION_CAPABILITIES, []), &mut buffer)?;
        let count = full(&answer.params, 4) as usize;
        if count > BUFFER / 32 {
            return Err(AdminError::garbled(
                opcode::FUNCTION_CAPABILITIES,
                format!("it has {count} entries"),
            ));
        }
        let mut found = Capabilities::default();
        for entry in buffer.chunks_exact(32).take(count) {
            let number = full(entry, 4);
            match half(entry, 0) {
                capability::VSI => found.vsis = number,
                capability::RSS => found.hash_entries = number,
                capability::RX_QUEUES => found.queues = number,
                capability::VECTORS => found.vectors = number,
                capability::CLOCK => found.timer = Timer::of_capability(number),
                capability::MAX_FRAME => found.frame = number,
                _ => {}
            }
        }
        Ok(found)
    }

    /// The port's place in the switch.
    pub(in crate::ice) fn port(&mut self) -> Result<Port, AdminError> {
        let mut buffer = vec![0; 2048];
        let mut first = 0_u16;
        // Ends: a switch has at most so many elements.
        for _ in 0..64 {
            let [low, high] = first.to_le_bytes();
            buffer.fill(0);
            let answer = self.run(
                Command::new(opcode::SWITCH_CONFIGURATION, [0, 0, low, high]),
                &mut buffer,
            )?;
            let count = usize::from(answer.half(4)).min(buffer.len() / 6);
            for element in buffer.chunks_exact(6).take(count) {
                let what = half(element, 0);
                if what >> 14 == 0 {
                    return Ok(Port {
                        number: what & 0x3ff,
                        switch: half(element, 2),
                    });
                }
            }
            first = answer.half(2);
            if first == 0 {
                break;
            }
        }
        Err(AdminError::garbled(
            opcode::SWITCH_CONFIGURATION,
            "it names no port",
        ))
    }

    /// The port's own address.
    pub(in crate::ice) fn station(&mut self) -> Result<[u8; 6], AdminError> {
        let mut buffer = [0; 16];
        let answer = self.run(Command::new(opcode::READ_MAC, []), &mut buffer)?;
        // Bit 4: the address for LAN traffic is valid.
        let valid = answer.half(0) & 1 << 4 != 0;
        let count = usize::from(answer.params[4]).min(2);
        let lan = buffer
            .chunks_exact(8)
            .take(count)
            .find(|entry| entry[1] == 0);
        match lan.and_then(|entry| entry[2..].first_chunk::<6>()) {
            Some(&address) if valid && address[0] & 1 == 0 && address != [0; 6] => Ok(address),
            _ => Err(AdminError::garbled(
                opcode::READ_MAC,
                format!("it has no address of the port: {buffer:02x?}"),
            )),
        }
    }

    /// Lets the MAC take jumbo frames. `quanta` and `refresh`: of link flow control, which the command sets as well.
    pub(in crate::ice) fn set_mac(&mut self, quanta: u16, refresh: u16) -> Result<(), AdminError> {
        let ([low, high], [a, b], [c, d]) = (
            LONGEST.to_le_bytes(),
            quanta.to_le_bytes(),
            refresh.to_le_bytes(),
        );
        self.plain(Command::new(opcode::SET_MAC, [low, high, 0, 0, a, b, c, d]))
            .map(drop)
    }

    /// Which link events are wanted: a bit that is set keeps one away.
    pub(in crate::ice) fn set_link_events(&mut self, port: Port) -> Result<(), AdminError> {
        // Up and down (1), no media (2), module not qualified (8).
        let [low, high] = (!(1_u16 << 1 | 1 << 2 | 1 << 8)).to_le_bytes();
        // A byte on the wire of the queue.
        let number = port.number as u8;
        self.plain(Command::new(
            opcode::LINK_EVENTS,
            [number, 0, 0, 0, 0, 0, 0, 0, low, high],
        ))
        .map(drop)
    }

    /// Asks for the link to be up, negotiated anew.
    pub(in crate::ice) fn restart_link(&mut self, port: Port) -> Result<(), AdminError> {
        // Restart, and up.
        let flags = 1 << 1 | 1 << 2;
        self.plain(Command::new(
            opcode::RESTART_LINK,
            [port.number as u8, 0, flags],
        ))
        .map(drop)
    }

    /// The link; changes are told from now on.
    pub(in crate::ice) fn link(&mut self, port: Port) -> Result<LinkInfo, AdminError> {
        let mut buffer = [0; 32];
        self.run(
            Command::new(opcode::LINK_STATUS, [port.number as u8, 0, 0x3, 0]),
            &mut buffer,
        )?;
        LinkInfo::parse(&buffer)
            .ok_or_else(|| AdminError::garbled(opcode::LINK_STATUS, "it is too short"))
    }

    /// Makes a VSI of 128 bytes of properties.
    pub(in crate::ice) fn add_vsi(
        &mut self,
        properties: &mut [u8; 128],
    ) -> Result<VsiId, AdminError> {
        // Of the function's own (type 2, bytes 6 and 7); the firmware chooses the number.
        let command = Command::new(opcode::ADD_VSI, [0, 0, 0, 0, 0, 0, 2, 0]).reading();
        let answer = self.run(command, properties)?;
        let number = answer.half(0) & 0x3ff;
        if u32::from(number) >= crate::ice::regs::statistics::VSIS {
            return Err(AdminError::garbled(
                opcode::ADD_VSI,
                format!("there is no VSI {number}"),
            ));
        }
        Ok(VsiId(number))
    }

    /// Ends a VSI. Rules that name it have been taken off.
    pub(in crate::ice) fn free_vsi(&mut self, vsi: VsiId) -> Result<(), AdminError> {
        let [low, high] = (vsi.0 | 1 << 15).to_le_bytes();
        self.plain(Command::new(opcode::FREE_VSI, [low, high]))
            .map(drop)
    }

    /// Adds a rule, as [`rules`](crate::ice::rules) packs it.
    pub(in crate::ice) fn add_rule(&mut self, rule: &mut [u8]) -> Result<RuleId, AdminError> {
        let recipe = half(rule, 4);
        let command = Command::new(opcode::ADD_RULES, [1, 0]).reading();
        self.run(command, rule)?;
        let status = half(rule, 2);
        if status != 0 {
            return Err(AdminError::garbled(
                opcode::ADD_RULES,
                format!("it says that all went well, and of the rule that its status is {status}"),
            ));
        }
        Ok(RuleId {
            recipe,
            index: half(rule, 12),
        })
    }

    /// Takes a rule off.
    pub(in crate::ice) fn remove_rule(&mut self, rule: RuleId) -> Result<(), AdminError> {
        let mut packed = [0; 16];
        put(&mut packed, 4, &rule.recipe.to_le_bytes());
        put(&mut packed, 12, &rule.index.to_le_bytes());
        let command = Command::new(opcode::REMOVE_RULES, [1, 0]).reading();
        self.run(command, &mut packed).map(drop)
    }

    /// The key of a VSI's hash.
    pub(in crate::ice) fn set_hash_key(
        &mut self,
        vsi: VsiId,
        key: &[u8; 52],
    ) -> Result<(), AdminError> {
        let [low, high] = (vsi.0 | 1 << 15).to_le_bytes();
        let mut key = *key;
        let command = Command::new(opcode::SET_HASH_KEY, [low, high]).reading();
        self.run(command, &mut key).map(drop)
    }

    /// The table of a VSI's hash: to which of its queues each of 64 remainders goes.
    pub(in crate::ice) fn set_hash_table(
        &mut self,
        vsi: VsiId,
        table: &[u8; 64],
    ) -> Result<(), AdminError> {
        let [low, high] = (vsi.0 | 1 << 15).to_le_bytes();
        let mut table = *table;
        // Flags 0: the VSI's own table, whose size is fixed.
        let command = Command::new(opcode::SET_HASH_TABLE, [low, high]).reading();
        self.run(command, &mut table).map(drop)
    }
}
