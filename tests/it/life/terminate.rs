//! `terminate` and `drop`: every handle resolves, and every process ends, whatever it is doing.

use std::os::unix::process::CommandExt;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use nix::sys::signal::SigSet;
use nix::sys::signal::Signal;
use procpool::AsyncResult;
use procpool::Pool;
use procpool::PoolError;
use procpool::StartMethod;
use procpool::TaskError;

use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::harness::stage::Gate;
use crate::harness::stage::Notebook;
use crate::harness::sys;

cases![
    terminate_resolves_every_handle,
    terminate_frees_a_thread_that_waits,
    drop_terminates,
    drop_during_a_panic_terminates,
    terminate_after_close_gives_up_the_rest,
    terminate_ends_stopped_workers_and_a_long_queue,
    terminate_ends_tasks_that_ignore_sigterm,
    terminate_ends_what_tasks_have_started,
    what_has_left_the_group_outlives_a_worker_that_obeys,
    terminate_ends_a_half_consumed_imap,
    without_grace_no_worker_is_asked,
    with_grace_a_task_puts_things_away,
    the_shortest_grace_counts,
    join_waits_for_a_long_grace,
];

fn is_terminated<T>(result: &Result<T, TaskError>) -> bool {
    matches!(result, Err(TaskError::Terminated))
}

fn terminate_resolves_every_handle(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let (gate, book) = (Gate::closed(), Notebook::new());
    let done = pool.apply_async((5u8,), |x| x);
    done.wait();
    let running = [stage::held(&pool, &gate, &book), stage::held(&pool, &gate, &book)];
    book.wait_for(2);
    let queued = pool.map_async(0..1000u32, |x| x);
    pool.terminate();
    assert!(running.iter().all(|handle| is_terminated(&handle.get())));
    assert!(is_terminated(&queued.get()));
    assert_eq!(done.get().unwrap(), 5);
    pool.join().unwrap();
}

fn terminate_frees_a_thread_that_waits(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (gate, book) = (Gate::closed(), Notebook::new());
    thread::scope(|scope| {
        let mapping = scope.spawn(|| {
            pool.map([(gate.path(), book.path())], |(gate, book)| {
                stage::note(&book, "begun");
                stage::pass(&gate);
            })
        });
        book.wait_for(1);
        let pulling = scope.spawn(|| pool.imap([gate.path()], |gate| stage::pass(&gate)).next());
        let getting = scope.spawn(|| stage::held(&pool, &gate, &book).get());
        pool.terminate();
        assert!(is_terminated(&mapping.join().unwrap()));
        // These two calls may have been made before or after the end.
        let ended =
            |error: &TaskError| matches!(error, TaskError::Terminated | TaskError::Refused(PoolError::Terminated));
        assert!(ended(&pulling.join().unwrap().unwrap().unwrap_err()));
        assert!(ended(&getting.join().unwrap().unwrap_err()));
    });
    pool.join().unwrap();
}

fn drop_terminates(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let (gate, book) = (Gate::closed(), Notebook::new());
    let running = stage::held(&pool, &gate, &book);
    let queued: Vec<_> = (0..100).map(|_| stage::held(&pool, &gate, &book)).collect();
    book.wait_for(1);
    let pids = pool.pids();
    drop(pool);
    assert!(is_terminated(&running.get()));
    assert!(queued.iter().all(|handle| is_terminated(&handle.get())));
    assert!(pids.iter().all(|&pid| processes::Process::find(pid).is_none()));
}

fn drop_during_a_panic_terminates(method: StartMethod) {
    let gate = Gate::closed();
    let (sender, received) = mpsc::channel();
    let path = gate.path();
    let outcome = std::panic::catch_unwind(move || {
        let pool = stage::pool(method, 1);
        sender.send(pool.apply_async((path,), |gate| stage::pass(&gate))).unwrap();
        panic!("the owner of a pool panics on purpose");
    });
    outcome.unwrap_err();
    assert!(is_terminated(&received.recv().unwrap().get()));
}

fn terminate_after_close_gives_up_the_rest(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (gate, book) = (Gate::closed(), Notebook::new());
    let running = stage::held(&pool, &gate, &book);
    book.wait_for(1);
    pool.close();
    pool.terminate();
    pool.close();
    assert!(is_terminated(&running.get()));
    pool.join().unwrap();
}

fn terminate_ends_stopped_workers_and_a_long_queue(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let (gate, book) = (Gate::closed(), Notebook::new());
    let running = [stage::held(&pool, &gate, &book), stage::held(&pool, &gate, &book)];
    book.wait_for(2);
    let queued = pool.map_async(0..100_000u32, |x| x);
    let pids = pool.pids();
    for &pid in &pids {
        stage::signal(pid, Signal::SIGSTOP);
    }
    stage::until("the stop", || {
        pids.iter().all(|&pid| processes::Process::find(pid).is_some_and(|it| it.state == 'T'))
    });
    pool.terminate();
    pool.join().unwrap();
    assert!(running.iter().all(|handle| is_terminated(&handle.get())));
    assert!(is_terminated(&queued.get()));
    assert!(pids.iter().all(|&pid| processes::Process::find(pid).is_none()));
}

