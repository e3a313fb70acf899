//! The start methods compared: the same results, and the documented differences in what a worker inherits.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use nix::fcntl::FcntlArg;
use nix::fcntl::FdFlag;
use nix::sys::signal::Signal;
use procpool::Pool;
use procpool::StartMethod;

use crate::harness::cases;
use crate::harness::processes::Process;
use crate::harness::stage;
use crate::harness::sys;

cases![
    methods_have_names_and_a_default,
    answers_are_the_same,
    parent_of_a_worker,
    parent_of_a_replacement,
    memory_is_inherited_by_fork_only,
    replacement_sees_the_memory_of_the_first_workers,
    leaked_descriptors_are_inherited_by_fork_only,
    working_directory_is_that_of_the_birth,
    environment_is_that_of_the_birth,
    arguments_of_the_program_are_kept,
    births_cost_what_they_should,
    methods_work_side_by_side,
];

/// Changed by this process after it started.
static MARK: AtomicU32 = AtomicU32::new(0);

fn methods_have_names_and_a_default(method: StartMethod) {
    assert_eq!(StartMethod::default(), StartMethod::Forkserver);
    assert_eq!(method.to_string().parse::<StartMethod>().unwrap(), method);
    assert!("threads".parse::<StartMethod>().is_err());
    let by_default = Pool::new(1).unwrap();
    assert_eq!(by_default.start_method(), StartMethod::Forkserver);
    stage::assert_works(&by_default);
}

fn answers_are_the_same(method: StartMethod) {
    fn collatz(start: u64) -> u32 {
        let (mut number, mut steps) = (start, 0);
        while number > 1 {
            number = if number % 2 == 0 { number / 2 } else { 3 * number + 1 };
            steps += 1;
        }
        steps
    }
    let pool = stage::pool(method, 3);
    let expected: Vec<u32> = (1..2000).map(collatz).collect();
    assert_eq!(pool.map(1..2000u64, collatz).unwrap(), expected);
    assert_eq!(pool.imap(1..2000u64, collatz).map(Result::unwrap).collect::<Vec<_>>(), expected);
    assert_eq!(pool.starmap((1..2000u64).map(|x| (x,)), collatz).unwrap(), expected);
    let mut unordered: Vec<u32> = pool.imap_unordered(1..2000u64, collatz).map(Result::unwrap).collect();
    unordered.sort_unstable();
    let mut sorted = expected;
    sorted.sort_unstable();
    assert_eq!(unordered, sorted);
}

fn parent_of_a_worker(method: StartMethod) {
    let pool = stage::pool(method, 3);
    let parents = pool.map(0..30u8, |_| std::os::unix::process::parent_id()).unwrap();
    let expected = match method {
        StartMethod::Fork | StartMethod::Spawn => std::process::id(),
        StartMethod::Forkserver => procpool::forkserver::pid().unwrap(),
    };
    assert!(parents.iter().all(|parent| *parent == expected), "{parents:?}, not {expected}");
}

fn parent_of_a_replacement(method: StartMethod) {
    let pool = stage::pool(method, 1);
    stage::assert_works(&pool);
    let first = pool.pids();
    stage::signal(first[0], Signal::SIGKILL);
    stage::until_replaced(&pool, 1, &first);
    let parent = pool.apply((0u8,), |_| std::os::unix::process::parent_id()).unwrap();
    match method {
        StartMethod::Spawn => assert_eq!(parent, std::process::id()),
        StartMethod::Forkserver => assert_eq!(Some(parent), procpool::forkserver::pid()),
        StartMethod::Fork => {
            assert_ne!(parent, std::process::id());
            assert_eq!(Process::find(parent).unwrap().parent, std::process::id(), "the template is our child");
        }
    }
}

fn mark_in_a_worker(pool: &Pool) -> u32 {
    pool.apply((0u8,), |_| MARK.load(Ordering::SeqCst)).unwrap()
}

fn memory_is_inherited_by_fork_only(method: StartMethod) {
    MARK.store(7, Ordering::SeqCst);
    let pool = stage::pool(method, 1);
    let expected = if method == StartMethod::Fork { 7 } else { 0 };
    assert_eq!(mark_in_a_worker(&pool), expected);
    MARK.store(8, Ordering::SeqCst);
    assert_eq!(mark_in_a_worker(&pool), expected);
    pool.apply((0u8,), |_| MARK.store(9, Ordering::SeqCst)).unwrap();
    assert_eq!(MARK.load(Ordering::SeqCst), 8);
}

