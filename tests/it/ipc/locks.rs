//! Locks and mutexes between processes: they exclude, and a death is told.

use std::collections::BTreeMap;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;
use std::time::Duration;

use nix::sys::signal::Signal;
use procpool::AsyncResult;
use procpool::Pool;
use procpool::Shared;
use procpool::SharedArray;
use procpool::StartMethod;
use procpool::TaskError;
use procpool::sync::Lock;
use procpool::sync::LockError;
use procpool::sync::Mutex;
use serde::Deserialize;
use serde::Serialize;
use serde::ser::Error as _;

use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::harness::sys;
use crate::ipc::peers::LONG;

cases![
    lock_excludes,
    mutex_loses_no_change,
    anywhere_inside_a_value,
    map_in_place_of_a_manager,
    dead_holder_of_a_lock_is_told_until_one_recovers,
    dead_holder_of_a_mutex_has_changed_nothing,
    thread_that_waits_is_woken_by_the_death_of_the_holder,
    waiter_that_is_killed_holds_up_no_one,
    holder_that_is_stopped_holds_up_no_call_that_does_not_wait,
    holder_is_told_without_pidfds,
    panic_changes_nothing,
    value_that_does_not_serialize_changes_nothing,
    value_that_does_not_deserialize_is_an_error_of_its_reader,
    value_of_any_length_has_room_or_is_refused,
    thread_that_would_wait_for_itself_gets_an_error,
    reentrant_lock_is_free_when_all_guards_are_dropped,
    lock_of_another_type_is_refused,
    descriptors_cannot_be_kept_in_a_mutex,
    forked_copy_has_no_lock,
    nothing_is_left_when_all_are_dropped,
];

fn lock_excludes(method: StartMethod) {
    let pool = stage::pool(method, 3);
    let shared = (Lock::new().unwrap(), SharedArray::<u32>::zeroed(2).unwrap());
    pool.with(&shared)
        .map(0..30u32, |(lock, counts), _| {
            for _ in 0..100 {
                let _guard = lock.lock().unwrap();
                // Not atomic together: only the lock keeps increments from being lost.
                let (first, second) = (counts.get(0), counts.get(1));
                assert_eq!(first, second);
                counts.set(0, first + 1);
                counts.set(1, second + 1);
            }
        })
        .unwrap();
    assert_eq!(shared.1.to_vec(), [3000, 3000]);
}

fn mutex_loses_no_change(method: StartMethod) {
    let pool = stage::pool(method, 3);
    let total = Mutex::new((0u64, String::new())).unwrap();
    pool.with(&total)
        .map(0..60u32, |total, x| {
            let mut total = total.lock().unwrap();
            total.0 += u64::from(x);
            total.1.push('x');
        })
        .unwrap();
    let total = total.lock().unwrap();
    assert_eq!((total.0, total.1.len()), (59 * 30, 60));
    assert_eq!(total.owner_died(), None);
}

#[derive(Serialize, Deserialize)]
struct Job {
    name: String,
    locks: Vec<Option<Lock>>,
    best: Mutex<f64>,
}

fn anywhere_inside_a_value(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let job =
        Job { name: "job".to_owned(), locks: vec![None, Some(Lock::new().unwrap())], best: Mutex::new(0.5).unwrap() };
    let best = job.best.clone();
    let back = pool.apply((job,), |job: Job| {
        let _guard = job.locks[1].as_ref().unwrap().lock().unwrap();
        *job.best.lock().unwrap() = 1.5;
        drop(_guard);
        job
    });
    let back = back.unwrap();
    assert_eq!(*best.lock().unwrap(), 1.5);
    *back.best.lock().unwrap() = 2.5;
    assert_eq!((*best.lock().unwrap(), back.name.as_str()), (2.5, "job"));
    // Made by a worker, and used after its death.
    let (pid, made) = pool.apply((), || (std::process::id(), Mutex::new(vec![1u8]).unwrap())).unwrap();
    stage::signal(pid, Signal::SIGKILL);
    stage::until_replaced(&pool, 1, &[pid]);
    made.lock().unwrap().push(2);
    assert_eq!(pool.apply((made,), |made: Mutex<Vec<u8>>| made.lock().unwrap().clone()).unwrap(), [1, 2]);
}

