//! Structs, written by position or with names.

use serde::Serialize;
use serde::ser;

use super::dictionary::StructStart;
use super::dictionary::is_same;
use super::error::Error;
use super::tag;
use super::writer::Writer;

/// In place of the next field: the fields are written with names.
const WITH_NAMES: u32 = u32::MAX;
/// In place of an index: the names are not learned.
const NOT_LEARNED: u32 = u32::MAX;

/// The fields of a struct.
///
/// Of plain words, because each struct makes one of these: whole enums would be copied, and wait for their parts to leave
/// the store buffer.
#[derive(Debug)]
pub(in crate::values) struct Fields<'w, 'a> {
    writer: &'w mut Writer<'a>,
    /// The struct in the dictionary.
    index: u32,
    /// The next field by position, or [`WITH_NAMES`].
    next: u32,
}

impl<'w, 'a> Fields<'w, 'a> {
    #[inline(always)]
    pub(super) fn begin(writer: &'w mut Writer<'a>, name: &'static str, announced: usize) -> Result<Self, Error> {
        match writer.dictionary().begin_struct(name, announced) {
            StructStart::New { index } => {
                writer.enter(tag::NEW_STRUCT)?;
                writer.shape(index)?;
                Ok(Self { writer, index, next: 0 })
            }
            StructStart::Known { index, id } => {
                writer.enter_known(id)?;
                Ok(Self { writer, index, next: 0 })
            }
            StructStart::Named => {
                writer.enter(tag::NAMED_STRUCT)?;
                Ok(Self { writer, index: NOT_LEARNED, next: WITH_NAMES })
            }
            StructStart::Unknown { index } => {
                writer.enter(tag::NAMED_STRUCT)?;
                Ok(Self { writer, index, next: WITH_NAMES })
            }
        }
    }

    #[inline(always)]
    pub(super) fn add<T: Serialize + ?Sized>(&mut self, name: &'static str, value: &T) -> Result<(), Error>
    where
        for<'s> &'s mut Writer<'a>: ser::Serializer<Ok = (), Error = Error>,
    {
        if self.next != WITH_NAMES
            && self.writer.dictionary().field(self.index, self.next).is_some_and(|it| is_same(it, name))
        {
            self.next += 1;
        } else {
            self.add_name(name)?;
        }
        self.writer.part(value)
    }

    #[cold]
    fn add_name(&mut self, name: &'static str) -> Result<(), Error> {
        if self.next != WITH_NAMES {
            if self.is_complete() {
                return Err(Error::new("a struct has more fields than it has announced"));
            }
            self.deviate()?;
        }
        if self.index != NOT_LEARNED {
            self.writer.dictionary().learn(self.index, name);
        }
        self.writer.tag(tag::KEY)?;
        self.writer.name(name, 0)
    }

    fn deviate(&mut self) -> Result<(), Error> {
        self.writer.dictionary().varies(self.index);
        (self.index, self.next) = (NOT_LEARNED, WITH_NAMES);
        self.writer.tag(tag::DEVIATION)
    }

    /// Whether all fields of the shape were written.
    #[inline]
    fn is_complete(&mut self) -> bool {
        self.writer.dictionary().field(self.index, self.next).is_none()
    }

    #[inline(always)]
    pub(super) fn finish(mut self) -> Result<(), Error> {
        if self.next != WITH_NAMES && self.is_complete() { Ok(()) } else { self.finish_names() }
    }

    #[cold]
    fn finish_names(mut self) -> Result<(), Error> {
        if self.next != WITH_NAMES {
            self.deviate()?;
        } else if self.index != NOT_LEARNED {
            self.writer.dictionary().learned(self.index);
        }
        self.writer.tag(tag::END)
    }
}
