//! The hash that spreads an attachment's packets over its queues.

use super::admin::{Admin, AdminError, VsiId};
use super::package::Package;
use crate::device::Registers;

/// The key of the hash: the one that Microsoft's specification of RSS checks implementations with, which tests can compare with; twelve more bytes, of which the
/// specification does not say, are 0.
pub(super) const KEY: [u8; 52] = [
    0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0,
    0xd0, 0xca, 0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c,
    0x6a, 0x42, 0xb7, 0x3b, 0xbe, 0xac, 0x01, 0xfa, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
];

/// What is hashed.
#[derive(Debug, Default)]
pub(super) struct Hash;

impl Hash {
    /// What the package lets be hashed.
    pub(super) fn of(_package: &Package) -> Self {
        Self
    }

    /// Whether anything is.
    pub(super) const fn works(&self) -> bool {
        false
    }

    /// The VSI's packets are hashed.
    pub(super) fn add<R: Registers>(
        &mut self,
        admin: &mut Admin<R>,
        vsi: VsiId,
    ) -> Result<(), AdminError> {
        admin.set_hash_key(vsi, &KEY)
    }
}
