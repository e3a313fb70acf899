//! The pieces of which encoded values are made, taken from bytes that may be hostile.

use std::str;

use super::error::Error;
use super::tables::Name;
use super::tables::Shape;
use super::tables::Table;
use super::tag;
use super::tag::Kind;
use crate::sys::stack::StackBudget;

/// How the fields of structs are passed to a type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::values) enum Naming {
    /// By position where the names are those that the type asks for, in the same order; otherwise by name.
    ByPosition,
    /// By name, always.
    ByName,
}

#[derive(Debug)]
struct Tables<'de> {
    names: Table<Name<'de>>,
    shapes: Table<Shape<'de>>,
}

/// Reads one value.
#[derive(Debug)]
pub(in crate::values) struct Reader<'de> {
    rest: &'de [u8],
    budget: StackBudget,
    naming: Naming,
    /// Made when the first name or shape is met.
    tables: Option<Tables<'de>>,
    /// How many elements may still be announced; see [`hint`](Self::hint).
    announceable: usize,
    has_used_positions: bool,
    /// A value that holds others was left before its end, because of an error.
    is_abandoned: bool,
}

impl<'de> Reader<'de> {
    #[inline]
    pub(in crate::values) fn new(bytes: &'de [u8], naming: Naming) -> Self {
        Self {
            rest: bytes,
            budget: StackBudget::from_here(),
            naming,
            tables: None,
            announceable: bytes.len(),
            has_used_positions: false,
            is_abandoned: false,
        }
    }

    /// Whether the value, or the part of it that was read, is nested too deeply for this thread.
    #[inline]
    pub(in crate::values) fn is_too_deep(&self) -> bool {
        self.budget.is_exhausted()
    }

    /// Whether the value may be another one by name.
    #[inline]
    pub(in crate::values) fn has_used_positions(&self) -> bool {
        self.has_used_positions
    }

    /// Checks that the value, which a type has made of the bytes, is the whole value.
    #[inline]
    pub(in crate::values) fn finish(&self) -> Result<(), Error> {
        if self.is_abandoned {
            return Err(Error::new("a part of it did not deserialize, and its Deserialize has ignored that error"));
        }
        match self.rest.len() {
            0 => Ok(()),
            more => Err(Error::new(format!("{more} bytes too many"))),
        }
    }

    /// For an error of what a visitor has made of a value that holds others: the value may ignore the error, but it is
    /// not known where the value ends.
    #[cold]
    pub(super) fn abandon(&mut self, error: Error) -> Error {
        self.is_abandoned = true;
        error
    }

    /// A level of the value begins.
    #[inline]
    pub(super) fn enter(&mut self) -> Result<(), Error> {
        if self.budget.is_left() { Ok(()) } else { Err(self.abandon(Error::too_deep())) }
    }

    #[inline]
    pub(super) fn peek(&self) -> Result<u8, Error> {
        self.rest.first().copied().ok_or_else(Error::too_short)
    }

    /// Whether the next byte is `tag`; takes it if it is.
    #[inline]
    pub(super) fn take_if(&mut self, tag: u8) -> bool {
        match self.rest.split_first() {
            Some((first, rest)) if *first == tag => {
                self.rest = rest;
                true
            }
            _ => false,
        }
    }

    #[inline]
    pub(super) fn byte(&mut self) -> Result<u8, Error> {
        self.array().map(|[byte]| byte)
    }

