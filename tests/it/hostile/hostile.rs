//! Tasks that write to what their worker shares with the parent: shared memory, the parent's bell, the control socket.
//!
//! The worst that a task may do to other items is to lose those that its own worker holds. Each attack runs twice, in
//! a call whose other items must all have their values: once while other workers run long items, which must be
//! unaffected, and once while they are idle and would take work over. Nothing runs twice, and afterwards the parent
//! is idle.

use std::fs;
use std::fs::File;
use std::io::IoSlice;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

use nix::fcntl::FallocateFlags;
use nix::fcntl::fallocate;
use nix::sys::resource::UsageWho;
use nix::sys::resource::getrusage;
use procpool::Pool;
use procpool::StartMethod;
use procpool::TaskError;
use serde::Deserialize;
use serde::Serialize;
use start_methods::PrivateFd;
use start_methods::Socket;

use crate::harness::cases;
use crate::harness::processes;
use crate::harness::stage;
use crate::harness::stage::Gate;
use crate::harness::stage::Notebook;
use crate::harness::sys;

cases![
    noise_in_the_shared_memory,
    noise_that_never_ends,
    ledger_that_lies_about_what_is_done,
    ledger_that_lies_about_what_was_sent,
    ledger_with_other_flags,
    ledger_that_changes_all_the_time,
    garbled_answers,
    answers_for_items_that_were_never_given,
    shared_memory_cannot_be_cut,
    holes_in_the_shared_memory,
    bell_that_rings_for_ever,
    nonsense_on_the_control_socket,
    floods_on_the_control_socket_end_their_worker,
    answer_behind_nonsense_arrives,
    item_that_denies_having_begun_costs_no_more_than_so_many_workers,
    descriptors_on_the_control_socket,
];

/// Offsets of the parts of the shared memory.
const LEDGER: u64 = 0;
const ANSWERED: u64 = 8;
const HEAD_LEN: u64 = 4096;
const UP_RING: u64 = HEAD_LEN + 64 * 1024;
const LEN: u64 = HEAD_LEN + 2 * 64 * 1024;

const DONE_SHIFT: u32 = 8;
const SENT_SHIFT: u32 = 36;
const COUNT_MASK: u64 = (1 << 28) - 1;

/// The items of one call, the distance between two attacks, and the chunk size.
const ITEMS: u32 = 60;
const EVERY: u32 = 25;
const CHUNK: usize = 5;
/// Maximum items that a worker holds with items of this length: the chunk that it runs, and one more of the same size.
const HELD_MAX: usize = 2 * CHUNK;

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
enum Attack {
    Noise,
    NoiseForEver,
    /// Adds this to the count.
    Done(i32),
    Sent(i32),
    /// The flags to set, and those to clear.
    Flags(u64, u64),
    Word(u64),
    WordsForEver,
    /// Noise in the ring of answers, and its end moved by this much.
    Answers(i64),
    /// This many more answers, each with the same value.
    Forge(u16),
    Cut,
    /// Start and length.
    Hole(u64, u64),
    RingForEver,
    Babble,
    Descriptors,
}

impl Attack {
    /// Whether the attack can make the ledger plausibly state that the running item has not begun, or make the worker
    /// read other orders than it was sent. Then items of this worker may be damaged without being detected.
    fn may_lie(self) -> bool {
        match self {
            // The parent of a busy machine may not have seen that the item before is done, and then it seems to run.
            Attack::NoiseForEver | Attack::WordsForEver | Attack::Done(-1) => true,
            Attack::Hole(start, len) => (start..start + len).contains(&HEAD_LEN),
            _ => false,
        }
    }
}

/// This worker's rings, opened for arbitrary writes. `None` if there are none, or the system does not allow it.
pub(super) struct Rings {
    memory: File,
    start: u64,
    range: String,
}

impl Rings {
    pub(super) fn find() -> Option<Rings> {
        let maps = fs::read_to_string("/proc/self/maps").unwrap();
        let lines: Vec<&str> = maps.lines().filter(|line| line.contains("procpool-rings")).collect();
        let range = lines.first()?.split(' ').next()?.to_owned();
        assert_eq!(lines.len(), 1, "a worker maps only its own rings");
        let start = u64::from_str_radix(range.split('-').next()?, 16).ok()?;
        let memory = File::options().read(true).write(true).open("/proc/self/mem").ok()?;
        Some(Rings { memory, start, range })
    }

    pub(super) fn write(&self, offset: u64, bytes: &[u8]) {
        self.memory.write_all_at(bytes, self.start + offset).unwrap();
    }

    fn read(&self, offset: u64) -> u64 {
        let mut bytes = [0; 8];
        self.memory.read_exact_at(&mut bytes, self.start + offset).unwrap();
        u64::from_le_bytes(bytes)
    }

