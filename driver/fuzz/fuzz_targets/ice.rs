//! The ice driver on an E810 whose registers, admin answers and descriptors say arbitrary things.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| devrx_driver::ice::model::hostile::exercise(input));
