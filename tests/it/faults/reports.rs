//! What an error says: which item of which call it belongs to, each cause once, and where in the task it happened.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::Signal;
use procpool::Panic;
use procpool::Pool;
use procpool::PoolError;
use procpool::Side;
use procpool::StartError;
use procpool::StartMethod;
use procpool::TaskError;
use serde::Deserialize;
use serde::Serialize;

use crate::harness::cases;
use crate::harness::stage;
use crate::harness::sys;

cases![
    each_cause_is_told_once,
    error_names_its_item_and_its_call,
    death_is_told_in_words,
    backtrace_has_the_frames_of_the_task,
    backtrace_has_all_frames_on_demand,
    value_that_panics_says_where,
];

/// As a log and as a program that ends with an error print it, with an error behind it that has causes of its own.
fn each_cause_is_told_once(method: StartMethod) {
    let word = "xyzzy";
    let pool = stage::pool(method, 1);
    let failed = stage::error(pool.apply((word.to_owned(),), |word| -> anyhow::Result<u8> {
        Err(anyhow::anyhow!(word)).context("the outer cause")
    }));
    let broken = Pool::builder().processes(1).start_method(method).initializer((), || Err("xyzzy")).build();
    let broken = stage::error(broken.unwrap().apply((), || 1u8));
    let start = PoolError::Start(StartError::Refused { reason: word.to_owned() });
    let errors: [anyhow::Error; 4] =
        [failed.into(), broken.into(), start.clone().into(), TaskError::from(start).into()];
    for error in errors {
        for text in [format!("{error}"), format!("{error:#}"), format!("{error:?}")] {
            assert_eq!(text.matches(word).count(), 1, "{text}");
        }
    }
}

fn error_names_its_item_and_its_call(method: StartMethod) {
    fn place(error: &TaskError) -> (Option<usize>, Option<String>) {
        let origin = error.origin().expect("an error of one item");
        (origin.index(), origin.label().map(ToOwned::to_owned))
    }
    let misdeed = |x: u32| -> anyhow::Result<String> {
        match x {
            30 => anyhow::bail!("returned"),
            31 => panic!("panicked"),
            32 => std::process::abort(),
            33 => loop {
                std::hint::spin_loop();
            },
            x => Ok("o".repeat(if x == 34 { 100_000 } else { 1 })),
        }
    };
    let pool = stage::pool(method, 2);
    let label = "misdeeds".to_owned();
    let call = pool.label(&label).timeout(Duration::from_millis(300));
    for (index, result) in call.map_results(0..40, misdeed).unwrap().into_iter().enumerate() {
        match result {
            Ok(_) => assert!(!(30..34).contains(&index)),
            Err(error) => {
                assert!((30..34).contains(&index), "{error}");
                assert_eq!(place(&error), (Some(index), Some(label.clone())));
                assert!(error.to_string().starts_with(&format!("item {index} of \"misdeeds\": ")), "{error}");
            }
        }
    }
    assert_eq!(place(&stage::error(pool.map([1, 2, 31], misdeed))), (Some(2), None));
    assert_eq!(place(&stage::error(call.map_async([1, 31], misdeed).get())), (Some(1), Some(label.clone())));
    let yielded: Vec<_> = call.imap_unordered([1, 30, 1, 31], misdeed).filter_map(Result::err).collect();
    let indices: BTreeSet<_> = yielded.iter().map(|error| place(error).0).collect();
    assert_eq!(indices, BTreeSet::from([Some(1), Some(3)]));
    // One item has no index to tell.
    let alone = stage::error(pool.apply((30,), misdeed));
    assert_eq!((place(&alone), alone.to_string().as_str()), ((None, None), "task failed: returned"));
    let alone = stage::error(pool.with(&1u8).label("alone").apply_async((), |_| -> u8 { panic!("with it") }).get());
    assert_eq!(place(&alone), (None, Some("alone".to_owned())));
    assert!(alone.to_string().starts_with("\"alone\": panic in worker"), "{alone}");
}

fn death_is_told_in_words(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let segv = stage::error(pool.apply((), || -> u8 { sys::die_of(Signal::SIGSEGV) }));
    let text = segv.to_string();
    assert!(text.contains("killed by SIGSEGV, core "), "{text}");
    let kill = stage::error(pool.apply((), || -> u8 { sys::die_of(Signal::SIGKILL) }));
    assert!(kill.to_string().contains("killed by SIGKILL (by the OOM killer"), "{kill}");
    let exit = stage::error(pool.apply((), || -> u8 { std::process::exit(7) })).to_string();
    assert!(exit.ends_with("died while it ran this item: exited with code 7"), "{exit}");
}

fn innermost(x: u32) -> u32 {
    assert!(x > 7, "too small");
    x
}

fn panic_with_backtrace(method: StartMethod, setting: &str) -> Panic {
    sys::set_env("RUST_BACKTRACE", setting);
    let pool = stage::pool(method, 1);
    match pool.apply((1u32,), |x| innermost(x) + 1) {
        Err(TaskError::Panicked(panic)) => panic,
        other => panic!("not a panic: {other:?}"),
    }
}

fn backtrace_has_the_frames_of_the_task(method: StartMethod) {
    let backtrace = panic_with_backtrace(method, "1").backtrace.expect("RUST_BACKTRACE asks for one");
    let frames: Vec<&str> = backtrace.lines().filter(|line| line.contains(": ") && !line.contains("note: ")).collect();
    assert!(frames[0].starts_with("   0: ") && frames[0].contains("reports::innermost"), "{backtrace}");
    assert!(frames[1].contains("reports::panic_with_backtrace"), "{backtrace}");
    assert_eq!(frames.len(), 2, "{backtrace}");
    assert!(backtrace.contains("RUST_BACKTRACE=full"), "{backtrace}");
}

fn backtrace_has_all_frames_on_demand(method: StartMethod) {
    let backtrace = panic_with_backtrace(method, "full").backtrace.expect("RUST_BACKTRACE asks for one");
    for frame in ["std::panicking", "reports::innermost", "procpool::worker", "main"] {
        assert!(backtrace.contains(frame), "no {frame} in:\n{backtrace}");
    }
}

/// It can be written, and not be read.
#[derive(Debug)]
struct Fragile;

impl Serialize for Fragile {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(1)
    }
}

impl<'de> Deserialize<'de> for Fragile {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        panic!("dropped it")
    }
}

/// A result is decoded here, an argument in the worker: the same error, wherever the value panics.
fn value_that_panics_says_where(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let pids = pool.pids();
    let argument = stage::error(pool.map([Fragile], |_| 1u8));
    assert!(matches!(argument, TaskError::Decode { side: Side::Argument, .. }), "{argument:?}");
    assert!(argument.to_string().contains("panic in Deserialize: dropped it, at "), "{argument}");
    assert!(argument.to_string().contains("reports.rs:"), "{argument}");
    let result = stage::error(pool.map([1u8], |_| Fragile));
    assert!(matches!(result, TaskError::Decode { side: Side::Result, .. }), "{result:?}");
    assert!(result.to_string().contains("panic in Deserialize: dropped it"), "{result}");
    stage::assert_works(&pool);
    assert_eq!(pool.pids(), pids);
}
