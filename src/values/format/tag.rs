//! The first byte of a value, and the kinds of numbers.

pub(super) const END: u8 = 0;
pub(super) const UNIT: u8 = 1;
pub(super) const NONE: u8 = 2;
pub(super) const SOME: u8 = 3;
pub(super) const FALSE: u8 = 4;
pub(super) const TRUE: u8 = 5;
pub(super) const CHAR: u8 = 6;
pub(super) const STR: u8 = 7;
pub(super) const BYTES: u8 = 8;
pub(super) const BLOCK: u8 = 9;
pub(super) const SEQ: u8 = 10;
pub(super) const TUPLE: u8 = 11;
pub(super) const RUN: u8 = 12;
pub(super) const MAP: u8 = 13;
pub(super) const NEW_STRUCT: u8 = 14;
pub(super) const STRUCT: u8 = 15;
pub(super) const NAMED_STRUCT: u8 = 16;
pub(super) const DEVIATION: u8 = 17;
pub(super) const KEY: u8 = 18;
pub(super) const UNIT_VARIANT: u8 = 19;
pub(super) const VARIANT: u8 = 20;
/// A number: this and its [`Kind`].
pub(super) const NUMBER: u8 = 32;

/// The type of numbers that lie as in memory. `usize` and `isize` count as the type of the same size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// In blocks and runs only: each byte is 0 or 1.
    Bool,
    U8,
    U16,
    U32,
    U64,
    U128,
    I8,
    I16,
    I32,
    I64,
    I128,
    F32,
    F64,
}

impl Kind {
    const ALL: [Kind; 13] = {
        use Kind::*;
        [Bool, U8, U16, U32, U64, U128, I8, I16, I32, I64, I128, F32, F64]
    };

    #[inline]
    pub(super) fn of_code(code: u8) -> Option<Kind> {
        Kind::ALL.get(usize::from(code)).copied()
    }

    /// The first byte of a number of this kind that stands alone.
    #[inline]
    pub(super) const fn tag(self) -> u8 {
        NUMBER + self as u8
    }

    /// The length of one number.
    #[inline]
    pub(super) const fn size(self) -> usize {
        match self {
            Kind::Bool | Kind::U8 | Kind::I8 => 1,
            Kind::U16 | Kind::I16 => 2,
            Kind::U32 | Kind::I32 | Kind::F32 => 4,
            Kind::U64 | Kind::I64 | Kind::F64 => 8,
            Kind::U128 | Kind::I128 => 16,
        }
    }
}

/// A length or hint that does not fit its field, or is unknown.
pub(super) const ESCAPE: u32 = u32::MAX;
/// In place of the id of a name: the name follows.
pub(super) const NEW_NAME: u16 = u16::MAX;
/// Maximum number of names, and of shapes, that have an id. Beyond it they are written in full each time.
pub(super) const IDS_MAX: usize = u16::MAX as usize;
