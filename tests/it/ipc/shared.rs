//! Slices in shared memory: wherever they travel, the memory is one, and no process can change it.

use std::collections::BTreeMap;
use std::fs;
use std::fs::File;
use std::io::Seek;
use std::io::Write;
use std::os::unix::fs::FileExt;

use bytemuck::AnyBitPattern;
use bytemuck::NoUninit;
use nix::sys::resource::Resource;
use nix::sys::resource::getrlimit;
use nix::sys::resource::setrlimit;
use nix::sys::signal::Signal;
use procpool::Pool;
use procpool::SharedBytes;
use procpool::SharedSlice;
use procpool::StartMethod;
use procpool::TaskError;
use serde::Deserialize;
use serde::Serialize;

use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::harness::sys;

cases![
    argument_result_context_and_initializer,
    anywhere_inside_a_value,
    each_process_maps_it_once,
    workers_need_no_memory_for_it,
    made_in_place_and_from_a_file,
    structs_and_empty_ones,
    no_process_can_change_it,
    creator_dies_and_it_stays,
    length_that_does_not_fit_is_an_error,
    forked_copy_reads_and_sends_it,
    limit_of_file_sizes_is_an_error,
    passed_on_and_on_it_is_one_memory,
    nothing_is_left_when_all_are_dropped,
];

const LEN: usize = 100_000;

fn numbers() -> SharedSlice<u64> {
    SharedSlice::build(LEN, |items| items.iter_mut().zip(0..).for_each(|(item, x)| *item = x * 3)).unwrap()
}

fn is_right(numbers: &[u64]) -> bool {
    numbers.len() == LEN && numbers.iter().zip(0..).all(|(number, x)| *number == x * 3)
}

/// How many mappings of sealed memory this process has that are as long as `numbers`.
fn mappings() -> usize {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let long = |line: &&str| {
        let (start, end) = line.split(' ').next().unwrap().split_once('-').unwrap();
        let at = |hex| usize::from_str_radix(hex, 16).unwrap();
        line.contains("memfd:procpool") && at(end) - at(start) == (LEN * 8).next_multiple_of(4096)
    };
    maps.lines().filter(long).count()
}

fn argument_result_context_and_initializer(method: StartMethod) {
    let start = |numbers: SharedSlice<u64>| assert!(is_right(&numbers));
    let pool = Pool::builder().processes(2).start_method(method).initializer((numbers(),), start).build().unwrap();
    let numbers = numbers();
    assert!(pool.apply((numbers.clone(), 1u8), |numbers: SharedSlice<u64>, _| is_right(&numbers)).unwrap());
    let answers = pool.with(&numbers).map(0..50usize, |numbers, index| numbers[index * 100]).unwrap();
    assert!(answers.into_iter().eq((0..50).map(|x| x * 300)));
    let back = pool.map(0..10u64, |x| SharedSlice::new(&[x, x + 1]).unwrap()).unwrap();
    assert!(back.iter().zip(0..).all(|(pair, x)| **pair == [x, x + 1]));
    let result: Result<SharedBytes, String> =
        pool.apply((), || SharedBytes::new(b"ok").map_err(|error| error.to_string())).unwrap();
    assert_eq!(&*result.unwrap(), b"ok");
    stage::signal(pool.pids()[0], Signal::SIGKILL);
    assert!(pool.apply((numbers,), |numbers: SharedSlice<u64>| is_right(&numbers)).unwrap());
}

#[derive(Serialize, Deserialize, Clone)]
struct Frame {
    name: String,
    planes: Vec<Option<SharedSlice<f32>>>,
    masks: BTreeMap<u8, SharedBytes>,
}

fn anywhere_inside_a_value(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let plane = SharedSlice::new(&[0.5f32, 1.5]).unwrap();
    let planes = vec![Some(plane.clone()), None, Some(plane.clone()), Some(plane)];
    let masks = BTreeMap::from([(7, SharedBytes::new(&[1; 70_000]).unwrap())]);
    let frame = Frame { name: "x".repeat(100_000), planes, masks };
    let frames = pool.map(vec![frame.clone(), frame.clone()], |mut frame: Frame| {
        frame.name.truncate(1);
        frame.planes.swap(0, 1);
        frame
    });
    for back in frames.unwrap() {
        assert_eq!(back.name, "x");
        assert!(back.planes[0].is_none() && back.planes[1] == frame.planes[0]);
        assert_eq!(back.masks, frame.masks);
    }
}

