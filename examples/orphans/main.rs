//! Kills parents at random moments, and looks for processes of theirs that survive.
//!
//! ```text
//!  hunt (the subreaper) ──▶ victim ──▶ pool, workers: busy, asleep, stopped, starting, with nested pools
//!    ▲     SIGKILL ──────────▶ ✗              │
//!    └────────── orphaned processes ◀─────────┘
//! ```
//!
//! ```text
//! cargo run --release --example orphans -- [options]
//! ```
//!
//! This program is a subreaper, so every orphan becomes its child, whatever its name and whichever process started it.
//! When no child is left, no process is left.

#![expect(clippy::print_stdout, reason = "an example prints its results")]
#![expect(clippy::print_stderr, reason = "errors are printed to stderr, apart from the results")]

#[path = "../soak/command_line.rs"]
mod command_line;
#[path = "../soak/dice.rs"]
mod dice;
mod hunt;
mod options;
mod victim;

use std::process::ExitCode;

use anyhow::Context;
use nix::sys::prctl;

use crate::options::HELP;
use crate::options::Options;

fn main() -> ExitCode {
    procpool::init();
    let (_, options) = match command_line::read("orphans", HELP, options::parse, |options| options.help) {
        Ok(read) => read,
        Err(end) => return end,
    };
    if let Some((method, seed)) = options.victim {
        victim::live(method, seed);
    }
    match hunt_all(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("orphans: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether there was no orphan.
fn hunt_all(options: &Options) -> anyhow::Result<bool> {
    prctl::set_child_subreaper(true).context("prctl(PR_SET_CHILD_SUBREAPER)")?;
    let mut clean = true;
    for &method in &options.methods {
        let verdict = hunt::run(method, options)?;
        println!("{method}: {verdict}");
        for complaint in &verdict.complaints {
            eprintln!("orphans: {method}: {complaint}");
        }
        clean &= verdict.is_clean();
    }
    Ok(clean)
}
