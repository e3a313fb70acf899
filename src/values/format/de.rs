//! [`Reader`] as a deserializer.
//!
//! What a type asks for matters only where it must: to tell positions from names, options from what they hold, and to
//! take a short way. Otherwise the bytes say what they are, and the type's visitor decides what to make of it.

use serde::de;
use serde::de::Deserialize;
use serde::de::SeqAccess;
use serde::de::Visitor;

use super::access::Elements;
use super::access::Entries;
use super::access::NamedFields;
use super::access::Positions;
use super::access::Variant;
use super::access::VariantEntry;
use super::error::Error;
use super::number::Numbers;
use super::number::each_number;
use super::numbers;
use super::numbers::Number;
use super::reader::Naming;
use super::reader::Reader;
use super::tables::Name;
use super::tag;
use super::tag::Kind;

/// Passes what a visitor is given, and checks that it has taken all of it.
macro_rules! visit_all {
    ($reader:ident, $visitor:ident.$method:ident($access:expr)) => {{
        let mut access = $access;
        let visited = $visitor.$method(&mut access).and_then(|value| access.finish().map(|()| value));
        visited.map_err(|error| $reader.abandon(error))
    }};
}

impl<'de> Reader<'de> {
    /// Takes the value behind `tag`, whatever it is.
    fn visit<V: Visitor<'de>>(&mut self, tag: u8, visitor: V) -> Result<V::Value, Error> {
        match tag {
            tag::UNIT => visitor.visit_unit(),
            tag::NONE => visitor.visit_none(),
            tag::FALSE => visitor.visit_bool(false),
            tag::TRUE => visitor.visit_bool(true),
            tag::CHAR => visitor.visit_char(self.char()?),
            tag::STR => visitor.visit_borrowed_str(self.text()?),
            tag::BYTES => visitor.visit_borrowed_bytes(self.bytes()?),
            tag::UNIT_VARIANT => visitor.visit_borrowed_str(self.name()?.text),
            number @ tag::NUMBER.. => self.visit_number(number, visitor),
            tag::END | tag::RUN | tag::DEVIATION | tag::KEY => Err(self.abandon(Error::malformed())),
            holder => {
                self.enter()?;
                self.visit_holder(holder, visitor)
            }
        }
    }

    fn visit_number<V: Visitor<'de>>(&mut self, tag: u8, visitor: V) -> Result<V::Value, Error> {
        match Kind::of_code(tag - tag::NUMBER) {
            // A `bool` by itself has tags of its own.
            Some(Kind::Bool) | None => Err(self.abandon(Error::malformed())),
            Some(kind) => Numbers { kind, bytes: self.take(kind.size())? }.take_first().visit(visitor),
        }
    }

    fn visit_holder<V: Visitor<'de>>(&mut self, tag: u8, visitor: V) -> Result<V::Value, Error> {
        match tag {
            tag::SOME => visitor.visit_some(&mut *self).map_err(|error| self.abandon(error)),
            tag::BLOCK => {
                let (kind, bytes) = self.block()?;
                visit_all!(self, visitor.visit_seq(Elements::of_block(self, kind, bytes)))
            }
            tag::SEQ => {
                let hint = self.hint()?;
                visit_all!(self, visitor.visit_seq(Elements::of_sequence(self, hint)))
            }
            tag::TUPLE => visit_all!(self, visitor.visit_seq(Elements::of_sequence(self, None))),
            tag::MAP => {
                let hint = self.hint()?;
                visit_all!(self, visitor.visit_map(Entries::new(self, hint)))
            }
            tag::NEW_STRUCT | tag::STRUCT => {
                let shape = self.shape(tag)?;
                visit_all!(self, visitor.visit_map(NamedFields::of_shape(self, shape)))
            }
            tag::NAMED_STRUCT => visit_all!(self, visitor.visit_map(NamedFields::of_entries(self))),
            tag::VARIANT => {
                let name = self.name()?;
                visit_all!(self, visitor.visit_map(VariantEntry::new(self, name)))
            }
            _ => Err(self.abandon(Error::malformed())),
        }
    }

    /// Takes the next value for a type that asks for something that is no option.
    #[inline(never)]
    fn visit_next<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Error> {
        let mut tag = self.byte()?;
        while tag == tag::SOME {
            tag = self.byte()?;
        }
        self.visit(tag, visitor)
    }

    /// A block, for a visitor of sequences.
    fn visit_block<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Error> {
        let (kind, bytes) = self.block()?;
        match own_vector::<V, _>(kind, Block(bytes)) {
            Ok(value) => value,
            Err(Block(bytes)) => {
                visit_all!(self, visitor.visit_seq(Elements::of_block(self, kind, bytes)))
            }
        }
    }

    /// A sequence, for a visitor of sequences.
    #[inline]
    fn visit_sequence<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Error> {
        self.enter()?;
        let hint = self.hint()?;
        if let Some(kind) = self.kind_of_run() {
            return self.visit_runs(kind, hint, visitor);
        }
        visit_all!(self, visitor.visit_seq(Elements::of_sequence(self, hint)))
    }

    fn visit_runs<V: Visitor<'de>>(&mut self, kind: Kind, hint: Option<usize>, visitor: V) -> Result<V::Value, Error> {
        match own_vector::<V, _>(kind, Runs(self, hint)) {
            Ok(value) => value.map_err(|error| self.abandon(error)),
            Err(Runs(..)) => visit_all!(self, visitor.visit_seq(Elements::of_sequence(self, hint))),
        }
    }
}

