//! The parent is killed or ends badly: its workers end with it, whether busy, stopped or idle.
//!
//! The parent in these cases is a victim: this binary again, with its own pool, that writes the ids of the processes it
//! has started into a notebook. The case watches those processes from outside.

use std::process::Child;
use std::process::Command;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use nix::unistd::Gid;
use nix::unistd::Uid;
use procpool::Pool;
use procpool::StartMethod;
use procpool::TaskError;
use start_methods::failpoint;

use crate::harness;
use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::harness::stage::Gate;
use crate::harness::stage::Notebook;
use crate::harness::sys;

cases![
    killed_parent_takes_idle_workers_along,
    killed_parent_takes_busy_workers_along,
    killed_parent_takes_stopped_workers_along,
    killed_parent_takes_starting_workers_along,
    parent_that_returns_from_main_takes_workers_along,
    parent_that_exits_takes_workers_along,
    panicking_parent_takes_workers_along,
    parent_without_standard_descriptors_works,
    parent_that_ignores_sigchld_works,
    copies_of_the_parent_hold_nothing_up,
    copies_that_are_made_during_starts_hold_nothing_up,
    parent_that_drops_its_privileges_keeps_its_promises,
];

/// What a victim's workers do, and how the victim ends.
type Scene = fn(Pool, &str, &str) -> ExitCode;

const SCENES: &[(&str, Scene)] = &[
    ("idle", idle),
    ("busy", busy),
    ("starting", starting),
    ("returning", returning),
    ("exiting", exiting),
    ("panicking", panicking),
    ("working", working),
    ("copied", copied),
    ("dropping", dropping),
];

static FORGOTTEN: OnceLock<Pool> = OnceLock::new();

/// Runs a victim: `scene|method|notebook|gate`.
pub(crate) fn play_victim(name: &str) -> ExitCode {
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).unwrap();
    let parts: Vec<&str> = name.split('|').collect();
    let [scene, method, book, gate] = parts[..] else { panic!("a victim is scene|method|notebook|gate") };
    let method: StartMethod = method.parse().unwrap();
    let scene_of = |name: &str| SCENES.iter().find(|(known, _)| *known == name).expect("a known scene").1;
    if scene == "sigchld" {
        sys::ignore(Signal::SIGCHLD);
        return working(stage::pool(method, 2), book, gate);
    }
    if scene == "copied-meanwhile" {
        return be_copied_meanwhile(method, book, gate);
    }
    let mut builder = Pool::builder().processes(2).start_method(method);
    if scene == "starting" {
        builder = builder.initializer((book.to_owned(), gate.to_owned()), |book, gate| {
            stage::note(&book, std::process::id());
            stage::pass(&gate);
        });
    }
    scene_of(scene)(builder.build().unwrap(), book, gate)
}

fn note_all(pool: &Pool, book: &str) {
    // A process that is stopped before it has set up its lifeline would not be killed by it.
    stage::until_all_work(pool);
    pool.pids().into_iter().for_each(|pid| stage::note(book, pid));
    stage::note(book, "ready");
}

fn idle(pool: Pool, book: &str, gate: &str) -> ExitCode {
    note_all(&pool, book);
    stage::pass(gate);
    ExitCode::SUCCESS
}

fn busy(pool: Pool, book: &str, gate: &str) -> ExitCode {
    note_all(&pool, book);
    let _spinning = pool.map_async(0..2u8, |_| -> u8 {
        loop {
            std::hint::spin_loop();
        }
    });
    stage::pass(gate);
    ExitCode::SUCCESS
}

fn starting(pool: Pool, book: &str, gate: &str) -> ExitCode {
    let handle = pool.apply_async((1u8,), |x| x);
    stage::until("both initializers", || stage::lines_of(book).len() == 2);
    stage::note(book, "ready");
    stage::pass(gate);
    assert!(!handle.ready());
    ExitCode::SUCCESS
}

/// A static is never dropped: only the end of the process ends the workers.
fn returning(pool: Pool, book: &str, gate: &str) -> ExitCode {
    let pool = FORGOTTEN.get_or_init(|| pool);
    note_all(pool, book);
    let gate = gate.to_owned();
    let _held = pool.apply_async((gate,), |gate| stage::pass(&gate));
    ExitCode::SUCCESS
}

fn exiting(pool: Pool, book: &str, gate: &str) -> ExitCode {
    note_all(&pool, book);
    let _held = pool.apply_async((gate.to_owned(),), |gate| stage::pass(&gate));
    std::process::exit(5)
}

