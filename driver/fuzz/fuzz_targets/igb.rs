//! The igb driver on a device whose registers and descriptors answer with arbitrary bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| devrx_driver::igb::model::hostile::exercise(input));