fn replacement_sees_the_memory_of_the_first_workers(method: StartMethod) {
    MARK.store(7, Ordering::SeqCst);
    let pool = Pool::builder().processes(1).start_method(method).max_tasks_per_child(1).build().unwrap();
    MARK.store(8, Ordering::SeqCst);
    let expected = if method == StartMethod::Fork { 7 } else { 0 };
    for _ in 0..4 {
        assert_eq!(mark_in_a_worker(&pool), expected);
    }
}

fn leaked_descriptors_are_inherited_by_fork_only(method: StartMethod) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("leaked");
    let leaked = File::create(&path).unwrap();
    nix::fcntl::fcntl(&leaked, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
    let pool = stage::pool(method, 1);
    let target = pool.apply((leaked.as_raw_fd(),), |fd| {
        std::fs::read_link(format!("/proc/self/fd/{fd}")).map(|target| target.display().to_string()).ok()
    });
    let inherited = target.unwrap().is_some_and(|target| target == path.display().to_string());
    assert_eq!(inherited, method == StartMethod::Fork);
}

fn working_directory_is_that_of_the_birth(method: StartMethod) {
    let folder = tempfile::tempdir().unwrap();
    let inside = folder.path().canonicalize().unwrap();
    let outside = std::env::current_dir().unwrap();
    let before = stage::pool(method, 1);
    stage::assert_works(&before);
    std::env::set_current_dir(&inside).unwrap();
    let after = stage::pool(method, 1);
    let directory = |pool: &Pool| pool.apply((0u8,), |_| std::env::current_dir().unwrap()).unwrap();
    assert_eq!(directory(&before), outside);
    // The server was started before the change.
    let expected = if method == StartMethod::Forkserver { &outside } else { &inside };
    assert_eq!(&directory(&after), expected);
    std::env::set_current_dir(outside).unwrap();
}

fn environment_is_that_of_the_birth(method: StartMethod) {
    sys::set_env("PROCPOOL_IT_MARK", "early");
    let pool = stage::pool(method, 1);
    let seen = pool.apply((0u8,), |_| std::env::var("PROCPOOL_IT_MARK").ok()).unwrap();
    assert_eq!(seen.as_deref(), Some("early"));
    let left: Vec<String> = pool
        .apply((0u8,), |_| std::env::vars().map(|(name, _)| name).collect::<Vec<_>>())
        .unwrap()
        .into_iter()
        .filter(|name| std::env::var_os(name).is_none())
        .collect();
    assert_eq!(left, [""; 0], "variables that this process does not have");
}

fn arguments_of_the_program_are_kept(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let arguments = pool.apply((0u8,), |_| std::env::args().collect::<Vec<_>>()).unwrap();
    assert_eq!(arguments, std::env::args().collect::<Vec<_>>());
}

fn methods_work_side_by_side(method: StartMethod) {
    // The method of the case goes first. Fork is still allowed after it, as the pool's own threads do not count.
    let first = stage::pool(method, 1);
    let all: Vec<Pool> = StartMethod::ALL.iter().map(|&other| stage::pool(other, 1)).collect();
    stage::assert_works(&first);
    all.iter().for_each(stage::assert_works);
    drop(first);
    all.iter().for_each(stage::assert_works);
}

/// Starting a program touches more memory than forking a small process. Page faults show that without a clock.
fn births_cost_what_they_should(method: StartMethod) {
    let cheapest = page_faults_of_a_birth(StartMethod::Forkserver);
    let dearest = page_faults_of_a_birth(StartMethod::Spawn);
    assert!(cheapest < dearest, "forkserver {cheapest}, spawn {dearest}");
    let cost = page_faults_of_a_birth(method);
    let limit = if method == StartMethod::Spawn { 2 * dearest } else { dearest };
    assert!(cost < limit, "{method} {cost}, spawn {dearest}");
}

/// Page faults of a worker from its start to the end of its first task.
fn page_faults_of_a_birth(method: StartMethod) -> u64 {
    let pool = stage::pool(method, 1);
    let faults = pool.apply((0u8,), |_| -> anyhow::Result<u64> {
        let stat = std::fs::read_to_string("/proc/self/stat")?;
        // See proc_pid_stat(5): after the name in parentheses, the third field is the state, the tenth minflt.
        let mut fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
        Ok(fields.nth(7).unwrap_or_default().parse::<u64>()?)
    });
    faults.unwrap()
}
