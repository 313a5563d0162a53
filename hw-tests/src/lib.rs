//! Everything that needs a kernel, a machine or a device.
//!
//! This library is the harness of two lanes. The *netns* lane: two network namespaces joined by a veth pair, the real `devrx`
//! binary in them, traffic and captures made by other people's tools; its tests, one file a subject, are in `tests/`. The *guest*
//! lane ([`guest`]): QEMU guests with NICs behind an IOMMU; its tests are in `src/guest_tests/`, because they run in the guest.
//!
//! Rules of the lanes: every wait has an end; whatever a test starts (namespaces, processes, files) is ended when its guard is
//! dropped, also by a panic, and by process id; tests take turns through a file lock, because they measure loss and share cores.

pub mod bench;
pub mod capture;
pub mod command;
pub mod cprogram;
pub mod daemon;
pub mod frame;
pub mod guest;
pub mod guest_tests;
pub mod holders;
pub mod inside;
pub mod lane;
pub mod link;
pub mod namespace;
pub mod neighbour;
pub mod pcap;
pub mod qxl;
pub mod sender;
pub mod session;
pub mod stats;
pub mod trust;
