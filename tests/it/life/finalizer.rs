//! The finalizer: once in each worker that is told to leave, with a time limit; and what workers print before they leave.

use std::collections::BTreeSet;
use std::fs;
use std::io::Write;
use std::time::Duration;

use procpool::Pool;
use procpool::PoolBuilder;
use procpool::PoolError;
use procpool::StartMethod;

use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::harness::stage::Notebook;
use crate::harness::sys;
use crate::harness::warnings;

cases![
    runs_once_in_each_worker_at_the_close,
    runs_in_workers_that_are_replaced,
    runs_in_workers_that_leave_a_smaller_pool,
    takes_arguments_of_every_size,
    does_not_run_in_workers_that_are_killed,
    its_errors_are_logged,
    one_that_never_returns_is_ended,
    settings_that_make_no_sense_are_refused,
    what_is_printed_is_not_lost,
];

fn builder(method: StartMethod, processes: usize) -> PoolBuilder {
    Pool::builder().processes(processes).start_method(method)
}

fn note_pid(book: String) {
    stage::note(&book, std::process::id());
}

fn end(pool: &Pool) {
    pool.close();
    pool.join().unwrap();
}

/// The process ids that the finalizers have noted.
fn noted(book: &Notebook) -> BTreeSet<u32> {
    let lines = book.lines();
    let pids: BTreeSet<u32> = lines.iter().map(|line| line.parse().unwrap()).collect();
    assert_eq!(lines.len(), pids.len(), "twice in one worker: {lines:?}");
    pids
}

fn runs_once_in_each_worker_at_the_close(method: StartMethod) {
    let book = Notebook::new();
    let pool = builder(method, 3).finalizer((book.path(),), note_pid).build().unwrap();
    stage::until_all_work(&pool);
    let pids: BTreeSet<u32> = pool.pids().into_iter().collect();
    assert_eq!(book.lines().len(), 0);
    end(&pool);
    assert_eq!(noted(&book), pids);
}

fn runs_in_workers_that_are_replaced(method: StartMethod) {
    let book = Notebook::new();
    let pool = builder(method, 2).max_tasks_per_child(2).finalizer((book.path(),), note_pid).build().unwrap();
    let pids: BTreeSet<u32> = pool.map(0..20u32, |_| std::process::id()).unwrap().into_iter().collect();
    assert!(pids.len() >= 10, "{pids:?}");
    end(&pool);
    let noted = noted(&book);
    assert!(noted.is_superset(&pids), "{pids:?} ran items, {noted:?} finalizers");
}

fn runs_in_workers_that_leave_a_smaller_pool(method: StartMethod) {
    let book = Notebook::new();
    let pool = builder(method, 3).finalizer((book.path(),), note_pid).build().unwrap();
    stage::until_all_work(&pool);
    let before: BTreeSet<u32> = pool.pids().into_iter().collect();
    pool.resize(1).unwrap();
    book.wait_for(2);
    let stays = stage::until_complete(&pool);
    assert!(noted(&book).is_subset(&before) && !noted(&book).contains(&stays[0]));
    stage::assert_works(&pool);
}

fn takes_arguments_of_every_size(method: StartMethod) {
    fn note_sum(book: &'static str, bytes: Vec<u8>) {
        stage::note(book, bytes.iter().map(|&byte| u64::from(byte)).sum::<u64>());
    }
    for size in [0, 10_000, 100_000, 3_000_000] {
        let book = Notebook::new();
        let bytes = vec![1u8; size];
        let pool = builder(method, 1)
            .initializer((book.path(), bytes.clone()), |book, bytes: Vec<u8>| stage::note(&book, bytes.len()))
            .finalizer((&*book.path().leak(), bytes), note_sum)
            .build()
            .unwrap();
        stage::assert_works(&pool);
        end(&pool);
        assert_eq!(book.lines(), [size.to_string(), size.to_string()]);
    }
}

