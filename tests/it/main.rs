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

mod harness;

mod calls;
mod faults;
mod hostile;
mod life;
mod values;

use std::process::ExitCode;

use harness::Module;
use harness::Role;
use harness::warden;

const FOLDERS: &[&[Module]] =
    &[harness::MODULES, calls::MODULES, faults::MODULES, hostile::MODULES, life::MODULES, values::MODULES];

fn main() -> ExitCode {
    let role = harness::role();
    // A worker's first run ends inside `init`, whatever role it inherited; one victim is there to forget the call.
    if !matches!(&role, Role::Forgetful(_)) {
        procpool::init();
    }
    match role {
        Role::Runner => harness::run(FOLDERS),
        Role::Warden(case) => warden::watch(&case),
        Role::Case(case) => harness::run_case(FOLDERS, &case),
        Role::Victim(name) => life::parent::play_victim(&name),
        Role::Forgetful(method) => life::limits::forget_init(&method),
    }
}
