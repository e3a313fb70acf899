//! `map`, `map_async` and `map_results`: one function over many items.

use std::collections::BTreeSet;
use std::mem::ManuallyDrop;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::rc::Rc;
use std::thread;

use procpool::StartMethod;
use procpool::TaskError;
use serde::Deserialize;
use serde::Serialize;

use crate::harness::cases;
use crate::harness::stage;
use crate::harness::stage::Gate;
use crate::harness::stage::Notebook;

cases![
    keeps_the_order_of_the_items,
    gives_the_same_for_every_chunk_size,
    empty_input_gives_empty_output,
    runs_every_item_exactly_once,
    uses_all_workers,
    no_item_waits_behind_a_long_one,
    no_item_of_a_default_chunk_waits_behind_a_long_one,
    takes_inputs_that_borrow_and_are_not_send,
    takes_inputs_of_unknown_length,
    carries_items_and_results_of_no_size,
    carries_a_hundred_thousand_items,
    async_jobs_overlap,
    results_form_gives_an_answer_for_each_item,
    several_threads_map_at_once_without_cross_talk,
    item_that_panics_when_dropped_leaves_the_pool_ending,
];

/// Number 3 of these items panics when it is dropped in this process; tasks forget theirs.
#[derive(Debug, Serialize, Deserialize)]
struct Bomb(u64);

impl Drop for Bomb {
    fn drop(&mut self) {
        assert!(self.0 != 3 || thread::panicking(), "a drop that panics on purpose");
    }
}

fn defuse(bomb: Bomb) -> u64 {
    ManuallyDrop::new(bomb).0
}

fn item_that_panics_when_dropped_leaves_the_pool_ending(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let bombs = || (0..10).map(Bomb);
    let submitted = catch_unwind(AssertUnwindSafe(|| pool.map_async(bombs(), defuse)));
    assert!(submitted.is_err());
    let answered = catch_unwind(AssertUnwindSafe(|| pool.map(bombs(), defuse)));
    assert!(answered.is_err());
    stage::assert_works(&pool);
    pool.close();
    pool.join().unwrap();
}

fn keeps_the_order_of_the_items(method: StartMethod) {
    let pool = stage::pool(method, 3);
    let squares = pool.map(0..10_000u64, |x| x * x).unwrap();
    assert_eq!(squares, (0..10_000u64).map(|x| x * x).collect::<Vec<_>>());
}

fn gives_the_same_for_every_chunk_size(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let expected: Vec<i32> = (0..100).map(|x| x - 50).collect();
    for chunk_size in [1, 2, 7, 33, 99, 100, 101, 1_000_000, usize::MAX] {
        assert_eq!(pool.chunk_size(chunk_size).map(0..100, |x| x - 50).unwrap(), expected, "chunk size {chunk_size}");
    }
}

fn empty_input_gives_empty_output(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let nothing: [u8; 0] = [];
    assert_eq!(pool.map(nothing, |x| x).unwrap(), nothing);
    assert_eq!(pool.chunk_size(5).map(nothing, |x| x).unwrap(), nothing);
    assert_eq!(pool.map_results(nothing, |x| x).unwrap().len(), 0);
    let handle = pool.map_async(nothing, |x| x);
    handle.wait();
    assert!(handle.ready() && handle.successful());
    assert_eq!(handle.get().unwrap(), nothing);
}

fn runs_every_item_exactly_once(method: StartMethod) {
    let pool = stage::pool(method, 3);
    let book = Notebook::new();
    let path = book.path();
    pool.map((0..500u32).map(|x| (path.clone(), x)), |(book, x)| stage::note(&book, x)).unwrap();
    let mut seen: Vec<u32> = book.lines().iter().map(|line| line.parse().unwrap()).collect();
    seen.sort_unstable();
    assert_eq!(seen, (0..500).collect::<Vec<_>>());
}

/// Each item waits until all four are running.
fn uses_all_workers(method: StartMethod) {
    let pool = stage::pool(method, 4);
    let book = Notebook::new();
    let pids = pool
        .chunk_size(1)
        .map(vec![book.path(); 4], |book| {
            stage::note(&book, std::process::id());
            stage::until("four items at once", || stage::lines_of(&book).len() == 4);
            std::process::id()
        })
        .unwrap();
    assert_eq!(pids.iter().collect::<BTreeSet<_>>().len(), 4);
}

