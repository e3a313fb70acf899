//! The pieces of which encoded values are made, appended to an [`Output`].

use serde::Serialize;
use serde::ser;

use super::dictionary;
use super::dictionary::Dictionary;
use super::dictionary::NameStart;
use super::error::Error;
use super::tag;
use super::tag::Kind;
use crate::sys::stack::StackBudget;
use crate::values::output::Full;
use crate::values::output::Output;

/// Writes one value.
#[derive(Debug)]
pub(in crate::values) struct Writer<'a> {
    output: &'a mut Output,
    budget: StackBudget,
    /// Taken when the first struct or enum is met.
    dictionary: Option<Box<Dictionary>>,
    /// The text of the first error of a part. If the value ignores it, the bytes have a gap.
    failure: Option<Box<str>>,
}

impl Drop for Writer<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(dictionary) = self.dictionary.take() {
            dictionary::give_back(dictionary);
        }
    }
}

#[inline]
fn written<T>(result: Result<T, Full>) -> Result<T, Error> {
    result.map_err(|Full| Error::no_room())
}

impl<'a> Writer<'a> {
    #[inline]
    pub(in crate::values) fn new(output: &'a mut Output) -> Self {
        Self { output, budget: StackBudget::from_here(), dictionary: None, failure: None }
    }

    /// Whether the value, or the part of it that was written, is nested too deeply for this thread.
    pub(in crate::values) fn is_too_deep(&self) -> bool {
        self.budget.is_exhausted()
    }

    /// Whether all parts were written, whatever the value itself has made of their errors.
    #[inline]
    pub(in crate::values) fn finish(&mut self) -> Result<(), Error> {
        if self.failure.is_none() { Ok(()) } else { Err(Error::new(self.failure.take().unwrap_or_default())) }
    }

    /// A part of the value, which may ignore its error.
    #[inline]
    pub(super) fn part<T: Serialize + ?Sized>(&mut self, part: &T) -> Result<(), Error>
    where
        for<'s> &'s mut Self: ser::Serializer<Ok = (), Error = Error>,
    {
        part.serialize(&mut *self).inspect_err(|error| self.note(error))
    }

    #[cold]
    fn note(&mut self, error: &Error) {
        self.failure.get_or_insert_with(|| error.to_string().into());
    }

    #[inline]
    pub(super) fn dictionary(&mut self) -> &mut Dictionary {
        self.dictionary.get_or_insert_with(dictionary::take)
    }

    #[inline]
    pub(super) fn tag(&mut self, tag: u8) -> Result<(), Error> {
        written(self.output.push(tag))
    }

    /// The tag of a value that holds others. Every level begins with a call of this.
    #[inline]
    pub(super) fn enter(&mut self, tag: u8) -> Result<(), Error> {
        if !self.budget.is_left() {
            return Err(Error::too_deep());
        }
        self.tag(tag)
    }

    #[inline]
    pub(super) fn array<const N: usize>(&mut self, bytes: [u8; N]) -> Result<(), Error> {
        written(self.output.extend_array(bytes))
    }

    /// A tag, and what follows it.
    #[inline]
    pub(super) fn tagged<const N: usize>(&mut self, tag: u8, bytes: [u8; N]) -> Result<(), Error> {
        written(self.output.extend_tagged(tag, bytes))
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Error> {
        written(self.output.extend(bytes))
    }

    #[inline]
    pub(super) fn tag_and_len(&mut self, tag: u8, len: usize) -> Result<(), Error> {
        match u32::try_from(len) {
            Ok(short) if short != tag::ESCAPE => self.tagged(tag, short.to_ne_bytes()),
            _ => self.tag_and_long_len(tag, len),
        }
    }

    #[cold]
    fn tag_and_long_len(&mut self, tag: u8, len: usize) -> Result<(), Error> {
        self.tag(tag)?;
        self.array(tag::ESCAPE.to_ne_bytes())?;
        self.array((len as u64).to_ne_bytes())
    }

    /// Begins a sequence or map, which may have another number of elements all the same.
    #[inline]
    pub(super) fn enter_hinted(&mut self, tag: u8, len: Option<usize>) -> Result<(), Error> {
        if !self.budget.is_left() {
            return Err(Error::too_deep());
        }
        let hint = len.and_then(|len| u32::try_from(len).ok()).unwrap_or(tag::ESCAPE);
        self.tagged(tag, hint.to_ne_bytes())
    }

    /// A slice of numbers, as it lies in memory.
    pub(super) fn block(&mut self, kind: Kind, numbers: &[u8]) -> Result<(), Error> {
        self.array([tag::BLOCK, kind as u8])?;
        let count = numbers.len() / kind.size();
        match u32::try_from(count) {
            Ok(short) if short != tag::ESCAPE => self.array(short.to_ne_bytes())?,
            _ => {
                self.array(tag::ESCAPE.to_ne_bytes())?;
                self.array((count as u64).to_ne_bytes())?;
            }
        }
        self.bytes(numbers)
    }

    #[inline]
    pub(super) fn name(&mut self, name: &'static str, index: u32) -> Result<(), Error> {
        match self.dictionary().begin_name(name, index) {
            NameStart::Known(id) => self.array(id.to_ne_bytes()),
            NameStart::New => self.new_name(name, index),
        }
    }

    fn new_name(&mut self, name: &'static str, index: u32) -> Result<(), Error> {
        self.array(tag::NEW_NAME.to_ne_bytes())?;
        self.array(index.to_ne_bytes())?;
        let len = u32::try_from(name.len()).map_err(|_| Error::new("a name is longer than 4 GiB"))?;
        self.array(len.to_ne_bytes())?;
        self.bytes(name.as_bytes())
    }

    /// A struct by position, whose shape has this id.
    #[inline]
    pub(super) fn enter_known(&mut self, id: u16) -> Result<(), Error> {
        if !self.budget.is_left() {
            return Err(Error::too_deep());
        }
        self.tagged(tag::STRUCT, id.to_ne_bytes())
    }

    /// The encoded shape of a struct in the dictionary.
    #[inline]
    pub(super) fn shape(&mut self, index: u32) -> Result<(), Error> {
        let Self { output, dictionary, .. } = self;
        let dictionary = dictionary.as_ref().expect("the index is from the dictionary");
        written(output.extend(dictionary.shape(index)))
    }

    /// Begins a run; see [`Output::begin_run`].
    #[inline(always)]
    pub(super) fn begin_run(&mut self, kind: Kind, room: usize) -> Result<usize, Error> {
        written(self.output.begin_run([tag::RUN, kind as u8, 0, 0], room))
    }

    #[inline(always)]
    pub(super) fn extend_run(&mut self, number: &[u8]) -> bool {
        self.output.extend_run(number)
    }

    #[inline]
    pub(super) fn end_run(&mut self, start: usize, count: u16) {
        self.output.patch(start + 2, count.to_ne_bytes());
    }
}
