//! Values whose types ask the bytes what they are.

use std::cell::Cell;
use std::fmt;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use serde::de::DeserializeSeed;
use serde::de::IgnoredAny;
use serde::de::MapAccess;
use serde::de::SeqAccess;
use serde::de::Visitor;

use super::values::assert_round_trip;
use crate::values::codec;

/// The bytes as any value, and then again as what was made of them.
pub fn describing(bytes: &[u8]) {
    match codec::decode::<Any>(bytes) {
        Ok(_) => {
            assert_round_trip::<Any>(bytes);
            codec::decode::<IgnoredAny>(bytes).expect("what can be read can be ignored");
        }
        Err(error) => assert!(!error.is_empty() && !error.starts_with("panic"), "{error}"),
    }
    let announced = Cell::new(0);
    // The value may be cut off: what was announced up to there counts.
    let _: Result<(), String> = codec::walk(bytes, Counting(&announced));
    assert!(announced.get() <= 2 * bytes.len(), "{announced:?} elements in {} bytes", bytes.len());
}

/// Whatever a format can describe.
enum Any {
    Unit,
    None,
    Some(Box<Any>),
    Bool(bool),
    Unsigned(u64),
    Signed(i64),
    Large(u128),
    LargeSigned(i128),
    Float(f64),
    Char(char),
    Text(String),
    Bytes(Vec<u8>),
    Sequence(Vec<Any>),
    Map(Vec<(Any, Any)>),
}

impl Serialize for Any {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Any::Unit => serializer.serialize_unit(),
            Any::None => serializer.serialize_none(),
            Any::Some(inner) => serializer.serialize_some(inner),
            Any::Bool(value) => serializer.serialize_bool(*value),
            Any::Unsigned(value) => serializer.serialize_u64(*value),
            Any::Signed(value) => serializer.serialize_i64(*value),
            Any::Large(value) => serializer.serialize_u128(*value),
            Any::LargeSigned(value) => serializer.serialize_i128(*value),
            Any::Float(value) => serializer.serialize_f64(*value),
            Any::Char(value) => serializer.serialize_char(*value),
            Any::Text(value) => serializer.serialize_str(value),
            Any::Bytes(value) => serializer.serialize_bytes(value),
            Any::Sequence(elements) => serializer.collect_seq(elements),
            Any::Map(entries) => serializer.collect_map(entries.iter().map(|(key, value)| (key, value))),
        }
    }
}

impl<'de> Deserialize<'de> for Any {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Any, D::Error> {
        deserializer.deserialize_any(AnyVisitor)
    }
}

struct AnyVisitor;

macro_rules! visits {
    ($($method:ident($value:ty) => $variant:expr;)*) => {$(
        fn $method<E>(self, value: $value) -> Result<Any, E> {
            Ok($variant(value.into()))
        }
    )*};
}

impl<'de> Visitor<'de> for AnyVisitor {
    type Value = Any;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    visits! {
        visit_bool(bool) => Any::Bool;
        visit_u64(u64) => Any::Unsigned;
        visit_i64(i64) => Any::Signed;
        visit_u128(u128) => Any::Large;
        visit_i128(i128) => Any::LargeSigned;
        visit_f64(f64) => Any::Float;
        visit_char(char) => Any::Char;
        visit_str(&str) => Any::Text;
        visit_bytes(&[u8]) => Any::Bytes;
    }

    fn visit_unit<E>(self) -> Result<Any, E> {
        Ok(Any::Unit)
    }

    fn visit_none<E>(self) -> Result<Any, E> {
        Ok(Any::None)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Any, D::Error> {
        Any::deserialize(deserializer).map(|inner| Any::Some(Box::new(inner)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Any, A::Error> {
        let mut elements = Vec::with_capacity(access.size_hint().unwrap_or(0));
        while let Some(element) = access.next_element()? {
            elements.push(element);
        }
        Ok(Any::Sequence(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Any, A::Error> {
        let mut entries = Vec::with_capacity(access.size_hint().unwrap_or(0));
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(Any::Map(entries))
    }
}

/// Counts how many elements all sequences and maps of a value announce.
#[derive(Clone, Copy)]
struct Counting<'a>(&'a Cell<usize>);

impl Counting<'_> {
    fn add(self, hint: Option<usize>) {
        self.0.set(self.0.get() + hint.unwrap_or(0));
    }
}

impl<'de> DeserializeSeed<'de> for Counting<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

macro_rules! ignores {
    ($($method:ident($($value:ty)?))*) => {$(
        fn $method<E>(self $(, _: $value)?) -> Result<(), E> {
            Ok(())
        }
    )*};
}

impl<'de> Visitor<'de> for Counting<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    ignores! {
        visit_bool(bool)
        visit_u64(u64)
        visit_i64(i64)
        visit_u128(u128)
        visit_i128(i128)
        visit_f64(f64)
        visit_char(char)
        visit_str(&str)
        visit_bytes(&[u8])
        visit_unit()
        visit_none()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        self.deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        self.add(access.size_hint());
        while access.next_element_seed(self)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
        self.add(access.size_hint());
        while access.next_entry_seed(self, self)?.is_some() {}
        Ok(())
    }
}
