//! Races: everything at once, for one second, or for `PROCPOOL_IT_RACE_SECONDS`.
//!
//! Nothing is synchronised on purpose, and every answer is checked. The choices come from a seed, which a failure
//! shows; it does not determine the interleaving.

use std::io::Write;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use procpool::Pool;
use procpool::StartMethod;
use procpool::TaskError;

use crate::harness::cases;
use crate::harness::stage;

cases![
    items_of_uneven_length_are_not_mixed_up,
    workers_die_while_everything_runs,
    workers_are_recycled_and_killed,
    pools_come_and_go,
    workers_stop_and_continue,
];

fn race_time() -> Duration {
    let seconds = std::env::var("PROCPOOL_IT_RACE_SECONDS").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(1))
}

/// Splitmix64: good enough to vary, and reproducible from the seed.
struct Dice(u64);

impl Dice {
    fn thrown() -> Dice {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let seed = now.as_secs() ^ (u64::from(now.subsec_nanos()) << 20) ^ u64::from(std::process::id());
        // Shown in the output of a case that fails.
        std::io::stderr().write_all(format!("seed {seed:#x}\n").as_bytes()).unwrap();
        Dice(seed)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// A task whose duration is its item.
fn spin(item: (u64, u64)) -> u64 {
    let (index, micros) = item;
    let end = Instant::now() + Duration::from_micros(micros);
    while Instant::now() < end {
        std::hint::spin_loop();
    }
    index
}

/// Most items are short; a few take so long that the items behind them must be recalled.
fn uneven(dice: &mut Dice, count: u64) -> Vec<(u64, u64)> {
    (0..count).map(|index| (index, if dice.below(40) == 0 { dice.below(4000) } else { dice.below(20) })).collect()
}

fn items_of_uneven_length_are_not_mixed_up(method: StartMethod) {
    let (mut dice, end) = (Dice::thrown(), Instant::now() + race_time());
    let pool = stage::pool(method, 4);
    while Instant::now() < end {
        let count = 1 + dice.below(600);
        let expected: Vec<u64> = (0..count).collect();
        let items = uneven(&mut dice, count);
        let call = pool.chunk_size(usize::try_from(1 + dice.below(5)).unwrap());
        match dice.below(5) {
            0 => assert_eq!(pool.map(items, spin).unwrap(), expected),
            1 => assert_eq!(call.map(items, spin).unwrap(), expected),
            2 => assert_eq!(call.imap(items, spin).map(Result::unwrap).collect::<Vec<_>>(), expected),
            3 => {
                let mut values: Vec<u64> = call.imap_unordered(items, spin).map(Result::unwrap).collect();
                values.sort_unstable();
                assert_eq!(values, expected);
            }
            _ => {
                let first = call.map_async(items.clone(), spin);
                let second = pool.map_async(items, spin);
                assert_eq!(second.get().unwrap(), expected);
                assert_eq!(first.get().unwrap(), expected);
            }
        }
    }
}

/// Sends signals to random workers until told to end. Returns how many.
fn harass(pool: &Pool, mut dice: Dice, over: &AtomicBool, blow: impl Fn(&mut Dice, Pid) -> bool) -> usize {
    let mut blows = 0;
    while !over.load(Ordering::SeqCst) {
        let pids = pool.pids();
        if !pids.is_empty() {
            let pid = pids[usize::try_from(dice.below(pids.len() as u64)).unwrap()];
            blows += usize::from(blow(&mut dice, Pid::from_raw(i32::try_from(pid).unwrap())));
        }
        thread::sleep(Duration::from_micros(500 + dice.below(20_000)));
    }
    blows
}

fn kill(_: &mut Dice, pid: Pid) -> bool {
    nix::sys::signal::kill(pid, Signal::SIGKILL).is_ok()
}

/// Runs jobs of all kinds. Returns how many items were lost. Every other item must have its own answer at its own
/// index.
fn work_until(pool: &Pool, mut dice: Dice, end: Instant) -> usize {
    let lost = AtomicUsize::new(0);
    let check = |index: u64, result: Result<u64, TaskError>| match result {
        Ok(value) => assert_eq!(value, index),
        Err(TaskError::WorkerDied { .. }) => drop(lost.fetch_add(1, Ordering::SeqCst)),
        Err(other) => panic!("{other:?}"),
    };
    while Instant::now() < end {
        let count = 1 + dice.below(300);
        let items = uneven(&mut dice, count);
        match dice.below(4) {
            0 => (0..).zip(pool.map_results(items, spin).unwrap()).for_each(|(index, result)| check(index, result)),
            1 => (0..).zip(pool.imap(items, spin)).for_each(|(index, result)| check(index, result)),
            2 => {
                let handles: Vec<_> = items.into_iter().map(|item| pool.apply_async((item,), spin)).collect();
                (0..).zip(&handles).for_each(|(index, handle)| check(index, handle.get()));
            }
            _ => {
                let chunk_size = usize::try_from(1 + dice.below(9)).unwrap();
                let results = pool.chunk_size(chunk_size).imap_unordered(items, spin);
                let mut seen: Vec<u64> = results
                    .filter_map(|result| match result {
                        Ok(index) => Some(index),
                        Err(_) => {
                            check(0, result);
                            None
                        }
                    })
                    .collect();
                let answered = seen.len();
                seen.sort_unstable();
                seen.dedup();
                assert_eq!(seen.len(), answered, "an item was answered twice");
            }
        }
    }
    lost.into_inner()
}

/// Several threads submit while one sends signals. Returns how many items were lost, and how many signals were sent.
fn race(pool: &Pool, workers: u64, blow: impl Fn(&mut Dice, Pid) -> bool + Send) -> (usize, usize) {
    let (mut dice, end, over) = (Dice::thrown(), Instant::now() + race_time(), AtomicBool::new(false));
    thread::scope(|scope| {
        let harasser_dice = Dice(dice.below(u64::MAX));
        let over = &over;
        let harasser = scope.spawn(move || harass(pool, harasser_dice, over, blow));
        let working: Vec<_> = (0..workers)
            .map(|_| {
                let dice = Dice(dice.below(u64::MAX));
                scope.spawn(move || work_until(pool, dice, end))
            })
            .collect();
        let lost: Result<Vec<usize>, _> = working.into_iter().map(thread::ScopedJoinHandle::join).collect();
        over.store(true, Ordering::SeqCst);
        let blows = harasser.join().unwrap();
        (lost.unwrap().into_iter().sum(), blows)
    })
}

fn workers_die_while_everything_runs(method: StartMethod) {
    let pool = stage::pool(method, 3);
    let (lost, kills) = race(&pool, 3, kill);
    assert!(kills > 0 && lost <= kills, "{lost} items lost by {kills} deaths");
    stage::assert_works(&pool);
    pool.close();
    pool.join().unwrap();
}

fn workers_are_recycled_and_killed(method: StartMethod) {
    let pool = Pool::builder().processes(3).start_method(method).max_tasks_per_child(50).build().unwrap();
    let (lost, kills) = race(&pool, 2, kill);
    assert!(lost <= kills, "{lost} items lost by {kills} deaths");
    stage::assert_works(&pool);
}

/// A stopped worker delays only the item that it has begun; once continued, it loses nothing.
fn workers_stop_and_continue(method: StartMethod) {
    let pool = stage::pool(method, 3);
    let (lost, _) = race(&pool, 2, |dice, pid| {
        let stopped = nix::sys::signal::kill(pid, Signal::SIGSTOP).is_ok();
        thread::sleep(Duration::from_micros(dice.below(5000)));
        stopped && nix::sys::signal::kill(pid, Signal::SIGCONT).is_ok()
    });
    assert_eq!(lost, 0);
    stage::assert_works(&pool);
}

/// Pools end in every way in the middle of work, while others are made.
fn pools_come_and_go(method: StartMethod) {
    let (mut dice, end) = (Dice::thrown(), Instant::now() + race_time());
    let mut pools: Vec<Pool> = Vec::new();
    while Instant::now() < end {
        let pool = stage::pool(method, usize::try_from(1 + dice.below(3)).unwrap());
        let handle = pool.map_async(uneven(&mut dice, 50), spin);
        if dice.below(2) == 0 {
            pool.apply((1u8,), |x| x).unwrap();
        }
        match dice.below(4) {
            0 => pools.push(pool),
            1 => {
                pool.close();
                pool.join().unwrap();
                assert_eq!(handle.get().unwrap().len(), 50);
            }
            2 => pool.terminate(),
            _ => drop(pool),
        }
        match handle.get() {
            Ok(values) => assert_eq!(values, (0..50).collect::<Vec<_>>()),
            Err(TaskError::Terminated) => {}
            Err(other) => panic!("{other:?}"),
        }
        if pools.len() > 3 {
            pools.remove(usize::try_from(dice.below(3)).unwrap());
        }
    }
}
