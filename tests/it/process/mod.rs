//! Processes: one function each, from the start to the result, and whatever may come between.

use procpool::StartMethod;
use procpool::process::Process;
use procpool::process::ProcessBuilder;

crate::harness::modules![crowds, drops, exits, joins, liars, names, offspring, spawns,];

/// Processes by this start method.
fn by(method: StartMethod) -> ProcessBuilder {
    Process::builder().start_method(method)
}

/// Start methods are passed by name.
fn parse(method: &str) -> StartMethod {
    method.parse().unwrap()
}

fn park() {
    loop {
        std::thread::park();
    }
}
