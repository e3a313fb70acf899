//! When the parent dies, everything that it has started dies too.

use std::io::BufRead;
use std::io::BufReader;
use std::process::Stdio;
use std::time::Duration;
use std::time::Instant;

use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::Signal;
use nix::sys::wait::WaitPidFlag;
use nix::sys::wait::WaitStatus;
use nix::sys::wait::waitpid;
use nix::unistd::ForkResult;
use nix::unistd::Pid;
use nix::unistd::getpid;
use start_methods::Birth;
use start_methods::Boot;
use start_methods::Child;
use start_methods::StartMethod;
use start_methods::Starter;
use start_methods::forkserver;

use crate::Case;
use crate::audit::children;
use crate::each;
use crate::helper::SOON;
use crate::helper::busy;
use crate::helper::inner;
use crate::helper::receive_text;
use crate::helper::send_text;
use crate::helper::status_line;
use crate::helper::until_message;

pub(crate) const CASES: &[Case] = &[
    each("a_killed_parent_takes_all_along", |method| kill_parent(method, "victim")),
    each("a_settled_parent_takes_all_along", |method| kill_parent(method, "settled_victim")),
    each("a_child_that_is_stopped_at_its_birth_goes_too", |method| kill_parent(method, "victim_of_newborns")),
    each("a_template_child_that_is_stopped_at_its_birth_goes_too", |method| {
        kill_parent(method, "settled_victim_of_newborns");
    }),
    each("children_that_are_stopped_when_all_are_there_go_too", |method| kill_parent(method, "victim_of_several")),
    each("a_parent_that_dies_at_any_moment_leaves_nobody", |method| {
        a_parent_that_dies_at_any_moment(method, "restless_victim");
    }),
    each("a_parent_that_dies_while_several_come_up_leaves_nobody", |method| {
        a_parent_that_dies_at_any_moment(method, "restless_victim_of_several");
    }),
    each("a_parent_that_exits_takes_all_along", a_parent_that_exits_takes_all_along),
    each("copies_of_the_parent_hold_nothing_up", |method| outlived_by_copies(method, "copied_victim")),
];

pub(crate) const INNER: &[Case] = &[
    each("victim", victim),
    each("settled_victim", settled_victim),
    each("victim_of_newborns", |method| be_a_victim_of_newborns(&Starter::new(method).unwrap())),
    each("settled_victim_of_newborns", settled_victim_of_newborns),
    each("victim_of_several", victim_of_several),
    each("restless_victim", restless_victim),
    each("restless_victim_of_several", restless_victim_of_several),
    each("exiting_victim", exiting_victim),
    each("copied_victim", copied_victim),
];

fn victim(method: StartMethod) {
    be_a_victim(&Starter::new(method).unwrap());
}

fn settled_victim(method: StartMethod) {
    let starter = Starter::new(method).unwrap();
    starter.settle().unwrap();
    be_a_victim(&starter);
}

/// Starts a child that is busy, one that is stopped, one that waits, and one that has a child of its own. Prints their
/// process ids, and waits to be killed.
fn be_a_victim(starter: &Starter) {
    fn have_a_child(birth: Birth) -> u8 {
        let grandchild = start_methods::start(birth.method, &Boot::new(busy)).unwrap();
        grandchild.wait_hello(SOON).unwrap();
        send_text(&birth.control, &grandchild.pid().to_string());
        busy(birth)
    }
    let start = |entry| {
        let child = starter.start(&Boot::new(entry)).unwrap();
        child.wait_hello(SOON).unwrap();
        child
    };
    let [running, stopped, waiting] = [busy, busy, until_message].map(start);
    let family = start(have_a_child);
    let grandchild = receive_text(family.control());
    stopped.signal(Signal::SIGSTOP).unwrap();
    while !status_line(stopped.pid(), "State").starts_with('T') {
        std::thread::yield_now();
    }
    let pids = [&running, &stopped, &waiting, &family].map(|child| child.pid().to_string());
    let server = forkserver::pid().map(|pid| pid.to_string());
    let all = [&pids[..], &[grandchild], server.as_slice()].concat();
    println!("{}", all.join(" "));
    loop {
        nix::unistd::pause();
    }
}

fn settled_victim_of_newborns(method: StartMethod) {
    let starter = Starter::new(method).unwrap();
    starter.settle().unwrap();
    be_a_victim_of_newborns(&starter);
}

/// Stops its children before they can run.
fn be_a_victim_of_newborns(starter: &Starter) {
    let children: Vec<_> = (0..20)
        .map(|_| {
            let child = starter.start(&Boot::new(busy)).unwrap();
            child.signal(Signal::SIGSTOP).unwrap();
            child
        })
        .collect();
    wait_to_be_killed(&children);
}

/// Stops its children, which start at the same time, as soon as all exist.
fn victim_of_several(method: StartMethod) {
    let starter = Starter::new(method).unwrap();
    let mut starts = starter.several();
    let children: Vec<_> = (0..20).map(|_| starts.start(&Boot::new(busy)).unwrap()).collect();
    starts.finish().unwrap();
    for child in &children {
        child.signal(Signal::SIGSTOP).unwrap();
    }
    wait_to_be_killed(&children);
}

/// Prints the process ids of its children when all have stopped.
fn wait_to_be_killed(children: &[Child]) {
    for child in children {
        while !status_line(child.pid(), "State").starts_with('T') {
            std::thread::yield_now();
        }
    }
    let pids: Vec<_> = children.iter().map(|child| child.pid().to_string()).collect();
    println!("{}", pids.join(" "));
    loop {
        nix::unistd::pause();
    }
}

