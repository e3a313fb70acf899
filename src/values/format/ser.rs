//! [`Writer`] as a serializer.

use std::fmt;
use std::fmt::Display;
use std::fmt::Write;

use serde::Serialize;
use serde::ser;

use super::error::Error;
use super::fields::Fields;
use super::numbers;
use super::runs::Elements;
use super::tag;
use super::tag::Kind;
use super::writer::Writer;

macro_rules! numbers {
    ($($method:ident($number:ty, $kind:expr))*) => {$(
        #[inline]
        fn $method(self, number: $number) -> Result<(), Error> {
            self.tagged(const { $kind.tag() }, number.to_ne_bytes())
        }
    )*};
}

impl<'w, 'a> ser::Serializer for &'w mut Writer<'a> {
    type Ok = ();
    type Error = Error;
    type SerializeSeq = Elements<'w, 'a>;
    type SerializeTuple = Parts<'w, 'a>;
    type SerializeTupleStruct = Parts<'w, 'a>;
    type SerializeTupleVariant = Parts<'w, 'a>;
    type SerializeMap = Parts<'w, 'a>;
    type SerializeStruct = Fields<'w, 'a>;
    type SerializeStructVariant = Fields<'w, 'a>;

    numbers! {
        serialize_u8(u8, Kind::U8)
        serialize_u16(u16, Kind::U16)
        serialize_u32(u32, Kind::U32)
        serialize_u64(u64, Kind::U64)
        serialize_u128(u128, Kind::U128)
        serialize_i8(i8, Kind::I8)
        serialize_i16(i16, Kind::I16)
        serialize_i32(i32, Kind::I32)
        serialize_i64(i64, Kind::I64)
        serialize_i128(i128, Kind::I128)
        serialize_f32(f32, Kind::F32)
        serialize_f64(f64, Kind::F64)
    }

    #[inline]
    fn serialize_bool(self, value: bool) -> Result<(), Error> {
        self.tag(if value { tag::TRUE } else { tag::FALSE })
    }

    #[inline]
    fn serialize_char(self, value: char) -> Result<(), Error> {
        self.tagged(tag::CHAR, u32::from(value).to_ne_bytes())
    }

    #[inline]
    fn serialize_str(self, value: &str) -> Result<(), Error> {
        self.tag_and_len(tag::STR, value.len())?;
        self.bytes(value.as_bytes())
    }

    #[inline]
    fn serialize_bytes(self, value: &[u8]) -> Result<(), Error> {
        self.tag_and_len(tag::BYTES, value.len())?;
        self.bytes(value)
    }

    #[inline]
    fn serialize_none(self) -> Result<(), Error> {
        self.tag(tag::NONE)
    }

    #[inline]
    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<(), Error> {
        self.enter(tag::SOME)?;
        value.serialize(self)
    }

    #[inline]
    fn serialize_unit(self) -> Result<(), Error> {
        self.tag(tag::UNIT)
    }

    #[inline]
    fn serialize_unit_struct(self, _: &'static str) -> Result<(), Error> {
        self.tag(tag::UNIT)
    }

    #[inline]
    fn serialize_unit_variant(self, _: &'static str, index: u32, variant: &'static str) -> Result<(), Error> {
        self.tag(tag::UNIT_VARIANT)?;
        self.name(variant, index)
    }

