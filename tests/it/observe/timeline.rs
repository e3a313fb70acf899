//! The timeline of a pool: what is recorded, how it is written, and that recording disturbs nothing.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use procpool::Pool;
use procpool::ProgressExt;
use procpool::Report;
use procpool::Slow;
use procpool::StartMethod;
use procpool::TaskError;
use procpool::WorkerState;
use tempfile::TempDir;

use crate::harness::cases;
use crate::harness::stage;
use crate::harness::stage::Gate;
use crate::harness::stage::Notebook;
use crate::harness::sys;

cases![
    every_item_is_recorded_once,
    long_items_have_their_own_times,
    deaths_and_time_limits_are_in_the_trace,
    running_item_is_shown,
    many_tiny_items_make_a_small_picture,
    record_is_bounded,
    lanes_are_as_many_as_workers,
    joined_pool_keeps_its_timeline,
    without_a_record_there_is_nothing,
    picture_opens_in_a_browser,
    environment_records_any_program,
    calls_of_the_design_infer,
];

fn recorded(method: StartMethod, processes: usize) -> Pool {
    Pool::builder().processes(processes).start_method(method).record(100_000).build().unwrap()
}

/// The events of a trace of one phase, one line for each. The unit tests show that the whole is JSON.
fn events(pool: &Pool, phase: &str) -> Vec<String> {
    let start = format!("{{\"ph\":\"{phase}\"");
    let trace = pool.timeline().to_trace();
    trace.lines().filter(|line| line.starts_with(&start)).map(str::to_owned).collect()
}

/// The value of a field of an event, without its quotes.
fn field<'e>(event: &'e str, name: &str) -> &'e str {
    let (_, rest) = event.split_once(&format!("\"{name}\":")).unwrap_or_else(|| panic!("no {name} in {event}"));
    match rest.strip_prefix('"') {
        Some(text) => text.split('"').next().unwrap(),
        None => rest.split([',', '}']).next().unwrap(),
    }
}

fn items(report: &Report) -> u64 {
    report.lanes.iter().map(|lane| lane.items).sum()
}

/// Checks that the runs hold each item of a call once, and that no worker runs two items at once.
///
/// A worker that is stopped may answer last when its replacement, in the same lane, has begun.
fn check_runs(pool: &Pool, count: u64) {
    let mut seen = vec![false; usize::try_from(count).unwrap()];
    let mut times = std::collections::BTreeMap::<String, Vec<(f64, f64)>>::new();
    for run in events(pool, "X") {
        let [first, items] = ["first item", "items"].map(|name| field(&run, name).parse::<u64>().unwrap());
        for index in first..first + items {
            let index = usize::try_from(index).unwrap();
            assert!(!std::mem::replace(&mut seen[index], true), "item {index} twice");
        }
        let [from, took] = ["ts", "dur"].map(|name| field(&run, name).parse::<f64>().unwrap());
        times.entry(field(&run, "process").to_owned()).or_default().push((from, from + took));
    }
    for (process, mut times) in times {
        times.sort_by(|run, other| run.0.total_cmp(&other.0));
        // Times are rounded to nanoseconds.
        assert!(times.windows(2).all(|pair| pair[1].0 >= pair[0].1 - 0.01), "{process}: {times:?}");
    }
    assert!(seen.iter().all(|seen| *seen), "an item is missing");
}

fn every_item_is_recorded_once(method: StartMethod) {
    let pool = recorded(method, 2);
    assert_eq!(pool.imap_unordered(0..30_000u64, |x| x).filter(|item| item.is_ok()).count(), 30_000);
    check_runs(&pool, 30_000);
    let report = pool.timeline().report(3);
    assert_eq!((items(&report), report.lanes.len(), report.dropped), (30_000, 2, 0));
    let times = report.lanes.iter().map(|lane| lane.working + lane.waiting + lane.starting);
    assert!(times.into_iter().all(|sum| sum <= report.time + Duration::from_millis(1)), "{report:?}");
}

