//! Programs whose `main` does not begin with `init()`.
//!
//! The harness does not call it for these cases, neither in the first process nor in the children.

use std::env;
use std::io::IoSlice;
use std::thread;
use std::time::Duration;

use start_methods::Boot;
use start_methods::StartError;
use start_methods::StartMethod;
use start_methods::Starter;
use start_methods::forkserver;

use crate::Case;
use crate::audit::children;
use crate::each;
use crate::helper::SOON;
use crate::helper::code;
use crate::helper::exit_with;
use crate::helper::start_ready;
use crate::once;

pub(crate) const CASES: &[Case] = &[
    each("forgotten_init_is_typed", forgotten_init_is_typed),
    each("a_child_without_init_is_no_bomb", a_child_without_init_is_no_bomb),
    once("a_main_that_ends_first_is_typed", a_main_that_ends_first_is_typed),
    once("a_main_that_never_comes_to_it_times_out", a_main_that_never_comes_to_it_times_out),
    once("a_main_that_talks_nonsense_is_typed", a_main_that_talks_nonsense_is_typed),
];

/// Whether this is the first process. Only that one calls `init()` here.
fn first_process() -> bool {
    let first = env::var_os("START_METHODS_CHILD").is_none();
    if first {
        start_methods::init();
    }
    first
}

fn forgotten_init_is_typed(method: StartMethod) {
    assert!(!start_methods::initialized());
    let starter = Starter::new(method);
    match method {
        // Fork does not need it.
        StartMethod::Fork => {
            let child = starter.unwrap().start(&Boot::new(exit_with).payload(&[4])).unwrap();
            child.wait_hello(SOON).unwrap();
            assert_eq!(code(child.wait().unwrap()), Some(4));
        }
        StartMethod::Spawn | StartMethod::Forkserver => {
            assert!(matches!(starter.unwrap_err(), StartError::NotInitialized));
        }
    }
    assert_eq!(children(), "", "nothing was started");
    assert_eq!(forkserver::pid(), None);
}

fn a_child_without_init_is_no_bomb(method: StartMethod) {
    first_process();
    // A child ends here.
    let starter = Starter::new(method).unwrap();
    let refused = |error: StartError| match error {
        StartError::Refused { reason } => {
            assert_eq!(reason, "main() reached Pool::new before init()");
        }
        other => panic!("{other}"),
    };
    match (method, starter.start(&Boot::new(exit_with).payload(&[4]))) {
        (StartMethod::Fork, child) => assert!(child.unwrap().wait().is_ok()),
        (StartMethod::Spawn, child) => {
            let child = child.unwrap();
            refused(child.wait_hello(SOON).unwrap_err());
            let exit = code(child.wait().unwrap());
            // It may have been killed before it ended by itself.
            assert!(exit == Some(112) || exit.is_none(), "{exit:?}");
        }
        (StartMethod::Forkserver, child) => refused(child.unwrap_err()),
    }
    assert_eq!(children(), "", "nothing is left");
}

fn a_main_that_ends_first_is_typed() {
    if !first_process() {
        std::process::exit(3);
    }
    let child = start_methods::start(StartMethod::Spawn, &Boot::new(exit_with)).unwrap();
    match child.wait_hello(SOON).unwrap_err() {
        StartError::DiedBeforeHello { pid, exit } => {
            assert_eq!((pid, code(exit)), (child.pid(), Some(3)));
        }
        other => panic!("{other}"),
    }
    let error = start_methods::start(StartMethod::Forkserver, &Boot::new(exit_with)).unwrap_err();
    assert!(matches!(error, StartError::Forkserver { .. }), "{error}");
}

fn a_main_that_never_comes_to_it_times_out() {
    if !first_process() {
        thread::sleep(Duration::from_secs(1000));
    }
    let child = start_methods::start(StartMethod::Spawn, &Boot::new(exit_with)).unwrap();
    assert_eq!(child.try_hello().unwrap(), None);
    let error = child.wait_hello(Duration::from_millis(200)).unwrap_err();
    assert!(matches!(error, StartError::HelloTimeout { .. }), "{error}");
    assert!(child.wait_timeout(SOON).unwrap().is_some());
}

fn a_main_that_talks_nonsense_is_typed() {
    use nix::sys::socket::MsgFlags;
    use nix::sys::socket::sendmsg;

    if !first_process() {
        let words = [IoSlice::new(b"hello from another program")];
        sendmsg::<()>(3, &words, &[], MsgFlags::empty(), None).unwrap();
        thread::sleep(Duration::from_secs(1000));
    }
    let child = start_methods::start(StartMethod::Spawn, &Boot::new(exit_with)).unwrap();
    let error = child.wait_hello(SOON).unwrap_err();
    assert!(matches!(error, StartError::Protocol { .. }), "{error}");
    assert!(child.wait_timeout(SOON).unwrap().is_some(), "it was killed");

    // Fork does not need it.
    drop(start_ready(StartMethod::Fork, &Boot::new(exit_with).payload(&[0])));
}
