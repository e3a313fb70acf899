//! Numbers that lie side by side, one by one.

use serde::de;
use serde::de::Visitor;

use super::error::Error;
use super::numbers;
use super::tag::Kind;

/// Numbers that lie side by side.
#[derive(Clone, Copy, Debug)]
pub(super) struct Numbers<'de> {
    pub(super) kind: Kind,
    pub(super) bytes: &'de [u8],
}

impl<'de> Numbers<'de> {
    pub(super) const NONE: Self = Numbers { kind: Kind::U8, bytes: &[] };

    /// Takes the first one.
    ///
    /// # Panics
    ///
    /// If there is none.
    #[inline]
    pub(super) fn take_first(&mut self) -> OneNumber<'de> {
        let first = OneNumber(*self);
        self.bytes = &self.bytes[self.kind.size()..];
        first
    }
}

/// The first number of these.
pub(super) struct OneNumber<'de>(Numbers<'de>);

impl OneNumber<'_> {
    #[inline]
    fn array<const N: usize>(&self) -> Result<[u8; N], Error> {
        self.0.bytes.first_chunk().copied().ok_or_else(Error::malformed)
    }
}

impl<'de> OneNumber<'de> {
    /// Passes the number to a visitor that has not asked for its kind.
    #[inline(never)]
    pub(super) fn visit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.0.kind {
            Kind::Bool => match self.array()? {
                [0] => visitor.visit_bool(false),
                [1] => visitor.visit_bool(true),
                _ => Err(numbers::not_a_bool()),
            },
            Kind::U8 => visitor.visit_u8(u8::from_ne_bytes(self.array()?)),
            Kind::U16 => visitor.visit_u16(u16::from_ne_bytes(self.array()?)),
            Kind::U32 => visitor.visit_u32(u32::from_ne_bytes(self.array()?)),
            Kind::U64 => visitor.visit_u64(u64::from_ne_bytes(self.array()?)),
            Kind::U128 => visit_u128(visitor, u128::from_ne_bytes(self.array()?)),
            Kind::I8 => visitor.visit_i8(i8::from_ne_bytes(self.array()?)),
            Kind::I16 => visitor.visit_i16(i16::from_ne_bytes(self.array()?)),
            Kind::I32 => visitor.visit_i32(i32::from_ne_bytes(self.array()?)),
            Kind::I64 => visitor.visit_i64(i64::from_ne_bytes(self.array()?)),
            Kind::I128 => visit_i128(visitor, i128::from_ne_bytes(self.array()?)),
            Kind::F32 => visitor.visit_f32(f32::from_ne_bytes(self.array()?)),
            Kind::F64 => visitor.visit_f64(f64::from_ne_bytes(self.array()?)),
        }
    }
}

/// Calls a macro with the methods by which a type asks for a number, the number, its kind, and what its visitor is given.
macro_rules! each_number {
    ($callback:ident) => {
        $callback! {
            deserialize_u8(u8, Kind::U8, visit_u8)
            deserialize_u16(u16, Kind::U16, visit_u16)
            deserialize_u32(u32, Kind::U32, visit_u32)
            deserialize_u64(u64, Kind::U64, visit_u64)
            deserialize_u128(u128, Kind::U128, visit_u128)
            deserialize_i8(i8, Kind::I8, visit_i8)
            deserialize_i16(i16, Kind::I16, visit_i16)
            deserialize_i32(i32, Kind::I32, visit_i32)
            deserialize_i64(i64, Kind::I64, visit_i64)
            deserialize_i128(i128, Kind::I128, visit_i128)
            deserialize_f32(f32, Kind::F32, visit_f32)
            deserialize_f64(f64, Kind::F64, visit_f64)
        }
    };
}
pub(super) use each_number;

macro_rules! as_asked {
    ($($method:ident($number:ty, $kind:expr, $visit:ident))*) => {$(
        #[inline]
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
            if self.0.kind == $kind {
                return visitor.$visit(<$number>::from_ne_bytes(self.array()?));
            }
            self.visit(visitor)
        }
    )*};
}

impl<'de> de::Deserializer<'de> for OneNumber<'de> {
    type Error = Error;

    each_number!(as_asked);

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.visit(visitor)
    }

    #[inline]
    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    #[inline]
    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn is_human_readable(&self) -> bool {
        true
    }

    serde::forward_to_deserialize_any! {
        bool char str string bytes byte_buf unit unit_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

/// A 128-bit number for a type that has not asked for one: serde's buffers take no such numbers.
#[inline]
fn visit_u128<'de, V: Visitor<'de>>(visitor: V, number: u128) -> Result<V::Value, Error> {
    match u64::try_from(number) {
        Ok(short) => visitor.visit_u64(short),
        Err(_) => visitor.visit_u128(number),
    }
}

#[inline]
fn visit_i128<'de, V: Visitor<'de>>(visitor: V, number: i128) -> Result<V::Value, Error> {
    match (u64::try_from(number), i64::try_from(number)) {
        (Ok(short), _) => visitor.visit_u64(short),
        (_, Ok(short)) => visitor.visit_i64(short),
        _ => visitor.visit_i128(number),
    }
}
