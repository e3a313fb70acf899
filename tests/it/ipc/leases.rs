//! Holders of locks are killed at random, or write whatever they like into them.
//!
//! A mutex has the value of the last change that was kept, and no thread that lives waits for the dead.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use nix::sys::socket::Shutdown;
use nix::sys::socket::shutdown;
#[cfg(debug_assertions)]
use procpool::Pool;
use procpool::Shared;
use procpool::StartMethod;
use procpool::TaskError;
use procpool::sync::Barrier;
use procpool::sync::Condvar;
use procpool::sync::Event;
use procpool::sync::Lock;
use procpool::sync::LockError;
use procpool::sync::Mutex;
use procpool::sync::Semaphore;
use serde::Deserialize;
use serde::Serialize;

use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::harness::sys;
use crate::ipc::peers::LONG;

cases![
    holders_are_killed_at_random,
    worker_that_scribbles_over_each_word_holds_up_no_call_that_does_not_wait,
    worker_that_holds_each_latch_holds_up_no_call_that_does_not_wait,
    worker_that_ruins_the_sockets_holds_up_no_call_that_does_not_wait,
];

/// Each item adds one, and says so.
#[cfg(debug_assertions)]
pub(crate) fn add(pool: &Pool, mutex: &Mutex<Vec<u32>>, items: u32) -> Vec<Result<(), TaskError>> {
    let added = pool.with(mutex).chunk_size(1).map_results(0..items, |mutex, x| mutex.lock().unwrap().push(x));
    added.unwrap()
}

/// Every item that has an answer is there once; one that was lost may be.
pub(crate) fn assert_kept(values: &[u32], results: &[Result<(), TaskError>]) {
    for (x, result) in (0u32..).zip(results) {
        let count = values.iter().filter(|value| **value == x).count();
        assert!(count == 1 || count == 0 && result.is_err(), "{x}: {count} times, {result:?}");
    }
}

/// What is under the torture.
type Everything = (Mutex<Vec<u32>>, Lock, Semaphore, Shared<AtomicU64>);

fn use_everything(shared: &Everything, x: u32) {
    let (mutex, lock, semaphore, inside) = shared;
    let _permit = semaphore.acquire().unwrap();
    let guard = match lock.lock() {
        Err(LockError::OwnerDied { .. }) => {
            let guard = lock.recover().unwrap();
            inside.store(0, Ordering::Relaxed);
            guard
        }
        other => other.unwrap(),
    };
    assert_eq!(inside.fetch_add(1, Ordering::Relaxed), 0, "two hold the lock");
    mutex.lock().unwrap().push(x);
    inside.fetch_sub(1, Ordering::Relaxed);
    drop(guard);
}

fn holders_are_killed_at_random(method: StartMethod) {
    const ITEMS: u32 = 1500;
    let pool = stage::pool(method, 3);
    let list = Mutex::with_capacity(Vec::new(), 64 * 1024).unwrap();
    let shared: Everything = (list, Lock::new().unwrap(), Semaphore::new(2).unwrap(), Shared::new().unwrap());
    let mut kills = 0u32;
    let results: Vec<Result<(), TaskError>> = std::thread::scope(|scope| {
        let call = scope.spawn(|| {
            let call = pool.with(&shared).chunk_size(1);
            call.map_results(0..ITEMS, use_everything).unwrap()
        });
        let began = Instant::now();
        let mut seed = 7u64;
        while !call.is_finished() && began.elapsed() < Duration::from_secs(20) {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            std::thread::sleep(Duration::from_micros(500 + (seed >> 33) % 4000));
            let pids = pool.pids();
            if let Some(pid) = pids.get(usize::try_from(seed >> 40).unwrap() % pids.len().max(1)) {
                stage::kill_if_there(*pid);
                kills += 1;
            }
        }
        call.join().unwrap()
    });
    assert!(kills > 0);
    assert!(results.iter().all(|result| matches!(result, Ok(()) | Err(TaskError::WorkerDied { .. }))), "{results:?}");
    assert_kept(&shared.0.lock_timeout(LONG).unwrap().expect("no one that lives holds it"), &results);
    drop(shared.1.recover().unwrap());
    let permits = [(); 2].map(|()| shared.2.acquire_timeout(LONG).unwrap().expect("all are back"));
    drop(permits);
}

/// One of each, with what stops the worker.
#[derive(Clone, Serialize, Deserialize)]
struct All {
    lock: Lock,
    mutex: Mutex<String>,
    semaphore: Semaphore,
    event: Event,
    condition: Condvar,
    barrier: Barrier,
    stop: Shared<AtomicU32>,
}

