//! What `concurrent.futures` has: done callbacks, states, `wait`, `as_completed`, and futures that cancel.

use std::collections::BTreeSet;
use std::sync::mpsc;
use std::task::Waker;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use procpool::AsyncResult;
use procpool::Pool;
use procpool::StartMethod;
use procpool::TaskError;
use procpool::TimedOut;
use procpool::Until;

use crate::harness::cases;
use crate::harness::polling::poll;
use crate::harness::stage;
use crate::harness::stage::Gate;
use crate::harness::stage::Notebook;

cases![
    done_callback_is_called_once_for_every_outcome,
    states_follow_the_call,
    wait_returns_at_the_first_result,
    wait_returns_at_the_first_error,
    wait_returns_when_all_are_done,
    wait_times_out,
    wait_takes_any_handles,
    wait_takes_handles_of_several_pools,
    threads_wait_for_the_same_handles,
    completed_come_in_the_order_of_their_ends,
    completed_of_several_pools,
    completed_are_yielded_once_each,
    completed_time_out_and_give_the_rest_back,
    completed_resolve_when_the_pool_ends,
    threads_take_completed_beside_each_other,
    future_that_is_dropped_cancels,
];

/// Longer than anything here takes.
const WAIT_MAX: Duration = Duration::from_secs(30);

fn done_callback_is_called_once_for_every_outcome(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (told, telling) = mpsc::channel();
    let tell = |name| {
        let told = told.clone();
        move || told.send(name).unwrap()
    };
    let value = pool.apply_async((1u8,), |x| x).on_done(tell("value")).on_done(tell("value, again"));
    value.wait();
    let error = pool.apply_async((1u8,), |_| -> u8 { panic!("told") }).on_done(tell("error"));
    error.wait();
    let late = value.on_done(tell("late"));
    let mut calls: Vec<_> = (0..4).map(|_| telling.recv_timeout(WAIT_MAX).unwrap()).collect();
    assert_eq!(calls[..2], ["value", "value, again"]);
    calls.sort_unstable();
    assert_eq!(calls, ["error", "late", "value", "value, again"]);
    pool.close();
    let refused = pool.apply_async((1u8,), |x| x).on_done(tell("refused"));
    assert_eq!(telling.recv_timeout(WAIT_MAX).unwrap(), "refused");
    drop((late, refused, told));
    pool.join().unwrap();
    assert!(telling.recv().is_err(), "another call");
}

fn states_follow_the_call(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (mut gate, book) = (Gate::closed(), Notebook::new());
    let running = stage::held(&pool, &gate, &book);
    let waiting = pool.apply_async((1u8,), |x| x);
    book.wait_for(1);
    assert!(running.is_running() && !running.ready() && !running.is_cancelled());
    assert!(!waiting.is_running() && !waiting.ready());
    gate.open();
    running.wait();
    assert!(running.ready() && !running.is_running() && !running.is_cancelled());
    waiting.wait();
    let gate = Gate::closed();
    let cancelled = stage::held(&pool, &gate, &book);
    book.wait_for(2);
    assert!(cancelled.cancel());
    cancelled.wait();
    assert!(cancelled.ready() && cancelled.is_cancelled() && !cancelled.is_running());
    let failed = pool.apply_async((1u8,), |_| -> u8 { panic!("told") });
    failed.wait();
    assert!(failed.ready() && !failed.is_cancelled());
    pool.terminate();
    let refused = pool.apply_async((1u8,), |x| x);
    assert!(refused.ready() && !refused.is_running() && !refused.is_cancelled());
}

/// Calls that wait at a gate each.
fn gated(pool: &Pool, gates: &[Gate]) -> Vec<AsyncResult<()>> {
    gates.iter().map(|gate| pool.apply_async((gate.path(),), |gate| stage::pass(&gate))).collect()
}

fn gates(count: usize) -> Vec<Gate> {
    (0..count).map(|_| Gate::closed()).collect()
}

fn wait_returns_at_the_first_result(method: StartMethod) {
    let pool = stage::pool(method, 3);
    let mut gates = gates(3);
    let handles = gated(&pool, &gates);
    assert_eq!(procpool::wait(&handles, Until::FirstDone, Some(Duration::ZERO)), (vec![], vec![0, 1, 2]));
    gates[1].open();
    assert_eq!(procpool::wait(&handles, Until::FirstDone, None), (vec![1], vec![0, 2]));
    assert_eq!(procpool::wait(&handles, Until::FirstDone, None), (vec![1], vec![0, 2]), "again");
    gates[0].open();
    handles[0].wait();
    assert_eq!(procpool::wait(&handles, Until::FirstDone, None), (vec![0, 1], vec![2]), "all that are known");
    gates[2].open();
}

