//! AF_XDP with the NIC writing into the region itself.

use super::Test;

/// The tests of this file.
pub const TESTS: &[Test] = &[];
