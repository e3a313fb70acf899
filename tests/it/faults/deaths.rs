//! Deaths of workers: each costs the item that was running, and nothing else.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt;

use nix::sys::ptrace;
use nix::sys::signal::Signal;
use nix::sys::signal::raise;
use nix::unistd::Pid;
use procpool::Panic;
use procpool::StartMethod;
use procpool::TaskError;

use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::harness::stage::Gate;
use crate::harness::stage::Notebook;
use crate::harness::sys;

cases![
    idle_worker_is_replaced,
    all_idle_workers_at_once_are_replaced,
    busy_worker_costs_its_item,
    all_busy_workers_at_once_cost_their_items,
    traced_worker_that_dies_costs_its_item,
    every_signal_is_told,
    every_exit_status_is_told,
    abort_in_the_middle_of_a_panic_tells_the_panic,
    panics_that_were_caught_are_no_cause_of_death,
    stack_overflow_costs_its_item,
    running_out_of_memory_costs_its_item,
    each_death_costs_one_item_of_a_map,
    each_death_costs_one_item_of_an_imap,
    each_death_costs_one_item_of_a_chunk,
    item_of_the_lowest_index_names_the_death,
    poison_never_breaks_the_pool,
    death_after_a_result_keeps_the_result,
    stopped_and_continued_worker_loses_nothing,
    worker_of_another_pool_is_unharmed,
    close_and_join_although_workers_die,
    killing_again_and_again_loses_no_more_than_one_item_each,
];

/// The contents of a `WorkerDied` error.
#[derive(Debug)]
pub(crate) struct Death {
    pub(crate) pid: u32,
    pub(crate) signal: Option<i32>,
    pub(crate) code: Option<i32>,
    pub(crate) panic: Option<Box<Panic>>,
}

/// The death that cost a started item. Its status is known, as no parent of a worker is killed here.
pub(crate) fn death<T: std::fmt::Debug>(result: Result<T, TaskError>) -> Death {
    match result {
        Err(TaskError::WorkerDied { pid, status: Some(status), attempts: 1, panic, .. }) => {
            Death { pid, signal: status.signal(), code: status.code(), panic }
        }
        other => panic!("not the death of a worker in its task: {other:?}"),
    }
}

fn idle_worker_is_replaced(method: StartMethod) {
    let pool = stage::pool(method, 2);
    stage::assert_works(&pool);
    let victim = pool.pids()[0];
    stage::signal(victim, Signal::SIGKILL);
    stage::assert_works(&pool);
    stage::until_replaced(&pool, 2, &[victim]);
    stage::assert_works(&pool);
}

fn all_idle_workers_at_once_are_replaced(method: StartMethod) {
    let pool = stage::pool(method, 4);
    for _ in 0..3 {
        stage::assert_works(&pool);
        let victims = pool.pids();
        for &victim in &victims {
            stage::signal(victim, Signal::SIGKILL);
        }
        stage::assert_works(&pool);
        stage::until_replaced(&pool, 4, &victims);
    }
}

fn busy_worker_costs_its_item(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let (book, mut gate) = (Notebook::new(), Gate::closed());
    let task: fn(String, String) -> u32 = |book, gate| {
        stage::note(&book, std::process::id());
        stage::pass(&gate);
        std::process::id()
    };
    let first = pool.apply_async((book.path(), gate.path()), task);
    let victim: u32 = book.wait_for(1)[0].parse().unwrap();
    let second = pool.apply_async((book.path(), gate.path()), task);
    book.wait_for(2);
    stage::signal(victim, Signal::SIGKILL);
    let death = death(first.get());
    assert_eq!((death.pid, death.signal), (victim, Some(9)));
    assert!(death.panic.is_none());
    assert!(!second.ready());
    gate.open();
    assert_ne!(second.get().unwrap(), victim);
    stage::until_replaced(&pool, 2, &[victim]);
}

