//! Tasks that kill, fork or replace their own process, and the cost to well-behaved items of the same chunk.

use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::errno::Errno;
use nix::sys::signal::SigSet;
use nix::sys::signal::Signal;
use nix::unistd::Pid;
use procpool::Pool;
use procpool::StartMethod;
use procpool::TaskError;

use crate::faults::deaths;
use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::harness::stage::Gate;
use crate::harness::stage::Notebook;
use crate::harness::sys;

cases![
    every_manner_of_death_spares_its_neighbours,
    program_in_the_place_of_a_worker_is_ended,
    fork_that_ends_by_itself_is_unseen,
    fork_that_stays_holds_nothing_up,
    fork_that_comes_back_from_its_task_answers_nothing,
    fork_that_comes_back_from_its_task_spoils_no_large_result,
    fork_that_takes_the_place_of_the_worker_answers_nothing_twice,
    fork_that_serves_while_the_worker_waits_for_it_ends_with_the_pool,
    workers_cannot_leave_their_group_and_end_with_the_pool,
];

const CHUNK: usize = 5;

/// Dies in one of nine ways.
fn die(way: u32) -> u32 {
    #[expect(unconditional_recursion, reason = "this is the point")]
    fn endless(depth: u32) -> u32 {
        let room = std::hint::black_box([depth; 64]);
        endless(depth + 1) + room[3]
    }
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("last words {}", "長".repeat(350_000));
        }
    }
    match way {
        0 => std::process::exit(0),
        1 => sys::end_now(3),
        2 => sys::die_of(Signal::SIGSEGV),
        3 => sys::die_of(Signal::SIGABRT),
        4 => sys::die_of(Signal::SIGKILL),
        5 => panic!("not executed: {}", Command::new("true").exec()),
        6 => endless(way),
        7 => {
            use nix::sys::resource::Resource;
            nix::sys::resource::setrlimit(Resource::RLIMIT_AS, 1 << 31, 1 << 31).unwrap();
            let mut hoard: Vec<Vec<u8>> = Vec::new();
            loop {
                hoard.push(Vec::with_capacity(1 << 20));
            }
        }
        _ => {
            let _bomb = Bomb;
            panic!("this one unwinds into the other");
        }
    }
}

fn every_manner_of_death_spares_its_neighbours(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let results = pool.chunk_size(CHUNK).map_results(0..45u32, |x| if x % 5 == 2 { die(x / 5) } else { x }).unwrap();
    for (x, result) in (0u32..).zip(results) {
        if x % 5 != 2 {
            assert_eq!(result.unwrap(), x);
            continue;
        }
        let death = deaths::death(result);
        let expected = match x / 5 {
            0 | 5 => (Some(0), None),
            1 => (Some(3), None),
            2 => (None, Some(libc::SIGSEGV)),
            4 => (None, Some(libc::SIGKILL)),
            // If there is a guard page, an overflow prints a message and aborts.
            6 if death.signal == Some(libc::SIGSEGV) => (None, Some(libc::SIGSEGV)),
            _ => (None, Some(libc::SIGABRT)),
        };
        assert_eq!((death.code, death.signal), expected, "item {x}");
        let last_words = death.panic.map(|panic| panic.message);
        assert_eq!(last_words.is_some(), x / 5 == 8, "item {x}");
        assert!(last_words.is_none_or(|words| words.starts_with("last words 長長")), "item {x}");
    }
    stage::assert_works(&pool);
}

/// The worker becomes a process that knows nothing of a pool and would not end by itself.
fn program_in_the_place_of_a_worker_is_ended(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let victim = pool.pids()[0];
    let task: fn(u32) -> u32 = |x| match x {
        7 => panic!("not executed: {}", Command::new("sleep").arg("1000").exec()),
        _ => x,
    };
    let results = pool.chunk_size(CHUNK).map_results(0..20u32, task).unwrap();
    for (x, result) in (0u32..).zip(results) {
        match x {
            7 => assert_eq!(deaths::death(result).pid, victim),
            _ => assert_eq!(result.unwrap(), x),
        }
    }
    assert!(processes::ended(victim));
}