fn does_not_run_in_workers_that_are_killed(method: StartMethod) {
    let book = Notebook::new();
    let pool = builder(method, 1).finalizer((book.path(),), note_pid).build().unwrap();
    stage::error(pool.apply((), || -> u8 { std::process::abort() }));
    let slow = |_: u8| stage::doze(60_000);
    stage::error(pool.timeout(Duration::from_millis(20)).apply((0,), slow));
    stage::assert_works(&pool);
    pool.terminate();
    pool.join().unwrap();
    assert_eq!(book.lines().len(), 0);
}

fn its_errors_are_logged(method: StartMethod) {
    warnings::collect();
    for (index, text) in ["no room", "a panic", "x".repeat(100_000).as_str()].into_iter().enumerate() {
        let fail = |text: String| -> Result<(), String> {
            assert!(text != "a panic", "a panic");
            Err(text)
        };
        let pool = builder(method, 1).finalizer((text.to_owned(),), fail).build().unwrap();
        let pid = pool.apply((), std::process::id).unwrap();
        end(&pool);
        let expected = format!("the finalizer of worker {pid} failed: ");
        let told = warnings::lines().split_off(index);
        assert!(told.len() == 1 && told[0].starts_with(&expected), "{told:?}");
        assert!(told[0].contains(&text[..7]) && told[0].len() < 5000, "{told:?}");
    }
}

fn sleep_for_ever() {
    loop {
        std::thread::park();
    }
}

fn one_that_never_returns_is_ended(method: StartMethod) {
    warnings::collect();
    let pool =
        builder(method, 2).finalizer((), sleep_for_ever).finalizer_timeout(Duration::from_millis(50)).build().unwrap();
    stage::until_all_work(&pool);
    let pids = pool.pids();
    end(&pool);
    assert!(pids.iter().all(|&pid| processes::ended(pid)));
    let told = warnings::lines();
    for pid in pids {
        let expected = format!("worker {pid} was killed: its finalizer ran for longer than 50ms");
        assert!(told.contains(&expected), "{told:?}");
    }
}

fn settings_that_make_no_sense_are_refused(method: StartMethod) {
    struct Unserializable;
    impl serde::Serialize for Unserializable {
        fn serialize<S: serde::Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("never"))
        }
    }
    impl<'de> serde::Deserialize<'de> for Unserializable {
        fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
            Err(serde::de::Error::custom("never"))
        }
    }
    let refused = builder(method, 1).finalizer((Unserializable,), drop).build();
    assert!(matches!(&refused, Err(PoolError::Finalizer { message }) if message.contains("never")), "{refused:?}");
    let refused = builder(method, 1).finalizer_timeout(Duration::ZERO).build();
    assert!(matches!(refused, Err(PoolError::ZeroLimit { option: "finalizer_timeout" })), "{refused:?}");
}

fn what_is_printed_is_not_lost(method: StartMethod) {
    let book = Notebook::new();
    let file = fs::OpenOptions::new().append(true).create(true).open(book.path()).unwrap();
    let saved = nix::unistd::dup(std::io::stdout()).unwrap();
    nix::unistd::dup2_stdout(&file).unwrap();
    drop(file);
    sys::print_in_c("C in the parent;");
    let pool = builder(method, 2).max_tasks_per_child(3).build().unwrap();
    let print = |number: u32| {
        // No newline: both stay in their buffers.
        std::io::stdout().write_all(format!("Rust {number};").as_bytes()).unwrap();
        sys::print_in_c(&format!("C {number};"));
    };
    pool.chunk_size(1).map(0..10, print).unwrap();
    end(&pool);
    sys::print_in_c("\n");
    sys::flush_c();
    nix::unistd::dup2_stdout(&saved).unwrap();
    let printed = book.lines().concat();
    let expected = (0..10).flat_map(|number| [format!("Rust {number};"), format!("C {number};")]);
    for text in expected.chain(["C in the parent;".to_owned()]) {
        assert_eq!(printed.matches(&text).count(), 1, "{text:?} in {printed:?}");
    }
}
