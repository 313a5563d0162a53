//! The transmit scheduler's tree: the port, traffic classes, nodes by which bandwidth is shared, and a leaf for each queue.
//!
//! A reset leaves one branch, with a leaf nobody asked for. As both drivers do (`ice_sched_init_port`, `ice_sched_cfg_vsi` in DPDK's
//! `drivers/net/intel/ice/base/ice_sched.c`), it is taken out from the entry point on, and nodes of our own go there, down to one for a group of queues. They stay until the
//! next reset.

use super::admin::{Admin, AdminError, Node, Port, kind, opcode};
use crate::device::Registers;

/// The node for the function's queues. Where it cannot be had, what was added is taken out again.
pub(super) fn group<R: Registers>(
    nic: &str,
    admin: &mut Admin<R>,
    port: Port,
) -> Result<u32, AdminError> {
    let layers = admin.layers()?;
    let branch = admin.branch(port)?;
    let (class, entry) = entry(&branch, layers)?;
    for node in branch.iter().skip(entry).rev() {
        // Gone already where this has been tried before.
        if let Err(error) = admin.delete_node(node.parent, node.number) {
            tracing::debug!(nic, node = node.number, %error, "going on");
        }
    }
    let mut added: Vec<(u32, u32)> = Vec::new();
    let mut parent = class;
    // The last layer is the queues' own.
    for _ in entry..layers - 1 {
        match admin.add_node(parent) {
            Ok(number) => {
                added.push((parent, number));
                parent = number;
            }
            Err(error) => {
                for &(parent, number) in added.iter().rev() {
                    // The next reset takes it out.
                    let _ = admin.delete_node(parent, number);
                }
                return Err(error);
            }
        }
    }
    Ok(parent)
}

/// The first traffic class, and which layer is the first of the driver's.
fn entry(branch: &[Node], layers: usize) -> Result<(u32, usize), AdminError> {
    let class = branch.iter().find(|node| node.kind == kind::CLASS);
    let entry = branch
        .iter()
        .position(|node| node.kind == kind::ENTRY_POINT);
    match (class, entry) {
        (Some(class), Some(entry))
            if entry > 0 && entry < layers - 1 && branch[entry].parent == class.number =>
        {
            Ok((class.number, entry))
        }
        _ => Err(AdminError::garbled(
            opcode::DEFAULT_BRANCH,
            format!("it has no entry point below a traffic class: {branch:?}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(parent: u32, number: u32, kind: u8) -> Node {
        Node {
            parent,
            number,
            kind,
        }
    }

    #[test]
    fn the_tree_is_entered_below_a_class() {
        let branch = [
            node(0, 1, 1),
            node(1, 2, kind::CLASS),
            node(2, 3, kind::ENTRY_POINT),
            node(3, 4, kind::GENERIC),
            node(4, 5, 5),
        ];
        assert_eq!(entry(&branch, 5), Ok((2, 2)));
        assert!(entry(&branch, 3).is_err(), "no room for a group");
        assert!(entry(&branch[..2], 5).is_err(), "no entry point");
        assert!(entry(&branch[2..], 5).is_err(), "no class");
        assert!(entry(&[], 5).is_err());
        let astray = [branch[0], branch[1], node(1, 3, kind::ENTRY_POINT)];
        assert!(entry(&astray, 5).is_err(), "not below the class");
    }
}
