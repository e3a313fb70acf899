//! The parent's end of the rings, over memory in which anything may stand at any time.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| procpool::fuzz::rings(data));
