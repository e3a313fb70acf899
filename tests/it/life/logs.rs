//! What workers tell beside their answers: records of the crate `log`, and lines of their standard output and error.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc;

use log::Level;
use log::LevelFilter;
use nix::sys::signal::Signal;
use procpool::LogRecord;
use procpool::OutputLine;
use procpool::OutputStream;
use procpool::Pool;
use procpool::PoolBuilder;
use procpool::PoolError;
use procpool::StartMethod;
use procpool::TaskError;
use procpool::worker;

use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::harness::sys;

cases![
    records_arrive_in_order_with_their_worker,
    level_is_that_of_the_pool,
    logger_of_the_program_gets_them,
    nothing_is_set_up_without_a_logger,
    last_records_of_a_dead_worker_arrive,
    logger_of_an_initializer_stays,
    flood_is_counted_and_hurts_no_pool,
    hook_that_panics_or_joins_harms_nothing,
    junk_in_every_descriptor_harms_nothing,
    lines_arrive_by_stream,
    last_line_of_a_dead_worker_arrives,
    lines_of_any_length_arrive,
    finalizers_are_heard,
];

/// What a hook was told.
#[derive(Clone, Debug)]
struct Heard<T>(Arc<Mutex<Vec<T>>>);

impl<T: Clone + Send + 'static> Heard<T> {
    fn new() -> Self {
        Self(Arc::default())
    }

    fn hook(&self) -> impl Fn(&T) + Send + Sync + use<T> {
        let heard = Arc::clone(&self.0);
        move |told| heard.lock().unwrap().push(told.clone())
    }

    fn all(&self) -> Vec<T> {
        self.0.lock().unwrap().clone()
    }
}

fn builder(method: StartMethod, processes: usize) -> PoolBuilder {
    Pool::builder().processes(processes).start_method(method)
}

fn end(pool: &Pool) {
    pool.close();
    pool.join().unwrap();
}

fn place() -> (u32, usize) {
    (std::process::id(), worker().unwrap().index)
}

fn records_arrive_in_order_with_their_worker(method: StartMethod) {
    let heard = Heard::<LogRecord>::new();
    let pool = builder(method, 3).logs(LevelFilter::Info).on_log(heard.hook()).build().unwrap();
    let places = pool.chunk_size(1).map(0..300u32, |x| {
        // Not the items: those that are taken back from one worker run later in another.
        static MADE: AtomicU32 = AtomicU32::new(0);
        log::info!(target: "there", "{} {x}", MADE.fetch_add(1, Relaxed));
        place()
    });
    let places = places.unwrap();
    end(&pool);
    let mut made = BTreeMap::<u32, u32>::new();
    let records = heard.all();
    assert_eq!(records.len(), 300);
    for record in records {
        assert_eq!((record.level, record.target.as_str(), record.dropped), (Level::Info, "there", 0));
        assert!(record.file.as_deref().is_some_and(|file| file.ends_with("logs.rs")) && record.line.is_some());
        let (number, item) = record.text.split_once(' ').unwrap();
        assert_eq!((record.pid, record.worker), places[item.parse::<usize>().unwrap()]);
        let next = made.entry(record.pid).or_default();
        assert_eq!(number.parse(), Ok(*next), "worker {}", record.pid);
        *next += 1;
    }
}

fn level_is_that_of_the_pool(method: StartMethod) {
    fn log_all(_: u32) -> bool {
        log::error!("e");
        log::warn!("w");
        log::debug!("d");
        log::log_enabled!(Level::Debug)
    }
    for (level, texts) in [(LevelFilter::Off, ""), (LevelFilter::Warn, "ew"), (LevelFilter::Trace, "ewd")] {
        let heard = Heard::<LogRecord>::new();
        let pool = builder(method, 1).logs(level).on_log(heard.hook()).build().unwrap();
        assert_eq!(pool.apply((0,), log_all).unwrap(), level >= LevelFilter::Debug);
        end(&pool);
        assert_eq!(heard.all().into_iter().map(|record| record.text).collect::<String>(), texts);
    }
}

static LINES: Mutex<Vec<String>> = Mutex::new(Vec::new());

/// The logger of this program, which a worker must not call.
struct Keeper;

impl log::Log for Keeper {
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target() != "unwanted"
    }

    fn log(&self, record: &log::Record<'_>) {
        assert_eq!(worker(), None, "it was called in a worker");
        LINES.lock().unwrap().push(format!("{}: {}", record.level(), record.args()));
    }

    fn flush(&self) {}
}