fn long_items_have_their_own_times(method: StartMethod) {
    let pool = recorded(method, 1);
    let times = [3, 40, 5, 20, 1];
    assert_eq!(pool.chunk_size(1).map(times, stage::doze).unwrap(), times);
    check_runs(&pool, 5);
    let report = pool.timeline().report(5);
    assert_eq!(report.slowest.len(), 5, "{report:?}");
    assert!(report.slowest.is_sorted_by_key(|slow| std::cmp::Reverse(slow.took)), "{report:?}");
    // Over sockets, the time of an item is that between two arrivals.
    if std::env::var_os("PROCPOOL_LINK").is_none() {
        // A stamp has the last reading of the clock, which was a moment before.
        let least = |slow: &Slow| Duration::from_millis(times[usize::try_from(slow.index).unwrap()]).mul_f64(0.9);
        assert!(report.slowest.iter().all(|slow| slow.took >= least(slow)), "{report:?}");
    }
    assert!(report.to_string().contains("slowest items:"), "{report}");
}

fn deaths_and_time_limits_are_in_the_trace(method: StartMethod) {
    let pool = recorded(method, 2);
    let task = |x: u32| match x {
        7 => std::process::abort(),
        11 => stage::doze(600_000),
        x => u64::from(x),
    };
    let results = pool.label("hard").chunk_size(1).timeout(Duration::from_secs(1)).map_results(0..20u32, task).unwrap();
    assert!(matches!(results[7], Err(TaskError::WorkerDied { .. })));
    assert!(matches!(results[11], Err(TaskError::TimedOut { .. })));
    check_runs(&pool, 20);
    let with = |outcome: &str| -> Vec<u64> {
        let runs = events(&pool, "X").into_iter().filter(|run| field(run, "outcome") == outcome);
        runs.map(|run| field(&run, "first item").parse().unwrap()).collect()
    };
    assert_eq!((with("lost"), with("timed out")), (vec![7], vec![11]));
    let marks: Vec<String> = events(&pool, "i").iter().map(|mark| field(mark, "name").to_owned()).collect();
    assert_eq!(marks.iter().filter(|mark| mark.starts_with("died: ")).count(), 1, "{marks:?}");
    assert_eq!(marks.iter().filter(|mark| mark.starts_with("killed at the time limit")).count(), 1, "{marks:?}");
    let svg = pool.timeline().to_svg();
    for part in ["class=\"lost\"", "class=\"late\"", "href=\"#died\"", "href=\"#timed-out\"", "hard"] {
        assert!(svg.contains(part), "{part}");
    }
}

fn running_item_is_shown(method: StartMethod) {
    let pool = recorded(method, 1);
    let (mut gate, book) = (Gate::closed(), Notebook::new());
    let handle = stage::held(&pool, &gate, &book);
    book.wait_for(1);
    stage::until("the item", || events(&pool, "X").iter().any(|run| field(run, "outcome") == "still running"));
    assert_eq!(pool.stats().workers[0].state, WorkerState::Busy);
    gate.open();
    handle.get().unwrap();
    stage::until("its end", || events(&pool, "X").iter().all(|run| field(run, "outcome") == "value"));
}

fn many_tiny_items_make_a_small_picture(method: StartMethod) {
    let pool = recorded(method, 2);
    assert_eq!(pool.map(0..40_000u64, |x| x).unwrap().len(), 40_000);
    let svg = pool.timeline().to_svg();
    assert!(svg.len() < 400_000, "{} bytes", svg.len());
    assert_eq!(items(&pool.timeline().report(0)), 40_000);
}

fn record_is_bounded(method: StartMethod) {
    let pool = Pool::builder().processes(1).start_method(method).record(10).build().unwrap();
    assert_eq!(pool.chunk_size(1).map(vec![1; 40], stage::doze).unwrap().len(), 40);
    let report = pool.timeline().report(100);
    assert!(report.dropped > 0 && report.slowest.len() <= 12, "{report:?}");
    assert!(report.to_string().contains("older runs were dropped"), "{report}");
}

fn lanes_are_as_many_as_workers(method: StartMethod) {
    let pool = Pool::builder().processes(2).start_method(method).max_tasks_per_child(2).record(1000).build().unwrap();
    assert_eq!(pool.chunk_size(1).map(0..20u32, |x| x).unwrap().len(), 20);
    let report = pool.timeline().report(0);
    assert_eq!((report.lanes.len(), items(&report)), (2, 20), "{report:?}");
    assert!(report.lanes.iter().map(|lane| lane.workers).sum::<u32>() >= 10, "{report:?}");
    assert!(pool.timeline().to_svg().contains("href=\"#recycled\""));
}

fn joined_pool_keeps_its_timeline(method: StartMethod) {
    let pool = recorded(method, 2);
    pool.map(0..100u32, |x| x).unwrap();
    pool.close();
    pool.join().unwrap();
    assert_eq!(items(&pool.timeline().report(1)), 100);
}

