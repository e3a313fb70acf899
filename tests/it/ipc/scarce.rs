//! Too few descriptors, or too many on their way: what carries them costs its own item at most, or waits.

use std::fs::File;
use std::io::IoSlice;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::sync::Mutex;
use std::time::Duration;

use nix::sys::resource::Resource;
use nix::sys::resource::getrlimit;
use nix::sys::resource::setrlimit;
use nix::unistd::Uid;
use nix::unistd::geteuid;
use nix::unistd::seteuid;
use procpool::AsyncResult;
use procpool::Fd;
use procpool::Pool;
use procpool::Side;
use procpool::StartMethod;
use procpool::TaskError;
use start_methods::Socket;

use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::ipc::clones;
use crate::ipc::pipe;
use crate::ipc::read_to_end;

cases![
    full_table_of_the_parent_costs_the_items_alone,
    full_table_of_a_worker_costs_the_items_alone,
    every_number_of_free_descriptors,
    too_many_on_their_way_is_no_room,
    too_many_on_their_way_from_a_worker_is_no_room,
    results_that_wait_keep_few_descriptors_in_a_map,
];

type Writer = Fd<File>;

/// The files with which a process has filled its table.
static FILLING: Mutex<Vec<File>> = Mutex::new(Vec::new());

fn allow(limit: u64) {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    setrlimit(Resource::RLIMIT_NOFILE, limit.min(hard), hard).unwrap();
}

/// Opens all descriptors that there are, but for some.
fn fill(but: usize) {
    let mut filling = FILLING.lock().unwrap();
    filling.extend(std::iter::from_fn(|| File::open("/dev/null").ok()));
    let left = filling.len().saturating_sub(but);
    filling.truncate(left);
}

fn empty() {
    FILLING.lock().unwrap().clear();
}

fn say(writers: &[Writer]) -> usize {
    writers.iter().map(|writer| (&**writer).write(b".").unwrap()).sum()
}

fn many(count: usize) -> Vec<Writer> {
    let (_, writer) = pipe();
    clones(&writer, count)
}

fn full_table_of_the_parent_costs_the_items_alone(method: StartMethod) {
    let pool = stage::pool(method, 2);
    stage::until_all_work(&pool);
    let pids = pool.pids();
    allow(256);
    let (reader, writer) = pipe();
    fill(0);
    let error = stage::error(pool.apply((40,), many));
    assert!(
        matches!(&error, TaskError::Decode { side: Side::Result, message, .. } if message.contains("ulimit -n")),
        "{error}"
    );
    let results = pool.map_results(0..30usize, |x| if x % 10 == 3 { many(40) } else { Vec::new() }).unwrap();
    assert!(results.iter().enumerate().all(|(x, result)| result.is_err() == (x % 10 == 3)));
    empty();
    let writers = clones(&writer, 9);
    fill(0);
    let error = stage::error(pool.apply((writers,), |writers: Vec<Writer>| say(&writers)));
    assert!(
        matches!(&error, TaskError::Encode { side: Side::Argument, message, .. } if message.contains("ulimit -n")),
        "{error}"
    );
    stage::assert_works(&pool);
    empty();
    assert_eq!(pool.apply((40,), many).unwrap().len(), 40);
    assert_eq!(pool.pids(), pids);
    drop(writer);
    assert_eq!(read_to_end(reader), "");
}

fn full_table_of_a_worker_costs_the_items_alone(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let pid = pool.apply((), std::process::id).unwrap();
    let (reader, writer) = pipe();
    let filled = || {
        allow(256);
        fill(3);
    };
    pool.apply((), filled).unwrap();
    for _ in 0..3 {
        let error = stage::error(pool.apply((clones(&writer, 9),), |writers: Vec<Writer>| say(&writers)));
        assert!(matches!(&error, TaskError::Decode { side: Side::Argument, .. }), "{error}");
        let error = stage::error(pool.with(&clones(&writer, 9)).apply((1u8,), |writers, _| say(writers)));
        assert!(matches!(&error, TaskError::Decode { side: Side::Context, .. }), "{error}");
        let error = stage::error(pool.apply((), || {
            fill(3);
            let (_, writer) = pipe();
            // Encoding duplicates them, and there is no room for that.
            [writer, pipe().1]
        }));
        assert!(matches!(&error, TaskError::Encode { side: Side::Result, .. } | TaskError::Panicked(_)), "{error}");
        stage::assert_works(&pool);
    }
    pool.apply((), empty).unwrap();
    assert_eq!(pool.apply((clones(&writer, 9),), |writers: Vec<Writer>| say(&writers)).unwrap(), 9);
    assert_eq!(pool.apply((), std::process::id).unwrap(), pid);
    drop(writer);
    assert_eq!(read_to_end(reader), ".........");
}

