//! Values as bytes: serialization, and the files that carry large values (out-of-band data).

pub(crate) mod attach;
pub(crate) mod blob;
pub(crate) mod codec;
pub(crate) mod fd;
mod format;
pub(crate) mod handle;
pub(crate) mod message;
pub(crate) mod number;
pub(crate) mod output;
pub(crate) mod parcel;
pub(crate) mod shared;
