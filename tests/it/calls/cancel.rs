//! `AsyncResult::cancel`: waiting items are not run, running ones are stopped, and other calls are unaffected.

use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use procpool::AsyncResult;
use procpool::StartMethod;
use procpool::TaskError;

use crate::harness::cases;
use crate::harness::stage;
use crate::harness::stage::Gate;
use crate::harness::stage::Notebook;

cases![
    running_task_is_stopped,
    waiting_items_are_not_run,
    answers_that_were_given_count,
    finished_call_is_not_cancelled,
    refused_call_is_not_cancelled,
    twice_is_as_good_as_once,
    calls_beside_it_are_unharmed,
    frees_a_thread_that_waits,
    wakes_a_future_and_calls_back,
    works_from_a_callback,
    stopped_worker_is_no_hindrance,
    everything_at_once,
    closed_pool_ends_sooner,
    races_with_the_end_of_the_task,
];

#[track_caller]
fn assert_cancelled<T: std::fmt::Debug>(result: Result<T, TaskError>) {
    assert!(matches!(result, Err(TaskError::Cancelled)), "{result:?}");
}

fn pid_in(book: &Notebook) -> u32 {
    book.wait_for(1)[0].parse().unwrap()
}

fn running_task_is_stopped(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (gate, book) = (Gate::closed(), Notebook::new());
    let handle = stage::held(&pool, &gate, &book);
    let pid = pid_in(&book);
    assert!(handle.cancel());
    assert_cancelled(handle.get());
    stage::until_ended(&[pid]);
    stage::until_replaced(&pool, 1, &[pid]);
    stage::assert_works(&pool);
}

fn waiting_items_are_not_run(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (mut gate, book, other) = (Gate::closed(), Notebook::new(), Notebook::new());
    let first = stage::held(&pool, &gate, &book);
    let pid = pid_in(&book);
    let path = other.path();
    let waiting = pool.map_async((0..1000u32).map(|x| (path.clone(), x)), |(book, x)| stage::note(&book, x));
    assert!(waiting.cancel());
    assert_cancelled(waiting.get());
    gate.open();
    first.get().unwrap();
    assert_eq!(pool.pids(), [pid], "a worker that runs nothing of it is not touched");
    assert_eq!(other.lines().len(), 0);
    stage::assert_works(&pool);
}

fn answers_that_were_given_count(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (gate, book) = (Gate::closed(), Notebook::new());
    let done = pool.apply_async((5u32,), |x| x);
    done.wait();
    let running = stage::held(&pool, &gate, &book);
    pid_in(&book);
    assert!(running.cancel());
    assert!(!done.cancel());
    assert_eq!(done.get().unwrap(), 5);
    assert_cancelled(running.get());
}

fn finished_call_is_not_cancelled(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let handle = pool.map_async(0..10u32, |x| x);
    handle.wait();
    assert!(!handle.cancel());
    assert_eq!(handle.get().unwrap().len(), 10);
}

fn refused_call_is_not_cancelled(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (gate, book) = (Gate::closed(), Notebook::new());
    let running = stage::held(&pool, &gate, &book);
    pid_in(&book);
    pool.terminate();
    let refused = pool.apply_async((1u32,), |x| x);
    assert!(!refused.cancel() && !running.cancel());
    assert!(matches!(running.get(), Err(TaskError::Terminated)));
}

fn twice_is_as_good_as_once(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let (gate, book) = (Gate::closed(), Notebook::new());
    let handle = stage::held(&pool, &gate, &book);
    pid_in(&book);
    handle.cancel();
    handle.cancel();
    assert_cancelled(handle.get());
    assert!(!handle.cancel());
    stage::assert_works(&pool);
}

