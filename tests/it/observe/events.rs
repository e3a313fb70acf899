//! `on_event` and `slow_after`: what is told, in which order, and that telling holds up nothing.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::Duration;

use procpool::Departure;
use procpool::Event;
use procpool::Pool;
use procpool::PoolBuilder;
use procpool::PoolError;
use procpool::StartMethod;
use procpool::TaskError;

use crate::harness::cases;
use crate::harness::stage;
use crate::harness::stage::Gate;
use crate::harness::stage::Notebook;

cases![
    life_of_a_worker_is_told_in_order,
    calls_are_told_with_label_and_errors,
    each_end_of_a_worker_is_told_once,
    lost_item_is_told_behind_its_worker,
    retried_item_is_told,
    slow_item_is_told_once_while_it_runs,
    quick_items_are_never_told_as_slow,
    function_that_blocks_holds_up_no_result_and_loses_events_with_a_number,
    function_may_use_the_pool_and_may_panic,
    failed_starts_are_told,
    zero_is_refused,
];

/// What was told so far.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Event>>>);

impl Told {
    fn build(&self, builder: PoolBuilder) -> Pool {
        let told = self.clone();
        builder.on_event(move |event| told.0.lock().unwrap().push(event.clone())).build().unwrap()
    }

    fn all(&self) -> Vec<Event> {
        self.0.lock().unwrap().clone()
    }

    fn count(&self, is: impl Fn(&Event) -> bool) -> usize {
        self.all().iter().filter(|event| is(event)).count()
    }

    fn until(&self, what: &str, count: usize, is: impl Fn(&Event) -> bool) {
        stage::until(what, || self.count(&is) >= count);
    }
}

fn builder(method: StartMethod, processes: usize) -> PoolBuilder {
    Pool::builder().processes(processes).start_method(method)
}

fn life_of_a_worker_is_told_in_order(method: StartMethod) {
    let told = Told::default();
    let pool = told.build(builder(method, 2));
    let pids = pool.pids();
    assert_eq!(pool.map(0..10u32, |x| x).unwrap().len(), 10);
    pool.close();
    pool.join().unwrap();
    let events = told.all();
    for pid in pids {
        let of_worker = events.iter().filter_map(|event| match event {
            Event::WorkerStarted { pid: of, lane } if *of == pid => Some(("started", *lane)),
            Event::WorkerUp { pid: of, lane } if *of == pid => Some(("up", *lane)),
            Event::WorkerGone { pid: of, lane, how: Departure::Stopped } if *of == pid => Some(("gone", *lane)),
            _ => None,
        });
        let (what, lanes): (Vec<_>, Vec<_>) = of_worker.unzip();
        // With two workers, one may be told to leave before it is ready.
        assert!(what == ["started", "up", "gone"] || what == ["started", "gone"], "{events:?}");
        assert!(lanes.iter().all(|lane| lane == &lanes[0] && *lane < 2), "{events:?}");
    }
}

fn calls_are_told_with_label_and_errors(method: StartMethod) {
    let told = Told::default();
    let pool = told.build(builder(method, 2));
    let fail = |x: u32| -> anyhow::Result<u32> { if x % 3 == 0 { anyhow::bail!("no") } else { Ok(x) } };
    let results = pool.label("some fail").map_results(0..9u32, fail).unwrap();
    assert_eq!(results.iter().filter(|result| result.is_err()).count(), 3);
    pool.apply((1u32,), |x| x).unwrap();
    pool.close();
    pool.join().unwrap();
    let of_calls: Vec<_> = told
        .all()
        .into_iter()
        .filter_map(|event| match event {
            Event::CallBegan { call, label } => Some((call, label, None)),
            Event::CallEnded { call, label, items, errors } => Some((call, label, Some((items, errors)))),
            _ => None,
        })
        .collect();
    let [
        (first, label, None),
        (first_again, _, Some((9, 3))),
        (second, None, None),
        (second_again, None, Some((1, 0))),
    ] = &of_calls[..]
    else {
        panic!("{of_calls:?}")
    };
    assert_eq!((label.as_deref(), first == first_again, second == second_again), (Some("some fail"), true, true));
    assert!(second > first);
    let mut failed: Vec<u64> = told
        .all()
        .iter()
        .filter_map(|event| match event {
            Event::ItemFailed { index, error: TaskError::Failed(_), label: Some(_), .. } => Some(*index),
            _ => None,
        })
        .collect();
    failed.sort_unstable();
    assert_eq!(failed, [0, 3, 6]);
}

