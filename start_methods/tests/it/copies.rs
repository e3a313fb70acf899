//! Executables that are deleted, replaced, of another build, or not programs.

use std::env;
use std::fs;
use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::path::PathBuf;
use std::process::Command;

use start_methods::Boot;
use start_methods::StartError;
use start_methods::StartMethod;
use start_methods::Starter;
use start_methods::forkserver;
use start_methods::image;
use tempfile::TempDir;

use crate::CASE;
use crate::Case;
use crate::each;
use crate::helper::SOON;
use crate::helper::code;
use crate::helper::exit_with;
use crate::helper::start_ready;
use crate::helper::succeed;
use crate::once;

pub(crate) const CASES: &[Case] = &[
    each("a_deleted_program_still_starts", a_deleted_program_still_starts),
    each("a_replaced_program_still_starts", a_replaced_program_still_starts),
    once("a_copy_of_the_program_will_do", a_copy_of_the_program_will_do),
    once("another_build_refuses", another_build_refuses),
    once("what_cannot_be_executed_is_typed", what_cannot_be_executed_is_typed),
    once("an_oversized_environment_is_typed", an_oversized_environment_is_typed),
];

pub(crate) const INNER: &[Case] =
    &[each("delete_yourself", delete_yourself), each("replace_yourself", replace_yourself)];

fn copy_of_this_program() -> (TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let copy = directory.path().join("a copy");
    fs::copy("/proc/self/exe", &copy).unwrap();
    (directory, copy)
}

fn run_copy(inner: &str, method: StartMethod) {
    let (_directory, copy) = copy_of_this_program();
    let mut command = Command::new(copy);
    command.env(CASE, format!("inner::{inner}::{method}"));
    succeed(command);
}

fn a_deleted_program_still_starts(method: StartMethod) {
    run_copy("delete_yourself", method);
}

fn a_replaced_program_still_starts(method: StartMethod) {
    run_copy("replace_yourself", method);
}

fn delete_yourself(method: StartMethod) {
    fs::remove_file(env::current_exe().unwrap()).unwrap();
    assert_eq!(code(start_ready(method, &Boot::new(exit_with).payload(&[9])).wait().unwrap()), Some(9));
}

fn replace_yourself(method: StartMethod) {
    let path = env::current_exe().unwrap();
    fs::remove_file(&path).unwrap();
    fs::copy("/bin/false", &path).unwrap();
    assert_eq!(code(start_ready(method, &Boot::new(exit_with).payload(&[9])).wait().unwrap()), Some(9));
}

fn a_copy_of_the_program_will_do() {
    let (_directory, copy) = copy_of_this_program();
    for method in StartMethod::ALL {
        let starter = Starter::new(method).unwrap().executable(&copy);
        let child = starter.start(&Boot::new(exit_with).payload(&[9])).unwrap();
        child.wait_hello(SOON).unwrap();
        assert_eq!(code(child.wait().unwrap()), Some(9));
    }
    assert_eq!(forkserver::pid(), None, "the starter had a server of its own");
}

/// The same program with another build id.
fn write_other_build(copy: &Path) {
    let mut bytes = fs::read(copy).unwrap();
    let id = image::build_id();
    let place = bytes.windows(id.len()).position(|window| window == id).unwrap();
    bytes[place] ^= 0xff;
    fs::write(copy, bytes).unwrap();
}

fn another_build_refuses() {
    let (_directory, copy) = copy_of_this_program();
    write_other_build(&copy);
    let starter = |method| Starter::new(method).unwrap().executable(&copy);

    let spawned = starter(StartMethod::Spawn).start(&Boot::new(exit_with)).unwrap();
    let of_spawned = spawned.wait_hello(SOON).unwrap_err();
    let of_server = starter(StartMethod::Forkserver).start(&Boot::new(exit_with)).unwrap_err();

    for error in [of_spawned, of_server] {
        match error {
            StartError::Refused { reason } => assert!(reason.contains("build"), "{reason}"),
            other => panic!("{other}"),
        }
    }
}

fn what_cannot_be_executed_is_typed() {
    let (directory, copy) = copy_of_this_program();
    let text = directory.path().join("a text");
    fs::write(&text, "no program").unwrap();
    let try_it = |path: &Path, method| {
        let starter = Starter::new(method).unwrap().executable(path);
        match starter.start(&Boot::new(exit_with)).unwrap_err() {
            StartError::System { errno, .. } => errno,
            other => panic!("{other}"),
        }
    };
    let mut written = OpenOptions::new().append(true).open(&copy).unwrap();
    written.write_all(b"x").unwrap();

    for method in [StartMethod::Spawn, StartMethod::Forkserver] {
        assert_eq!(try_it(&directory.path().join("nothing"), method), libc::ENOENT);
        assert_eq!(try_it(directory.path(), method), libc::EACCES);
        assert_eq!(try_it(&text, method), libc::EACCES);
        assert_eq!(try_it(&copy, method), libc::ETXTBSY);
    }
}

fn an_oversized_environment_is_typed() {
    // SAFETY: the case has no other thread that could read the environment.
    #[expect(unsafe_code, reason = "the environment of a process with one thread")]
    unsafe {
        env::set_var("FAR_TOO_LONG", "x".repeat(200 * 1024));
    }
    for method in [StartMethod::Spawn, StartMethod::Forkserver] {
        match start_methods::start(method, &Boot::new(exit_with)).unwrap_err() {
            StartError::System { errno, .. } => assert_eq!(errno, libc::E2BIG),
            other => panic!("{other}"),
        }
    }
    drop(start_ready(StartMethod::Fork, &Boot::new(exit_with).payload(&[0])));
}