/// A source of the numbers of a vector.
trait Source {
    fn into_vec<T: Number>(self) -> Result<Vec<T>, Error>;
}

struct Block<'de>(&'de [u8]);

impl Source for Block<'_> {
    fn into_vec<T: Number>(self) -> Result<Vec<T>, Error> {
        let mut vector = Vec::new();
        numbers::extend(&mut vector, self.0)?;
        Ok(vector)
    }
}

/// The elements of a sequence that begins with a run.
struct Runs<'r, 'de>(&'r mut Reader<'de>, Option<usize>);

impl Source for Runs<'_, '_> {
    fn into_vec<T: Number>(self) -> Result<Vec<T>, Error> {
        let present = self.0.remaining() / size_of::<T>();
        let mut vector = Vec::with_capacity(self.1.map_or(0, |hint| hint.min(present)));
        while self.0.kind_of_run() == Some(T::KIND) {
            self.0.byte()?;
            let (_, bytes) = self.0.run()?;
            numbers::extend(&mut vector, bytes)?;
        }
        // Elements of another type, if there are any, and the end.
        let mut rest = Elements::of_sequence(self.0, None);
        while let Some(element) = rest.next_element()? {
            vector.push(element);
        }
        rest.finish()?;
        Ok(vector)
    }
}

/// The value of the visitor of a vector of such numbers. If it is another visitor, the source is returned.
#[inline]
fn own_vector<'de, V: Visitor<'de>, S: Source>(kind: Kind, source: S) -> Result<Result<V::Value, Error>, S> {
    macro_rules! if_own {
        ($($number:ty)*) => {{
            $(if numbers::is_own_visitor::<$number, V>() {
                return Ok(source.into_vec::<$number>().map(numbers::into_value::<$number, V>));
            })*
            Err(source)
        }};
    }
    match kind {
        Kind::Bool => if_own!(bool),
        Kind::U8 => if_own!(u8),
        Kind::U16 => if_own!(u16),
        Kind::U32 if usize::KIND == Kind::U32 => if_own!(u32 usize),
        Kind::U32 => if_own!(u32),
        Kind::U64 if usize::KIND == Kind::U64 => if_own!(u64 usize),
        Kind::U64 => if_own!(u64),
        Kind::U128 => if_own!(u128),
        Kind::I8 => if_own!(i8),
        Kind::I16 => if_own!(i16),
        Kind::I32 if isize::KIND == Kind::I32 => if_own!(i32 isize),
        Kind::I32 => if_own!(i32),
        Kind::I64 if isize::KIND == Kind::I64 => if_own!(i64 isize),
        Kind::I64 => if_own!(i64),
        Kind::I128 => if_own!(i128),
        Kind::F32 => if_own!(f32),
        Kind::F64 => if_own!(f64),
    }
}

macro_rules! numbers {
    ($($method:ident($number:ty, $kind:expr, $visit:ident))*) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            match self.number_if($kind.tag()) {
                Some(bytes) => visitor.$visit(<$number>::from_ne_bytes(bytes)),
                None => self.visit_next(visitor),
            }
        }
    )*};
}

/// Asks for a value of which the bytes say enough.
macro_rules! any {
    ($($method:ident($($argument:ty),*))*) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(self, $(_: $argument,)* visitor: V) -> Result<V::Value, Error> {
            self.visit_next(visitor)
        }
    )*};
}

