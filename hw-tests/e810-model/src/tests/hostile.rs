//! Nothing a driver does may panic the model.

use super::*;

/// Numbers that look random and are the same in each run (xorshift).
struct Numbers(u64);

impl Numbers {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

const OPCODES: [u16; 52] = [
    0x0001, 0x0002, 0x0003, 0x0008, 0x0009, 0x000a, 0x0107, 0x0108, 0x0200, 0x0208, 0x0209, 0x020a,
    0x0210, 0x0211, 0x0212, 0x0213, 0x0290, 0x0291, 0x0292, 0x0293, 0x02a0, 0x02a1, 0x02a2, 0x02a4,
    0x0400, 0x0401, 0x0403, 0x0404, 0x0408, 0x0409, 0x040e, 0x040f, 0x0410, 0x0412, 0x0413, 0x0415,
    0x0600, 0x0601, 0x0603, 0x0607, 0x0613, 0x0701, 0x0b02, 0x0b03, 0x0b05, 0x0c30, 0x0c31, 0x0c40,
    0x0c41, 0x0c42, 0x0c43, 0xffff,
];

/// Registers with side effects, and the tables beside them.
const REGISTERS: [u32; 18] = [
    0x8_0080, 0x8_0280, 0x8_0480, 0x9_1000, 0xb_8188, 0xb_8190, 0x12_0000, 0x14_0000, 0x15_0000,
    0x16_0000, 0x16_ca00, 0x16_c900, 0x28_0000, 0x29_0000, 0x2c_0000, 0x48_0000, 0x41_2000,
    0x41_3000,
];

/// A driver that works, whatever was done before.
fn set_up(driver: &mut Driver, package: bool) {
    while driver.card.read32(0xb_8188) & 3 != 0 {}
    driver.card.write32(0x9_1000, 1);
    while driver.card.read32(0x9_1000) & 1 != 0 {}
    driver.admin();
    if package && driver.send(0x0c43, [0; 16], &[0; 64], false).buffer[0] == 0 {
        driver.download(&super::pipeline::buffers());
    }
    let vsi = driver.add_vsi(0, 4);
    driver.add_mac(vsi, [2; 6]);
    if package {
        driver.profile(40, 9, 9, vsi);
        driver.profile(30, 9, 9, vsi);
        driver.card.write32(0x43_a000, 1);
    }
    for queue in 0..4 {
        driver.start(queue, Setup::default());
    }
    driver.start_tx(1, vsi, BASE + 0xc0_0000);
}

#[test]
fn random_commands_registers_and_frames() {
    let mut delivered = 0;
    let mut accepted = 0;
    for seed in 1..=8_u64 {
        let mut numbers = Numbers(0x9e37_79b9_7f4a_7c15 ^ seed << 32);
        let mut driver = Driver::new(Personality {
            strict: seed % 2 == 0,
            parses_without_package: true,
            ..Personality::default()
        });
        for turn in 0..3000 {
            if turn % 100 == 0 {
                set_up(&mut driver, seed % 4 > 1);
            }
            match numbers.below(4) {
                0 => {
                    let len = [0, 8, 16, 64, 128, 512, 4096][numbers.below(7) as usize];
                    // Small numbers are likelier to mean something.
                    let narrow = numbers.below(2) == 0;
                    let mut byte = || {
                        let value = numbers.next() as u8;
                        if narrow { value & 0x0f } else { value }
                    };
                    let buffer: Vec<u8> = (0..len).map(|_| byte()).collect();
                    let params = std::array::from_fn(|_| byte());
                    let opcode = OPCODES[numbers.below(OPCODES.len() as u64) as usize];
                    if driver.card.read32(0x8_0200) >> 30 != 2 {
                        driver.admin();
                    }
                    let input = numbers.below(8) != 0;
                    let at = driver.post_command(opcode, params, &buffer, input);
                    let done = driver.get(at, 8);
                    accepted += u32::from(done[0] & 7 == 3);
                }
                1 => {
                    let base = REGISTERS[numbers.below(18) as usize];
                    let offset = base + (numbers.below(8) as u32) * 4;
                    driver.card.write32(offset, numbers.next() as u32);
                    let _ = driver.card.read32(offset);
                }
                2 => {
                    let len = numbers.below(200) as usize;
                    let mut frame: Vec<u8> = (0..len).map(|_| numbers.next() as u8).collect();
                    if len > 40 {
                        frame[..6].copy_from_slice(&[2; 6]);
                        let kinds = [[8, 0], [0x86, 0xdd], [0x81, 0], [8, 6]];
                        frame[12..14].copy_from_slice(&kinds[numbers.below(4) as usize]);
                        frame[14] = [0x45, 0x46, 0x60, 0x4f][numbers.below(4) as usize];
                    }
                    delivered += u32::from(driver.card.receive(&frame));
                }
                _ => {
                    let at = BASE + 0xc0_0000 + numbers.below(64) * 16;
                    let kind = [0, 0, 1, 8, 9][numbers.below(5) as usize];
                    let mut descriptor = (BASE + numbers.below(0x100_0000)).to_le_bytes().to_vec();
                    descriptor.extend((numbers.next() & !0xf | kind).to_le_bytes());
                    driver.put(at, &descriptor);
                    driver.card.write32(0x2c_0004, numbers.below(70) as u32);
                }
            }
        }
    }
    // It is no test if all is refused.
    assert!(accepted > 500 && delivered > 500, "{accepted} {delivered}");
}

#[test]
fn accesses_where_there_is_nothing() {
    let driver = Driver::new(Personality::default());
    for offset in [1, 0x200_0000, u32::MAX, u32::MAX - 3] {
        driver.card.write32(offset, 1);
        assert_eq!(driver.card.read32(offset), u32::MAX);
    }
    driver.card.config_write(usize::MAX, &[0; 4]);
    let mut bytes = [0; 4];
    driver.card.config_read(usize::MAX - 1, &mut bytes);
    assert!(!driver.card.receive(&[]));
}