fn wait_returns_at_the_first_error(method: StartMethod) {
    let pool = stage::pool(method, 3);
    let (mut gate, book) = (Gate::closed(), Notebook::new());
    let item = |x: u32| (x, gate.path());
    let task = |x: u32, gate: String| match x {
        0 => stage::pass(&gate),
        1 => {}
        _ => panic!("told"),
    };
    let mut handles = vec![pool.apply_async(item(0), task), pool.apply_async(item(1), task)];
    handles.push(pool.apply_async(item(2), task));
    let (done, pending) = procpool::wait(&handles, Until::FirstError, None);
    assert!(done.contains(&2) && pending.contains(&0), "{done:?} {pending:?}");
    // A cancellation is no error.
    let stuck = stage::held(&pool, &gate, &book);
    book.wait_for(1);
    stuck.cancel();
    stuck.wait();
    let other = stage::held(&pool, &gate, &book);
    let short = Some(Duration::from_millis(20));
    assert_eq!(procpool::wait([&stuck, &other], Until::FirstError, short), (vec![0], vec![1]));
    gate.open();
    assert_eq!(procpool::wait([&stuck, &other], Until::FirstError, None), (vec![0, 1], vec![]));
}

fn wait_returns_when_all_are_done(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let handles: Vec<_> = (0..500u32).map(|x| pool.apply_async((x,), |x| 100 / (x % 3))).collect();
    let (done, pending) = procpool::wait(&handles, Until::All, None);
    assert_eq!((done, pending), ((0..500).collect(), vec![]));
    assert!(handles.iter().all(AsyncResult::ready));
    assert_eq!(handles.iter().filter(|handle| handle.get().is_err()).count(), 167);
}

fn wait_times_out(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let mut gates = gates(1);
    let handles = gated(&pool, &gates);
    for until in [Until::FirstDone, Until::FirstError, Until::All] {
        let began = Instant::now();
        let (done, pending) = procpool::wait(&handles, until, Some(Duration::from_millis(30)));
        assert_eq!((done, pending), (vec![], vec![0]));
        assert!(began.elapsed() >= Duration::from_millis(30));
    }
    gates.iter_mut().for_each(Gate::open);
    assert_eq!(procpool::wait(&handles, Until::All, Some(WAIT_MAX)), (vec![0], vec![]));
}

fn wait_takes_any_handles(method: StartMethod) {
    let none: [&AsyncResult<u8>; 0] = [];
    assert_eq!(procpool::wait(none, Until::FirstDone, None), (vec![], vec![]));
    let pool = stage::pool(method, 1);
    let one = pool.apply_async((1u8,), |x| x);
    assert_eq!(procpool::wait([&one, &one, &one], Until::All, None), (vec![0, 1, 2], vec![]), "the same, thrice");
    pool.close();
    let refused = pool.apply_async((1u8,), |x| x);
    assert_eq!(procpool::wait([&refused, &one], Until::FirstError, None), (vec![0, 1], vec![]));
    pool.join().unwrap();
    assert_eq!(procpool::wait([&one], Until::All, None), (vec![0], vec![]), "of a pool that is gone");
}

fn wait_takes_handles_of_several_pools(method: StartMethod) {
    let pools = [stage::pool(method, 1), stage::pool(method, 1)];
    let mut gates = gates(2);
    let handles = [gated(&pools[0], &gates[..1]), gated(&pools[1], &gates[1..])].concat_handles();
    assert_eq!(procpool::wait(&handles, Until::FirstDone, Some(Duration::from_millis(20))), (vec![], vec![0, 1]));
    gates[1].open();
    assert_eq!(procpool::wait(&handles, Until::FirstDone, None), (vec![1], vec![0]));
    gates[0].open();
    assert_eq!(procpool::wait(&handles, Until::All, None), (vec![0, 1], vec![]));
    pools.iter().for_each(stage::assert_works);
}

trait Concat<T> {
    fn concat_handles(self) -> Vec<AsyncResult<T>>;
}

impl<T> Concat<T> for [Vec<AsyncResult<T>>; 2] {
    fn concat_handles(self) -> Vec<AsyncResult<T>> {
        self.into_iter().flatten().collect()
    }
}

/// One of them drives, the others follow.
fn threads_wait_for_the_same_handles(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let mut gates = gates(2);
    let handles = gated(&pool, &gates);
    let (told, telling) = mpsc::channel();
    thread::scope(|scope| {
        for until in [Until::FirstDone, Until::All, Until::All, Until::FirstError] {
            let (told, handles) = (told.clone(), &handles);
            scope.spawn(move || {
                told.send(()).unwrap();
                let (done, _) = procpool::wait(handles, until, None);
                assert!(!done.is_empty());
                assert!(until == Until::FirstDone || done.len() == 2);
            });
        }
        (0..4).for_each(|_| telling.recv_timeout(WAIT_MAX).unwrap());
        gates.iter_mut().for_each(Gate::open);
    });
    stage::assert_works(&pool);
}

