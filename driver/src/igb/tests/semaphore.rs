//! Whose turn it is at the PHY.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::igb::model::{Fault, IgbModel};
use crate::igb::regs::{SW_FW_SYNC, SWSM, swsm};
use crate::igb::{IgbNic, IgbOptions};

/// Takes the NIC; what it says if it cannot.
fn open(model: &Arc<IgbModel>) -> Result<(), String> {
    IgbNic::open(Arc::clone(model), IgbOptions::default())
        .map(drop)
        .map_err(|error| error.to_string())
}

#[test]
fn each_port_asks_for_its_own_phy_and_gives_it_back() {
    for (port, mine) in [(0, 0x02), (1, 0x04), (2, 0x20), (3, 0x40)] {
        let model = IgbModel::new(0x1521);
        model.set_port(port);
        // The other ports' drivers, the memory's, and firmware at all of those.
        let others = 0x0067_0067 & !(mine | mine << 16);
        model.poke(SW_FW_SYNC, others);
        open(&model).unwrap();
        assert_eq!(
            model.peek(SW_FW_SYNC),
            others,
            "given back, and nothing else"
        );
        assert_eq!(model.peek(SWSM), 0, "given back");
    }
}

#[test]
fn firmware_that_holds_the_phy_is_named_after_a_bounded_time() {
    let model = IgbModel::new(0x10c9);
    model.poke(SW_FW_SYNC, 0x0002_0000);
    let start = Instant::now();
    let error = open(&model).unwrap_err();
    assert!(error.contains("firmware has held its PHY"), "{error}");
    assert!(error.contains("0x00020000"), "{error}");
    assert!(start.elapsed() < Duration::from_secs(10));
    assert_eq!((model.peek(SW_FW_SYNC), model.peek(SWSM)), (0x0002_0000, 0));
    // It ends: nothing was broken.
    model.poke(SW_FW_SYNC, 0);
    open(&model).unwrap();
}

#[test]
fn firmware_in_the_semaphore_is_named_after_a_bounded_time() {
    let model = IgbModel::new(0x10c9);
    model.set_fault(Fault {
        firmware_in_semaphore: true,
        ..Fault::default()
    });
    let error = open(&model).unwrap_err();
    assert!(
        error.contains("firmware holds the card's semaphore"),
        "{error}"
    );
    assert_eq!((model.peek(SW_FW_SYNC), model.peek(SWSM)), (0, 0));
}

#[test]
fn a_short_use_by_firmware_is_waited_for() {
    let model = IgbModel::new(0x10c9);
    model.poke(SW_FW_SYNC, 0x0002_0000);
    std::thread::scope(|scope| {
        let opened = scope.spawn(|| open(&model));
        std::thread::sleep(Duration::from_millis(100));
        assert!(!opened.is_finished(), "it waits");
        model.poke(SW_FW_SYNC, 0);
        opened.join().unwrap().unwrap();
    });
}

#[test]
fn what_a_dead_driver_left_is_taken_over() {
    let model = IgbModel::new(0x10c9);
    // Killed with the PHY, and while it held the semaphore.
    model.poke(SW_FW_SYNC, 0x0000_0002);
    model.poke(SWSM, swsm::SMBI);
    open(&model).unwrap();
    assert_eq!((model.peek(SW_FW_SYNC), model.peek(SWSM)), (0, 0));
}
