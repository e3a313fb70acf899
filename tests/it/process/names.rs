//! The name of a process, its parent's, and those of its children.

use procpool::Pool;
use procpool::StartMethod;
use procpool::process;
use procpool::process::Process;

use super::by;
use super::park;
use super::parse;
use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::harness::sys;

cases![
    names_are_those_of_python,
    parent_is_the_one_that_asked_for_the_start,
    names_of_every_kind,
    workers_have_the_names_of_their_processes,
    copies_keep_the_name,
    active_ones_are_listed,
];

fn own_name() -> String {
    process::current().name().to_owned()
}

fn parent() -> Option<(u32, String)> {
    process::current().parent().map(|parent| (parent.pid(), parent.name().to_owned()))
}

fn names_are_those_of_python(method: StartMethod) {
    assert_eq!(process::current().name(), "MainProcess");
    assert_eq!(process::current().pid(), std::process::id());
    assert!(process::current().parent().is_none());
    let names = |builder: process::ProcessBuilder| {
        let process = builder.spawn((), own_name).unwrap();
        assert_eq!(process.join().unwrap(), process.name());
        process.name().to_owned()
    };
    assert_eq!(names(by(method)), "Process-1");
    assert_eq!(names(by(method).name("logger")), "logger");
    assert_eq!(names(by(method)), "Process-3");
    let nested: fn(String) -> Vec<String> = |method| {
        let inner: fn(String) -> String = |method| by(parse(&method)).spawn((), own_name).unwrap().join().unwrap();
        (0..2).map(|_| by(parse(&method)).spawn((method.clone(),), inner).unwrap().join().unwrap()).collect()
    };
    for (inner, number) in StartMethod::ALL.into_iter().zip(4..) {
        let names = by(method).spawn((inner.to_string(),), nested).unwrap().join().unwrap();
        let expected = [1, 2].map(|second| format!("Process-{number}:{second}:1"));
        assert_eq!(names, expected, "{inner} in {method}");
    }
}

fn parent_is_the_one_that_asked_for_the_start(method: StartMethod) {
    let told = by(method).spawn((), parent).unwrap().join().unwrap();
    assert_eq!(told, Some((std::process::id(), "MainProcess".to_owned())));
    let nested = |method: String| (std::process::id(), by(parse(&method)).spawn((), parent).unwrap().join().unwrap());
    let (pid, told) = by(method).name("father").spawn((method.to_string(),), nested).unwrap().join().unwrap();
    assert_eq!(told, Some((pid, "father".to_owned())));
}

fn names_of_every_kind(method: StartMethod) {
    for name in ["", "長い名前", "with\0zero", "with space/slash", &"x".repeat(10_000)] {
        let process = by(method).name(name).spawn((), own_name).unwrap();
        assert_eq!((process.name(), process.join().unwrap().as_str()), (name, name));
    }
    let process =
        by(method).name("a-rather-long-name").spawn((), || std::fs::read_to_string("/proc/self/comm").unwrap());
    assert_eq!(process.unwrap().join().unwrap().trim(), "a-rather-long-n");
}

fn workers_have_the_names_of_their_processes(method: StartMethod) {
    let pool = Pool::builder().processes(2).name("resize").start_method(method).build().unwrap();
    stage::until_all_work(&pool);
    let see = |method: String| {
        let child = by(parse(&method)).spawn((), own_name).unwrap();
        (own_name(), parent(), child.join().unwrap(), std::fs::read_to_string("/proc/self/comm").unwrap())
    };
    let (name, told, child, comm) = pool.apply((method.to_string(),), see).unwrap();
    assert!(["resize-0", "resize-1"].contains(&name.as_str()), "{name}");
    assert_eq!(told, Some((std::process::id(), "MainProcess".to_owned())));
    assert_eq!((child, comm.trim()), (format!("{name}:1"), name.as_str()));
    // The pool's workers took no number.
    assert_eq!(by(method).spawn((), own_name).unwrap().join().unwrap(), "Process-1");
    assert!(process::active().is_empty(), "workers are not among them");
}

fn copies_keep_the_name(method: StartMethod) {
    let process = by(method).name("original").spawn((), || {
        sys::in_a_forked_copy(|| {
            let current = process::current();
            u8::from(current.name() != "original" || current.pid() != std::process::id())
        })
    });
    assert_eq!(process.unwrap().join().unwrap(), 0);
    assert_eq!(sys::in_a_forked_copy(|| u8::from(process::current().name() != "MainProcess")), 0);
}

fn active_ones_are_listed(method: StartMethod) {
    assert!(process::active().is_empty());
    let some: Vec<Process<()>> = (0..3).map(|_| by(method).spawn((), park).unwrap()).collect();
    let listed: Vec<(u32, String)> =
        process::active().iter().map(|child| (child.pid(), child.name().to_owned())).collect();
    let expected: Vec<(u32, String)> = some.iter().map(|process| (process.pid(), process.name().to_owned())).collect();
    assert_eq!(listed, expected);
    some[1].kill().unwrap();
    some[1].join().unwrap_err();
    assert_eq!(process::active().iter().map(process::Info::pid).collect::<Vec<_>>(), [some[0].pid(), some[2].pid()]);
    // A process has children of its own.
    let theirs = by(method).spawn((), || process::active().len()).unwrap();
    assert_eq!(theirs.join().unwrap(), 0);
    let pids: Vec<u32> = some.iter().map(Process::pid).collect();
    drop(some);
    assert!(process::active().is_empty() && pids.into_iter().all(processes::ended));
}
