//! A short timeline with one of everything, for tests.

use std::sync::Arc;

use crate::observe::event::Departure;
use crate::observe::record::CallSpan;
use crate::observe::record::Depth;
use crate::observe::record::Mark;
use crate::observe::record::Outcome;
use crate::observe::record::Records;
use crate::observe::record::Run;
use crate::observe::record::What;

const MS: u64 = 1_000_000;

/// What a report on it says.
pub(crate) const REPORT: &str = "\
1008 items on 2 lanes in 100 ms
lane      items   working  starting   waiting  workers  died
   0       1002     70.0%      5.0%     25.0%        1     0
   1          6     60.0%     10.0%     30.0%        2     1
slowest items:
     40.0 ms  item 7 of call 3, lane 0, process 100
     20.0 ms  item 0 of resize \"a\" & <b>\n, lane 0, process 100
     20.0 ms  item 1 of resize \"a\" & <b>\n, lane 1, process 101
3 older runs were dropped, since the record was full
";

/// Two lanes, one death, two calls, 100 ms.
pub(crate) fn records() -> Records {
    let run = |lane, pid, call, first, items, outcome, from: u64, to: u64| Run {
        lane,
        pid,
        call,
        first,
        items,
        outcome,
        is_exact: items == 1,
        from: MS * (1000 + from),
        to: MS * (1000 + to),
    };
    let mark = |at: u64, lane, pid, what| Mark { at: MS * (1000 + at), lane, pid, what };
    let label: Arc<str> = "resize \"a\" & <b>\n".into();
    Records {
        title: "4 workers by forkserver".to_owned(),
        from: MS * 1000,
        to: MS * 1100,
        runs: vec![
            run(0, 100, 2, 0, 1, Outcome::Value, 10, 30),
            run(1, 101, 2, 1, 1, Outcome::Lost, 10, 30),
            run(0, 100, 2, 2, 1000, Outcome::Value, 30, 40),
            run(1, 102, 2, 1002, 5, Outcome::Value, 40, 60),
            run(0, 100, 3, 7, 1, Outcome::Failed, 50, 90),
            run(1, 102, 3, 8, 1, Outcome::Running, 80, 100),
        ],
        runs_dropped: 3,
        marks: vec![
            mark(0, 0, 100, What::Started),
            mark(0, 1, 101, What::Started),
            mark(5, 0, 100, What::Up),
            mark(5, 1, 101, What::Up),
            mark(30, 1, 101, What::Gone(Departure::Died(None))),
            mark(31, 1, 102, What::Started),
            mark(36, 1, 102, What::Up),
        ],
        calls: vec![
            CallSpan { call: 2, label: Some(label), from: MS * 1005, to: Some(MS * 1060), items: 1007, errors: 1 },
            CallSpan { call: 3, label: None, from: MS * 1045, to: None, items: 0, errors: 0 },
        ],
        depths: (0..10).map(|step| Depth { at: MS * (1000 + 10 * step), queued: 9 - step, held: 2 }).collect(),
    }
}
