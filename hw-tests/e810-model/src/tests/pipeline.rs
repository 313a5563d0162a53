//! The package, hashes, Flow Director and switch recipes, with the model's own package.

use super::*;
use crate::{Fault, Reset, small_package};

pub(super) const MAC: [u8; 6] = [2, 0, 0, 0, 0, 7];

const OTHER_MAC: [u8; 6] = [2, 9, 9, 9, 9, 9];

/// Buffers of a package's configuration segment that are downloaded: those with metadata come after them.
fn buffers_of(package: &[u8]) -> Vec<Vec<u8>> {
    let word = |at: usize| u32::from_le_bytes(package[at..at + 4].try_into().unwrap());
    let segment = (0..word(4) as usize)
        .map(|i| word(8 + i * 4) as usize)
        .find(|at| word(*at) == 0x10)
        .unwrap();
    let devices = segment + 44;
    let flashes = devices + 4 + word(devices) as usize * 8;
    let table = flashes + 4 + word(flashes) as usize * 4;
    package[table + 4..]
        .chunks(4096)
        .take(word(table) as usize)
        .take_while(|buffer| buffer[7] & 0x80 == 0)
        .map(<[u8]>::to_vec)
        .collect()
}

pub(super) fn buffers() -> Vec<Vec<u8>> {
    buffers_of(&small_package())
}

impl Driver {
    fn lock(&mut self, resource: u8) -> u16 {
        let mut params = [0; 16];
        params[0] = resource;
        params[2] = 2;
        let answer = self.done(0x0008, params, &[]);
        u16::from_le_bytes([answer.params[12], answer.params[13]])
    }

    fn unlock(&mut self, resource: u8) {
        let mut params = [0; 16];
        params[0] = resource;
        self.done(0x0009, params, &[]);
    }

    pub(super) fn download(&mut self, buffers: &[Vec<u8>]) {
        assert_eq!(self.lock(4), 0);
        for (i, buffer) in buffers.iter().enumerate() {
            let mut params = [0; 16];
            params[0] = u8::from(i + 1 == buffers.len());
            self.done(0x0c40, params, buffer);
        }
        self.unlock(4);
    }

    /// A resource of a type.
    pub(super) fn resource(&mut self, kind: u16) -> u16 {
        let mut params = [0; 16];
        params[0] = 1;
        let mut buffer = kind.to_le_bytes().to_vec();
        buffer.extend([1, 0, 0, 0]);
        let answer = self.done(0x0208, params, &buffer);
        u16::from_le_bytes([answer.buffer[4], answer.buffer[5]])
    }

    /// Sections of an update.
    fn update(&mut self, sections: &[(u32, Vec<u8>)]) {
        let mut buffer = vec![0; 4096];
        buffer[0] = sections.len() as u8;
        let mut at = 4 + sections.len() * 8;
        at = at.max(12);
        for (i, (kind, data)) in sections.iter().enumerate() {
            let entry = 4 + i * 8;
            buffer[entry..entry + 4].copy_from_slice(&kind.to_le_bytes());
            buffer[entry + 4..entry + 6].copy_from_slice(&(at as u16).to_le_bytes());
            buffer[entry + 6..entry + 8].copy_from_slice(&(data.len() as u16).to_le_bytes());
            buffer[at..at + data.len()].copy_from_slice(data);
            at += data.len();
        }
        buffer[2..4].copy_from_slice(&(at as u16).to_le_bytes());
        self.lock(3);
        self.done(0x0c42, [0; 16], &buffer[..at]);
        self.unlock(3);
    }

    /// A profile for IPv4 UDP of a VSI: addresses and ports, from the vector's end on.
    pub(super) fn profile(&mut self, block: u32, profile: u8, entry: u16, vsi: u16) {
        let mut vector = vec![1, 0, profile, 0];
        for i in 0..24 {
            let logical = 23 - i;
            let word = [(32, 12), (32, 14), (32, 16), (32, 18), (53, 0), (53, 2)].get(logical);
            let (protocol, offset) = word.copied().unwrap_or((0xff_u8, 0x1ff_u16));
            vector.push(protocol);
            vector.extend(offset.to_le_bytes());
            vector.push(0);
        }
        let mut tcam = vec![1, 0];
        tcam.extend(entry.to_le_bytes());
        let mut key = [0xff; 10];
        for (i, value) in [(2, 2), (3, 1), (4, 0)] {
            key[i] = !value;
            key[5 + i] = value;
        }
        tcam.extend(key);
        tcam.push(profile);
        let mut group = vec![1, 0];
        group.extend(vsi.to_le_bytes());
        group.extend([1, 0]);
        self.update(&[(block + 6, vector), (block + 4, tcam), (block + 3, group)]);
    }
}