fn each_end_of_a_worker_is_told_once(method: StartMethod) {
    let told = Told::default();
    let pool = told.build(builder(method, 1).max_tasks_per_child(2));
    let gone =
        |how: fn(&Departure) -> bool| told.count(|event| matches!(event, Event::WorkerGone { how: it, .. } if how(it)));
    let lost = pool.apply((0,), |_: u8| -> u8 { std::process::abort() });
    assert!(lost.is_err());
    stage::until("a death", || gone(|how| matches!(how, Departure::Died(Some(_)))) == 1);
    assert!(pool.timeout(Duration::from_millis(50)).apply((600_000,), stage::doze).is_err());
    stage::until("a time limit", || gone(|how| *how == Departure::TimedOut) == 1);
    let (gate, book) = (Gate::closed(), Notebook::new());
    let handle = stage::held(&pool, &gate, &book);
    book.wait_for(1);
    assert!(handle.cancel());
    stage::until("a cancellation", || gone(|how| *how == Departure::Cancelled) == 1);
    pool.map(0..2u32, |x| x).unwrap();
    stage::until("a recycled worker", || gone(|how| *how == Departure::Recycled) == 1);
    pool.close();
    pool.join().unwrap();
    let counts = [
        gone(|how| matches!(how, Departure::Died(_))),
        gone(|how| *how == Departure::TimedOut),
        gone(|how| *how == Departure::Cancelled),
        gone(|how| *how == Departure::Recycled),
    ];
    assert_eq!(counts, [1; 4], "{:?}", told.all());
    let failed = told.count(|event| matches!(event, Event::ItemFailed { .. }));
    assert_eq!(failed, 2, "one was lost and one timed out; one that is cancelled is not told: {:?}", told.all());
}

fn lost_item_is_told_behind_its_worker(method: StartMethod) {
    let told = Told::default();
    let pool = told.build(builder(method, 1));
    let lost = pool.label("fatal").apply((0,), |_: u8| -> u8 { std::process::abort() });
    assert!(matches!(lost, Err(TaskError::WorkerDied { .. })));
    told.until("the end of the call", 1, |event| matches!(event, Event::CallEnded { errors: 1, .. }));
    let events = told.all();
    let place = |is: fn(&Event) -> bool| events.iter().position(is).unwrap_or_else(|| panic!("{events:?}"));
    let gone = place(|event| matches!(event, Event::WorkerGone { .. }));
    let failed =
        place(|event| matches!(event, Event::ItemFailed { index: 0, error: TaskError::WorkerDied { .. }, .. }));
    let ended = place(|event| matches!(event, Event::CallEnded { .. }));
    assert!(gone < failed && failed < ended, "{events:?}");
}

fn retried_item_is_told(method: StartMethod) {
    let told = Told::default();
    let pool = told.build(builder(method, 1));
    let book = Notebook::new();
    let value = pool.retries(3).apply((book.path(),), |book| {
        stage::note(&book, "run");
        if stage::lines_of(&book).len() == 1 {
            std::process::abort();
        }
        7
    });
    assert_eq!(value.unwrap(), 7);
    told.until("the end", 1, |event| matches!(event, Event::CallEnded { errors: 0, .. }));
    assert_eq!(told.count(|event| matches!(event, Event::ItemRetried { index: 0, .. })), 1);
    assert_eq!(told.count(|event| matches!(event, Event::ItemFailed { .. })), 0);
}

fn slow_item_is_told_once_while_it_runs(method: StartMethod) {
    let told = Told::default();
    let pool = told.build(builder(method, 2).slow_after(Duration::from_millis(30)));
    let (mut gate, book) = (Gate::closed(), Notebook::new());
    pool.map(0..100u32, |x| x).unwrap();
    let handle = stage::held(&pool, &gate, &book);
    let pid: u32 = book.wait_for(1)[0].parse().unwrap();
    let is_slow = |event: &Event| match event {
        Event::ItemSlow { index, pid: of, running, .. } => {
            *index == 0 && *of == pid && *running >= Duration::from_millis(30)
        }
        _ => false,
    };
    // While nothing waits for the pool.
    told.until("a slow item", 1, is_slow);
    pool.apply((100,), stage::doze).unwrap();
    assert_eq!(told.count(is_slow), 1);
    gate.open();
    handle.get().unwrap();
    drop(pool);
    assert_eq!(told.count(is_slow), 1, "once");
}

