//! What daemon and client share: control messages and ring layout.