fn completed_come_in_the_order_of_their_ends(method: StartMethod) {
    let pool = stage::pool(method, 3);
    let mut gates = gates(3);
    let mut completed = procpool::as_completed(gated(&pool, &gates));
    assert_eq!(completed.len(), 3);
    for index in [2, 0, 1] {
        gates[index].open();
        let (yielded, handle) = completed.next().unwrap();
        assert_eq!(yielded, index);
        assert!(handle.ready());
        handle.get().unwrap();
    }
    assert!(completed.next().is_none() && completed.next().is_none());
}

fn completed_of_several_pools(method: StartMethod) {
    let pools = [stage::pool(method, 2), stage::pool(method, 2)];
    let handles = (0..400u32).map(|x| pools[x as usize % 2].apply_async((x,), |x| x + 1));
    let mut seen = BTreeSet::new();
    for (index, handle) in procpool::as_completed(handles) {
        assert_eq!(handle.get().unwrap() as usize, index + 1);
        assert!(seen.insert(index));
    }
    assert_eq!(seen.len(), 400);
}

fn completed_are_yielded_once_each(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let early: Vec<_> = (0..50u32).map(|x| pool.apply_async((x,), |x| x)).collect();
    early.iter().for_each(AsyncResult::wait);
    let late = (50..5000u32).map(|x| pool.apply_async((x,), |x| if x % 7 == 0 { panic!("told") } else { x }));
    let mut seen = BTreeSet::new();
    for (place, (index, handle)) in procpool::as_completed(early.into_iter().chain(late)).enumerate() {
        assert!(place >= 50 || index == place, "those that were there come first, in order");
        match handle.get() {
            Ok(value) => assert_eq!(value as usize, index),
            Err(error) => assert!(index % 7 == 0 && matches!(error, TaskError::Panicked(_)), "{error:?}"),
        }
        assert!(seen.insert(index));
    }
    assert_eq!(seen.len(), 5000);
}

fn completed_time_out_and_give_the_rest_back(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let mut gates = gates(2);
    let mut completed = procpool::as_completed(gated(&pool, &gates));
    assert!(matches!(completed.next_timeout(Duration::from_millis(20)), Err(TimedOut)));
    gates[1].open();
    assert_eq!(completed.next_timeout(WAIT_MAX).unwrap().unwrap().0, 1);
    assert!(matches!(completed.next_timeout(Duration::ZERO), Err(TimedOut)));
    let rest = completed.rest();
    assert_eq!(rest.len(), 1);
    assert_eq!(rest[0].0, 0);
    gates[0].open();
    rest[0].1.get().unwrap();
}

fn completed_resolve_when_the_pool_ends(method: StartMethod) {
    let pools = [stage::pool(method, 1), stage::pool(method, 1), stage::pool(method, 1)];
    let gates = gates(2);
    let (one, several) = (gated(&pools[0], &gates), [gated(&pools[1], &gates), gated(&pools[2], &gates)]);
    for (handles, pools) in [(one, &pools[..1]), (several.concat_handles(), &pools[1..])] {
        let mut left = handles.len();
        let mut completed = procpool::as_completed(handles);
        assert!(matches!(completed.next_timeout(Duration::ZERO), Err(TimedOut)));
        thread::scope(|scope| {
            scope.spawn(|| pools.iter().for_each(Pool::terminate));
            for (_, handle) in &mut completed {
                assert!(matches!(handle.get(), Err(TaskError::Terminated)));
                left -= 1;
            }
        });
        assert_eq!(left, 0);
    }
}

fn threads_take_completed_beside_each_other(method: StartMethod) {
    let pool = stage::pool(method, 2);
    thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..20 {
                    let handles = (0..50u64).map(|x| pool.apply_async((x,), |x| x));
                    let sum: u64 = procpool::as_completed(handles).map(|(_, handle)| handle.get().unwrap()).sum();
                    assert_eq!(sum, 1225);
                }
            });
        }
    });
}

fn future_that_is_dropped_cancels(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (gate, book) = (Gate::closed(), Notebook::new());
    let mut future = stage::held(&pool, &gate, &book).cancel_on_drop();
    let pid: u32 = book.wait_for(1)[0].parse().unwrap();
    assert!(future.is_running() && poll(&mut future, Waker::noop()).is_pending());
    drop(future);
    stage::until_ended(&[pid]);
    stage::assert_works(&pool);
    let done = pool.apply_async((20u8,), |x| x + 1).cancel_on_drop();
    assert_eq!(stage::block_on(done).unwrap(), 21);
}