fn map_in_place_of_a_manager(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let counts = Mutex::new(BTreeMap::<String, u32>::new()).unwrap();
    let words = ["to", "be", "or", "not", "to", "be"].map(str::to_owned);
    pool.with(&counts).map(words, |counts, word| *counts.lock().unwrap().entry(word).or_default() += 1).unwrap();
    let counts = counts.lock().unwrap();
    assert_eq!(
        counts.iter().map(|(word, count)| (word.as_str(), *count)).collect::<Vec<_>>(),
        [("be", 2), ("not", 1), ("or", 1), ("to", 2)]
    );
}

/// A task that takes the lock and the mutex, changes what is in it, and stays. Returns when it holds them.
fn hold(pool: &Pool, lock: &Lock, mutex: &Mutex<u32>) -> (u32, AsyncResult<()>) {
    let held = Shared::<AtomicU32>::new().unwrap();
    let task = pool.apply_async((lock.clone(), mutex.clone(), held.clone()), |lock: Lock, mutex: Mutex<u32>, held| {
        let _guard = lock.lock().unwrap();
        let mut value = mutex.lock().unwrap();
        *value += 1000;
        held.store(std::process::id(), Ordering::Release);
        stage::doze(60_000);
    });
    stage::until("a holder", || held.load(Ordering::Acquire) != 0);
    (held.load(Ordering::Acquire), task)
}

fn assert_died(task: &AsyncResult<()>) {
    assert!(matches!(task.get(), Err(TaskError::WorkerDied { .. })));
}

fn dead_holder_of_a_lock_is_told_until_one_recovers(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (lock, mutex) = (Lock::new().unwrap(), Mutex::new(1).unwrap());
    let (pid, task) = hold(&pool, &lock, &mutex);
    assert!(lock.try_lock().unwrap().is_none());
    stage::signal(pid, Signal::SIGKILL);
    assert_died(&task);
    for _ in 0..2 {
        assert_eq!(lock.lock().unwrap_err(), LockError::OwnerDied { pid });
        assert_eq!(lock.try_lock().unwrap_err(), LockError::OwnerDied { pid });
        assert_eq!(lock.lock_timeout(LONG).unwrap_err(), LockError::OwnerDied { pid });
    }
    let told = pool.apply((lock.clone(),), |lock: Lock| lock.lock().map(drop).map_err(|error| error.to_string()));
    assert!(told.unwrap().unwrap_err().contains(&format!("process {pid} died")));
    drop(lock.recover().unwrap());
    drop(lock.lock().unwrap());
    pool.apply((lock.clone(),), |lock: Lock| drop(lock.lock().unwrap())).unwrap();
}

fn dead_holder_of_a_mutex_has_changed_nothing(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (lock, mutex) = (Lock::new().unwrap(), Mutex::new(1).unwrap());
    for round in 0..3 {
        let (pid, task) = hold(&pool, &Lock::new().unwrap(), &mutex);
        assert!(mutex.try_lock().unwrap().is_none());
        stage::signal(pid, Signal::SIGKILL);
        assert_died(&task);
        let mut value = mutex.lock().unwrap();
        assert_eq!((*value, value.owner_died()), (1 + round, Some(pid)));
        *value += 1;
        drop(value);
        assert_eq!(mutex.lock().unwrap().owner_died(), None);
    }
    drop(lock);
}

