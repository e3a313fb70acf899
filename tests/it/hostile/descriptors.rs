//! Tasks that break the descriptors of their worker, and the cost to other items.
//!
//! The cases do not know what a descriptor is for; they break every one in every way.

use std::fs::File;
use std::io::IoSlice;
use std::io::Write;
use std::net::TcpListener;
use std::net::TcpStream;
use std::ops::Range;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::RawFd;
use std::thread;

use procpool::Pool;
use procpool::StartMethod;
use serde::Deserialize;
use serde::Serialize;
use start_methods::PrivateFd;
use start_methods::Socket;

use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::harness::stage::Notebook;
use crate::harness::sys;

cases![
    worker_that_lost_a_socket_is_replaced,
    worker_that_lost_all_descriptors_is_replaced,
    worker_with_a_damaged_descriptor_holds_nothing_up,
    worker_without_standard_streams_works_on,
    descriptors_whose_close_waits_hold_nothing_up,
];

const CHUNK: usize = 5;

/// In a task: the descriptors of this worker except the standard streams, whatever each is for.
#[derive(Debug)]
struct Plumbing {
    /// Without the lifeline, which the worker can do without.
    sockets: Vec<RawFd>,
    others: Vec<RawFd>,
}

impl Plumbing {
    fn find() -> Plumbing {
        let (sockets, others): (Vec<_>, Vec<_>) = processes::descriptors(std::process::id())
            .into_iter()
            .filter(|(fd, _)| *fd > 2)
            .partition(|(fd, _)| sys::carries_messages(*fd));
        let numbers = |entries: Vec<(RawFd, String)>| entries.into_iter().map(|(fd, _)| fd).collect();
        Plumbing { sockets: numbers(sockets), others: numbers(others) }
    }
}

fn put_null_over(fds: impl IntoIterator<Item = RawFd>) {
    let null = File::open("/dev/null").unwrap();
    fds.into_iter().for_each(|fd| sys::put_over(null.as_raw_fd(), fd));
}

/// How a task breaks a descriptor of its worker.
const DEEDS: [fn(&Plumbing, RawFd); 9] = [
    |_, fd| nix::unistd::close(fd).unwrap(),
    |_, fd| put_null_over([fd]),
    |_, fd| sys::shut_down(fd, libc::SHUT_WR),
    |_, fd| sys::shut_down(fd, libc::SHUT_RDWR),
    |_, fd| sys::shut_down(fd, libc::SHUT_RD),
    |it, fd| it.sockets.iter().filter(|&&socket| socket != fd).for_each(|&socket| sys::put_over(socket, fd)),
    |_, _| sys::close_from(3),
    |_, _| sys::close_from(0),
    |it, _| put_null_over(it.sockets.iter().chain(&it.others).copied()),
];
/// Applies to every descriptor.
const LOSSES: Range<usize> = 0..2;
/// Breaks a socket.
const SOCKET_LOSSES: Range<usize> = 0..4;
/// Need not break a socket.
const SOCKET_DAMAGES: Range<usize> = 4..6;
/// Applied to all descriptors at once.
const TOTAL_LOSSES: Range<usize> = 6..9;

/// A descriptor of a worker, by its index among those of its kind.
#[derive(Clone, Copy, Serialize, Deserialize)]
enum Aim {
    Socket(usize),
    Other(usize),
}

/// Breaks the descriptor in an item in the middle of a map. Returns the worker in which it was done.
fn harm(pool: &Pool, deed: usize, aim: Aim) -> u32 {
    stage::until_all_work(pool);
    let book = Notebook::new();
    let items = (0..40u32).map(|x| (x, deed, aim, book.path()));
    let results = pool.chunk_size(CHUNK).map_results(items, |(x, deed, aim, book)| {
        // Only once: the item may run again elsewhere, if the pool cannot see that its worker had begun it.
        if x == 12 && stage::first_to_claim(&format!("{book}.claim")) {
            let plumbing = Plumbing::find();
            stage::note(&book, std::process::id());
            let fd = match aim {
                Aim::Socket(index) => plumbing.sockets[index],
                Aim::Other(index) => plumbing.others[index],
            };
            DEEDS[deed](&plumbing, fd);
        }
        x
    });
    stage::assert_one_lost_at_most(results.unwrap(), 40);
    book.lines()[0].parse().unwrap()
}

