//! The marker in the environment of a program that may be a child.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| start_methods::fuzz::marker(data));
