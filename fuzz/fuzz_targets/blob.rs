//! The files that come in the place of large values.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| procpool::fuzz::blob(data));
