//! Waiting for descriptors with poll(2), until a deadline.
//!
//! # Invariants
//!
//! - A signal neither ends a wait early nor prolongs it.
//! - What cannot be waited for is tried again after growing pauses, never in a loop without a pause ([`Pauses`]).

use std::io;
use std::os::fd::BorrowedFd;
use std::thread;
use std::time::Duration;
use std::time::Instant;

use nix::errno::Errno;
use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::poll::PollTimeout;
use nix::poll::poll;

use crate::sys::calls;

/// How long a killed process may take to end.
const KILL_TIMEOUT: Duration = Duration::from_secs(1);

/// The pauses between attempts at something whose end no descriptor reports: a process that has ended but is held by a
/// tracer (a debugger) cannot be reaped until the tracer has seen its end.
#[derive(Debug)]
pub(crate) struct Pauses {
    next: Duration,
}

impl Pauses {
    /// Short enough for a process that is reaped in the next moment.
    const FIRST: Duration = Duration::from_millis(1);
    /// Long enough to cost no processor time to speak of.
    const LONGEST: Duration = Duration::from_millis(50);

    pub(crate) fn new() -> Self {
        Self { next: Self::FIRST }
    }

    /// The next pause, longer than the one before.
    pub(crate) fn next(&mut self) -> Duration {
        let longer = (self.next * 2).min(Self::LONGEST);
        std::mem::replace(&mut self.next, longer)
    }

    /// As [`sleep`](Self::sleep), but a hang-up of `fd` ends the pause, unless it is hung up already.
    pub(crate) fn wait_for_hangup(&mut self, fd: BorrowedFd<'_>, deadline: Option<Instant>) -> io::Result<bool> {
        if hung_up(fd, Duration::ZERO)? {
            return Ok(self.sleep(deadline));
        }
        let rest = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let pause = self.next();
        hung_up(fd, rest.map_or(pause, |rest| rest.min(pause)))?;
        Ok(rest.is_none_or(|rest| rest > pause))
    }

    /// Sleeps for the next pause, but at most until `deadline`; `false` if that has passed.
    pub(crate) fn sleep(&mut self, deadline: Option<Instant>) -> bool {
        let rest = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let pause = self.next();
        thread::sleep(rest.map_or(pause, |rest| rest.min(pause)));
        rest.is_none_or(|rest| rest > pause)
    }
}

/// Reaps a child that has been sent SIGKILL and has no pidfd.
///
/// Only for a child of this process that has not been reaped: its id cannot have been reused. Gives up after a second:
/// the kernel may not be able to end it, or a tracer may hold it. Then it stays a zombie.
pub(crate) fn reap_killed(pid: u32) {
    let deadline = Instant::now().checked_add(KILL_TIMEOUT);
    let mut pauses = Pauses::new();
    while matches!(calls::reap_pid(pid), Ok(None)) && pauses.sleep(deadline) {}
}

/// Waits until one of `fds` is readable or hung up; `false` if the deadline passed first.
pub(crate) fn readable(fds: &[BorrowedFd<'_>], deadline: Option<Instant>) -> io::Result<bool> {
    let mut fds: Vec<_> = fds.iter().map(|fd| PollFd::new(*fd, PollFlags::POLLIN)).collect();
    poll_until(&mut fds, deadline)
}

/// Waits until `fd` is hung up; for a pidfd: until the process has been reaped. `false` if the timeout passed first.
pub(crate) fn hung_up(fd: BorrowedFd<'_>, timeout: Duration) -> io::Result<bool> {
    let mut fds = [PollFd::new(fd, PollFlags::empty())];
    poll_until(&mut fds, Instant::now().checked_add(timeout))
}

/// Whether `fd` is readable or hung up now.
pub(crate) fn is_readable(fd: BorrowedFd<'_>) -> io::Result<bool> {
    let mut fds = [PollFd::new(fd, PollFlags::POLLIN)];
    poll_until(&mut fds, Some(Instant::now()))
}

/// poll(2) until `deadline`, or for ever; `false` if the deadline passed first.
pub(crate) fn poll_until(fds: &mut [PollFd<'_>], deadline: Option<Instant>) -> io::Result<bool> {
    loop {
        let timeout = deadline.map_or(PollTimeout::NONE, timeout_until);
        match poll(fds, timeout) {
            Ok(0) => {
                // Also returned for a wait longer than poll can express (24 days): continue.
                if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                    return Ok(false);
                }
            }
            Ok(_) => return Ok(true),
            Err(Errno::EINTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}

/// Rounded up: a wait that ends slightly early would be repeated again and again.
fn timeout_until(deadline: Instant) -> PollTimeout {
    let rest = deadline.saturating_duration_since(Instant::now());
    let milliseconds = rest.as_nanos().div_ceil(1_000_000);
    let milliseconds = i32::try_from(milliseconds).unwrap_or(i32::MAX);
    PollTimeout::try_from(milliseconds).expect("it is not negative")
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_deadline_is_rounded_up_to_whole_milliseconds() {
        assert_eq!(timeout_until(Instant::now()), PollTimeout::ZERO);
        let soon = Instant::now() + Duration::from_micros(100_900);
        assert_eq!(timeout_until(soon), PollTimeout::from(101_u8));
    }

    #[test]
    fn pauses_grow_up_to_a_limit_and_end_at_the_deadline() {
        let mut pauses = Pauses::new();
        let all: Vec<_> = std::iter::repeat_with(|| pauses.next().as_millis()).take(9).collect();
        assert_eq!(all, [1, 2, 4, 8, 16, 32, 50, 50, 50]);

        let deadline = Instant::now() + Duration::from_millis(20);
        assert!(!pauses.sleep(Some(deadline)) && Instant::now() >= deadline);
        assert!(!pauses.sleep(Some(deadline)));
        assert!(Pauses::new().sleep(Instant::now().checked_add(Duration::from_secs(10))));
    }

    #[test]
    fn the_end_of_a_pipe_is_readable_when_the_other_is_gone() {
        let (read, write) = nix::unistd::pipe().unwrap();
        assert!(!is_readable(read.as_fd()).unwrap());
        drop(write);
        assert!(is_readable(read.as_fd()).unwrap());
    }
}
