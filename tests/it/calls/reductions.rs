//! `map_chunks`, `fold` and `reduce`: functions over many items at once, in a fixed order.

use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::time::Duration;

use procpool::Pool;
use procpool::PoolError;
use procpool::StartMethod;
use procpool::TaskError;

use crate::harness::cases;
use crate::harness::stage;
use crate::harness::stage::Notebook;

cases![
    chunks_are_those_of_the_input,
    chunks_answer_once,
    fold_is_a_plain_fold,
    reduce_is_a_plain_reduce,
    sums_of_floats_are_the_same_in_every_pool,
    context_comes_first,
    nothing_is_made_of_no_items,
    errors_are_the_first_in_order,
    panicking_combine_harms_no_pool,
    panicking_input_is_an_error,
    options_hold_for_chunks,
    dead_worker_costs_its_chunk,
    order_survives_deaths_and_recycling,
];

fn concat(left: String, right: String) -> String {
    left + &right
}

fn append(text: String, number: u64) -> String {
    format!("{text} {number}")
}

/// What a fold of `append` makes of the numbers, one by one.
fn in_words(numbers: std::ops::Range<u64>) -> String {
    numbers.fold(String::new(), append)
}

fn chunks_are_those_of_the_input(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let sizes = |items: u64| pool.map_chunks(0..items, |chunk: Vec<u64>| chunk.len()).unwrap();
    assert_eq!(sizes(10), [1; 10]);
    assert_eq!(sizes(1000), [4; 250]);
    assert_eq!(sizes(2_000_000).iter().sum::<usize>(), 2_000_000);
    assert_eq!(sizes(2_000_000)[..2], [4096, 4096]);
    let chunks = pool.chunk_size(4).map_chunks(0..10u64, |chunk: Vec<u64>| chunk).unwrap();
    assert_eq!(chunks, [vec![0, 1, 2, 3], vec![4, 5, 6, 7], vec![8, 9]]);
    assert_eq!(pool.chunk_size(usize::MAX).map_chunks(0..10u64, |chunk: Vec<u64>| chunk.len()).unwrap(), [10]);
}

fn chunks_answer_once(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let book = Notebook::new();
    let joined =
        pool.chunk_size(3).with(&book.path()).map_chunks(["a", "b", "c", "d"].map(str::to_owned), |book, words| {
            stage::note(book, words.len());
            words.join("+")
        });
    assert_eq!(joined.unwrap(), ["a+b+c", "d"]);
    assert_eq!(book.lines().len(), 2);
    let fallible = pool.map_chunks(0..10u64, |chunk: Vec<u64>| -> anyhow::Result<u64> { Ok(chunk.iter().sum()) });
    assert_eq!(fallible.unwrap().iter().sum::<u64>(), 45);
}

fn fold_is_a_plain_fold(method: StartMethod) {
    for processes in 1..4 {
        let pool = stage::pool(method, processes);
        let squares = pool.fold(0..100_000u64, 0, |sum, x| sum + x * x, |left, right| left + right).unwrap();
        assert_eq!(squares, (0..100_000u64).map(|x| x * x).sum());
        for chunk_size in [1, 7, 1000] {
            let words = pool.chunk_size(chunk_size).fold(0..300, String::new(), append, concat);
            assert_eq!(words.unwrap(), in_words(0..300));
        }
    }
    // What combines may capture.
    let pool = stage::pool(method, 2);
    let mut combined = 0;
    let sum = pool.chunk_size(10).fold(
        0..100u64,
        0,
        |sum, x| sum + x,
        |left, right| {
            combined += 1;
            left + right
        },
    );
    assert_eq!((sum.unwrap(), combined), (4950, 9));
}

fn reduce_is_a_plain_reduce(method: StartMethod) {
    let pool = stage::pool(method, 3);
    assert_eq!(pool.reduce(0..100_000u64, |left, right| left + right).unwrap(), Some(4_999_950_000));
    let words: Vec<String> = (0..500).map(|number| number.to_string()).collect();
    assert_eq!(pool.reduce(words.clone(), concat).unwrap(), Some(words.concat()));
    assert_eq!(pool.reduce([7u8], |_, _| panic!("there is one item")).unwrap(), Some(7));
    let longest = pool.chunk_size(2).reduce(words, |left, right| if right.len() > left.len() { right } else { left });
    assert_eq!(longest.unwrap().as_deref(), Some("100"), "the first of those that are equal");
}

fn sums_of_floats_are_the_same_in_every_pool(method: StartMethod) {
    let numbers = || (1..50_000u32).map(|x| 1.0 / f64::from(x));
    let sums: Vec<(u64, u64)> = (1..5)
        .map(|processes| {
            let pool = stage::pool(method, processes);
            let folded = pool.fold(numbers(), 0.0, |sum, x| sum + x, |left, right| left + right).unwrap();
            let reduced = pool.reduce(numbers(), |left, right| left + right).unwrap().unwrap();
            (folded.to_bits(), reduced.to_bits())
        })
        .collect();
    assert!(sums.iter().all(|sum| *sum == sums[0]), "{sums:?}");
}

