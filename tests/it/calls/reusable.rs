//! `reusable`: one pool for the whole program, as long as it is of use.

use std::sync::Arc;
use std::thread;

use procpool::Pool;
use procpool::PoolError;
use procpool::StartMethod;
use procpool::TaskError;

use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::harness::stage::Gate;
use crate::harness::stage::Notebook;

cases![
    reusable_pool_is_made_once_for_its_settings,
    reusable_pool_is_made_anew_when_it_is_of_no_use,
    reusable_pool_is_one_for_all_threads,
    reusable_pool_finishes_what_it_has_when_it_is_replaced,
    reusable_pool_may_be_made_in_a_task,
];

/// Ends the reusable pool, so that nothing of it is left after the case.
fn end_reusable(pools: &[Arc<Pool>]) {
    for pool in pools {
        pool.terminate();
        pool.join().unwrap();
    }
}

fn reusable_pool_is_made_once_for_its_settings(method: StartMethod) {
    let settings = |greeting: &str| {
        let builder = Pool::builder().processes(2).start_method(method).env("GREETING", greeting);
        builder.initializer((greeting.to_owned(),), |_: String| {})
    };
    let first = procpool::reusable(settings("hello")).unwrap();
    let pids = first.pids();
    let again = procpool::reusable(settings("hello")).unwrap();
    assert!(Arc::ptr_eq(&first, &again));
    assert_eq!(again.pids(), pids);
    let other = procpool::reusable(settings("goodbye")).unwrap();
    assert!(!Arc::ptr_eq(&first, &other));
    assert!(matches!(first.apply((1u8,), |x| x), Err(TaskError::Refused(PoolError::Closed))));
    assert_eq!(other.apply((1u8,), |x| x).unwrap(), 1);
    // Refused settings change nothing.
    procpool::reusable(settings("goodbye").processes(0)).unwrap_err();
    assert!(Arc::ptr_eq(&other, &procpool::reusable(settings("goodbye")).unwrap()));
    end_reusable(&[first, other]);
}

fn reusable_pool_is_made_anew_when_it_is_of_no_use(method: StartMethod) {
    let settings = || Pool::builder().processes(1).start_method(method);
    let closed = procpool::reusable(settings()).unwrap();
    closed.close();
    let terminated = procpool::reusable(settings()).unwrap();
    terminated.terminate();
    let fresh = procpool::reusable(settings()).unwrap();
    assert_eq!(fresh.apply((1u8,), |x| x).unwrap(), 1);
    assert!(!Arc::ptr_eq(&closed, &fresh) && !Arc::ptr_eq(&terminated, &fresh));
    end_reusable(&[closed, terminated, fresh]);
}

fn reusable_pool_is_one_for_all_threads(method: StartMethod) {
    if method == StartMethod::Fork {
        // Refused beside the threads of this case.
        return;
    }
    let settings = || Pool::builder().processes(1).start_method(method);
    let pools: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| procpool::reusable(settings()).unwrap())).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert!(pools.iter().all(|pool| Arc::ptr_eq(pool, &pools[0])));
    end_reusable(&pools[..1]);
}

fn reusable_pool_finishes_what_it_has_when_it_is_replaced(method: StartMethod) {
    let settings = |processes| Pool::builder().processes(processes).start_method(method);
    let (mut gate, book) = (Gate::closed(), Notebook::new());
    let running = stage::held(&procpool::reusable(settings(1)).unwrap(), &gate, &book);
    let pid: u32 = book.wait_for(1)[0].parse().unwrap();
    let other = procpool::reusable(settings(2)).unwrap();
    assert_eq!(other.apply((1u8,), |x| x).unwrap(), 1);
    gate.open();
    assert_eq!(running.get().unwrap(), pid);
    drop(running);
    stage::until_ended(&[pid]);
    // What the former pool held is released by a later call.
    stage::until("the end of the former pool", || {
        drop(procpool::reusable(settings(2)).unwrap());
        // This one, and two of the new pool.
        processes::thread_count() == 3
    });
    end_reusable(&[other]);
}

/// A worker by fork has a copy of the slot, with a pool that is not its own.
fn reusable_pool_may_be_made_in_a_task(method: StartMethod) {
    let outer = procpool::reusable(Pool::builder().processes(1).start_method(method)).unwrap();
    let inner = outer.apply((method.to_string(),), |method: String| -> anyhow::Result<Vec<u64>> {
        let method: StartMethod = method.parse()?;
        let pool = procpool::reusable(Pool::builder().processes(1).start_method(method))?;
        let again = procpool::reusable(Pool::builder().processes(1).start_method(method))?;
        anyhow::ensure!(Arc::ptr_eq(&pool, &again));
        Ok(pool.map(0..3u64, |x| x * x)?)
    });
    assert_eq!(inner.unwrap(), [0, 1, 4]);
    end_reusable(&[outer]);
}
