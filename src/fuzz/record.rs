//! Writes the corpus: what real workers have sent and received, and some random walks.
//!
//! `cargo test --lib record_the_corpus -- --ignored`

use std::fs;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde::Serialize;
use start_methods::Boot;
use start_methods::Child;
use start_methods::Received;
use start_methods::StartMethod;

use super::values;
use crate::schedule::walk;
use crate::sys::bell::Bell;
use crate::sys::identity;
use crate::transport::control;
use crate::transport::control::Lane;
use crate::transport::control::LinkKind;
use crate::transport::control::Setup;
use crate::transport::first_call::BootCall;
use crate::transport::frame::Head;
use crate::transport::frame::Placement;
use crate::transport::frame::close_item;
use crate::transport::note::Note;
use crate::transport::outlets::Wanted;
use crate::transport::ring;
use crate::transport::ring::parent::hostile;
use crate::transport::ring::parent::hostile::Step;
use crate::transport::socket;
use crate::values::codec;
use crate::values::output::Output;
use crate::work::batch::Batch;
use crate::work::batch::Items;
use crate::work::batch::JobId;
use crate::work::batch::Span;
use crate::work::batch::Target;
use crate::work::function::FunctionId;
use crate::work::function::LocalFunction;
use crate::work::shape::Map;
use crate::work::shape::MapWith;
use crate::work::task::Fallible;
use crate::work::task::Plain;
use crate::worker;

crate::test_init!();

const F: FunctionId = FunctionId(1);

fn target(context: u64) -> Target {
    Target { function: F, context, timeout: None }
}

fn write(target: &str, name: &str, bytes: &[u8]) {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join(name), bytes).unwrap();
}