fn fork_that_ends_by_itself_is_unseen(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let pids = pool.pids();
    let codes = pool.chunk_size(CHUNK).map(0..20u8, |x| sys::in_a_forked_copy(|| std::process::exit(x.into())));
    assert_eq!(codes.unwrap(), (0..20).collect::<Vec<i32>>());
    assert_eq!(pool.pids(), pids);
}

/// The fork has copies of all that the worker has: control socket, link and lifeline.
fn fork_that_stays_holds_nothing_up(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let (book, mut gate) = (Notebook::new(), Gate::closed());
    let items = (0..20u32).map(|x| (x, book.path(), gate.path()));
    let values = pool.chunk_size(CHUNK).map(items, |(x, book, gate)| {
        if x % 5 == 2 {
            match sys::fork() {
                Some(copy) => stage::note(&book, format!("{} {copy}", std::process::id())),
                None => {
                    stage::pass(&gate);
                    sys::end_now(0);
                }
            }
        }
        x
    });
    assert_eq!(values.unwrap(), (0..20).collect::<Vec<_>>());
    let pairs: Vec<[u32; 2]> = book
        .lines()
        .iter()
        .map(|line| line.split(' ').map(|pid| pid.parse().unwrap()).collect::<Vec<_>>().try_into().unwrap())
        .collect();
    // A worker that dies takes its forks along; one that ends normally does not.
    let [victim, _] = pairs[0];
    let copies_of = |wanted: fn(u32, u32) -> bool| -> Vec<u32> {
        pairs.iter().filter(|[worker, _]| wanted(*worker, victim)).map(|[_, copy]| *copy).collect()
    };
    let (doomed, copies) = (copies_of(|worker, victim| worker == victim), copies_of(|worker, victim| worker != victim));
    stage::signal(victim, Signal::SIGKILL);
    stage::until_replaced(&pool, 2, &[victim]);
    stage::until_ended(&doomed);
    stage::assert_works(&pool);
    pool.close();
    pool.join().unwrap();
    assert!(!copies.iter().any(|&copy| processes::ended(copy)));
    gate.open();
    stage::until_ended(&copies);
}

/// Both return from the task, in any order. The copy ends there, and the worker continues.
/// The copy serializes its result too before it is detected. It shares the files of the original.
fn fork_that_comes_back_from_its_task_spoils_no_large_result(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let copies = Notebook::new();
    for round in 0..6u32 {
        let before = pool.apply((round,), |round| vec![round; 100_000]).unwrap();
        assert_eq!(before, vec![round; 100_000]);
        let results = pool.map((0..4u32).map(|x| (x, copies.path())), |(x, copies)| {
            let copy = if x == 1 { sys::fork() } else { Some(0) };
            if let Some(copy) = copy.filter(|&copy| copy > 0) {
                stage::note(&copies, copy);
            }
            let of_copy = if copy.is_none() { 1_000_000 } else { 0 };
            vec![x + of_copy; 120_000]
        });
        for (x, result) in (0..4u32).zip(results.unwrap()) {
            assert!(result == vec![x; 120_000], "the result {x} is not its own");
        }
    }
    let copies: Vec<u32> = copies.lines().iter().map(|line| line.parse().unwrap()).collect();
    assert_eq!(copies.len(), 6);
    stage::until_ended(&copies);
    stage::assert_works(&pool);
}

fn fork_that_comes_back_from_its_task_answers_nothing(method: StartMethod) {
    for late in [0, 1, 2] {
        let pool = stage::pool(method, 2);
        let (copies, begun) = (Notebook::new(), Notebook::new());
        let items = (0..40u32).map(|x| (x, late, copies.path(), begun.path()));
        let results = pool.chunk_size(CHUNK).map(items, |(x, late, copies, begun)| {
            stage::note(&begun, x);
            if x == 12 {
                let copy = sys::fork();
                copy.into_iter().for_each(|copy| stage::note(&copies, copy));
                if late == if copy.is_some() { 1 } else { 2 } {
                    std::thread::sleep(std::time::Duration::from_millis(50));
                }
            }
            x
        });
        assert_eq!(results.unwrap(), (0..40).collect::<Vec<_>>());
        let copies: Vec<u32> = copies.lines().iter().map(|line| line.parse().unwrap()).collect();
        stage::until_ended(&copies);
        let mut begun: Vec<u32> = begun.lines().iter().map(|line| line.parse().unwrap()).collect();
        begun.sort_unstable();
        assert_eq!(begun, (0..40).collect::<Vec<_>>());
        stage::assert_works(&pool);
        pool.close();
        pool.join().unwrap();
    }
}