fn all_busy_workers_at_once_cost_their_items(method: StartMethod) {
    let pool = stage::pool(method, 3);
    let (book, mut gate) = (Notebook::new(), Gate::closed());
    let task: fn((String, String)) = |(book, gate)| {
        stage::note(&book, std::process::id());
        stage::pass(&gate);
    };
    let items = vec![(book.path(), gate.path()); 30];
    let handles: Vec<_> = items.into_iter().map(|item| pool.apply_async((item,), task)).collect();
    let victims: Vec<u32> = book.wait_for(3).iter().map(|line| line.parse().unwrap()).collect();
    for &victim in &victims {
        stage::signal(victim, Signal::SIGKILL);
    }
    gate.open();
    let (done, lost): (Vec<_>, Vec<_>) = handles.iter().map(|handle| handle.get()).partition(Result::is_ok);
    assert_eq!(done.len(), 27);
    let mut dead: Vec<u32> = lost.into_iter().map(|result| death(result).pid).collect();
    dead.sort_unstable();
    let mut victims = victims;
    victims.sort_unstable();
    assert_eq!(dead, victims);
}

fn traced_worker_that_dies_costs_its_item(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let (book, mut gate) = (Notebook::new(), Gate::closed());
    let held = pool.apply_async((book.path(), gate.path()), |book: String, gate: String| {
        stage::note(&book, std::process::id());
        stage::pass(&gate);
    });
    let victim: u32 = book.wait_for(1)[0].parse().unwrap();
    // The other worker attaches, and holds back the end of the first until it ends itself.
    let attach = |pid: i32| ptrace::seize(Pid::from_raw(pid), ptrace::Options::empty()).unwrap();
    pool.apply((i32::try_from(victim).unwrap(),), attach).unwrap();

    stage::signal(victim, Signal::SIGKILL);

    // Its status is known only once the tracer has let it go, and nothing waits for that.
    match held.get() {
        Err(TaskError::WorkerDied { pid, status: None, .. }) => assert_eq!(pid, victim),
        other => panic!("{other:?}"),
    }
    gate.open();
    stage::until_replaced(&pool, 2, &[victim]);
    stage::assert_works(&pool);
}

fn every_signal_is_told(method: StartMethod) {
    let pool = stage::pool(method, 2);
    for signal in [Signal::SIGSEGV, Signal::SIGABRT, Signal::SIGBUS, Signal::SIGKILL, Signal::SIGTERM, Signal::SIGFPE] {
        let result = pool.apply((signal as i32,), |signal| -> u32 { sys::die_of(Signal::try_from(signal).unwrap()) });
        assert_eq!(death(result).signal, Some(signal as i32), "{signal}");
        stage::assert_works(&pool);
    }
}

fn every_exit_status_is_told(method: StartMethod) {
    let pool = stage::pool(method, 2);
    for code in [0, 1, 3, 101, 255] {
        let result = pool.apply((code,), |code: i32| -> u32 { std::process::exit(code) });
        assert_eq!(death(result).code, Some(code));
        let result = pool.apply((code,), |code: i32| -> u32 { sys::end_now(code) });
        assert_eq!(death(result).code, Some(code));
    }
    let result = pool.apply((1u8,), |_| -> u32 { std::process::abort() });
    assert_eq!(death(result).signal, Some(libc::SIGABRT));
    stage::assert_works(&pool);
}

fn abort_in_the_middle_of_a_panic_tells_the_panic(method: StartMethod) {
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("while it is panicking");
        }
    }
    let pool = stage::pool(method, 1);
    let death = death(pool.apply((1u8,), |_| -> u8 {
        let _bomb = Bomb;
        panic!("the first of two");
    }));
    assert_eq!(death.signal, Some(libc::SIGABRT));
    let panic = death.panic.expect("the panic was there to be reported");
    assert!(panic.message.contains("the first of two") || panic.message.contains("while it is"), "{panic:?}");
    assert_eq!(panic.pid, death.pid);
    stage::assert_works(&pool);
}

fn panics_that_were_caught_are_no_cause_of_death(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let death = death(pool.apply((1u8,), |_| -> u8 {
        for message in ["caught", "caught again"] {
            std::panic::catch_unwind(|| panic!("{message}")).unwrap_err();
        }
        sys::die_of(Signal::SIGKILL)
    }));
    assert_eq!(death.signal, Some(9));
    assert!(death.panic.is_none(), "{:?}", death.panic);
}