    #[inline]
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let (array, rest) = self.rest.split_first_chunk::<N>().ok_or_else(Error::too_short)?;
        self.rest = rest;
        Ok(*array)
    }

    /// The number behind its tag, if that is next.
    #[inline]
    pub(super) fn number_if<const N: usize>(&mut self, tag: u8) -> Option<[u8; N]> {
        let (first, rest) = self.rest.split_first()?;
        if *first != tag {
            return None;
        }
        let (number, rest) = rest.split_first_chunk::<N>()?;
        self.rest = rest;
        Some(*number)
    }

    #[inline]
    pub(super) fn take(&mut self, len: usize) -> Result<&'de [u8], Error> {
        let (taken, rest) = self.rest.split_at_checked(len).ok_or_else(Error::too_short)?;
        self.rest = rest;
        Ok(taken)
    }

    #[inline]
    pub(super) fn len(&mut self) -> Result<usize, Error> {
        match u32::from_ne_bytes(self.array()?) {
            tag::ESCAPE => usize::try_from(u64::from_ne_bytes(self.array()?)).map_err(|_| Error::too_short()),
            short => Ok(short as usize),
        }
    }

    /// The text or bytes behind a tag.
    #[inline]
    pub(super) fn bytes(&mut self) -> Result<&'de [u8], Error> {
        let len = self.len()?;
        self.take(len)
    }

    #[inline]
    pub(super) fn text(&mut self) -> Result<&'de str, Error> {
        let bytes = self.bytes()?;
        str::from_utf8(bytes).map_err(not_utf8)
    }

    pub(super) fn char(&mut self) -> Result<char, Error> {
        char::from_u32(u32::from_ne_bytes(self.array()?)).ok_or_else(|| Error::new("a char is not one"))
    }

    /// The kind and the bytes of a block.
    #[inline]
    pub(super) fn block(&mut self) -> Result<(Kind, &'de [u8]), Error> {
        let kind = Kind::of_code(self.byte()?).ok_or_else(Error::malformed)?;
        let count = self.len()?;
        let size = count.checked_mul(kind.size()).ok_or_else(Error::too_short)?;
        Ok((kind, self.take(size)?))
    }

    /// The kind and the bytes of a run.
    #[inline]
    pub(super) fn run(&mut self) -> Result<(Kind, &'de [u8]), Error> {
        let kind = Kind::of_code(self.byte()?).ok_or_else(Error::malformed)?;
        let count = u16::from_ne_bytes(self.array()?);
        Ok((kind, self.take(usize::from(count) * kind.size())?))
    }

    /// The kind of the numbers of a run that is next.
    #[inline]
    pub(super) fn kind_of_run(&self) -> Option<Kind> {
        self.kind_behind(tag::RUN)
    }

    /// The kind of the numbers of a block that is next.
    #[inline]
    pub(super) fn kind_of_block(&self) -> Option<Kind> {
        self.kind_behind(tag::BLOCK)
    }

    #[inline]
    fn kind_behind(&self, tag: u8) -> Option<Kind> {
        match self.rest {
            [first, code, ..] if *first == tag => Kind::of_code(*code),
            _ => None,
        }
    }

    /// How many bytes are left.
    #[inline]
    pub(super) fn remaining(&self) -> usize {
        self.rest.len()
    }

    /// How many elements a sequence or map announces, as far as that may be believed: all sequences together have no more
    /// elements than there are bytes, because each element has one of its own.
    #[inline]
    pub(super) fn hint(&mut self) -> Result<Option<usize>, Error> {
        let announced = u32::from_ne_bytes(self.array()?);
        if announced == tag::ESCAPE {
            return Ok(None);
        }
        Ok(Some(self.believable(announced as usize)))
    }

    /// As many of the elements that are announced as may be believed.
    #[inline]
    pub(super) fn believable(&mut self, announced: usize) -> usize {
        let believed = announced.min(self.rest.len()).min(self.announceable);
        self.announceable -= believed;
        believed
    }

    #[inline]
    fn tables(&mut self) -> &mut Tables<'de> {
        self.tables.get_or_insert_with(|| Tables { names: Table::new(), shapes: Table::new() })
    }

    /// The name of a variant or field.
    #[inline]
    pub(super) fn name(&mut self) -> Result<Name<'de>, Error> {
        match u16::from_ne_bytes(self.array()?) {
            tag::NEW_NAME => self.new_name(),
            id => self.tables().names.get(id).copied().ok_or_else(Error::malformed),
        }
    }

    fn new_name(&mut self) -> Result<Name<'de>, Error> {
        let index = u32::from_ne_bytes(self.array()?);
        let len = u32::from_ne_bytes(self.array()?);
        let name = Name { text: str::from_utf8(self.take(len as usize)?).map_err(not_utf8)?, index };
        self.tables().names.define(name);
        Ok(name)
    }

    /// The shape behind the tag of a struct.
    pub(super) fn shape(&mut self, tag: u8) -> Result<Shape<'de>, Error> {
        if tag == tag::STRUCT {
            return self.known_shape().copied();
        }
        let shape = self.new_shape()?;
        self.tables().shapes.define(shape);
        Ok(shape)
    }

    /// As [`shape`](Self::shape), and how its fields are passed to a type that asks for `fields`.
    #[inline]
    pub(super) fn shape_for(
        &mut self,
        tag: u8,
        fields: &'static [&'static str],
    ) -> Result<(Shape<'de>, Naming), Error> {
        if self.naming == Naming::ByName {
            return Ok((self.shape(tag)?, Naming::ByName));
        }
        let (shape, is_same) = if tag == tag::STRUCT {
            let shape = self.known_shape()?;
            let is_same = shape.is(fields);
            (*shape, is_same)
        } else {
            let mut shape = self.new_shape()?;
            let is_same = shape.is(fields);
            self.tables().shapes.define(shape);
            (shape, is_same)
        };
        self.has_used_positions |= is_same;
        Ok((shape, if is_same { Naming::ByPosition } else { Naming::ByName }))
    }

    #[inline]
    fn known_shape(&mut self) -> Result<&mut Shape<'de>, Error> {
        let id = u16::from_ne_bytes(self.array()?);
        self.tables().shapes.get(id).ok_or_else(Error::malformed)
    }

    #[inline]
    fn new_shape(&mut self) -> Result<Shape<'de>, Error> {
        let count = usize::from(self.byte()?);
        let size = usize::from(u16::from_ne_bytes(self.array()?));
        Ok(Shape::new(count, self.take(size)?))
    }
}

#[cold]
pub(super) fn not_utf8(error: str::Utf8Error) -> Error {
    Error::new(format!("a text is not UTF-8: {error}"))
}