fn calls_beside_it_are_unharmed(method: StartMethod) {
    let pool = stage::pool(method, 2);
    for _ in 0..10 {
        let (gate, book, other) = (Gate::closed(), Notebook::new(), Notebook::new());
        let stuck = [stage::held(&pool, &gate, &book), stage::held(&pool, &gate, &book)];
        book.wait_for(2);
        let path = other.path();
        let beside = pool.map_async((0..100u32).map(|x| (path.clone(), x)), |(book, x)| {
            stage::note(&book, x);
            x
        });
        for handle in &stuck {
            handle.cancel();
        }
        assert_eq!(beside.get().unwrap(), (0..100).collect::<Vec<_>>());
        assert_eq!(other.lines().len(), 100, "no item begins twice");
        stuck.into_iter().for_each(|handle| assert_cancelled(handle.get()));
    }
}

fn frees_a_thread_that_waits(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (gate, book) = (Gate::closed(), Notebook::new());
    let handle = stage::held(&pool, &gate, &book);
    pid_in(&book);
    thread::scope(|scope| {
        let waiting = scope.spawn(|| handle.get());
        thread::sleep(Duration::from_millis(20));
        assert!(handle.cancel());
        assert_cancelled(waiting.join().unwrap());
    });
}

fn wakes_a_future_and_calls_back(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (gate, book) = (Gate::closed(), Notebook::new());
    let (told, telling) = mpsc::channel();
    let handle = stage::held(&pool, &gate, &book).on_error(move |error| told.send(error).unwrap());
    pid_in(&book);
    assert!(handle.cancel());
    assert_cancelled(stage::block_on(handle));
    assert_cancelled::<()>(Err(telling.recv().unwrap()));
    assert!(telling.recv().is_err(), "it is called once");
}

fn works_from_a_callback(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let (gate, book) = (Gate::closed(), Notebook::new());
    let stuck = stage::held(&pool, &gate, &book);
    pid_in(&book);
    let (sent, received) = mpsc::channel();
    let quick = pool.apply_async((1u32,), |x| x).on_success(move |_| {
        stuck.cancel();
        sent.send(stuck.get()).unwrap();
    });
    quick.get().unwrap();
    assert_cancelled(received.recv().unwrap());
}

fn stopped_worker_is_no_hindrance(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (gate, book) = (Gate::closed(), Notebook::new());
    let handle = stage::held(&pool, &gate, &book);
    let pid = pid_in(&book);
    stage::signal(pid, Signal::SIGSTOP);
    assert!(handle.cancel());
    assert_cancelled(handle.get());
    stage::assert_works(&pool);
}

fn everything_at_once(method: StartMethod) {
    let pool = stage::pool(method, 4);
    let handles: Vec<_> = (0..50).map(|_| pool.map_async(0..1000u64, |x| x * x)).collect();
    thread::scope(|scope| {
        for chunk in handles.chunks(10) {
            scope.spawn(move || chunk.iter().for_each(|handle| _ = handle.cancel()));
        }
        scope.spawn(|| stage::assert_works(&pool));
    });
    for handle in handles {
        match handle.get() {
            Ok(values) => assert_eq!(values, (0..1000).map(|x| x * x).collect::<Vec<_>>()),
            Err(error) => assert_cancelled::<()>(Err(error)),
        }
    }
    stage::assert_works(&pool);
}

fn closed_pool_ends_sooner(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let (gate, book) = (Gate::closed(), Notebook::new());
    let handles = [stage::held(&pool, &gate, &book), stage::held(&pool, &gate, &book)];
    book.wait_for(2);
    pool.close();
    assert!(!pool.join_timeout(Duration::from_millis(20)).unwrap());
    assert!(handles.iter().all(AsyncResult::cancel));
    pool.join().unwrap();
    handles.into_iter().for_each(|handle| assert_cancelled(handle.get()));
}

fn races_with_the_end_of_the_task(method: StartMethod) {
    let pool = stage::pool(method, 2);
    for round in 0..100u32 {
        let handle = pool.apply_async((round,), |x| x);
        for _ in 0..round * 20 {
            std::hint::spin_loop();
        }
        let was_left = handle.cancel();
        match handle.get() {
            Ok(value) => assert_eq!(value, round),
            Err(error) => {
                assert!(was_left);
                assert_cancelled::<()>(Err(error));
            }
        }
    }
    stage::assert_works(&pool);
}
