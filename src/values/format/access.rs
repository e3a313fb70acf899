//! What visitors are given: elements, fields, entries and variants.

use serde::de;
use serde::de::DeserializeSeed;
use serde::de::Visitor;

use super::error::Error;
use super::number::Numbers;
use super::reader::Reader;
use super::reader::not_utf8;
use super::tables::Name;
use super::tables::Shape;
use super::tag;
use super::tag::Kind;

/// The elements of a sequence, tuple or block.
#[derive(Debug)]
pub(super) struct Elements<'r, 'de> {
    reader: &'r mut Reader<'de>,
    /// The rest of the present run.
    run: Numbers<'de>,
    /// How many there are, if known.
    left: Option<usize>,
    has_end: bool,
}

impl<'r, 'de> Elements<'r, 'de> {
    pub(super) fn of_block(reader: &'r mut Reader<'de>, kind: Kind, bytes: &'de [u8]) -> Self {
        let left = Some(bytes.len() / kind.size());
        Self { reader, run: Numbers { kind, bytes }, left, has_end: false }
    }

    #[inline]
    pub(super) fn of_sequence(reader: &'r mut Reader<'de>, hint: Option<usize>) -> Self {
        Self { reader, run: Numbers::NONE, left: hint, has_end: true }
    }

    /// Checks that all elements were taken.
    #[inline]
    pub(super) fn finish(self) -> Result<(), Error> {
        let is_at_end = self.run.bytes.is_empty() && (!self.has_end || self.reader.take_if(tag::END));
        if is_at_end { Ok(()) } else { Err(elements_left()) }
    }

    /// The next number of the present run, or the first one of the next run.
    #[inline(never)]
    fn next_number_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        while self.run.bytes.is_empty() {
            if !self.has_end || !self.reader.take_if(tag::RUN) {
                return Ok(None);
            }
            let (kind, bytes) = self.reader.run()?;
            self.run = Numbers { kind, bytes };
        }
        let number = self.run.take_first();
        self.left = self.left.map(|left| left.saturating_sub(1));
        seed.deserialize(number).map(Some)
    }
}

#[cold]
fn elements_left() -> Error {
    Error::new("a sequence has more elements than its type takes")
}

impl<'de> de::SeqAccess<'de> for Elements<'_, 'de> {
    type Error = Error;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        if self.run.bytes.is_empty() && self.has_end {
            match self.reader.peek()? {
                tag::END => return Ok(None),
                tag::RUN => {}
                _ => {
                    self.left = self.left.map(|left| left.saturating_sub(1));
                    return seed.deserialize(&mut *self.reader).map(Some);
                }
            }
        }
        self.next_number_seed(seed)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.left
    }
}

/// The fields of a struct, by position.
#[derive(Debug)]
pub(super) struct Positions<'r, 'de> {
    reader: &'r mut Reader<'de>,
    left: usize,
}

impl<'r, 'de> Positions<'r, 'de> {
    #[inline]
    pub(super) fn new(reader: &'r mut Reader<'de>, count: usize) -> Self {
        Self { reader, left: count }
    }

    /// Checks that all fields were taken.
    #[inline]
    pub(super) fn finish(self) -> Result<(), Error> {
        if self.left == 0 { Ok(()) } else { Err(elements_left()) }
    }
}

impl<'de> de::SeqAccess<'de> for Positions<'_, 'de> {
    type Error = Error;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        // A deviation here is no value: the error lets the whole be read again by name.
        seed.deserialize(&mut *self.reader).map(Some)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        Some(self.left)
    }
}

/// The fields of a struct, by name: those of a shape, and then named entries.
#[derive(Debug)]
pub(super) struct NamedFields<'r, 'de> {
    reader: &'r mut Reader<'de>,
    shape: Shape<'de>,
    /// Entries with names follow, up to an end.
    has_entries: bool,
    hint: Option<usize>,
}

impl<'r, 'de> NamedFields<'r, 'de> {
    pub(super) fn of_shape(reader: &'r mut Reader<'de>, shape: Shape<'de>) -> Self {
        let hint = Some(reader.believable(shape.count));
        Self { reader, shape, has_entries: false, hint }
    }

    pub(super) fn of_entries(reader: &'r mut Reader<'de>) -> Self {
        Self { reader, shape: Shape::new(0, &[]), has_entries: true, hint: None }
    }

    /// The next name, with its value behind it.
    pub(super) fn next_name(&mut self) -> Result<Option<Name<'de>>, Error> {
        if self.shape.count > 0 {
            if !self.reader.take_if(tag::DEVIATION) {
                return self.next_of_shape().map(Some);
            }
            self.shape.count = 0;
            self.has_entries = true;
        }
        if self.has_entries && self.reader.take_if(tag::KEY) {
            return self.reader.name().map(Some);
        }
        Ok(None)
    }

    fn next_of_shape(&mut self) -> Result<Name<'de>, Error> {
        let (len, names) = self.shape.names.split_first().ok_or_else(Error::malformed)?;
        let (name, names) = names.split_at_checked(usize::from(*len)).ok_or_else(Error::malformed)?;
        self.shape.names = names;
        self.shape.count -= 1;
        Ok(Name { text: std::str::from_utf8(name).map_err(not_utf8)?, index: 0 })
    }

    /// Checks that all fields were taken.
    pub(super) fn finish(self) -> Result<(), Error> {
        let is_at_end = self.shape.count == 0 && (!self.has_entries || self.reader.take_if(tag::END));
        if is_at_end { Ok(()) } else { Err(Error::new("a struct has more fields than its type takes")) }
    }

    pub(super) fn reader(&mut self) -> &mut Reader<'de> {
        self.reader
    }
}