/// A driver with a package and a VSI of four queues, all running.
pub(super) fn ready() -> (Driver, u16) {
    let mut driver = Driver::new(Personality::default());
    driver.download(&buffers());
    let vsi = driver.add_vsi(0, 4);
    driver.add_mac(vsi, MAC);
    for queue in 0..4 {
        assert!(driver.start(queue, Setup::default()));
    }
    (driver, vsi)
}

/// The queues that have received something.
pub(super) fn received(driver: &Driver) -> Vec<u64> {
    (0..4)
        .filter(|queue| driver.descriptor(*queue, 0)[8] & 1 != 0)
        .collect()
}

#[test]
fn a_package_is_taken_once_and_lost_with_the_core() {
    let mut driver = Driver::new(Personality::default());
    assert_eq!(driver.send(0x0c43, [0; 16], &[1; 64], false).buffer[0], 0);
    // Not without the lock.
    assert_eq!(driver.send(0x0c40, [0; 16], &buffers()[0], true).code, 10);
    driver.download(&buffers());
    let list = driver.send(0x0c43, [0; 16], &[0; 64], false).buffer;
    assert_eq!(list[..8], [1, 0, 0, 0, 1, 3, 0, 0]);
    assert_eq!(&list[8..30], b"ICE OS Default Package");
    assert_eq!(list[4 + 37], 1);
    assert_eq!(driver.lock(4), 2, "done by somebody");
    driver.card.start_reset(Reset::Global);
    while driver.card.read32(0xb_8188) & 3 != 0 {}
    driver.admin();
    assert_eq!(driver.send(0x0c43, [0; 16], &[0; 64], false).buffer[0], 0);
}

#[test]
fn counters_come_in_blocks_and_other_numbers_one_by_one() {
    let mut driver = Driver::new(Personality::default());
    let mut params = [0; 16];
    params[0] = 1;
    let first = |driver: &mut Driver, kind: u8, count: u16| {
        let mut buffer = vec![kind, 0];
        buffer.extend(count.to_le_bytes());
        buffer.extend([0; 2]);
        let answer = driver.send(0x0208, params, &buffer, true);
        (
            answer.code,
            u16::from_le_bytes([answer.buffer[4], answer.buffer[5]]),
        )
    };
    assert_eq!(first(&mut driver, 0x22, 512), (0, 0));
    assert_eq!(first(&mut driver, 0x22, 512), (0, 512));
    assert_eq!(first(&mut driver, 0x21, 1), (0, 0));
    assert_eq!(first(&mut driver, 0x21, 40).0, 16);
    assert_eq!(first(&mut driver, 0x03, 2).0, 14, "two numbers need room");
    let buffer = [0x22, 0, 0, 2, 0, 0];
    assert_eq!(driver.send(0x0209, params, &buffer, true).code, 0);
    assert_eq!(driver.send(0x0209, params, &buffer, true).code, 14);
    assert_eq!(first(&mut driver, 0x22, 256), (0, 0));
}

#[test]
fn a_broken_package_is_refused() {
    let mut driver = Driver::new(Personality::default());
    driver.lock(4);
    for broken in [vec![0; 4096], vec![0xff; 4096], {
        let mut buffer = buffers()[1].clone();
        buffer[13] = 0xff;
        buffer
    }] {
        assert_eq!(driver.send(0x0c40, [0; 16], &broken, true).code, 14);
    }
    let mut none = Driver::new(Personality {
        ddp: false,
        ..Personality::default()
    });
    none.lock(4);
    assert_eq!(none.send(0x0c40, [0; 16], &buffers()[0], true).code, 25);
}