fn logger_of_the_program_gets_them(method: StartMethod) {
    procpool::set_logger(Box::new(Keeper)).unwrap();
    log::set_max_level(LevelFilter::Info);
    assert!(procpool::set_logger(Box::new(Keeper)).is_err());
    log::info!("here");
    let pool = builder(method, 1).build().unwrap();
    let pid = pool.apply((), || {
        log::debug!("too much");
        log::info!(target: "unwanted", "not this");
        log::info!("from there");
        std::process::id()
    });
    let pid = pid.unwrap();
    end(&pool);
    assert_eq!(*LINES.lock().unwrap(), ["INFO: here".to_owned(), format!("INFO: worker 0 ({pid}): from there")]);
}

fn nothing_is_set_up_without_a_logger(method: StartMethod) {
    let threads = || std::fs::read_dir("/proc/self/task").unwrap().count();
    let before = threads();
    let pool = builder(method, 1).build().unwrap();
    assert_eq!(pool.apply((), || log::max_level() as usize).unwrap(), 0);
    assert_eq!(threads(), before + 2);
}

fn last_records_of_a_dead_worker_arrive(method: StartMethod) {
    let heard = Heard::<LogRecord>::new();
    let pool = builder(method, 1).logs(LevelFilter::Info).on_log(heard.hook()).build().unwrap();
    for (round, signal) in [Signal::SIGKILL, Signal::SIGSEGV, Signal::SIGABRT].into_iter().enumerate() {
        let died = pool.apply((signal as i32,), |signal| -> u8 {
            (0..100).for_each(|x| log::info!("{x}"));
            nix::sys::signal::raise(Signal::try_from(signal).unwrap()).unwrap();
            0
        });
        assert!(matches!(stage::error(died), TaskError::WorkerDied { .. }));
        stage::until("its records", || heard.all().len() == 100 * (round + 1));
    }
    end(&pool);
    let expected: Vec<String> = (0..3).flat_map(|_| (0..100).map(|x: u32| x.to_string())).collect();
    assert_eq!(heard.all().into_iter().map(|record| record.text).collect::<Vec<_>>(), expected);
}

fn logger_of_an_initializer_stays(method: StartMethod) {
    struct Own;
    impl log::Log for Own {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }
        fn log(&self, record: &log::Record<'_>) {
            OWN.lock().unwrap().push(record.args().to_string());
        }
        fn flush(&self) {}
    }
    static OWN: Mutex<Vec<String>> = Mutex::new(Vec::new());
    fn set_up() -> Result<(), String> {
        log::set_logger(&Own).map_err(|error| error.to_string())?;
        log::set_max_level(LevelFilter::Info);
        Ok(())
    }
    let heard = Heard::<LogRecord>::new();
    let pool = builder(method, 1).initializer((), set_up).logs(LevelFilter::Info).on_log(heard.hook()).build().unwrap();
    let own = pool.apply((), || {
        log::info!("mine");
        OWN.lock().unwrap().clone()
    });
    assert_eq!(own.unwrap(), ["mine"]);
    end(&pool);
    assert_eq!(heard.all(), []);
}

/// The hook blocks, so the sockets fill up: the items go on, and every record has come or is counted.
fn flood_is_counted_and_hurts_no_pool(method: StartMethod) {
    const RECORDS: u64 = 20_000;
    let (let_go, may_go) = mpsc::channel::<()>();
    let may_go = Mutex::new(Some(may_go));
    let heard = Heard::<LogRecord>::new();
    let keep = heard.hook();
    let hook = move |record: &LogRecord| {
        // Returns when the other end is dropped.
        if let Some(may_go) = may_go.lock().unwrap().take() {
            let _ = may_go.recv();
        }
        keep(record);
    };
    let pool = builder(method, 1).logs(LevelFilter::Info).on_log(hook).build().unwrap();
    pool.map(0..RECORDS, |x| log::info!("{x} {}", "x".repeat(100))).unwrap();
    assert!(heard.all().len() < 10);
    drop(let_go);
    // Until there is room again, so that a record tells of those that were dropped.
    let mut extra = 0;
    stage::until("all are told of", || {
        extra += 1;
        pool.apply((), || log::info!("one more")).unwrap();
        let heard = heard.all();
        let known: u64 = heard.iter().map(|record| 1 + record.dropped).sum();
        known == RECORDS + extra && heard.iter().any(|record| record.dropped > 0)
    });
    end(&pool);
}

fn hook_that_panics_or_joins_harms_nothing(method: StartMethod) {
    let pool: Arc<Mutex<Option<Arc<Pool>>>> = Arc::default();
    let (joined, inner) = (Heard::<PoolError>::new(), Arc::clone(&pool));
    let keep = joined.0.clone();
    let hook = move |_: &LogRecord| {
        let pool = inner.lock().unwrap().clone().unwrap();
        keep.lock().unwrap().push(pool.join().unwrap_err());
        panic!("a hook");
    };
    let built = Arc::new(builder(method, 1).logs(LevelFilter::Info).on_log(hook).build().unwrap());
    *pool.lock().unwrap() = Some(Arc::clone(&built));
    built.map(0..3u32, |_| log::info!("told")).unwrap();
    end(&built);
    assert!(joined.all().len() == 3 && joined.all().iter().all(|error| matches!(error, PoolError::WouldDeadlock)));
    pool.lock().unwrap().take();
}

