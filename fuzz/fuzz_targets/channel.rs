//! A channel into whose memory another process writes.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| procpool::fuzz::channel(data));
