//! An E810 on its model, with queues.

use std::sync::Arc;

use devrx_provider::Region;

use crate::ice::model::{IceModel, Personality};
use crate::ice::{IceNic, IceOptions, IceQueue, PackageSource};
use crate::ring::rig::{self, Shape};
pub(crate) use crate::ring::rig::{arp, readable, udp, udp_to};
use crate::{QueueConfig, Timestamps, Unsplit};

pub(crate) type Rig = rig::Rig<IceNic<IceModel>, IceModel>;
pub(crate) type Queue = rig::Queue<IceQueue<IceModel>>;

/// What the admin queues have: two rings, a buffer, and one for each of 32 events.
pub(crate) const ADMIN: usize = 2 * 4096 + 4096 + 32 * 4096;

/// How a rig is set up.
#[derive(Clone, Debug)]
pub(crate) struct Setup {
    pub personality: Personality,
    pub queues: u32,
    pub chunks: u32,
    pub chunk: u32,
    pub slot: u32,
    pub ring: u32,
    pub split: bool,
    pub unsplit: Unsplit,
    pub options: IceOptions,
}

impl Default for Setup {
    fn default() -> Self {
        Self {
            personality: Personality {
                vectors: 9,
                ..Personality::default()
            },
            queues: 1,
            chunks: 128,
            chunk: 2048,
            slot: 256,
            ring: 64,
            split: true,
            unsplit: Unsplit::Deliver,
            options: IceOptions {
                package: PackageSource::Bytes(package()),
                ..IceOptions::default()
            },
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
            timestamps: Timestamps::Software,
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
        let model = IceModel::new(setup.personality.clone());
        Self::on(model, setup)
    }

    /// The same on a card that somebody else has had.
    pub(crate) fn on(model: Arc<IceModel>, setup: Setup) -> Self {
        let nic = IceNic::open(Arc::clone(&model), setup.options.clone()).unwrap();
        Self::over(model, nic, setup.shape())
    }

    /// A rig without a package.
    pub(crate) fn safe() -> Self {
        Self::new(Setup {
            options: IceOptions {
                package: PackageSource::None,
                ..IceOptions::default()
            },
            ..Setup::default()
        })
    }

    /// A frame arrives from the wire, and is not dropped there.
    pub(crate) fn receive(&self, frame: &[u8]) {
        assert!(self.model.card().receive(frame));
    }

    /// Ends every queue as the daemon does, and sees that nothing is missing.
    pub(crate) fn end(mut self) {
        self.end_queues();
        assert_eq!(
            self.model.mapped(),
            ADMIN,
            "memory is taken from the device"
        );
        assert_eq!(self.model.dma_faults(), 0);
        let model = Arc::clone(&self.model);
        drop(self);
        assert_eq!(model.mapped(), 0, "the admin queues' too");
    }
}

/// A package with the tables of Intel's, as far as packets of the tests need them; or the file that `DEVRX_TEST_DDP` names.
pub(crate) fn package() -> Arc<[u8]> {
    match std::env::var_os("DEVRX_TEST_DDP") {
        Some(path) => std::fs::read(path).unwrap().into(),
        None => super::intel::package(),
    }
}
