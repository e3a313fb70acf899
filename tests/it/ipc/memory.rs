//! Memory that processes change at once: atomics and arrays.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::AtomicI8;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;

use bytemuck::Pod;
use bytemuck::Zeroable;
use nix::fcntl::FallocateFlags;
use nix::fcntl::fallocate;
use nix::sys::resource::Resource;
use nix::sys::resource::getrlimit;
use nix::sys::resource::setrlimit;
use nix::sys::signal::Signal;
use procpool::Fd;
use procpool::Shared;
use procpool::SharedArray;
use procpool::SharedSlice;
use procpool::StartMethod;
use procpool::TaskError;
use serde::Deserialize;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::harness::sys;
use crate::ipc::flood::memfd;
use crate::ipc::flood::seal;
use crate::ipc::pipe;

cases![
    no_increment_is_lost,
    each_task_writes_its_row,
    anywhere_inside_a_value,
    elements_are_never_torn,
    elements_of_any_size_are_copied,
    workers_that_die_leave_what_they_wrote,
    creator_dies_and_it_stays,
    initializers_and_their_replacements_share_one,
    frozen_copy_does_not_change,
    what_is_not_this_memory_is_refused,
    worker_that_scribbles_everywhere_harms_no_one,
    forked_copy_has_no_memory,
    limit_of_file_sizes_is_an_error,
    nothing_is_left_when_all_are_dropped,
];

fn no_increment_is_lost(method: StartMethod) {
    let pool = stage::pool(method, 3);
    let count = Shared::<AtomicU64>::new().unwrap();
    let counts = Shared::<[AtomicU32]>::zeroed(7).unwrap();
    pool.with(&(count.clone(), counts.clone()))
        .map(0..30usize, |(count, counts), x| {
            for _ in 0..1000 {
                count.fetch_add(1, Ordering::Relaxed);
                counts[x % 7].fetch_add(1, Ordering::Relaxed);
            }
        })
        .unwrap();
    assert_eq!(count.load(Ordering::Relaxed), 30_000);
    assert_eq!(counts.iter().map(|count| count.load(Ordering::Relaxed)).sum::<u32>(), 30_000);
    assert_eq!(counts[0].load(Ordering::Relaxed), 5000);
}

fn each_task_writes_its_row(method: StartMethod) {
    const WIDTH: usize = 5000;
    let pool = stage::pool(method, 2);
    let image = SharedArray::<u16>::zeroed(100 * WIDTH).unwrap();
    pool.with(&image).map(0..100u16, |image, row| image.write(usize::from(row) * WIDTH, &[row; WIDTH])).unwrap();
    assert!(image.to_vec().chunks(WIDTH).zip(0..).all(|(line, row)| line == [row; WIDTH]));
}

#[derive(Serialize, Deserialize)]
struct Job {
    name: String,
    done: Vec<Option<Shared<AtomicI8>>>,
    table: SharedArray<f64>,
}

fn anywhere_inside_a_value(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (done, table) = (Shared::<AtomicI8>::new().unwrap(), SharedArray::new(&[1.5, 2.5]).unwrap());
    let job = Job { name: "job".to_owned(), done: vec![None, Some(done.clone()), Some(done.clone())], table };
    let back = pool.apply((job,), |mut job: Job| {
        job.table.set(1, 0.5);
        for done in job.done.iter().flatten() {
            done.fetch_sub(1, Ordering::Relaxed);
        }
        job.name.push('!');
        job
    });
    let back = back.unwrap();
    assert_eq!((back.name.as_str(), back.table.to_vec()), ("job!", vec![1.5, 0.5]));
    // What comes back is the same memory again.
    back.done[1].as_ref().unwrap().fetch_sub(1, Ordering::Relaxed);
    assert_eq!(done.load(Ordering::Relaxed), -3);
}

fn elements_are_never_torn(method: StartMethod) {
    const ALL_ONES: u64 = u64::MAX;
    let pool = stage::pool(method, 2);
    let array = SharedArray::<u64>::zeroed(3).unwrap();
    let stop = Shared::<AtomicU32>::new().unwrap();
    let writer = pool.apply_async((array.clone(), stop.clone()), |array, stop: Shared<AtomicU32>| {
        while stop.load(Ordering::Relaxed) == 0 {
            array.set(1, ALL_ONES);
            array.set(1, 0);
        }
    });
    let seen = pool.apply((array,), |array: SharedArray<u64>| {
        let strange = (0..200_000).map(|_| array.get(1)).find(|seen| *seen != 0 && *seen != ALL_ONES);
        (strange, array.get(0), array.get(2))
    });
    stop.store(1, Ordering::Relaxed);
    assert_eq!(seen.unwrap(), (None, 0, 0));
    writer.get().unwrap();
}