fn without_a_record_there_is_nothing(method: StartMethod) {
    let pool = stage::pool(method, 1);
    pool.map(0..100u32, |x| x).unwrap();
    let report = pool.timeline().report(5);
    assert!(report.lanes.is_empty() && report.slowest.is_empty());
    assert!(pool.timeline().to_svg().starts_with("<svg"));
}

/// A browser, if one is installed.
fn browser() -> Option<&'static str> {
    ["/usr/bin/chromium", "/usr/bin/chromium-browser", "/usr/bin/google-chrome"]
        .into_iter()
        .find(|path| Path::new(path).exists())
}

#[expect(clippy::print_stdout, reason = "a case that is skipped says so")]
fn picture_opens_in_a_browser(method: StartMethod) {
    let Some(browser) = browser() else {
        println!("SKIPPED: no Chromium is installed");
        return;
    };
    let pool = recorded(method, 2);
    pool.label("in a <browser>").chunk_size(1).map([1, 2, 3, 4], stage::doze).unwrap();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("run.svg");
    pool.timeline().write_svg(&path).unwrap();
    drop(pool);
    let output = Command::new(browser)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .args(["--disable-dev-shm-usage", "--no-zygote", "--single-process"])
        .arg(format!("--user-data-dir={}", folder.path().join("profile").display()))
        .arg("--dump-dom")
        .arg(format!("file://{}", path.display()))
        .output()
        .unwrap();
    let dom = String::from_utf8_lossy(&output.stdout);
    assert!(dom.contains("<svg") && dom.contains("lane 1") && dom.contains("in a &lt;browser&gt;"), "{output:?}");
    assert!(!dom.contains("parsererror"), "{dom}");
}

/// A pool in a program that knows nothing of timelines.
fn environment_records_any_program(method: StartMethod) {
    let folder = TempDir::new().unwrap();
    let path = |name: &str| folder.path().join(name);
    let run = |file: &str| {
        sys::set_env("PROCPOOL_TIMELINE", path(file).to_str().unwrap());
        let pool = stage::pool(method, 2);
        assert_eq!(pool.map(0..100u32, |x| x).unwrap().len(), 100);
        pool
    };
    drop(run("run.svg"));
    assert!(fs::read_to_string(path("run.svg")).unwrap().contains("100 items on 2 lanes"));
    let pool = run("run.json");
    pool.close();
    pool.join().unwrap();
    // The second pool of this program.
    assert!(fs::read_to_string(path("run-2.json")).unwrap().contains("traceEvents"));
    fs::remove_file(path("run-2.json")).unwrap();
    drop(pool);
    assert!(!path("run-2.json").exists(), "it is written once");
    drop(run("run.txt"));
    assert!(fs::read_to_string(path("run-3.txt")).unwrap().contains("lane"));
}

/// The calls that the design promised, with real bodies.
fn calls_of_the_design_infer(method: StartMethod) {
    use procpool::Departure;
    use procpool::Event;
    let (sender, died) = std::sync::mpsc::channel();
    let pool = Pool::builder()
        .processes(2)
        .start_method(method)
        .on_event(move |event| {
            if let Event::WorkerGone { pid, how: Departure::Died(status), .. } = event {
                sender.send((*pid, *status)).unwrap();
            }
        })
        .slow_after(Duration::from_secs(1))
        .record(1_000_000)
        .build()
        .unwrap();
    let stats = pool.stats();
    let busy = stats.workers.iter().filter(|worker| worker.state == WorkerState::Busy).count();
    assert_eq!((busy, stats.workers.len(), stats.queued, stats.totals.items_done), (0, 2, 0, 0));
    let mut told = 0;
    for result in pool.label("resize images").imap(0..10u32, |x| x).progress(|done, len| told += done + len.unwrap()) {
        result.unwrap();
    }
    assert_eq!(told, 55 + 100);
    let lost = pool.apply((0,), |_: u8| -> u32 { std::process::abort() });
    assert!(lost.is_err());
    let (pid, status) = died.recv_timeout(Duration::from_secs(30)).unwrap();
    assert!(pid > 0 && status.is_some_and(|status| !status.success()));
    let folder = TempDir::new().unwrap();
    pool.timeline().write_svg(folder.path().join("run.svg")).unwrap();
    pool.timeline().write_trace(folder.path().join("run.json")).unwrap();
    assert!(pool.timeline().report(5).slowest.len() <= 5);
}
