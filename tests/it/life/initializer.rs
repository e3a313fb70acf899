//! The initializer: once in each worker before its first task; one that always fails breaks the pool with its error.

use std::collections::BTreeSet;
use std::sync::OnceLock;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

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
    arguments_of_every_length_arrive,
    runs_once_in_each_worker_before_its_tasks,
    takes_no_arguments,
    takes_arguments_of_several_kinds,
    may_return_a_result,
    failure_breaks_the_pool_with_its_message,
    one_that_never_returns_breaks_the_pool_after_its_limit,
    one_that_never_returns_once_is_replaced,
    panic_breaks_the_pool_with_its_message,
    long_messages_break_the_pool_like_short_ones,
    exit_breaks_the_pool_with_its_status,
    every_handle_of_a_broken_pool_resolves,
    failing_twice_is_forgiven,
    failing_later_breaks_the_pool,
    terminate_while_it_runs,
];

/// Set by initializers, in the worker only.
static SETTING: AtomicU32 = AtomicU32::new(0);

fn builder(method: StartMethod, processes: usize) -> PoolBuilder {
    Pool::builder().processes(processes).start_method(method)
}

fn runs_once_in_each_worker_before_its_tasks(method: StartMethod) {
    let book = Notebook::new();
    let pool = builder(method, 3)
        .initializer((book.path(), 7u32), |book, setting| {
            SETTING.fetch_add(setting, Ordering::SeqCst);
            stage::note(&book, std::process::id());
        })
        .build()
        .unwrap();
    let seen = pool.map(0..300u32, |_| (std::process::id(), SETTING.load(Ordering::SeqCst))).unwrap();
    assert!(seen.iter().all(|(_, setting)| *setting == 7));
    assert_eq!(SETTING.load(Ordering::SeqCst), 0, "it ran in this process");
    let initialized = book.wait_for(3);
    let distinct: BTreeSet<&String> = initialized.iter().collect();
    assert_eq!((initialized.len(), distinct.len()), (3, 3));
    assert!(seen.iter().all(|(pid, _)| distinct.contains(&pid.to_string())));
}

fn takes_no_arguments(method: StartMethod) {
    fn set() {
        SETTING.store(9, Ordering::SeqCst);
    }
    let pool = builder(method, 1).initializer((), set).build().unwrap();
    assert_eq!(pool.apply((), || SETTING.load(Ordering::SeqCst)).unwrap(), 9);
    let pool = builder(method, 1).initializer((), || Err("no setting")).build().unwrap();
    assert!(matches!(broken_by(&pool), PoolError::Initializer { message } if message == "no setting"));
}

fn takes_arguments_of_several_kinds(method: StartMethod) {
    fn open(name: &'static str, size: u32, tags: Vec<String>) {
        let length = u32::try_from(name.len() + tags.concat().len()).unwrap();
        SETTING.store(size + length, Ordering::SeqCst);
    }
    let tags = vec!["ab".to_owned(), "c".to_owned()];
    let pool = builder(method, 1).initializer(("db.sqlite", 100u32, tags), open).build().unwrap();
    assert_eq!(pool.apply((0u8,), |_| SETTING.load(Ordering::SeqCst)).unwrap(), 112);
}

fn may_return_a_result(method: StartMethod) {
    let pool = builder(method, 1)
        .initializer((5u32,), |setting| -> Result<(), String> {
            SETTING.store(setting, Ordering::SeqCst);
            Ok(())
        })
        .build()
        .unwrap();
    assert_eq!(pool.apply((0u8,), |_| SETTING.load(Ordering::SeqCst)).unwrap(), 5);
    let pool = builder(method, 1).initializer((6u32,), |_| -> anyhow::Result<()> { Ok(()) }).build().unwrap();
    stage::assert_works(&pool);
}

/// The last failure, from the error of a call on the broken pool.
fn broken_by(pool: &Pool) -> PoolError {
    match pool.apply((1u8,), |x| x) {
        Err(TaskError::Refused(PoolError::Broken { failures, last })) => {
            assert!(failures >= 3, "given up after {failures}");
            *last
        }
        other => panic!("not broken: {other:?}"),
    }
}

fn failure_breaks_the_pool_with_its_message(method: StartMethod) {
    let pool = builder(method, 2)
        .initializer(("db.sqlite",), |name: &'static str| -> anyhow::Result<()> {
            Err(anyhow::anyhow!("no such file").context(format!("cannot open {name}")))
        })
        .build()
        .unwrap();
    let last = broken_by(&pool);
    let PoolError::Initializer { message } = &last else { panic!("{last:?}") };
    assert!(message.contains("cannot open db.sqlite"), "{message}");
    pool.close();
    assert!(matches!(pool.join(), Err(PoolError::Broken { .. })));
}

fn panic_breaks_the_pool_with_its_message(method: StartMethod) {
    fn panics(_: u8) {
        panic!("not in the mood");
    }
    let pool = builder(method, 2).initializer((1u8,), panics).build().unwrap();
    let last = broken_by(&pool);
    let PoolError::Initializer { message } = &last else { panic!("{last:?}") };
    assert!(message.contains("not in the mood"), "{message}");
    pool.terminate();
    assert!(matches!(pool.join(), Err(PoolError::Broken { .. })));
}