fn terminate_ends_tasks_that_ignore_sigterm(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let (gate, book) = (Gate::closed(), Notebook::new());
    let deaf = pool.apply_async((gate.path(), book.path()), |gate, book| {
        sys::ignore(Signal::SIGTERM);
        stage::note(&book, "deaf");
        stage::pass(&gate);
    });
    let blocked = pool.apply_async((gate.path(), book.path()), |gate, book| {
        SigSet::all().thread_block().unwrap();
        stage::note(&book, "blocked");
        stage::pass(&gate);
    });
    book.wait_for(2);
    let pids = pool.pids();
    pool.terminate();
    pool.join().unwrap();
    assert!(is_terminated(&deaf.get()) && is_terminated(&blocked.get()));
    assert!(pids.iter().all(|&pid| processes::Process::find(pid).is_none()));
}

fn terminate_ends_what_tasks_have_started(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (gate, book) = (Gate::closed(), Notebook::new());
    let handle = pool.apply_async((gate.path(), book.path()), |gate, book| {
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        stage::note(&book, child.id());
        stage::pass(&gate);
        child.wait().unwrap();
    });
    let grandchild: u32 = book.wait_for(1)[0].parse().unwrap();
    assert!(!processes::ended(grandchild));
    pool.terminate();
    pool.join().unwrap();
    stage::until_ended(&[grandchild]);
    assert!(is_terminated(&handle.get()));
}

/// SIGTERM ends the worker at once, so it is not killed, and its descendants are not looked for.
fn what_has_left_the_group_outlives_a_worker_that_obeys(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let start = || {
        let far = std::process::Command::new("sleep").arg("1000").process_group(0).spawn();
        far.unwrap().id()
    };
    let far = pool.apply((), start).unwrap();
    pool.terminate();
    pool.join().unwrap();
    assert!(!processes::ended(far));
    stage::signal(far, Signal::SIGKILL);
    stage::until_ended(&[far]);
}

/// Many times, to vary what has arrived when the pool ends: nothing, some, or all of what was drawn.
fn terminate_ends_a_half_consumed_imap(method: StartMethod) {
    for taken in 0..25 {
        let pool = stage::pool(method, 2);
        let mut ordered = pool.imap(0u64.., |x| x);
        let mut unordered = pool.imap_unordered(0u64.., |x| x);
        assert_eq!(ordered.by_ref().take(taken).filter(Result::is_ok).count(), taken);
        assert_eq!(unordered.by_ref().take(taken).filter(Result::is_ok).count(), taken);
        pool.terminate();
        let errors: [Vec<TaskError>; 2] =
            [ordered.filter_map(Result::err).collect(), unordered.filter_map(Result::err).collect()];
        for errors in errors {
            assert!(!errors.is_empty(), "an infinite input has ended without an error");
            for error in errors {
                let ended = matches!(&error, TaskError::Terminated | TaskError::Refused(PoolError::Terminated));
                assert!(ended, "{error:?}");
            }
        }
        pool.join().unwrap();
    }
}

/// Ignores SIGTERM and waits at the gate.
fn stubborn(pool: &Pool, gate: &Gate, book: &Notebook) -> AsyncResult<()> {
    pool.apply_async((gate.path(), book.path()), |gate, book| {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGTERM);
        mask.thread_block().unwrap();
        stage::note(&book, std::process::id());
        stage::pass(&gate);
        // The thread that waited ends the pool now.
        mask.thread_unblock().unwrap();
    })
}

fn without_grace_no_worker_is_asked(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let (gate, book) = (Gate::closed(), Notebook::new());
    let handle = stubborn(&pool, &gate, &book);
    let pid: u32 = book.wait_for(1)[0].parse().unwrap();
    pool.terminate_with_grace(Duration::ZERO);
    assert!(processes::ended(pid));
    assert!(is_terminated(&handle.get()));
    pool.join().unwrap();
}

fn with_grace_a_task_puts_things_away(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let book = Notebook::new();
    let handle = pool.apply_async((book.path(),), |book| {
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGTERM);
        mask.thread_block().unwrap();
        stage::note(&book, "ready");
        mask.wait().unwrap();
        // Longer than the default grace.
        stage::doze(1500);
        stage::note(&book, "put away");
        if !book.is_empty() {
            std::process::exit(0);
        }
    });
    book.wait_for(1);
    pool.terminate_with_grace(Duration::from_secs(50));
    assert_eq!(book.lines(), ["ready", "put away"]);
    assert!(is_terminated::<()>(&handle.get()));
    pool.join().unwrap();
}

fn the_shortest_grace_counts(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (gate, book) = (Gate::closed(), Notebook::new());
    let _handle = stubborn(&pool, &gate, &book);
    let pid: u32 = book.wait_for(1)[0].parse().unwrap();
    thread::scope(|scope| {
        let patient = scope.spawn(|| pool.terminate_with_grace(Duration::MAX));
        stage::until("the end", || pool.apply((1u8,), |x| x).is_err());
        assert!(!pool.join_timeout(Duration::from_millis(50)).unwrap());
        assert!(!processes::ended(pid));
        pool.terminate();
        patient.join().unwrap();
    });
    assert!(processes::ended(pid));
    pool.join().unwrap();
}

fn join_waits_for_a_long_grace(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (mut gate, book) = (Gate::closed(), Notebook::new());
    let _handle = stubborn(&pool, &gate, &book);
    book.wait_for(1);
    thread::scope(|scope| {
        let patient = scope.spawn(|| pool.terminate_with_grace(Duration::from_secs(50)));
        stage::until("the end", || pool.apply((1u8,), |x| x).is_err());
        let joined = scope.spawn(|| pool.join());
        stage::doze(2500);
        assert!(!joined.is_finished(), "longer than the default grace");
        gate.open();
        patient.join().unwrap();
        joined.join().unwrap().unwrap();
    });
}
