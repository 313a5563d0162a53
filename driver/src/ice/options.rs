//! How the NIC is taken.

use std::path::PathBuf;

/// How the NIC is taken.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct IceOptions {
    /// Takes VLAN tags out of frames, into [`RxChunk::vlan`](crate::RxChunk::vlan). Rules with `vlan=` find nothing then.
    pub vlan_strip: bool,
    /// Where the package comes from.
    pub package: PackageSource,
}

/// Where the package (DDP) comes from that tells the NIC's parser what packets look like.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum PackageSource {
    /// The distribution's folder of firmware: `/lib/firmware/updates/intel/ice/ddp` and `/lib/firmware/intel/ice/ddp`, the file that Linux takes (`ice.pkg`), else the
    /// newest there is. Without one the NIC is taken in safe mode.
    #[default]
    System,
    /// This file, or the NIC is not taken.
    File(PathBuf),
    /// These bytes, or the NIC is not taken.
    Bytes(std::sync::Arc<[u8]>),
    /// None: safe mode.
    None,
}
