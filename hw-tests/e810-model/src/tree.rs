//! The transmit scheduler's tree: a root for the port, traffic classes, nodes, and a leaf for each queue.
//!
//! Nine layers, as an E810 has by default; how drivers read it: DPDK `ice_sched.c`.

use std::collections::BTreeMap;

/// Layers, the leaves' included.
pub(crate) const LAYERS: u8 = 9;
/// The layer of leaves.
pub(crate) const LEAVES: u8 = 8;
/// The layer of the software's entry point. Linux needs it to be 3 at most.
const ENTRY: u8 = 2;

/// Kinds of nodes (`ICE_AQC_ELEM_TYPE_*`).
pub(crate) const ROOT: u8 = 1;
pub(crate) const CLASS: u8 = 2;
pub(crate) const GENERIC: u8 = 3;
pub(crate) const ENTRY_POINT: u8 = 4;
pub(crate) const LEAF: u8 = 5;

/// Children that a node of each layer may have.
pub(crate) const CHILDREN: [usize; LAYERS as usize] = [8, 8, 64, 64, 64, 64, 64, 64, 0];

/// Bytes of `struct ice_aqc_txsched_elem`.
pub(crate) const DATA: usize = 16;

/// One node.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) parent: u32,
    pub(crate) layer: u8,
    pub(crate) data: [u8; DATA],
}

impl Node {
    pub(crate) fn kind(&self) -> u8 {
        self.data[0]
    }
}

/// Why a node cannot be added, moved or removed.
#[derive(Debug, Eq, PartialEq)]
pub(crate) enum Trouble {
    NoParent(u32),
    NoNode(u32),
    Full(u32),
    Layer(u32),
    NotItsParent { node: u32, parent: u32 },
    HasChildren(u32),
    Fixed(u32),
}

impl std::fmt::Display for Trouble {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::NoParent(teid) => write!(f, "there is no parent node {teid:#x}"),
            Self::NoNode(teid) => write!(f, "there is no node {teid:#x}"),
            Self::Full(teid) => write!(f, "node {teid:#x} has all the children it may have"),
            Self::Layer(teid) => write!(
                f,
                "a child of node {teid:#x} would be in a layer it may not be in"
            ),
            Self::NotItsParent { node, parent } => {
                write!(f, "node {parent:#x} is not the parent of {node:#x}")
            }
            Self::HasChildren(teid) => write!(f, "node {teid:#x} has children"),
            Self::Fixed(teid) => write!(f, "node {teid:#x} is the port's root or a traffic class"),
        }
    }
}

/// The tree of the one port.
#[derive(Debug)]
pub(crate) struct Tree {
    nodes: BTreeMap<u32, Node>,
    next: u32,
    /// The nodes of the default branch, from the root to the leaf.
    branch: Vec<u32>,
}

impl Tree {
    /// One branch from the root to a leaf.
    pub(crate) fn new() -> Self {
        let mut tree = Self {
            nodes: BTreeMap::new(),
            next: 0x100,
            branch: Vec::new(),
        };
        let mut parent = 0;
        for layer in 0..LAYERS {
            let mut data = [0; DATA];
            data[0] = match layer {
                0 => ROOT,
                1 => CLASS,
                ENTRY => ENTRY_POINT,
                LEAVES => LEAF,
                _ => GENERIC,
            };
            // Generic, CIR and EIR sections are valid; weights of 4.
            data[1] = 7;
            data[6] = 4;
            data[10] = 4;
            parent = tree.place(Node {
                parent,
                layer,
                data,
            });
            tree.branch.push(parent);
        }
        tree
    }

    fn place(&mut self, node: Node) -> u32 {
        let teid = self.next;
        self.next += 1;
        self.nodes.insert(teid, node);
        teid
    }

    /// The default branch as it was made, whether or not it is all there.
    pub(crate) fn branch(&self) -> Vec<(u32, Node)> {
        Self::new().nodes.into_iter().collect()
    }

    pub(crate) fn root(&self) -> u32 {
        self.branch.first().copied().unwrap_or_default()
    }

    pub(crate) fn get(&self, teid: u32) -> Option<&Node> {
        self.nodes.get(&teid)
    }

