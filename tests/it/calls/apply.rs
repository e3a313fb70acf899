//! `apply` and `apply_async`: calls with one item.

use std::collections::BTreeSet;
use std::thread;

use procpool::AsyncResult;
use procpool::StartMethod;

use crate::harness::cases;
use crate::harness::stage;
use crate::harness::stage::Gate;
use crate::harness::stage::Notebook;

cases![
    runs_in_a_worker_process,
    takes_no_arguments,
    takes_one_to_twelve_arguments,
    takes_functions_methods_and_closures,
    gives_values_of_any_shape,
    runs_once_for_each_call,
    async_comes_back_before_the_task_is_done,
    async_tasks_run_side_by_side,
    many_threads_share_a_pool,
    handles_may_be_asked_in_any_order,
    calls_beside_more_busy_workers_than_one_look_takes,
];

fn runs_in_a_worker_process(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let pid = pool.apply((0u8,), |_| std::process::id()).unwrap();
    assert_ne!(pid, std::process::id());
    assert!(pool.pids().contains(&pid), "{pid} is not one of {:?}", pool.pids());
    assert_eq!(pool.processes(), 2);
    assert_eq!(pool.start_method(), method);
}

fn takes_no_arguments(method: StartMethod) {
    fn fails() -> anyhow::Result<u8> {
        anyhow::bail!("with nothing")
    }
    let pool = stage::pool(method, 1);
    assert_eq!(vec![pool.apply((), std::process::id).unwrap()], pool.pids());
    assert_eq!(pool.apply((), || "a closure".to_owned()).unwrap(), "a closure");
    assert_eq!(pool.apply_async((), || 7u8).get().unwrap(), 7);
    assert_eq!(pool.with(&4u32).apply((), |context| context + 1).unwrap(), 5);
    assert_eq!(pool.with(&"text".to_owned()).apply((), String::len).unwrap(), 4);
    assert!(stage::error(pool.apply((), fails)).to_string().contains("with nothing"));
}

fn takes_one_to_twelve_arguments(method: StartMethod) {
    let pool = stage::pool(method, 1);
    assert_eq!(pool.apply((1u8,), |a| a).unwrap(), 1);
    assert_eq!(pool.apply((1u8, "two".to_owned()), |a, b| format!("{a}{b}")).unwrap(), "1two");
    assert_eq!(pool.apply((1u8, 2u16, 3u32), |a, b, c| u32::from(a) + u32::from(b) + c).unwrap(), 6);
    let all = pool
        .apply(
            (1u8, 2u16, 3u32, 4u64, 5i8, 6i16, 7i32, 8i64, 9.5f32, 10.5f64, 'x', true),
            |a, b, c, d, e, f, g, h, i, j, k, l| format!("{a} {b} {c} {d} {e} {f} {g} {h} {i} {j} {k} {l}"),
        )
        .unwrap();
    assert_eq!(all, "1 2 3 4 5 6 7 8 9.5 10.5 x true");
}

fn takes_functions_methods_and_closures(method: StartMethod) {
    fn twice(x: u32) -> u32 {
        2 * x
    }
    fn generic<T: Clone>(x: T) -> (T, T) {
        (x.clone(), x)
    }
    let pool = stage::pool(method, 1);
    assert_eq!(pool.apply((21u32,), twice).unwrap(), 42);
    assert_eq!(pool.apply((3u64, 2), u64::pow).unwrap(), 9);
    assert_eq!(pool.apply(("a".to_owned(),), generic::<String>).unwrap(), ("a".to_owned(), "a".to_owned()));
    assert_eq!(pool.apply((7u8,), generic::<u8>).unwrap(), (7, 7));
    assert_eq!(pool.apply((vec![1u32, 2, 3],), |numbers| numbers.iter().sum::<u32>()).unwrap(), 6);
    assert_eq!(pool.apply(("abc".to_owned(),), |text| text.len()).unwrap(), 3);
}