fn long_messages_break_the_pool_like_short_ones(method: StartMethod) {
    fn fails(word: String) -> Result<(), String> {
        Err(format!("failed: {}", word.repeat(350_000)))
    }
    fn panics(word: String) {
        panic!("failed: {}", word.repeat(350_000))
    }
    let word = || ("長".to_owned(),);
    for builder in [builder(method, 2).initializer(word(), fails), builder(method, 2).initializer(word(), panics)] {
        let last = broken_by(&builder.build().unwrap());
        let PoolError::Initializer { message } = &last else { panic!("{last:?}") };
        assert!(message.contains("failed: 長長長"), "{message:.60}");
    }
}

fn exit_breaks_the_pool_with_its_status(method: StartMethod) {
    fn exits(code: i32) {
        std::process::exit(code);
    }
    let pool = builder(method, 2).initializer((44,), exits).build().unwrap();
    let last = broken_by(&pool);
    let PoolError::DiedStarting { status: Some(status), pid } = &last else { panic!("{last:?}") };
    assert_eq!(status.code(), Some(44));
    assert!(*pid > 0);
}

fn every_handle_of_a_broken_pool_resolves(method: StartMethod) {
    let mut gate = Gate::closed();
    let pool = builder(method, 2)
        .initializer((gate.path(),), |gate| -> Result<(), String> {
            stage::pass(&gate);
            Err("after all".to_owned())
        })
        .build()
        .unwrap();
    let one = pool.apply_async((1u8,), |x| x);
    let many = pool.map_async(0..10_000u32, |x| x);
    let mut results = pool.imap(0u64.., |x| x);
    assert!(results.next_timeout(std::time::Duration::ZERO).is_err());
    assert!(!one.ready() && !many.ready());
    gate.open();
    assert!(matches!(one.get(), Err(TaskError::Refused(PoolError::Broken { .. }))));
    assert!(matches!(many.get(), Err(TaskError::Refused(PoolError::Broken { .. }))));
    let results: Vec<_> = results.collect();
    assert!(!results.is_empty());
    for result in results {
        assert!(matches!(&result, Err(TaskError::Refused(PoolError::Broken { .. }))), "{result:?}");
    }
    broken_by(&pool);
    pool.close();
    assert!(matches!(pool.join(), Err(PoolError::Broken { .. })));
}

fn failing_twice_is_forgiven(method: StartMethod) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display().to_string();
    let pool = builder(method, 1)
        .initializer((path,), |folder| -> Result<(), &'static str> {
            let failed = (0..2).any(|attempt| stage::first_to_claim(&format!("{folder}/{attempt}")));
            if failed { Err("one of the first two") } else { Ok(()) }
        })
        .build()
        .unwrap();
    stage::assert_works(&pool);
}

/// The first worker starts; its replacements fail.
fn failing_later_breaks_the_pool(method: StartMethod) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().display().to_string();
    let pool = builder(method, 1)
        .initializer((path,), |folder| -> Result<(), String> {
            if stage::first_to_claim(&format!("{folder}/first")) { Ok(()) } else { Err("not the first".to_owned()) }
        })
        .build()
        .unwrap();
    stage::assert_works(&pool);
    let died = pool.apply((1u8,), |_| -> u8 { std::process::exit(1) });
    assert!(matches!(&died, Err(TaskError::WorkerDied { .. })), "{died:?}");
    assert!(matches!(broken_by(&pool), PoolError::Initializer { message } if message.contains("not the first")));
}

fn terminate_while_it_runs(method: StartMethod) {
    let (book, gate) = (Notebook::new(), Gate::closed());
    let pool = builder(method, 2)
        .initializer((book.path(), gate.path()), |book, gate| {
            stage::note(&book, std::process::id());
            stage::pass(&gate);
        })
        .build()
        .unwrap();
    let handle = pool.apply_async((1u8,), |x| x);
    book.wait_for(2);
    pool.terminate();
    assert!(matches!(handle.get(), Err(TaskError::Terminated)));
    pool.join().unwrap();
}

fn one_that_never_returns_breaks_the_pool_after_its_limit(method: StartMethod) {
    fn waits(_: u8) {
        loop {
            std::thread::park();
        }
    }
    let limit = std::time::Duration::from_millis(50);
    let pool = builder(method, 1).initializer((1u8,), waits).initializer_timeout(limit).build().unwrap();
    let last = broken_by(&pool);
    assert!(matches!(last, PoolError::InitializerTimeout { timeout, .. } if timeout == limit), "{last:?}");
    pool.terminate();
    assert!(matches!(pool.join(), Err(PoolError::Broken { .. })));
}

fn one_that_never_returns_once_is_replaced(method: StartMethod) {
    fn waits_once(book: String) {
        stage::note(&book, std::process::id());
        while stage::lines_of(&book).len() == 1 {
            std::thread::park_timeout(std::time::Duration::from_secs(3600));
        }
    }
    let book = Notebook::new();
    let limit = std::time::Duration::from_secs(1);
    let pool = builder(method, 1).initializer((book.path(),), waits_once).initializer_timeout(limit).build().unwrap();
    stage::assert_works(&pool);
    assert!(book.lines().len() >= 2);
}

static RECEIVED: OnceLock<usize> = OnceLock::new();

fn arguments_of_every_length_arrive(method: StartMethod) {
    for len in [0, 1, 15 << 10, 17 << 10, 59 << 10, 61 << 10, 1 << 20] {
        let keep = |text: String| RECEIVED.set(text.len()).map_err(|_| "twice");
        let builder = Pool::builder().processes(1).start_method(method).initializer(("x".repeat(len),), keep);
        let pool = builder.build().unwrap();
        assert_eq!(pool.apply((), || RECEIVED.get().copied()).unwrap(), Some(len));
    }
}
