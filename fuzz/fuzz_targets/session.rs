//! The schedule in a world where anything happens in any order.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| procpool::fuzz::session(data));