#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C)]
struct Point {
    x: f32,
    y: f32,
    z: f32,
}

fn elements_of_any_size_are_copied(method: StartMethod) {
    fn check<T: Pod + PartialEq + Serialize + DeserializeOwned>(pool: &procpool::Pool, items: [T; 3]) {
        let array = SharedArray::<T>::zeroed(3).unwrap();
        pool.apply((array.clone(), items.to_vec()), |array: SharedArray<T>, items| {
            items.iter().enumerate().rev().for_each(|(index, item)| array.set(index, *item));
        })
        .unwrap();
        assert!((0..3).all(|index| array.get(index) == items[index]));
    }
    let pool = stage::pool(method, 1);
    check(&pool, [1u8, 2, 3]);
    check(&pool, [-1i16, 2, 3]);
    check(&pool, [1.5f32, 2.5, 3.5]);
    check(&pool, [u64::MAX, 2, 3]);
    check(&pool, [u128::MAX, 2, 3]);
    check(&pool, [[1u8; 3], [2; 3], [3; 3]]);
    check(&pool, [[1u32; 2], [2; 2], [3; 2]]);
    let points = SharedArray::<Point>::zeroed(2).unwrap();
    pool.apply((points.clone(),), |points| points.set(1, Point { x: 1.0, y: 2.0, z: 3.0 })).unwrap();
    assert_eq!(points.to_vec(), [Point::zeroed(), Point { x: 1.0, y: 2.0, z: 3.0 }]);
    let empty = SharedArray::<Point>::zeroed(0).unwrap();
    assert!(pool.apply((empty,), |empty: SharedArray<Point>| empty.is_empty() && empty.to_vec().is_empty()).unwrap());
}

fn workers_that_die_leave_what_they_wrote(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let array = SharedArray::<u32>::zeroed(1000).unwrap();
    let results = pool.with(&array).map_results(0..20u32, |array, x| {
        let index = usize::try_from(x).unwrap();
        array.set(index, x + 1);
        if x % 5 == 0 {
            stage::signal(std::process::id(), Signal::SIGKILL);
        }
    });
    assert_eq!(results.unwrap().iter().filter(|result| result.is_err()).count(), 4);
    assert!((0..20u32).all(|x| array.get(x as usize) == x + 1));
}

fn creator_dies_and_it_stays(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let made = || (std::process::id(), SharedArray::new(&[1u64, 2, 3]).unwrap(), Shared::<AtomicU64>::new().unwrap());
    let (pid, array, count) = pool.apply((), made).unwrap();
    stage::signal(pid, Signal::SIGKILL);
    stage::until_replaced(&pool, 1, &[pid]);
    array.set(0, 7);
    let seen = pool.apply((array.clone(), count.clone()), |array: SharedArray<u64>, count: Shared<AtomicU64>| {
        count.fetch_add(array.get(0), Ordering::Relaxed);
        array.to_vec()
    });
    assert_eq!(seen.unwrap(), [7, 2, 3]);
    assert_eq!(count.load(Ordering::Relaxed), 7);
}

fn initializers_and_their_replacements_share_one(method: StartMethod) {
    let started = Shared::<AtomicU32>::new().unwrap();
    let count = |started: Shared<AtomicU32>| {
        started.fetch_add(1, Ordering::Relaxed);
    };
    let pool =
        procpool::Pool::builder().processes(1).start_method(method).initializer((started.clone(),), count).build();
    let pool = pool.unwrap();
    let pid = pool.apply((), std::process::id).unwrap();
    stage::signal(pid, Signal::SIGKILL);
    stage::until_replaced(&pool, 1, &[pid]);
    stage::assert_works(&pool);
    assert!(started.load(Ordering::Relaxed) >= 2);
}

fn frozen_copy_does_not_change(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let array = SharedArray::new(&(0..1000u32).collect::<Vec<_>>()).unwrap();
    let frozen = pool.apply((array.clone(),), |array: SharedArray<u32>| anyhow::Ok(array.freeze()?));
    let frozen: SharedSlice<u32> = frozen.unwrap();
    array.set(0, 9);
    assert!(frozen.iter().copied().eq(0..1000));
}