fn thread_that_waits_is_woken_by_the_death_of_the_holder(method: StartMethod) {
    let pool = stage::pool(method, 3);
    let (lock, mutex) = (Lock::new().unwrap(), Mutex::new(1).unwrap());
    let (pid, task) = hold(&pool, &lock, &mutex);
    let waiting = (lock.clone(), mutex.clone(), Shared::<AtomicU32>::new().unwrap());
    let others = pool.with(&waiting).map_async(0..2u32, |(lock, mutex, ready), _| {
        ready.fetch_add(1, Ordering::Relaxed);
        let told = lock.lock().map(drop);
        let value = mutex.lock().unwrap();
        (told == Err(LockError::HeldByThisThread), told.is_err(), *value)
    });
    stage::until("waiting tasks", || waiting.2.load(Ordering::Relaxed) == 2);
    std::thread::sleep(Duration::from_millis(20));
    stage::signal(pid, Signal::SIGKILL);
    // In this process too.
    assert_eq!(*mutex.lock().unwrap(), 1);
    assert_eq!(others.get().unwrap(), [(false, true, 1); 2]);
    assert_died(&task);
}

fn waiter_that_is_killed_holds_up_no_one(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let mutex = Mutex::new(0u32).unwrap();
    let guard = mutex.lock().unwrap();
    let pids = Mutex::new(Vec::<u32>::new()).unwrap();
    let tasks = pool.with(&(mutex.clone(), pids.clone())).map_async(0..2u32, |(mutex, pids), _| {
        pids.lock().unwrap().push(std::process::id());
        *mutex.lock().unwrap() += 1;
    });
    let both = || {
        let mut found = pids.lock().unwrap().clone();
        found.dedup();
        (found.len() == 2).then_some(found)
    };
    let victims = stage::until_some("two that wait", both);
    std::thread::sleep(Duration::from_millis(20));
    stage::signal(victims[0], Signal::SIGKILL);
    drop(guard);
    assert!(tasks.get().is_err());
    assert_eq!(mutex.lock_timeout(LONG).unwrap().map(|value| *value), Some(1));
}

fn holder_that_is_stopped_holds_up_no_call_that_does_not_wait(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (lock, mutex) = (Lock::new().unwrap(), Mutex::new(1).unwrap());
    let (pid, task) = hold(&pool, &lock, &mutex);
    stage::signal(pid, Signal::SIGSTOP);
    for _ in 0..3 {
        assert!(lock.try_lock().unwrap().is_none() && mutex.try_lock().unwrap().is_none());
        assert!(lock.lock_timeout(Duration::from_millis(5)).unwrap().is_none());
        assert!(mutex.lock_timeout(Duration::from_millis(5)).unwrap().is_none());
    }
    stage::signal(pid, Signal::SIGKILL);
    assert_died(&task);
    assert_eq!(mutex.lock().unwrap().owner_died(), Some(pid));
}

/// As under valgrind, or a filter of system calls.
fn holder_is_told_without_pidfds(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (lock, mutex) = (Lock::new().unwrap(), Mutex::new(1).unwrap());
    let (pid, task) = hold(&pool, &lock, &mutex);
    let descriptors: Vec<_> = std::iter::from_fn(|| std::fs::File::open("/dev/null").ok()).take(100_000).collect();
    assert!(mutex.try_lock().unwrap().is_none());
    stage::signal(pid, Signal::SIGKILL);
    let value = mutex.lock_timeout(LONG).unwrap().map(|value| (*value, value.owner_died()));
    drop(descriptors);
    assert_eq!(value, Some((1, Some(pid))));
    assert_died(&task);
}

fn panic_changes_nothing(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let mutex = Mutex::new(vec![1u32]).unwrap();
    let result = pool.apply((mutex.clone(),), |mutex: Mutex<Vec<u32>>| {
        let mut values = mutex.lock().unwrap();
        values.push(2);
        assert!(values.len() == 1, "a panic half way");
    });
    assert!(matches!(stage::error(result), TaskError::Panicked(_)));
    let values = mutex.lock().unwrap();
    assert_eq!((values.as_slice(), values.owner_died()), ([1].as_slice(), None));
}