fn panicking(pool: Pool, book: &str, gate: &str) -> ExitCode {
    note_all(&pool, book);
    let _held = pool.apply_async((gate.to_owned(),), |gate| stage::pass(&gate));
    panic!("the parent panics on purpose");
}

fn working(pool: Pool, book: &str, _: &str) -> ExitCode {
    note_all(&pool, book);
    pool.apply((1u8,), |_| -> u8 { std::process::exit(3) }).unwrap_err();
    stage::assert_works(&pool);
    pool.close();
    pool.join().unwrap();
    ExitCode::from(7)
}

/// Starts a victim and waits until it is ready. Returns the victim and its workers.
fn victim(scene: &str, method: StartMethod, book: &Notebook, gate: &Gate) -> (Child, Vec<u32>) {
    let child = harness::again("victim", &role(scene, method, book, gate)).spawn().unwrap();
    stage::until("the victim", || book.lines().contains(&"ready".to_owned()));
    let pids: Vec<u32> = book.lines().iter().filter_map(|line| line.parse().ok()).collect();
    assert_eq!(pids.len(), 2);
    (child, pids)
}

fn role(scene: &str, method: StartMethod, book: &Notebook, gate: &Gate) -> String {
    format!("{scene}|{method}|{}|{}", book.path(), gate.path())
}

/// The state of the victim's processes when their parent is killed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Workers {
    Running,
    Stopped,
}

fn kill_and_watch(scene: &str, method: StartMethod, workers: Workers) {
    let (book, gate) = (Notebook::new(), Gate::closed());
    let (mut child, mut doomed) = victim(scene, method, &book, &gate);
    doomed.extend(processes::descendants(child.id()).iter().map(|process| process.pid));
    let pidfds: Vec<_> = doomed.iter().map(|&pid| sys::pidfd_open(pid).unwrap()).collect();
    assert!(doomed.iter().all(|&pid| !processes::ended(pid)));
    if workers == Workers::Stopped {
        doomed.iter().for_each(|&pid| stage::signal(pid, Signal::SIGSTOP));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    for (pid, pidfd) in doomed.iter().zip(&pidfds) {
        let ended = sys::readable_within(pidfd, Duration::from_secs(20)).unwrap();
        assert!(ended, "process {pid} outlived its parent");
    }
}

fn killed_parent_takes_idle_workers_along(method: StartMethod) {
    kill_and_watch("idle", method, Workers::Running);
}

fn killed_parent_takes_busy_workers_along(method: StartMethod) {
    kill_and_watch("busy", method, Workers::Running);
}

fn killed_parent_takes_stopped_workers_along(method: StartMethod) {
    kill_and_watch("busy", method, Workers::Stopped);
}

fn killed_parent_takes_starting_workers_along(method: StartMethod) {
    kill_and_watch("starting", method, Workers::Running);
}

fn end_and_watch(scene: &str, method: StartMethod, code: i32) {
    let (book, gate) = (Notebook::new(), Gate::closed());
    let (mut child, pids) = victim(scene, method, &book, &gate);
    assert_eq!(child.wait().unwrap().code(), Some(code));
    stage::until_ended(&pids);
}

fn parent_that_returns_from_main_takes_workers_along(method: StartMethod) {
    end_and_watch("returning", method, 0);
}

fn parent_that_exits_takes_workers_along(method: StartMethod) {
    end_and_watch("exiting", method, 5);
}

fn panicking_parent_takes_workers_along(method: StartMethod) {
    end_and_watch("panicking", method, 101);
}

/// A shell closes them: `0<&- 1>&- 2>&-`. The pool must not use these numbers for its own descriptors.
fn parent_without_standard_descriptors_works(method: StartMethod) {
    let (book, gate) = (Notebook::new(), Gate::closed());
    let again = harness::again("victim", &role("working", method, &book, &gate));
    let exe = std::fs::read_link("/proc/self/exe").unwrap();
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", "exec \"$0\" 0<&- 1>&- 2>&-"]).arg(exe);
    shell.envs(again.get_envs().filter_map(|(name, value)| Some((name, value?))));
    assert_eq!(shell.status().unwrap().code(), Some(7));
    assert!(book.lines().contains(&"ready".to_owned()));
}

fn parent_that_ignores_sigchld_works(method: StartMethod) {
    let (book, gate) = (Notebook::new(), Gate::closed());
    let status = harness::again("victim", &role("sigchld", method, &book, &gate)).status().unwrap();
    assert_eq!(status.code(), Some(7));
    assert!(book.lines().contains(&"ready".to_owned()));
}

