//! One end of a channel, as a process has it: the memory, this side's end of the pair for tokens, and of the pair for
//! attachments.
//!
//! Which side is gone is what the kernel says of the tokens' pair (POLLHUP), whatever ended its processes: all processes of
//! a side hold the same end of it.
//!
//! A sender asks the kernel only if there is a reason: a receiver has left; or receivers have taken nothing while this
//! sender sent 1, 2, 4, 8, … messages. So sending to receivers that were killed fails from the second message on; or, if they
//! were killed while many messages were waiting for them, after as many again at the latest.

use std::io;
use std::os::fd::AsFd;
use std::os::fd::AsRawFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering;
use std::time::Duration;
use std::time::Instant;

use nix::poll::PollFd;
use nix::poll::PollFlags;
use nix::sys::socket::Shutdown;
use nix::sys::socket::shutdown;
use serde::Deserializer;
use serde::Serializer;
use serde::ser::Error as _;
use start_methods::PrivateFd;

use super::error::FORKED;
use super::record::record_len;
use super::shared::Shared;
use super::shared::Words;
use crate::ipc::deadline::Wait;
use crate::ipc::gate::Gate;
use crate::sys::poll::poll_until;
use crate::sys::processor;
use crate::sys::spin::AdaptiveSpin;
use crate::sys::spin::SharedSpin;
use crate::sys::spin::spin_until;
use crate::values::attach::SharedFd;
use crate::values::blob::BlobCache;
use crate::values::handle;
use crate::values::handle::SharedSocket;
use crate::values::handle::socket_of;
use crate::values::handle::socket_pair;

/// How many descriptors an end holds.
pub(super) const FDS: usize = 3;
/// How long a sender pauses where the kernel does not tell when it may go on: too many descriptors are on their way.
const PAUSE: Duration = Duration::from_millis(1);

/// The fields are dropped in this order: a departure is told when the descriptors are closed.
#[derive(Debug)]
pub(super) struct End {
    pub(super) tokens: SharedSocket,
    pub(super) attachments: SharedSocket,
    departure: Departure,
    pub(super) files: Files,
    /// A process has written nonsense: it may do so again at any time.
    is_broken: AtomicBool,
    spin: SharedSpin,
    /// What this end saw when it last sent. Hints.
    seen_head: AtomicU64,
    seen_departed: AtomicU64,
    /// How often it has sent while the receivers took nothing.
    sent_unseen: AtomicU64,
    /// What this end saw when it last discarded attachments.
    seen_attachments: AtomicU64,
    /// The length of the last record for which there was no room.
    wanted: AtomicU64,
}

/// Which side of a channel an end is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Senders,
    Receivers,
}

#[derive(Debug)]
struct Departure {
    shared: Arc<Shared>,
    side: Side,
}

