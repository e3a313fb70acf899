//! The benches of procpool, beside its peers. Run one with `cargo bench --bench NAME`.
