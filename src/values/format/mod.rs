//! The format of users' values: a serde format for two processes of one build on one machine.
//!
//! Every value begins with a byte that says what it is, so the format describes itself: types that ask for that
//! (`untagged`, `flatten`, `tag`, `serde_json::Value`) are read like all others. Numbers lie as in memory, and numbers in
//! a sequence lie side by side, behind one such byte for all of them.
//!
//! ```text
//! value    Unit | None | False | True | Some value | number | Char u32
//!          Str len bytes | Bytes len bytes
//!          Block kind len numbers                              a slice of numbers
//!          Seq hint element… End | Tuple element… End          element: value | Run kind u16 numbers
//!          Map hint (value value)… End
//!          NewStruct shape field… | Struct id field…           field: value, in the order of the shape's names
//!          NamedStruct entry… End                              entry: Key name value
//!          UnitVariant name | Variant name value
//! len      u32, or u32::MAX and u64          hint  u32, u32::MAX if unknown
//! name     u16 id, or u16::MAX and index u32, len, bytes: gives the name the next id
//! shape    u8 count, u16 size, and as many names, each u8 and bytes: gives the shape the next id
//! ```
//!
//! All numbers have the byte order of the machine. Newtype structs are what they hold. Names (of fields in entries and
//! of variants) and shapes (the names of all fields of a struct) are written once for each value.
//!
//! # Structs
//!
//! A struct's names must be in the bytes, because they are needed as soon as it stands in an `untagged` enum, or when a
//! field was skipped. But the writer is not told the names before the fields. So the first time that a thread writes a
//! struct (a name and a number of fields), it writes each name before its field and learns the shape. From then on it
//! writes the shape first and checks each name against it. If one differs, which happens with `skip_serializing_if`,
//! a `Deviation` stands in its place and named entries follow, and the struct is written with names from then on.
//!
//! The reader compares the shape's names with those that the type asks for. If they are the same in the same order, it
//! passes the fields by position, which is fast. Otherwise it passes a map. If it comes to a deviation after it has begun
//! by position, or if a type does not deserialize by position, the value is read again from the start, all structs by
//! name. So positions are only a shortcut, and names decide.
//!
//! Also called: self-describing format, wire format, schema-less encoding.

mod access;
mod de;
#[cfg(test)]
mod deep;
mod dictionary;
mod error;
mod fields;
#[cfg(test)]
mod hostile;
#[cfg(test)]
mod matrix;
mod number;
mod numbers;
mod reader;
mod runs;
mod ser;
mod skip;
mod tables;
mod tag;
#[cfg(test)]
mod tests;
mod writer;

pub(super) use self::error::Error;
pub(super) use self::reader::Naming;
pub(super) use self::reader::Reader;
pub(super) use self::writer::Writer;