fn no_item_waits_behind_a_long_one(method: StartMethod) {
    others_finish_while_the_first_waits(method, Some(1));
}

fn no_item_of_a_default_chunk_waits_behind_a_long_one(method: StartMethod) {
    others_finish_while_the_first_waits(method, None);
}

fn others_finish_while_the_first_waits(method: StartMethod, chunk_size: Option<usize>) {
    let pool = stage::pool(method, 2);
    let (book, mut gate) = (Notebook::new(), Gate::closed());
    let items: Vec<(u32, String, String)> = (0..100).map(|x| (x, book.path(), gate.path())).collect();
    let task: fn((u32, String, String)) -> u32 = |(x, book, gate)| {
        if x == 0 {
            stage::pass(&gate);
        }
        stage::note(&book, x);
        x
    };
    let handle = match chunk_size {
        Some(size) => pool.chunk_size(size).map_async(items, task),
        None => pool.map_async(items, task),
    };
    let lines = book.wait_for(99);
    assert!(!lines.contains(&"0".to_owned()));
    gate.open();
    assert_eq!(handle.get().unwrap(), (0..100).collect::<Vec<_>>());
}

fn takes_inputs_that_borrow_and_are_not_send(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let words = ["a".to_owned(), "bb".to_owned()];
    assert_eq!(pool.map(words.iter().cloned(), |word| word.len()).unwrap(), [1, 2]);
    let shared = Rc::new(vec![1u8, 2, 3]);
    assert_eq!(pool.map(shared.iter().copied(), |x| x * 2).unwrap(), [2, 4, 6]);
    assert_eq!(Rc::strong_count(&shared), 1);
}

fn takes_inputs_of_unknown_length(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let odd = pool.map((0..1000u32).filter(|x| x % 2 == 1), |x| x).unwrap();
    assert_eq!(odd, (0..500u32).map(|x| 2 * x + 1).collect::<Vec<_>>());
}

fn carries_items_and_results_of_no_size(method: StartMethod) {
    let pool = stage::pool(method, 2);
    assert_eq!(pool.map(vec![(); 5000], |()| ()).unwrap().len(), 5000);
}

fn carries_a_hundred_thousand_items(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let sum: u64 = pool.map(0..100_000u64, |x| x + 1).unwrap().iter().sum();
    assert_eq!(sum, 100_000 * 100_001 / 2);
}

fn async_jobs_overlap(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let mut gate = Gate::closed();
    let held = pool.map_async([gate.path()], |gate| stage::pass(&gate));
    let jobs: Vec<_> = (0..20u32).map(|job| pool.map_async(20 * job..20 * job + 20, |x| x)).collect();
    for (job, handle) in (0u32..).zip(&jobs) {
        assert_eq!(handle.get().unwrap(), (20 * job..20 * job + 20).collect::<Vec<_>>());
    }
    assert!(!held.ready());
    gate.open();
    assert_eq!(held.get().unwrap(), [()]);
}

fn results_form_gives_an_answer_for_each_item(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let results = pool.map_results(0..10u32, |x| if x % 3 == 0 { panic!("no {x}") } else { x }).unwrap();
    assert_eq!(results.len(), 10);
    for (x, result) in (0u32..).zip(results) {
        match result {
            Ok(value) => assert!(value == x && x % 3 != 0),
            Err(TaskError::Panicked(panic)) => {
                assert!(x % 3 == 0 && panic.message == format!("no {x}"))
            }
            Err(other) => panic!("{other:?}"),
        }
    }
}

fn several_threads_map_at_once_without_cross_talk(method: StartMethod) {
    let pool = stage::pool(method, 2);
    thread::scope(|scope| {
        for thread_index in 0..4u64 {
            let pool = &pool;
            scope.spawn(move || {
                for _ in 0..20 {
                    let range = 1000 * thread_index..1000 * thread_index + 200;
                    assert_eq!(pool.map(range.clone(), |x| x).unwrap(), range.collect::<Vec<_>>());
                }
            });
        }
    });
}
