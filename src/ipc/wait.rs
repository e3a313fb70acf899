//! Waiting for the first of several things: messages, the ends of processes, results, descriptors.
//!
//! Each thing says, when it is asked, that its turn has come, or by what the thread that waits finds out: a descriptor that
//! becomes readable, or a bell that another thread rings. All are asked again whenever something has happened.

use std::io;
use std::io::IoSlice;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::OnceLock;
use std::task::Wake;
use std::task::Waker;
use std::time::Duration;
use std::time::Instant;

use nix::poll::PollFd;
use nix::poll::PollFlags;
use start_methods::Received;
use start_methods::Socket;

use crate::sys::poll::poll_until;

/// Something that [`any`] waits for. The types of this crate implement it, and [`readable`] makes one of any descriptor.
///
/// | | its turn has come when |
/// |---|---|
/// | [`Receiver`](crate::channel::Receiver) | there is a message, or there will be none |
/// | [`Sender`](crate::channel::Sender) | there is room for the message for which there was none when it was last sent, or all receivers are gone |
/// | [`Answer`](crate::channel::Answer) | the answer is there, or there will be none |
/// | [`AsyncResult`](crate::AsyncResult) | there is a result |
/// | [`Process`](crate::process::Process) | it has ended |
/// | [`Readable`] | the descriptor is readable, or has an error |
///
/// # Examples
///
/// See [`any`].
pub trait Waitable {
    /// Whether its turn has come; otherwise, how that is noticed.
    #[doc(hidden)]
    fn turn<'a>(&'a self, bell: &Bell) -> io::Result<Turn<'a>>;

    /// The thread does not wait any more.
    #[doc(hidden)]
    fn leave(&self) {}
}

/// Whether the turn of something has come.
#[derive(Clone, Copy, Debug)]
pub enum Turn<'a> {
    /// It has.
    Come,
    /// It comes when this is readable.
    WhenReadable(BorrowedFd<'a>),
    /// It may have come when this is readable.
    AskWhenReadable(BorrowedFd<'a>),
    /// It may have come when the bell has been rung.
    AskWhenRung,
}

/// What other threads ring to wake the one that waits.
#[derive(Debug, Default)]
pub struct Bell {
    /// Made when it is first needed.
    pair: OnceLock<(Arc<Rope>, Socket)>,
}

#[derive(Debug)]
struct Rope(Socket);

impl Wake for Rope {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // It fails if it is full, which is rung, or if nobody waits any more.
        let _: io::Result<bool> = self.0.try_send(&[IoSlice::new(b"r")], &[]);
    }
}

impl Bell {
    /// A waker that rings it.
    ///
    /// # Errors
    ///
    /// No descriptor is left.
    pub(crate) fn waker(&self) -> io::Result<Waker> {
        let (rope, _) = match self.pair.get() {
            Some(pair) => pair,
            None => {
                let (rope, socket) = Socket::pair()?;
                self.pair.get_or_init(|| (Arc::new(Rope(rope)), socket))
            }
        };
        Ok(Waker::from(Arc::clone(rope)))
    }

    fn socket(&self) -> Option<&Socket> {
        self.pair.get().map(|(_, socket)| socket)
    }

    /// Takes what was rung, so that it can be rung anew.
    fn silence(&self) {
        let mut bytes = Vec::new();
        while let Some(socket) = self.socket()
            && matches!(socket.try_recv_bytes(&mut bytes, 8), Ok(Received::Message(_)))
        {}
    }
}

/// A descriptor; see [`readable`].
///
/// # Examples
///
/// See [`readable`].
#[derive(Clone, Copy, Debug)]
pub struct Readable<'a>(BorrowedFd<'a>);

/// Makes a descriptor something to [wait](any) for: a socket, a pipe, a listener, a pidfd.
///
/// # Examples
///
/// ```
/// use std::io::Write;
///
/// use procpool::wait;
///
/// let (reader, mut writer) = std::io::pipe()?;
/// writer.write_all(b"x")?;
/// assert_eq!(wait::any(&[&wait::readable(&reader)], None)?, [0]);
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn readable(fd: &impl AsFd) -> Readable<'_> {
    Readable(fd.as_fd())
}

impl Waitable for Readable<'_> {
    fn turn<'a>(&'a self, _: &Bell) -> io::Result<Turn<'a>> {
        Ok(Turn::WhenReadable(self.0))
    }
}

