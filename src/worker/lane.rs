//! A lane: a run of plain items, processed inside the loop that is compiled for their function.
//!
//! The loop passes an answer and gets the next item by [`exchange`](function::ItemStream::exchange). So looking up the function
//! and catching panics is done once for all of them: an item may take less time than that.

use std::io;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::panic::resume_unwind;

use super::functions::Functions;
use super::functions::Ready;
use super::functions::write_panic;
use crate::sys::failpoint::failpoint;
use crate::transport::frame::AnswerKind;
use crate::transport::record::Next;
use crate::transport::record::NextNumber;
use crate::transport::worker_link::WorkerLink;
use crate::values::number;
use crate::values::number::NumberBytes;
use crate::values::output::Output;
use crate::work::function;
use crate::work::function::Completion;
use crate::worker::deadline;
use crate::worker::deadline::Limit;
use crate::worker::info;
use crate::worker::panics;

/// How a lane ends.
pub(super) enum End {
    /// The current record is no plain item.
    Current,
    /// The last item is answered and done.
    Done(Next),
    /// The last item is not answered yet: its bytes are in the buffer and do not fit the link.
    Large(AnswerKind),
}

/// Plain items, from one that has begun up to the next record that is none.
pub(super) struct Lane<'a> {
    link: &'a mut WorkerLink,
    functions: &'a Functions,
    out: &'a mut Output,
    ready: &'a Ready,
    /// The current record has not been passed on yet.
    is_current_due: bool,
    /// The function runs, so a panic is the item's.
    is_running: bool,
    limit: Option<Limit>,
    end: Option<io::Result<End>>,
}

impl<'a> Lane<'a> {
    /// A lane that starts with the current record, a plain item.
    pub(super) fn new(
        link: &'a mut WorkerLink,
        functions: &'a Functions,
        out: &'a mut Output,
        ready: &'a Ready,
    ) -> Self {
        let limit = ready.timeout.map(Limit::new);
        Self { link, functions, out, ready, is_current_due: true, is_running: false, limit, end: None }
    }

    /// Runs the items.
    ///
    /// # Errors
    ///
    /// The parent sent what is no record: a bug in procpool.
    pub(super) fn run(&mut self) -> io::Result<End> {
        let ready = self.ready;
        let ended = panics::recorded(|| {
            // Unwind safety: as for one item, see `panics::caught`.
            let ended = catch_unwind(AssertUnwindSafe(|| ready.function.run(ready.context(), self)));
            match ended {
                Err(payload) if !self.is_running => {
                    panics::print_last();
                    resume_unwind(payload)
                }
                ended => ended,
            }
        });
        if let Err(panic) = ended {
            self.end_item();
            if self.ready.timeout.is_some() {
                // The report has its own time: the item has ended.
                self.link.show_start();
            }
            let kind = write_panic(&panic, self.out);
            self.end = Some(self.answer(kind));
        }
        self.end.take().expect("it ends because there is nothing to run")
    }

    /// The function has returned from an item. Another call for the same item does nothing more.
    #[inline]
    fn end_item(&mut self) {
        failpoint!("after_run");
        self.functions.owner.kill_copy();
        if std::mem::take(&mut self.is_running) {
            info::item_done();
        }
    }

    /// Answers the item that has run with what is in the buffer.
    #[inline]
    fn answer(&mut self, kind: AnswerKind) -> io::Result<End> {
        if !self.out.fits_a_frame() {
            return Ok(End::Large(kind));
        }
        self.link.answer(kind, self.out.bytes())?;
        failpoint!("after_answer");
        let next = self.link.finish()?;
        failpoint!("after_write");
        Ok(End::Done(next))
    }

    /// Answers the previous item, if there is one, and makes the next one current. How the lane ends, if there is none.
    #[inline]
    fn advance(&mut self, previous: Option<Completion>) -> io::Result<Option<End>> {
        if let Some(completion) = previous {
            self.end_item();
            panics::forget_caught();
            match self.answer(AnswerKind::Completion(completion))? {
                End::Done(Next::HasBegun) => {}
                end => return Ok(Some(end)),
            }
        }
        if !std::mem::take(&mut self.is_current_due) {
            self.link.read()?;
        }
        match self.link.current().is_plain() {
            true => Ok(None),
            false => Ok(Some(End::Current)),
        }
    }
}

impl function::ItemStream for Lane<'_> {
    fn exchange(&mut self, previous: Option<Completion>) -> Option<(&[u8], &mut Output)> {
        if self.end.is_none() {
            self.end = self.advance(previous).transpose();
        }
        if self.end.is_some() {
            return None;
        }
        failpoint!("after_receive");
        self.out.clear();
        if let Some(limit) = &self.limit {
            if deadline::is_wanted() {
                self.link.show_start();
            }
            limit.item_began(self.link.began_ns());
        }
        self.is_running = true;
        failpoint!("before_run");
        Some((self.link.bytes(), self.out))
    }

    fn exchange_number(&mut self, previous: NumberBytes, wanted: usize) -> Option<[u8; number::LEN_MAX]> {
        // Functions that ask for their deadline are told it exactly, which takes a reading of the clock for each item.
        if self.limit.is_none() || !deadline::is_wanted() {
            self.end_item();
            panics::forget_caught();
            match self.link.exchange_number(previous, wanted) {
                NextNumber::HasBegun(number) => {
                    if let Some(limit) = &self.limit {
                        limit.item_began(self.link.began_ns());
                    }
                    self.is_running = true;
                    failpoint!("before_run");
                    return Some(number);
                }
                NextNumber::Unread => return None,
                NextNumber::None(next) => {
                    self.end = Some(Ok(End::Done(next)));
                    return None;
                }
                NextNumber::Declined => {}
            }
        }
        self.out.append_encoded(previous.as_slice());
        self.end = self.advance(Some(Completion::Value)).transpose();
        self.is_current_due = self.end.is_none();
        self.out.clear();
        None
    }

    fn output(&mut self) -> &mut Output {
        self.out
    }
}
