//! Code that runs before `init`: constructors, and `main` itself. It runs in executed children and in servers as well.
//!
//! The constructor of this program does what the variable [`EARLY`] says: nothing in all other cases.

#![expect(
    unsafe_code,
    reason = "a constructor is put into a section by name, and threads are promised to hold no lock"
)]

use std::env;
use std::fs;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::process::Command;
use std::sync::OnceLock;
use std::thread;
use std::thread::JoinHandle;

use start_methods::Birth;
use start_methods::Boot;
use start_methods::StartError;
use start_methods::StartMethod;
use start_methods::Starter;
use start_methods::forkserver;

use crate::Case;
use crate::audit::children;
use crate::each;
use crate::helper::SOON;
use crate::helper::answer_of;
use crate::helper::inner;
use crate::helper::receive_text;
use crate::helper::send_text;
use crate::helper::succeed;
use crate::once;

pub(crate) const CASES: &[Case] = &[
    each("a_file_of_a_constructor_stays_open", a_file_of_a_constructor_stays_open),
    each("threads_of_a_constructor_are_named", |method| beside_threads("thread", &format!("named::{method}"))),
    each("threads_of_main_before_init_are_named", |method| beside_threads("main", &format!("named::{method}"))),
    once("the_automatic_starter_falls_back_to_spawn", || beside_threads("thread", "falls_back")),
    once("preloads_forbid_to_fall_back", || beside_threads("thread", "preloads")),
    each("a_promise_allows_to_fork_beside_threads", |method| {
        beside_threads("thread", &format!("promised::{method}"));
    }),
    once("threads_that_come_later_are_named_too", threads_that_come_later_are_named_too),
    each("init_before_main_comes_before_threads_of_main", |method| {
        beside_threads("init", &format!("works::{method}"));
    }),
];

pub(crate) const INNER: &[Case] = &[
    each("file", file),
    each("named", named),
    once("falls_back", falls_back),
    once("preloads", preloads),
    each("promised", promised),
    each("works", works),
];

/// What comes before `init`: `file` opens one, `thread` starts one, both in the constructor; `main` starts a thread in
/// `main`, and `init` does too, but calls `init` in the constructor.
const EARLY: &str = "START_METHODS_EARLY";

const NAME: &str = "an-early-thread";

static FILE: OnceLock<File> = OnceLock::new();