impl<'de> de::MapAccess<'de> for NamedFields<'_, 'de>
where
    for<'s> &'s mut Reader<'de>: de::Deserializer<'de, Error = Error>,
{
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        self.next_name()?.map(|name| seed.deserialize(name)).transpose()
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        seed.deserialize(&mut *self.reader)
    }

    fn size_hint(&self) -> Option<usize> {
        self.hint
    }
}

/// The entries of a map.
#[derive(Debug)]
pub(super) struct Entries<'r, 'de> {
    reader: &'r mut Reader<'de>,
    left: Option<usize>,
}

impl<'r, 'de> Entries<'r, 'de> {
    pub(super) fn new(reader: &'r mut Reader<'de>, hint: Option<usize>) -> Self {
        Self { reader, left: hint }
    }

    /// Checks that all entries were taken.
    pub(super) fn finish(self) -> Result<(), Error> {
        if self.reader.take_if(tag::END) {
            return Ok(());
        }
        Err(Error::new("a map has more entries than its type takes"))
    }
}

impl<'de> de::MapAccess<'de> for Entries<'_, 'de> {
    type Error = Error;

    #[inline]
    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        self.left = self.left.map(|left| left.saturating_sub(1));
        match self.reader.peek()? {
            tag::END => Ok(None),
            _ => seed.deserialize(&mut *self.reader).map(Some),
        }
    }

    #[inline]
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        seed.deserialize(&mut *self.reader)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.left
    }
}

/// A variant that holds something, as a map of one entry: for types that ask for any value.
#[derive(Debug)]
pub(super) struct VariantEntry<'r, 'de> {
    reader: &'r mut Reader<'de>,
    name: Option<Name<'de>>,
    has_value: bool,
}

impl<'r, 'de> VariantEntry<'r, 'de> {
    pub(super) fn new(reader: &'r mut Reader<'de>, name: Name<'de>) -> Self {
        Self { reader, name: Some(name), has_value: true }
    }

    /// Checks that the entry was taken.
    pub(super) fn finish(self) -> Result<(), Error> {
        if self.has_value { Err(Error::new("a variant holds a value that its type does not take")) } else { Ok(()) }
    }
}

impl<'de> de::MapAccess<'de> for VariantEntry<'_, 'de> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        self.name.take().map(|name| seed.deserialize(name)).transpose()
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        self.has_value = false;
        seed.deserialize(&mut *self.reader)
    }

    fn size_hint(&self) -> Option<usize> {
        Some(usize::from(self.name.is_some()))
    }
}

/// A variant.
#[derive(Debug)]
pub(super) struct Variant<'r, 'de> {
    pub(super) reader: &'r mut Reader<'de>,
    pub(super) name: Name<'de>,
    /// Whether it holds something.
    pub(super) has_value: bool,
}

impl<'de> Variant<'_, 'de> {
    fn check_value(&self, expected: &'static str) -> Result<(), Error> {
        match self.has_value {
            true => Ok(()),
            false => Err(de::Error::invalid_type(de::Unexpected::UnitVariant, &expected)),
        }
    }
}

impl<'de> de::EnumAccess<'de> for Variant<'_, 'de> {
    type Error = Error;
    type Variant = Self;

    #[inline]
    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self), Error> {
        Ok((seed.deserialize(self.name)?, self))
    }
}

impl<'de> de::VariantAccess<'de> for Variant<'_, 'de> {
    type Error = Error;

    #[inline]
    fn unit_variant(self) -> Result<(), Error> {
        if self.has_value { de::Deserialize::deserialize(self.reader) } else { Ok(()) }
    }

    #[inline]
    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Error> {
        self.check_value("newtype variant")?;
        seed.deserialize(self.reader)
    }

    #[inline]
    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        self.check_value("tuple variant")?;
        de::Deserializer::deserialize_tuple(self.reader, len, visitor)
    }

    #[inline]
    fn struct_variant<V: Visitor<'de>>(self, fields: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        self.check_value("struct variant")?;
        de::Deserializer::deserialize_struct(self.reader, "", fields, visitor)
    }
}

impl<'de> de::Deserializer<'de> for Name<'de> {
    type Error = Error;

    #[inline]
    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_borrowed_str(self.text)
    }

    #[inline]
    fn deserialize_u32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_u32(self.index)
    }

    #[inline]
    fn deserialize_u64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_u64(u64::from(self.index))
    }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    /// A name of a field as the key of a map whose keys are an enum.
    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_enum(de::value::BorrowedStrDeserializer::new(self.text))
    }

    fn is_human_readable(&self) -> bool {
        true
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u128 f32 f64 char str string bytes byte_buf unit unit_struct seq tuple
        tuple_struct map struct identifier ignored_any
    }
}
