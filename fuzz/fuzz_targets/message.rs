//! What is said over a control socket before it is the user's, to and by a fork server too.

#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| start_methods::fuzz::message(data));
