//! Recovers the custom error message of a value that does not (de)serialize.
//!
//! Postcard's error drops the text that a `Serialize` or `Deserialize` passes to `Error::custom`, and that text is the
//! only clue for the author of the type. So after postcard has failed, the value is written or read once more with an
//! error type that keeps the text. This runs on the error path only: a value that travels pays nothing.
//!
//! ```text
//!  writing:  Serialize ───────────▶ NullSerializer, which fails where postcard does
//!  reading:  Deserialize ◀─ToUser── postcard's Deserializer ◀─ToPostcard── its visitors and seeds
//! ```
//!
//! The error of a user's code passes through postcard as a *success* that holds a [`Cause`], because postcard's errors
//! cannot hold one.
//!
//! The user's code runs again here, and may panic; the panic passes through. A value for which there is not enough stack
//! has no explanation: the second pass needs several times the stack of the first.

use std::fmt;
use std::fmt::Display;
use std::fmt::Write;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::Serialize;
use serde::de;
use serde::de::DeserializeSeed;
use serde::de::IntoDeserializer;
use serde::de::Visitor;
use serde::ser;

use crate::sys::stack::StackBudget;

/// The custom error with which `value` fails to serialize; `None` if it has none, or serializes this time.
pub(crate) fn why_not_encoded<T: Serialize + ?Sized>(value: &T) -> Option<String> {
    value.serialize(NullSerializer(StackBudget::from_here())).err()?.into_custom()
}

/// The custom error with which a `T` fails to deserialize from `bytes`; `None` if it has none, or deserializes this time.
pub(crate) fn why_not_decoded<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Option<String> {
    read_again::<T>(bytes).err()?.into_custom()
}

/// Postcard's own message in parentheses, behind an explanation for the author of the type where the message needs one.
pub(crate) fn describe(error: &postcard::Error) -> String {
    use postcard::Error;
    let meaning = match error {
        Error::WontImplement => {
            "the type needs a format that describes itself, as `tag`, `untagged`, `flatten` and `deserialize_any` do"
        }
        Error::SerializeSeqLengthUnknown => {
            "a sequence or map does not say its length before it is written, as with `flatten`"
        }
        Error::CollectStrError => "a `Display` that is written as text failed",
        Error::DeserializeUnexpectedEnd => {
            "the bytes end too early: what is read is not what was written, as with `skip_serializing_if` or `skip_serializing`"
        }
        Error::DeserializeBadVarint
        | Error::DeserializeBadBool
        | Error::DeserializeBadChar
        | Error::DeserializeBadUtf8
        | Error::DeserializeBadOption
        | Error::DeserializeBadEnum
        | Error::DeserializeBadEncoding => {
            "the bytes do not fit the type: what is read is not what was written, as with `skip_serializing_if` or `skip_serializing`"
        }
        _ => return error.to_string(),
    };
    format!("{meaning} ({error})")
}

/// An error that keeps its text.
#[derive(Debug)]
enum Cause {
    /// From the user's code, or from serde on its behalf.
    Custom(String),
    /// From postcard. Kept as text because the user's code may embed it into an error of its own.
    Format(String),
}

impl Cause {
    fn of_format(error: impl Display) -> Cause {
        Cause::Format(error.to_string())
    }

    /// An empty text counts as none: postcard's message says more.
    fn into_custom(self) -> Option<String> {
        match self {
            Cause::Custom(text) if !text.is_empty() => Some(text),
            Cause::Custom(_) | Cause::Format(_) => None,
        }
    }
}

impl Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Cause::Custom(text) | Cause::Format(text) => f.write_str(text),
        }
    }
}

impl std::error::Error for Cause {}

impl ser::Error for Cause {
    fn custom<T: Display>(text: T) -> Cause {
        Cause::Custom(text.to_string())
    }
}

impl de::Error for Cause {
    fn custom<T: Display>(text: T) -> Cause {
        Cause::Custom(text.to_string())
    }
}

/// The budget for one level deeper. It is a copy, so what it has looked up is known further down, but not further up.
fn inside(mut budget: StackBudget) -> Result<StackBudget, Cause> {
    if budget.is_left() { Ok(budget) } else { Err(Cause::of_format("nested too deep to be explained")) }
}

/// A serializer that writes nothing and fails where postcard does: an error after that point is not the cause. Also the
/// type of its compound serializers and of its result.
struct NullSerializer(StackBudget);

