//! Numbers as items and results: encoded as their little-endian bytes, without the serializer.
//!
//! They need no tag, no serializer and no check of the stack. The type is known at compile time, so other types pay
//! nothing. Both processes run the same build, so they agree on these types.

use std::any::Any;
use std::any::TypeId;

/// The longest number.
pub(crate) const LEN_MAX: usize = 8;

/// The bytes of a number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NumberBytes {
    bytes: [u8; LEN_MAX],
    len: usize,
}

/// The bytes are not as long as the number's type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WrongLen {
    pub(crate) wanted: usize,
}

impl NumberBytes {
    /// The bytes, padded.
    #[inline]
    pub(crate) fn padded(self) -> [u8; LEN_MAX] {
        self.bytes
    }

    #[inline]
    pub(crate) fn len(self) -> usize {
        self.len
    }

    #[inline]
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

macro_rules! numbers {
    ($($number:ty)+) => {
        /// The bytes of `value`; `None` if its type is not a number.
        #[inline]
        pub(crate) fn to_bytes<T: 'static>(value: &T) -> Option<NumberBytes> {
            let value: &dyn Any = value;
            $(
                if let Some(number) = value.downcast_ref::<$number>() {
                    const LEN: usize = size_of::<$number>();
                    let mut bytes = [0; LEN_MAX];
                    bytes[..LEN].copy_from_slice(&number.to_le_bytes());
                    return Some(NumberBytes { bytes, len: LEN });
                }
            )+
            None
        }

        /// How many bytes encode a `T`; `None` if it is not a number.
        #[inline]
        pub(crate) fn len_of<T: 'static>() -> Option<usize> {
            $(
                if TypeId::of::<T>() == TypeId::of::<$number>() {
                    return Some(size_of::<$number>());
                }
            )+
            None
        }

        /// The number that `bytes` encode; `None` if `T` is not a number.
        ///
        /// # Errors
        ///
        /// `bytes` are not as long as a `T`.
        #[inline]
        pub(crate) fn from_bytes<T: 'static>(bytes: &[u8]) -> Option<Result<T, WrongLen>> {
            $(
                if TypeId::of::<T>() == TypeId::of::<$number>() {
                    return match bytes.try_into() {
                        Ok(bytes) => same(<$number>::from_le_bytes(bytes)).map(Ok),
                        Err(_) => Some(Err(WrongLen { wanted: size_of::<$number>() })),
                    };
                }
            )+
            None
        }
    };
}

numbers!(u8 u16 u32 u64 usize i8 i16 i32 i64 isize f32 f64);

/// `value` as a `T`; `None` if `F` is another type.
#[inline]
fn same<F: 'static, T: 'static>(value: F) -> Option<T> {
    let mut value = Some(value);
    let value: &mut dyn Any = &mut value;
    value.downcast_mut::<Option<T>>()?.take()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn there_and_back<T: Copy + 'static>(value: T) -> Option<T> {
        let bytes = to_bytes(&value)?;
        assert_eq!(bytes.len(), size_of::<T>());
        assert_eq!(len_of::<T>(), Some(bytes.len()));
        from_bytes(bytes.as_slice())?.ok()
    }

    proptest! {
        #[test]
        fn numbers_come_back(a: u8, b: i16, c: u32, d: i64, e: u64, f: usize, bits: u64) {
            prop_assert_eq!(there_and_back(a), Some(a));
            prop_assert_eq!(there_and_back(b), Some(b));
            prop_assert_eq!(there_and_back(c), Some(c));
            prop_assert_eq!(there_and_back(d), Some(d));
            prop_assert_eq!(there_and_back(e), Some(e));
            prop_assert_eq!(there_and_back(f), Some(f));
            // NaNs keep all their bits as well.
            prop_assert_eq!(there_and_back(f64::from_bits(bits)).map(f64::to_bits), Some(bits));
        }
    }

    #[test]
    fn bytes_of_another_length_are_no_number() {
        assert_eq!(from_bytes::<u32>(&[1, 2, 3]), Some(Err(WrongLen { wanted: 4 })));
        assert_eq!(from_bytes::<u32>(&[1, 2, 3, 4, 5]), Some(Err(WrongLen { wanted: 4 })));
        assert_eq!(from_bytes::<f64>(&[]), Some(Err(WrongLen { wanted: 8 })));
    }

    #[test]
    fn other_types_are_no_numbers() {
        assert!(to_bytes(&"1".to_owned()).is_none() && to_bytes(&(1u64,)).is_none() && to_bytes(&true).is_none());
        assert_eq!(from_bytes::<(u64,)>(&[0; 8]), None);
        assert_eq!((len_of::<bool>(), len_of::<String>()), (None, None));
    }
}
