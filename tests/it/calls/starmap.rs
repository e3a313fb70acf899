//! `starmap`, `starmap_async` and `starmap_results`: each item is a tuple of arguments.

use procpool::StartMethod;
use procpool::TaskError;

use crate::harness::cases;
use crate::harness::stage;

cases![
    unpacks_tuples_of_every_arity,
    takes_methods_and_fallible_functions,
    async_gives_the_same,
    results_form_gives_an_answer_for_each_item,
    empty_input_gives_empty_output,
    gives_the_same_for_every_chunk_size,
    error_is_that_of_the_lowest_index,
];

fn unpacks_tuples_of_every_arity(method: StartMethod) {
    let pool = stage::pool(method, 2);
    assert_eq!(pool.starmap([(); 5000], || 7u8).unwrap(), [7; 5000]);
    assert_eq!(pool.with(&3u8).starmap_async([(), ()], |context| *context).get().unwrap(), [3, 3]);
    assert_eq!(pool.starmap([(1u32,), (2,)], |a| a + 1).unwrap(), [2, 3]);
    assert_eq!(pool.starmap([(1, 2), (3, 4)], |a: u32, b| a + b).unwrap(), [3, 7]);
    assert_eq!(pool.starmap([(1u8, "a".to_owned(), true)], |a, b, c| format!("{a}{b}{c}")).unwrap(), ["1atrue"]);
    let twelve = (1u64, 2u64, 3u64, 4u64, 5u64, 6u64, 7u64, 8u64, 9u64, 10u64, 11u64, 12u64);
    let sums =
        pool.starmap([twelve; 3], |a, b, c, d, e, f, g, h, i, j, k, l| a + b + c + d + e + f + g + h + i + j + k + l);
    assert_eq!(sums.unwrap(), [78; 3]);
}

fn takes_methods_and_fallible_functions(method: StartMethod) {
    fn repeat(text: String, count: usize) -> anyhow::Result<String> {
        anyhow::ensure!(count < 5, "too many: {count}");
        Ok(text.repeat(count))
    }
    let pool = stage::pool(method, 2);
    assert_eq!(pool.starmap([(2i64, 10), (3, 3)], i64::pow).unwrap(), [1024, 27]);
    assert_eq!(pool.starmap([("ab".to_owned(), 2)], repeat).unwrap(), ["abab"]);
    let error = stage::error(pool.starmap([("ab".to_owned(), 2), ("c".to_owned(), 9)], repeat));
    assert!(matches!(&error, TaskError::Failed(failure) if failure.message == "too many: 9"), "{error:?}");
}

fn async_gives_the_same(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let handle = pool.starmap_async((0..100u32).map(|x| (x, 2 * x)), |a, b| b - a);
    assert_eq!(handle.get().unwrap(), (0..100).collect::<Vec<u32>>());
}

fn results_form_gives_an_answer_for_each_item(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let results = pool.starmap_results([(6u32, 3u32), (1, 0), (8, 2)], |a, b| a / b).unwrap();
    assert!(matches!(&results[..], [Ok(2), Err(TaskError::Panicked(_)), Ok(4)]), "{results:?}");
}

fn empty_input_gives_empty_output(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let nothing: [(u8, u8); 0] = [];
    let none: [u8; 0] = [];
    assert_eq!(pool.starmap(nothing, |a, _| a).unwrap(), none);
    assert_eq!(pool.starmap_async(nothing, |a, _| a).get().unwrap(), none);
    assert_eq!(pool.starmap_results(nothing, |a, _| a).unwrap().len(), 0);
}

fn gives_the_same_for_every_chunk_size(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let expected: Vec<u32> = (0..50).map(|x| 3 * x).collect();
    for chunk_size in [1, 7, 50, 1000] {
        let products = pool.chunk_size(chunk_size).starmap((0..50u32).map(|x| (x, 3)), |a, b| a * b).unwrap();
        assert_eq!(products, expected, "chunk size {chunk_size}");
    }
}

fn error_is_that_of_the_lowest_index(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let error = stage::error(pool.chunk_size(1).starmap((0..40u32).map(|x| (x, 20)), |a, b| -> u32 {
        assert!(a < b, "{a} is too much");
        a
    }));
    assert!(matches!(&error, TaskError::Panicked(panic) if panic.message.contains("20 is too much")), "{error:?}");
}
