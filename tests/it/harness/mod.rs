//! The test harness: the role of this process, how a trial is run, and what a case must do to pass.
//!
//! A case passes if it returns, its audit finds nothing and it exits with [`PASSED`]. Every other end is a failure, an
//! `exit(0)` in a task or callback included.

pub(crate) mod audit;
pub(crate) mod misdeeds;
pub(crate) mod polling;
pub(crate) mod processes;
pub(crate) mod stage;
pub(crate) mod sys;
pub(crate) mod warden;
pub(crate) mod warnings;

use std::env;
use std::fs::File;
use std::io::Read;
use std::io::Seek;
use std::io::SeekFrom;
use std::process::Command;
use std::process::ExitCode;
use std::process::Stdio;
use std::time::Duration;

use libtest_mimic::Arguments;
use libtest_mimic::Failed;
use libtest_mimic::Trial;
use procpool::StartMethod;

use self::audit::Audit;

pub(crate) type Case = fn(StartMethod);
pub(crate) type Module = (&'static str, &'static [(&'static str, Case)]);

/// Lists the cases of a module by name. A case that is not listed is dead code, which the compiler reports.
macro_rules! cases {
    ($($case:ident,)+) => {
        pub(crate) const CASES: &[(&str, crate::harness::Case)] = &[$((stringify!($case), $case)),+];
    };
}
pub(crate) use cases;

/// Declares the modules of a folder and lists their cases. `cargo fmt` does not find files that a macro declares:
/// format them by `rustfmt tests/it/*/*.rs`.
macro_rules! modules {
    ($($(#[$attribute:meta])* $module:ident),+ $(,)?) => {
        $($(#[$attribute])* pub(crate) mod $module;)+

        pub(crate) const MODULES: &[crate::harness::Module] =
            &[$($(#[$attribute])* (stringify!($module), $module::CASES)),+];
    };
}
pub(crate) use modules;

/// The cases about the harness itself.
pub(crate) const MODULES: &[Module] = &[("misdeeds", misdeeds::CASES)];

/// The exit code of a case that passed: unlikely by accident.
pub(crate) const PASSED: u8 = 17;

const ROLE: &str = "PROCPOOL_IT_ROLE";
pub(crate) const DEADLINE: &str = "PROCPOOL_IT_DEADLINE_SECONDS";
const THREADS_MAX: usize = 4;
/// A failure shows at most this much of the end of the output, where the panic and the dump are.
const SHOWN_BYTES_MAX: u64 = 64 * 1024;

/// The role of this run of the binary.
#[derive(Debug)]
pub(crate) enum Role {
    /// Lists the trials and starts a warden for each.
    Runner,
    /// Starts one case and enforces its deadline.
    Warden(String),
    /// Runs one case in its main thread.
    Case(String),
    /// The parent of a pool, which is killed or ends badly.
    Victim(String),
    /// Starts a thread before it calls `init`.
    Early(String),
    /// Makes a pool without calling `init`.
    Forgetful(String),
}

/// Reads the role from the environment.
pub(crate) fn role() -> Role {
    let Ok(role) = env::var(ROLE) else { return Role::Runner };
    let (kind, name) = role.split_once('=').expect("a role is kind=name");
    let name = name.to_owned();
    match kind {
        "warden" => Role::Warden(name),
        "case" => Role::Case(name),
        "victim" => Role::Victim(name),
        "early" => Role::Early(name),
        "forgetful" => Role::Forgetful(name),
        _ => panic!("unknown role {kind}"),
    }
}

/// A command that runs this binary in another role. `/proc/self/exe` is the same program even if the file was rebuilt.
pub(crate) fn again(kind: &str, name: &str) -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.env(ROLE, format!("{kind}={name}")).stdin(Stdio::null());
    command
}

/// The time limit of a case.
pub(crate) fn deadline() -> Duration {
    let seconds = env::var(DEADLINE).ok().and_then(|seconds| seconds.parse().ok()).unwrap_or(60);
    Duration::from_secs(seconds)
}

/// Runs the trials that the command line selects.
pub(crate) fn run(folders: &[&[Module]]) -> ExitCode {
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(THREADS_MAX);
    let modules = folders.iter().copied().flatten();
    let trials = modules
        .flat_map(|(module, cases)| cases.iter().map(move |(case, _)| format!("{module}::{case}")))
        .flat_map(|case| StartMethod::ALL.map(|method| format!("{case}::{method}")))
        .map(|name| Trial::test(name.clone(), move || trial(&name)))
        .collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn trial(name: &str) -> Result<(), Failed> {
    let mut output = tempfile::tempfile()?;
    let mut warden = again("warden", name).stdout(output.try_clone()?).stderr(output.try_clone()?).spawn()?;
    let pidfd = sys::pidfd_open(warden.id())?;
    // The warden enforces the case's deadline; this longer one catches a warden that is itself stuck.
    if !sys::readable_within(&pidfd, deadline() + Duration::from_secs(60))? {
        warden.kill()?;
        let _ = warden.wait()?;
        return Err(Failed::from(format!("the warden did not end\n{}", shown(&mut output)?)));
    }
    let status = warden.wait()?;
    if status.success() { Ok(()) } else { Err(Failed::from(format!("{status}\n{}", shown(&mut output)?))) }
}

fn shown(output: &mut File) -> Result<String, Failed> {
    let length = output.seek(SeekFrom::End(0))?;
    output.seek(SeekFrom::Start(length.saturating_sub(SHOWN_BYTES_MAX)))?;
    let mut bytes = Vec::new();
    output.read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Runs one case in this process, then checks what it left behind.
pub(crate) fn run_case(folders: &[&[Module]], name: &str) -> ExitCode {
    // A new session, so that nothing in the case can reach the terminal or the runner's process group.
    nix::unistd::setsid().expect("a process started by the warden leads no group");
    nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL).expect("a valid signal");
    let (case, method) = find(folders, name);
    let audit = Audit::begin();
    case(method);
    procpool::forkserver::stop();
    audit.finish();
    ExitCode::from(PASSED)
}

fn find(folders: &[&[Module]], name: &str) -> (Case, StartMethod) {
    let mut parts = name.splitn(3, "::");
    let (module, case, method) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
    let mut modules = folders.iter().copied().flatten();
    let cases = modules.find(|(known, _)| *known == module).expect("a known module").1;
    let mut cases = cases.iter().chain(misdeeds::MISDEEDS);
    let case = cases.find(|(known, _)| *known == case).expect("a known case").1;
    (case, method.parse().expect("a start method"))
}
