//! The integration tests of the pool: every case is written once and runs with every start method.
//!
//! ```text
//!  runner ──▶ warden (one per trial, the subreaper) ──▶ case (main thread, alone) ──▶ pool, workers
//!                                                             └──▶ victim (a parent that will die)
//! ```
//!
//! All of them are this binary. The runner makes one trial for each case and method; a trial starts a warden, and the
//! warden starts the case in a new session and enforces its deadline. So a case that hangs fails with a dump and does
//! not block the run, `fork` sees no foreign threads, and leaks of a case can be counted exactly.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod harness;

mod calls;
mod faults;
mod hostile;
mod ipc;
mod life;
mod observe;
mod process;
mod values;

use std::process::ExitCode;

use harness::Module;
use harness::Role;
use harness::warden;

const FOLDERS: &[&[Module]] = &[
    harness::MODULES,
    calls::MODULES,
    faults::MODULES,
    hostile::MODULES,
    ipc::MODULES,
    life::MODULES,
    observe::MODULES,
    process::MODULES,
    values::MODULES,
];

fn main() -> ExitCode {
    let role = harness::role();
    if let Role::Early(scene) = &role {
        life::early::begin_main(scene);
    }
    // A process that starts as a worker never returns from `init`, whatever role it inherited. One role omits the call.
    if !matches!(&role, Role::Forgetful(_)) {
        procpool::init();
    }
    match role {
        Role::Runner => harness::run(FOLDERS),
        Role::Warden(case) => warden::watch(&case),
        Role::Case(case) => harness::run_case(FOLDERS, &case),
        Role::Victim(name) => life::parent::play_victim(&name),
        Role::Early(scene) => life::early::play(&scene),
        Role::Forgetful(method) => life::limits::forget_init(&method),
    }
}
