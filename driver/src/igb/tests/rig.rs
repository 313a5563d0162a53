//! A NIC of this family on its model, with queues.

use std::sync::Arc;

use devrx_provider::Region;

use crate::igb::model::IgbModel;
use crate::igb::{IgbNic, IgbOptions, IgbQueue};
use crate::ring::rig::{self, Shape};
pub(crate) use crate::ring::rig::{arp, readable, udp, udp_to};
use crate::{QueueConfig, Timestamps, Unsplit};

pub(crate) type Rig = rig::Rig<IgbNic<IgbModel>, IgbModel>;
pub(crate) type Queue = rig::Queue<IgbQueue<IgbModel>>;

/// How a rig is set up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Setup {
    pub device: u16,
    pub queues: u32,
    pub chunks: u32,
    pub chunk: u32,
    pub slot: u32,
    pub ring: u32,
    pub split: bool,
    pub unsplit: Unsplit,
    pub timestamps: Timestamps,
    pub options: IgbOptions,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            device: 0x10c9,
            queues: 1,
            chunks: 128,
            chunk: 2048,
            slot: 256,
            ring: 64,
            split: true,
            unsplit: Unsplit::Deliver,
            timestamps: Timestamps::Software,
            options: IgbOptions::default(),
        }
    }
}

impl Setup {
    const fn shape(&self) -> Shape {
        Shape {
            queues: self.queues,
            chunks: self.chunks,
            chunk: self.chunk,
            slot: self.slot,
            ring: self.ring,
            split: self.split,
            unsplit: self.unsplit,
            timestamps: self.timestamps,
        }
    }

    /// The memory of its queues.
    pub(crate) fn configs(&self) -> (Arc<Region>, Vec<QueueConfig>) {
        self.shape().configs()
    }
}

impl Rig {
    /// All queues open and filled, no rules.
    pub(crate) fn new(setup: Setup) -> Self {
        let model = IgbModel::new(setup.device);
        let nic = IgbNic::open(Arc::clone(&model), setup.options).unwrap();
        Self::over(model, nic, setup.shape())
    }

    /// Ends every queue as the daemon does, and sees that nothing is missing.
    pub(crate) fn end(mut self) {
        self.end_queues();
        assert_eq!(self.model.mapped(), 0, "memory is taken from the device");
    }
}