#[test]
fn tables_of_the_function_and_of_the_vsi() {
    let (mut driver, vsi) = ready();
    driver.profile(40, 9, 9, vsi);
    let mut params = [0; 16];
    params[..2].copy_from_slice(&(vsi | 1 << 15).to_le_bytes());
    assert_eq!(driver.send(0x0b03, params, &[0; 65], true).code, 14);
    driver.done(0x0b03, params, &[1; 64]);
    // The function's, with 512 entries.
    params[2] = 1 | 1 << 2;
    driver.done(0x0b03, params, &[2; 512]);
    assert_eq!(
        driver.send(0x0b05, params, &[0; 512], false).buffer,
        [2; 512]
    );
    let frame = udp(MAC, (1, 2), &[0; 64]);
    assert!(driver.card.receive(&frame));
    assert_eq!(received(&driver), [1]);
    let mut context = [0_u8; 128];
    context[..2].copy_from_slice(&(1_u16 << 7).to_le_bytes());
    context[2] = 1;
    context[78] = 2;
    params[2] = 0;
    driver.done(0x0211, params, &context);
    assert!(driver.card.receive(&frame));
    assert_eq!(received(&driver), [1, 2]);
    // A map beyond the function's queues.
    let mut context = [0_u8; 128];
    context[..2].copy_from_slice(&(1_u16 << 6).to_le_bytes());
    context[2] = 1;
    context[30] = 255;
    context[62..64].copy_from_slice(&(1_u16 << 11).to_le_bytes());
    assert_eq!(driver.send(0x0211, params, &context, true).code, 14);
}

/// Intel's package, if the environment names a file: the small one says the same of what both have.
#[test]
fn intels_package_gives_the_same_profiles() {
    let Some(path) = std::env::var_os("DEVRX_E810_PACKAGE") else {
        eprintln!("skipped: DEVRX_E810_PACKAGE names no file (ice-*.pkg of firmware-intel-misc)");
        return;
    };
    let theirs = buffers_of(&std::fs::read(path).unwrap());
    let mut packages = [theirs, buffers()].map(|buffers| {
        let mut package = crate::pipeline::Package::default();
        package.clear();
        for buffer in &buffers {
            package.take(buffer, false).unwrap();
        }
        package
    });
    let [theirs, ours] = &mut packages;
    for kind in [1, 11, 22, 23, 24, 26, 27, 28, 88, 89, 90, 92, 93, 94] {
        let profile = theirs.switch.profile(kind, 0);
        assert_eq!(profile, ours.switch.profile(kind, 0), "type {kind}");
        assert_eq!(theirs.hash.profile(kind, 8), 1);
        assert_eq!(ours.director.profile(kind, 8), 1);
        if profile > 3 {
            assert_eq!(theirs.switch.vector(profile), ours.switch.vector(profile));
        }
    }
}

#[test]
fn with_a_package_packets_are_split() {
    let (driver, _) = ready();
    assert!(driver.card.receive(&udp(MAC, (1, 2), &[0; 64])));
    let descriptor = driver.descriptor(0, 0);
    assert_eq!(
        u16::from_le_bytes([descriptor[6], descriptor[7]]),
        42 | 1 << 11
    );
    // No profile hashes yet.
    assert_eq!(descriptor[9] & 0x10, 0);
}

#[test]
fn a_hash_profile_spreads_over_the_table() {
    let (mut driver, vsi) = ready();
    let profile = driver.resource(0x60);
    let entry = driver.resource(0x61);
    assert_ne!(profile, 1, "the package's own");
    driver.profile(40, profile as u8, entry, vsi);
    let mut params = [0; 16];
    params[..2].copy_from_slice(&(vsi | 1 << 15).to_le_bytes());
    let key: Vec<u8> = (0..52_u16).map(|i| (i * 7 + 3) as u8).collect();
    driver.done(0x0b02, params, &key);
    let table: Vec<u8> = (0..64).map(|i| i % 4).collect();
    driver.done(0x0b03, params, &table);
    for port in 0..20 {
        assert!(driver.card.receive(&udp(MAC, (1000 + port, 9), &[0; 64])));
    }
    assert_eq!(received(&driver), [0, 1, 2, 3]);
    let descriptor = driver.descriptor(2, 0);
    assert_eq!(descriptor[9] & 0x10, 0x10, "RSS valid");
    let hash = u32::from_le_bytes(descriptor[12..16].try_into().unwrap());
    assert_eq!(hash % 4, 2);
    let key = <[u8; 52]>::try_from(key).unwrap();
    let port = u16::from_be_bytes(driver.header(2, 0, 42)[34..36].try_into().unwrap());
    let mut data = vec![10, 0, 0, 1, 10, 0, 0, 2];
    data.extend(port.to_be_bytes());
    data.extend([0, 9]);
    let mut expected = 0_u32;
    for bit in 0..96 {
        if data[bit / 8] >> (7 - bit % 8) & 1 != 0 {
            let word = (0..32).fold(0_u32, |word, i| {
                let at = bit + i;
                word << 1 | u32::from(key[at / 8] >> (7 - at % 8) & 1)
            });
            expected ^= word;
        }
    }
    assert_eq!(hash, expected);
    driver.card.set_fault(Fault::NoSpread);
    let before = driver.descriptor(0, 10)[8] & 1;
    for port in 0..20 {
        assert!(driver.card.receive(&udp(MAC, (1000 + port, 9), &[0; 64])));
    }
    assert_eq!((before, driver.descriptor(0, 20)[8] & 1), (0, 1));
}