extern "C" fn construct() {
    match env::var(EARLY).as_deref() {
        Ok("file") => drop(FILE.set(File::open("/dev/zero").unwrap())),
        Ok("thread") => drop(start_thread()),
        Ok("init") => start_methods::init(),
        _ => {}
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static CONSTRUCTOR: extern "C" fn() = construct;

/// Called by `main` before `init`.
pub(crate) fn begin_main() {
    if matches!(env::var(EARLY).as_deref(), Ok("main" | "init")) {
        drop(start_thread());
    }
}

fn start_thread() -> JoinHandle<()> {
    let body = || {
        loop {
            thread::park();
        }
    };
    thread::Builder::new().name(NAME.to_owned()).spawn(body).unwrap()
}

fn early(what: &str, case: &str) -> Command {
    let mut command = inner(case);
    command.env(EARLY, what);
    command
}

fn beside_threads(what: &str, case: &str) {
    succeed(early(what, case));
}

/// Ends an inner case whose thread never ends: before the audit, which would count it.
fn end() -> ! {
    forkserver::stop();
    assert_eq!(children(), "");
    std::process::exit(0)
}

fn report_file(birth: Birth) -> u8 {
    let number = FILE.get().unwrap().as_raw_fd();
    let target = fs::read_link(format!("/proc/self/fd/{number}")).map_or_else(|error| error.to_string(), text);
    send_text(&birth.control, &target);
    0
}

fn text(path: std::path::PathBuf) -> String {
    path.to_str().unwrap().to_owned()
}

fn a_file_of_a_constructor_stays_open(method: StartMethod) {
    succeed(early("file", &format!("file::{method}")));
}

fn file(method: StartMethod) {
    assert_eq!(answer_of(method, report_file), "/dev/zero");
}

fn report_threads(birth: Birth) -> u8 {
    send_text(&birth.control, &format!("{} {}", birth.method, crate::audit::threads()));
    0
}

fn answer(starter: &Starter) -> String {
    let child = starter.start(&Boot::new(report_threads)).unwrap();
    child.wait_hello(SOON).unwrap();
    let text = receive_text(child.control());
    assert!(child.wait().unwrap().success());
    text
}

/// The names in the error by which a start was refused.
fn names_of(error: StartError) -> Vec<String> {
    match error {
        StartError::ForeignThreads { count: 1, names } | StartError::ServerThreads { count: 1, names } => names,
        other => panic!("{other}"),
    }
}

fn named(method: StartMethod) {
    let starter = Starter::new(method).unwrap();
    match method {
        StartMethod::Spawn => assert_eq!(answer(&starter), "spawn 2"),
        StartMethod::Fork | StartMethod::Forkserver => {
            let error = starter.start(&Boot::new(report_threads)).unwrap_err();
            assert!(error.to_string().contains(NAME), "{error}");
            assert_eq!(names_of(error), [NAME]);
        }
    }
    end()
}

fn falls_back() {
    let starter = Starter::automatic().unwrap();
    for _ in 0..3 {
        assert_eq!(answer(&starter), "spawn 2");
        assert_eq!(forkserver::pid(), None);
    }
    let mut starts = starter.several();
    let child = starts.order().start(&Boot::new(report_threads)).unwrap();
    assert_eq!(receive_hello_and_text(&child), "spawn 2");
    drop(child);
    end()
}

fn receive_hello_and_text(child: &start_methods::Child) -> String {
    child.wait_hello(SOON).unwrap();
    receive_text(child.control())
}

fn preloads() {
    forkserver::preload(|| ()).unwrap();
    let error = Starter::automatic().unwrap().start(&Boot::new(report_threads)).unwrap_err();
    assert_eq!(names_of(error), [NAME]);
    end()
}

fn promised(method: StartMethod) {
    let starter = match method {
        // SAFETY: the thread is parked and holds no lock.
        StartMethod::Fork => unsafe { Starter::fork_despite_threads() },
        // SAFETY: as above.
        StartMethod::Forkserver => unsafe { Starter::forkserver_despite_threads() },
        StartMethod::Spawn => end(),
    };
    let starter = starter.unwrap();
    for _ in 0..3 {
        assert_eq!(answer(&starter), format!("{method} 1"));
    }
    assert_eq!(forkserver::pid(), None, "its server is its own");
    drop(starter);
    end()
}

fn works(method: StartMethod) {
    if method != StartMethod::Fork {
        assert_eq!(answer(&Starter::new(method).unwrap()), format!("{method} 1"));
    }
    end()
}

/// A library may start its threads when it is used first, after the server has said that it is ready.
fn threads_that_come_later_are_named_too() {
    fn start_one_soon() {
        // SAFETY: the handler only starts a thread, in a process that waits in poll(2).
        let before = unsafe { libc::signal(libc::SIGUSR1, start_one as *const () as libc::sighandler_t) };
        assert_ne!(before, libc::SIG_ERR);
    }
    extern "C" fn start_one(_: std::ffi::c_int) {
        drop(start_thread());
    }
    forkserver::preload(start_one_soon).unwrap();
    let starter = Starter::new(StartMethod::Forkserver).unwrap();
    assert_eq!(answer(&starter), "forkserver 1");
    let server = forkserver::pid().unwrap();
    let pid = nix::unistd::Pid::from_raw(server.try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGUSR1).unwrap();
    while fs::read_dir(format!("/proc/{server}/task")).unwrap().count() < 2 {
        thread::yield_now();
    }

    let error = starter.start(&Boot::new(report_threads)).unwrap_err();

    assert!(matches!(error, StartError::ServerThreads { .. }), "{error}");
    assert_eq!(names_of(error), [NAME]);
}
