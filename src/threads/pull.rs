//! The results of many items, as a caller pulls them: each call draws from the input while its window has room.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fmt;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering;
use std::sync::mpsc;

use super::team::Team;
use crate::error::Label;
use crate::error::Origin;
use crate::error::PoolError;
use crate::error::TaskError;
use crate::sys::payload;

type Item<T> = Result<T, TaskError>;
type Task<A, T> = Arc<dyn Fn(A) -> Item<T> + Send + Sync>;

/// What is to be done with each item.
pub(super) struct Work<A, T> {
    pub(super) team: Arc<Team>,
    pub(super) label: Label,
    /// How many items may be drawn whose results were not yielded.
    pub(super) window: usize,
    pub(super) task: Task<A, T>,
}

/// In which order results are yielded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Input,
    Completion,
}

/// The results of [`imap`](crate::Workers::imap) and [`imap_unordered`](crate::Workers::imap_unordered) in threads.
///
/// If it is dropped before its end, items that have not begun do not run.
#[must_use = "an iterator does nothing until it is consumed"]
pub struct ThreadImap<I: Iterator, T> {
    /// `None` if the call was refused, or when the input is over.
    source: Option<(I, Work<I::Item, T>)>,
    team: Option<Arc<Team>>,
    label: Label,
    order: Order,
    sender: mpsc::Sender<(u64, Item<T>)>,
    receiver: mpsc::Receiver<(u64, Item<T>)>,
    /// Results that wait for an earlier one.
    kept: BTreeMap<u64, Item<T>>,
    drawn: u64,
    yielded: u64,
    under_way: usize,
    is_given_up: Arc<AtomicBool>,
}

impl<I: Iterator, T> fmt::Debug for ThreadImap<I, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThreadImap").finish_non_exhaustive()
    }
}

impl<I: Iterator, T> ThreadImap<I, T> {
    /// A call that was refused yields its error and ends.
    pub(super) fn new(items: I, work: Result<Work<I::Item, T>, TaskError>, order: Order) -> Self {
        let (sender, receiver) = mpsc::channel();
        let mut pull = Self {
            source: None,
            team: None,
            label: Label::default(),
            order,
            sender,
            receiver,
            kept: BTreeMap::new(),
            drawn: 0,
            yielded: 0,
            under_way: 0,
            is_given_up: Arc::default(),
        };
        match work {
            Ok(work) => {
                pull.team = Some(Arc::clone(&work.team));
                pull.label = work.label.clone();
                pull.source = Some((items, work));
            }
            Err(error) => pull.settle_at_once(error),
        }
        pull
    }

    /// The next place has this error, and no item runs for it.
    fn settle_at_once(&mut self, error: TaskError) {
        self.kept.insert(self.drawn, Err(error));
        self.drawn += 1;
        self.source = None;
    }

    /// No item that has not begun will run: its result is an error.
    pub(super) fn skip_rest(&self) {
        // Relaxed: the flag stands alone. An item that begins at this moment runs to its end.
        self.is_given_up.store(true, Ordering::Relaxed);
    }

    fn take_kept(&mut self) -> Option<(u64, Item<T>)> {
        let index = match self.order {
            Order::Input => self.yielded,
            Order::Completion => *self.kept.first_key_value()?.0,
        };
        self.kept.remove(&index).map(|item| (index, item))
    }

    fn wait(&mut self) {
        let (team, receiver) = (self.team.as_ref().expect("items are under way"), &self.receiver);
        let early = Cell::new(None);
        let poll = || early.take().or_else(|| receiver.try_recv().ok());
        // This end holds a sender too, so waiting without a limit ends with a result.
        let (index, item) = team.wait(poll, |nap| match nap {
            Some(nap) => early.set(receiver.recv_timeout(nap).ok()),
            None => early.set(receiver.recv().ok()),
        });
        self.under_way -= 1;
        self.kept.insert(index, item);
    }
}

impl<I: Iterator<Item: Send + 'static>, T: Send + 'static> ThreadImap<I, T> {
    fn feed(&mut self) {
        while let Some((items, work)) = &mut self.source
            && usize::try_from(self.drawn - self.yielded).is_ok_and(|ahead| ahead < work.window)
        {
            // Unwind safety: the input is not used again.
            match catch_unwind(AssertUnwindSafe(|| items.next())) {
                Ok(Some(item)) => self.submit(item),
                Ok(None) => self.source = None,
                Err(payload) => {
                    let origin = Origin::default();
                    self.settle_at_once(TaskError::Input { message: payload::into_text(payload), origin });
                }
            }
        }
    }

    fn submit(&mut self, item: I::Item) {
        let Some((_, work)) = &self.source else { return };
        let (index, task, sender) = (self.drawn, Arc::clone(&work.task), self.sender.clone());
        let is_given_up = Arc::clone(&self.is_given_up);
        let submitted = work.team.run(move |may_run| {
            let result = match may_run {
                true if is_given_up.load(Ordering::Relaxed) => Err(TaskError::Skipped),
                true => task(item),
                false => Err(TaskError::Terminated),
            };
            // Nobody waits for it if the iterator was dropped.
            drop(sender.send((index, result)));
        });
        match submitted {
            Ok(()) => {
                self.drawn += 1;
                self.under_way += 1;
            }
            Err(error) => self.settle_at_once(refused(error)),
        }
    }

    /// The next result, with the position of its item.
    pub(super) fn next_indexed(&mut self) -> Option<(u64, Item<T>)> {
        loop {
            self.feed();
            if let Some((index, item)) = self.take_kept() {
                self.yielded += 1;
                return Some((index, item.map_err(|error| error.of(self.label.item(index)))));
            }
            if self.under_way == 0 {
                return None;
            }
            self.wait();
        }
    }
}

/// The error of a task that the pool does not take.
pub(super) fn refused(error: PoolError) -> TaskError {
    match error {
        PoolError::Terminated => TaskError::Terminated,
        error => TaskError::Refused(error),
    }
}

impl<I: Iterator<Item: Send + 'static>, T: Send + 'static> Iterator for ThreadImap<I, T> {
    type Item = Item<T>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_indexed().map(|(_, item)| item)
    }
}

impl<I: Iterator, T> Drop for ThreadImap<I, T> {
    fn drop(&mut self) {
        self.skip_rest();
    }
}