/// It does not serialize while it is odd.
#[derive(Deserialize, Clone, Copy, Debug, PartialEq)]
struct Even(u32);

impl Serialize for Even {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.0 % 2 == 1 {
            return Err(S::Error::custom("it is odd"));
        }
        serializer.serialize_newtype_struct("Even", &self.0)
    }
}

fn value_that_does_not_serialize_changes_nothing(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let mutex = Mutex::new(Even(2)).unwrap();
    let error = pool.apply((mutex.clone(),), |mutex: Mutex<Even>| {
        let mut value = mutex.lock().unwrap();
        value.0 = 3;
        // This is logged.
        drop(value);
        let mut value = mutex.lock().unwrap();
        assert_eq!(value.0, 2);
        value.0 = 5;
        value.commit().unwrap_err().to_string()
    });
    assert!(error.unwrap().contains("it is odd"));
    assert_eq!(*mutex.lock().unwrap(), Even(2));
    assert_eq!(Mutex::new(Even(1)).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
}

/// It deserializes only in the process that has made it.
#[derive(Debug, Serialize)]
struct Local(u32);

impl<'de> Deserialize<'de> for Local {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let pid = u32::deserialize(deserializer)?;
        assert_eq!(pid, std::process::id(), "not here");
        Ok(Local(pid))
    }
}

fn value_that_does_not_deserialize_is_an_error_of_its_reader(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let mutex = Mutex::new(Local(std::process::id())).unwrap();
    let error = pool.apply((mutex.clone(),), |mutex: Mutex<Local>| mutex.lock().unwrap_err().to_string()).unwrap();
    assert!(error.contains("does not deserialize") && error.contains("not here"), "{error}");
    // It is free, and as it was.
    assert_eq!(mutex.try_lock().unwrap().unwrap().0, std::process::id());
}

