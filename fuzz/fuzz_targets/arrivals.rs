//! What a worker has left in its ring, once it was copied out.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| procpool::fuzz::arrivals(data));
