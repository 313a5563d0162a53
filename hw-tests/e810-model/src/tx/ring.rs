//! Descriptors of a transmit ring: DPDK `ice_lan_tx_rx.h` (`struct ice_tx_desc`, `ice_tx_ctx_desc`, `ice_fltr_desc`).

use super::offload::Offload;
use crate::bytes;
use crate::fault::Fault;
use crate::pipeline::Program;
use crate::regs;
use crate::state::State;

const DESCRIPTOR: u64 = 16;

const DATA: u64 = 0;
const CONTEXT: u64 = 1;
const FILTER: u64 = 8;
const DONE: u64 = 0xf;

const END_OF_PACKET: u64 = 1;
const REPORT: u64 = 1 << 1;
const RESERVED: u64 = 1 << 2;
const DUMMY: u64 = 1 << 4;

/// Data descriptors of a packet that is not segmented.
const PIECES: usize = 8;
/// Bytes of the shortest frame that a queue may send.
const SHORTEST: usize = 17;
/// Bytes that one packet may have before it is segmented.
const LONGEST: usize = 256 * 1024;

/// A packet, as far as its descriptors were read.
#[derive(Clone, Debug, Default)]
pub(super) struct Building {
    data: Vec<u8>,
    pieces: usize,
    offload: Offload,
    program: Option<Program>,
}

/// What a queue did that it must not: the numbers are the events' of malicious driver detection.
struct Malicious {
    event: u32,
    why: String,
}

fn malicious<T>(event: u32, why: impl Into<String>) -> Result<T, Malicious> {
    Err(Malicious {
        event,
        why: why.into(),
    })
}

impl State {
    /// QTX_COMM_DBELL was written: descriptors up to the tail.
    pub(crate) fn doorbell(&mut self, number: u32, tail: u32) {
        self.regs.set(regs::QTX_COMM_DBELL + number * 4, tail);
        let Some(mut queue) = self.tx.get(&number).cloned() else {
            // DPDK clears the tail before it starts the queue.
            if tail == 0 {
                return;
            }
            self.refuse(format!(
                "transmit queue {number}: its doorbell rang and it does not run"
            ));
            return;
        };
        if queue.detected {
            return;
        }
        let mut reported = false;
        let end = u16::try_from(tail)
            .ok()
            .filter(|tail| *tail < queue.context.len);
        let mut outcome = match end {
            Some(_) => Ok(()),
            None => malicious(
                6,
                format!(
                    "tail {tail} is beyond the {} descriptors",
                    queue.context.len
                ),
            ),
        };
        while outcome.is_ok() && Some(queue.head) != end {
            outcome = self
                .one_descriptor(number, &mut queue)
                .map(|wrote| reported |= wrote);
        }
        if let Err(found) = outcome {
            queue.detected = true;
            self.detect_tx(number, &found);
        }
        self.regs
            .set(regs::QTX_COMM_HEAD + number * 4, u32::from(queue.head));
        // A frame that came back may have stopped it.
        if let Some(kept) = self.tx.get_mut(&number) {
            *kept = queue;
        }
        if reported {
            self.cause(regs::QINT_TQCTL + number * 4);
        }
    }

