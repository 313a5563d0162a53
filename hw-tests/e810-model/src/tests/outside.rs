//! What happens around the device: the bus, the wire's callback, faults that hang.

use super::*;
use crate::Fault;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];
const RING: u64 = BASE + 0xc0_0000;

fn ready() -> (Driver, u16) {
    let mut driver = Driver::new(Personality {
        parses_without_package: true,
        ..Personality::default()
    });
    let vsi = driver.add_vsi(0, 1);
    driver.add_mac(vsi, MAC);
    assert!(driver.start(0, Setup::default()));
    (driver, vsi)
}

#[test]
fn a_reset_by_the_bus_leaves_nothing_running() {
    let (mut driver, vsi) = ready();
    driver.card.reset();
    let mut command = [0; 2];
    driver.card.config_read(4, &mut command);
    assert_eq!(command, [0, 0]);
    assert_eq!(driver.card.read32(0x8_0200), 0);
    assert_eq!(driver.card.read32(0x12_0000), 0);
    assert!(!driver.card.receive(&udp(MAC, (1, 2), &[0; 64])));
    driver.card.config_write(4, &[6, 0]);
    driver.admin();
    assert_eq!(driver.add_vsi(0, 1), vsi, "the number is free again");
    // The same by the PCI Express capability.
    driver.card.config_write(0xa8, &[0, 0x80]);
    driver.card.config_read(4, &mut command);
    assert_eq!(command, [0, 0]);
}

#[test]
fn without_bus_mastering_nothing_reaches_memory_or_the_cpu() {
    let (driver, _) = ready();
    driver.card.write32(0x15_0000, 1 | 1 << 30);
    driver.card.write32(0x16_0004, 1);
    driver.card.config_write(4, &[2, 0]);
    assert!(!driver.card.receive(&udp(MAC, (1, 2), &[0; 64])));
    driver.card.write32(0x16_0004, 1 | 1 << 2);
    assert!(driver.interrupts().is_empty());
    assert_eq!(driver.descriptor(0, 0)[8] & 1, 0);
    driver.card.config_write(4, &[6, 0]);
    assert!(driver.card.receive(&udp(MAC, (1, 2), &[0; 64])));
}

#[test]
fn what_takes_sent_frames_may_answer_at_once() {
    let (mut driver, vsi) = ready();
    driver.start_tx(0, vsi, RING);
    let card = Arc::downgrade(&driver.card);
    driver.card.on_sent(Box::new(move |frame| {
        let mut answer = MAC.to_vec();
        answer.extend(&frame[6..]);
        if let Some(card) = card.upgrade() {
            assert!(card.receive(&answer));
        }
    }));
    let frame = udp([2; 6], (1, 2), &[8; 64]);
    driver.put(RING + 0x8000, &frame);
    let mut descriptor = (RING + 0x8000).to_le_bytes().to_vec();
    descriptor.extend(((frame.len() as u64) << 34 | 3 << 4).to_le_bytes());
    driver.put(RING, &descriptor);
    driver.card.write32(0x2c_0000, 1);
    assert_eq!(driver.descriptor(0, 0)[8] & 1, 1);
    assert!(driver.card.sent().is_empty());
}

#[test]
fn a_buffer_that_is_not_mapped_is_told_and_the_descriptor_comes_back() {
    let (driver, _) = ready();
    driver.put(RINGS, &[0xff; 8]);
    assert!(driver.card.receive(&udp(MAC, (1, 2), &[0; 64])));
    assert_eq!(driver.descriptor(0, 0)[8] & 1, 1);
    assert_eq!(driver.card.refusals().len(), 1);
}

#[test]
fn faults_that_hang_do() {
    let (mut driver, _) = ready();
    driver.card.set_fault(Fault::QueueWillNotStop);
    driver.card.write32(0x12_0000, 0);
    assert_eq!(driver.card.read32(0x12_0000) & 4, 4);
    driver.card.set_fault(Fault::AdminQueueHangs);
    let before = driver.card.read32(0x8_0300);
    driver.post_command(1, [0; 16], &[], false);
    assert_eq!(driver.card.read32(0x8_0300), before);
    driver.card.set_fault(Fault::LostInterrupt);
    driver.card.write32(0x15_0000, 1 | 1 << 30);
    driver.card.write32(0x16_0004, 1);
    assert!(driver.card.receive(&udp(MAC, (1, 2), &[0; 64])));
    assert!(driver.interrupts().is_empty());
    // Others than the queues' are raised.
    driver.card.write32(0x16_ca80, 1 | 1 << 30);
    driver.card.write32(0x16_c900, 1 << 25);
    driver.card.set_link(false);
    assert_eq!(driver.interrupts(), [1]);
    driver.card.set_link(true);
    driver.card.set_fault(Fault::NoDoneBit);
    assert!(driver.card.receive(&udp(MAC, (1, 2), &[0; 64])));
    assert_eq!(driver.descriptor(0, 1)[8] & 1, 0);
    driver.card.set_fault(Fault::NoRules);
    assert!(!driver.card.receive(&udp(MAC, (1, 2), &[0; 64])));
}

#[test]
fn reports_of_health_come_when_they_are_wanted() {
    let mut old = Driver::new(Personality::default());
    let mut params = [0; 16];
    params[0] = 7;
    assert_eq!(old.send(0xff20, params, &[], false).code, 17);
    let mut driver = Driver::new(Personality {
        api: (1, 7, 6),
        ..Personality::default()
    });
    driver.card.report_health(0x501, 3);
    assert_eq!(driver.card.read32(0x8_0380), 0, "nobody asked");
    driver.done(0xff20, params, &[]);
    driver.card.report_health(0x501, 3);
    assert_eq!(driver.card.read32(0x8_0380), 1);
    assert_eq!(driver.get(ARQ, 6)[2..], [0x22, 0xff, 12, 0]);
    assert_eq!(driver.get(EVENTS, 4), [1, 5, 3, 0]);
}