    pub(crate) fn get_mut(&mut self, teid: u32) -> Option<&mut Node> {
        self.nodes.get_mut(&teid)
    }

    pub(crate) fn children(&self, teid: u32) -> impl Iterator<Item = (u32, &Node)> {
        self.nodes
            .iter()
            .filter(move |(_, node)| node.parent == teid)
            .map(|(teid, node)| (*teid, node))
    }

    /// A new child: a leaf in the layer of leaves, else a generic node.
    pub(crate) fn add(
        &mut self,
        parent: u32,
        mut data: [u8; DATA],
        leaf: bool,
    ) -> Result<u32, Trouble> {
        let above = self.nodes.get(&parent).ok_or(Trouble::NoParent(parent))?;
        let layer = above.layer + 1;
        if leaf != (layer == LEAVES) || !(ENTRY..=LEAVES).contains(&layer) {
            return Err(Trouble::Layer(parent));
        }
        self.room(parent, above.layer)?;
        data[0] = if leaf { LEAF } else { GENERIC };
        Ok(self.place(Node {
            parent,
            layer,
            data,
        }))
    }

    fn room(&self, parent: u32, layer: u8) -> Result<(), Trouble> {
        if self.children(parent).count() >= CHILDREN[usize::from(layer.min(LEAVES))] {
            return Err(Trouble::Full(parent));
        }
        Ok(())
    }

    pub(crate) fn remove(&mut self, parent: u32, teid: u32) -> Result<(), Trouble> {
        let node = self.nodes.get(&teid).ok_or(Trouble::NoNode(teid))?;
        if node.parent != parent {
            return Err(Trouble::NotItsParent { node: teid, parent });
        }
        if matches!(node.kind(), ROOT | CLASS) {
            return Err(Trouble::Fixed(teid));
        }
        if self.children(teid).next().is_some() {
            return Err(Trouble::HasChildren(teid));
        }
        self.nodes.remove(&teid);
        Ok(())
    }

    /// A node, with all below it, gets another parent of the same layer.
    pub(crate) fn move_to(&mut self, from: u32, to: u32, teid: u32) -> Result<(), Trouble> {
        let node = self.nodes.get(&teid).ok_or(Trouble::NoNode(teid))?;
        if node.parent != from {
            return Err(Trouble::NotItsParent {
                node: teid,
                parent: from,
            });
        }
        let target = self.nodes.get(&to).ok_or(Trouble::NoParent(to))?;
        if target.layer + 1 != node.layer {
            return Err(Trouble::Layer(to));
        }
        if from != to {
            self.room(to, target.layer)?;
        }
        if let Some(node) = self.nodes.get_mut(&teid) {
            node.parent = to;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_branch_has_nine_layers_and_can_be_taken_down() {
        let mut tree = Tree::new();
        let branch = tree.branch();
        assert_eq!(branch.len(), 9);
        assert_eq!(branch[2].1.kind(), ENTRY_POINT);
        for (teid, node) in branch.iter().skip(2).rev() {
            assert_eq!(tree.remove(node.parent, *teid), Ok(()));
        }
        let (class, _) = branch[1];
        assert_eq!(tree.remove(tree.root(), class), Err(Trouble::Fixed(class)));
    }

    #[test]
    fn nodes_go_where_their_layer_is() {
        let mut tree = Tree::new();
        let class = tree.branch()[1].0;
        let mut at = class;
        for _ in ENTRY..LEAVES {
            at = tree.add(at, [0; DATA], false).unwrap();
        }
        assert_eq!(tree.add(at, [0; DATA], false), Err(Trouble::Layer(at)));
        let leaf = tree.add(at, [0; DATA], true).unwrap();
        assert_eq!(tree.get(leaf).map(Node::kind), Some(LEAF));
        assert_eq!(tree.add(class, [0; DATA], true), Err(Trouble::Layer(class)));
        assert_eq!(tree.add(7, [0; DATA], false), Err(Trouble::NoParent(7)));
        assert_eq!(tree.move_to(at, class, leaf), Err(Trouble::Layer(class)));
        assert_eq!(
            tree.remove(class, at),
            Err(Trouble::NotItsParent {
                node: at,
                parent: class
            })
        );
    }
}
