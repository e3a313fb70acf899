//! Sequences that are written element by element. Numbers of one kind that follow each other become a run.
//!
//! A run begins with its length, which is known only at its end. It stays in the memory of the output until then.

use serde::Serialize;
use serde::ser;

use super::error::Error;
use super::numbers;
use super::tag;
use super::tag::Kind;
use super::writer::Writer;

/// The bytes of a run, at most.
const RUN_BYTES: usize = 4096;
#[derive(Clone, Copy, Debug)]
struct Run {
    kind: Kind,
    /// Where it begins in the output.
    start: usize,
    count: u16,
}

/// The elements of a sequence.
#[derive(Debug)]
pub(in crate::values) struct Elements<'w, 'a> {
    writer: &'w mut Writer<'a>,
    run: Option<Run>,
}

impl<'w, 'a> Elements<'w, 'a> {
    #[inline]
    pub(super) fn of_sequence(writer: &'w mut Writer<'a>, len: Option<usize>) -> Result<Self, Error> {
        writer.enter_hinted(tag::SEQ, len)?;
        Ok(Self { writer, run: None })
    }

    #[inline(always)]
    pub(super) fn add<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error>
    where
        for<'s> &'s mut Writer<'a>: ser::Serializer<Ok = (), Error = Error>,
    {
        if let Some((kind, bytes)) = numbers::of_element(value) {
            return self.add_number(kind, bytes);
        }
        self.end_run();
        self.writer.part(value)
    }

    #[inline(always)]
    fn add_number(&mut self, kind: Kind, bytes: &[u8]) -> Result<(), Error> {
        if let Some(run) = &mut self.run
            && run.kind == kind
            && run.count < u16::MAX
            && self.writer.extend_run(bytes)
        {
            run.count += 1;
            return Ok(());
        }
        self.begin_run(kind, bytes)
    }

    #[inline(always)]
    fn begin_run(&mut self, kind: Kind, bytes: &[u8]) -> Result<(), Error> {
        self.end_run();
        let start = self.writer.begin_run(kind, RUN_BYTES)?;
        let fits = self.writer.extend_run(bytes);
        assert!(fits, "a run has room for one number");
        self.run = Some(Run { kind, start, count: 1 });
        Ok(())
    }

    #[inline]
    fn end_run(&mut self) {
        if let Some(Run { start, count, .. }) = self.run.take() {
            self.writer.end_run(start, count);
        }
    }

    #[inline]
    pub(super) fn finish(mut self) -> Result<(), Error> {
        self.end_run();
        self.writer.tag(tag::END)
    }
}