/// Only the copy is left of the worker: it has the link, and continues with the orders on it.
fn fork_that_takes_the_place_of_the_worker_answers_nothing_twice(method: StartMethod) {
    let pool = stage::pool(method, 2);
    for round in 0..10u32 {
        let book = Notebook::new();
        let items = (0..40u32).map(|x| (x, round, book.path()));
        let results = pool.chunk_size(CHUNK).map_results(items, |(x, round, book)| {
            if x == 12
                && let Some(copy) = sys::fork()
            {
                stage::note(&book, std::process::id());
                stage::note(&book, copy);
                // From the same moment to some time after the copy's first answers.
                std::thread::sleep(std::time::Duration::from_micros(100 * u64::from(round)));
                sys::end_now(0);
            }
            x
        });
        stage::assert_one_lost_at_most(results.unwrap(), 40);
        let both: Vec<u32> = book.wait_for(2).iter().map(|line| line.parse().unwrap()).collect();
        stage::until_ended(&both);
        stage::until_replaced(&pool, 2, &both);
        stage::assert_works(&pool);
    }
    pool.close();
    pool.join().unwrap();
}

/// The worker sleeps in its task while the copy, which returned from it, does all the work; then it answers too late.
fn fork_that_serves_while_the_worker_waits_for_it_ends_with_the_pool(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let pids = pool.pids();
    let results = pool.chunk_size(CHUNK).map_results(0..40u32, |x| {
        if x == 12
            && let Some(copy) = sys::fork()
        {
            nix::sys::wait::waitpid(Pid::from_raw(i32::try_from(copy).unwrap()), None).unwrap();
        }
        x
    });
    stage::assert_one_lost_at_most(results.unwrap(), 40);
    pool.close();
    pool.join().unwrap();
    stage::until_ended(&pids);
}

/// In a task: tries to leave the group that this worker leads, for that of its parent and for a new one.
fn fail_to_leave_group() {
    let elsewhere = nix::unistd::getpgid(Some(nix::unistd::getppid())).unwrap();
    assert_eq!(nix::unistd::setpgid(Pid::from_raw(0), elsewhere), Err(Errno::EPERM));
    assert_eq!(nix::unistd::setsid(), Err(Errno::EPERM));
}

/// In a task: ignores SIGTERM and blocks all signals, so that only SIGKILL ends it.
fn be_deaf() {
    sys::ignore(Signal::SIGTERM);
    SigSet::all().thread_block().unwrap();
}

const ESCAPES: [fn(); 2] = [fail_to_leave_group, || {
    fail_to_leave_group();
    be_deaf();
}];

fn workers_cannot_leave_their_group_and_end_with_the_pool(method: StartMethod) {
    const ENDS: [fn(Pool); 2] = [
        |pool| {
            pool.terminate();
            pool.join().unwrap();
        },
        drop,
    ];
    for end in ENDS {
        let pool = stage::pool(method, ESCAPES.len());
        let (gate, book) = (Gate::closed(), Notebook::new());
        let handles = [0, 1usize].map(|escape| {
            pool.apply_async((escape, gate.path(), book.path()), |escape, gate, book| {
                ESCAPES[escape]();
                stage::note(&book, std::process::id());
                stage::pass(&gate);
            })
        });
        book.wait_for(ESCAPES.len());
        let pids = pool.pids();
        end(pool);
        assert!(handles.iter().all(|handle| matches!(handle.get(), Err(TaskError::Terminated))));
        assert!(pids.iter().all(|&pid| processes::Process::find(pid).is_none()));
    }
}
