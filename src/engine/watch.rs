//! The epoll set in which a driver sleeps, with every descriptor that can report an event.
//!
//! For each worker: its link (answers, room), its control socket (hello, reports), its pidfd and its status descriptor
//! (the end). Also the doorbell, through which one thread of the parent wakes the thread that sleeps here.

#![expect(unsafe_code, reason = "nix's Epoll wants to own a descriptor that already has an owner; see the note")]

use std::io;
use std::mem::ManuallyDrop;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::BorrowedFd;
use std::os::fd::FromRawFd;
use std::os::fd::OwnedFd;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;
use nix::sys::epoll::Epoll;
use nix::sys::epoll::EpollCreateFlags;
use nix::sys::epoll::EpollEvent;
use nix::sys::epoll::EpollFlags;
use nix::sys::epoll::EpollTimeout;
use start_methods::PrivateFd;

use crate::schedule::WorkerId;
use crate::sys::bell::Bell;

/// How many events one wait returns at most.
pub(crate) const EVENTS_MAX: usize = 64;

/// What a descriptor is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    Doorbell,
    Link(WorkerId),
    Control(WorkerId),
    /// The pidfd: the worker has ended.
    End(WorkerId),
    /// The status descriptor: how a worker has ended, or that its server has.
    Status(WorkerId),
}

const DOORBELL: u64 = u64::MAX;

impl Source {
    fn token(self) -> u64 {
        match self {
            Source::Doorbell => DOORBELL,
            Source::Link(WorkerId(id)) => id << 2,
            Source::Control(WorkerId(id)) => id << 2 | 1,
            Source::End(WorkerId(id)) => id << 2 | 2,
            Source::Status(WorkerId(id)) => id << 2 | 3,
        }
    }

    fn from_token(token: u64) -> Self {
        let worker = WorkerId(token >> 2);
        match token {
            DOORBELL => Source::Doorbell,
            token if token & 3 == 0 => Source::Link(worker),
            token if token & 3 == 1 => Source::Control(worker),
            token if token & 3 == 2 => Source::End(worker),
            _ => Source::Status(worker),
        }
    }
}

/// The epoll set and the doorbell in it.
#[derive(Debug)]
pub(crate) struct Watch {
    /// Closed by `epoll_fd`, which keeps it from forked children too.
    epoll: ManuallyDrop<Epoll>,
    epoll_fd: PrivateFd,
    doorbell: Bell,
    /// Wakes the background thread out of its seat. Not in the set: it concerns no other thread.
    pub(crate) nudge: Bell,
}

/// What is reported of a descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Interest {
    Readable,
    ReadableOrWritable,
}

impl Watch {
    pub(crate) fn new() -> io::Result<Self> {
        let epoll_fd = PrivateFd::adopt(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?.0)?;
        // SAFETY: the number is open as long as `epoll_fd` is, which lives beside it and is never taken out; and the
        // second owner never closes it.
        let alias = unsafe { OwnedFd::from_raw_fd(epoll_fd.as_raw_fd()) };
        let watch =
            Self { epoll: ManuallyDrop::new(Epoll(alias)), epoll_fd, doorbell: Bell::new()?, nudge: Bell::new()? };
        watch.add(watch.doorbell.as_fd(), Source::Doorbell)?;
        Ok(watch)
    }

    /// Reports `source` while `fd` is readable or hung up.
    pub(crate) fn add(&self, fd: BorrowedFd<'_>, source: Source) -> io::Result<()> {
        Ok(self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN, source.token()))?)
    }

    /// Reports `source` each time that `fd` becomes readable anew (edge-triggered), so that it need not be read.
    pub(crate) fn add_edge(&self, fd: BorrowedFd<'_>, source: Source) -> io::Result<()> {
        Ok(self.epoll.add(fd, EpollEvent::new(EpollFlags::EPOLLIN | EpollFlags::EPOLLET, source.token()))?)
    }

    /// Changes what is reported of `fd`, which has been added.
    pub(crate) fn set_interest(&self, fd: BorrowedFd<'_>, source: Source, interest: Interest) -> io::Result<()> {
        let flags = match interest {
            Interest::Readable => EpollFlags::EPOLLIN,
            Interest::ReadableOrWritable => EpollFlags::EPOLLIN | EpollFlags::EPOLLOUT,
        };
        Ok(self.epoll.modify(fd, &mut EpollEvent::new(flags, source.token()))?)
    }

    /// Reports `source` only when `fd` is hung up.
    pub(crate) fn await_hangup(&self, fd: BorrowedFd<'_>, source: Source) -> io::Result<()> {
        Ok(self.epoll.modify(fd, &mut EpollEvent::new(EpollFlags::empty(), source.token()))?)
    }

    /// Stops reporting `fd`. To be called before it is closed: a copy in a forked process would keep it in the set.
    pub(crate) fn remove(&self, fd: BorrowedFd<'_>) {
        match self.epoll.delete(fd) {
            // It had been removed before.
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => log::error!("epoll_ctl(EPOLL_CTL_DEL): {errno}: a bug in procpool"),
        }
    }

    /// Waits for events until `until`; `None` waits without a limit.
    pub(crate) fn wait(&self, sources: &mut Vec<Source>, until: Option<Instant>) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); EVENTS_MAX];
        let count = match self.epoll.wait(&mut events, millis(until).map_or(EpollTimeout::NONE, EpollTimeout::from)) {
            Ok(count) => count,
            Err(Errno::EINTR) => 0,
            Err(errno) => return Err(errno.into()),
        };
        sources.clear();
        sources.extend(events[..count].iter().map(|event| Source::from_token(event.data())));
        Ok(())
    }

    /// Waits until [`wait`](Self::wait) would not sleep, or the nudge is rung, or `until` has come. Takes no events.
    pub(crate) fn wait_or_nudge(&self, until: Option<Instant>) {
        let mut fds =
            [PollFd::new(self.epoll_fd.as_fd(), PollFlags::POLLIN), PollFd::new(self.nudge.as_fd(), PollFlags::POLLIN)];
        let timeout = millis(until).map_or(PollTimeout::NONE, PollTimeout::from);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => panic!("poll of two descriptors of our own: {errno}"),
        }
    }

    /// Wakes the thread that sleeps in [`wait`](Self::wait), or keeps the next one from sleeping.
    pub(crate) fn ring(&self) {
        self.doorbell.ring();
    }

    /// Takes the ring back.
    pub(crate) fn quiet(&self) {
        self.doorbell.quiet();
    }
}

/// What is left until then in milliseconds, rounded up: a driver must not wake just before its timer and turn in
/// circles.
fn millis(until: Option<Instant>) -> Option<u16> {
    let left = until?.saturating_duration_since(Instant::now());
    Some(u16::try_from(left.as_nanos().div_ceil(1_000_000)).unwrap_or(u16::MAX))
}
