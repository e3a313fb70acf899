//! Semaphores, events, condition variables and barriers between processes, and what a death does to each.

use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::signal::Signal;
use procpool::AsyncResult;
use procpool::Pool;
use procpool::Shared;
use procpool::StartMethod;
use procpool::sync::Barrier;
use procpool::sync::BarrierError;
use procpool::sync::Condvar;
use procpool::sync::Event;
use procpool::sync::LockError;
use procpool::sync::Mutex;
use procpool::sync::Semaphore;

use crate::harness::cases;
use crate::harness::stage;
use crate::harness::sys;
use crate::ipc::peers::LONG;

cases![
    no_more_permits_are_taken_than_there_are,
    permits_of_the_dead_come_back,
    permits_are_added_and_forgotten,
    event_lets_all_through,
    queue_with_a_condition_loses_nothing,
    one_notification_wakes_one,
    notification_of_the_dead_is_passed_on,
    dead_waiters_hold_up_no_notification,
    time_of_a_condition_ends,
    parties_meet_again_and_again,
    dead_party_breaks_a_barrier,
    barrier_is_broken_until_it_is_reset,
    forked_copy_meets_no_one,
];

fn no_more_permits_are_taken_than_there_are(method: StartMethod) {
    let pool = stage::pool(method, 4);
    let shared = (Semaphore::new(2).unwrap(), Shared::<[AtomicU32]>::zeroed(2).unwrap());
    pool.with(&shared)
        .chunk_size(1)
        .map(0..40u32, |(semaphore, counts), _| {
            let _permit = semaphore.acquire().unwrap();
            let inside = counts[0].fetch_add(1, Ordering::Relaxed) + 1;
            counts[1].fetch_max(inside, Ordering::Relaxed);
            stage::doze(1);
            counts[0].fetch_sub(1, Ordering::Relaxed);
        })
        .unwrap();
    assert!(shared.1[1].load(Ordering::Relaxed) <= 2);
    assert_eq!(shared.0.available().unwrap(), 2);
    // Several of one thread.
    let (first, second) = (shared.0.acquire().unwrap(), shared.0.try_acquire().unwrap());
    assert!(second.is_some() && shared.0.try_acquire().unwrap().is_none());
    assert!(shared.0.acquire_timeout(Duration::from_millis(2)).unwrap().is_none());
    drop((first, second));
    assert_eq!(shared.0.available().unwrap(), 2);
}

/// Tasks that take a permit and stay; their processes.
fn stay(pool: &Pool, count: u32, semaphore: &Semaphore) -> (Vec<u32>, AsyncResult<Vec<()>>) {
    let pids = Mutex::new(Vec::<u32>::new()).unwrap();
    let context = (semaphore.clone(), pids.clone());
    let tasks = pool.with(&context).chunk_size(1).map_async(0..count, |(semaphore, pids), _| {
        let _permit = semaphore.acquire().unwrap();
        pids.lock().unwrap().push(std::process::id());
        stage::doze(60_000);
    });
    stage::until("all that stay", || pids.lock().unwrap().len() == count as usize);
    let found = pids.lock().unwrap().clone();
    (found, tasks)
}

fn permits_of_the_dead_come_back(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let semaphore = Semaphore::new(3).unwrap();
    let (pids, tasks) = stay(&pool, 2, &semaphore);
    let own = semaphore.acquire().unwrap();
    assert!(semaphore.try_acquire().unwrap().is_none());
    stage::signal(pids[0], Signal::SIGKILL);
    let freed = semaphore.acquire().unwrap();
    assert!(semaphore.try_acquire().unwrap().is_none());
    stage::signal(pids[1], Signal::SIGKILL);
    drop((semaphore.acquire_timeout(LONG).unwrap().expect("one of the dead"), own, freed));
    assert!(tasks.get().is_err());
    assert_eq!(semaphore.available().unwrap(), 3);
}

fn permits_are_added_and_forgotten(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let semaphore = Semaphore::new(0).unwrap();
    let taken =
        pool.apply_async((semaphore.clone(),), |semaphore: Semaphore| semaphore.acquire().unwrap().forget().unwrap());
    semaphore.add_permits(3).unwrap();
    taken.get().unwrap();
    assert_eq!(semaphore.available().unwrap(), 2);
}

fn event_lets_all_through(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let event = Event::new().unwrap();
    assert!(!event.is_set().unwrap() && !event.wait_timeout(Duration::from_millis(2)).unwrap());
    let waiting = pool.with(&event).chunk_size(1).map_async(0..2u32, |event, x| {
        event.wait().unwrap();
        x
    });
    std::thread::sleep(Duration::from_millis(20));
    event.set().unwrap();
    event.set().unwrap();
    assert_eq!(waiting.get().unwrap(), [0, 1]);
    event.wait().unwrap();
    event.clear().unwrap();
    assert!(!pool.apply((event.clone(),), |event: Event| event.is_set().unwrap()).unwrap());
}

