//! The contract of the pool: every case is written once and asked of every start method.
//!
//! ```text
//!  runner ──▶ warden (one per trial, the subreaper) ──▶ case (main thread, alone) ──▶ pool, workers
//!                                                             └──▶ victim (a parent that is to die)
//! ```
//!
//! All of them are this binary. The runner makes the product of cases and methods; a trial starts a warden, the
//! warden starts the case in a session of its own and holds it to its deadline. So a hang is a failure with a dump and
//! not a stuck run, `fork` sees no foreign threads, and what a case leaves behind can be counted exactly.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod audit;
mod harness;
mod processes;
mod spoilt;
mod stage;
mod sys;
mod warden;

mod apply;
mod callbacks;
mod cancel;
mod compare;
mod context;
mod deaths;
mod deep;
mod descriptors;
mod elastic;
mod errors;
mod exhaustion;
#[cfg(debug_assertions)]
mod failpoints;
mod hostile;
mod hygiene;
mod imap;
mod initializer;
mod lifecycle;
mod limits;
mod map;
mod misdeeds;
mod nested;
mod parent;
mod payloads;
mod pressure;
mod python;
mod races;
mod recycle;
mod results;
mod retries;
mod reused;
mod rogue;
mod servers;
mod settings;
mod stalled;
mod starmap;
mod starts;
#[cfg(debug_assertions)]
mod startup;
#[cfg(debug_assertions)]
mod sweep;
mod terminate;
mod timeouts;
mod values;
mod waits;

use std::process::ExitCode;

use harness::Module;
use harness::Role;

const MODULES: &[Module] = &[
    ("apply", apply::CASES),
    ("callbacks", callbacks::CASES),
    ("cancel", cancel::CASES),
    ("compare", compare::CASES),
    ("context", context::CASES),
    ("deaths", deaths::CASES),
    ("deep", deep::CASES),
    ("descriptors", descriptors::CASES),
    ("elastic", elastic::CASES),
    ("errors", errors::CASES),
    ("exhaustion", exhaustion::CASES),
    #[cfg(debug_assertions)]
    ("failpoints", failpoints::CASES),
    ("hostile", hostile::CASES),
    ("hygiene", hygiene::CASES),
    ("imap", imap::CASES),
    ("initializer", initializer::CASES),
    ("lifecycle", lifecycle::CASES),
    ("limits", limits::CASES),
    ("map", map::CASES),
    ("misdeeds", misdeeds::CASES),
    ("nested", nested::CASES),
    ("parent", parent::CASES),
    ("payloads", payloads::CASES),
    ("pressure", pressure::CASES),
    ("python", python::CASES),
    ("races", races::CASES),
    ("recycle", recycle::CASES),
    ("spoilt", spoilt::CASES),
    ("results", results::CASES),
    ("retries", retries::CASES),
    ("reused", reused::CASES),
    ("rogue", rogue::CASES),
    ("servers", servers::CASES),
    ("settings", settings::CASES),
    ("stalled", stalled::CASES),
    ("starmap", starmap::CASES),
    ("starts", starts::CASES),
    #[cfg(debug_assertions)]
    ("startup", startup::CASES),
    #[cfg(debug_assertions)]
    ("sweep", sweep::CASES),
    ("terminate", terminate::CASES),
    ("timeouts", timeouts::CASES),
    ("values", values::CASES),
    ("waits", waits::CASES),
];

fn main() -> ExitCode {
    let role = harness::role();
    // A worker's first run ends inside `init`, whatever role it inherited; one victim is there to forget the call.
    if !matches!(&role, Role::Forgetful(_)) {
        procpool::init();
    }
    match role {
        Role::Runner => harness::run(MODULES),
        Role::Warden(case) => warden::watch(&case),
        Role::Case(case) => harness::run_case(MODULES, &case),
        Role::Victim(name) => parent::play_victim(&name),
        Role::Forgetful(method) => limits::forget_init(&method),
    }
}
