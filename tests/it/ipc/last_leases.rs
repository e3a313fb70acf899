//! A process dies at each step of a call on a mutex or a semaphore.
//!
//! The points are those of `src/ipc`: of a latch, of a gate, of a lease, and of a mutex. A mutex has the value of the last
//! change that was kept, and no thread that lives waits for the dead.

use procpool::StartMethod;
use procpool::sync::Mutex;
use procpool::sync::Semaphore;

use crate::faults::failpoints::arm;
use crate::harness::cases;
use crate::harness::stage;
use crate::ipc::leases::add;
use crate::ipc::leases::assert_kept;
use crate::ipc::peers::LONG;

cases![
    holder_of_a_mutex_may_die_at_any_step,
    heir_may_die_while_it_ends_the_lease_of_the_dead,
    holder_of_a_permit_may_die_at_any_step,
];

const STEPS_OF_A_MUTEX: [&str; 7] = [
    "latch_taken",
    "lease_started",
    "lease_taken",
    "mutex_written",
    "mutex_flipped",
    "mutex_released",
    "latch_releasing",
];

fn holder_of_a_mutex_may_die_at_any_step(method: StartMethod) {
    for point in STEPS_OF_A_MUTEX {
        arm(&format!("procpool-0 {point} 3 kill"));
        let pool = stage::pool(method, 2);
        let mutex = Mutex::new(Vec::<u32>::new()).unwrap();
        let results = add(&pool, &mutex, 40);
        assert!(results.iter().filter(|result| result.is_err()).count() <= 1, "{point}");
        assert_kept(&mutex.lock_timeout(LONG).unwrap().expect(point), &results);
        // Of those that are dead, none is told any more.
        assert_eq!(mutex.lock().unwrap().owner_died(), None, "{point}");
        drop(pool);
    }
}

fn heir_may_die_while_it_ends_the_lease_of_the_dead(method: StartMethod) {
    for point in ["lease_noted", "lease_ended", "lease_told"] {
        arm(&format!("procpool-* lease_taken 2 kill; procpool-* {point} 1 kill"));
        let pool = stage::pool(method, 3);
        let mutex = Mutex::new(Vec::<u32>::new()).unwrap();
        let results = add(&pool, &mutex, 20);
        assert_kept(&mutex.lock_timeout(LONG).unwrap().expect(point), &results);
        arm("");
        drop(pool);
    }
}

fn holder_of_a_permit_may_die_at_any_step(method: StartMethod) {
    for point in ["latch_taken", "lease_started", "lease_taken", "latch_releasing", "gate_armed", "gate_woken"] {
        arm(&format!("procpool-0 {point} 2 kill"));
        let pool = stage::pool(method, 3);
        let semaphore = Semaphore::new(2).unwrap();
        let results = pool.with(&semaphore).chunk_size(1).map_results(0..30u32, |semaphore, _| {
            let _permit = semaphore.acquire().unwrap();
        });
        assert!(results.unwrap().iter().filter(|result| result.is_err()).count() <= 1, "{point}");
        let permits = [(); 2].map(|()| semaphore.acquire_timeout(LONG).unwrap().expect(point));
        assert!(semaphore.try_acquire().unwrap().is_none());
        drop(permits);
    }
}
