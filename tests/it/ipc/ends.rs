//! The end of a pipe whose other end travelled is seen as soon as the task that had it is done, however that came about.

use std::time::Duration;

use nix::sys::signal::Signal;
use procpool::Fd;
use procpool::StartMethod;
use procpool::TaskError;
use serde::Deserialize;
use serde::Serialize;

use crate::harness::cases;
use crate::harness::stage;
use crate::harness::stage::Notebook;
use crate::ipc::Reader;
use crate::ipc::Writer;
use crate::ipc::clones;
use crate::ipc::pipe;
use crate::ipc::read_to_end;
use crate::ipc::say;

cases![
    seen_after_the_answer,
    seen_after_an_error,
    seen_after_cancel_and_timeout,
    seen_after_terminate,
    seen_after_a_recall,
    seen_after_a_cancel_of_what_has_not_begun,
    reader_is_not_held_up_by_what_waits_behind_it,
    others_do_not_overtake_it_for_ever,
];

fn seen_after_the_answer(method: StartMethod) {
    let pool = stage::pool(method, 2);
    for _ in 0..50 {
        let (reader, writer) = pipe();
        let handle = pool.apply_async((writer,), |writer: Writer| say(&writer, "x"));
        // The handle lives on: it keeps the result, not the argument.
        assert_eq!(read_to_end(reader), "x");
        handle.get().unwrap();
    }
}

fn seen_after_an_error(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let dies: fn(Writer) = |_| std::process::abort();
    let panics: fn(Writer) = |_| panic!("as planned");
    for task in [dies, panics] {
        let (reader, writer) = pipe();
        let handle = pool.apply_async((writer,), task);
        assert_eq!(read_to_end(reader), "");
        handle.get().unwrap_err();
    }
    let (reader, writer) = pipe();
    let handle = pool.apply_async((writer,), |_: Writer| -> anyhow::Result<()> { anyhow::bail!("as planned") });
    assert_eq!(read_to_end(reader), "");
    handle.get().unwrap_err();
}

fn forever(_: Writer) {
    loop {
        stage::doze(10);
    }
}

fn seen_after_cancel_and_timeout(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (reader, writer) = pipe();
    let (queued_reader, queued_writer) = pipe();
    let running = pool.apply_async((writer,), forever);
    let queued = pool.apply_async((queued_writer,), forever);
    assert!(queued.cancel());
    assert_eq!(read_to_end(queued_reader), "");
    assert!(running.cancel());
    assert_eq!(read_to_end(reader), "");
    let (reader, writer) = pipe();
    let timed = pool.timeout(Duration::from_millis(50)).apply_async((writer,), forever);
    assert_eq!(read_to_end(reader), "");
    assert!(matches!(timed.get(), Err(TaskError::TimedOut { .. })));
}

fn seen_after_terminate(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let pipes: Vec<_> = (0..12).map(|_| pipe()).collect();
    let (readers, writers): (Vec<_>, Vec<_>) = pipes.into_iter().unzip();
    let handles: Vec<_> = writers.into_iter().map(|writer| pool.apply_async((writer,), forever)).collect();
    pool.terminate();
    for (reader, handle) in readers.into_iter().zip(handles) {
        assert_eq!(read_to_end(reader), "");
        assert!(matches!(handle.get(), Err(TaskError::Terminated)));
    }
}

/// Says something, when so many tasks are here that take notes.
fn speak(writer: Writer, path: String, count: usize) {
    stage::note(&path, "here");
    stage::until("the others", || stage::lines_of(&path).len() >= count);
    say(&writer, "x");
}

/// Stops a process, and waits until it is, or has ended.
fn stop(pid: u32) {
    stage::signal_if_there(pid, Signal::SIGSTOP);
    let status = format!("/proc/{pid}/status");
    stage::until("the stop", || std::fs::read_to_string(&status).map_or(true, |status| status.contains("State:\tT")));
}

/// An idle worker that is stopped is sent the item, and the item is taken back from it. What was sent lies in its socket:
/// it must drop that although it is given nothing more.
fn seen_after_a_recall(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let (reader, writer) = pipe();
    let book = Notebook::new();
    let both = clones(&writer, 2).into_iter().map(|writer| (writer, book.path(), 2));
    // Both workers know the function from here on.
    pool.chunk_size(1).starmap(both, speak).unwrap();
    drop(writer);
    assert_eq!(read_to_end(reader), "xx");
    for round in 0..6 {
        let pids = pool.pids();
        // In every second round, it is the one that is given the item first. The other one runs it.
        stop(pids[round % 2]);
        let (reader, writer) = pipe();
        pool.apply((writer, book.path(), 1), speak).unwrap();
        stage::signal(pids[round % 2], Signal::SIGCONT);
        assert_eq!(read_to_end(reader), "x");
    }
}

/// As above, for a context.
fn seen_after_a_cancel_of_what_has_not_begun(method: StartMethod) {
    let pool = stage::pool(method, 2);
    for _ in 0..3 {
        stage::until_all_work(&pool);
        let (reader, writer) = pipe();
        let pids = pool.pids();
        pids.iter().for_each(|&pid| stop(pid));
        let handle = pool.with(&writer).apply_async((1u8,), |_, x| x);
        drop(writer);
        // It is given to one of them, which does not begin it.
        assert!(!handle.wait_timeout(Duration::from_millis(30)));
        handle.cancel();
        pids.iter().for_each(|&pid| stage::signal_if_there(pid, Signal::SIGCONT));
        assert_eq!(read_to_end(reader), "");
    }
}

#[derive(Serialize, Deserialize)]
enum Talk {
    Nothing,
    Read(Reader),
    Write(Writer),
}

/// Quick items are sent to a worker ahead. If the writer were, behind a reader that waits for it, an idle worker would take
/// it over, and a copy would be left with the reader.
fn reader_is_not_held_up_by_what_waits_behind_it(method: StartMethod) {
    let pool = stage::pool(method, 2);
    for _ in 0..30 {
        let (reader, writer) = pipe();
        let quick = || std::iter::repeat_with(|| Talk::Nothing).take(300);
        let talk = [Talk::Read(Fd::new(reader)), Talk::Write(writer)];
        let texts = pool.chunk_size(1).map(quick().chain(talk).chain(quick()), |talk| match talk {
            Talk::Nothing => String::new(),
            Talk::Read(reader) => read_to_end(reader.into_inner()),
            Talk::Write(writer) => {
                say(&writer, "late");
                String::new()
            }
        });
        assert_eq!(texts.unwrap()[300], "late");
    }
}

/// What carries waits for a worker that holds nothing; other calls must not keep all of them busy.
fn others_do_not_overtake_it_for_ever(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let mut answers = pool.imap_unordered(0u64.., |x| x);
    for _ in 0..50 {
        answers.next().unwrap().unwrap();
    }
    let (reader, writer) = pipe();
    let (context_reader, context_writer) = pipe();
    let carrying: Vec<_> = clones(&writer, 5)
        .into_iter()
        .map(|writer| pool.apply_async((writer,), |writer: Writer| say(&writer, "x")))
        .collect();
    let with_context = pool.with(&context_writer).map_async(0..20u32, |writer, _| say(writer, "y"));
    drop((writer, context_writer));
    while !(carrying.iter().all(procpool::AsyncResult::ready) && with_context.ready()) {
        answers.next().unwrap().unwrap();
    }
    assert_eq!(read_to_end(reader), "xxxxx");
    with_context.get().unwrap();
    assert_eq!(read_to_end(context_reader), "y".repeat(20));
}