/// A copy of the parent lives on, as if other code of the program had made it.
fn copied(pool: Pool, book: &str, gate: &str) -> ExitCode {
    let copy = sys::forked_copy();
    stage::note(book, format!("copy {copy}"));
    busy(pool, book, gate)
}

/// Another thread makes copies all the time while the workers are started.
fn be_copied_meanwhile(method: StartMethod, book: &str, gate: &str) -> ExitCode {
    // Makes it likely that a fork happens between two steps of the creation of a lifeline.
    failpoint::arm("parent unlisted 1- sleep 2");
    let is_over = AtomicBool::new(false);
    let pool = thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                stage::note(book, format!("copy {}", sys::forked_copy()));
                thread::sleep(Duration::from_millis(5));
            }
        });
        let builder = sys::despite_threads(Pool::builder().processes(8).start_method(method));
        let pool = builder.build().unwrap();
        is_over.store(true, Ordering::Relaxed);
        pool
    });
    busy(pool, book, gate)
}

/// Kills the parent, and watches its workers while its copies live on.
fn kill_beside_copies(scene: &str, method: StartMethod, workers: usize) {
    let (book, gate) = (Notebook::new(), Gate::closed());
    let mut child = harness::again("victim", &role(scene, method, &book, &gate)).spawn().unwrap();
    stage::until("the victim", || book.lines().contains(&"ready".to_owned()));
    let lines = book.lines();
    let copies: Vec<u32> = lines.iter().filter_map(|line| line.strip_prefix("copy ")?.parse().ok()).collect();
    let pids: Vec<u32> = lines.iter().filter_map(|line| line.parse().ok()).collect();
    assert!(pids.len() == workers && !copies.is_empty(), "{lines:?}");
    let pidfds: Vec<_> = pids.iter().map(|&pid| sys::pidfd_open(pid).unwrap()).collect();

    child.kill().unwrap();
    child.wait().unwrap();

    let outlived =
        pidfds.iter().filter(|pidfd| !sys::readable_within(*pidfd, Duration::from_secs(20)).unwrap()).count();
    copies.into_iter().chain(pids).for_each(stage::kill_if_there);
    assert_eq!(outlived, 0, "workers outlived their parent");
}

fn copies_of_the_parent_hold_nothing_up(method: StartMethod) {
    kill_beside_copies("copied", method, 2);
}

fn copies_that_are_made_during_starts_hold_nothing_up(method: StartMethod) {
    kill_beside_copies("copied-meanwhile", method, 8);
}

/// Makes its pool as root, and goes on as another user.
fn dropping(pool: Pool, _: &str, _: &str) -> ExitCode {
    fn spin(_: u8) -> u8 {
        loop {
            std::hint::spin_loop();
        }
    }
    fn crash(_: u8) -> u8 {
        std::process::abort()
    }
    stage::until_all_work(&pool);
    drop_privileges();
    let late = pool.timeout(Duration::from_millis(100)).apply((1u8,), spin);
    assert!(matches!(late, Err(TaskError::TimedOut { .. })), "{late:?}");
    let cancelled = pool.apply_async((1u8,), spin);
    cancelled.cancel();
    assert!(matches!(cancelled.get(), Err(TaskError::Cancelled)));
    for _ in 0..2 {
        pool.apply((1u8,), crash).unwrap_err();
        stage::assert_works(&pool);
        // The next server is started by the other user.
        procpool::forkserver::stop();
    }
    let _spinning = pool.map_async(0..2u8, spin);
    pool.terminate();
    pool.join().unwrap();
    procpool::forkserver::stop();
    assert_eq!(processes::children(std::process::id()).len(), 0);
    ExitCode::from(7)
}

fn drop_privileges() {
    let (user, group) = (Uid::from_raw(65534), Gid::from_raw(65534));
    nix::unistd::setgroups(&[]).unwrap();
    nix::unistd::setresgid(group, group, group).unwrap();
    nix::unistd::setresuid(user, user, user).unwrap();
}

/// Passes without a check where this user has no privileges.
fn parent_that_drops_its_privileges_keeps_its_promises(method: StartMethod) {
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let (book, gate) = (Notebook::new(), Gate::closed());
    let output = harness::again("victim", &role("dropping", method, &book, &gate)).output().unwrap();
    assert_eq!(output.status.code(), Some(7), "{output:?}");
}