    /// Moves the counts of the ledger.
    fn move_counts(&self, sent: i32, done: i32) {
        let word = self.read(LEDGER);
        let moved = |shift: u32, by: i32| {
            let count = (word >> shift & COUNT_MASK).wrapping_add_signed(by.into()) & COUNT_MASK;
            count << shift
        };
        let flags = word & ((1 << DONE_SHIFT) - 1);
        self.write(LEDGER, &(moved(SENT_SHIFT, sent) | moved(DONE_SHIFT, done) | flags).to_le_bytes());
    }

    fn file(&self) -> Option<File> {
        File::options().read(true).write(true).open(format!("/proc/self/map_files/{}", self.range)).ok()
    }
}

const BEGUN: u64 = 1;
/// No item costs more workers than this.
const DEATHS_MAX: usize = 100;

struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn bytes(&mut self, len: u64) -> Vec<u8> {
        (0..len / 8).flat_map(|_| self.next().to_le_bytes()).collect()
    }
}

/// Starts a thread that repeats this as long as the process lives.
fn for_ever(mut f: impl FnMut() + Send + 'static) {
    thread::spawn(move || {
        loop {
            f();
            thread::sleep(Duration::from_micros(100));
        }
    });
}

fn targets(wanted: &str) -> Vec<i32> {
    let all = processes::descriptors(std::process::id());
    all.into_iter().filter(|(fd, target)| *fd > 2 && target.starts_with(wanted)).map(|(fd, _)| fd).collect()
}

