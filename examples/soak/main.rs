//! Soak test: kills workers at random while every kind of call runs, and accounts for every item.
//!
//! What the workers recorded themselves is compared with what the pool answered.
//!
//! ```text
//!  callers ── calls ──▶ pool ──▶ workers ◀── SIGKILL ── killer       injectors: stopped workers, killed servers,
//!     │ outcomes                    │ born, started, finished          no descriptors
//!     ▼                             ▼
//!   tally ────────▶ verdict ◀──── ledger          gauges: descriptors, memory, zombies at quiet points
//! ```
//!
//! ```text
//! cargo run --release --example soak -- [options]
//! ```
//!
//! It uses only the public API. What each number means, which may be other than zero, and why, is in
//! `docs/reliability.md`; the bugs that the soak must catch are in `README.md` beside this file.

#![expect(clippy::print_stdout, reason = "an example prints its results")]
#![expect(clippy::print_stderr, reason = "errors are printed to stderr, apart from the results")]

mod calls;
mod command_line;
mod dice;
mod gauges;
mod injector;
mod killer;
mod ledger;
mod options;
mod pool_log;
mod soak;
mod tally;
mod verdict;
mod watchdog;
mod work;

use std::process::Command;
use std::process::ExitCode;

use anyhow::Context;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use procpool::StartMethod;

use crate::options::HELP;
use crate::options::HERE;
use crate::options::Options;

fn main() -> ExitCode {
    procpool::init();
    let (arguments, options) = match command_line::read("soak", HELP, options::parse, |options| options.help) {
        Ok(read) => read,
        Err(end) => return end,
    };
    let mut clean = true;
    for &method in &options.methods {
        let is_clean = if options.is_here { soak_here(method, &options) } else { soak_elsewhere(method, &arguments) };
        clean &= is_clean.unwrap_or_else(|error| {
            eprintln!("soak: {method}: {error:#}");
            false
        });
    }
    if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn soak_here(method: StartMethod, options: &Options) -> anyhow::Result<bool> {
    // This run was started by another one; if that one ends, this one must end too.
    prctl::set_pdeathsig(Signal::SIGKILL).context("prctl(PR_SET_PDEATHSIG)")?;
    pool_log::install(&options.faults);
    let verdict = soak::run(method, options)?;
    println!("{method}: {verdict}");
    for complaint in &verdict.complaints {
        eprintln!("soak: {method}: {complaint}");
    }
    Ok(verdict.is_clean())
}

/// Soaks in another run of this program. So a run that ends in any way, an abort in the pool included, still gets its
/// line, and the next method runs.
fn soak_elsewhere(method: StartMethod, arguments: &[String]) -> anyhow::Result<bool> {
    let mut command = Command::new("/proc/self/exe");
    command.args(arguments).arg(format!("{HERE}={method}"));
    let status = command.status().context("cannot run this program again")?;
    if !matches!(status.code(), Some(0 | 1)) {
        println!("{method}: the soak ended early: {status}");
    }
    Ok(status.success())
}
