//! A program that drops its privileges while it has children, as daemons do. Cases pass without a check where this user
//! has none to drop.

use std::process::Stdio;

use nix::errno::Errno;
use nix::sys::signal::Signal;
use nix::unistd::Gid;
use nix::unistd::Uid;
use nix::unistd::geteuid;
use nix::unistd::setgroups;
use nix::unistd::setresgid;
use nix::unistd::setresuid;
use start_methods::Boot;
use start_methods::StartMethod;
use start_methods::Starter;
use start_methods::forkserver;

use crate::Case;
use crate::audit::children;
use crate::each;
use crate::helper::SOON;
use crate::helper::busy;
use crate::helper::code;
use crate::helper::exit_with;
use crate::helper::inner;
use crate::helper::succeed;

pub(crate) const CASES: &[Case] = &[
    each("children_from_before_can_be_killed", |method| {
        without_privileges(&format!("kill_those_from_before::{method}"))
    }),
    each("children_from_before_are_killed_by_a_drop", |method| {
        without_privileges(&format!("drop_those_from_before::{method}"));
    }),
    each("children_are_started_as_ever", |method| without_privileges(&format!("start_others::{method}"))),
];

pub(crate) const INNER: &[Case] = &[
    each("kill_those_from_before", kill_those_from_before),
    each("drop_those_from_before", drop_those_from_before),
    each("start_others", start_others),
];

fn without_privileges(case: &str) {
    if geteuid().is_root() {
        let mut command = inner(case);
        command.stdin(Stdio::null());
        succeed(command);
    }
}

fn drop_privileges() {
    const NOBODY: u32 = 65534;
    let (user, group) = (Uid::from_raw(NOBODY), Gid::from_raw(NOBODY));
    setgroups(&[]).unwrap();
    setresgid(group, group, group).unwrap();
    setresuid(user, user, user).unwrap();
}

fn start_busy(starter: &Starter) -> start_methods::Child {
    let child = starter.start(&Boot::new(busy)).unwrap();
    child.wait_hello(SOON).unwrap();
    child
}

fn kill_those_from_before(method: StartMethod) {
    let starter = Starter::new(method).unwrap();
    let [killed, felled, signalled, stopped] = [(); 4].map(|()| start_busy(&starter));
    stopped.signal(Signal::SIGSTOP).unwrap();
    drop_privileges();
    let refused = killed.signal(Signal::SIGTERM).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(Errno::EPERM as i32), "else this case checks nothing");

    killed.kill().unwrap();
    felled.kill_tree().unwrap();
    signalled.signal(Signal::SIGKILL).unwrap();
    assert!(stopped.signal_group(Signal::SIGKILL).is_err());

    for child in [killed, felled, signalled, stopped] {
        let exit = child.wait_timeout(SOON).unwrap().expect("it was killed");
        let signal = exit.status().and_then(|status| std::os::unix::process::ExitStatusExt::signal(&status));
        assert_eq!(signal, Some(Signal::SIGKILL as i32), "{exit}");
    }
}

fn drop_those_from_before(method: StartMethod) {
    let starter = Starter::new(method).unwrap();
    starter.settle().unwrap();
    let child = start_busy(&starter);
    drop_privileges();

    drop(child);
    drop(starter);
    forkserver::stop();

    assert_eq!(children(), "");
}

fn start_others(method: StartMethod) {
    let starter = Starter::new(method).unwrap();
    let before = start_busy(&starter);
    drop_privileges();
    for _ in 0..2 {
        let child = starter.start(&Boot::new(exit_with).payload(&[7])).unwrap();
        child.wait_hello(SOON).unwrap();
        assert_eq!(code(child.wait_timeout(SOON).unwrap().unwrap()), Some(7));
        drop(start_busy(&starter));
        // The next server has no privileges either.
        forkserver::stop();
    }
    drop(before);
}