/// In a task: attacks. Returns whether that was possible.
fn attack(attack: Attack) -> bool {
    let Some(rings) = Rings::find() else { return false };
    let mut noise = Noise(u64::from(std::process::id()) << 20 | 1);
    match attack {
        Attack::Noise => rings.write(0, &noise.bytes(LEN)),
        Attack::NoiseForEver => for_ever(move || rings.write(0, &noise.bytes(LEN))),
        Attack::Done(by) => rings.move_counts(0, by),
        Attack::Sent(by) => rings.move_counts(by, 0),
        Attack::Flags(set, cleared) => {
            let word = rings.read(LEDGER);
            rings.write(LEDGER, &(word & !cleared | set).to_le_bytes());
        }
        Attack::Word(word) => rings.write(LEDGER, &word.to_le_bytes()),
        Attack::WordsForEver => for_ever(move || {
            rings.move_counts((noise.next() % 3) as i32 - 1, (noise.next() % 3) as i32 - 1);
            rings.write(LEDGER, &[(noise.next() & 0xff) as u8]);
        }),
        Attack::Answers(by) => {
            rings.write(UP_RING, &noise.bytes(LEN - UP_RING));
            rings.write(ANSWERED, &rings.read(ANSWERED).wrapping_add_signed(by).to_le_bytes());
        }
        Attack::Forge(answers) => {
            let end = rings.read(ANSWERED);
            let place = end % (LEN - UP_RING);
            let value = [&1u32.to_le_bytes()[..], &[7]].concat();
            rings.write(UP_RING + place.min(32 * 1024), &value.repeat(answers.into()));
            rings.write(ANSWERED, &(end + 5 * u64::from(answers)).to_le_bytes());
            rings.move_counts(0, i32::from(answers));
        }
        Attack::Cut => {
            let Some(file) = rings.file() else { return false };
            for len in [0, LEN - 1, LEN + 4096] {
                let refused = file.set_len(len).unwrap_err();
                assert_eq!(refused.raw_os_error(), Some(libc::EPERM));
            }
        }
        Attack::Hole(start, len) => {
            let Some(file) = rings.file() else { return false };
            let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            let signed = |number: u64| i64::try_from(number).unwrap();
            fallocate(&file, flags, signed(start), signed(len)).unwrap();
        }
        Attack::RingForEver => {
            let mut bells: Vec<File> =
                targets("anon_inode:[eventfd]").into_iter().map(|fd| File::from(sys::copy_of(fd))).collect();
            assert!(!bells.is_empty());
            for_ever(move || bells.iter_mut().for_each(|bell| drop(bell.write(&1u64.to_ne_bytes()))));
        }
        Attack::Babble => for_ever(move || {
            for fd in targets("socket:") {
                sys::write_anyway(fd, &noise.bytes(64));
                sys::write_anyway(fd, &noise.bytes(100_000));
            }
        }),
        Attack::Descriptors => {
            let null = File::open("/dev/null").unwrap();
            let copies: [BorrowedFd<'_>; 16] = [null.as_fd(); 16];
            for fd in targets("socket:") {
                let socket = Socket::from_fd(PrivateFd::adopt(sys::copy_of(fd)).unwrap());
                // Whatever they mean: an attachment and a panic report are among them.
                for kind in 0..20 {
                    drop(socket.try_send(&[IoSlice::new(&[kind, kind])], &copies));
                }
            }
        }
    }
    true
}

fn item(book: &str, x: u32, planned: Option<Attack>) -> u32 {
    stage::note(book, x);
    if let Some(planned) = planned
        && !attack(planned)
    {
        stage::note(book, "not here");
    }
    thread::sleep(Duration::from_millis(1));
    3 * x + 1
}

/// The CPU time that this process has used.
fn used() -> Duration {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    let duration = |time: nix::sys::time::TimeVal| {
        let micros = 1_000_000 * time.tv_sec() + time.tv_usec();
        Duration::from_micros(micros.unsigned_abs())
    };
    duration(usage.user_time()) + duration(usage.system_time())
}

/// Checks that the parent is idle: asleep it uses no CPU time, and in a busy loop it uses all.
fn assert_at_rest(what: Attack) {
    let mut busy = Duration::ZERO;
    for _ in 0..20 {
        let before = used();
        thread::sleep(Duration::from_millis(100));
        busy = used() - before;
        if busy < Duration::from_millis(20) {
            return;
        }
    }
    panic!("{what:?}: the parent has used {busy:?} of the last 100 ms");
}

/// Runs one call with the attack in it, while `others` workers run long items. Returns how many items were lost.
fn besiege(pool: &Pool, planned: Attack, others: usize) -> usize {
    let (book, gate_book, mut gate) = (Notebook::new(), Notebook::new(), Gate::closed());
    let long: fn(String, String) -> u32 = |book, gate| {
        stage::note(&book, "here");
        stage::pass(&gate);
        17
    };
    let long: Vec<_> = (0..others).map(|_| pool.apply_async((gate_book.path(), gate.path()), long)).collect();
    gate_book.wait_for(others);

    let plan = |x: u32| (x % EVERY == EVERY - 1).then_some(planned);
    let items = (0..ITEMS).map(|x| (book.path(), x, plan(x)));
    let results = pool.chunk_size(CHUNK).map_results(items, |(book, x, planned)| item(&book, x, planned)).unwrap();

    assert_eq!(results.len(), ITEMS as usize);
    let mut lost = 0;
    for (x, result) in (0u32..).zip(results) {
        match result {
            Ok(value) if value == 3 * x + 1 => {}
            Ok(value) if !planned.may_lie() => panic!("{planned:?}, item {x}: {value}"),
            Ok(_) => lost += 1,
            Err(TaskError::WorkerDied { .. } | TaskError::Decode { .. }) => lost += 1,
            Err(other) => panic!("{planned:?}, item {x}: {other:?}"),
        }
    }
    gate.open();
    for handle in long {
        assert_eq!(handle.get().unwrap(), 17, "{planned:?}: another worker's item");
    }
    let mut ran = book.lines();
    let attacks = (ITEMS / EVERY) as usize;
    if ran.iter().any(|line| line == "not here") {
        ran.retain(|line| line != "not here");
        assert_eq!(lost, 0, "there was no attack");
    }
    ran.sort();
    let count = ran.len();
    ran.dedup();
    assert!(count == ran.len() || planned.may_lie(), "{planned:?}: an item ran twice");
    assert!(lost <= attacks * HELD_MAX, "{planned:?}: {lost} items lost");
    lost
}

/// Runs both sieges with each attack, and checks the pool afterwards. Returns how many items each attack has cost.
fn endure(method: StartMethod, attacks: &[Attack]) -> Vec<usize> {
    let pool = stage::pool(method, 3);
    stage::until_all_work(&pool);
    let costs = attacks
        .iter()
        .map(|&planned| {
            let lost = besiege(&pool, planned, 2) + besiege(&pool, planned, 0);
            assert_at_rest(planned);
            // A worker that still writes is detected as soon as it has work.
            stage::until("the end of the last writer", || pool.map(0..100u32, |x| x).is_ok());
            stage::assert_works(&pool);
            lost
        })
        .collect();
    pool.close();
    pool.join().unwrap();
    costs
}

fn noise_in_the_shared_memory(method: StartMethod) {
    endure(method, &[Attack::Noise]);
}

fn noise_that_never_ends(method: StartMethod) {
    endure(method, &[Attack::NoiseForEver]);
}

fn ledger_that_lies_about_what_is_done(method: StartMethod) {
    endure(method, &[Attack::Done(1), Attack::Done(1000), Attack::Done(-1), Attack::Done(-1000)]);
}

fn ledger_that_lies_about_what_was_sent(method: StartMethod) {
    endure(
        method,
        &[Attack::Sent(1), Attack::Sent(-1), Attack::Sent(100_000), Attack::Word(0), Attack::Word(u64::MAX)],
    );
}

fn ledger_with_other_flags(method: StartMethod) {
    // `begun` cleared, the hold set, and the flags about sleeping set and cleared.
    endure(
        method,
        &[Attack::Flags(0, 1), Attack::Flags(8, 0), Attack::Flags(0b1_0110, 0), Attack::Flags(0xe0, 0b1_1110)],
    );
}

fn ledger_that_changes_all_the_time(method: StartMethod) {
    endure(method, &[Attack::WordsForEver]);
}

fn garbled_answers(method: StartMethod) {
    endure(method, &[Attack::Answers(0), Attack::Answers(1), Attack::Answers(-3), Attack::Answers(1 << 40)]);
}

fn answers_for_items_that_were_never_given(method: StartMethod) {
    endure(method, &[Attack::Forge(100), Attack::Forge(1000)]);
}

fn shared_memory_cannot_be_cut(method: StartMethod) {
    assert_eq!(endure(method, &[Attack::Cut]), [0]);
}

fn holes_in_the_shared_memory(method: StartMethod) {
    endure(
        method,
        &[
            Attack::Hole(0, LEN),
            Attack::Hole(0, HEAD_LEN),
            Attack::Hole(HEAD_LEN, LEN - HEAD_LEN),
            Attack::Hole(UP_RING, LEN - UP_RING),
        ],
    );
}

fn bell_that_rings_for_ever(method: StartMethod) {
    endure(method, &[Attack::RingForEver]);
}

fn nonsense_on_the_control_socket(method: StartMethod) {
    endure(method, &[Attack::Babble]);
}

fn descriptors_on_the_control_socket(method: StartMethod) {
    endure(method, &[Attack::Descriptors]);
}

/// In a task: lets the ledger say that this item has not begun, and dies.
fn deny_and_die(book: &str) {
    stage::note(book, std::process::id());
    attack(Attack::Flags(0, BEGUN));
    std::process::abort();
}

fn item_that_denies_having_begun_costs_no_more_than_so_many_workers(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let book = Notebook::new();
    let deny: fn(String) = |book| deny_and_die(&book);
    let error = pool.retries(3).apply_async((book.path(),), deny).get().unwrap_err();
    assert!(matches!(error, TaskError::WorkerDied { .. }), "{error:?}");
    // A few deaths are seen before the item was taken back from the worker, and are not counted against it.
    let deaths = book.lines().len();
    assert!(deaths <= 2 * DEATHS_MAX, "{deaths} workers died of it");
    stage::assert_works(&pool);
}

/// Reports that a worker may send, each once: encoded last words, and an attachment without a descriptor.
const LAST_WORDS: &[u8] = &[4, 0, 0, 0, 0];
const ATTACHMENT: &[u8] = &[3, 0];

/// In a task: sends this on the control socket, so many times, and waits for room.
fn repeat_on_the_control_socket(message: &[u8], times: u64) {
    for fd in targets("socket:").into_iter().filter(|&fd| sys::carries_messages(fd)) {
        let socket = Socket::from_fd(PrivateFd::adopt(sys::copy_of(fd)).unwrap());
        for _ in 0..times {
            drop(socket.send(&[IoSlice::new(message)], &[]));
        }
    }
}

/// A worker that floods its control socket is ended, and its item with it; neither waits for the end of the flood.
fn floods_on_the_control_socket_end_their_worker(method: StartMethod) {
    let pool = stage::pool(method, 2);
    for message in [LAST_WORDS, ATTACHMENT, &[0], &[99]] {
        let flood: fn(Vec<u8>) = |message| repeat_on_the_control_socket(&message, u64::MAX);
        let error = pool.apply_async((message.to_vec(),), flood).get().unwrap_err();
        assert!(matches!(error, TaskError::WorkerDied { .. }), "{message:?}: {error:?}");
        stage::assert_works(&pool);
    }
}

/// A few malformed messages cost the worker all further work, but not the answer to what it runs, also if that needs
/// the control socket.
fn answer_behind_nonsense_arrives(method: StartMethod) {
    let pool = stage::pool(method, 2);
    let babble: fn(Vec<u8>) -> Vec<u8> = |message| {
        repeat_on_the_control_socket(&message, 3);
        vec![7; 1 << 20]
    };
    for message in [LAST_WORDS, ATTACHMENT, &[99]] {
        match pool.apply((message.to_vec(),), babble) {
            Ok(bytes) => assert_eq!(bytes, vec![7; 1 << 20]),
            // Over a socket, the link is a socket too, and what comes there is taken as an answer.
            Err(TaskError::WorkerDied { .. } | TaskError::Decode { .. }) => assert!(Rings::find().is_none()),
            Err(error) => panic!("{message:?}: {error:?}"),
        }
    }
    stage::assert_works(&pool);
}