fn junk_in_every_descriptor_harms_nothing(method: StartMethod) {
    let records = Heard::<LogRecord>::new();
    let pool = builder(method, 2).logs(LevelFilter::Info).on_log(records.hook()).on_output(|_| ()).build().unwrap();
    let results = pool.chunk_size(1).map_results(0..40u32, |x| {
        if x % 8 == 3 {
            let others = processes::descriptors(std::process::id()).into_iter().filter(|(fd, _)| *fd > 2);
            others.for_each(|(fd, _)| sys::write_anyway(fd, b"hello, is anybody there? this is no record"));
        }
        log::info!("item {x}");
        x
    });
    assert!(results.unwrap().into_iter().filter(Result::is_ok).count() >= 30);
    stage::assert_works(&pool);
    end(&pool);
    assert!(records.all().iter().all(|record| record.text.starts_with("item ")), "{:?}", records.all());
}

fn lines_arrive_by_stream(method: StartMethod) {
    let heard = Heard::<OutputLine>::new();
    let pool = builder(method, 2).on_output(heard.hook()).build().unwrap();
    let places = pool.chunk_size(1).map(0..50u32, |x| {
        use std::io::Write;
        let (mut out, mut err) = (std::io::stdout(), std::io::stderr());
        writeln!(out, "out {x}").unwrap();
        writeln!(err, "err {x}").unwrap();
        sys::print_in_c(&format!("c {x}\n"));
        let echoed = std::process::Command::new("echo").arg(format!("echo {x}")).status().unwrap();
        assert!(echoed.success());
        place()
    });
    let places = places.unwrap();
    end(&pool);
    let mut texts = Vec::new();
    for line in heard.all() {
        let (word, item) = line.text.split_once(' ').unwrap();
        let item: usize = item.parse().unwrap();
        assert_eq!((line.pid, line.worker), places[item]);
        assert_eq!(line.stream == OutputStream::Stderr, word == "err", "{line:?}");
        texts.push(line.text);
    }
    let mut expected: Vec<String> =
        (0..50).flat_map(|x| ["out", "err", "c", "echo"].map(|word| format!("{word} {x}"))).collect();
    texts.sort();
    expected.sort();
    assert_eq!(texts, expected);
}

fn last_line_of_a_dead_worker_arrives(method: StartMethod) {
    let heard = Heard::<OutputLine>::new();
    let pool = builder(method, 1).on_output(heard.hook()).build().unwrap();
    let died = pool.apply((), || -> u8 {
        nix::unistd::write(std::io::stderr(), b"first\nlast, without its end").unwrap();
        nix::sys::signal::raise(Signal::SIGKILL).unwrap();
        0
    });
    stage::error(died);
    stage::until("both lines", || heard.all().len() == 2);
    end(&pool);
    assert_eq!(heard.all().into_iter().map(|line| line.text).collect::<Vec<_>>(), ["first", "last, without its end"]);
}

fn lines_of_any_length_arrive(method: StartMethod) {
    let heard = Heard::<OutputLine>::new();
    let pool = builder(method, 1).on_output(heard.hook()).build().unwrap();
    pool.apply((), || {
        use std::io::Write;
        let mut out = std::io::stdout();
        out.write_all(&[b"x".repeat(300_000), b"\n\n\xff\nend".to_vec()].concat()).unwrap();
    })
    .unwrap();
    end(&pool);
    let lines: Vec<String> = heard.all().into_iter().map(|line| line.text).collect();
    let (long, rest) = lines.split_at(lines.len() - 3);
    assert_eq!(long.concat(), "x".repeat(300_000));
    assert_eq!(rest, ["", "\u{fffd}", "end"]);
}

fn finalizers_are_heard(method: StartMethod) {
    let (records, lines) = (Heard::<LogRecord>::new(), Heard::<OutputLine>::new());
    let pool = builder(method, 2)
        .logs(LevelFilter::Info)
        .on_log(records.hook())
        .on_output(lines.hook())
        .finalizer((), || {
            use std::io::Write;
            log::info!("leaving");
            let mut out = std::io::stdout();
            write!(out, "bye").unwrap();
        })
        .build()
        .unwrap();
    stage::until_all_work(&pool);
    end(&pool);
    assert_eq!(records.all().into_iter().map(|record| record.text).collect::<Vec<_>>(), ["leaving"; 2]);
    assert_eq!(lines.all().into_iter().map(|line| line.text).collect::<Vec<_>>(), ["bye"; 2]);
}
