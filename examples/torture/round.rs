//! One round: processes that send and receive on one channel and are killed at random, and what became of each message.
//!
//! Every process appends what it has done to a file: a sender the number of each message that `send` has accepted, a receiver
//! the number of each message that it has received. Appending is one system call, so a kill cuts no entry in two.

use std::collections::HashMap;
use std::collections::HashSet;
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use nix::fcntl::FcntlArg;
use nix::fcntl::OFlag;
use nix::fcntl::fcntl;
use nix::sys::memfd::MFdFlags;
use nix::sys::memfd::memfd_create;
use procpool::__start_methods::Birth;
use procpool::__start_methods::Boot;
use procpool::__start_methods::Child;
use procpool::__start_methods::PrivateFd;
use procpool::__start_methods::start;
use procpool::StartMethod;
use procpool::channel;
use procpool::channel::Receiver;
use procpool::channel::Sender;

/// A round that makes no progress for so long has stalled. So has a process that does not end.
const STALLED: Duration = Duration::from_secs(20);
/// Every so many messages one is long, and travels in a file.
const LONG_EVERY: u64 = 64;
const LONG_LEN: usize = 20_000;
/// Processes of each side.
const PROCESSES: usize = 2;
const ENTRY_LEN: usize = 16;
/// After so many kills there is none until so many messages have been received.
const KILLS_IN_A_ROW: u64 = 20;
const MESSAGES_BETWEEN: u64 = 200;

/// Which processes are killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Victims {
    Senders,
    Receivers,
    Both,
}

/// How a round ends for the processes that are left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// The channel is closed.
    Close,
    /// All senders are killed: the kernel tells the receivers.
    KillSenders,
}

#[derive(Clone, Copy, Debug)]
pub(crate) struct Round {
    pub(crate) method: StartMethod,
    pub(crate) time: Duration,
    /// How many messages the channel holds.
    pub(crate) capacity: usize,
    pub(crate) victims: Victims,
    pub(crate) ending: Ending,
    /// Kills are this far apart, on average.
    pub(crate) pause: Duration,
    pub(crate) seed: u64,
}

/// What became of the messages. All but the first four are zero if the channel keeps its promises.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) sent: u64,
    pub(crate) received: u64,
    pub(crate) killed_senders: u64,
    pub(crate) killed_receivers: u64,
    /// Accepted and never received, beyond one for each receiver that was killed.
    pub(crate) lost: u64,
    pub(crate) twice: u64,
    pub(crate) out_of_order: u64,
    pub(crate) stalls: u64,
    /// Processes that did not see the end, or ended in another way.
    pub(crate) bad_ends: u64,
}

impl Tally {
    pub(crate) fn faults(&self) -> u64 {
        self.lost + self.twice + self.out_of_order + self.stalls + self.bad_ends
    }

    /// For the example; the test has one tally for each round.
    #[cfg_attr(test, expect(dead_code, reason = "for the example"))]
    pub(crate) fn add(&mut self, other: &Tally) {
        self.sent += other.sent;
        self.received += other.received;
        self.killed_senders += other.killed_senders;
        self.killed_receivers += other.killed_receivers;
        self.lost += other.lost;
        self.twice += other.twice;
        self.out_of_order += other.out_of_order;
        self.stalls += other.stalls;
        self.bad_ends += other.bad_ends;
    }
}

type Message = (u64, Vec<u8>);

/// The number of a message: its sender, and how many that one has sent before.
fn number(sender: u32, count: u32) -> u64 {
    u64::from(sender) << 32 | u64::from(count)
}

/// Which of the two sides a process is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Senders,
    Receivers,
}

/// A file to which processes append numbers.
#[derive(Debug)]
struct Log(File);

impl Log {
    fn new() -> anyhow::Result<Self> {
        let fd = memfd_create("torture", MFdFlags::MFD_CLOEXEC)?;
        fcntl(&fd, FcntlArg::F_SETFL(OFlag::O_APPEND))?;
        Ok(Self(File::from(fd)))
    }

