//! The examples of procpool. Run one with `cargo run --release --example NAME`.