/// Encodes like shared memory: a descriptor of the task's choice.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
struct Forged(Vec<Fd<OwnedFd>>);

impl Forged {
    fn of(fd: OwnedFd) -> Returned {
        Returned::Forged(Forged(vec![Fd::new(fd)]))
    }
}

/// What a task returns in place of an array; for the parent all are the same bytes.
#[derive(Serialize)]
#[serde(untagged)]
enum Returned {
    Forged(Forged),
    Bytes(SharedArray<u8>),
    Signed(SharedArray<i64>),
    Atomics(Shared<[AtomicU64]>),
    Slice(SharedSlice<u64>),
    Right(SharedArray<u64>),
}

impl<'de> Deserialize<'de> for Returned {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        SharedArray::deserialize(deserializer).map(Returned::Right)
    }
}

/// A copy of the memory of an array, changed, with a length that is fixed.
fn forged(change: impl FnOnce(&File)) -> Returned {
    let original = SharedArray::new(&[1u64; 1000]).unwrap();
    let fds = processes::descriptors(std::process::id());
    let (fd, _) = fds.into_iter().rfind(|(_, target)| target.contains("memfd:procpool-ipc")).unwrap();
    let mut bytes = vec![0; 4096 + 8000];
    File::from(sys::copy_of(fd)).read_exact_at(&mut bytes, 0).unwrap();
    drop(original);
    let file = memfd();
    file.write_all_at(&bytes, 0).unwrap();
    change(&file);
    Forged::of(file.into())
}

/// Gives pages of a file back: they are zeros when they are read again.
fn punch(file: &File, start: i64, len: i64) {
    fallocate(file, FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE, start, len).unwrap();
}

const FIXED: i32 = libc::F_SEAL_GROW | libc::F_SEAL_SHRINK;

fn what_is_not_this_memory_is_refused(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let pid = pool.apply((), std::process::id).unwrap();
    let forge: fn(u32) -> Returned = |kind| match kind {
        0 => forged(|_| ()),
        1 => forged(|file| {
            file.set_len(1000).unwrap();
            seal(file, FIXED);
        }),
        // Longer than its head says.
        2 => forged(|file| {
            file.set_len(4096 + 8008).unwrap();
            seal(file, FIXED);
        }),
        3 => forged(|file| {
            punch(file, 4096, 4096);
            seal(file, FIXED);
        }),
        // Of another pid namespace, version, magic number.
        4..=6 => {
            let offset = [32, 12, 0][kind as usize - 4];
            forged(|file| {
                file.write_all_at(&[0x5a], offset).unwrap();
                seal(file, FIXED);
            })
        }
        7 => Returned::Bytes(SharedArray::new(&[1]).unwrap()),
        8 => Returned::Signed(SharedArray::new(&[1]).unwrap()),
        9 => Returned::Atomics(Shared::<[AtomicU64]>::zeroed(1).unwrap()),
        10 => Returned::Slice(SharedSlice::new(&[1; 1024]).unwrap()),
        11 => Forged::of(pipe().0.into()),
        _ => Forged::of(File::open("/proc/self/exe").unwrap().into()),
    };
    for kind in 0..13 {
        let error = match pool.apply((kind,), forge) {
            Ok(_) => panic!("kind {kind} was taken"),
            Err(error) => error,
        };
        assert!(matches!(error, TaskError::Decode { .. }), "{kind}: {error}");
    }
    // A faithful copy is another array, and only one that can be cut or extended is none.
    let forge: fn() -> Returned = || forged(|file| seal(file, FIXED));
    let Returned::Right(array) = pool.apply((), forge).unwrap() else { panic!("it is decoded as an array") };
    assert_eq!(array.to_vec(), [1; 1000]);
    assert_eq!(pool.apply((), std::process::id).unwrap(), pid);
}

