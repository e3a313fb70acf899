//! The input of a call: the user's iterator, which may panic or have no end.

use std::any::Any;
use std::iter::Fuse;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;

use crate::error::Origin;
use crate::error::TaskError;
use crate::sys::payload;

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

    /// Whether nothing more will be drawn.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Draws nothing more, whatever is left.
    pub(super) fn give_up(&mut self) {
        self.over = true;
    }

    pub(super) fn size_hint(&self) -> (usize, Option<usize>) {
        if self.over { (0, Some(0)) } else { self.items.size_hint() }
    }

    /// Whether there is one more item, which is drawn and dropped. A panic counts as one.
    pub(super) fn has_another(&mut self) -> bool {
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

    /// The error of an iterator that panicked. Nothing more is drawn from it.
    pub(super) fn panicked(&mut self, payload: Box<dyn Any + Send>) -> TaskError {
        self.over = true;
        TaskError::Input { message: payload::into_text(payload), origin: Origin::default() }
    }
}
