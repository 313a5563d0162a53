//! Commands for sending: the scheduler's tree, queues, loopback.
//!
//! Layouts: DPDK's `ice_adminq_cmd.h` (`struct ice_aqc_txsched_elem_data` and those around it, `ice_aqc_add_tx_qgrp`, `ice_aqc_dis_txq_item`,
//! `ice_aqc_set_mac_lb`).

use super::command::{AdminError, Command, opcode};
use super::{Admin, BUFFER, Port, full, half, put};
use crate::device::Registers;

/// Layers of the tree at most (`ICE_AQC_TOPO_MAX_LEVEL_NUM`).
const LAYERS: u16 = 9;
/// Bytes of a group's header, of an element, and of an element's data within it.
const GROUP: usize = 8;
const ELEMENT: usize = 24;
const DATA: usize = 16;
/// Bytes of a queue in a group, its context's included.
const QUEUE: usize = 48;
/// Bytes of a transmit queue's context.
pub(in crate::ice) const CONTEXT: usize = 22;

/// Kinds of elements.
pub(in crate::ice) mod kind {
    /// A traffic class.
    pub const CLASS: u8 = 2;
    /// Any other.
    pub const GENERIC: u8 = 3;
    /// Where drivers' parts of the tree begin.
    pub const ENTRY_POINT: u8 = 4;
}

/// A node of the scheduler's tree.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::ice) struct Node {
    /// Its parent's number.
    pub parent: u32,
    /// Its own.
    pub number: u32,
    pub kind: u8,
}

/// What each driver says of a node or a queue: the sections for scheduling (generic), committed and excess bandwidth are valid, with the profile without a limit
/// (0) and the default weight (4).
fn element(kind: u8) -> [u8; DATA] {
    let mut new = [0; DATA];
    new[0] = kind;
    new[1] = 0b111;
    put(&mut new, 6, &4_u16.to_le_bytes());
    put(&mut new, 10, &4_u16.to_le_bytes());
    new
}

impl<R: Registers> Admin<R> {
    /// How many layers the scheduler's tree has; queues are in the last.
    pub(in crate::ice) fn layers(&mut self) -> Result<usize, AdminError> {
        let mut buffer = [0; 32 + LAYERS as usize * 32];
        self.run(Command::new(opcode::SCHEDULER, []), &mut buffer)?;
        match half(&buffer, 2) {
            // At least the port, a class, a group of queues, and the queues.
            layers @ 4..=LAYERS => Ok(usize::from(layers)),
            layers => Err(AdminError::garbled(
                opcode::SCHEDULER,
                format!("the tree has {layers} layers"),
            )),
        }
    }

    /// The tree's branch as a reset leaves it, from the port down.
    pub(in crate::ice) fn branch(&mut self, port: Port) -> Result<Vec<Node>, AdminError> {
        let mut buffer = vec![0; BUFFER];
        let command = Command::new(opcode::DEFAULT_BRANCH, [port.number as u8]);
        self.run(command, &mut buffer)?;
        let count = half(&buffer, 4);
        if count > LAYERS {
            return Err(AdminError::garbled(
                opcode::DEFAULT_BRANCH,
                format!("it has {count} nodes"),
            ));
        }
        let nodes = buffer[GROUP..].chunks_exact(ELEMENT);
        let node = |node: &[u8]| Node {
            parent: full(node, 0),
            number: full(node, 4),
            kind: node[8],
        };
        Ok(nodes.take(count.into()).map(node).collect())
    }

    /// Adds a node below `parent`; its number.
    pub(in crate::ice) fn add_node(&mut self, parent: u32) -> Result<u32, AdminError> {
        let mut buffer = [0; GROUP + ELEMENT];
        put(&mut buffer, 0, &parent.to_le_bytes());
        buffer[4] = 1;
        put(&mut buffer, GROUP, &parent.to_le_bytes());
        put(&mut buffer, GROUP + 8, &element(kind::GENERIC));
        let answer = self.run(Command::new(opcode::ADD_NODES, [1]).reading(), &mut buffer)?;
        let added = answer.half(2);
        if added != 1 {
            return Err(AdminError::garbled(
                opcode::ADD_NODES,
                format!("{added} groups of nodes were added, not 1"),
            ));
        }
        Ok(full(&buffer, GROUP + 4))
    }

    /// Takes a node without children out.
    pub(in crate::ice) fn delete_node(
        &mut self,
        parent: u32,
        number: u32,
    ) -> Result<(), AdminError> {
        let mut buffer = [0; GROUP + 4];
        put(&mut buffer, 0, &parent.to_le_bytes());
        buffer[4] = 1;
        put(&mut buffer, GROUP, &number.to_le_bytes());
        self.run(
            Command::new(opcode::DELETE_NODES, [1]).reading(),
            &mut buffer,
        )
        .map(drop)
    }

    /// Starts transmit queue `queue` of the function, below `parent`.
    pub(in crate::ice) fn add_transmit_queue(
        &mut self,
        parent: u32,
        queue: u16,
        context: &[u8; CONTEXT],
    ) -> Result<(), AdminError> {
        let mut buffer = [0; GROUP + QUEUE];
        put(&mut buffer, 0, &parent.to_le_bytes());
        buffer[4] = 1;
        put(&mut buffer, GROUP, &queue.to_le_bytes());
        put(&mut buffer, GROUP + 8, context);
        // The kind is the firmware's to fill in.
        put(&mut buffer, GROUP + 32, &element(0));
        let command = Command::new(opcode::ADD_TRANSMIT_QUEUES, [1]).reading();
        self.run(command, &mut buffer).map(drop)
    }

    /// Stops it. What it had in hand is sent or dropped: once this has succeeded the queue reads and writes no more.
    pub(in crate::ice) fn disable_transmit_queue(
        &mut self,
        parent: u32,
        queue: u16,
    ) -> Result<(), AdminError> {
        let mut buffer = [0; 8];
        put(&mut buffer, 0, &parent.to_le_bytes());
        buffer[4] = 1;
        put(&mut buffer, 6, &queue.to_le_bytes());
        // No reset (bits 1:0); the pipe is flushed when the time is up (bit 3), which is what both drivers give it (from bit 10 of the second word on).
        let [low, high] = (5_u16 << 10).to_le_bytes();
        let command = Command::new(opcode::DISABLE_TRANSMIT_QUEUES, [1 << 3, 1, low, high]);
        self.run(command.reading(), &mut buffer).map(drop)
    }

    /// Lets the MAC send back what is sent.
    pub(in crate::ice) fn set_loopback(&mut self, on: bool) -> Result<(), AdminError> {
        self.plain(Command::new(opcode::LOOPBACK, [u8::from(on)]))
            .map(drop)
    }
}