impl<'de> de::Deserializer<'de> for &mut Reader<'de> {
    type Error = Error;

    each_number!(numbers);

    #[inline]
    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.take_if(tag::FALSE) {
            return visitor.visit_bool(false);
        }
        if self.take_if(tag::TRUE) {
            return visitor.visit_bool(true);
        }
        self.visit_next(visitor)
    }

    any! {
        deserialize_char()
        deserialize_identifier()
        deserialize_map()
    }

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let tag = self.byte()?;
        self.visit(tag, visitor)
    }

    #[inline]
    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.take_if(tag::STR) {
            return visitor.visit_borrowed_str(self.text()?);
        }
        self.visit_next(visitor)
    }

    #[inline]
    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    /// Numbers of one byte are bytes as well.
    #[inline]
    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.take_if(tag::BYTES) {
            return visitor.visit_borrowed_bytes(self.bytes()?);
        }
        if self.kind_of_block() == Some(Kind::U8) {
            self.byte()?;
            return visitor.visit_borrowed_bytes(self.block()?.1);
        }
        self.visit_next(visitor)
    }

    #[inline]
    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_bytes(visitor)
    }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.peek()? {
            tag::NONE | tag::UNIT => {
                self.byte()?;
                visitor.visit_none()
            }
            tag::SOME => {
                self.byte()?;
                self.enter()?;
                visitor.visit_some(&mut *self).map_err(|error| self.abandon(error))
            }
            // What was written was not an option.
            _ => visitor.visit_some(self),
        }
    }

    #[inline]
    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.take_if(tag::UNIT) || self.take_if(tag::NONE) {
            return visitor.visit_unit();
        }
        self.visit_next(visitor)
    }

    #[inline]
    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_unit(visitor)
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    #[inline]
    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        if self.take_if(tag::BLOCK) {
            return self.visit_block(visitor);
        }
        if self.take_if(tag::SEQ) {
            return self.visit_sequence(visitor);
        }
        if self.take_if(tag::BYTES) {
            let bytes = self.bytes()?;
            return visit_all!(self, visitor.visit_seq(Elements::of_block(self, Kind::U8, bytes)));
        }
        self.visit_next(visitor)
    }

    #[inline]
    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        if self.take_if(tag::TUPLE) {
            self.enter()?;
            return visit_all!(self, visitor.visit_seq(Elements::of_sequence(self, None)));
        }
        self.deserialize_seq(visitor)
    }

    #[inline]
    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        len: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_tuple(len, visitor)
    }

    #[inline]
    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let tag = self.peek()?;
        if tag != tag::NEW_STRUCT && tag != tag::STRUCT {
            return self.visit_next(visitor);
        }
        self.byte()?;
        self.enter()?;
        match self.shape_for(tag, fields)? {
            (shape, Naming::ByPosition) => {
                visit_all!(self, visitor.visit_seq(Positions::new(self, shape.count)))
            }
            (shape, Naming::ByName) => visit_all!(self, visitor.visit_map(NamedFields::of_shape(self, shape))),
        }
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let mut tag = self.byte()?;
        while tag == tag::SOME {
            tag = self.byte()?;
        }
        self.enter()?;
        let visited = match tag {
            tag::UNIT_VARIANT | tag::VARIANT => {
                let (name, has_value) = (self.name()?, tag == tag::VARIANT);
                visitor.visit_enum(Variant { reader: self, name, has_value })
            }
            // A variant that was written as serde's text formats write it.
            tag::STR => {
                let name = Name { text: self.text()?, index: 0 };
                visitor.visit_enum(Variant { reader: self, name, has_value: false })
            }
            tag::MAP => self.visit_entry_as_variant(visitor),
            _ => return self.visit(tag, visitor),
        };
        visited.map_err(|error| self.abandon(error))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.skip().map_err(|error| self.abandon(error))?;
        visitor.visit_unit()
    }

    fn is_human_readable(&self) -> bool {
        true
    }
}

impl<'de> Reader<'de> {
    fn visit_entry_as_variant<V: Visitor<'de>>(&mut self, visitor: V) -> Result<V::Value, Error> {
        self.hint()?;
        let name = Name { text: <&str>::deserialize(&mut *self)?, index: 0 };
        let value = visitor.visit_enum(Variant { reader: self, name, has_value: true })?;
        if self.take_if(tag::END) { Ok(value) } else { Err(Error::new("a map with one entry was expected")) }
    }
}