impl Drop for Departure {
    fn drop(&mut self) {
        if self.side == Side::Receivers
            && let Some(words) = self.shared.words()
        {
            words.departed().fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The files of large messages that this end has lent to receivers, and the memory into which it reads those of others,
/// kept for reuse: most of the cost of a large message is new pages.
#[derive(Debug)]
pub(super) struct Files(Arc<BlobCache>);

impl Files {
    pub(super) fn cache(&self) -> &Arc<BlobCache> {
        &self.0
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        // A thread may still refer to it for its next message.
        self.0.close();
    }
}

/// What ended a sleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Woken {
    /// The condition may hold.
    Maybe,
    /// The other side is gone.
    HungUp,
    TimedOut,
}

impl End {
    fn new(shared: Arc<Shared>, side: Side, tokens: SharedSocket, attachments: SharedSocket) -> Self {
        Self {
            tokens,
            attachments,
            departure: Departure { shared, side },
            files: Files(BlobCache::of_worker()),
            is_broken: AtomicBool::new(false),
            spin: SharedSpin::long(),
            // No position has these bits: the first message asks the kernel.
            seen_head: AtomicU64::new(u64::MAX),
            seen_departed: AtomicU64::new(u64::MAX),
            sent_unseen: AtomicU64::new(0),
            seen_attachments: AtomicU64::new(0),
            wanted: AtomicU64::new(record_len(0)),
        }
    }

    /// The two ends of a new channel.
    ///
    /// # Errors
    ///
    /// No descriptor is left; otherwise as for [`Shared::create`].
    pub(super) fn pair(signature: u64, messages: usize, ring_len: usize) -> io::Result<(Self, Self)> {
        let shared = Arc::new(Shared::create(signature, messages, ring_len)?);
        let (send_tokens, receive_tokens) = socket_pair()?;
        let (send_attachments, receive_attachments) = socket_pair()?;
        let sender = Self::new(Arc::clone(&shared), Side::Senders, send_tokens, send_attachments);
        Ok((sender, Self::new(shared, Side::Receivers, receive_tokens, receive_attachments)))
    }

    /// The descriptors, in the order that [`from_fds`](Self::from_fds) takes them.
    pub(super) fn fds(&self) -> [&SharedFd; FDS] {
        [&self.shared().file, self.tokens.get_ref(), self.attachments.get_ref()]
    }

    /// An end that another process has sent.
    ///
    /// # Errors
    ///
    /// `InvalidData`: these are not the descriptors of an end, or of a channel of other values. Otherwise the error of a
    /// system call.
    pub(super) fn from_fds(signature: u64, side: Side, fds: [SharedFd; FDS]) -> io::Result<Self> {
        let [file, tokens, attachments] = fds;
        // First: the sockets are not asked before it is known that the file, which comes with them, is a channel's.
        let shared = Arc::new(Shared::open(signature, file)?);
        let [tokens, attachments] = [socket_of(tokens)?, socket_of(attachments)?];
        Ok(Self::new(shared, side, tokens, attachments))
    }

    /// Serializes an end, which travels as its descriptors.
    ///
    /// # Errors
    ///
    /// See [`handle::serialize`].
    pub(super) fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.shared().words().is_none() {
            return Err(S::Error::custom(FORKED));
        }
        handle::serialize(&self.fds(), serializer)
    }

    /// Deserializes an end that has travelled, for a handle of type `T`.
    ///
    /// # Errors
    ///
    /// As for [`from_fds`](Self::from_fds); see [`handle::deserialize`].
    pub(super) fn deserialize<'de, T: 'static, D: Deserializer<'de>>(
        signature: u64,
        side: Side,
        deserializer: D,
    ) -> Result<Arc<Self>, D::Error> {
        handle::deserialize::<T, Self, D, FDS>(deserializer, |fds| Self::from_fds(signature, side, fds))
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.departure.shared
    }

    /// The gate at which receivers wait. Under the senders' latch.
    #[inline]
    pub(super) fn item_gate<'a>(&'a self, words: Words<'a>) -> Gate<'a> {
        Gate { flag: words.item_flag(), tokens: &self.tokens }
    }

    /// The gate at which senders wait. Under the receivers' latch.
    #[inline]
    pub(super) fn room_gate<'a>(&'a self, words: Words<'a>) -> Gate<'a> {
        Gate { flag: words.room_flag(), tokens: &self.tokens }
    }

    pub(super) fn want(&self, len: u64) {
        self.wanted.store(len, Ordering::Relaxed);
    }

    pub(super) fn wanted(&self) -> u64 {
        self.wanted.load(Ordering::Relaxed)
    }

    pub(super) fn is_broken(&self) -> bool {
        self.is_broken.load(Ordering::Relaxed)
    }

    pub(super) fn mark_broken(&self) {
        self.is_broken.store(true, Ordering::Relaxed);
    }

    /// Whether all processes of the other side are gone.
    pub(super) fn is_hung_up(&self) -> bool {
        let mut polled = [PollFd::new(self.tokens.as_fd(), PollFlags::empty())];
        poll_until(&mut polled, Some(Instant::now())) && is_hung_up(&polled[0])
    }

    /// Whether there is a reason to ask whether the receivers are gone: see the head of this file.
    #[inline]
    pub(super) fn has_reason_to_ask(&self, words: Words<'_>) -> bool {
        let (head, departed) = (words.head().0, words.departed().load(Ordering::Relaxed));
        if self.seen_departed.swap(departed, Ordering::Relaxed) != departed {
            return true;
        }
        if self.seen_head.swap(head, Ordering::Relaxed) != head {
            self.sent_unseen.store(0, Ordering::Relaxed);
            return false;
        }
        (self.sent_unseen.fetch_add(1, Ordering::Relaxed) + 1).is_power_of_two()
    }