fn quick_items_are_never_told_as_slow(method: StartMethod) {
    let told = Told::default();
    let pool = told.build(builder(method, 2).slow_after(Duration::from_secs(600)));
    assert_eq!(pool.imap(0..20_000u64, |x| x).filter(|item| item.is_ok()).count(), 20_000);
    drop(pool);
    assert_eq!(told.count(|event| matches!(event, Event::ItemSlow { .. })), 0);
}

fn function_that_blocks_holds_up_no_result_and_loses_events_with_a_number(method: StartMethod) {
    const CALLS: usize = 5000;
    let (release, blocked) = mpsc::channel::<()>();
    let blocked = Mutex::new(Some(blocked));
    let told = Told::default();
    let noted = told.clone();
    let pool = builder(method, 1)
        .on_event(move |event| {
            if let Some(blocked) = blocked.lock().unwrap().take() {
                blocked.recv().unwrap_err();
            }
            noted.0.lock().unwrap().push(event.clone());
        })
        .build()
        .unwrap();
    for item in 0..CALLS as u64 {
        assert_eq!(pool.apply((item,), |x| x).unwrap(), item, "no event is waited for");
    }
    // Two events for each call.
    let dropped = pool.stats().totals.events_dropped;
    assert!(dropped > 0);
    drop(release);
    stage::until("an event behind those that were dropped", || {
        pool.apply((1,), |x: u8| x).unwrap();
        told.count(|event| matches!(event, Event::Dropped { .. })) > 0
    });
    let events = told.all();
    let first = events.iter().find_map(|event| match event {
        Event::Dropped { events } => Some(*events),
        _ => None,
    });
    assert!(first.is_some_and(|first| first >= dropped), "{first:?} of {dropped}");
    assert!(matches!(events[0], Event::WorkerStarted { .. }), "the oldest were kept");
}

fn function_may_use_the_pool_and_may_panic(method: StartMethod) {
    let (told, answers) = mpsc::channel();
    let slot: Arc<Mutex<Option<Arc<Pool>>>> = Arc::default();
    let of_event = Arc::clone(&slot);
    let pool = builder(method, 1)
        .on_event(move |event| {
            if let Event::ItemFailed { index, .. } = event {
                let pool = of_event.lock().unwrap().take();
                let Some(pool) = pool else { panic!("told again") };
                let answer = pool.apply((*index,), |x| x + 1).unwrap();
                told.send((answer, pool.stats().totals.items_failed)).unwrap();
            }
        })
        .build()
        .unwrap();
    let pool = Arc::new(pool);
    *slot.lock().unwrap() = Some(Arc::clone(&pool));
    let fail = |_: u8| -> anyhow::Result<()> { anyhow::bail!("no") };
    pool.apply((0,), fail).unwrap_err();
    assert_eq!(answers.recv_timeout(Duration::from_secs(30)).unwrap(), (1, 1));
    pool.apply((0,), fail).unwrap_err();
    stage::assert_works(&pool);
}

fn failed_starts_are_told(method: StartMethod) {
    let told = Told::default();
    let fail = |_: u8| -> anyhow::Result<()> { anyhow::bail!("no luck") };
    let pool = told.build(builder(method, 1).initializer((0,), fail));
    assert!(pool.apply((1,), |x: u8| x).is_err());
    told.until("a failed start", 1, |event| {
        matches!(event, Event::StartFailed { error: PoolError::Initializer { message } } if message.contains("no luck"))
    });
}

fn zero_is_refused(method: StartMethod) {
    let slow = builder(method, 1).slow_after(Duration::ZERO).build().unwrap_err();
    assert!(matches!(slow, PoolError::ZeroLimit { option: "slow_after" }), "{slow:?}");
    let record = builder(method, 1).record(0).build().unwrap_err();
    assert!(matches!(record, PoolError::ZeroLimit { option: "record" }), "{record:?}");
}