fn context_comes_first(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let weights = vec![1u64, 10, 100];
    let call = pool.with(&weights);
    let folded = call.fold(0..30usize, 0, |weights, sum, i| sum + weights[i % 3], |left, right| left + right);
    assert_eq!(folded.unwrap(), 1110);
    let reduced =
        call.reduce(1..=10u64, |weights, left, right| left.max(right).min(weights[1]) + weights.len() as u64 - 3);
    assert_eq!(reduced.unwrap(), Some(10));
    let chunks =
        call.chunk_size(2).map_chunks(0..3usize, |weights, chunk| chunk.iter().map(|&i| weights[i]).sum::<u64>());
    assert_eq!(chunks.unwrap(), [11, 100]);
}

fn nothing_is_made_of_no_items(method: StartMethod) {
    let pool = stage::pool(method, 1);
    assert_eq!(pool.map_chunks(0..0u64, |chunk: Vec<u64>| chunk.len()).unwrap(), []);
    assert_eq!(pool.reduce(0..0u64, |left, _| left).unwrap(), None);
    assert_eq!(pool.fold(0..0u64, 7, |left, _| left, |left, _| left).unwrap(), 7);
}

fn errors_are_the_first_in_order(method: StartMethod) {
    let pool = stage::pool(method, 3);
    let step = |sum: u64, x: u64| -> anyhow::Result<u64> {
        anyhow::ensure!(x != 30 && x != 77, "no {x}");
        if x == 30 {
            stage::doze(20)
        } else {
            0
        };
        Ok(sum + x)
    };
    let error = stage::error(pool.chunk_size(10).label("sum").fold(0..100, 0, step, |left, right| left + right));
    assert_eq!(error.to_string(), "item 3 of \"sum\": task failed: no 30");
    assert_eq!(error.origin().and_then(|origin| origin.index()), Some(3), "chunks are the items");

    let panic = stage::error(pool.chunk_size(10).reduce(0..100u64, |_, right| panic!("at {right}")));
    assert!(matches!(&panic, TaskError::Panicked(panic) if panic.message == "at 1"), "{panic:?}");
    let chunks = pool.chunk_size(10).map_chunks(0..100u64, |chunk: Vec<u64>| {
        assert!(!chunk.contains(&55), "55");
        chunk.len()
    });
    assert!(matches!(stage::error(chunks), TaskError::Panicked(panic) if panic.message == "55"));
    stage::assert_works(&pool);
}

fn panicking_combine_harms_no_pool(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let folded = catch_unwind(AssertUnwindSafe(|| {
        pool.chunk_size(1).fold(
            0..1000u64,
            0,
            |_, x| x,
            |left, right| {
                assert!(right < 20, "mine");
                left + right
            },
        )
    }));
    let payload = folded.expect_err("a panic of the caller's own function");
    assert_eq!(payload.downcast_ref::<&str>(), Some(&"mine"));
    stage::assert_works(&pool);
}

fn panicking_input_is_an_error(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let input = || (0..100u64).inspect(|&x| assert!(x < 50, "an input that panics"));
    let error = stage::error(pool.chunk_size(10).fold(input(), 0, |sum, x| sum + x, |left, right| left + right));
    assert!(matches!(error, TaskError::Input { .. }), "{error:?}");
    let error = stage::error(pool.chunk_size(10).map_chunks(input(), |chunk: Vec<u64>| chunk.len()));
    assert!(matches!(error, TaskError::Input { .. }), "{error:?}");
}

fn options_hold_for_chunks(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let zero = pool.chunk_size(0).fold(0..10u64, 0, |sum, x| sum + x, |left, right| left + right);
    assert!(matches!(stage::error(zero), TaskError::Refused(PoolError::ZeroChunkSize)));
    let zero = pool.chunk_size(0).map_chunks(0..10u64, |chunk: Vec<u64>| chunk.len());
    assert!(matches!(stage::error(zero), TaskError::Refused(PoolError::ZeroChunkSize)));

    let wait = |sum: u64, millis: u64| sum + stage::doze(millis);
    let timed = pool.timeout(Duration::from_millis(50)).chunk_size(2);
    assert!(matches!(stage::error(timed.fold([1, 60_000], 0, wait, |left, _| left)), TaskError::TimedOut { .. }));

    let book = Notebook::new();
    let crash_once = |book: &String, chunk: Vec<u64>| {
        stage::note(book, "here");
        if stage::lines_of(book).len() == 1 {
            std::process::abort();
        }
        chunk.len()
    };
    let sizes = pool.retries(1).chunk_size(5).with(&book.path()).map_chunks(0..10u64, crash_once);
    assert_eq!(sizes.unwrap(), [5, 5]);
}

fn dead_worker_costs_its_chunk(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let step = |sum: u64, x: u64| if x == 33 { std::process::abort() } else { sum + x };
    let error = stage::error(pool.chunk_size(10).fold(0..100, 0, step, |left, right| left + right));
    assert!(matches!(error, TaskError::WorkerDied { .. }), "{error:?}");
    assert_eq!(error.origin().and_then(|origin| origin.index()), Some(3));
    stage::assert_works(&pool);
}

fn order_survives_deaths_and_recycling(method: StartMethod) {
    let pool = Pool::builder().processes(3).start_method(method).max_tasks_per_child(4).build().unwrap();
    let book = Notebook::new();
    let step = |book: &String, text: String, number: u64| {
        // Each of these kills one worker.
        let claim = format!("{book}-{number}");
        if number % 50 == 49 && stage::first_to_claim(&claim) {
            std::process::abort();
        }
        append(text, number)
    };
    let words = pool.retries(3).chunk_size(7).with(&book.path()).fold(0..300, String::new(), step, concat);
    assert_eq!(words.unwrap(), in_words(0..300));
}
