//! Slices and vectors of numbers, recognized by type wherever they stand in a value, and copied as a whole.
//!
//! Serde has no call for "a slice of numbers". But `Vec<T>`, `[T]` and what is built on them call
//! `Serializer::collect_seq`, and the iterator's type there tells `T`. On the way back, `Vec<T>` passes a visitor of a
//! type that only it uses; [`own_visitor`](Number::own_visitor) learns the identity of that type by asking `Vec<T>` once.
//! `Box<[T]>`, `Arc<[T]>` and the like read a `Vec<T>` first. Any other visitor is given the elements one by one.

#![expect(unsafe_code, reason = "a type that is known by its id only must be converted; each SAFETY note says to what")]

use std::any::TypeId;
use std::cell::Cell;
use std::mem::ManuallyDrop;
use std::ptr;
use std::slice;
use std::sync::OnceLock;

use serde::Deserialize;
use serde::de;
use serde::de::Visitor;

use super::error::Error;
use super::tag::Kind;

/// A type of numbers: without padding, and every pattern of bits is a value, except in `bool`.
pub(super) trait Number: Copy + Default + 'static + for<'de> Deserialize<'de> {
    const KIND: Kind;

    /// The type of the visitor that `Vec<Self>` passes to `deserialize_seq`.
    fn own_visitor() -> TypeId;
}

macro_rules! numbers {
    ($($number:ty: $kind:expr,)*) => {
        $(impl Number for $number {
            const KIND: Kind = $kind;

            fn own_visitor() -> TypeId {
                static ID: OnceLock<TypeId> = OnceLock::new();
                *ID.get_or_init(learn_visitor::<$number>)
            }
        })*

        /// The kind and the bytes of a number, or of a reference to one; `None` for any other type.
        #[inline]
        pub(super) fn of_element<T: ?Sized>(value: &T) -> Option<(Kind, &[u8])> {
            let id = typeid::of::<T>();
            $(
                if id == TypeId::of::<$number>() {
                    // SAFETY: `T` is this number.
                    let number = unsafe { &*ptr::from_ref(value).cast::<$number>() };
                    return Some((<$number>::KIND, bytes_of(slice::from_ref(number))));
                }
                if id == TypeId::of::<&'static $number>() {
                    // SAFETY: `T` is a reference to this number, of any lifetime; it lives at least as long as `value`.
                    let number: &$number = unsafe { *ptr::from_ref(value).cast::<&$number>() };
                    return Some((<$number>::KIND, bytes_of(slice::from_ref(number))));
                }
            )*
            None
        }

        /// The kind and the bytes of the numbers that are left in `iter`, if it iterates over a slice of numbers.
        #[inline]
        pub(super) fn of_slice<I>(iter: &I) -> Option<(Kind, &[u8])> {
            let id = typeid::of::<I>();
            $(
                if id == TypeId::of::<slice::Iter<'static, $number>>() {
                    // SAFETY: `I` is this iterator, of any lifetime; its items live at least as long as it does.
                    let iter = unsafe { &*ptr::from_ref(iter).cast::<slice::Iter<'_, $number>>() };
                    return Some((<$number>::KIND, bytes_of(iter.as_slice())));
                }
            )*
            None
        }
    };
}

#[cfg(target_pointer_width = "64")]
const USIZE: (Kind, Kind) = (Kind::U64, Kind::I64);
#[cfg(target_pointer_width = "32")]
const USIZE: (Kind, Kind) = (Kind::U32, Kind::I32);

numbers! {
    u8: Kind::U8,
    f64: Kind::F64,
    f32: Kind::F32,
    u64: Kind::U64,
    i64: Kind::I64,
    u32: Kind::U32,
    i32: Kind::I32,
    usize: USIZE.0,
    isize: USIZE.1,
    u16: Kind::U16,
    i16: Kind::I16,
    i8: Kind::I8,
    bool: Kind::Bool,
    u128: Kind::U128,
    i128: Kind::I128,
}

#[inline]
fn bytes_of<T: Number>(numbers: &[T]) -> &[u8] {
    // SAFETY: numbers have no padding, so each of these bytes is initialized; bytes need no alignment, and the slice
    // keeps its lifetime.
    unsafe { slice::from_raw_parts(numbers.as_ptr().cast::<u8>(), size_of_val(numbers)) }
}

/// Appends the numbers that lie in `bytes`, which may be unaligned.
///
/// # Errors
///
/// A `bool` is neither 0 nor 1.
///
/// # Panics
///
/// If the bytes are not whole numbers.
pub(super) fn extend<T: Number>(numbers: &mut Vec<T>, bytes: &[u8]) -> Result<(), Error> {
    assert!(bytes.len() % size_of::<T>() == 0, "whole numbers");
    if T::KIND == Kind::Bool && bytes.iter().any(|byte| *byte > 1) {
        return Err(not_a_bool());
    }
    let count = bytes.len() / size_of::<T>();
    numbers.reserve(count);
    let end = numbers.spare_capacity_mut().as_mut_ptr().cast::<u8>();
    // SAFETY: there is room for `count` numbers of that size there, and it does not overlap with borrowed bytes.
    unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), end, bytes.len()) };
    // SAFETY: that many were reserved and have just been filled, with bits that are values: checked above for `bool`.
    unsafe { numbers.set_len(numbers.len() + count) };
    Ok(())
}

#[cold]
pub(super) fn not_a_bool() -> Error {
    Error::new("a bool is neither 0 nor 1")
}

/// Whether `V` is the visitor of `Vec<T>` itself.
#[inline]
pub(super) fn is_own_visitor<'de, T: Number, V: Visitor<'de>>() -> bool {
    typeid::of::<V>() == T::own_visitor() && typeid::of::<V::Value>() == TypeId::of::<Vec<T>>()
}

/// The vector as the value of the visitor of `Vec<T>` itself.
///
/// # Panics
///
/// If [`is_own_visitor`] is false.
#[inline]
pub(super) fn into_value<'de, T: Number, V: Visitor<'de>>(numbers: Vec<T>) -> V::Value {
    assert_eq!(typeid::of::<V::Value>(), TypeId::of::<Vec<T>>(), "another visitor");
    let numbers = ManuallyDrop::new(numbers);
    // SAFETY: `V::Value` is `Vec<T>`, in which there are no lifetimes; the original is not dropped.
    unsafe { ptr::from_ref(&numbers).cast::<V::Value>().read() }
}

fn learn_visitor<T: Number>() -> TypeId {
    let seen = Cell::new(None);
    let refused = Vec::<T>::deserialize(Spy(&seen));
    debug_assert!(refused.is_err(), "the spy has no value");
    // A type that only this function could name, if a later serde reads vectors in another way: then there are no blocks.
    struct Unknown;
    seen.get().unwrap_or(TypeId::of::<Unknown>())
}

/// Notes the type of the visitor that it is given, and fails.
struct Spy<'a>(&'a Cell<Option<TypeId>>);

impl<'de> de::Deserializer<'de> for Spy<'_> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        Err(Error::malformed())
    }

    fn deserialize_seq<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Error> {
        self.0.set(Some(typeid::of::<V>()));
        Err(Error::malformed())
    }

    serde::forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf option unit unit_struct
        newtype_struct tuple tuple_struct map struct enum identifier ignored_any
    }
}
