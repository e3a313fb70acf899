//! The input of a call: the user's iterator or stream, which may panic or have no end.

use std::any::Any;
use std::iter::Fuse;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::pin::Pin;
use std::task::Context;
use std::task::Poll;

use futures_core::Stream;

use crate::error::Origin;
use crate::error::TaskError;
use crate::sys::payload;

/// What feeds a job as its results are consumed.
pub(super) trait Source {
    /// Whether nothing more will be drawn.
    fn is_over(&self) -> bool;

    /// Draws nothing more, whatever is left.
    fn give_up(&mut self);

    fn size_hint(&self) -> (usize, Option<usize>);

    /// Whether there is one more item, as far as can be known without waiting. It is drawn and dropped.
    fn has_another(&mut self) -> bool;
}

/// The user's iterator. It is not asked again once it is over, panicked, or was given up.
#[derive(Debug)]
pub(super) struct Input<I: Iterator> {
    items: Fuse<I>,
    over: bool,
}

impl<I: Iterator> Input<I> {
    pub(super) fn new(items: I) -> Self {
        Self { items: items.fuse(), over: false }
    }

    /// Draws the next item. A panic passes through, and must be reported to [`panicked`](Self::panicked).
    #[inline]
    pub(super) fn draw(&mut self) -> Option<I::Item> {
        let item = self.items.next();
        self.over |= item.is_none();
        item
    }

    /// The error of an iterator that panicked. Nothing more is drawn from it.
    pub(super) fn panicked(&mut self, payload: Box<dyn Any + Send>) -> TaskError {
        self.over = true;
        panicked(payload)
    }
}

impl<I: Iterator> Source for Input<I> {
    fn is_over(&self) -> bool {
        self.over
    }

    fn give_up(&mut self) {
        self.over = true;
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        if self.over { (0, Some(0)) } else { self.items.size_hint() }
    }

    /// A panic counts as an item.
    fn has_another(&mut self) -> bool {
        if self.over {
            return false;
        }
        match catch_unwind(AssertUnwindSafe(|| self.items.next())) {
            Ok(item) => item.is_some(),
            Err(payload) => {
                self.panicked(payload);
                true
            }
        }
    }
}

/// The user's stream. Dropped as soon as it is over, panicked, or was given up.
pub(super) struct StreamInput<S>(Option<Pin<Box<S>>>);

impl<S: Stream> StreamInput<S> {
    pub(super) fn new(items: S) -> Self {
        Self(Some(Box::pin(items)))
    }

    /// Draws the next item; a panic of the stream is its error.
    pub(super) fn poll_draw(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<S::Item, TaskError>>> {
        let Some(stream) = &mut self.0 else { return Poll::Ready(None) };
        // Unwind safety: a stream that has panicked is not polled again.
        match catch_unwind(AssertUnwindSafe(|| stream.as_mut().poll_next(context))) {
            Ok(Poll::Pending) => Poll::Pending,
            Ok(Poll::Ready(Some(item))) => Poll::Ready(Some(Ok(item))),
            Ok(Poll::Ready(None)) => {
                self.0 = None;
                Poll::Ready(None)
            }
            Err(payload) => {
                self.0 = None;
                Poll::Ready(Some(Err(panicked(payload))))
            }
        }
    }
}

impl<S: Stream> Source for StreamInput<S> {
    fn is_over(&self) -> bool {
        self.0.is_none()
    }

    fn give_up(&mut self) {
        self.0 = None;
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.0.as_ref().map_or((0, Some(0)), |stream| stream.size_hint())
    }

    /// Without its task, a stream cannot be asked.
    fn has_another(&mut self) -> bool {
        false
    }
}

/// The error of an input that panicked.
fn panicked(payload: Box<dyn Any + Send>) -> TaskError {
    TaskError::Input { message: payload::into_text(payload), origin: Origin::default() }
}
