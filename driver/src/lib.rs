//! What a NIC is, how to own one, and the NICs.
