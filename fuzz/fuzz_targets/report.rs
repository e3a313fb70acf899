//! What a worker says on its control socket, and how it tells of a panic.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| procpool::fuzz::report(data));
