//! Memory as the model of the card reaches it.

use devrx_e810_model::{Dma, Unmapped};

use crate::ring::Iommu;

impl Dma for Iommu {
    fn read(&self, address: u64, into: &mut [u8]) -> Result<(), Unmapped> {
        let len = into.len();
        let done = Self::read(self, address, into);
        done.then_some(()).ok_or(Unmapped { address, len })
    }

    fn write(&self, address: u64, from: &[u8]) -> Result<(), Unmapped> {
        let len = from.len();
        let done = Self::write(self, address, from);
        done.then_some(()).ok_or(Unmapped { address, len })
    }
}