    fn append(&mut self, number: u64, process: u64) {
        let mut entry = [0; ENTRY_LEN];
        entry[..8].copy_from_slice(&number.to_le_bytes());
        entry[8..].copy_from_slice(&process.to_le_bytes());
        self.0.write_all(&entry).expect("there is memory for a log");
    }

    fn len(&self) -> anyhow::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn entries(&self) -> anyhow::Result<Vec<(u64, u64)>> {
        let mut bytes = vec![0; usize::try_from(self.len()?)?];
        self.0.read_exact_at(&mut bytes, 0)?;
        let word = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().expect("eight bytes"));
        Ok(bytes.chunks_exact(ENTRY_LEN).map(|entry| (word(&entry[..8]), word(&entry[8..]))).collect())
    }
}

/// What a process was handed: the end of the channel, the log, and its own number.
fn handed(birth: &Birth) -> (Vec<OwnedFd>, Log, u32) {
    let clone = |fd: &PrivateFd| fd.as_fd().try_clone_to_owned().expect("there are descriptors left");
    let mut fds: Vec<OwnedFd> = birth.fds.iter().map(clone).collect();
    let log = Log(File::from(fds.pop().expect("the log comes last")));
    let process = birth.payload.as_slice().try_into().map(u32::from_le_bytes).expect("four bytes");
    (fds, log, process)
}

fn send(birth: Birth) -> u8 {
    let (fds, mut log, process) = handed(&birth);
    drop(birth);
    let tx = Sender::<Message>::from_fds(fds).expect("an end of a channel");
    for count in 0..u32::MAX {
        let number = number(process, count);
        let len = if number % LONG_EVERY == 0 { LONG_LEN } else { usize::try_from(number % 170).expect("small") };
        if tx.send((number, vec![7; len])).is_err() {
            break;
        }
        log.append(number, 0);
    }
    0
}

fn receive(birth: Birth) -> u8 {
    let (fds, mut log, process) = handed(&birth);
    drop(birth);
    let rx = Receiver::<Message>::from_fds(fds).expect("an end of a channel");
    for message in &rx {
        match message {
            Ok((number, bytes)) if bytes.iter().all(|&byte| byte == 7) => log.append(number, process.into()),
            _ => return 1,
        }
    }
    0
}

/// The processes of a round.
struct Crowd<'a> {
    round: &'a Round,
    tx: Sender<Message>,
    rx: Receiver<Message>,
    sent: Log,
    received: Log,
    senders: Vec<Child>,
    receivers: Vec<Child>,
    /// How many processes there have been.
    started: u32,
}

impl Crowd<'_> {
    fn start(&mut self, side: Side) -> anyhow::Result<Child> {
        self.started += 1;
        let (entry, mut fds, log): (fn(Birth) -> u8, Vec<BorrowedFd<'_>>, &Log) = match side {
            Side::Senders => (send, self.tx.to_fds(), &self.sent),
            Side::Receivers => (receive, self.rx.to_fds(), &self.received),
        };
        fds.push(log.0.as_fd());
        let payload = self.started.to_le_bytes();
        Ok(start(self.round.method, &Boot::new(entry).name("torture").fds(&fds).payload(&payload))?)
    }

    /// Kills one process and starts another in its place.
    fn replace(&mut self, side: Side, index: usize) -> anyhow::Result<()> {
        let new = self.start(side)?;
        let place = match side {
            Side::Senders => &mut self.senders[index],
            Side::Receivers => &mut self.receivers[index],
        };
        std::mem::replace(place, new).kill()?;
        Ok(())
    }
}

