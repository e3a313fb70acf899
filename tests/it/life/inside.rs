//! What a task can ask of its worker: its index, its generation, how much it has done, and the pool's name.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use procpool::Pool;
use procpool::StartMethod;
use procpool::WorkerInfo;
use procpool::worker;

use crate::harness::cases;
use crate::harness::stage;
use crate::harness::sys;

cases![
    indices_are_stable_and_distinct,
    replacement_takes_the_index,
    recycled_workers_take_the_indices,
    larger_pool_has_the_next_indices,
    items_done_are_counted,
    there_is_none_outside_of_workers,
    worker_of_a_worker_is_another,
];

/// The worker of a task, as a value that travels: process id, index, generation, items done, pool.
type Told = (u32, usize, u64, u64, String);

fn tell(_: u32) -> Told {
    let WorkerInfo { index, generation, items_done, pool, .. } = worker().unwrap();
    (std::process::id(), index, generation, items_done, pool.to_owned())
}

fn builder(method: StartMethod, processes: usize) -> procpool::PoolBuilder {
    Pool::builder().processes(processes).start_method(method).name("resize")
}

fn indices_are_stable_and_distinct(method: StartMethod) {
    let pool = builder(method, 3).build().unwrap();
    stage::until_all_work(&pool);
    let told = pool.chunk_size(1).map(0..200, tell).unwrap();
    let of_processes: BTreeMap<u32, usize> = told.iter().map(|(pid, index, ..)| (*pid, *index)).collect();
    for (pid, index, generation, _, pool) in &told {
        assert_eq!((of_processes[pid], *generation, pool.as_str()), (*index, 0, "resize"));
    }
    let indices: BTreeSet<usize> = of_processes.values().copied().collect();
    assert_eq!(indices.len(), of_processes.len(), "{of_processes:?}");
    assert!(indices.iter().all(|&index| index < 3), "{indices:?}");
}

fn replacement_takes_the_index(method: StartMethod) {
    let pool = builder(method, 1).build().unwrap();
    for generation in 0..3 {
        let (_, index, told, ..) = pool.apply((0,), tell).unwrap();
        assert_eq!((index, told), (0, generation));
        stage::error(pool.apply((), || -> u8 { std::process::abort() }));
    }
}

fn recycled_workers_take_the_indices(method: StartMethod) {
    let pool = builder(method, 2).max_tasks_per_child(3).build().unwrap();
    let told = pool.chunk_size(1).map(0..60, tell).unwrap();
    assert!(told.iter().all(|(_, index, ..)| *index < 2), "{told:?}");
    let workers: BTreeSet<(usize, u64, u32)> = told.iter().map(|told| (told.1, told.2, told.0)).collect();
    let places: BTreeSet<(usize, u64)> = told.iter().map(|told| (told.1, told.2)).collect();
    assert_eq!(workers.len(), places.len(), "two workers with one index and generation: {workers:?}");
    assert!(told.iter().all(|(_, _, _, items_done, _)| *items_done < 3), "{told:?}");
}

fn larger_pool_has_the_next_indices(method: StartMethod) {
    let pool = builder(method, 1).build().unwrap();
    pool.resize(3).unwrap();
    stage::until_all_work(&pool);
    let indices: BTreeSet<usize> = stage::until_some("all three", || {
        let told = pool.chunk_size(1).map(0..60, |x| {
            stage::doze(1);
            tell(x)
        });
        let indices: BTreeSet<usize> = told.unwrap().into_iter().map(|told| told.1).collect();
        (indices.len() == 3).then_some(indices)
    });
    assert_eq!(indices, BTreeSet::from([0, 1, 2]));
}

fn items_done_are_counted(method: StartMethod) {
    fn done(_: u64) -> u64 {
        worker().unwrap().items_done
    }
    let pool = builder(method, 1).build().unwrap();
    assert_eq!(pool.apply((0,), done).unwrap(), 0);
    assert_eq!(pool.map(0..100, done).unwrap(), (1..101).collect::<Vec<u64>>());
    stage::error(pool.apply((), || -> u8 { panic!("counts too") }));
    // Not a number, so by another way through the worker; and too large for a frame.
    assert_eq!(pool.apply((0,), tell).unwrap().3, 102);
    assert_eq!(pool.apply((), || vec![0u8; 1 << 20]).unwrap().len(), 1 << 20);
    assert_eq!(pool.apply((vec![0u8; 1 << 20],), |_| done(0)).unwrap(), 104);
}

fn there_is_none_outside_of_workers(method: StartMethod) {
    let pool = builder(method, 1).initializer((), || worker().map(|_| ()).ok_or("no worker")).build().unwrap();
    assert_eq!(worker(), None);
    let of_a_thread = pool.apply((), || std::thread::spawn(|| worker().map(|worker| worker.index)).join().unwrap());
    assert_eq!(of_a_thread.unwrap(), Some(0));
    let of_a_copy = pool.apply((), || sys::in_a_forked_copy(|| u8::from(worker().is_some())));
    assert_eq!(of_a_copy.unwrap(), 0, "a process that a task has forked is no worker");
    assert_eq!(worker(), None);
}

fn worker_of_a_worker_is_another(method: StartMethod) {
    let pool = builder(method, 2).build().unwrap();
    let names = pool.starmap([0, 1].map(|item| (item, method.to_string())), |item, method| {
        let inner = Pool::builder().processes(3).start_method(method.parse().unwrap()).name("inner").build().unwrap();
        let of_inner: BTreeSet<String> = inner.map(0..30, tell).unwrap().into_iter().map(|told| told.4).collect();
        (of_inner.into_iter().collect::<Vec<String>>(), tell(item).4)
    });
    for name in names.unwrap() {
        assert_eq!(name, (vec!["inner".to_owned()], "resize".to_owned()));
    }
}