    #[inline]
    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, value: &T) -> Result<(), Error> {
        value.serialize(self)
    }

    #[inline]
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        index: u32,
        variant: &'static str,
        value: &T,
    ) -> Result<(), Error> {
        self.enter(tag::VARIANT)?;
        self.name(variant, index)?;
        value.serialize(self)
    }

    #[inline]
    fn serialize_seq(self, len: Option<usize>) -> Result<Elements<'w, 'a>, Error> {
        Elements::of_sequence(self, len)
    }

    #[inline]
    fn serialize_tuple(self, _: usize) -> Result<Parts<'w, 'a>, Error> {
        self.enter(tag::TUPLE)?;
        Ok(Parts(self))
    }

    #[inline]
    fn serialize_tuple_struct(self, _: &'static str, len: usize) -> Result<Parts<'w, 'a>, Error> {
        self.serialize_tuple(len)
    }

    #[inline]
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Parts<'w, 'a>, Error> {
        self.tag(tag::VARIANT)?;
        self.name(variant, index)?;
        self.serialize_tuple(len)
    }

    #[inline]
    fn serialize_map(self, len: Option<usize>) -> Result<Parts<'w, 'a>, Error> {
        self.enter_hinted(tag::MAP, len)?;
        Ok(Parts(self))
    }

    #[inline(always)]
    fn serialize_struct(self, name: &'static str, len: usize) -> Result<Fields<'w, 'a>, Error> {
        Fields::begin(self, name, len)
    }

    #[inline]
    fn serialize_struct_variant(
        self,
        _: &'static str,
        index: u32,
        variant: &'static str,
        len: usize,
    ) -> Result<Fields<'w, 'a>, Error> {
        self.tag(tag::VARIANT)?;
        self.name(variant, index)?;
        Fields::begin(self, variant, len)
    }

    #[inline]
    fn collect_seq<I: IntoIterator<Item: Serialize>>(self, iter: I) -> Result<(), Error> {
        let iter = iter.into_iter();
        if let Some((kind, bytes)) = numbers::of_slice(&iter) {
            return self.block(kind, bytes);
        }
        let len = match iter.size_hint() {
            (min, Some(max)) if min == max => Some(min),
            _ => None,
        };
        let mut elements = Elements::of_sequence(self, len)?;
        for element in iter {
            elements.add(&element)?;
        }
        elements.finish()
    }

    /// Serde's default builds a `String` in a way that panics if the `Display` fails.
    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<(), Error> {
        let mut text = String::new();
        match write!(text, "{value}") {
            Ok(()) => self.serialize_str(&text),
            Err(fmt::Error) => Err(Error::new("a `Display` that is written as text failed")),
        }
    }

    /// Serde's buffers, through which it reads `untagged`, `flatten` and `tag`, claim to be human-readable. A type that
    /// distinguishes the two, such as `IpAddr`, must be written as it will be read: an `Option` that is flattened would
    /// take the mismatch for `None`.
    #[inline]
    fn is_human_readable(&self) -> bool {
        true
    }
}

/// The parts of a tuple or map, which follow each other.
#[derive(Debug)]
pub(in crate::values) struct Parts<'w, 'a>(&'w mut Writer<'a>);

impl Parts<'_, '_> {
    #[inline]
    fn add<T: Serialize + ?Sized>(&mut self, part: &T) -> Result<(), Error> {
        self.0.part(part)
    }

    #[inline]
    fn finish(self) -> Result<(), Error> {
        self.0.tag(tag::END)
    }
}

impl ser::SerializeMap for Parts<'_, '_> {
    type Ok = ();
    type Error = Error;

    #[inline]
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), Error> {
        self.add(key)
    }

    #[inline]
    fn serialize_value<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), Error> {
        self.add(value)
    }

    #[inline]
    fn end(self) -> Result<(), Error> {
        self.finish()
    }
}

macro_rules! parts {
    ($($part:ident for $type:ident: $method:ident($($key:ident: $key_type:ty)?);)*) => {$(
        impl ser::$part for $type<'_, '_> {
            type Ok = ();
            type Error = Error;

            #[inline]
            fn $method<T: Serialize + ?Sized>(&mut self, $($key: $key_type,)? value: &T) -> Result<(), Error> {
                self.add($($key,)? value)
            }

            #[inline]
            fn end(self) -> Result<(), Error> {
                self.finish()
            }
        }
    )*};
}

parts! {
    SerializeSeq for Elements: serialize_element();
    SerializeTuple for Parts: serialize_element();
    SerializeTupleStruct for Parts: serialize_field();
    SerializeTupleVariant for Parts: serialize_field();
    SerializeStruct for Fields: serialize_field(name: &'static str);
    SerializeStructVariant for Fields: serialize_field(name: &'static str);
}