/// How many sockets a worker has, and how many other descriptors.
fn plumbing_counts(pool: &Pool) -> (usize, usize) {
    let count = pool.apply((0u8,), |_| {
        let Plumbing { sockets, others } = Plumbing::find();
        (sockets.len(), others.len())
    });
    count.unwrap()
}

/// A worker that can no longer send is ended a moment later, whatever it is running then.
fn worker_that_lost_a_socket_is_replaced(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let (sockets, _) = plumbing_counts(&pool);
    assert!(sockets > 0);
    for (deed, index) in SOCKET_LOSSES.flat_map(|deed| (0..sockets).map(move |index| (deed, index))) {
        let worker = harm(&pool, deed, Aim::Socket(index));
        stage::until_replaced(&pool, 2, &[worker]);
        stage::assert_works(&pool);
    }
}

fn worker_that_lost_all_descriptors_is_replaced(method: StartMethod) {
    let pool = stage::pool(method, 2);
    for deed in TOTAL_LOSSES {
        let worker = harm(&pool, deed, Aim::Socket(0));
        stage::until_replaced(&pool, 2, &[worker]);
        stage::assert_works(&pool);
    }
}

/// The damage depends on what the descriptor is for. The pool continues, with or without this worker.
fn worker_with_a_damaged_descriptor_holds_nothing_up(method: StartMethod) {
    let (sockets, others) = plumbing_counts(&stage::pool(method, 1));
    let damages = SOCKET_DAMAGES.flat_map(|deed| (0..sockets).map(move |index| (deed, Aim::Socket(index))));
    let losses = LOSSES.flat_map(|deed| (0..others).map(move |index| (deed, Aim::Other(index))));
    for (deed, aim) in damages.chain(losses) {
        let pool = stage::pool(method, 2);
        harm(&pool, deed, aim);
        // The worker may not have ended yet.
        stage::assert_one_lost_at_most(pool.map_results(0..100u32, |x| x).unwrap(), 100);
        pool.close();
        pool.join().unwrap();
    }
}

/// Their numbers are then free, and are reused by the descriptors that are opened next.
fn worker_without_standard_streams_works_on(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let pids = pool.pids();
    let results = pool.chunk_size(CHUNK).map(0..20u32, |x| {
        if x == 7 {
            (0..3).for_each(|fd| nix::unistd::close(fd).unwrap());
        }
        (x, vec![7u8; 100_000])
    });
    assert_eq!(results.unwrap(), (0..20).map(|x| (x, vec![7; 100_000])).collect::<Vec<_>>());
    assert_eq!(pool.apply((vec![7u8; 100_000],), |bytes| bytes.len()).unwrap(), 100_000);
    stage::assert_works(&pool);
    assert_eq!(pool.pids(), pids);
}

/// In a task: sends sockets, with every socket of this worker, that linger when they are closed: their queue is full, and
/// the process at the other end does not read.
fn send_what_lingers(address: &str) {
    let Plumbing { sockets, .. } = Plumbing::find();
    for socket in sockets {
        let socket = Socket::from_fd(PrivateFd::adopt(sys::copy_of(socket)).unwrap());
        for _ in 0..3 {
            let mut stream = TcpStream::connect(address).unwrap();
            sys::linger(&stream, 1000);
            stream.set_nonblocking(true).unwrap();
            while stream.write(&[0; 1 << 16]).is_ok() {}
            // Full, or not a socket on which a worker sends.
            let _ = socket.try_send(&[IoSlice::new(b"catch")], &[stream.as_fd()]);
            // On a thread, for this may be the last close.
            thread::spawn(|| drop(stream));
        }
    }
}

/// The last close of a socket that lingers waits for the other end.
fn descriptors_whose_close_waits_hold_nothing_up(method: StartMethod) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (pool, other) = (stage::pool(method, 2), stage::pool(method, 1));
    stage::until_all_work(&pool);
    let results = pool.chunk_size(CHUNK).map_results((0..40u32).map(|x| (x, address.clone())), |(x, address)| {
        if x == 12 {
            send_what_lingers(&address);
        }
        x
    });
    stage::assert_one_lost_at_most(results.unwrap(), 40);
    stage::assert_works(&other);
    stage::assert_works(&pool);
    stage::assert_works(&stage::pool(method, 1));
    for pool in [pool, other] {
        pool.close();
        pool.join().unwrap();
    }
    // The other ends are closed without being read, which ends the wait.
    drop(listener);
    stage::until("all are closed", || !processes::thread_names().contains(&"procpool-close".to_owned()));
}
