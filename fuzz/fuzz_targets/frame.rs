//! The frames on the road to a worker and back.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| procpool::fuzz::frame(data));
