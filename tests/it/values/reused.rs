//! Reuse of files and mappings for large values: no value contains bytes of another.

use std::fs;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

use nix::sys::resource::Resource;
use nix::sys::resource::getrlimit;
use nix::sys::resource::setrlimit;
use procpool::Pool;
use procpool::StartMethod;
use procpool::TaskError;
use serde_bytes::ByteBuf;

use crate::harness::cases;
use crate::harness::stage;

cases![
    values_of_every_length_follow_each_other,
    results_that_wait_stay_as_they_are,
    deaths_among_large_values,
    timeouts_among_large_values,
    large_values_that_become_small_and_large_again,
    worker_cannot_write_what_others_are_sent,
    no_more_is_kept_than_a_few_values,
    nothing_is_kept_after_join,
    nothing_is_kept_by_an_idle_pool,
    workers_for_one_item_share_nothing,
    parent_with_a_limit_of_file_sizes_reads_large_results,
];

/// A value that differs from all others at every offset.
fn value(number: u32, len: usize) -> ByteBuf {
    let mut bytes = vec![number.to_le_bytes()[0]; len];
    for (index, place) in bytes.chunks_mut(1009).enumerate() {
        place[0] = index.to_le_bytes()[0] ^ number.to_le_bytes()[1];
    }
    ByteBuf::from(bytes)
}

fn len_of(number: u32) -> usize {
    let lengths = [70_000, 300_000, 1 << 20, 61_000, 3 << 20, 262_144, 900_000, 17 << 20];
    lengths[number as usize % lengths.len()] + number as usize
}

/// In a task: checks the argument and returns another value of the same length.
fn answer((number, bytes): (u32, ByteBuf)) -> ByteBuf {
    assert!(bytes == value(number, bytes.len()), "the argument {number} came changed");
    value(number + 1000, bytes.len())
}

fn argument(number: u32) -> (u32, ByteBuf) {
    (number, value(number, len_of(number)))
}

fn assert_answers(number: u32, bytes: &ByteBuf) {
    assert!(*bytes == value(number + 1000, len_of(number)), "the result {number} came back changed");
}

fn values_of_every_length_follow_each_other(method: StartMethod) {
    let pool = stage::pool(method, 2);
    for round in 0..3 {
        let numbers = round * 40..round * 40 + 24;
        for (number, bytes) in numbers.clone().zip(pool.imap(numbers.clone().map(argument), answer)) {
            assert_answers(number, &bytes.unwrap());
        }
        for number in numbers {
            assert_answers(number, &pool.apply((argument(number),), answer).unwrap());
        }
    }
}

/// The results stay undecoded in the workers' files while the workers continue.
fn results_that_wait_stay_as_they_are(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let waiting: Vec<_> = (0..12).map(|number| (number, pool.apply_async((argument(number),), answer))).collect();
    for number in 100..130 {
        assert_answers(number, &pool.apply((argument(number),), answer).unwrap());
    }
    for (number, result) in waiting {
        assert_answers(number, &result.get().unwrap());
        assert_answers(number + 1, &pool.apply((argument(number + 1),), answer).unwrap());
    }
}

fn answer_or_die(argument: (u32, ByteBuf)) -> ByteBuf {
    if argument.0 % 7 == 3 {
        std::process::abort();
    }
    answer(argument)
}

fn deaths_among_large_values(method: StartMethod) {
    let pool = stage::pool(method, 3);
    for round in 0..2 {
        let numbers = round * 50..round * 50 + 40;
        let results = pool.map_results(numbers.clone().map(argument), answer_or_die).unwrap();
        for (number, result) in numbers.zip(results) {
            match result {
                Ok(bytes) => assert_answers(number, &bytes),
                Err(error) => assert!(number % 7 == 3 && matches!(error, TaskError::WorkerDied { .. }), "{error}"),
            }
        }
    }
}

/// A worker may be killed while it reads its argument.
fn answer_or_hang(argument: (u32, ByteBuf)) -> ByteBuf {
    if argument.0 % 9 == 4 {
        loop {
            std::hint::spin_loop();
        }
    }
    answer(argument)
}

fn timeouts_among_large_values(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let numbers = 0..18;
    let timed = pool.timeout(Duration::from_secs(2));
    for (number, result) in numbers.clone().zip(timed.imap(numbers.map(argument), answer_or_hang)) {
        match result {
            Ok(bytes) => assert_answers(number, &bytes),
            Err(error) => assert!(number % 9 == 4 && matches!(error, TaskError::TimedOut { .. }), "{number}: {error}"),
        }
    }
}

/// Bytes beyond a short value in its file are not part of the value.
fn large_values_that_become_small_and_large_again(method: StartMethod) {
    let pool = stage::pool(method, 1);
    for len in [2 << 20, 70_000, 2 << 20, 262_144, 5 << 20, 100_000, 61_441, 5 << 20] {
        let result = pool.apply(((7, value(7, len)),), answer).unwrap();
        assert!(result == value(1007, len), "{len} bytes came back changed");
    }
}

/// In a task: tries to write to every large value that is mapped. Returns how many there are, and the first way that
/// worked.
fn deface(_large: ByteBuf) -> (usize, Option<String>) {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let lines = maps.lines().filter(|line| line.contains("memfd:procpool ") || line.ends_with("memfd:procpool"));
    let ranges: Vec<&str> = lines.filter_map(|line| line.split(' ').next()).collect();
    let memory = File::options().read(true).write(true).open("/proc/self/mem").unwrap();
    let mut written = None;
    for range in &ranges {
        let start = u64::from_str_radix(range.split('-').next().unwrap(), 16).unwrap();
        if memory.write_at(b"defaced", start + 5000).is_ok() {
            written = Some(format!("by /proc/self/mem at {range}"));
        }
        // Needs privileges that most programs do not have.
        let file = File::options().write(true).open(format!("/proc/self/map_files/{range}"));
        if file.is_ok_and(|file| file.write_at(b"defaced", 5000).is_ok() || file.set_len(0).is_ok()) {
            written = Some(format!("by /proc/self/map_files/{range}"));
        }
    }
    (ranges.len(), written)
}