#[test]
fn a_function_reset_gives_the_packages_tables_back() {
    let (mut driver, vsi) = ready();
    for _ in 0..3 {
        for _ in 0..127 {
            let profile = driver.resource(0x60);
            let entry = driver.resource(0x61);
            driver.profile(40, profile as u8, entry, vsi);
        }
        driver.card.write32(0x9_1000, 1);
        driver.admin();
        assert_eq!(driver.add_vsi(0, 4), vsi);
        driver.add_mac(vsi, MAC);
        assert!(driver.start(0, Setup::default()));
        assert!(driver.card.receive(&udp(MAC, (1, 2), &[0; 64])));
        assert_eq!(driver.descriptor(0, 0)[9] & 0x10, 0, "no hash");
    }
}

#[test]
fn a_recipe_on_ports_sends_a_flow_to_another_vsi() {
    let (mut driver, _) = ready();
    let other = driver.add_vsi(8, 1);
    assert!(driver.start(8, Setup::default()));
    let number = driver.resource(5);
    let mut recipe = [0; 64];
    recipe[0] = number as u8;
    recipe[4..12].copy_from_slice(&(1_u64 << number).to_le_bytes());
    recipe[16] = number as u8 | 0x80;
    recipe[17..22].copy_from_slice(&[0, 0x19, 0x80, 0x80, 0x80]);
    recipe[22] = 0xff;
    recipe[24..26].copy_from_slice(&[0xff; 2]);
    recipe[37] = 5;
    let mut params = [0; 16];
    params[0] = 1;
    assert_eq!(
        driver.send(0x0290, params, &recipe, true).code,
        10,
        "no lock"
    );
    driver.lock(3);
    driver.done(0x0290, params, &recipe);
    let mut params = [0; 16];
    params[0] = 5;
    params[8..16].copy_from_slice(&(1_u64 << number | 0x33f).to_le_bytes());
    driver.done(0x0291, params, &[]);
    driver.unlock(3);
    let header = udp([0; 6], (0, 5000), &[]);
    let mut rule = vec![0; 16];
    rule[4] = number as u8;
    rule[8..12].copy_from_slice(&(u32::from(other) << 4 | 1 << 17).to_le_bytes());
    rule[14] = header.len() as u8;
    rule.extend(&header);
    let mut params = [0; 16];
    params[0] = 1;
    driver.done(0x02a0, params, &rule);
    // To any address, as the recipe looks at the port only.
    assert!(driver.card.receive(&udp(OTHER_MAC, (1, 5000), &[0; 64])));
    assert_eq!(driver.descriptor(8, 0)[8] & 1, 1);
    assert!(driver.card.receive(&udp(MAC, (1, 5000), &[0; 64])));
    assert_eq!(driver.descriptor(8, 1)[8] & 1, 1);
    assert!(driver.card.receive(&udp(MAC, (1, 5001), &[0; 64])));
    assert_eq!(received(&driver), [0]);
    // TCP has another profile, with its ports in the same words.
    let mut tcp = udp(OTHER_MAC, (1, 5000), &[0; 64]);
    tcp[23] = 6;
    tcp[46] = 0x50;
    assert!(!driver.card.receive(&tcp));
    let recipes = {
        let mut params = [0; 16];
        params[2] = number as u8;
        driver.send(0x0292, params, &[0; 4096], false)
    };
    assert_eq!(recipes.buffer[..64], recipe);
}