/// Waits until the turn of at least one has come, and returns the positions of all whose turn it is, in order. None if
/// `timeout` has passed first, or there is nothing to wait for; without a `timeout` it waits for as long as it takes.
///
/// Another thread or process may be faster: a message that was there may have been taken when this one receives. So use
/// calls that do not wait: [`try_recv`](crate::channel::Receiver::try_recv), [`ready`](crate::AsyncResult::ready).
///
/// For async programs: descriptors and `arm` of the ends of channels, see
/// [`Receiver::arm`](crate::channel::Receiver::arm).
///
/// Python's `multiprocessing.connection.wait`.
///
/// # Errors
///
/// No descriptor is left (two are needed for handles of a pool).
///
/// # Examples
///
/// ```
/// use std::time::Duration;
///
/// use procpool::{Pool, channel, wait};
///
/// fn main() -> anyhow::Result<()> {
///     procpool::init();
///     let pool = Pool::new(1)?;
///     let (tx, rx) = channel::bounded::<u32>(4)?;
///     let sum = pool.apply_async((tx,), |tx| (0..10).map(|i| tx.send(i).map_or(0, |()| i)).sum::<u32>());
///     let mut received = 0;
///     while !sum.ready() {
///         for turn in wait::any(&[&rx, &sum], Some(Duration::from_secs(60)))? {
///             match turn {
///                 0 => received += rx.try_recv().unwrap_or(None).map_or(0, |_| 1),
///                 _ => println!("the sum is {}", sum.get()?),
///             }
///         }
///     }
///     received += rx.iter().count();
///     assert_eq!((received, sum.get()?), (10, 45));
///     Ok(())
/// }
/// ```
#[doc(alias = "select")]
#[doc(alias = "connection.wait")]
pub fn any(of: &[&dyn Waitable], timeout: Option<Duration>) -> io::Result<Vec<usize>> {
    let deadline = timeout.and_then(|timeout| Instant::now().checked_add(timeout));
    let bell = Bell::default();
    let found = wait(of, &bell, deadline);
    of.iter().for_each(|one| one.leave());
    found
}

fn wait(of: &[&dyn Waitable], bell: &Bell, deadline: Option<Instant>) -> io::Result<Vec<usize>> {
    while !of.is_empty() {
        // Before they are asked: what is rung from here on is seen by the sleep below.
        bell.silence();
        let turns = of.iter().map(|one| one.turn(bell)).collect::<io::Result<Vec<_>>>()?;
        let is_one_come = turns.iter().any(|turn| matches!(turn, Turn::Come));
        // Not slept if one is known: the poll says which others there are.
        let until = if is_one_come { Some(Instant::now()) } else { deadline };
        let (is_readable, is_timely) = sleep(&turns, bell, until);
        let come: Vec<usize> = (0..turns.len())
            .filter(|&index| match turns[index] {
                Turn::Come => true,
                Turn::WhenReadable(_) => is_readable[index],
                Turn::AskWhenReadable(_) | Turn::AskWhenRung => false,
            })
            .collect();
        if !come.is_empty() || !is_timely {
            return Ok(come);
        }
    }
    Ok(Vec::new())
}

/// Sleeps until a descriptor of these is readable, the bell is rung, or the time is up. Returns which are, and whether
/// there is time left.
fn sleep(turns: &[Turn<'_>], bell: &Bell, until: Option<Instant>) -> (Vec<bool>, bool) {
    let mut is_readable = vec![false; turns.len()];
    let mut polled = Vec::with_capacity(turns.len() + 1);
    let mut places = Vec::with_capacity(turns.len());
    for (index, turn) in turns.iter().enumerate() {
        if let Turn::WhenReadable(fd) | Turn::AskWhenReadable(fd) = turn {
            polled.push(PollFd::new(*fd, PollFlags::POLLIN));
            places.push(index);
        }
    }
    if let Some(socket) = bell.socket() {
        polled.push(PollFd::new(socket.as_fd(), PollFlags::POLLIN));
    }
    let is_timely = poll_until(&mut polled, until);
    for (polled, index) in polled.iter().zip(places) {
        is_readable[index] = polled.any().unwrap_or(true);
    }
    (is_readable, is_timely)
}