fn stack_overflow_costs_its_item(method: StartMethod) {
    #[expect(unconditional_recursion, reason = "this is the point")]
    fn endless(depth: u64) -> u64 {
        let room = std::hint::black_box([depth; 64]);
        endless(depth + 1) + room[3]
    }
    let pool = stage::pool(method, 2);
    let results = pool.chunk_size(1).map_results(0..10u64, |x| if x == 4 { endless(x) } else { x }).unwrap();
    for (x, result) in (0u64..).zip(results) {
        match x {
            // std reports it, and aborts.
            4 => assert_eq!(death(result).signal, Some(libc::SIGABRT)),
            _ => assert_eq!(result.unwrap(), x),
        }
    }
}

fn running_out_of_memory_costs_its_item(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let result = pool.apply((1u8,), |byte| {
        use nix::sys::resource::Resource;
        nix::sys::resource::setrlimit(Resource::RLIMIT_AS, 1 << 31, 1 << 31).unwrap();
        vec![byte; 1 << 33].len()
    });
    assert_eq!(death(result).signal, Some(libc::SIGABRT));
    stage::assert_works(&pool);
}

/// Notes each item, and dies of every hundredth.
fn each_death_costs_one_item_of_a_map(method: StartMethod) {
    for chunk_size in [1, 7, 250] {
        let pool = stage::pool(method, 2);
        let book = Notebook::new();
        let items: Vec<(u32, String)> = (0..1000).map(|x| (x, book.path())).collect();
        let results = pool
            .chunk_size(chunk_size)
            .map_results(items, |(x, book)| {
                stage::note(&book, x);
                if x % 100 == 50 {
                    sys::die_of(Signal::SIGKILL);
                }
                x
            })
            .unwrap();
        for (x, result) in (0u32..).zip(results) {
            match x % 100 {
                50 => assert_eq!(death(result).signal, Some(9)),
                _ => assert_eq!(result.unwrap(), x),
            }
        }
        let mut counts = BTreeMap::new();
        for line in book.lines() {
            *counts.entry(line).or_insert(0) += 1;
        }
        assert_eq!(counts.len(), 1000);
        assert!(counts.values().all(|&count| count == 1), "an item was run twice");
    }
}

fn each_death_costs_one_item_of_an_imap(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let task: fn(u32) -> u32 = |x| if x % 20 == 10 { std::process::exit(0) } else { x };
    for (x, result) in (0u32..).zip(pool.chunk_size(4).imap(0..100u32, task)) {
        match x % 20 {
            10 => assert_eq!(death(result).code, Some(0)),
            _ => assert_eq!(result.unwrap(), x),
        }
    }
    let unordered = pool.imap_unordered(0..100u32, task);
    let (done, lost): (Vec<_>, Vec<_>) = unordered.partition(Result::is_ok);
    assert_eq!((done.len(), lost.len()), (95, 5));
    assert!(lost.into_iter().all(|result| death(result).code == Some(0)));
}

/// Items behind the one that kills its worker were already sent to that worker, and run elsewhere.
fn each_death_costs_one_item_of_a_chunk(method: StartMethod) {
    for processes in [1, 3] {
        let pool = stage::pool(method, processes);
        let book = Notebook::new();
        let items = (0..150u32).map(|x| (book.path(), x));
        let results = pool.chunk_size(50).starmap_results(items, |book, x| {
            stage::note(&book, x);
            if x % 50 == 10 {
                raise(Signal::SIGKILL).unwrap();
            }
            x
        });
        for (x, result) in (0u32..).zip(results.unwrap()) {
            match x % 50 {
                10 => assert_eq!(death(result).signal, Some(Signal::SIGKILL as i32)),
                _ => assert_eq!(result.unwrap(), x),
            }
        }
        assert_eq!(book.lines().len(), 150, "no item begins twice");
    }
}

fn item_of_the_lowest_index_names_the_death(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let result = pool.map(0..100u32, |x| match x {
        40 => std::process::exit(40),
        60 => std::process::exit(60),
        _ => x,
    });
    assert_eq!(death(result).code, Some(40));
}

