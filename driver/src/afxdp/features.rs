//! What drivers say of their XDP: the kernel's "netdev" generic netlink family (Documentation/netlink/specs/netdev.yaml), Linux 6.3 and newer.

use std::collections::BTreeMap;
use std::io;

/// What an interface's driver can do.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Features {
    /// It runs XDP programs itself, redirects included.
    pub native: bool,
    /// It has zero-copy AF_XDP.
    pub zero_copy: bool,
}

/// The features of every interface of the calling thread's network namespace, by index.
pub(super) fn all() -> io::Result<BTreeMap<u32, Features>> {
    Err(io::Error::from(io::ErrorKind::Unsupported))
}
