//! Memory of a device: what a NIC wrote there is pushed with one read a batch, and the device may take it away.

use std::os::fd::OwnedFd;

use devrx_provider::pci::{self, PciBar};
use nix::sys::memfd::{MFdFlags, memfd_create};

use super::*;

/// A BAR of 64 chunks, played by shared memory; with what is behind it.
fn device() -> (Region, OwnedFd) {
    let spec = RegionSpec {
        size: 64 * 4096,
        chunk_size: 4096,
    };
    let fd = memfd_create(c"device", MFdFlags::MFD_CLOEXEC).unwrap();
    nix::unistd::ftruncate(&fd, 64 * 4096).unwrap();
    let bar = PciBar {
        fd: fd.try_clone().unwrap(),
        offset: 0,
        len: spec.size,
        export: None,
        owner: Box::new(()),
    };
    (pci::region(bar, spec).unwrap(), fd)
}

/// Sends so many batches, which the fake NIC hands out whole, and gives the chunks back.
fn batches(rig: &mut Rig, count: usize) -> Snapshot {
    for _ in 0..count {
        rig.wire.send(0, 10, 2);
        rig.settle();
        let entries = rig.receive();
        assert_eq!(entries.len(), 20);
        rig.give(&entries);
    }
    rig.numbers()
}

#[test]
fn a_batch_in_a_devices_memory_costs_one_read() {
    let mut rig = Rig::over(device().0, Setup::default());
    let numbers = batches(&mut rig, 7);
    assert_eq!((numbers.delivered, numbers.flush_reads), (70, 7));
    rig.end();
}

#[test]
fn a_batch_in_host_memory_costs_none() {
    let mut rig = Rig::new(Setup::default());
    let numbers = batches(&mut rig, 7);
    assert_eq!((numbers.delivered, numbers.flush_reads), (70, 0));
    rig.end();
}

/// A reset device answers no reads: nobody but the flush looks there, and nobody must be told of packets that are not there for ever.
#[test]
fn a_device_that_takes_its_memory_away_ends_the_attachment() {
    devrx_provider::guard::install().unwrap();
    let (region, memory) = device();
    let mut rig = Rig::over(region, Setup::default());
    batches(&mut rig, 1);
    assert_eq!(rig.handle.fault(), None);
    nix::unistd::ftruncate(&memory, 0).unwrap();
    rig.wire.send(0, 1, 1);
    rig.settle();
    wait_for("the worker sees it", || rig.handle.fault().is_some());
    assert!(rig.handle.fault().unwrap().contains("the device took"));
    rig.end();
}
