//! Fuzz functions, one for each decoder of what other processes write: they state what must hold for arbitrary bytes.
//!
//! Compiled for tests, which run each function over its corpus, over all inputs near it, and over noise; and for
//! `cargo fuzz`, whose targets are these functions. The corpus and the targets are in the folder `fuzz` of the
//! repository.

use std::ffi::OsStr;
use std::fmt::Debug;
use std::os::unix::ffi::OsStrExt;

use crate::birth::entry::hex;
use crate::birth::entry::parse_marker;
use crate::exit::Exit;
use crate::message;
use crate::message::BootMessage;
use crate::message::Hello;
use crate::message::Message;
use crate::message::Ready;
use crate::message::Refused;
use crate::message::Reply;
use crate::message::Request;
use crate::sys::image;
use crate::sys::image::ImageRef;

#[cfg(test)]
mod drill;
#[cfg(test)]
mod record;

/// The messages of a control socket before it is handed to the user, and the word of a status pipe.
pub fn message(data: &[u8]) {
    decoded::<BootMessage>(data);
    decoded::<Hello>(data);
    decoded::<Refused>(data);
    decoded::<Ready>(data);
    decoded::<Request>(data);
    decoded::<Reply>(data);
    if let Some(word) = data.first_chunk() {
        assert!(!Exit::from_raw(i32::from_ne_bytes(*word)).to_string().is_empty());
    }
}

/// A message is of one kind, and encoding what was decoded gives a message that is no longer and decodes to the same.
fn decoded<M: Message + PartialEq + Debug>(data: &[u8]) {
    match message::decode::<M>(data) {
        Ok(read) => {
            assert_eq!(message::kind_of(data), Ok(M::KIND));
            let written = message::encode(&read);
            assert!(written.len() <= data.len());
            assert_eq!(message::decode::<M>(&written), Ok(read));
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
}

/// The marker in the environment of a program that may be a child.
pub fn marker(data: &[u8]) {
    let Some(marker) = parse_marker(OsStr::from_bytes(data)) else { return };
    assert!(marker.parent > 0);
    let written = format!("{}:{}:{}:{}", marker.version, marker.parent, marker.depth, hex(&marker.copy));
    assert!(written.len() <= data.len());
    assert_eq!(parse_marker(OsStr::new(&written)), Some(marker));
}

/// An image reference: into this program or another image, depending on the first byte.
///
/// `flag u8, offset u64, size u32, align u8`, then the image's name if it is another one.
pub fn place(data: &[u8]) {
    let Some(([flag, numbers @ ..], name)) = data.split_first_chunk::<14>() else { return };
    let (offset, rest) = numbers.split_first_chunk().expect("there are thirteen bytes");
    let (size, align) = rest.split_first_chunk().expect("there are five bytes");
    let (offset, size) = (u64::from_le_bytes(*offset), u32::from_le_bytes(*size) as usize);
    let align = usize::from(align[0]);
    let (name, build_id) = match flag & 1 {
        0 => ("".into(), image::build_id()),
        _ => (String::from_utf8_lossy(name), name.to_vec()),
    };
    // Large offsets are found by chance, and small ones hardly ever.
    let offset = if flag & 2 == 0 { offset & 0xff_ffff } else { offset };
    let bytes = postcard::to_allocvec(&(name, build_id, offset)).expect("an image reference can be encoded");
    let place: ImageRef = postcard::from_bytes(&bytes).expect("it was encoded above");

    if let Ok(address) = place.resolve_code() {
        assert_eq!(image::locate(address), Some(place.clone()));
    }
    if let Ok(address) = place.resolve_data(size, align) {
        assert_eq!(address % align, 0);
        for address in [address, address + size.saturating_sub(1)].into_iter().take(2 * size) {
            assert!(image::locate(address).is_some());
        }
    }
}