/// Runs a round.
///
/// # Errors
///
/// The system is short of something. What the channel does wrong is counted.
pub(crate) fn run(round: &Round) -> anyhow::Result<Tally> {
    let (tx, rx) = channel::bounded(round.capacity)?;
    let (sent, received) = (Log::new()?, Log::new()?);
    let (senders, receivers) = (Vec::new(), Vec::new());
    let mut crowd = Crowd { round, tx, rx, sent, received, senders, receivers, started: 0 };
    for _ in 0..PROCESSES {
        let (sender, receiver) = (crowd.start(Side::Senders)?, crowd.start(Side::Receivers)?);
        crowd.senders.push(sender);
        crowd.receivers.push(receiver);
    }
    let mut tally = Tally::default();
    kill_at_random(&mut crowd, &mut tally)?;
    finish(crowd, tally)
}

fn kill_at_random(crowd: &mut Crowd<'_>, tally: &mut Tally) -> anyhow::Result<()> {
    let round = crowd.round;
    let mut dice = round.seed | 1;
    let began = Instant::now();
    for kill in 1u64.. {
        if began.elapsed() >= round.time {
            break;
        }
        dice ^= dice << 13;
        dice ^= dice >> 7;
        dice ^= dice << 17;
        let pause = u64::try_from(round.pause.as_nanos())?;
        thread::sleep(Duration::from_nanos(pause / 2 + dice % pause.max(1)));
        let side = match round.victims {
            Victims::Senders => Side::Senders,
            Victims::Receivers => Side::Receivers,
            Victims::Both if dice >> 33 & 1 == 0 => Side::Senders,
            Victims::Both => Side::Receivers,
        };
        crowd.replace(side, usize::try_from(dice >> 20)? % PROCESSES)?;
        match side {
            Side::Senders => tally.killed_senders += 1,
            Side::Receivers => tally.killed_receivers += 1,
        }
        // A sleeper that is forgotten would be replaced by the next kill, or woken by what takes its victim's place.
        if kill % KILLS_IN_A_ROW == 0 && !passes_messages(crowd)? {
            tally.stalls += 1;
            break;
        }
    }
    Ok(())
}

/// Whether the processes that are left go on by themselves.
fn passes_messages(crowd: &Crowd<'_>) -> anyhow::Result<bool> {
    let (began, before) = (Instant::now(), crowd.received.len()?);
    while crowd.received.len()? < before + MESSAGES_BETWEEN * ENTRY_LEN as u64 {
        if began.elapsed() > STALLED {
            return Ok(false);
        }
        thread::sleep(Duration::from_millis(1));
    }
    Ok(true)
}

/// Lets the processes that are left see the end, and counts.
fn finish(crowd: Crowd<'_>, mut tally: Tally) -> anyhow::Result<Tally> {
    let Crowd { round, tx, rx, sent, received, senders, receivers, .. } = crowd;
    match round.ending {
        Ending::Close => tx.close(),
        Ending::KillSenders => {
            for sender in &senders {
                sender.kill()?;
                tally.killed_senders += 1;
            }
        }
    }
    drop((tx, rx));
    let left =
        if round.ending == Ending::Close { senders.iter().chain(&receivers) } else { [].iter().chain(&receivers) };
    for child in left {
        let ended = child.wait_timeout(STALLED)?;
        tally.bad_ends += u64::from(ended.is_none_or(|exit| !exit.success()));
    }
    drop((senders, receivers));
    count(&sent.entries()?, &received.entries()?, &mut tally);
    Ok(tally)
}

fn count(sent: &[(u64, u64)], received: &[(u64, u64)], tally: &mut Tally) {
    let mut seen = HashSet::with_capacity(received.len());
    // The last number that a receiver got from a sender.
    let mut last: HashMap<(u64, u64), u64> = HashMap::new();
    for &(number, receiver) in received {
        tally.twice += u64::from(!seen.insert(number));
        let before = last.insert((receiver, number >> 32), number);
        tally.out_of_order += u64::from(before.is_some_and(|before| before >= number));
    }
    let missing = sent.iter().filter(|(number, _)| !seen.contains(number)).count() as u64;
    // A receiver that is killed may have taken one message that it has not logged.
    tally.lost += missing.saturating_sub(tally.killed_receivers);
    tally.sent += sent.len() as u64;
    tally.received += received.len() as u64;
}