fn worker_that_scribbles_everywhere_harms_no_one(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let (array, counts) = (SharedArray::<u64>::zeroed(10_000).unwrap(), Shared::<[AtomicU64]>::zeroed(100).unwrap());
    let stop = Shared::<AtomicU32>::new().unwrap();
    let scribbling = pool.apply_async((array.clone(), counts.clone(), stop.clone()), |array, counts, stop| {
        let stop: Shared<AtomicU32> = stop;
        let _: (&SharedArray<u64>, &Shared<[AtomicU64]>) = (&array, &counts);
        let fds = processes::descriptors(std::process::id()).into_iter();
        let files = fds.filter(|(_, target)| target.contains("memfd:procpool-ipc"));
        let mut files: Vec<File> = files.map(|(fd, _)| File::from(sys::copy_of(fd))).collect();
        // Not the word by which it is told to stop.
        files.retain(|file| file.metadata().unwrap().len() > 4100);
        assert!(files.len() >= 2, "{files:?}");
        for byte in (0..=u8::MAX).cycle() {
            for file in &files {
                let len = usize::try_from(file.metadata().unwrap().len()).unwrap();
                file.write_all_at(&vec![byte; len], 0).unwrap();
                assert!(file.set_len(0).is_err() && file.set_len(1 << 30).is_err());
                punch(file, 0, 8192);
            }
            if stop.load(Ordering::Relaxed) != 0 {
                break;
            }
        }
    });
    for round in 0..100 {
        let mut copy = vec![0; 10_000];
        array.read(0, &mut copy);
        array.write(0, &copy);
        array.set(round, array.get(9999));
        counts[round % 100].fetch_add(1, Ordering::Relaxed);
        assert_eq!((array.len(), counts.len()), (10_000, 100));
        // It does not arrive where its head is overwritten meanwhile.
        let sent = pool.apply((array.clone(),), |array: SharedArray<u64>| array.get(5));
        assert!(matches!(sent, Ok(_) | Err(TaskError::Decode { .. })), "{sent:?}");
    }
    stop.store(1, Ordering::Relaxed);
    scribbling.get().unwrap();
    stage::assert_works(&pool);
}

fn forked_copy_has_no_memory(method: StartMethod) {
    let (array, count) = (SharedArray::<u32>::zeroed(5).unwrap(), Shared::<AtomicU64>::new().unwrap());
    let pool = stage::pool(method, 1);
    let panics = |f: &dyn Fn()| std::panic::catch_unwind(std::panic::AssertUnwindSafe(f)).is_err();
    let code = sys::in_a_forked_copy(|| {
        let all = panics(&|| array.set(0, 1))
            && panics(&|| assert_eq!(array.get(0), 0))
            && panics(&|| drop(array.to_vec()))
            && panics(&|| assert_eq!(count.load(Ordering::Relaxed), 0))
            && format!("{array:?}{count:?}").contains("len");
        drop((array.clone(), count.clone()));
        u8::from(all)
    });
    assert_eq!(code, 1);
    assert_eq!((array.get(0), count.load(Ordering::Relaxed)), (0, 0));
    stage::assert_works(&pool);
}

fn limit_of_file_sizes_is_an_error(method: StartMethod) {
    let pool = stage::pool(method, 1);
    stage::assert_works(&pool);
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, 100_000, hard).unwrap();
    let too_long = SharedArray::<u8>::zeroed(100_001).unwrap_err();
    assert_eq!(too_long.kind(), std::io::ErrorKind::FileTooLarge);
    assert_eq!(SharedArray::<u64>::zeroed(usize::MAX / 2).unwrap_err().kind(), std::io::ErrorKind::OutOfMemory);
    assert_eq!(SharedArray::<u8>::zeroed(usize::MAX).unwrap_err().kind(), std::io::ErrorKind::OutOfMemory);
    let fits = SharedArray::<u8>::zeroed(10_000).unwrap();
    assert_eq!(pool.apply((fits,), |bytes: SharedArray<u8>| bytes.len()).unwrap(), 10_000);
    setrlimit(Resource::RLIMIT_FSIZE, hard, hard).unwrap();
}

fn nothing_is_left_when_all_are_dropped(method: StartMethod) {
    let pool = stage::pool(method, 2);
    stage::assert_works(&pool);
    let count = || processes::descriptors(std::process::id()).len();
    let before = count();
    for _ in 0..3 {
        let many: Vec<_> = (0..100u32).map(|x| SharedArray::new(&[x]).unwrap()).collect();
        let sum = pool.map(many, |array: SharedArray<u32>| array.get(0)).unwrap().into_iter().sum::<u32>();
        assert_eq!(sum, 4950);
    }
    assert_eq!(count(), before);
    let left = pool.map(0..4u8, |_| processes::descriptors(std::process::id()).len()).unwrap();
    assert!(left.into_iter().all(|left| left < 20));
}
