//! Workers that send descriptors that nothing has asked for, or memory that is not what it should be.

use std::fs::File;
use std::io::IoSlice;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;

use procpool::Fd;
use procpool::SharedBytes;
use procpool::SharedSlice;
use procpool::StartMethod;
use procpool::TaskError;
use serde::Deserialize;
use serde::Serialize;
use start_methods::PrivateFd;
use start_methods::Socket;

use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::harness::sys;
use crate::ipc::pipe;

cases![
    descriptors_that_were_not_asked_for_end_their_worker,
    wrong_counts_end_their_worker,
    memory_that_can_change_is_refused,
    memory_with_holes_is_refused,
    what_is_no_memory_is_refused,
];

/// In a task: the sockets of this worker that carry messages.
fn sockets() -> Vec<Socket> {
    let fds = processes::descriptors(std::process::id()).into_iter();
    let sockets = fds.filter(|(fd, target)| target.starts_with("socket:") && sys::carries_messages(*fd));
    sockets.map(|(fd, _)| Socket::from_fd(PrivateFd::adopt(sys::copy_of(fd)).unwrap())).collect()
}

/// A report of an attachment, as a worker encodes it: its number, where the bytes are, and how many descriptors there are.
fn report(number: u8, place: u8, announced: u8) -> [u8; 4] {
    [3, number, place, announced]
}

/// In a task: sends such reports with so many descriptors, over every socket.
fn flood(reports: u8, announced: u8, sent: usize) {
    let null = File::open("/dev/null").unwrap();
    let fds: Vec<BorrowedFd<'_>> = vec![null.as_fd(); sent];
    for socket in sockets() {
        for number in 0..reports {
            // Refused when the socket is full, or is closed at the other end.
            let _ = socket.try_send(&[IoSlice::new(&report(number, number % 2, announced))], &fds);
        }
    }
}

fn assert_flood_is_stopped(method: StartMethod, announced: u8, sent: usize) {
    let pool = stage::pool(method, 2);
    stage::until_all_work(&pool);
    let before = processes::descriptors(std::process::id()).len();
    let items = (0..60u32).map(|x| (x, announced, sent));
    let results = pool.chunk_size(5).starmap_results(items, |x, announced, sent| {
        if x == 20 {
            flood(60, announced, sent);
        }
        x
    });
    stage::assert_one_lost_at_most(results.unwrap(), 60);
    stage::assert_works(&pool);
    stage::until("the close of what came", || processes::descriptors(std::process::id()).len() <= before + 8);
    pool.close();
    pool.join().unwrap();
}

fn descriptors_that_were_not_asked_for_end_their_worker(method: StartMethod) {
    // 100 as a varint.
    assert_flood_is_stopped(method, 100, 100);
    assert_flood_is_stopped(method, 2, 2);
}

fn wrong_counts_end_their_worker(method: StartMethod) {
    assert_flood_is_stopped(method, 3, 100);
    assert_flood_is_stopped(method, 0, 100);
    assert_flood_is_stopped(method, 100, 1);
}

/// Encodes like a shared slice: a descriptor of the task's choice.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Forged(Fd<OwnedFd>);

/// What a task returns in place of a shared slice; for the parent both are the same bytes.
#[derive(Serialize)]
#[serde(untagged)]
enum Returned {
    Forged(Forged),
    Right(SharedBytes),
}

impl<'de> Deserialize<'de> for Returned {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        SharedSlice::deserialize(deserializer).map(Returned::Right)
    }
}

pub(crate) fn memfd() -> File {
    let name = c"forged";
    let flags = nix::sys::memfd::MFdFlags::MFD_ALLOW_SEALING;
    File::from(nix::sys::memfd::memfd_create(name, flags).unwrap())
}

pub(crate) fn seal(file: &File, seals: i32) {
    use nix::fcntl::FcntlArg;
    use nix::fcntl::SealFlag;
    nix::fcntl::fcntl(file, FcntlArg::F_ADD_SEALS(SealFlag::from_bits_retain(seals))).unwrap();
}

const CONSTANT: i32 = libc::F_SEAL_WRITE | libc::F_SEAL_GROW | libc::F_SEAL_SHRINK;

fn assert_refused(method: StartMethod, forge: fn(u32) -> Returned, kinds: std::ops::Range<u32>) {
    let pool = stage::pool(method, 1);
    let pid = pool.apply((), std::process::id).unwrap();
    for kind in kinds {
        let error = match pool.apply((kind,), forge) {
            Ok(_) => panic!("kind {kind} was taken"),
            Err(error) => error,
        };
        assert!(
            matches!(&error, TaskError::Decode { message, .. } if message.contains("not sealed memory")),
            "{error}"
        );
    }
    // The value alone is refused.
    let right = pool.apply((), || Returned::Right(SharedBytes::new(b"right").unwrap())).unwrap();
    assert!(matches!(right, Returned::Right(bytes) if *bytes == *b"right"));
    assert_eq!(pool.apply((), std::process::id).unwrap(), pid);
}

fn memory_that_can_change_is_refused(method: StartMethod) {
    let forge: fn(u32) -> Returned = |kind| {
        let file = memfd();
        file.write_all_at(&[1; 10_000], 0).unwrap();
        let seals = [0, libc::F_SEAL_WRITE, CONSTANT & !libc::F_SEAL_SHRINK, CONSTANT & !libc::F_SEAL_WRITE];
        seal(&file, seals[kind as usize]);
        Returned::Forged(Forged(Fd::new(file.into())))
    };
    assert_refused(method, forge, 0..4);
}

fn memory_with_holes_is_refused(method: StartMethod) {
    let forge: fn(u32) -> Returned = |kind| {
        let file = memfd();
        if kind == 0 {
            file.set_len(1 << 20).unwrap();
        } else {
            file.write_all_at(&[1; 10_000], 0).unwrap();
            file.write_all_at(&[1; 10_000], 100_000).unwrap();
        }
        seal(&file, CONSTANT);
        Returned::Forged(Forged(Fd::new(file.into())))
    };
    assert_refused(method, forge, 0..2);
}

fn what_is_no_memory_is_refused(method: StartMethod) {
    let forge: fn(u32) -> Returned = |kind| {
        let fd: OwnedFd = match kind {
            0 => pipe().0.into(),
            1 => File::open("/proc/self/exe").unwrap().into(),
            // An empty file.
            _ => memfd().into(),
        };
        if kind == 2 {
            seal(&File::from(fd.try_clone().unwrap()), CONSTANT);
        }
        Returned::Forged(Forged(Fd::new(fd)))
    };
    assert_refused(method, forge, 0..3);
}