fn worker_cannot_write_what_others_are_sent(method: StartMethod) {
    let pool = stage::pool(method, 2);
    for number in 0..20 {
        let (mapped, written) = pool.apply((value(number, 1 << 20),), deface).unwrap();
        assert_eq!(written, None);
        assert!(mapped > 0, "it has its argument mapped");
        assert_answers(number, &pool.apply((argument(number),), answer).unwrap());
    }
}

/// How many bytes of this process's memory belong to files for large values.
fn kept() -> u64 {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let lines = maps.lines().filter(|line| line.contains("memfd:procpool ") || line.ends_with("memfd:procpool"));
    let ranges = lines.filter_map(|line| line.split(' ').next()?.split_once('-'));
    let len = |(start, end)| u64::from_str_radix(end, 16).unwrap() - u64::from_str_radix(start, 16).unwrap();
    ranges.map(len).sum()
}

fn many(pool: &Pool, count: usize, len: usize) {
    let values: Vec<_> = (0..count).map(|_| value(0, len)).collect();
    let lengths = pool.map_async(values, |bytes: ByteBuf| bytes.len()).get().unwrap();
    assert_eq!(lengths, vec![len; count]);
}

fn no_more_is_kept_than_a_few_values(method: StartMethod) {
    let pool = stage::pool(method, 2);
    for _ in 0..2 {
        many(&pool, 40, 3 << 20);
        let kept = kept();
        assert!((1..=33 << 20).contains(&kept), "{kept} bytes are kept");
    }
    many(&pool, 300, 62_000);
    let (maps, fds) = (fs::read_to_string("/proc/self/maps").unwrap(), fs::read_dir("/proc/self/fd").unwrap());
    let mapped =
        maps.lines().filter(|line| line.contains("memfd:procpool ") || line.ends_with("memfd:procpool")).count();
    let links = fds.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
    let open = links.filter(|link| link.to_string_lossy().starts_with("/memfd:procpool ")).count();
    assert!(mapped <= 16 && open <= 16, "{mapped} files are mapped, and {open} are open");
}

fn nothing_is_kept_after_join(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let held = pool.apply_async((value(1, 3 << 20),), |bytes: ByteBuf| bytes.len());
    many(&pool, 10, 3 << 20);
    assert_eq!(held.get().unwrap(), 3 << 20);
    assert!(kept() > 0);
    pool.close();
    pool.join().unwrap();
    assert_eq!(kept(), 0);
    // Values that were never sent or never fetched are not kept either.
    assert_eq!(held.get().unwrap(), 3 << 20);
    drop((pool, held));
    assert_eq!(kept(), 0);
}

/// How many files for large values a process has open or mapped.
fn files_of(pid: u32) -> usize {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
    let mapped = maps.lines().filter(|line| line.contains("/memfd:procpool ") || line.ends_with("/memfd:procpool"));
    let links = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
    let links = links.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
    mapped.count() + links.filter(|link| link.to_string_lossy().starts_with("/memfd:procpool ")).count()
}

/// A moment after the last large value nothing is left of it, here and in the workers. Values go on as before.
fn nothing_is_kept_by_an_idle_pool(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let held = pool.apply((5u32,), |number| value(number, 3 << 20)).unwrap();
    for number in 0..2 {
        stage::until_all_work(&pool);
        for _ in 0..10 {
            let result = pool.apply((value(number, 5 << 20),), |bytes: ByteBuf| bytes).unwrap();
            assert!(result == value(number, 5 << 20));
        }
        assert!(files_of(std::process::id()) > 0);
        let all = || pool.pids().into_iter().chain([std::process::id()]).map(files_of).sum::<usize>();
        stage::until("all is given back", || all() == 0);
    }
    assert!(held == value(5, 3 << 20));
}

/// In a task: how many large values are mapped, and how many of them in files that can still grow, so that they could
/// carry another value.
fn mapped_and_shared(_large: ByteBuf) -> (usize, usize) {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let lines = maps.lines().filter(|line| line.contains("memfd:procpool ") || line.ends_with("memfd:procpool"));
    let modes: Vec<&str> = lines.filter_map(|line| line.split(' ').nth(1)).collect();
    (modes.len(), modes.iter().filter(|mode| mode.ends_with('s')).count())
}

/// Each worker receives its argument in a separate file, which carries no later value for another worker.
fn workers_for_one_item_share_nothing(method: StartMethod) {
    let pool = Pool::builder().processes(2).start_method(method).max_tasks_per_child(1).build().unwrap();
    for number in 0..6 {
        assert_eq!(pool.apply((value(number, 1 << 20),), mapped_and_shared).unwrap(), (1, 0));
    }
    assert_eq!(kept(), 0);
}

/// The worker marks the file as read, which must not be a write beyond the limit: that would raise SIGXFSZ.
fn parent_with_a_limit_of_file_sizes_reads_large_results(method: StartMethod) {
    let pool = stage::pool(method, 1);
    stage::assert_works(&pool);
    let (_, hard) = getrlimit(Resource::RLIMIT_FSIZE).unwrap();
    setrlimit(Resource::RLIMIT_FSIZE, 1 << 20, hard).unwrap();
    for number in 0..6 {
        let result = pool.apply((number,), |number| value(number, 8 << 20)).unwrap();
        assert!(result == value(number, 8 << 20));
    }
}
