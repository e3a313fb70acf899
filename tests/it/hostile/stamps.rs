//! Tasks that write to what their worker tells of its times.

use procpool::Pool;
use procpool::StartMethod;

use crate::harness::cases;
use crate::harness::stage;
use crate::harness::stage::Gate;
use crate::harness::stage::Notebook;
use crate::hostile::hostile::Rings;

cases![stamps_that_lie_spoil_their_own_lane,];

/// The worker's hints: times, and the stamps with their number.
const HINTS: [u64; 5] = [16, 24, 32, 48, 56];
const STAMPS: u64 = 512;
const STAMPS_LEN: u64 = 192 * 16;

/// A worker that writes any numbers where its times are, between every two items, makes its own lane of a timeline wrong.
/// No item is lost, no answer changes, and the other lane is right.
fn stamps_that_lie_spoil_their_own_lane(method: StartMethod) {
    let pool = Pool::builder().processes(2).start_method(method).record(10_000).build().unwrap();
    let (mut gate, book) = (Gate::closed(), Notebook::new());
    // It keeps one lane busy while the other lies.
    let honest = stage::held(&pool, &gate, &book);
    let pid: u32 = book.wait_for(1)[0].parse().unwrap();
    let lie = |item: u64| {
        let Some(rings) = Rings::find() else { return item };
        let mut state = item.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut number = || {
            state = state.wrapping_mul(0xd134_2543_de82_ef95).rotate_left(17);
            if state % 3 == 0 { state } else { state % 1000 }
        };
        let places = HINTS.into_iter().chain((0..STAMPS_LEN / 8).map(|place| STAMPS + 8 * place));
        places.for_each(|place| rings.write(place, &number().to_le_bytes()));
        item
    };
    let results = pool.chunk_size(1).map(0..300u64, lie).unwrap();
    assert_eq!(results, (0..300).collect::<Vec<u64>>());
    gate.open();
    assert_eq!(honest.get().unwrap(), pid);
    let (stats, timeline) = (pool.stats(), pool.timeline());
    for worker in &stats.workers {
        let age = stats.at - worker.started_at;
        assert!(
            worker.busy <= age && worker.current.as_ref().is_none_or(|current| current.at_most <= age),
            "{stats:?}"
        );
    }
    let report = timeline.report(1000);
    assert_eq!(report.lanes.iter().map(|lane| lane.items).sum::<u64>(), 301, "{report}");
    assert!(report.slowest.iter().all(|slow| slow.took <= report.time), "{report}");
    let longest: Vec<_> = report.slowest.iter().filter(|slow| slow.pid == pid).collect();
    assert_eq!(longest.len(), 1, "{report}");
    assert!(timeline.to_svg().starts_with("<svg") && timeline.to_trace().contains("traceEvents"));
    assert_eq!(stats.totals.workers_died + stats.totals.workers_spoilt, 0, "{stats:?}");
}