/// Polls until there is a result.
fn wait_for<T>(mut poll: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        match poll() {
            Some(result) => return result,
            None => assert!(Instant::now() < deadline, "the worker does not answer"),
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// The setup of the first worker of a pool.
fn setup(link: LinkKind, [initializer, finalizer]: [Option<BootCall>; 2]) -> Setup {
    let lane = Lane { index: 0, generation: 0 };
    Setup {
        link,
        lane,
        pool: "recorded".to_owned(),
        outlets: Wanted::NOTHING,
        processors: Vec::new(),
        initializer,
        finalizer,
        born: identity::here().worker("recorded-0".to_owned()),
    }
}

/// Starts a worker and waits for its hello.
fn start(setup: &Setup, fds: &[BorrowedFd<'_>]) -> Child {
    let payload = control::encode(setup);
    let boot = Boot::new(worker::main).name("recorded").payload(&payload).fds(fds).env("RUST_BACKTRACE", "0");
    let child = start_methods::start(StartMethod::Spawn, &boot).unwrap();
    child.wait_hello(Duration::from_secs(60)).unwrap();
    child
}

/// The next message on the worker's control socket.
fn report_of(child: &Child) -> Vec<u8> {
    let (mut buffer, mut fds) = (vec![0; 1 << 17], Vec::new());
    let Received::Message(len) = child.control().recv(&mut buffer, &mut fds).unwrap() else { panic!("it is gone") };
    buffer.truncate(len);
    buffer
}

fn definition(function: LocalFunction) -> Vec<u8> {
    [Head::define(F).as_bytes(), &control::encode(&function.definition().unwrap())].concat()
}

/// These numbers as items, encoded as in a frame.
fn numbers(numbers: &[u32]) -> Span {
    let encoded: Vec<_> = numbers.iter().map(|number| number.to_le_bytes()).collect();
    items(&encoded.iter().map(|bytes| &bytes[..]).collect::<Vec<_>>())
}

fn encoded<T: Serialize + 'static>(value: &T) -> Vec<u8> {
    let mut output = Output::default();
    codec::encode(value, &mut output).unwrap();
    output.into_bytes()
}

/// These items, encoded as in a frame.
fn items(items: &[&[u8]]) -> Span {
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    for item in items {
        let start = bytes.len();
        bytes.extend([0; 4]);
        bytes.extend_from_slice(item);
        close_item(&mut bytes, start);
        ends.push(u32::try_from(bytes.len()).unwrap());
    }
    Span::whole(Batch { job: JobId(1), target: target(0), first_index: 0, items: Items::Inline { bytes, ends } })
}

fn double(x: u32) -> u64 {
    u64::from(x) * 2
}

fn fail(x: u32) -> anyhow::Result<u32> {
    anyhow::bail!("not {x}")
}

fn panic_at(x: u32) -> u32 {
    panic!("at {x}")
}

fn large(x: u32) -> Vec<u32> {
    vec![x; 100_000]
}

fn joined(context: &String, x: u32) -> String {
    format!("{context} {x}")
}

struct PanicOnDrop;

impl Drop for PanicOnDrop {
    fn drop(&mut self) {
        panic!("in a drop");
    }
}

fn abort(x: u32) -> u32 {
    let _bomb = PanicOnDrop;
    panic!("before {x}")
}

fn refuse(reason: &str) -> anyhow::Result<()> {
    anyhow::bail!("{reason}")
}

/// A worker with a socket link: each order and each answer becomes a file, and so does each report.
fn record_frames() {
    let tasks = [
        ("context", LocalFunction::task::<MapWith<String, u32, String>, Plain>(joined)),
        ("value", LocalFunction::task::<Map<u32, u64>, Plain>(double)),
        ("failed", LocalFunction::task::<Map<u32, anyhow::Result<u32>>, Fallible>(fail)),
        ("panicked", LocalFunction::task::<Map<u32, u32>, Plain>(panic_at)),
        ("attached", LocalFunction::task::<Map<u32, Vec<u32>>, Plain>(large)),
    ];
    let end = socket::ParentEnd::new().unwrap();
    let child = start(&setup(LinkKind::Socket, [None, None]), &[end.worker_end()]);
    write("report", "ready", &report_of(&child));
    let send = |name: &str, head: &[u8], body: &[u8]| {
        write("frame", &format!("order-{name}"), &[head, body].concat());
        let _sent = end.send(head, body, &[]).unwrap();
    };
    let mut buffer = vec![0; 1 << 17];
    let mut receive = |name: &str| {
        let len = wait_for(|| end.recv(&mut buffer).unwrap());
        write("frame", &format!("answer-{name}"), &buffer[..len]);
        if name == "panicked" {
            write("report", "panic", &buffer[5..len]);
        }
    };
    let good = numbers(&[21, 42]);
    for (name, function) in tasks {
        send(&format!("define-{name}"), &definition(function), &[]);
        send(&format!("context-{name}"), Head::context(F, 7, Placement::Inline).as_bytes(), &encoded(&"abc"));
        let batch = Batch {
            job: JobId(1),
            target: target(if name == "context" { 7 } else { 0 }),
            first_index: 0,
            items: Items::Inline { bytes: Vec::new(), ends: Vec::new() },
        };
        let head = Head::run(&Span::whole(batch), 1);
        send(&format!("run-{name}"), head.as_bytes(), good.bytes().unwrap());
        receive(name);
        receive(name);
    }
    let garbled = items(&[&[0xff]]);
    send("run-garbled", Head::run(&garbled, 2).as_bytes(), garbled.bytes().unwrap());
    receive("garbled-argument");
    send("forget", Head::forget(7).as_bytes(), &[]);
    send("stop", Head::stop().as_bytes(), &[]);
    write("frame", "order-discard", Head::discard(7).as_bytes());
    write("frame", "order-context-carrying", &[Head::context(F, 7, Placement::Carrying).as_bytes(), b"\x00"].concat());
    write("frame", "order-select", Head::select(target(7)).as_bytes());
    assert!(child.wait().unwrap().success());
}

/// The last reports of a worker that aborts, and of one whose initializer fails.
fn record_ends() {
    let end = socket::ParentEnd::new().unwrap();
    let child = start(&setup(LinkKind::Socket, [None, None]), &[end.worker_end()]);
    report_of(&child);
    let span = numbers(&[1]);
    let _sent = end.send(&definition(LocalFunction::task::<Map<u32, u32>, Plain>(abort)), &[], &[]).unwrap();
    let _sent = end.send(Head::run(&span, 1).as_bytes(), span.bytes().unwrap(), &[]).unwrap();
    write("report", "last-words", &report_of(&child));
    child.wait().unwrap();

    let definition = LocalFunction::initializer::<(&'static str,), anyhow::Result<()>>(refuse).definition().unwrap();
    let hook = BootCall { definition, args: Some(encoded(&("no",))) };
    let end = socket::ParentEnd::new().unwrap();
    let child = start(&setup(LinkKind::Socket, [Some(hook.clone()), None]), &[end.worker_end()]);
    write("report", "initializer-failed", &report_of(&child));
    child.wait().unwrap();

    let end = socket::ParentEnd::new().unwrap();
    let child = start(&setup(LinkKind::Socket, [None, Some(hook)]), &[end.worker_end()]);
    report_of(&child);
    let _sent = end.send(Head::stop().as_bytes(), &[], &[]).unwrap();
    write("report", "finalizing", &report_of(&child));
    write("report", "finalizer-failed", &report_of(&child));
    child.wait().unwrap();
}

/// A worker with a ring link: the answers that it leaves in the ring.
fn record_rings() {
    let tasks = [
        ("values", LocalFunction::task::<Map<u32, u64>, Plain>(double)),
        ("failures", LocalFunction::task::<Map<u32, anyhow::Result<u32>>, Fallible>(fail)),
        ("panics", LocalFunction::task::<Map<u32, u32>, Plain>(panic_at)),
        ("attached", LocalFunction::task::<Map<u32, Vec<u32>>, Plain>(large)),
    ];
    for (name, function) in tasks {
        let (mut end, memory) = ring::parent::ParentEnd::new().unwrap();
        let bell = Bell::new().unwrap();
        let child = start(&setup(LinkKind::Ring, [None, None]), &[memory.as_fd(), bell.as_fd()]);
        report_of(&child);
        end.send_note(Note { frame: definition(function), attached: None }, None);
        let span = numbers(&[1, 2, 3]);
        assert_eq!(end.send_items(&span), span.len());
        let answers = wait_for(|| hostile::answers_in(&end, 3 + 2));
        write("arrivals", name, &[&[2, 2][..], &answers].concat());
        if name == "attached" {
            write("report", "attachment", &report_of(&child));
        }
        end.send_note(Note { frame: Head::stop().as_bytes().to_vec(), attached: None }, None);
        assert!(child.wait().unwrap().success());
    }
}

/// Some walks, drawn as in the random tests.
fn record_walks() {
    let mut runner = TestRunner::deterministic();
    let step = || prop_oneof![6 => hostile::honest_step(), 1 => hostile::misdeed().prop_map(Step::Misdeed)];
    for number in 0..6 {
        let honest = vec(hostile::honest_step(), 10..40).new_tree(&mut runner).unwrap().current();
        write("rings", &format!("honest-{number}"), &steps(&honest));
        let hostile = vec(step(), 10..40).new_tree(&mut runner).unwrap().current();
        write("rings", &format!("hostile-{number}"), &steps(&hostile));
        let events = vec(walk::event(), 30..80).new_tree(&mut runner).unwrap().current();
        write("session", &format!("walk-{number}"), &[&[number, number, number][..], &steps(&events)].concat());
    }
}

fn steps<T: Serialize>(steps: &[T]) -> Vec<u8> {
    steps.iter().flat_map(control::encode).collect()
}

fn record_values() {
    for (name, which, bytes) in values::samples() {
        write("value", name, &[&[which][..], &bytes].concat());
        write("describing", name, &bytes);
    }
    // Every level claims that there are many more.
    let deep = [10, 200, 0, 0, 0].repeat(3000);
    write("value", "deep", &[&[1][..], &deep].concat());
    write("describing", "deep", &deep);
}

/// Files as a worker of this crate sends them, and as it never does.
fn record_blobs() {
    const SEALED: u8 = 0b1111;
    let blobs: [(&str, [u8; 4]); 10] = [
        ("small", [0, SEALED, 0, 3]),
        ("large", [0, SEALED, 0, 200]),
        ("unsealed", [0, 0, 0, 200]),
        ("shorter", [0, 0, 1, 200]),
        ("shorter-then-sealed", [0, 0, 1 | 16, 200]),
        ("longer-then-sealed", [0, 0, 2 | 16, 200]),
        ("hole", [4, SEALED, 0, 200]),
        ("far", [8, SEALED, 0, 200]),
        ("lent", [64, 0, 0, 200]),
        ("without-end", [32, 0, 0, 200]),
    ];
    for (name, head) in blobs {
        write("blob", name, &[&head[..], b"content"].concat());
    }
}

#[test]
#[ignore = "writes into fuzz/corpus"]
fn record_the_corpus() {
    record_values();
    record_blobs();
    record_walks();
    record_frames();
    record_ends();
    record_rings();
}