type Queue = (Mutex<Vec<u32>>, Condvar, Condvar);

fn queue_with_a_condition_loses_nothing(method: StartMethod) {
    const ITEMS: u32 = 100;
    let pool = stage::pool(method, 3);
    let queue: Queue = (Mutex::new(Vec::new()).unwrap(), Condvar::new().unwrap(), Condvar::new().unwrap());
    let consumers = pool.with(&queue).chunk_size(1).map_async(0..2u32, |(items, more, less), _| {
        let mut taken = Vec::new();
        while taken.last() != Some(&u32::MAX) {
            let mut items = items.lock().unwrap();
            items.wait_while(more, |items| items.is_empty()).unwrap();
            taken.push(items.remove(0));
            less.notify_one().unwrap();
        }
        taken
    });
    let producer = pool.with(&queue).apply_async((ITEMS,), |(items, more, less), count| {
        for x in (0..count).chain([u32::MAX; 2]) {
            let mut items = items.lock().unwrap();
            items.wait_while(less, |items| items.len() >= 3).unwrap();
            items.push(x);
            more.notify_one().unwrap();
        }
    });
    producer.get().unwrap();
    let mut taken = consumers.get().unwrap().concat();
    taken.sort_unstable();
    assert!(taken.into_iter().eq((0..ITEMS).chain([u32::MAX; 2])));
}

/// Tasks that wait for a condition, count themselves, and return.
fn waiting(pool: &Pool, count: u32, shared: &(Mutex<Vec<u32>>, Condvar)) -> AsyncResult<Vec<u32>> {
    let tasks = pool.with(shared).chunk_size(1).map_async(0..count, |(pids, condition), x| {
        let mut pids = pids.lock().unwrap();
        pids.push(std::process::id());
        pids.wait(condition).unwrap();
        pids.push(0);
        x
    });
    // A thread that has released the mutex is one that is notified.
    stage::until("threads that wait", || shared.0.lock().unwrap().len() == count as usize);
    tasks
}

fn returned(shared: &(Mutex<Vec<u32>>, Condvar)) -> usize {
    shared.0.lock().unwrap().iter().filter(|pid| **pid == 0).count()
}

fn one_notification_wakes_one(method: StartMethod) {
    let pool = stage::pool(method, 3);
    let shared = (Mutex::new(Vec::new()).unwrap(), Condvar::new().unwrap());
    // Not kept for later.
    shared.1.notify_all().unwrap();
    let tasks = waiting(&pool, 3, &shared);
    for count in 1..=2 {
        shared.1.notify_one().unwrap();
        stage::until("a thread that was notified", || returned(&shared) == count);
        std::thread::sleep(Duration::from_millis(10));
        assert_eq!(returned(&shared), count);
    }
    shared.1.notify_all().unwrap();
    assert_eq!(tasks.get().unwrap(), [0, 1, 2]);
}

fn notification_of_the_dead_is_passed_on(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let shared = (Mutex::new(Vec::new()).unwrap(), Condvar::new().unwrap());
    let tasks = waiting(&pool, 2, &shared);
    let first = shared.0.lock().unwrap()[0];
    // It is stopped when it is notified, and dies with it.
    stage::signal(first, Signal::SIGSTOP);
    shared.1.notify_one().unwrap();
    std::thread::sleep(Duration::from_millis(20));
    assert_eq!(returned(&shared), 0);
    stage::signal(first, Signal::SIGKILL);
    stage::until("the next one", || returned(&shared) == 1);
    assert!(tasks.get().is_err());
}

fn dead_waiters_hold_up_no_notification(method: StartMethod) {
    let pool = stage::pool(method, 3);
    let shared = (Mutex::new(Vec::new()).unwrap(), Condvar::new().unwrap());
    let tasks = waiting(&pool, 3, &shared);
    let pids = shared.0.lock().unwrap().clone();
    pids[..2].iter().for_each(|pid| stage::signal(*pid, Signal::SIGKILL));
    stage::until_ended(&pids[..2]);
    // For the two that are dead, and so for the third.
    shared.1.notify_one().unwrap();
    stage::until("the one that lives", || returned(&shared) == 1);
    assert!(tasks.get().is_err());
}