impl NullSerializer {
    fn write_inside<T: Serialize + ?Sized>(&self, value: &T) -> Result<NullSerializer, Cause> {
        value.serialize(NullSerializer(inside(self.0)?))
    }

    fn with_length(self, length: Option<usize>) -> Result<NullSerializer, Cause> {
        length.map(|_| self).ok_or_else(|| Cause::of_format(postcard::Error::SerializeSeqLengthUnknown))
    }
}

macro_rules! accept {
    ($($method:ident($($type:ty),*))*) => {$(
        fn $method(self, $(_: $type),*) -> Result<NullSerializer, Cause> {
            Ok(self)
        }
    )*};
}

impl ser::Serializer for NullSerializer {
    type Ok = NullSerializer;
    type Error = Cause;
    type SerializeSeq = NullSerializer;
    type SerializeTuple = NullSerializer;
    type SerializeTupleStruct = NullSerializer;
    type SerializeTupleVariant = NullSerializer;
    type SerializeMap = NullSerializer;
    type SerializeStruct = NullSerializer;
    type SerializeStructVariant = NullSerializer;

    accept! {
        serialize_bool(bool)
        serialize_i8(i8)
        serialize_i16(i16)
        serialize_i32(i32)
        serialize_i64(i64)
        serialize_i128(i128)
        serialize_u8(u8)
        serialize_u16(u16)
        serialize_u32(u32)
        serialize_u64(u64)
        serialize_u128(u128)
        serialize_f32(f32)
        serialize_f64(f64)
        serialize_char(char)
        serialize_str(&str)
        serialize_bytes(&[u8])
        serialize_none()
        serialize_unit()
        serialize_unit_struct(&'static str)
        serialize_unit_variant(&'static str, u32, &'static str)
        serialize_tuple(usize)
        serialize_tuple_struct(&'static str, usize)
        serialize_tuple_variant(&'static str, u32, &'static str, usize)
        serialize_struct(&'static str, usize)
        serialize_struct_variant(&'static str, u32, &'static str, usize)
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Result<NullSerializer, Cause> {
        self.write_inside(value)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        value: &T,
    ) -> Result<NullSerializer, Cause> {
        self.write_inside(value)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Result<NullSerializer, Cause> {
        self.write_inside(value)
    }

    fn serialize_seq(self, length: Option<usize>) -> Result<NullSerializer, Cause> {
        self.with_length(length)
    }

    fn serialize_map(self, length: Option<usize>) -> Result<NullSerializer, Cause> {
        self.with_length(length)
    }

    /// Serde's default builds a `String`, which panics if the `Display` fails. Postcard returns an error, and so does this.
    fn collect_str<T: Display + ?Sized>(mut self, value: &T) -> Result<NullSerializer, Cause> {
        match write!(self, "{value}") {
            Ok(()) => Ok(self),
            Err(fmt::Error) => Err(Cause::of_format(postcard::Error::CollectStrError)),
        }
    }

    fn is_human_readable(&self) -> bool {
        false
    }
}

impl fmt::Write for NullSerializer {
    fn write_str(&mut self, _: &str) -> fmt::Result {
        Ok(())
    }
}

macro_rules! accept_parts {
    ($($part:ident: $($method:ident($($key:ty)?))*;)*) => {$(
        impl ser::$part for NullSerializer {
            type Ok = NullSerializer;
            type Error = Cause;
            $(fn $method<T: Serialize + ?Sized>(&mut self, $(_: $key,)? value: &T) -> Result<(), Cause> {
                self.write_inside(value).map(drop)
            })*
            fn end(self) -> Result<NullSerializer, Cause> {
                Ok(self)
            }
        }
    )*};
}

accept_parts! {
    SerializeSeq: serialize_element();
    SerializeTuple: serialize_element();
    SerializeTupleStruct: serialize_field();
    SerializeTupleVariant: serialize_field();
    SerializeMap: serialize_key() serialize_value();
    SerializeStruct: serialize_field(&'static str);
    SerializeStructVariant: serialize_field(&'static str);
}

fn read_again<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<T, Cause> {
    T::deserialize(ToUser(&mut postcard::Deserializer::from_bytes(bytes), StackBudget::from_here()))
}

/// Wraps what postcard hands to the user's code, a deserializer or an access, so that its error is a [`Cause`].
struct ToUser<X>(X, StackBudget);

/// Wraps what the user's code hands to postcard, a visitor or a seed. It never fails: its value holds the user's result.
struct ToPostcard<X>(X, StackBudget);

/// Unwraps the result that [`ToPostcard`] has wrapped. An error around it is postcard's own.
fn unwrapped<T, E: Display>(result: Result<Result<T, Cause>, E>) -> Result<T, Cause> {
    result.unwrap_or_else(|error| Err(Cause::of_format(error)))
}

macro_rules! forward_to_postcard {
    ($($method:ident($($name:ident: $type:ty),*))*) => {$(
        fn $method<V: Visitor<'de>>(self, $($name: $type,)* visitor: V) -> Result<V::Value, Cause> {
            let budget = inside(self.1)?;
            unwrapped(self.0.$method($($name,)* ToPostcard(visitor, budget)))
        }
    )*};
}

/// Forwards what postcard refuses to a type, because its bytes do not describe themselves.
macro_rules! forward_or_name_the_attribute {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Cause> {
            let budget = inside(self.1)?;
            let expected = Expected(&visitor).to_string();
            unwrapped(self.0.$method(ToPostcard(visitor, budget))).map_err(|cause| match cause {
                Cause::Format(_) => Cause::Custom(undescribed(&expected)),
                cause => cause,
            })
        }
    )*};
}

/// What a visitor expects.
struct Expected<'a, V>(&'a V);

impl<'de, V: Visitor<'de>> Display for Expected<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }
}

/// Why a type cannot be read that wants to be told by the bytes what they are. The texts by which serde's own visitors
/// describe themselves tell which attribute has made the type want that; any other text comes from the user.
fn undescribed(expected: &str) -> String {
    let attribute = match expected {
        "any value" => "`#[serde(untagged)]` or `#[serde(flatten)]`".to_owned(),
        _ if expected.starts_with("internally tagged enum ") => format!("`#[serde(tag = …)]` ({expected})"),
        "variant identifier" => "`#[serde(tag = …, content = …)]`".to_owned(),
        "field identifier" => "`#[serde(flatten)]`".to_owned(),
        _ => format!("`deserialize_any` or `deserialize_identifier` (for {expected})"),
    };
    format!("{attribute} needs a format that describes itself")
}

impl<'de, D: de::Deserializer<'de>> de::Deserializer<'de> for ToUser<D> {
    type Error = Cause;