    /// Sleeps until there is a token for this side, the other side is gone, or the time is up.
    pub(super) fn sleep(&self, wait: Wait) -> Woken {
        let began = Instant::now();
        let mut polled = [PollFd::new(self.tokens.as_fd(), PollFlags::POLLIN)];
        if !poll_until(&mut polled, wait.deadline()) {
            return Woken::TimedOut;
        }
        self.learn(|spin| spin.found_after_sleep(began.elapsed()));
        if is_hung_up(&polled[0]) { Woken::HungUp } else { Woken::Maybe }
    }

    /// Sleeps until the socket for attachments takes one more, the other side is gone, or the time is up. The kernel tells:
    /// receivers make room there by taking messages out, and need not say so.
    pub(super) fn sleep_for_attachments(&self, wait: Wait) -> Woken {
        let deadline = wait.deadline();
        let mut polled = [
            PollFd::new(self.attachments.as_fd(), PollFlags::POLLOUT),
            PollFd::new(self.tokens.as_fd(), PollFlags::empty()),
        ];
        if !poll_until(&mut polled, deadline) {
            return Woken::TimedOut;
        }
        if is_hung_up(&polled[1]) {
            return Woken::HungUp;
        }
        // The socket may have had room before, while too many descriptors are on their way elsewhere.
        std::thread::sleep(PAUSE);
        Woken::Maybe
    }

    /// Looks for a while whether `found` holds, without sleeping. Returns whether it does.
    pub(super) fn spin(&self, found: impl FnMut() -> bool) -> bool {
        // On one processor the other side does nothing while this thread looks.
        if processor::available_at_first() == 1 || !spin_until(self.spin.get().duration(), found) {
            return false;
        }
        self.learn(AdaptiveSpin::found_while_spinning);
        true
    }

    fn learn(&self, lesson: impl FnOnce(&mut AdaptiveSpin)) {
        let mut spin = self.spin.get();
        lesson(&mut spin);
        self.spin.set(spin);
    }

    /// Ends the channel for all: no message follows, and all that wait are told.
    pub(super) fn close(&self) {
        let Some(words) = self.shared().words() else { return };
        // A latch that cannot be had is that of a stopped process. The channel is closed all the same; a message that
        // this process is sending may follow.
        let held = words.hold_senders(Wait::Not);
        words.close();
        drop(held);
        self.wake_all();
    }

    /// Wakes both sides for good, because the channel is closed. A process that finds it closed does this again: the one
    /// that closed it may have died before.
    pub(super) fn wake_all(&self) {
        if let Err(errno) = shutdown(self.tokens.as_fd().as_raw_fd(), Shutdown::Both) {
            log::debug!("shutdown of a channel: {errno}");
        }
    }

    /// Whether there may be attachments of senders that have died: some were sent since this was last asked.
    pub(super) fn may_have_orphans(&self, words: Words<'_>) -> bool {
        let number = words.attachments().load(Ordering::Relaxed);
        self.seen_attachments.swap(number, Ordering::Relaxed) != number
    }

    /// How many messages the channel holds. Others may change it at any time.
    pub(super) fn len(&self) -> usize {
        self.shared().words().map_or(0, |words| {
            // In this order the head is not beyond the tail; what is taken meanwhile makes the number larger only.
            let head = words.head();
            words.tail().since(head).messages.min(self.shared().messages)
        })
    }
}

/// The descriptors of an end, from elsewhere.
///
/// # Errors
///
/// `InvalidData`: there are more or fewer.
pub(super) fn shared_fds(fds: Vec<OwnedFd>) -> io::Result<[SharedFd; FDS]> {
    let private = |fd| PrivateFd::adopt(fd).map(|fd| Arc::new(fd) as SharedFd);
    let fds: Vec<SharedFd> = fds.into_iter().map(private).collect::<io::Result<_>>()?;
    fds.try_into().map_err(|fds: Vec<SharedFd>| {
        let text = format!("an end of a channel has {FDS} descriptors, not {}", fds.len());
        io::Error::new(io::ErrorKind::InvalidData, text)
    })
}

fn is_hung_up(polled: &PollFd<'_>) -> bool {
    polled.revents().is_some_and(|events| events.intersects(PollFlags::POLLHUP | PollFlags::POLLNVAL))
}