fn time_of_a_condition_ends(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let waited = pool.apply((), || {
        let (mutex, condition) = (Mutex::new(1).unwrap(), Condvar::new().unwrap());
        let mut value = mutex.lock().unwrap();
        *value = 2;
        let first = value.wait_timeout(&condition, Duration::from_millis(5)).unwrap();
        // It holds the mutex again, with what it was before.
        assert_eq!((*value, mutex.lock().unwrap_err()), (2, LockError::HeldByThisThread));
        *value = 3;
        let second = std::thread::scope(|scope| {
            scope.spawn(|| {
                *mutex.lock().unwrap() += 10;
                condition.notify_one().unwrap();
            });
            value.wait_timeout(&condition, LONG).unwrap()
        });
        (first, second, *value)
    });
    assert_eq!(waited.unwrap(), (false, true, 13));
}

fn parties_meet_again_and_again(method: StartMethod) {
    let pool = stage::pool(method, 3);
    let shared = (Barrier::new(3).unwrap(), Shared::<AtomicU32>::new().unwrap());
    let sums = pool.with(&shared).chunk_size(1).map(0..3u32, |(barrier, count), _| {
        let mut sum = 0;
        for round in 0..50u32 {
            assert!(count.load(Ordering::Relaxed) >= 3 * round);
            count.fetch_add(1, Ordering::Relaxed);
            sum += barrier.wait().unwrap();
            // All have come, before one goes on.
            assert!(count.load(Ordering::Relaxed) >= 3 * (round + 1));
        }
        sum
    });
    assert_eq!(sums.unwrap().into_iter().sum::<usize>(), 50 * 3);
    assert_eq!((shared.0.waiting().unwrap(), shared.0.parties().unwrap()), (0, 3));
    for parties in [0, 1000] {
        assert_eq!(Barrier::new(parties).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    }
}

fn dead_party_breaks_a_barrier(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let barrier = Barrier::new(4).unwrap();
    let pids = Mutex::new(Vec::<u32>::new()).unwrap();
    let context = (barrier.clone(), pids.clone());
    let parties: Vec<_> = (0..2)
        .map(|_| {
            pool.with(&context).apply_async((0u8,), |(barrier, pids), _| {
                pids.lock().unwrap().push(std::process::id());
                barrier.wait().map_err(|error| error.to_string())
            })
        })
        .collect();
    stage::until("two parties", || barrier.waiting().unwrap() == 2);
    let victim = pids.lock().unwrap()[0];
    stage::signal(victim, Signal::SIGKILL);
    assert_eq!(barrier.wait(), Err(BarrierError::PartyDied { pid: victim }));
    assert_eq!(barrier.wait(), Err(BarrierError::PartyDied { pid: victim }));
    // One party is the victim, the other is told.
    let told = parties.iter().filter_map(|party| party.get().ok()).collect::<Vec<_>>();
    assert!(matches!(&told[..], [Err(text)] if text.contains("died while it waited")), "{told:?}");
}

fn barrier_is_broken_until_it_is_reset(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let barrier = Barrier::new(2).unwrap();
    let wait = |barrier: Barrier| barrier.wait().map_err(|error| error == BarrierError::Aborted);
    for stop in [Barrier::abort, Barrier::reset] {
        let waiting = pool.apply_async((barrier.clone(),), wait);
        stage::until("a party", || barrier.waiting().unwrap() == 1);
        stop(&barrier).unwrap();
        assert_eq!(waiting.get().unwrap(), Err(true));
        barrier.reset().unwrap();
        assert!(!barrier.is_broken().unwrap());
    }
    let waiting = pool.apply_async((barrier.clone(),), |barrier: Barrier| {
        barrier.wait_timeout(Duration::from_millis(5)).map_err(|error| error == BarrierError::TimedOut)
    });
    assert_eq!(waiting.get().unwrap(), Err(true));
    assert_eq!(barrier.wait(), Err(BarrierError::TimedOut));
    barrier.reset().unwrap();
    let waiting = pool.apply_async((barrier.clone(),), wait);
    let index = barrier.wait_timeout(LONG).unwrap();
    assert_eq!(waiting.get().unwrap(), Ok(1 - index));
}

fn forked_copy_meets_no_one(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let semaphore = Semaphore::new(1).unwrap();
    let (event, condition, barrier) = (Event::new().unwrap(), Condvar::new().unwrap(), Barrier::new(1).unwrap());
    let permit = semaphore.acquire().unwrap();
    let code = sys::in_a_forked_copy(|| {
        let is_broken = matches!(semaphore.try_acquire(), Err(LockError::Broken { .. }))
            && matches!(event.set(), Err(LockError::Broken { .. }))
            && matches!(condition.notify_all(), Err(LockError::Broken { .. }))
            && matches!(barrier.wait(), Err(BarrierError::Broken { .. }));
        u8::from(is_broken)
    });
    assert_eq!(code, 1);
    assert!(!event.is_set().unwrap());
    drop(permit);
    assert_eq!(semaphore.available().unwrap(), 1);
    stage::assert_works(&pool);
}
