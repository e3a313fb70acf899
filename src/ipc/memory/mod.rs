//! Memory that several processes change at once: atomics, and arrays of plain data.
//!
//! ```text
//!   atomics    integers that are read and changed in place
//!   array      elements that are copied in and out
//!   region     the segment of one of them, and how it travels
//! ```
//!
//! What all processes may write at any time cannot be borrowed as `&T` or `&[T]`, unless it consists of atomics. So an
//! array is copied from and to, element by element or in ranges.

mod array;
mod atomics;
mod region;

pub use self::array::SharedArray;
pub use self::atomics::Atomic;
pub use self::atomics::Shared;
