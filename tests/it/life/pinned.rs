//! Workers that are bound to processors.

use nix::sched::CpuSet;
use nix::sched::sched_getaffinity;
use nix::unistd::Pid;
use procpool::Pool;
use procpool::PoolError;
use procpool::StartMethod;
use procpool::worker;

use crate::harness::cases;
use crate::harness::stage;

cases![
    each_worker_has_a_processor,
    sets_go_round,
    replacement_has_the_processors_of_its_index,
    this_process_is_not_bound,
    sets_that_cannot_be_had_are_refused,
];

/// The processors that this thread may use.
fn allowed() -> Vec<usize> {
    let set = sched_getaffinity(Pid::from_raw(0)).unwrap();
    (0..CpuSet::count()).filter(|&processor| set.is_set(processor).unwrap()).collect()
}

/// The index of the worker, and its processors.
fn place(_: u32) -> (usize, Vec<usize>) {
    stage::doze(1);
    (worker().unwrap().index, allowed())
}

fn each_worker_has_a_processor(method: StartMethod) {
    let ours = allowed();
    let pool = Pool::builder().processes(3).start_method(method).pin_workers().build().unwrap();
    for (index, processors) in pool.chunk_size(1).map(0..60, place).unwrap() {
        assert_eq!(processors, [ours[index % ours.len()]]);
    }
    let of_a_thread = pool.apply((), || std::thread::spawn(allowed).join().unwrap()).unwrap();
    assert_eq!(of_a_thread.len(), 1);
}

fn sets_go_round(method: StartMethod) {
    let ours = allowed();
    let sets = [ours.clone(), vec![ours[0]], ours.clone()];
    let pool = Pool::builder().processes(4).start_method(method).affinity(sets.clone()).build().unwrap();
    stage::until_all_work(&pool);
    for (index, processors) in pool.chunk_size(1).map(0..100, place).unwrap() {
        assert_eq!(processors, sets[index % 3]);
    }
}

fn replacement_has_the_processors_of_its_index(method: StartMethod) {
    let ours = allowed();
    let last = *ours.last().unwrap();
    let pool = Pool::builder().processes(1).start_method(method).affinity([[last]]).build().unwrap();
    for _ in 0..3 {
        assert_eq!(pool.apply((0,), place).unwrap(), (0, vec![last]));
        stage::error(pool.apply((), || -> u8 { std::process::abort() }));
    }
}

fn this_process_is_not_bound(method: StartMethod) {
    let before = allowed();
    let pool = Pool::builder().processes(2).start_method(method).pin_workers().build().unwrap();
    stage::until_all_work(&pool);
    assert_eq!(allowed(), before);
}

fn sets_that_cannot_be_had_are_refused(method: StartMethod) {
    let builder = || Pool::builder().processes(1).start_method(method);
    let before = allowed();
    for wrong in [vec![1023], vec![], vec![1 << 30]] {
        let refused = builder().affinity([before.clone(), wrong.clone()]).build();
        assert!(matches!(&refused, Err(PoolError::Affinity { processors, .. }) if *processors == wrong), "{refused:?}");
    }
    let no_sets: [Vec<usize>; 0] = [];
    assert!(matches!(builder().affinity(no_sets).build(), Err(PoolError::Affinity { .. })));
    assert_eq!(allowed(), before);
}
