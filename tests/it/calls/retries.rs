//! `retries`: an item that was lost with its worker runs again, if its call asks for that.

use nix::sys::signal::Signal;
use nix::sys::signal::raise;
use procpool::StartMethod;
use procpool::TaskError;

use crate::harness::cases;
use crate::harness::stage;
use crate::harness::stage::Gate;
use crate::harness::stage::Notebook;

cases![
    lost_item_runs_again,
    poison_fails_after_so_many_tries,
    nothing_is_tried_again_by_default,
    answers_are_not_tried_again,
    killed_workers_cost_nothing,
    order_of_results_is_kept,
    items_beside_it_begin_once,
    closed_pool_tries_again,
    works_with_a_worker_for_each_item,
    fail_fast_gives_up_tries,
];

/// Dies in the first `times` calls.
fn die_at_first(book: String, times: usize) -> usize {
    stage::note(&book, std::process::id());
    let tries = stage::lines_of(&book).len();
    if tries <= times {
        raise(Signal::SIGKILL).unwrap();
    }
    tries
}

fn lost_item_runs_again(method: StartMethod) {
    let pool = stage::pool(method, 1);
    for times in 1..4 {
        let book = Notebook::new();
        let tries = pool.retries(3).apply((book.path(), times), die_at_first).unwrap();
        assert_eq!(tries, times + 1);
        let mut pids = book.lines();
        pids.dedup();
        assert_eq!(pids.len(), times + 1, "each try has another worker");
    }
}

fn poison_fails_after_so_many_tries(method: StartMethod) {
    let pool = stage::pool(method, 2);
    for times in [0, 1, 4] {
        let book = Notebook::new();
        let error = stage::error(pool.retries(times).apply((book.path(), usize::MAX), die_at_first));
        assert!(matches!(&error, TaskError::WorkerDied { attempts, .. } if *attempts == times + 1), "{error:?}");
        assert_eq!(error.to_string().contains("workers have died of it"), times > 0, "{error}");
        assert_eq!(book.lines().len(), times as usize + 1);
    }
    stage::assert_works(&pool);
}

fn nothing_is_tried_again_by_default(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let book = Notebook::new();
    let error = stage::error(pool.apply((book.path(), 1), die_at_first));
    assert!(matches!(error, TaskError::WorkerDied { attempts: 1, .. }), "{error:?}");
    stage::assert_works(&pool);
    assert_eq!(book.lines().len(), 1);
}

fn answers_are_not_tried_again(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let book = Notebook::new();
    let call = pool.retries(5);
    let failed = call.apply((book.path(),), |book| -> anyhow::Result<()> {
        stage::note(&book, "failed");
        anyhow::bail!("no")
    });
    assert!(matches!(failed, Err(TaskError::Failed(_))));
    let panicked: Result<(), TaskError> = call.apply((book.path(),), |book| {
        stage::note(&book, "panicked");
        assert!(book.is_empty(), "no");
    });
    assert!(matches!(panicked, Err(TaskError::Panicked(_))));
    assert_eq!(book.lines(), ["failed", "panicked"]);
}

fn killed_workers_cost_nothing(method: StartMethod) {
    let pool = stage::pool(method, 3);
    let (mut gate, book) = (Gate::closed(), Notebook::new());
    let items: Vec<_> = (0..60u32).map(|x| (gate.path(), book.path(), x)).collect();
    let handle = pool.retries(10).chunk_size(5).starmap_async(items, |gate, book, x| {
        stage::note(&book, std::process::id());
        stage::pass(&gate);
        x
    });
    for round in 1..4 {
        // Workers that have begun by now are among the last three to note it.
        let begun = book.wait_for(3 * round);
        for pid in &begun[begun.len() - 3..] {
            stage::signal(pid.parse().unwrap(), Signal::SIGKILL);
        }
    }
    gate.open();
    assert_eq!(handle.get().unwrap(), (0..60).collect::<Vec<_>>());
}

fn order_of_results_is_kept(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let books: Vec<Notebook> = (0..30).map(|_| Notebook::new()).collect();
    let items: Vec<_> = (0..30u32).zip(&books).map(|(x, book)| (x, book.path())).collect();
    let task = |(x, book): (u32, String)| {
        if x % 7 == 3 {
            die_at_first(book, 1);
        }
        x
    };
    let ordered: Vec<u32> = pool.retries(1).imap(items, task).map(Result::unwrap).collect();
    assert_eq!(ordered, (0..30).collect::<Vec<_>>());
}

fn items_beside_it_begin_once(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let (poison, book) = (Notebook::new(), Notebook::new());
    let items = (0..100u32).map(|x| (x, poison.path(), book.path()));
    let results = pool.retries(3).chunk_size(20).starmap_results(items, |x, poison, book| {
        if x == 50 {
            die_at_first(poison, usize::MAX);
        }
        stage::note(&book, x);
        x
    });
    let results = results.unwrap();
    assert!(matches!(results[50], Err(TaskError::WorkerDied { attempts: 4, .. })), "{:?}", results[50]);
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 99);
    assert_eq!(book.lines().len(), 99);
    assert_eq!(poison.lines().len(), 4);
}

fn closed_pool_tries_again(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let book = Notebook::new();
    let handle = pool.retries(2).apply_async((book.path(), 2), die_at_first);
    pool.close();
    pool.join().unwrap();
    assert_eq!(handle.get().unwrap(), 3);
}

fn works_with_a_worker_for_each_item(method: StartMethod) {
    let pool = procpool::Pool::builder().processes(2).start_method(method).max_tasks_per_child(1).build().unwrap();
    let books: Vec<Notebook> = (0..10).map(|_| Notebook::new()).collect();
    let tries = pool.retries(1).starmap(books.iter().map(|book| (book.path(), 1)), die_at_first).unwrap();
    assert_eq!(tries, [2; 10]);
}

fn fail_fast_gives_up_tries(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let (gate, book) = (Gate::closed(), Notebook::new());
    let items = [(0u32, gate.path(), book.path()), (1, gate.path(), book.path())];
    let result = pool.retries(1000).fail_fast().starmap(items, |x, gate, book| -> anyhow::Result<u32> {
        stage::note(&book, x);
        if x == 0 {
            stage::until("the other", || stage::lines_of(&book).len() == 2);
            anyhow::bail!("no");
        }
        stage::pass(&gate);
        Ok(x)
    });
    assert!(matches!(result, Err(TaskError::Failed(_))), "{result:?}");
    // The call is over; its lost item is not retried.
    let busy = pool.pids();
    busy.iter().for_each(|&pid| stage::signal(pid, Signal::SIGKILL));
    stage::until_replaced(&pool, 2, &busy);
    stage::assert_works(&pool);
    assert_eq!(book.lines().len(), 2);
}
