//! The contract of the crate, checked for every start method, each case in a separate process.
//!
//! The harness runs this program once more for every case, with a deadline, and shows its output if it fails. So a hang
//! is a failure and does not block the run, fork sees no foreign threads, and the audit at the end of each case (no
//! child, zombie, thread or descriptor is left) is exact.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![expect(clippy::print_stdout, reason = "the output of a case is shown when it fails, or is read by another process")]

mod audit;
mod bare;
mod birth;
mod copies;
mod death;
mod early;
mod helper;
mod host;
mod limits;
mod parent;
mod refusal;
mod rights;
mod second;
mod server;
mod settings;
mod several;
mod socket;
mod tree;

use std::env;
use std::fs;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::process::Stdio;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use libtest_mimic::Arguments;
use libtest_mimic::Failed;
use libtest_mimic::Trial;
use nix::sys::signal::Signal;
use nix::sys::signal::killpg;
use nix::unistd::Pid;
use start_methods::StartMethod;

use crate::audit::Audit;

/// The environment variable that names the case of this process.
pub(crate) const CASE: &str = "START_METHODS_CASE";

const DEADLINE: Duration = Duration::from_secs(60);

/// A test case.
pub(crate) struct Case {
    name: &'static str,
    run: Run,
}

#[derive(Clone, Copy)]
enum Run {
    Each(fn(StartMethod)),
    Once(fn()),
}

/// A case for every start method.
pub(crate) const fn each(name: &'static str, run: fn(StartMethod)) -> Case {
    Case { name, run: Run::Each(run) }
}

/// A case that runs once, and chooses its start methods itself.
pub(crate) const fn once(name: &'static str, run: fn()) -> Case {
    Case { name, run: Run::Once(run) }
}

const MODULES: &[(&str, &[Case])] = &[
    ("bare", bare::CASES),
    ("birth", birth::CASES),
    ("copies", copies::CASES),
    ("death", death::CASES),
    ("early", early::CASES),
    ("host", host::CASES),
    ("limits", limits::CASES),
    ("parent", parent::CASES),
    ("refusal", refusal::CASES),
    ("rights", rights::CASES),
    ("second", second::CASES),
    ("server", server::CASES),
    ("settings", settings::CASES),
    ("several", several::CASES),
    ("socket", socket::CASES),
    ("tree", tree::CASES),
];

/// Programs that cases run; they are not cases themselves.
const INNER: &[(&str, &[Case])] = &[
    ("inner", host::INNER),
    ("inner", parent::INNER),
    ("inner", copies::INNER),
    ("inner", early::INNER),
    ("inner", rights::INNER),
];

fn main() {
    if let Ok(name) = env::var(CASE) {
        run_here(&name);
        return;
    }
    let arguments = Arguments::from_args();
    let trials = names(MODULES)
        .into_iter()
        .map(|(name, _)| Trial::test(name.clone(), move || run_in_a_process(&name)))
        .collect();
    libtest_mimic::run(&arguments, trials).exit();
}

/// Every case by its full name.
fn names(modules: &[(&str, &'static [Case])]) -> Vec<(String, Box<dyn Fn()>)> {
    let mut all: Vec<(String, Box<dyn Fn()>)> = Vec::new();
    for (module, cases) in modules {
        for case in *cases {
            match case.run {
                Run::Once(run) => all.push((format!("{module}::{}", case.name), Box::new(run))),
                Run::Each(run) => {
                    for method in StartMethod::ALL {
                        let name = format!("{module}::{}::{method}", case.name);
                        all.push((name, Box::new(move || run(method))));
                    }
                }
            }
        }
    }
    all
}

/// Runs one case in this process, and checks what it leaves behind.
fn run_here(name: &str) {
    early::begin_main();
    // The bare cases are about programs that do not begin with `init()`.
    if !name.starts_with("bare::") {
        start_methods::init();
    }
    let found = names(MODULES).into_iter().chain(names(INNER)).find(|(known, _)| known == name);
    let (_, run) = found.unwrap_or_else(|| panic!("there is no case {name}"));
    let audit = Audit::begin();
    run();
    audit.end();
}

/// Runs this program once more, for one case.
fn run_in_a_process(name: &str) -> Result<(), Failed> {
    let output = tempfile::NamedTempFile::new()?;
    let mut process = Command::new("/proc/self/exe")
        .env(CASE, name)
        .env("RUST_BACKTRACE", "1")
        .stdin(Stdio::null())
        .stdout(output.reopen()?)
        .stderr(output.reopen()?)
        .process_group(0)
        .spawn()?;
    let deadline = Instant::now() + DEADLINE;
    let failure = loop {
        if let Some(status) = process.try_wait()? {
            break (!status.success()).then(|| status.to_string());
        }
        if Instant::now() > deadline {
            killpg(Pid::from_raw(process.id().try_into()?), Signal::SIGKILL)?;
            process.wait()?;
            break Some(format!("not done after {DEADLINE:?}"));
        }
        thread::sleep(Duration::from_millis(2));
    };
    match failure {
        None => Ok(()),
        Some(failure) => Err(format!("{failure}\n{}", fs::read_to_string(output.path())?).into()),
    }
}
