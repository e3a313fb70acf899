//! When fork is refused and when it is not, and what a settled starter preserves.

#![expect(unsafe_code, reason = "forking despite threads is unsafe")]

use std::env;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU8;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use nix::sys::signal::Signal;
use nix::sys::signal::kill;
use nix::unistd::Pid;
use nix::unistd::getppid;
use start_methods::Birth;
use start_methods::Boot;
use start_methods::StartError;
use start_methods::StartMethod;
use start_methods::Starter;
use start_methods::image;
use start_methods::threads::Resident;

use crate::Case;
use crate::helper::SOON;
use crate::helper::code;
use crate::helper::exit_with;
use crate::helper::receive_text;
use crate::helper::send_text;
use crate::helper::start_ready;
use crate::helper::until_message;
use crate::once;

pub(crate) const CASES: &[Case] = &[
    once("a_foreign_thread_forbids_fork", a_foreign_thread_forbids_fork),
    once("a_foreign_thread_may_be_tolerated", a_foreign_thread_may_be_tolerated),
    once("a_birth_takes_no_lock_of_another_thread", a_birth_takes_no_lock_of_another_thread),
    once("a_parked_resident_is_no_obstacle", a_parked_resident_is_no_obstacle),
    once("a_resident_may_fork", a_resident_may_fork),
    once("a_resident_that_does_not_park_is_foreign", a_resident_that_does_not_park_is_foreign),
    once("a_resident_in_foreign_code_is_foreign", a_resident_in_foreign_code_is_foreign),
    once("a_fork_keeps_residents_parked", a_fork_keeps_residents_parked),
    once("two_residents_may_fork_at_once", two_residents_may_fork_at_once),
    once("a_joined_thread_is_no_obstacle", a_joined_thread_is_no_obstacle),
    once("a_settled_starter_keeps_the_state", a_settled_starter_keeps_the_state),
    once("a_dead_template_is_typed", a_dead_template_is_typed),
    once("other_methods_do_not_settle", other_methods_do_not_settle),
];

/// Runs `f` while a thread exists of which the crate knows nothing.
fn beside_a_foreign_thread(f: impl FnOnce()) {
    let (end, ended) = mpsc::channel::<()>();
    let thread = thread::spawn(move || ended.recv());
    f();
    drop(end);
    thread.join().unwrap().unwrap_err();
}

fn boot() -> Boot<'static> {
    Boot::new(exit_with).payload(&[6])
}

fn fork_one() -> Result<(), StartError> {
    let child = start_methods::start(StartMethod::Fork, &boot())?;
    child.wait_hello(SOON)?;
    assert_eq!(code(child.wait().unwrap()), Some(6));
    Ok(())
}

fn is_refused(count: usize) {
    match fork_one().unwrap_err() {
        StartError::ForeignThreads { count: found, .. } => assert_eq!(found, count),
        other => panic!("{other}"),
    }
}

fn a_foreign_thread_forbids_fork() {
    fork_one().unwrap();
    beside_a_foreign_thread(|| {
        is_refused(1);
        beside_a_foreign_thread(|| is_refused(2));
        // Threads do not matter for the other two.
        drop(start_ready(StartMethod::Spawn, &boot()));
        drop(start_ready(StartMethod::Forkserver, &boot()));
    });
    fork_one().unwrap();
}

fn a_foreign_thread_may_be_tolerated() {
    // SAFETY: the other thread waits for a channel, and holds no lock that the child needs.
    let starter = unsafe { Starter::fork_despite_threads() }.unwrap();
    beside_a_foreign_thread(|| {
        let child = starter.start(&boot()).unwrap();
        child.wait_hello(SOON).unwrap();
        assert_eq!(code(child.wait().unwrap()), Some(6));
    });
}

/// Runs `f` while other threads hold the locks of the loader and of the environment most of the time.
fn beside_threads_that_hold_locks(f: impl FnOnce()) {
    let is_over = AtomicBool::new(false);
    let again_and_again = |take: fn()| {
        while !is_over.load(Ordering::Relaxed) {
            take();
            // Long enough for a thread that waits for the lock: it is not fair.
            thread::sleep(Duration::from_micros(20));
        }
    };
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| again_and_again(|| drop(image::locate(boot as *const () as usize))));
            scope.spawn(|| again_and_again(|| drop(env::vars_os())));
        }
        f();
        is_over.store(true, Ordering::Relaxed);
    });
}

fn a_birth_takes_no_lock_of_another_thread() {
    // SAFETY: the entry takes no lock.
    let starter = unsafe { Starter::fork_despite_threads() }.unwrap();
    let with_settings = boot().env("IT_A", "1").env_remove("HOME");
    beside_threads_that_hold_locks(|| {
        for boot in [boot(), with_settings.clone(), with_settings.env_clear()] {
            for _ in 0..50 {
                let child = starter.start(&boot).unwrap();
                child.wait_hello(SOON).unwrap();
                assert_eq!(code(child.wait().unwrap()), Some(6));
            }
        }
        // The template, and its children, are born in the same way.
        starter.settle().unwrap();
        assert_eq!(code(starter.start(&boot()).unwrap().wait().unwrap()), Some(6));
    });
}

fn a_parked_resident_is_no_obstacle() {
    let (end, ended) = mpsc::channel::<()>();
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || {
        let resident = Resident::enter();
        sender.send(()).unwrap();
        resident.park(|| ended.recv())
    });
    receiver.recv().unwrap();
    for _ in 0..20 {
        fork_one().unwrap();
    }
    beside_a_foreign_thread(|| is_refused(1));
    drop(end);
    thread.join().unwrap().unwrap_err();
}