fn each_process_maps_it_once(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let numbers = numbers();
    assert_eq!(mappings(), 1);
    let count = |numbers: Vec<SharedSlice<u64>>| {
        assert!(numbers.iter().all(|numbers| is_right(numbers)));
        mappings()
    };
    assert_eq!(pool.apply((vec![numbers.clone(); 5],), count).unwrap(), 1);
    let counts = pool.with(&numbers).starmap([(numbers.clone(),), (numbers.clone(),)], |context, argument| {
        assert!(is_right(context) && is_right(&argument));
        mappings()
    });
    assert_eq!(counts.unwrap(), [1, 1]);
    // It comes back as what it is here.
    let handle = pool.apply_async((numbers.clone(),), |numbers: SharedSlice<u64>| numbers);
    let (first, second) = (handle.get().unwrap(), handle.get().unwrap());
    assert!(std::ptr::eq(&*first, &*numbers) && std::ptr::eq(&*second, &*numbers));
    assert_eq!(mappings(), 1);
    drop((first, second, numbers, handle));
    assert_eq!(mappings(), 0);
    assert_eq!(pool.apply((), mappings).unwrap(), 0);
}

/// Memory that is of no file.
fn anonymous_kib() -> u64 {
    let rollup = fs::read_to_string("/proc/self/smaps_rollup").unwrap();
    let line = rollup.lines().find(|line| line.starts_with("Anonymous:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

fn workers_need_no_memory_for_it(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let large = SharedSlice::<u64>::build(8 << 20, |items| items.fill(1)).unwrap();
    stage::until_all_work(&pool);
    let grown = pool.with(&large).map(0..4u8, |large, _| {
        let before = anonymous_kib();
        assert_eq!(large.iter().sum::<u64>(), 8 << 20);
        anonymous_kib().saturating_sub(before)
    });
    for kib in grown.unwrap() {
        assert!(kib < 8 << 10, "64 MiB that are only read cost {kib} KiB");
    }
}

fn made_in_place_and_from_a_file(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let mut file = tempfile::tempfile().unwrap();
    for x in 0..LEN as u64 {
        file.write_all(&(x * 3).to_ne_bytes()).unwrap();
    }
    file.rewind().unwrap();
    let copied = SharedSlice::<u64>::from_file(&file).unwrap();
    // Later changes of the file are not seen.
    file.write_all_at(&[1; 80], 0).unwrap();
    file.set_len(0).unwrap();
    for numbers in [copied, numbers(), SharedSlice::new(&numbers()).unwrap()] {
        assert!(pool.apply((numbers,), |numbers: SharedSlice<u64>| is_right(&numbers)).unwrap());
    }
    // From its offset on.
    file.write_all_at(b"0123456789", 0).unwrap();
    file.seek(std::io::SeekFrom::Start(4)).unwrap();
    assert_eq!(&*SharedBytes::from_file(&file).unwrap(), b"456789");
    assert!(SharedBytes::from_file(&file).unwrap().is_empty());
    file.seek(std::io::SeekFrom::Start(5)).unwrap();
    let error = SharedSlice::<u16>::from_file(&file).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    let null = File::open("/dev/null").unwrap();
    assert_eq!(SharedBytes::from_file(&null).unwrap_err().kind(), std::io::ErrorKind::InvalidInput);
}

#[derive(AnyBitPattern, NoUninit, Clone, Copy, Debug, PartialEq)]
#[repr(C)]
struct Point {
    x: f32,
    y: f32,
    tag: [u8; 8],
}

fn structs_and_empty_ones(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let point = |x: f32| Point { x, y: -x, tag: *b"a point!" };
    let points = SharedSlice::new(&[point(1.0), point(2.0)]).unwrap();
    let highest = pool.apply((points.clone(),), |points: SharedSlice<Point>| {
        points.iter().copied().max_by(|a, b| a.x.total_cmp(&b.x)).map(|point| SharedSlice::new(&[point]).unwrap())
    });
    assert_eq!(highest.unwrap().unwrap()[0], points[1]);
    let empty =
        [SharedSlice::<Point>::default(), SharedSlice::new(&[]).unwrap(), SharedSlice::build(0, |_| ()).unwrap()];
    let empty = pool.map(empty, |points| {
        assert!(points.is_empty());
        points
    });
    assert!(empty.unwrap().iter().all(|points| points.is_empty()));
}

/// Every way to a writable copy that /proc offers, in a worker that has it.
fn no_process_can_change_it(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let numbers = numbers();
    let writes = pool.apply((numbers.clone(),), |numbers: SharedSlice<u64>| {
        let memory = fs::read_dir("/proc/self/fd").unwrap().map(|entry| entry.unwrap().path());
        let memory =
            memory.filter(|path| fs::read_link(path).is_ok_and(|to| to.to_string_lossy().contains("memfd:procpool")));
        let mut tried = 0;
        for path in memory {
            let is_it = fs::metadata(&path).unwrap().len() == (LEN * 8) as u64;
            if let Some(file) = is_it.then(|| File::options().read(true).write(true).open(&path).ok()).flatten() {
                tried += 1;
                assert!(file.write_all_at(&[9], 0).is_err() && file.set_len(0).is_err());
            }
        }
        assert!(is_right(&numbers));
        tried
    });
    assert!(writes.unwrap() > 0, "the memory was not found");
    assert!(is_right(&numbers));
}

fn creator_dies_and_it_stays(method: StartMethod) {
    let pool = stage::pool(method, 1);
    let (pid, made) = pool.apply((), || (std::process::id(), numbers())).unwrap();
    stage::signal(pid, Signal::SIGKILL);
    stage::until_replaced(&pool, 1, &[pid]);
    assert!(is_right(&made));
    assert!(pool.apply((made,), |numbers: SharedSlice<u64>| is_right(&numbers)).unwrap());
}

fn length_that_does_not_fit_is_an_error(method: StartMethod) {
    #[derive(Serialize, Deserialize)]
    enum Either {
        Bytes(SharedBytes),
        #[serde(skip_serializing)]
        Numbers(SharedSlice<u64>),
    }
    /// Bytes that claim to be numbers.
    struct Lying(SharedBytes);
    impl Serialize for Lying {
        fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            serializer.serialize_newtype_variant("Either", 1, "Numbers", &self.0)
        }
    }
    impl<'de> Deserialize<'de> for Lying {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            match Either::deserialize(deserializer)? {
                Either::Bytes(bytes) => Ok(Self(bytes)),
                Either::Numbers(numbers) => panic!("{} numbers", numbers.len()),
            }
        }
    }
    let pool = stage::pool(method, 1);
    let odd = Lying(SharedBytes::new(&[1; 13]).unwrap());
    let error = stage::error(pool.apply((odd,), |_: Lying| ()));
    assert!(
        matches!(&error, TaskError::Decode { message, .. } if message.contains("13 bytes are no whole")),
        "{error}"
    );
    stage::assert_works(&pool);
}

fn forked_copy_reads_and_sends_it(method: StartMethod) {
    let numbers = numbers();
    let pool = stage::pool(method, 1);
    assert_eq!(sys::in_a_forked_copy(|| u8::from(is_right(&numbers))), 1);
    let read = pool.apply((numbers,), |numbers: SharedSlice<u64>| {
        let copy = sys::in_a_forked_copy(|| {
            let other = SharedSlice::new(&numbers[..10]).unwrap();
            u8::from(is_right(&numbers) && other[..] == numbers[..10])
        });
        (copy, numbers)
    });
    let (copy, back) = read.unwrap();
    assert!(copy == 1 && is_right(&back));
    // A fork of this process that has it is a worker which sends it.
    let nested = pool.apply((method.to_string(), back), |method, numbers: SharedSlice<u64>| {
        let inner = stage::pool(method.parse().unwrap(), 1);
        inner.apply((numbers,), |numbers: SharedSlice<u64>| numbers).unwrap()
    });
    assert!(is_right(&nested.unwrap()));
}

fn limit_of_file_sizes_is_an_error(method: StartMethod) {
    let pool = stage::pool(method, 1);
    stage::assert_works(&pool);
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, 100_000, hard).unwrap();
    let too_long = [SharedBytes::new(&[1; 100_001]), SharedBytes::build(100_001, |_| unreachable!("it is too long"))];
    for error in too_long {
        assert_eq!(error.unwrap_err().kind(), std::io::ErrorKind::FileTooLarge);
    }
    let fits = SharedBytes::new(&[1; 100_000]).unwrap();
    assert_eq!(pool.apply((fits,), |bytes: SharedBytes| bytes.len()).unwrap(), 100_000);
    setrlimit(Resource::RLIMIT_FSIZE, hard, hard).unwrap();
}

/// From worker to parent to worker, again and again.
fn passed_on_and_on_it_is_one_memory(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let mut numbers = pool.apply((), numbers).unwrap();
    for _ in 0..20 {
        numbers = pool.apply((numbers,), |numbers: SharedSlice<u64>| numbers).unwrap();
        assert!(is_right(&numbers));
        assert_eq!(mappings(), 1);
    }
}

fn nothing_is_left_when_all_are_dropped(method: StartMethod) {
    let pool = stage::pool(method, 2);
    stage::assert_works(&pool);
    let count = || processes::descriptors(std::process::id()).len();
    let before = count();
    for _ in 0..3 {
        let many: Vec<_> = (0..100u32).map(|x| SharedSlice::new(&[x]).unwrap()).collect();
        let sum = pool.map(many, |slice: SharedSlice<u32>| slice[0]).unwrap().into_iter().sum::<u32>();
        assert_eq!(sum, 4950);
    }
    assert_eq!(count(), before);
    let left = pool.map(0..4u8, |_| processes::descriptors(std::process::id()).len()).unwrap();
    assert!(left.into_iter().all(|left| left < 20));
}