    forward_or_name_the_attribute! {
        deserialize_any
        deserialize_identifier
        deserialize_ignored_any
    }

    forward_to_postcard! {
        deserialize_bool()
        deserialize_i8()
        deserialize_i16()
        deserialize_i32()
        deserialize_i64()
        deserialize_i128()
        deserialize_u8()
        deserialize_u16()
        deserialize_u32()
        deserialize_u64()
        deserialize_u128()
        deserialize_f32()
        deserialize_f64()
        deserialize_char()
        deserialize_str()
        deserialize_string()
        deserialize_bytes()
        deserialize_byte_buf()
        deserialize_option()
        deserialize_unit()
        deserialize_unit_struct(name: &'static str)
        deserialize_newtype_struct(name: &'static str)
        deserialize_seq()
        deserialize_tuple(length: usize)
        deserialize_tuple_struct(name: &'static str, length: usize)
        deserialize_map()
        deserialize_struct(name: &'static str, fields: &'static [&'static str])
        deserialize_enum(name: &'static str, variants: &'static [&'static str])
    }

    fn is_human_readable(&self) -> bool {
        self.0.is_human_readable()
    }
}

impl<'de, A: de::SeqAccess<'de>> de::SeqAccess<'de> for ToUser<A> {
    type Error = Cause;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Cause> {
        self.0.next_element_seed(ToPostcard(seed, self.1)).map_err(Cause::of_format)?.transpose()
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: de::MapAccess<'de>> de::MapAccess<'de> for ToUser<A> {
    type Error = Cause;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Cause> {
        self.0.next_key_seed(ToPostcard(seed, self.1)).map_err(Cause::of_format)?.transpose()
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Cause> {
        unwrapped(self.0.next_value_seed(ToPostcard(seed, self.1)))
    }

    fn size_hint(&self) -> Option<usize> {
        self.0.size_hint()
    }
}

impl<'de, A: de::EnumAccess<'de>> de::EnumAccess<'de> for ToUser<A> {
    type Error = Cause;
    type Variant = ToUser<A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self::Variant), Cause> {
        // As postcard does, but the index passes through a deserializer of serde's that is made here: it makes custom
        // errors, and must make them of this type.
        let (index, variant) = self.0.variant_seed(PhantomData::<u32>).map_err(Cause::of_format)?;
        let value = seed.deserialize(IntoDeserializer::<Cause>::into_deserializer(index))?;
        Ok((value, ToUser(variant, self.1)))
    }
}

impl<'de, A: de::VariantAccess<'de>> de::VariantAccess<'de> for ToUser<A> {
    type Error = Cause;

    fn unit_variant(self) -> Result<(), Cause> {
        self.0.unit_variant().map_err(Cause::of_format)
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Cause> {
        unwrapped(self.0.newtype_variant_seed(ToPostcard(seed, self.1)))
    }

    forward_to_postcard! {
        tuple_variant(length: usize)
        struct_variant(fields: &'static [&'static str])
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for ToPostcard<S> {
    type Value = Result<S::Value, Cause>;

    fn deserialize<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        Ok(self.0.deserialize(ToUser(deserializer, self.1)))
    }
}

macro_rules! forward_to_visitor {
    ($($method:ident($type:ty))*) => {$(
        fn $method<E: de::Error>(self, value: $type) -> Result<Self::Value, E> {
            Ok(self.0.$method(value))
        }
    )*};
}

impl<'de, V: Visitor<'de>> Visitor<'de> for ToPostcard<V> {
    type Value = Result<V::Value, Cause>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    forward_to_visitor! {
        visit_bool(bool)
        visit_i8(i8)
        visit_i16(i16)
        visit_i32(i32)
        visit_i64(i64)
        visit_i128(i128)
        visit_u8(u8)
        visit_u16(u16)
        visit_u32(u32)
        visit_u64(u64)
        visit_u128(u128)
        visit_f32(f32)
        visit_f64(f64)
        visit_char(char)
        visit_str(&str)
        visit_borrowed_str(&'de str)
        visit_string(String)
        visit_bytes(&[u8])
        visit_borrowed_bytes(&'de [u8])
        visit_byte_buf(Vec<u8>)
    }

    fn visit_none<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(self.0.visit_none())
    }

    fn visit_unit<E: de::Error>(self) -> Result<Self::Value, E> {
        Ok(self.0.visit_unit())
    }

    fn visit_some<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        Ok(self.0.visit_some(ToUser(deserializer, self.1)))
    }

    fn visit_newtype_struct<D: de::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        Ok(self.0.visit_newtype_struct(ToUser(deserializer, self.1)))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, access: A) -> Result<Self::Value, A::Error> {
        Ok(self.0.visit_seq(ToUser(access, self.1)))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, access: A) -> Result<Self::Value, A::Error> {
        Ok(self.0.visit_map(ToUser(access, self.1)))
    }

    fn visit_enum<A: de::EnumAccess<'de>>(self, access: A) -> Result<Self::Value, A::Error> {
        Ok(self.0.visit_enum(ToUser(access, self.1)))
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;
    use std::cell::Cell;
    use std::collections::BTreeMap;
    use std::net::IpAddr;
    use std::num::NonZero;
    use std::path::Path;

    use proptest::prelude::any;
    use proptest::proptest;
    use serde::Deserializer;
    use serde::Serializer;
    use serde::de::DeserializeOwned;
    use serde::de::Error as _;
    use serde::de::MapAccess;
    use serde::ser::Error as _;
    use serde::ser::SerializeSeq;

    use super::*;
    use crate::sys::stack::tests::on_a_stack_of;

    /// Fails to serialize and to deserialize.
    #[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
    struct Refusing;

    impl Serialize for Refusing {
        fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(S::Error::custom("will not be written"))
        }
    }

    impl<'de> Deserialize<'de> for Refusing {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Refusing, D::Error> {
            let number = u8::deserialize(deserializer)?;
            Err(D::Error::custom(format_args!("will not be read: {number}")))
        }
    }

    #[derive(Serialize, Deserialize)]
    struct Unit;

    #[derive(Serialize, Deserialize)]
    struct Newtype<T>(T);

    #[derive(Serialize, Deserialize)]
    struct Pair<T>(String, T);

    #[derive(Serialize, Deserialize)]
    struct Named<T> {
        before: f64,
        slot: T,
        after: String,
    }

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    enum Choice<T> {
        Unit,
        Newtype(T),
        Tuple(char, T),
        Struct { before: i128, slot: T },
    }

    #[track_caller]
    fn assert_kept<Bad: Serialize + DeserializeOwned, Good: Serialize + DeserializeOwned>(bad: Bad, good: Good) {
        assert_eq!(postcard::to_stdvec(&bad), Err(postcard::Error::SerdeSerCustom));
        assert_eq!(why_not_encoded(&bad).as_deref(), Some("will not be written"));
        assert_eq!(why_not_encoded(&good), None);

        let bytes = postcard::to_stdvec(&good).unwrap();
        assert_eq!(postcard::from_bytes::<Bad>(&bytes).err(), Some(postcard::Error::SerdeDeCustom));
        assert_eq!(why_not_decoded::<Bad>(&bytes).as_deref(), Some("will not be read: 7"));
        assert_eq!(why_not_decoded::<Good>(&bytes), None);
    }

    /// The same shape twice: around a value that fails, and around one that has the same bytes and does not fail.
    macro_rules! assert_kept_in {
        ($slot:ident => $shape:expr) => {
            assert_kept(
                {
                    let $slot = || Refusing;
                    $shape
                },
                {
                    let $slot = || 7u8;
                    $shape
                },
            )
        };
    }

    #[test]
    fn the_message_comes_out_of_the_value_itself() {
        assert_kept_in!(slot => slot());
    }

    #[test]
    fn the_message_comes_out_of_structs() {
        assert_kept_in!(slot => Newtype(slot()));
        assert_kept_in!(slot => Pair("before".to_owned(), slot()));
        assert_kept_in!(slot => Named { before: 0.5, slot: slot(), after: "after".to_owned() });
        assert_kept_in!(slot => (Unit, slot()));
    }

    #[test]
    fn the_message_comes_out_of_every_kind_of_variant() {
        assert_kept_in!(slot => Choice::Newtype(slot()));
        assert_kept_in!(slot => Choice::Tuple('ö', slot()));
        assert_kept_in!(slot => Choice::Struct { before: i128::MIN, slot: slot() });
        assert_kept_in!(slot => (Choice::<u8>::Unit, slot()));
    }

    #[test]
    fn the_message_comes_out_of_sequences_maps_tuples_and_options() {
        assert_kept_in!(slot => vec![slot(), slot()]);
        assert_kept_in!(slot => (1u8, "two".to_owned(), slot()));
        assert_kept_in!(slot => [slot()]);
        assert_kept_in!(slot => Some(slot()));
        assert_kept_in!(slot => (None::<u8>, Box::new(slot())));
        assert_kept_in!(slot => BTreeMap::from([(1u8, slot())]));
        assert_kept_in!(slot => BTreeMap::from([(slot(), 1u8)]));
        assert_kept_in!(slot => Ok::<_, u8>(slot()));
    }

    #[test]
    fn the_message_comes_out_of_the_depths() {
        assert_kept_in!(slot => Some(vec![Choice::Struct {
            before: -1,
            slot: BTreeMap::from([("key".to_owned(), Newtype(Pair("before".to_owned(), (1u128, Some(slot())))))]),
        }]));
    }

    /// Postcard drops the errors of serde's and std's own types as well.
    #[test]
    fn the_messages_of_std_are_kept_in_writing() {
        use std::os::unix::ffi::OsStrExt;
        let path = Path::new(std::ffi::OsStr::from_bytes(b"\xff"));
        assert_eq!(why_not_encoded(path).as_deref(), Some("path contains invalid UTF-8 characters"));
        let cell = std::cell::RefCell::new(1u8);
        let _borrowed = cell.borrow_mut();
        assert_eq!(why_not_encoded(&cell).as_deref(), Some("already mutably borrowed"));
    }

    #[track_caller]
    fn assert_message_of<'de, T: Deserialize<'de>>(bytes: &'de [u8], expected: &str) {
        assert_eq!(postcard::from_bytes::<T>(bytes).err(), Some(postcard::Error::SerdeDeCustom));
        assert_eq!(why_not_decoded::<T>(bytes).as_deref(), Some(expected));
    }

    #[test]
    fn the_messages_of_serde_are_kept_in_reading() {
        assert_message_of::<NonZero<u8>>(&[0], "invalid value: integer `0`, expected a nonzero u8");
        assert_message_of::<Choice<u8>>(&[9], "invalid value: integer `9`, expected variant index 0 <= i < 4");
    }

    /// Expects something other than what it is given.
    struct Expecting;

    impl<'de> Visitor<'de> for Expecting {
        type Value = ();

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the impossible")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<(), A::Error> {
            while access.next_entry::<u8, u8>()?.is_some() {}
            Err(A::Error::missing_field("wisdom"))
        }
    }

    macro_rules! asking {
        ($name:ident: $method:ident($($argument:expr),*)) => {
            struct $name;

            impl<'de> Deserialize<'de> for $name {
                fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<$name, D::Error> {
                    deserializer.$method($($argument,)* Expecting).map(|()| $name)
                }
            }
        };
    }

    asking!(OfBytes: deserialize_bytes());
    asking!(OfByteBuf: deserialize_byte_buf());
    asking!(OfStr: deserialize_str());
    asking!(OfI128: deserialize_i128());
    asking!(OfU128: deserialize_u128());
    asking!(OfF32: deserialize_f32());
    asking!(OfOption: deserialize_option());
    asking!(OfUnit: deserialize_unit());
    asking!(OfNewtype: deserialize_newtype_struct("Newtype"));
    asking!(OfTuple: deserialize_tuple(2));
    asking!(OfMap: deserialize_map());
    asking!(OfEnum: deserialize_enum("Enum", &["Variant"]));
    asking!(OfAny: deserialize_any());

    #[test]
    fn a_visitor_that_expects_something_else_says_so() {
        assert_message_of::<OfBytes>(&[1, 7], "invalid type: byte array, expected the impossible");
        assert_message_of::<OfByteBuf>(&[1, 7], "invalid type: byte array, expected the impossible");
        assert_message_of::<OfStr>(b"\x01x", "invalid type: string \"x\", expected the impossible");
        assert_message_of::<OfI128>(&[1], "invalid type: integer `-1` as i128, expected the impossible");
        assert_message_of::<OfU128>(&[1], "invalid type: integer `1` as u128, expected the impossible");
        assert_message_of::<OfF32>(&[0; 4], "invalid type: floating point `0.0`, expected the impossible");
        assert_message_of::<OfOption>(&[0], "invalid type: Option value, expected the impossible");
        assert_message_of::<OfUnit>(&[], "invalid type: unit value, expected the impossible");
        assert_message_of::<OfNewtype>(&[], "invalid type: newtype struct, expected the impossible");
        assert_message_of::<OfTuple>(&[1, 2], "invalid type: sequence, expected the impossible");
        assert_message_of::<OfMap>(&[1, 2, 3], "missing field `wisdom`");
        assert_message_of::<OfEnum>(&[0], "invalid type: enum, expected the impossible");
    }

    /// Asks for its variant in a way that only serde's deserializer of an index can refuse.
    #[derive(Debug)]
    struct Index;

    impl<'de> Deserialize<'de> for Index {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Index, D::Error> {
            struct Outer;
            impl<'de> Visitor<'de> for Outer {
                type Value = Index;

                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("an index")
                }

                fn visit_enum<A: de::EnumAccess<'de>>(self, access: A) -> Result<Index, A::Error> {
                    access.variant::<Choice<u8>>().map(|_| Index)
                }
            }
            deserializer.deserialize_enum("Index", &[], Outer)
        }
    }

    #[test]
    fn the_message_of_the_deserializer_of_an_index_is_kept() {
        assert_message_of::<Index>(&[1], "invalid type: unit variant, expected newtype variant");
    }

    #[test]
    fn errors_of_the_format_are_left_to_postcard() {
        assert_eq!(why_not_decoded::<u64>(&[]), None);
        assert_eq!(why_not_decoded::<bool>(&[2]), None);
        assert_eq!(why_not_decoded::<Vec<(String, u8)>>(&[1, 1, 0xff, 1]), None);
        assert_eq!(why_not_decoded::<BTreeMap<u8, u8>>(&[1, 1]), None);
        assert_eq!(why_not_decoded::<Choice<u8>>(&[1]), None);
    }

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(tag = "kind")]
    enum Internal {
        A { x: u8 },
    }

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(tag = "kind", content = "content")]
    enum Adjacent {
        A(u8),
    }

    #[derive(Debug, Serialize, Deserialize)]
    #[serde(untagged)]
    enum Untagged {
        A(u8),
    }

    #[track_caller]
    fn assert_named<T: Serialize + DeserializeOwned>(value: &T, attribute: &str) {
        let bytes = postcard::to_stdvec(value).unwrap();
        assert_eq!(postcard::from_bytes::<T>(&bytes).err(), Some(postcard::Error::WontImplement));
        let message = why_not_decoded::<T>(&bytes).expect("a reason");
        assert!(message.starts_with(attribute) && message.ends_with("a format that describes itself"), "{message}");
    }

    #[test]
    fn the_attribute_is_named_that_needs_another_format() {
        assert_named(&Internal::A { x: 1 }, "`#[serde(tag = …)]` (internally tagged enum Internal)");
        assert_named(&Adjacent::A(1), "`#[serde(tag = …, content = …)]`");
        assert_named(&Untagged::A(1), "`#[serde(untagged)]`");
        let message = why_not_decoded::<OfAny>(&[1]).expect("a reason");
        assert!(message.contains("`deserialize_any`") && message.contains("the impossible"), "{message}");
    }

    /// Embeds the format's error into an error of its own.
    #[derive(Debug)]
    struct Wordy;

    impl<'de> Deserialize<'de> for Wordy {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Wordy, D::Error> {
            let wordy = |error| D::Error::custom(format_args!("no flag: {error}"));
            bool::deserialize(deserializer).map(|_| Wordy).map_err(wordy)
        }
    }

    #[test]
    fn an_error_that_embeds_another_is_kept_in_full() {
        assert_message_of::<Wordy>(&[2], "no flag: Found a bool that wasn't 0 or 1");
    }

    /// A failure that the type recovers from is not the type's failure.
    #[derive(Debug, PartialEq, Eq)]
    struct Forgiving(bool);

    impl<'de> Deserialize<'de> for Forgiving {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Forgiving, D::Error> {
            Ok(Forgiving(Refusing::deserialize(deserializer).is_err()))
        }
    }

    #[test]
    fn a_failure_that_is_recovered_from_is_not_reported() {
        assert_eq!(postcard::from_bytes(&[7, 8]), Ok((Forgiving(true), 8u8)));
        assert_eq!(read_again::<(Forgiving, u8)>(&[7, 8]).unwrap(), (Forgiving(true), 8));
    }

    #[test]
    fn an_empty_message_is_none() {
        struct Mute;
        impl Serialize for Mute {
            fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                Err(S::Error::custom(""))
            }
        }
        assert_eq!(why_not_encoded(&Mute), None);
    }

    /// Postcard stops before the element that has a custom error.
    #[test]
    fn writing_stops_where_postcard_stops() {
        struct Endless;
        impl Serialize for Endless {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                let mut seq = serializer.serialize_seq(None)?;
                seq.serialize_element(&Refusing)?;
                seq.end()
            }
        }
        assert_eq!(postcard::to_stdvec(&Endless), Err(postcard::Error::SerializeSeqLengthUnknown));
        assert_eq!(why_not_encoded(&Endless), None);
    }

    /// Formatting it into a `String` would panic.
    #[test]
    fn a_display_that_fails_does_not_panic() {
        struct Unspeakable;
        impl Display for Unspeakable {
            fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
                Err(fmt::Error)
            }
        }
        impl Serialize for Unspeakable {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
        assert_eq!(postcard::to_stdvec(&Unspeakable), Err(postcard::Error::CollectStrError));
        assert_eq!(why_not_encoded(&Unspeakable), None);
    }

    #[test]
    fn a_value_that_serializes_the_second_time_has_no_explanation() {
        struct Moody(Cell<bool>);
        impl Serialize for Moody {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if self.0.replace(true) { serializer.serialize_unit() } else { Err(S::Error::custom("not yet")) }
            }
        }
        let moody = Moody(Cell::new(false));
        assert_eq!(why_not_encoded(&moody).as_deref(), Some("not yet"));
        assert_eq!(why_not_encoded(&moody), None);
    }

    #[test]
    fn what_is_borrowed_stays_borrowed() {
        let bytes = postcard::to_stdvec(&("text", "bytes", Some("inner"))).unwrap();
        let read: (&str, &[u8], Option<&str>) = read_again(&bytes).unwrap();
        assert_eq!(read, ("text", b"bytes".as_slice(), Some("inner")));
        assert!(bytes.as_ptr_range().contains(&read.0.as_ptr()));
        assert_eq!(why_not_decoded::<(&str, &[u8], Option<&str>)>(&bytes), None);
        assert_eq!(why_not_decoded::<(&str, Refusing)>(&bytes).as_deref(), Some("will not be read: 5"));
    }

    /// Addresses are text in a human-readable format, and numbers in this one.
    #[test]
    fn neither_direction_is_human_readable() {
        struct Asking;
        impl Serialize for Asking {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                Err(S::Error::custom(serializer.is_human_readable()))
            }
        }
        assert_eq!(why_not_encoded(&Asking).as_deref(), Some("false"));
        let address = IpAddr::from([127, 0, 0, 1]);
        assert_eq!(read_again::<IpAddr>(&postcard::to_stdvec(&address).unwrap()).unwrap(), address);
    }

    type Everything<'a> = (
        (bool, i8, i16, i32, i64, i128, u8, u16, u32, u64, u128),
        (f32, f64, char, String, Cow<'a, str>, ()),
        (Option<Choice<u8>>, Vec<Choice<NonZero<u8>>>, BTreeMap<String, Option<u16>>),
    );

    #[test]
    fn every_type_is_read_as_postcard_reads_it() {
        let everything: Everything<'_> = (
            (true, -1, -300, i32::MIN, i64::MIN, i128::MIN, 1, 300, u32::MAX, u64::MAX, u128::MAX),
            (0.5, -0.25, 'ö', "text".to_owned(), "cow".into(), ()),
            (
                Some(Choice::Struct { before: 1, slot: 2 }),
                vec![Choice::Unit, Choice::Tuple('x', NonZero::<u8>::MIN)],
                BTreeMap::from([("key".to_owned(), Some(1)), (String::new(), None)]),
            ),
        );
        let bytes = postcard::to_stdvec(&everything).unwrap();
        assert_eq!(read_again::<Everything<'_>>(&bytes).unwrap(), everything);
        assert_eq!(why_not_decoded::<Everything<'_>>(&bytes), None);
        assert_eq!(why_not_encoded(&everything), None);
    }

    type Small<'a> = (Option<Choice<NonZero<u8>>>, &'a str, Vec<(bool, i16)>, BTreeMap<u8, Choice<char>>);

    proptest! {
        /// Small numbers, so that many inputs decode far.
        #[test]
        fn any_bytes_are_read_as_postcard_reads_them(bytes in proptest::collection::vec(0u8..6, 0..24)) {
            match (postcard::from_bytes::<Small<'_>>(&bytes), read_again::<Small<'_>>(&bytes)) {
                (Ok(first), Ok(again)) => assert_eq!(first, again),
                (Err(postcard::Error::SerdeDeCustom), Err(Cause::Custom(_))) => {}
                (Err(error), Err(Cause::Format(text))) => assert_eq!(error.to_string(), text),
                (first, again) => panic!("{first:?} is not {again:?}"),
            }
        }

        #[test]
        fn arbitrary_text_and_numbers_are_read_again(value in any::<(String, Vec<i64>, Option<u128>, char)>()) {
            let bytes = postcard::to_stdvec(&value).unwrap();
            assert_eq!(read_again::<(String, Vec<i64>, Option<u128>, char)>(&bytes).unwrap(), value);
        }
    }

    #[derive(Serialize, Deserialize)]
    struct Nest<T> {
        slot: Option<T>,
        inner: Option<Box<Nest<T>>>,
    }

    fn nest<T>(slot: T, depth: usize) -> Nest<T> {
        let innermost = Nest { slot: Some(slot), inner: None };
        (0..depth).fold(innermost, |inner, _| Nest { slot: None, inner: Some(Box::new(inner)) })
    }

    /// The second pass needs more stack than the first, and must not overflow it.
    #[test]
    fn a_value_that_is_nested_too_deep_has_no_explanation() {
        assert_kept_in!(slot => nest(slot(), 100));
        let depth = 20_000;
        on_a_stack_of(256 << 20, move || {
            let (refusing, bytes) = (nest(Refusing, depth), postcard::to_stdvec(&nest(7u8, depth)).unwrap());
            assert_eq!(postcard::to_stdvec(&refusing), Err(postcard::Error::SerdeSerCustom));
            assert_eq!(postcard::from_bytes::<Nest<Refusing>>(&bytes).err(), Some(postcard::Error::SerdeDeCustom));
            std::thread::scope(|scope| {
                let small = std::thread::Builder::new().stack_size(128 << 10);
                let asked = small.spawn_scoped(scope, || {
                    // In an optimized build the serializer needs no stack, so there may be an explanation.
                    let explained = why_not_encoded(&refusing);
                    assert!(explained.is_none() || !cfg!(debug_assertions), "{explained:?}");
                    assert_eq!(why_not_decoded::<Nest<Refusing>>(&bytes), None);
                });
                asked.unwrap().join().unwrap();
            });
        });
    }

    #[test]
    fn the_message_of_postcard_is_always_there() {
        let message = describe(&postcard::Error::DeserializeUnexpectedEnd);
        assert!(message.starts_with("the bytes end too early"), "{message}");
        assert!(message.ends_with("(Hit the end of buffer, expected more data)"), "{message}");
        assert_eq!(describe(&postcard::Error::SerdeSerCustom), "Serde Serialization Error");
    }
}