fn a_resident_may_fork() {
    let resident = Resident::enter();
    fork_one().unwrap();
    resident.foreign(|| fork_one().unwrap());
    resident.park(|| fork_one().unwrap());
    drop(resident);
    fork_one().unwrap();
}

fn a_resident_that_does_not_park_is_foreign() {
    let (end, ended) = mpsc::channel::<()>();
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || {
        let resident = Resident::enter();
        sender.send(()).unwrap();
        let _error = ended.recv();
        resident.park(|| ());
    });
    receiver.recv().unwrap();
    let before = Instant::now();
    is_refused(1);
    assert!(before.elapsed() > Duration::from_millis(900), "the fork waited for the resident");
    assert!(before.elapsed() < Duration::from_secs(5), "but not without limit");
    drop(end);
    thread.join().unwrap();
}

fn a_resident_in_foreign_code_is_foreign() {
    let (end, ended) = mpsc::channel::<()>();
    let (sender, receiver) = mpsc::channel();
    let thread = thread::spawn(move || {
        let resident = Resident::enter();
        resident.foreign(|| {
            sender.send(()).unwrap();
            ended.recv()
        })
    });
    receiver.recv().unwrap();
    is_refused(1);
    drop(end);
    thread.join().unwrap().unwrap_err();
}

/// A resident that alternates between parking and running while others fork. It is parked at every fork, so the lock
/// that it takes in between is free in the child.
fn a_fork_keeps_residents_parked() {
    static LOCK: std::sync::Mutex<()> = std::sync::Mutex::new(());
    fn take_the_lock(_: Birth) -> u8 {
        u8::from(LOCK.try_lock().is_err())
    }
    let (end, ended) = mpsc::channel::<()>();
    let thread = thread::spawn(move || {
        let resident = Resident::enter();
        loop {
            {
                let _held = LOCK.lock();
                thread::sleep(Duration::from_micros(200));
            }
            let ended = resident.park(|| ended.recv_timeout(Duration::from_micros(50)));
            if ended == Err(mpsc::RecvTimeoutError::Disconnected) {
                break;
            }
        }
    });
    for _ in 0..200 {
        let exit = start_ready(StartMethod::Fork, &Boot::new(take_the_lock)).wait().unwrap();
        assert_eq!(code(exit), Some(0));
    }
    drop(end);
    thread.join().unwrap();
}

/// Two residents fork at the same time: each waits for the other, and must not count it as a foreign thread.
fn two_residents_may_fork_at_once() {
    let work = || {
        let resident = Resident::enter();
        for _ in 0..50 {
            let child = start_methods::start(StartMethod::Fork, &boot()).unwrap();
            resident.park(|| child.wait_hello(SOON)).unwrap();
            assert_eq!(code(resident.park(|| child.wait()).unwrap()), Some(6));
        }
    };
    let resident = Resident::enter();
    let threads = [(); 2].map(|()| thread::spawn(work));
    resident.park(|| threads.map(|thread| thread.join().unwrap()));
}

fn a_joined_thread_is_no_obstacle() {
    for _ in 0..200 {
        thread::spawn(|| ()).join().unwrap();
        fork_one().unwrap();
    }
}

static STATE: AtomicU8 = AtomicU8::new(0);

fn send_state(birth: Birth) -> u8 {
    send_text(&birth.control, &format!("{} {}", STATE.load(Ordering::Relaxed), getppid()));
    until_message(birth)
}

fn a_settled_starter_keeps_the_state() {
    let starter = Starter::new(StartMethod::Fork).unwrap();
    STATE.store(1, Ordering::Relaxed);
    starter.settle().unwrap();
    STATE.store(2, Ordering::Relaxed);
    starter.settle().unwrap();
    let template = crate::audit::children().trim().to_owned();

    beside_a_foreign_thread(|| {
        for _ in 0..3 {
            let child = starter.start(&Boot::new(send_state)).unwrap();
            child.wait_hello(SOON).unwrap();
            assert_eq!(receive_text(child.control()), format!("1 {template}"));
            send_text(child.control(), "enough");
            assert_eq!(code(child.wait().unwrap()), Some(5));
        }
    });

    let unsettled = start_ready(StartMethod::Fork, &Boot::new(send_state));
    assert_eq!(receive_text(unsettled.control()), format!("2 {}", std::process::id()));
}

fn a_dead_template_is_typed() {
    let starter = Starter::new(StartMethod::Fork).unwrap();
    starter.settle().unwrap();
    let child = starter.start(&Boot::new(until_message)).unwrap();
    child.wait_hello(SOON).unwrap();
    let children = crate::audit::children();
    let template = children.trim().parse().unwrap();

    kill(Pid::from_raw(template), Signal::SIGKILL).unwrap();

    for _ in 0..2 {
        let error = starter.start(&boot()).unwrap_err();
        assert!(matches!(error, StartError::TemplateDied), "{error}");
    }
    assert_eq!(child.try_wait().unwrap(), None, "its children live on");
}

fn other_methods_do_not_settle() {
    for method in [StartMethod::Spawn, StartMethod::Forkserver] {
        Starter::new(method).unwrap().settle().unwrap();
    }
    assert_eq!(crate::audit::children(), "");
}