fn value_of_any_length_has_room_or_is_refused(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let text = Mutex::with_capacity(String::new(), 1 << 20).unwrap();
    for len in [10, 5000, 200_000, (1 << 20) - 20] {
        pool.apply((text.clone(), len), |text: Mutex<String>, len| *text.lock().unwrap() = "x".repeat(len)).unwrap();
        assert!(*text.lock().unwrap() == "x".repeat(len));
    }
    let mut guard = text.lock().unwrap();
    guard.push_str(&"y".repeat(1000));
    let error = guard.commit().unwrap_err();
    assert!(matches!(&error, LockError::Encode { message, .. } if message.contains("with_capacity")), "{error}");
    assert_eq!(text.lock().unwrap().len(), (1 << 20) - 20);
    assert_eq!(Mutex::with_capacity("x".repeat(100), 50).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
    // Four times the first value, at least.
    let small = Mutex::new("x".repeat(10_000)).unwrap();
    *small.lock().unwrap() = "y".repeat(30_000);
    assert_eq!(small.lock().unwrap().len(), 30_000);
    // A number, and nothing at all.
    *Mutex::new(1u8).unwrap().lock().unwrap() += 1;
    *Mutex::new(()).unwrap().lock().unwrap() = ();
}

fn thread_that_would_wait_for_itself_gets_an_error(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let errors = pool.apply((), || {
        let (lock, mutex) = (Lock::new().unwrap(), Mutex::new(1).unwrap());
        let (_guard, _value) = (lock.lock().unwrap(), mutex.lock().unwrap());
        assert_eq!(lock.lock().unwrap_err(), LockError::HeldByThisThread);
        assert_eq!(lock.try_lock().unwrap_err(), LockError::HeldByThisThread);
        assert_eq!(lock.recover().unwrap_err(), LockError::HeldByThisThread);
        assert_eq!(mutex.lock_timeout(LONG).unwrap_err(), LockError::HeldByThisThread);
        // Another thread waits.
        std::thread::scope(|scope| {
            let tried = scope.spawn(|| lock.try_lock().unwrap().is_none() && mutex.try_lock().unwrap().is_none());
            tried.join().unwrap()
        })
    });
    assert!(errors.unwrap());
}

fn reentrant_lock_is_free_when_all_guards_are_dropped(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let lock = Lock::reentrant().unwrap();
    let is_free = |lock: Lock| lock.try_lock().unwrap().is_some();
    let first = lock.lock().unwrap();
    let second = lock.try_lock().unwrap().unwrap();
    let third = lock.lock_timeout(LONG).unwrap().unwrap();
    for guard in [second, first] {
        drop(guard);
        assert!(!pool.apply((lock.clone(),), is_free).unwrap());
    }
    drop(third);
    assert!(pool.apply((lock.clone(),), is_free).unwrap());
}

fn lock_of_another_type_is_refused(method: StartMethod) {
    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Lying {
        #[serde(skip_deserializing)]
        Signed(Mutex<i64>),
        #[serde(skip_deserializing)]
        Lock(Lock),
        Right(Mutex<u64>),
    }
    let pool = stage::pool(method, 1);
    let lies = [Lying::Signed(Mutex::new(1).unwrap()), Lying::Lock(Lock::new().unwrap())];
    for lie in lies {
        assert!(matches!(pool.apply((lie,), |_: Lying| ()), Err(TaskError::Decode { .. })));
    }
    pool.apply((Lying::Right(Mutex::new(1).unwrap()),), |_: Lying| ()).unwrap();
}

fn descriptors_cannot_be_kept_in_a_mutex(method: StartMethod) {
    let pool = stage::pool(method, 1);
    stage::assert_works(&pool);
    let mutex = Mutex::new(None::<Lock>).unwrap();
    let mut guard = mutex.lock().unwrap();
    *guard = Some(Lock::new().unwrap());
    let error = guard.commit().unwrap_err();
    assert!(matches!(&error, LockError::Encode { message, .. } if message.contains("descriptors")), "{error}");
    assert!(mutex.lock().unwrap().is_none());
}

fn forked_copy_has_no_lock(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (lock, mutex) = (Lock::new().unwrap(), Mutex::new(1).unwrap());
    let (guard, value) = (lock.lock().unwrap(), mutex.lock().unwrap());
    let code = sys::in_a_forked_copy(|| {
        let is_broken = matches!(lock.lock(), Err(LockError::Broken { .. }))
            && matches!(mutex.try_lock(), Err(LockError::Broken { .. }))
            && matches!(lock.recover(), Err(LockError::Broken { .. }));
        u8::from(is_broken)
    });
    assert_eq!(code, 1);
    // The copy's guards are not this process's.
    let freed = pool.apply((lock.clone(), mutex.clone()), |lock: Lock, mutex: Mutex<i32>| {
        lock.try_lock().unwrap().is_some() || mutex.try_lock().unwrap().is_some()
    });
    assert!(!freed.unwrap());
    drop((guard, value));
    drop((lock.lock().unwrap(), mutex.lock().unwrap()));
}

fn nothing_is_left_when_all_are_dropped(method: StartMethod) {
    let pool = stage::pool(method, 2);
    stage::assert_works(&pool);
    let count = || processes::descriptors(std::process::id()).len();
    let before = count();
    for _ in 0..3 {
        let many: Vec<_> = (0..30u32).map(|x| Mutex::new(x).unwrap()).collect();
        let sum = pool.map(many, |mutex: Mutex<u32>| *mutex.lock().unwrap()).unwrap().into_iter().sum::<u32>();
        assert_eq!(sum, 435);
    }
    assert_eq!(count(), before);
    let left = pool.map(0..4u8, |_| processes::descriptors(std::process::id()).len()).unwrap();
    assert!(left.into_iter().all(|left| left < 20));
}