impl All {
    fn new() -> All {
        All {
            lock: Lock::new().unwrap(),
            mutex: Mutex::new("a value".to_owned()).unwrap(),
            semaphore: Semaphore::new(2).unwrap(),
            event: Event::new().unwrap(),
            condition: Condvar::new().unwrap(),
            barrier: Barrier::new(2).unwrap(),
            stop: Shared::new().unwrap(),
        }
    }

    /// Calls everything that does not wait. Whatever another process does, each comes back, and none panics.
    fn call(&self) {
        let short = Duration::from_millis(5);
        drop(self.lock.try_lock());
        drop(self.lock.lock_timeout(short));
        if let Ok(Some(mut guard)) = self.mutex.try_lock() {
            guard.push('x');
            guard.truncate(10);
        }
        drop(self.mutex.lock_timeout(short));
        drop(self.semaphore.try_acquire());
        drop(self.semaphore.acquire_timeout(short));
        drop((self.event.wait_timeout(short), self.event.is_set(), self.semaphore.available()));
        drop((self.barrier.wait_timeout(short), self.barrier.is_broken(), self.barrier.waiting()));
    }
}

/// In a task: the memory of everything that was sent, but of what says when to stop.
fn memories() -> Vec<File> {
    let fds = processes::descriptors(std::process::id()).into_iter();
    let files = fds.filter(|(_, target)| target.contains("memfd:procpool-ipc"));
    let files: Vec<File> = files.map(|(fd, _)| File::from(sys::copy_of(fd))).collect();
    let files: Vec<File> = files.into_iter().filter(|file| file.metadata().unwrap().len() != 4100).collect();
    assert!(files.len() >= 6, "{files:?}");
    files
}

/// Calls everything while a task attacks it.
fn harass(method: StartMethod, attack: fn(All)) {
    let pool = stage::pool(method, 2);
    stage::until_all_work(&pool);
    let all = All::new();
    let attacking = pool.apply_async((all.clone(),), attack);
    for _ in 0..20 {
        all.call();
    }
    stage::assert_works(&pool);
    all.stop.store(1, Ordering::Relaxed);
    drop(all);
    attacking.get().unwrap();
    stage::assert_works(&pool);
}

fn worker_that_scribbles_over_each_word_holds_up_no_call_that_does_not_wait(method: StartMethod) {
    harass(method, |all| {
        let files = memories();
        let own = u64::from(std::process::id());
        // Nothing, everything, this process as a holder of much, and one that does not exist.
        let numbers = [0, u64::MAX, own << 42 | own << 20 | 7, 4_000_000 << 42 | 1, 1, 2, 1 << 63];
        for round in 0.. {
            for file in &files {
                let places = (0..500).map(|index| 64 + 8 * index).step_by(1 + round % 5);
                for (place, number) in places.zip(numbers.iter().cycle().skip(round % 7)) {
                    file.write_all_at(&number.to_ne_bytes(), place).unwrap();
                }
            }
            if all.stop.load(Ordering::Relaxed) != 0 {
                break;
            }
        }
    });
}

fn worker_that_holds_each_latch_holds_up_no_call_that_does_not_wait(method: StartMethod) {
    harass(method, |all| {
        let files = memories();
        while all.stop.load(Ordering::Relaxed) == 0 {
            for file in &files {
                // The word of the latch: this thread, which exists and never lets go.
                file.write_all_at(&std::process::id().to_ne_bytes(), 64).unwrap();
            }
        }
        files.iter().for_each(|file| file.write_all_at(&[0; 4], 64).unwrap());
    });
}

fn worker_that_ruins_the_sockets_holds_up_no_call_that_does_not_wait(method: StartMethod) {
    harass(method, |all| {
        let fds = processes::descriptors(std::process::id()).into_iter();
        let sockets = fds.filter(|(fd, target)| target.starts_with("socket:") && sys::carries_messages(*fd));
        // The first are the worker's own, of the pool.
        let sockets: Vec<_> = sockets.map(|(fd, _)| sys::copy_of(fd)).collect();
        let objects = &sockets[sockets.len() - 12..];
        for (index, socket) in objects.iter().enumerate() {
            let how = [Shutdown::Read, Shutdown::Write, Shutdown::Both][index % 3];
            shutdown(socket.as_raw_fd(), how).unwrap();
        }
        all.call();
        while all.stop.load(Ordering::Relaxed) == 0 {
            stage::doze(1);
        }
    });
}