fn poison_never_breaks_the_pool(method: StartMethod) {
    let pool = stage::pool(method, 2);
    for _ in 0..20 {
        assert_eq!(death(pool.apply((1u8,), |_| -> u8 { std::process::exit(9) })).code, Some(9));
    }
    let all = pool.map_results(vec![1u8; 20], |_| -> u8 { std::process::exit(9) }).unwrap();
    assert_eq!(all.into_iter().filter(|result| matches!(result, Err(TaskError::WorkerDied { .. }))).count(), 20);
    stage::assert_works(&pool);
}

/// The worker is killed after it has answered and before any call has asked for the answer.
fn death_after_a_result_keeps_the_result(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let book = Notebook::new();
    for size in [1usize, 100, 50_000] {
        let worker = pool.apply((0u8,), |_| std::process::id()).unwrap();
        let first = pool.apply_async((size,), |size| vec![7u8; size]);
        // The second item begins once the first has been answered.
        let gate = Gate::closed();
        let count = book.lines().len();
        let second = pool.apply_async((book.path(), gate.path()), |book, gate| {
            stage::note(&book, "second");
            stage::pass(&gate);
        });
        book.wait_for(count + 1);
        stage::signal(worker, Signal::SIGKILL);
        assert_eq!(first.get().unwrap(), vec![7u8; size]);
        assert_eq!(death(second.get()).pid, worker);
    }
}

fn stopped_and_continued_worker_loses_nothing(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let worker = pool.pids()[0];
    stage::assert_works(&pool);
    stage::signal(worker, Signal::SIGSTOP);
    stage::until("the stop", || processes::Process::find(worker).is_some_and(|process| process.state == 'T'));
    let handle = pool.map_async(0..100u32, |x| x);
    assert!(!handle.wait_timeout(std::time::Duration::from_millis(20)));
    stage::signal(worker, Signal::SIGCONT);
    assert_eq!(handle.get().unwrap(), (0..100).collect::<Vec<_>>());
    assert_eq!(pool.pids(), [worker]);
}

fn worker_of_another_pool_is_unharmed(method: StartMethod) {
    let (hit, other) = (stage::pool(method, 2), stage::pool(method, 2));
    let mut gate = Gate::closed();
    let running = other.apply_async((gate.path(),), |gate| {
        stage::pass(&gate);
        5u8
    });
    let others = other.pids();
    for pid in hit.pids() {
        stage::signal(pid, Signal::SIGKILL);
    }
    stage::assert_works(&hit);
    gate.open();
    assert_eq!(running.get().unwrap(), 5);
    assert_eq!(other.pids(), others);
    drop(hit);
    stage::assert_works(&other);
}

fn close_and_join_although_workers_die(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let handle = pool.map_async(0..100u32, |x| if x % 10 == 5 { std::process::exit(0) } else { x });
    pool.close();
    pool.join().unwrap();
    assert!(matches!(handle.get(), Err(TaskError::WorkerDied { .. })));
}

/// Kills workers from outside, at any moment of their lives.
fn killing_again_and_again_loses_no_more_than_one_item_each(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let kills: usize = std::thread::scope(|scope| {
        let job = scope.spawn(|| pool.chunk_size(3).map_results(0..3000u32, |x| x).unwrap());
        let mut kills = 0;
        while !job.is_finished() && kills < 20 {
            if let Some(&pid) = pool.pids().first() {
                let target = nix::unistd::Pid::from_raw(i32::try_from(pid).unwrap());
                kills += usize::from(nix::sys::signal::kill(target, Signal::SIGKILL).is_ok());
                stage::until("a replacement", || job.is_finished() || !pool.pids().contains(&pid));
            }
        }
        let results = job.join().unwrap();
        assert_eq!(results.len(), 3000);
        let lost = results.iter().filter(|result| matches!(result, Err(TaskError::WorkerDied { .. }))).count();
        assert!(lost <= kills, "{lost} items lost by {kills} deaths");
        for (x, result) in (0u32..).zip(results) {
            assert!(
                matches!(&result, Ok(value) if *value == x) || matches!(&result, Err(TaskError::WorkerDied { .. })),
                "{result:?}"
            );
        }
        kills
    });
    assert!(kills <= 20);
    stage::assert_works(&pool);
}
