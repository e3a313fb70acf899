//! Tests of the harness itself: misbehaving cases, and the message that each must fail with.
//!
//! Each case here starts a second warden on a misdeed, which is not listed as a trial.

use std::fs::File;
use std::process::Command;
use std::process::Stdio;
use std::thread;

use procpool::StartMethod;

use crate::harness;
use crate::harness::Case;
use crate::harness::cases;
use crate::harness::sys;

cases![
    a_case_that_does_well_passes,
    a_panic_is_a_failure,
    an_early_exit_is_a_failure,
    a_hang_is_a_failure_with_a_dump,
    a_leaked_descriptor_is_a_failure,
    a_closed_descriptor_is_a_failure,
    a_leaked_thread_is_a_failure,
    a_leaked_child_is_a_failure,
    a_leaked_mapping_is_a_failure,
    a_stray_grandchild_is_a_failure,
];

/// The misbehaving cases that the cases above run under a warden.
pub(crate) const MISDEEDS: &[(&str, Case)] = &[
    ("none", |_| {}),
    ("panic", |_| panic!("a case that panics")),
    ("exit", |_| std::process::exit(0)),
    ("hang", |_| thread::park()),
    ("open", |_| std::mem::forget(File::open("/dev/full").unwrap())),
    ("close", |_| sys::close_stdin()),
    ("thread", |_| std::mem::forget(thread::spawn(thread::park))),
    ("child", |_| drop(Command::new("true").spawn().unwrap())),
    ("mapping", |_| sys::leak_shared_mapping()),
    ("stray", |_| {
        let status = Command::new("sh").args(["-c", "sleep 1000 >/dev/null 2>&1 &"]).status();
        assert!(status.unwrap().success());
    }),
];

/// Runs a misdeed under a warden. Returns whether it passed, and everything that was written.
fn judged(misdeed: &str, method: StartMethod) -> (bool, String) {
    let name = format!("misdeeds::{misdeed}::{method}");
    let mut warden = harness::again("warden", &name);
    let output = warden.env(harness::DEADLINE, "3").stdin(Stdio::null()).output().unwrap();
    (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
}

#[track_caller]
fn assert_caught(misdeed: &str, method: StartMethod, words: &[&str]) {
    let (passed, output) = judged(misdeed, method);
    assert!(!passed, "it passed");
    for word in words {
        assert!(output.contains(word), "no {word:?} in:\n{output}");
    }
}

fn a_case_that_does_well_passes(method: StartMethod) {
    assert_eq!(judged("none", method), (true, String::new()));
}

fn a_panic_is_a_failure(method: StartMethod) {
    assert_caught("panic", method, &["a case that panics", "the case failed"]);
}

fn an_early_exit_is_a_failure(method: StartMethod) {
    assert_caught("exit", method, &["the case failed: exit status: 0"]);
}

fn a_hang_is_a_failure_with_a_dump(method: StartMethod) {
    assert_caught("hang", method, &["not done within 3s; killed", "-- pid ", "descriptors ", "thread "]);
}

fn a_leaked_descriptor_is_a_failure(method: StartMethod) {
    assert_caught("open", method, &["the case left traces", "is left: /dev/full"]);
}

fn a_closed_descriptor_is_a_failure(method: StartMethod) {
    assert_caught("close", method, &["descriptor 0 is gone: /dev/null"]);
}

fn a_leaked_thread_is_a_failure(method: StartMethod) {
    assert_caught("thread", method, &["2 threads, but there were 1"]);
}

fn a_leaked_child_is_a_failure(method: StartMethod) {
    assert_caught("child", method, &["a child is left"]);
}

fn a_leaked_mapping_is_a_failure(method: StartMethod) {
    assert_caught("mapping", method, &["1 mappings of ", "but there were 0"]);
}

fn a_stray_grandchild_is_a_failure(method: StartMethod) {
    assert_caught("stray", method, &["1 processes outlived the case", "(sleep)"]);
}