fn gives_values_of_any_shape(method: StartMethod) {
    let pool = stage::pool(method, 1);
    pool.apply((1u8,), |_| ()).unwrap();
    assert_eq!(pool.apply((1u8,), |x| (x == 2).then_some(x)).unwrap(), None);
    assert_eq!(
        pool.apply((5i32,), |x| -> Result<i32, String> { Err(format!("no {x}")) }).unwrap(),
        Err("no 5".to_owned())
    );
    assert_eq!(pool.apply((5i32,), |x| -> anyhow::Result<i32> { Ok(x) }).unwrap(), 5);
    let nested = pool.apply((2u8,), |x| vec![Some(vec![x; 2]), None]).unwrap();
    assert_eq!(nested, [Some(vec![2, 2]), None]);
    assert_eq!(pool.apply((i128::MIN,), |x| x).unwrap(), i128::MIN);
    assert_eq!(pool.apply((f64::NEG_INFINITY,), |x| x).unwrap(), f64::NEG_INFINITY);
}

fn runs_once_for_each_call(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let book = Notebook::new();
    for index in 0..50u32 {
        pool.apply((book.path(), index), |book, index| stage::note(&book, index)).unwrap();
    }
    let expected: Vec<String> = (0..50).map(|index: u32| index.to_string()).collect();
    assert_eq!(book.lines(), expected);
}

fn async_comes_back_before_the_task_is_done(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let mut gate = Gate::closed();
    let handle = pool.apply_async((gate.path(),), |gate| {
        stage::pass(&gate);
        7u8
    });
    assert!(!handle.ready());
    gate.open();
    assert_eq!(handle.get().unwrap(), 7);
}

/// Each task waits until all four have begun, in four processes.
fn async_tasks_run_side_by_side(method: StartMethod) {
    let pool = stage::pool(method, 4);
    let book = Notebook::new();
    let handles: Vec<AsyncResult<u32>> = (0..4)
        .map(|_| {
            pool.apply_async((book.path(),), |book| {
                stage::note(&book, std::process::id());
                stage::until("four tasks at once", || stage::lines_of(&book).len() == 4);
                std::process::id()
            })
        })
        .collect();
    let pids: BTreeSet<u32> = handles.iter().map(|handle| handle.get().unwrap()).collect();
    assert_eq!(pids.len(), 4);
}

fn many_threads_share_a_pool(method: StartMethod) {
    let pool = stage::pool(method, 2);
    thread::scope(|scope| {
        for thread_index in 0..8u64 {
            let pool = &pool;
            scope.spawn(move || {
                for call_index in 0..100u64 {
                    let sum = pool.apply((thread_index, call_index), |a, b| 1000 * a + b).unwrap();
                    assert_eq!(sum, 1000 * thread_index + call_index);
                }
            });
        }
    });
}

fn handles_may_be_asked_in_any_order(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let handles: Vec<AsyncResult<u32>> = (0..200u32).map(|x| pool.apply_async((x,), |x| x + 1)).collect();
    for (index, handle) in handles.iter().enumerate().rev() {
        assert_eq!(handle.get().unwrap() as usize, index + 1);
    }
}

/// With more than 16 busy workers, a driver looks at a part of them at a time. No answer may be left behind for that.
fn calls_beside_more_busy_workers_than_one_look_takes(method: StartMethod) {
    let pool = stage::pool(method, 20);
    let (mut gate, book) = (Gate::closed(), Notebook::new());
    let held: Vec<_> = (0..18).map(|_| stage::held(&pool, &gate, &book)).collect();
    book.wait_for(18);
    for x in 0..200u32 {
        assert_eq!(pool.apply((x,), |x| x + 1).unwrap(), x + 1);
    }
    assert_eq!(pool.map(0..1000u32, |x| x).unwrap(), (0..1000).collect::<Vec<_>>());
    gate.open();
    let pids: BTreeSet<u32> = held.iter().map(|handle| handle.get().unwrap()).collect();
    assert_eq!(pids.len(), 18);
}
