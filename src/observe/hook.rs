//! The user's function for events, and the bounded line of events in front of it.
//!
//! An event is admitted under the lock of the engine, in the order in which things happened, and told on the callback
//! thread. A function that is too slow for its events loses some, and is told how many; the pool never waits for it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering;

use crate::observe::event::Event;

/// How many events may wait to be told.
const WAITING_MAX: usize = 4096;

/// The user's function.
#[derive(Clone)]
pub(crate) struct EventHook(Arc<dyn Fn(&Event) + Send + Sync>);

impl EventHook {
    pub(crate) fn new(tell: impl Fn(&Event) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }

    /// Whether it is the same function.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl fmt::Debug for EventHook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EventHook").finish_non_exhaustive()
    }
}

/// The events of one pool that were not told yet.
#[derive(Debug)]
pub(crate) struct EventLine {
    hook: EventHook,
    waiting: AtomicUsize,
    /// Since the last that was admitted, and in total.
    dropped: AtomicU64,
    dropped_total: AtomicU64,
}

impl EventLine {
    pub(crate) fn new(hook: EventHook) -> Self {
        let (waiting, dropped, dropped_total) = (AtomicUsize::new(0), AtomicU64::new(0), AtomicU64::new(0));
        Self { hook, waiting, dropped, dropped_total }
    }

    /// Takes an event into the line, and in front of it the number of those that were dropped before; nothing if the line
    /// is full. By one thread at a time.
    pub(crate) fn admit(&self, event: Event) -> impl Iterator<Item = Event> {
        // Relaxed, here and below: the numbers guard nothing. A thread that sees an old `waiting` drops one event more.
        if self.waiting.load(Ordering::Relaxed) >= WAITING_MAX {
            self.dropped.fetch_add(1, Ordering::Relaxed);
            self.dropped_total.fetch_add(1, Ordering::Relaxed);
            return [None, None].into_iter().flatten();
        }
        let events = self.dropped.swap(0, Ordering::Relaxed);
        let dropped = (events > 0).then_some(Event::Dropped { events });
        self.waiting.fetch_add(1 + usize::from(dropped.is_some()), Ordering::Relaxed);
        [dropped, Some(event)].into_iter().flatten()
    }

    /// Tells an event that was admitted. Runs the user's function.
    pub(crate) fn tell(&self, event: &Event) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
        (self.hook.0)(event);
    }

    /// How many events were dropped so far.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped_total.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_line_drops_events_and_tells_how_many() {
        let line = EventLine::new(EventHook::new(|_| {}));
        let event = || Event::WorkerUp { pid: 1, lane: 0 };
        let admitted: usize = (0..WAITING_MAX + 5).map(|_| line.admit(event()).count()).sum();
        assert_eq!((admitted, line.dropped()), (WAITING_MAX, 5));
        line.tell(&event());
        let events: Vec<Event> = line.admit(event()).collect();
        assert!(matches!(events[..], [Event::Dropped { events: 5 }, Event::WorkerUp { .. }]), "{events:?}");
        (0..WAITING_MAX + 1).for_each(|_| line.tell(&event()));
        assert_eq!(line.admit(event()).count(), 1);
    }
}
