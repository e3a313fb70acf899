//! The name of a place in a loaded image.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| start_methods::fuzz::place(data));
