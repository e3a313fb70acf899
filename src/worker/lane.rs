//! Plain items of the rings, one after the other: received, run and answered without leaving the task's own code.
//!
//! That code asks for items and gives answers by [`exchange`](function::ItemStream::exchange), so that what must be done once for a
//! task (look up what it is, expect a panic) is not done again for each item, which may take less time than that.

use std::io;
use std::panic::AssertUnwindSafe;
use std::panic::catch_unwind;
use std::panic::resume_unwind;

use super::functions::Functions;
use super::functions::Ready;
use super::functions::say_panic;
use crate::sys::failpoint::failpoint;
use crate::transport::frame::AnswerKind;
use crate::transport::record::Next;
use crate::transport::record::Record;
use crate::transport::worker_link::WorkerLink;
use crate::values::output::Output;
use crate::work::function;
use crate::work::function::Completion;
use crate::worker::deadline;
use crate::worker::deadline::Limit;
use crate::worker::panics;

/// What comes after the last item of a lane.
pub(super) enum End {
    /// Something that is no plain item, and has begun.
    Begun(Record),
    /// The last item has been answered and is done.
    Done(Next),
    /// It is still to be answered, with what is in the buffer, which does not fit the ring.
    Large(AnswerKind),
}

/// The items from one that has begun to the next record that is no plain item.
pub(super) struct Lane<'a> {
    link: &'a mut WorkerLink,
    functions: &'a Functions,
    out: &'a mut Output,
    ready: &'a Ready,
    /// The record that comes next has begun already.
    begun: Option<&'a Record>,
    /// The item that runs is the task's, and so is a panic.
    is_running: bool,
    limit: Option<Limit>,
    end: Option<io::Result<End>>,
}

impl<'a> Lane<'a> {
    /// From this item on, which has begun.
    pub(super) fn new(
        link: &'a mut WorkerLink,
        functions: &'a Functions,
        out: &'a mut Output,
        ready: &'a Ready,
        item: &'a Record,
    ) -> Self {
        Self { link, functions, out, ready, begun: Some(item), is_running: false, limit: None, end: None }
    }

    /// Runs the items.
    ///
    /// # Errors
    ///
    /// The parent sent what is no record: a bug of ours.
    pub(super) fn run(&mut self) -> io::Result<End> {
        let ready = self.ready;
        let ended = panics::recorded(|| {
            // What a panic leaves behind in the context or in statics is the user's to judge, as it is with the
            // threads of a pool.
            let ended = catch_unwind(AssertUnwindSafe(|| ready.function.run(ready.context(), self)));
            match ended {
                Err(payload) if !self.is_running => {
                    panics::tell_last();
                    resume_unwind(payload)
                }
                ended => ended,
            }
        });
        if let Err(panic) = ended {
            self.end_task();
            let kind = say_panic(&panic, self.out);
            self.end = Some(self.answer(kind));
        }
        self.end.take().expect("it ends because there is nothing to run")
    }

    /// The task has come back from an item.
    #[inline]
    fn end_task(&mut self) {
        failpoint!("after_run");
        self.is_running = false;
        self.limit = None;
        self.functions.stay_alone();
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

    /// Where the next item stands that has begun.
    #[inline]
    fn next(&mut self, answer: Option<Completion>) -> io::Result<Result<Record, End>> {
        if let Some(completion) = answer {
            self.end_task();
            panics::begin_again();
            match self.answer(AnswerKind::Completion(completion))? {
                End::Done(Next::HasBegun) => {}
                end => return Ok(Err(end)),
            }
        }
        let record = match self.begun.take() {
            Some(record) => record.clone(),
            None => self.link.record()?,
        };
        match record.is_plain() {
            true => Ok(Ok(record)),
            false => Ok(Err(End::Begun(record))),
        }
    }
}

impl function::ItemStream for Lane<'_> {
    fn exchange(&mut self, answer: Option<Completion>) -> Option<(&[u8], &mut Output)> {
        let record = match self.next(answer) {
            Ok(Ok(record)) => record,
            Ok(Err(end)) => {
                self.end = Some(Ok(end));
                return None;
            }
            Err(error) => {
                self.end = Some(Err(error));
                return None;
            }
        };
        failpoint!("after_receive");
        self.out.clear();
        if let Some(timeout) = self.ready.timeout {
            self.link.show_beginning();
            self.limit = Some(deadline::begin(Some(timeout)));
        }
        self.is_running = true;
        failpoint!("before_run");
        Some((self.link.bytes(&record), self.out))
    }
}