fn kill_parent(method: StartMethod, inner_case: &str) {
    // Makes the orphans our children, so that their end can be seen.
    set_child_subreaper(true).unwrap();
    let mut victim = inner(&format!("{inner_case}::{method}")).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(victim.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let pids: Vec<i32> = line.split_whitespace().map(|pid| pid.parse().unwrap()).collect();
    assert!(pids.len() >= 5, "{line}");

    victim.kill().unwrap();
    victim.wait().unwrap();

    all_orphans_end();
    for pid in pids {
        let gone = nix::sys::signal::kill(Pid::from_raw(pid), None);
        assert_eq!(gone, Err(nix::Error::ESRCH), "process {pid} still exists");
    }
}

/// Reaps every orphan that becomes our child, until the deadline.
fn all_orphans_end() {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let orphans = children();
        let Some(first) = orphans.split_whitespace().next() else {
            return;
        };
        let pid = Pid::from_raw(first.parse().unwrap());
        if waitpid(pid, Some(WaitPidFlag::WNOHANG)) == Ok(WaitStatus::StillAlive) {
            assert!(Instant::now() < deadline, "still alive: {orphans}");
            std::thread::yield_now();
        }
    }
}

/// Starts and drops children as fast as it can.
fn restless_victim(method: StartMethod) {
    let starter = Starter::new(method).unwrap();
    println!("{}", getpid());
    loop {
        let children = [0; 3].map(|_| starter.start(&Boot::new(busy)).unwrap());
        drop(children);
    }
}

/// The same, with children that start at the same time.
fn restless_victim_of_several(method: StartMethod) {
    let starter = Starter::new(method).unwrap();
    println!("{}", getpid());
    loop {
        let mut starts = starter.several();
        let children = [0; 3].map(|_| starts.start(&Boot::new(busy)).unwrap());
        drop(starts);
        drop(children);
    }
}

fn a_parent_that_dies_at_any_moment(method: StartMethod, inner_case: &str) {
    set_child_subreaper(true).unwrap();
    for delay in 0..30_u64 {
        let mut victim = inner(&format!("{inner_case}::{method}")).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(victim.stdout.take().unwrap()).read_line(&mut line).unwrap();
        // The moment of the kill moves through a start in steps of a fraction of its duration.
        std::thread::sleep(Duration::from_micros(delay * 211));

        victim.kill().unwrap();
        victim.wait().unwrap();

        all_orphans_end();
    }
}

/// Exits without running destructors.
fn exiting_victim(method: StartMethod) {
    let starter = Starter::new(method).unwrap();
    let child = starter.start(&Boot::new(busy)).unwrap();
    child.wait_hello(SOON).unwrap();
    std::process::exit(0);
}

fn a_parent_that_exits_takes_all_along(method: StartMethod) {
    set_child_subreaper(true).unwrap();
    crate::helper::succeed(inner(&format!("exiting_victim::{method}")));
    all_orphans_end();
}

/// A copy of this process, as other code of the program may make it. It waits to be killed.
fn copy() -> Pid {
    // SAFETY: the copy takes no lock.
    #[expect(unsafe_code, reason = "a fork that this crate does not know of is the subject")]
    match unsafe { nix::unistd::fork() }.unwrap() {
        ForkResult::Parent { child } => child,
        ForkResult::Child => loop {
            nix::unistd::pause();
        },
    }
}

/// Prints the process ids of children, and behind a bar those of copies, and waits to be killed.
fn print_and_wait(children: &[Child], copies: &[Pid]) {
    let children: Vec<_> = children.iter().map(|child| child.pid().to_string()).collect();
    let copies: Vec<_> = copies.iter().map(ToString::to_string).collect();
    println!("{}|{}", children.join(" "), copies.join(" "));
    loop {
        nix::unistd::pause();
    }
}

fn copied_victim(method: StartMethod) {
    let starter = Starter::new(method).unwrap();
    let children = [busy, until_message].map(|entry| {
        let child = starter.start(&Boot::new(entry)).unwrap();
        child.wait_hello(SOON).unwrap();
        child
    });
    print_and_wait(&children, &[copy()]);
}

/// All children of a killed process end although copies of it live on.
fn outlived_by_copies(method: StartMethod, inner_case: &str) {
    set_child_subreaper(true).unwrap();
    let mut victim = inner(&format!("{inner_case}::{method}")).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(victim.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let (children, copies) = line.trim().split_once('|').unwrap();
    let [children, copies] = [children, copies]
        .map(|pids| pids.split(' ').map(|pid| Pid::from_raw(pid.parse().unwrap())).collect::<Vec<_>>());
    assert!(children.len() >= 2 && !copies.is_empty(), "{line}");

    victim.kill().unwrap();
    victim.wait().unwrap();

    let deadline = Instant::now() + Duration::from_secs(20);
    let has_ended = |pid: &Pid| {
        let state = std::fs::read_to_string(format!("/proc/{pid}/status"));
        state.map_or(true, |state| state.contains("State:\tZ"))
    };
    let survivors = || children.iter().filter(|pid| !has_ended(pid)).count();
    while survivors() > 0 && Instant::now() < deadline {
        std::thread::yield_now();
    }
    let outlived = survivors();
    for pid in copies.iter().chain(&children) {
        // Fails for those that are gone.
        let _result = nix::sys::signal::kill(*pid, Signal::SIGKILL);
    }
    all_orphans_end();
    assert_eq!(outlived, 0, "children outlived their parent");
}