    /// Acts on the next descriptor; whether it was written back.
    fn one_descriptor(&mut self, number: u32, queue: &mut super::Queue) -> Result<bool, Malicious> {
        let at = queue.context.base + u64::from(queue.head) * DESCRIPTOR;
        let mut raw = [0; 16];
        if let Err(error) = self.dma_read(at, &mut raw) {
            return malicious(1, format!("descriptor {}: {error}", queue.head));
        }
        let (low, high) = (bytes::u64_at(&raw, 0), bytes::u64_at(&raw, 8));
        let command = high >> 4 & 0xfff;
        queue.head = (queue.head + 1) % queue.context.len;
        match high & 0xf {
            DATA => {
                self.piece(queue, low, high)?;
                if command & END_OF_PACKET != 0 {
                    let built = std::mem::take(&mut queue.building);
                    self.packet(number, queue, built, command & DUMMY != 0)?;
                }
            }
            CONTEXT => {
                queue.building.offload.context(low, high);
                return Ok(false);
            }
            FILTER => {
                queue.building.program = Some(Program::new(low, high));
                return Ok(false);
            }
            kind => {
                return malicious(1, format!("a descriptor of type {kind}"));
            }
        }
        if command & REPORT == 0 || self.fault == Fault::NoTransmitReport {
            return Ok(false);
        }
        let mut done = [0; 8];
        bytes::put64(&mut done, 0, DONE);
        if let Err(error) = self.dma_write(at + 8, &done) {
            self.refuse(format!("transmit queue {number}: write-back: {error}"));
        }
        Ok(true)
    }

    /// A data descriptor's buffer.
    fn piece(
        &mut self,
        queue: &mut super::Queue,
        address: u64,
        high: u64,
    ) -> Result<(), Malicious> {
        let command = high >> 4 & 0xfff;
        let len = (high >> 34 & 0x3fff) as usize;
        let strict = self.card.strict;
        if strict && command & RESERVED != 0 {
            return malicious(
                2,
                "command bit 2 is reserved (older cards insert a check sequence by it)",
            );
        }
        let building = &mut queue.building;
        if strict && len == 0 {
            return malicious(3, "a buffer of 0 bytes");
        }
        building.pieces += 1;
        if strict && building.pieces > PIECES && !building.offload.segments() {
            return malicious(4, format!("a packet of more than {PIECES} buffers"));
        }
        if building.data.len() + len > LONGEST {
            return malicious(5, format!("a packet of more than {LONGEST} bytes"));
        }
        if building.pieces == 1 {
            building.offload.first(high);
        }
        let from = building.data.len();
        building.data.resize(from + len, 0);
        let mut data = std::mem::take(&mut building.data);
        let read = self.dma_read(address, &mut data[from..]);
        queue.building.data = data;
        if let Err(error) = read {
            return malicious(1, format!("a buffer: {error}"));
        }
        Ok(())
    }

    /// A packet is whole.
    fn packet(
        &mut self,
        number: u32,
        queue: &super::Queue,
        built: Building,
        dummy: bool,
    ) -> Result<(), Malicious> {
        let vsi = queue.context.vsi;
        if let Some(program) = built.program {
            if dummy {
                self.program(vsi, program, &built.data);
                return Ok(());
            }
            return malicious(2, "a filter descriptor before a packet that is not a dummy");
        }
        if dummy {
            return Ok(());
        }
        if self.card.strict && built.data.len() < SHORTEST {
            return malicious(
                3,
                format!(
                    "a packet of {} bytes; {SHORTEST} is the least",
                    built.data.len()
                ),
            );
        }
        if built.offload.segments() && !queue.context.segments() {
            return malicious(7, "segmentation on a queue without TSO_ENA");
        }
        match built.offload.apply(built.data) {
            Ok(frames) => {
                for frame in frames {
                    self.route(vsi, frame);
                }
                Ok(())
            }
            Err(why) => malicious(7, format!("transmit queue {number}: {why}")),
        }
    }

    fn detect_tx(&mut self, number: u32, found: &Malicious) {
        self.refuse(format!(
            "transmit queue {number} is stopped (malicious driver detection): {}",
            found.why
        ));
        if let Some(queue) = self.tx.get(&number) {
            let vsi = queue.context.vsi;
            self.count_not_sent(vsi);
        }
        self.regs.set(
            regs::GL_MDET_TX_TCLAN,
            1 << 31 | found.event << 26 | number & 0x7fff,
        );
        self.regs.set(regs::PF_MDET_TX_TCLAN, 1);
        self.raise_other(regs::OICR_MAL_DETECT);
    }
}