/// Whatever the number of free descriptors in either process: a value or an error, and nothing is left.
fn every_number_of_free_descriptors(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let pid = pool.apply((), std::process::id).unwrap();
    allow(256);
    pool.apply((), || allow(256)).unwrap();
    let (reader, writer) = pipe();
    for free in 0..24 {
        let writers = clones(&writer, 6);
        let before = processes::descriptors(std::process::id()).len();
        fill(free);
        let back = pool.apply((writers,), |writers: Vec<Writer>| writers);
        empty();
        drop(back);
        stage::until("the close of what arrived", || processes::descriptors(std::process::id()).len() <= before - 6);
        pool.apply((free,), fill).unwrap();
        let back = pool.apply((clones(&writer, 6),), |writers: Vec<Writer>| writers);
        assert!(back.is_ok() || free < 18, "{free} are enough: {back:?}");
        pool.apply((), empty).unwrap();
    }
    assert_eq!(pool.apply((), std::process::id).unwrap(), pid);
    drop(writer);
    assert_eq!(read_to_end(reader), "");
}

/// Messages with descriptors that no process receives, until they are dropped.
fn on_their_way(count: usize) -> Vec<(Socket, Socket)> {
    let null = File::open("/dev/null").unwrap();
    let fds: [BorrowedFd<'_>; 100] = [null.as_fd(); 100];
    (0..count.div_ceil(100))
        .map(|_| {
            let (here, there) = Socket::pair().unwrap();
            here.send(&[IoSlice::new(b"x")], &fds).unwrap();
            (here, there)
        })
        .collect()
}

/// Gives up the privilege to exceed the limit, for as long as `body` runs. The identity that counts stays.
fn unprivileged<R>(body: impl FnOnce() -> R) -> R {
    let before = geteuid();
    if before.is_root() {
        seteuid(Uid::from_raw(65534)).unwrap();
    }
    let result = body();
    seteuid(before).unwrap();
    result
}

fn is_pending<T>(handle: &AsyncResult<T>) -> bool {
    !handle.wait_timeout(Duration::from_millis(100))
}

/// ETOOMANYREFS: the parent sends again until there is room.
fn too_many_on_their_way_is_no_room(method: StartMethod) {
    let pool = stage::pool(method, 2);
    stage::until_all_work(&pool);
    let pids = pool.pids();
    let (reader, writer) = pipe();
    let way = on_their_way(400);
    allow(128);
    unprivileged(|| {
        let argument = pool.apply_async((clones(&writer, 3),), |writers: Vec<Writer>| say(&writers));
        let context = pool.with(&clones(&writer, 2)).apply_async((1u8,), |writers, _| say(writers));
        let large = pool
            .apply_async(("x".repeat(100_000), clones(&writer, 1)), |text: String, writers: Vec<Writer>| {
                text.len() + say(&writers)
            });
        assert!(is_pending(&argument) && is_pending(&context) && is_pending(&large));
        // Other calls go on meanwhile.
        stage::assert_works(&pool);
        drop(way);
        assert_eq!(argument.get().unwrap(), 3);
        assert_eq!(context.get().unwrap(), 2);
        assert_eq!(large.get().unwrap(), 100_001);
    });
    assert_eq!(pool.pids(), pids);
    drop(writer);
    assert_eq!(read_to_end(reader), "......");
}

fn too_many_on_their_way_from_a_worker_is_no_room(method: StartMethod) {
    let pool = Pool::builder().processes(1).start_method(method).build().unwrap();
    let pid = pool.apply((), std::process::id).unwrap();
    let way = on_their_way(400);
    let result = pool.apply_async((), || {
        allow(128);
        if geteuid().is_root() {
            seteuid(Uid::from_raw(65534)).unwrap();
        }
        many(3)
    });
    assert!(is_pending(&result));
    drop(way);
    assert_eq!(result.get().unwrap().len(), 3);
    assert_eq!(pool.apply((), std::process::id).unwrap(), pid);
}

fn results_that_wait_keep_few_descriptors_in_a_map(method: StartMethod) {
    allow(256);
    let pool = stage::pool(method, 2);
    let (reader, writer) = pipe();
    let items = (0..300usize).map(|x| (x, clones(&writer, 5)));
    let counts = pool.starmap(items, |_, writers: Vec<Writer>| say(&writers)).unwrap();
    assert_eq!(counts.iter().sum::<usize>(), 1500);
    drop(writer);
    assert_eq!(read_to_end(reader).len(), 1500);
}
