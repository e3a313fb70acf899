//! Addresses that another process of the same build can resolve: image and offset.
//!
//! Address space layout randomisation moves each image (the program, each shared library) as a whole. So a function is
//! identified by its image and its offset from where the image is loaded. A received [`ImageRef`] is checked against
//! the program headers before it becomes an address again: the image must be loaded, of the same build, and the offset
//! in an executable, or readable, segment.
//!
//! A forked child has the images of its parent where the parent has them. It gets a copy of the list (`snapshot`,
//! `inherit`), because it must not read the loader's: a thread of the parent that held the loader's lock at the fork
//! holds it for ever in the child.
//!
//! Also called: ASLR-independent pointer, relocatable function reference.
//!
//! # Invariants
//!
//! - [`ImageRef::resolve_code`] and [`ImageRef::resolve_data`] return only addresses inside loaded segments with the
//!   required permission; no input makes them touch other memory.
//! - A forked child takes the loader's lock only for a location that its copy of the list does not have.

#![expect(unsafe_code, reason = "dl_iterate_phdr(3) hands out pointers to the loader's tables")]

use std::ffi::CStr;
use std::ffi::c_int;
use std::ffi::c_void;
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::slice;
use std::sync::Arc;
use std::sync::OnceLock;

use serde::Deserialize;
use serde::Serialize;

use crate::sys::process::PerProcess;
use crate::sys::threads::ForeignThreads;

/// The images that this process had when it was forked; empty in a process that was executed.
static INHERITED: PerProcess<OnceLock<Snapshot>> = PerProcess::new();

/// The type of the note that linkers write with `--build-id`.
const NT_GNU_BUILD_ID: u32 = 3;

/// A location in the program or one of its libraries, valid in every process of the same build.
///
/// # Examples
///
/// ```
/// use start_methods::image;
///
/// fn work() {}
///
/// let name = image::locate(work as *const () as usize).expect("it is in this program");
/// assert_eq!(name.resolve_code(), Ok(work as *const () as usize));
/// ```
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq, Hash)]
pub struct ImageRef {
    /// Empty for the main program, else the file name of the library.
    image: String,
    build_id: Vec<u8>,
    /// From the address at which the image is loaded.
    offset: u64,
}

/// Why a location in another process does not exist in this one.
///
/// # Examples
///
/// ```
/// use start_methods::image::{self, ImageError};
///
/// static DATA: [u8; 4] = [0; 4];
///
/// let location = image::locate(DATA.as_ptr() as usize).unwrap();
/// assert!(matches!(location.resolve_code(), Err(ImageError::OutOfBounds { .. })));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImageError {
    /// The library is not loaded here (opened at run time by the other process?).
    NotLoaded {
        /// Its file name.
        image: String,
    },
    /// The image is loaded here, but from another build.
    OtherBuild {
        /// Its file name; empty for the main program.
        image: String,
    },
    /// The location is not inside a segment of the image with the required permission.
    OutOfBounds {
        /// Its offset.
        offset: u64,
    },
    /// The location is not aligned as requested.
    Misaligned {
        /// Its offset.
        offset: u64,
    },
}

impl fmt::Display for ImageError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotLoaded { image } => {
                write!(
                    f,
                    "{image} is not loaded in this process: link it to the program, or load it in each process that \
                     needs it (in an initializer, or in a function that the fork server preloads)"
                )
            }
            Self::OtherBuild { image } if image.is_empty() => {
                f.write_str("the other process runs another build of this program")
            }
            Self::OtherBuild { image } => write!(f, "{image} is of another build here"),
            Self::OutOfBounds { offset } => {
                write!(f, "offset {offset:#x} is in no suitable segment of the image")
            }
            Self::Misaligned { offset } => write!(f, "offset {offset:#x} is misaligned"),
        }
    }
}

impl std::error::Error for ImageError {}

/// The location of `address`; `None` if it is in no loaded image (code generated at run time).
///
/// # Examples
///
/// ```
/// use start_methods::image;
///
/// fn work() {}
///
/// assert!(image::locate(work as *const () as usize).is_some());
/// let on_the_heap = Box::new(1);
/// assert_eq!(image::locate(&raw const *on_the_heap as usize), None);
/// ```
#[must_use]
pub fn locate(address: usize) -> Option<ImageRef> {
    with_images(|image| {
        let offset = address.wrapping_sub(image.base);
        image.segment(offset, 1, 0)?;
        Some(ImageRef { image: image.name.to_owned(), build_id: image.build_id(), offset: u64_of(offset) })
    })
}

/// An identifier of this build of the main program.
///
/// The linker's build id; without one, device, inode, size and modification time of the executable file.
///
/// # Examples
///
/// ```
/// use start_methods::image;
///
/// assert!(!image::build_id().is_empty());
/// assert_eq!(image::build_id(), image::build_id());
/// ```
#[must_use]
pub fn build_id() -> Vec<u8> {
    // Computed once, by the thread that starts the first process: the loader has a lock, which would stay held in a
    // child that is forked while another thread holds it.
    static BUILD_ID: OnceLock<Vec<u8>> = OnceLock::new();
    BUILD_ID.get_or_init(|| with_images(|image| Some(image.build_id())).unwrap_or_default()).clone()
}

impl ImageRef {
    /// The address of this location, if it is in an executable segment.
    ///
    /// # Errors
    ///
    /// - [`ImageError::NotLoaded`], [`ImageError::OtherBuild`]: the image is not loaded here, or from another build.
    /// - [`ImageError::OutOfBounds`]: the image has no code there.
    ///
    /// # Examples
    ///
    /// ```
    /// use start_methods::image;
    ///
    /// fn work() {}
    ///
    /// let address = work as *const () as usize;
    /// assert_eq!(image::locate(address).unwrap().resolve_code(), Ok(address));
    /// ```
    pub fn resolve_code(&self) -> Result<usize, ImageError> {
        self.resolve(1, 1, libc::PF_X)
    }

    /// The address of this location, if `size` readable bytes are there and it is aligned to `align`.
    ///
    /// # Errors
    ///
    /// - [`ImageError::NotLoaded`], [`ImageError::OtherBuild`]: the image is not loaded here, or from another build.
    /// - [`ImageError::OutOfBounds`]: the image does not have these bytes.
    /// - [`ImageError::Misaligned`]: the address is not a multiple of `align`, or `align` is 0.
    ///
    /// # Examples
    ///
    /// ```
    /// use start_methods::image;
    ///
    /// static DATA: u64 = 7;
    ///
    /// let address = &raw const DATA as usize;
    /// assert_eq!(image::locate(address).unwrap().resolve_data(8, 8), Ok(address));
    /// ```
    pub fn resolve_data(&self, size: usize, align: usize) -> Result<usize, ImageError> {
        self.resolve(size, align, libc::PF_R)
    }

    fn resolve(&self, size: usize, align: usize, permission: u32) -> Result<usize, ImageError> {
        let out_of_bounds = ImageError::OutOfBounds { offset: self.offset };
        let offset = usize::try_from(self.offset).map_err(|_| out_of_bounds)?;
        let find = |image: &Image<'_>| self.resolve_in(image, offset, size, permission);
        let inherited = INHERITED.get().get().and_then(|snapshot| snapshot.find(find));
        let found = match inherited {
            Some(Ok(address)) => Some(Ok(address)),
            // Loaded after the fork, or instead of another image.
            Some(Err(_)) | None => with_images(find),
        };
        let address = found.unwrap_or_else(|| Err(ImageError::NotLoaded { image: self.image.clone() }))?;
        if align == 0 || address % align != 0 {
            return Err(ImageError::Misaligned { offset: self.offset });
        }
        Ok(address)
    }

    /// `None` if this location is in another image.
    fn resolve_in(
        &self,
        image: &Image<'_>,
        offset: usize,
        size: usize,
        permission: u32,
    ) -> Option<Result<usize, ImageError>> {
        if image.name != self.image {
            return None;
        }
        if image.build_id() != self.build_id {
            return Some(Err(ImageError::OtherBuild { image: self.image.clone() }));
        }
        Some(match image.segment(offset, size, permission) {
            Some(()) => Ok(image.base.wrapping_add(offset)),
            None => Err(ImageError::OutOfBounds { offset: self.offset }),
        })
    }
}

/// One image, as the loader describes it during the walk, or as it was at the fork.
struct Image<'a> {
    name: &'a str,
    /// The main program is the first image.
    is_main: bool,
    base: usize,
    headers: &'a [libc::Elf64_Phdr],
    /// `None` during the walk: it is read from the memory of the image.
    known_build_id: Option<&'a [u8]>,
}

/// The images of a process at the moment of a fork.
#[derive(Clone, Debug)]
pub(crate) struct Snapshot {
    images: Arc<[Loaded]>,
    /// Whether there may have been other threads: the lock of the loader may be held for ever in a child that was forked beside other threads.
    foreign: ForeignThreads,
}

/// A copy of an [`Image`].
#[derive(Debug)]
struct Loaded {
    name: String,
    base: usize,
    headers: Vec<libc::Elf64_Phdr>,
    build_id: Vec<u8>,
}

impl Snapshot {
    fn find<R>(&self, ask: impl Fn(&Image<'_>) -> Option<R>) -> Option<R> {
        let mut images = self.images.iter().map(|Loaded { name, base, headers, build_id }| Image {
            name,
            is_main: name.is_empty(),
            base: *base,
            headers,
            known_build_id: Some(build_id),
        });
        images.find_map(|image| ask(&image))
    }
}

/// The images of this process, for a child that it is about to fork.
///
/// The child uses them for the locations that this process sends it. A library that holds such a location must stay
/// loaded in both, as for every function pointer.
///
/// A process that was itself forked beside other threads passes on what it has: it cannot ask the loader.
pub(crate) fn snapshot(foreign: ForeignThreads) -> Snapshot {
    // Creates the cell before the fork: `inherit` must not find it half made by another thread.
    let inherited = INHERITED.get().get();
    if let Some(snapshot) = inherited.filter(|snapshot| snapshot.foreign == ForeignThreads::Tolerate) {
        return snapshot.clone();
    }
    let mut images = Vec::new();
    with_images(|image| {
        let (name, headers) = (image.name.to_owned(), image.headers.to_vec());
        images.push(Loaded { name, base: image.base, headers, build_id: image.build_id() });
        None::<()>
    });
    Snapshot { images: images.into(), foreign }
}

/// In a forked child: takes over the images of its parent.
pub(crate) fn inherit(snapshot: Snapshot) {
    INHERITED.get().set(snapshot).expect("a process is forked once");
}

#[cfg(not(target_pointer_width = "64"))]
compile_error!("start_methods supports 64-bit Linux only");

impl Image<'_> {
    /// `Some` if one loaded segment with all of `permission` has the `size` bytes at `offset`.
    fn segment(&self, offset: usize, size: usize, permission: u32) -> Option<()> {
        let end = offset.checked_add(size)?;
        self.headers
            .iter()
            .filter(|header| header.p_type == libc::PT_LOAD)
            .filter(|header| header.p_flags & permission == permission)
            .any(|header| {
                let start = usize_of(header.p_vaddr);
                start <= offset && end <= start.saturating_add(usize_of(header.p_memsz))
            })
            .then_some(())
    }

    fn build_id(&self) -> Vec<u8> {
        self.known_build_id.map_or_else(|| self.read_build_id(), <[u8]>::to_vec)
    }

    fn read_build_id(&self) -> Vec<u8> {
        let notes = self.headers.iter().filter(|header| header.p_type == libc::PT_NOTE);
        for header in notes {
            let (offset, size) = (usize_of(header.p_vaddr), usize_of(header.p_memsz));
            // Some notes are in the file only; those covered by a loadable segment are in memory.
            if self.segment(offset, size, libc::PF_R).is_none() {
                continue;
            }
            let start = self.base.wrapping_add(offset) as *const u8;
            // SAFETY: without a known build id the image comes from `with_images`. Then the range lies in a readable
            // segment that stays loaded while the loader's lock is held, and notes are never written.
            let bytes = unsafe { slice::from_raw_parts(start, size) };
            if let Some(id) = find_build_id(bytes, usize_of(header.p_align)) {
                return id.to_vec();
            }
        }
        if self.is_main { executable_identity() } else { Vec::new() }
    }
}

fn u64_of(word: usize) -> u64 {
    u64::try_from(word).expect("a 64-bit system")
}

fn usize_of(word: u64) -> usize {
    usize::try_from(word).expect("a 64-bit system")
}

/// The build id in the bytes of a PT_NOTE segment. Pure, and safe for any bytes.
fn find_build_id(mut bytes: &[u8], align: usize) -> Option<&[u8]> {
    let align = if align == 8 { 8 } else { 4 };
    let word = |bytes: &[u8], index: usize| {
        let place = bytes.get(index * 4..index * 4 + 4)?;
        Some(u32::from_ne_bytes(place.try_into().expect("four bytes")))
    };
    loop {
        let name_len = word(bytes, 0)? as usize;
        let desc_len = word(bytes, 1)? as usize;
        let kind = word(bytes, 2)?;
        let desc_start = name_len.checked_add(12)?.checked_next_multiple_of(align)?;
        let desc_end = desc_start.checked_add(desc_len)?;
        let name = bytes.get(12..12_usize.checked_add(name_len)?)?;
        let desc = bytes.get(desc_start..desc_end)?;
        if kind == NT_GNU_BUILD_ID && name == b"GNU\0" && !desc.is_empty() {
            return Some(desc);
        }
        bytes = bytes.get(desc_end.checked_next_multiple_of(align)?..)?;
    }
}

fn executable_identity() -> Vec<u8> {
    let Ok(file) = fs::metadata("/proc/self/exe") else {
        return Vec::new();
    };
    let place = [file.dev(), file.ino(), file.size()].map(u64::to_le_bytes);
    let time = [file.mtime(), file.mtime_nsec()].map(i64::to_le_bytes);
    [place.as_flattened(), time.as_flattened()].concat()
}

/// Calls `ask` with each loaded image in turn, the main program first, until it returns `Some`.
fn with_images<R, F: FnMut(&Image<'_>) -> Option<R>>(ask: F) -> Option<R> {
    struct Walk<F, R> {
        ask: F,
        seen: usize,
        answer: Option<R>,
    }

    unsafe extern "C" fn visit<R, F: FnMut(&Image<'_>) -> Option<R>>(
        info: *mut libc::dl_phdr_info,
        _size: usize,
        walk: *mut c_void,
    ) -> c_int {
        // SAFETY: `walk` is the `Walk` of the call below, to which nothing else refers meanwhile.
        let walk = unsafe { &mut *walk.cast::<Walk<F, R>>() };
        // SAFETY: the loader passes a valid description, valid until we return.
        let info = unsafe { &*info };
        let is_main = walk.seen == 0;
        walk.seen += 1;
        let path = if info.dlpi_name.is_null() {
            c""
        } else {
            // SAFETY: the loader keeps names as C strings.
            unsafe { CStr::from_ptr(info.dlpi_name) }
        };
        let headers = if info.dlpi_phdr.is_null() {
            &[]
        } else {
            // SAFETY: the loader passes the table and its length.
            unsafe { slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()) }
        };
        // An image whose name is not UTF-8 cannot be in an `ImageRef`: skipped.
        let file_name = path.to_str().ok().and_then(|path| path.rsplit('/').next());
        let name = if is_main { Some("") } else { file_name.filter(|name| !name.is_empty()) };
        let base = usize_of(info.dlpi_addr);
        let image = name.map(|name| Image { name, is_main, base, headers, known_build_id: None });
        walk.answer = image.and_then(|image| (walk.ask)(&image));
        c_int::from(walk.answer.is_some())
    }

    let mut walk = Walk { ask, seen: 0, answer: None };
    // SAFETY: `visit` is called only during this call, with the pointer to `walk`. A panic in it
    // aborts, as in every `extern "C"` function.
    unsafe { libc::dl_iterate_phdr(Some(visit::<R, F>), (&raw mut walk).cast()) };
    walk.answer
}

#[cfg(test)]
mod tests {
    use super::*;

    static DATA: u64 = 7;

    fn code() {}

    fn code_ref() -> ImageRef {
        locate(code as *const () as usize).unwrap()
    }

    fn data_ref() -> ImageRef {
        locate((&raw const DATA) as usize).unwrap()
    }

    #[test]
    fn code_and_data_are_found_where_they_were() {
        assert_eq!(code_ref().resolve_code(), Ok(code as *const () as usize));
        assert_eq!(data_ref().resolve_data(8, 8), Ok((&raw const DATA) as usize));
    }

    #[test]
    fn a_function_of_a_library_is_found_in_that_library() {
        let address = libc::getpid as *const () as usize;

        let name = locate(address).unwrap();

        assert_eq!(name.resolve_code(), Ok(address));
    }

    #[test]
    fn data_is_no_code() {
        assert!(matches!(data_ref().resolve_code(), Err(ImageError::OutOfBounds { .. })));
    }

    #[test]
    fn the_heap_and_the_stack_have_no_name() {
        let on_the_heap = Box::new(0_u8);
        let on_the_stack = 0_u8;

        assert_eq!(locate((&raw const *on_the_heap) as usize), None);
        assert_eq!(locate((&raw const on_the_stack) as usize), None);
    }

    #[test]
    fn a_misaligned_place_is_refused() {
        let mut name = data_ref();
        name.offset += 1;

        assert!(matches!(name.resolve_data(1, 8), Err(ImageError::Misaligned { .. })));
        assert!(matches!(name.resolve_data(1, 0), Err(ImageError::Misaligned { .. })));
    }

    #[test]
    fn no_offset_leads_out_of_the_image() {
        for offset in [u64::MAX, u64::MAX / 2, 1 << 40, 4096_u64.wrapping_neg()] {
            let name = ImageRef { offset, ..code_ref() };
            assert_eq!(name.resolve_code(), Err(ImageError::OutOfBounds { offset }));
        }
        assert!(data_ref().resolve_data(usize::MAX, 1).is_err());
        assert!(data_ref().resolve_data(1 << 40, 1).is_err());
    }

    #[test]
    fn another_build_and_another_library_are_told_apart() {
        let other_build = ImageRef { build_id: vec![1, 2, 3], ..code_ref() };
        let other_library = ImageRef { image: "libnot-here.so.1".to_owned(), ..code_ref() };

        assert!(matches!(other_build.resolve_code(), Err(ImageError::OtherBuild { .. })));
        assert!(matches!(other_library.resolve_code(), Err(ImageError::NotLoaded { .. })));
    }

    #[test]
    fn the_build_id_is_there_and_stays() {
        assert!(!build_id().is_empty());
        assert_eq!(build_id(), build_id());
        assert_eq!(code_ref().build_id, build_id());
    }

    #[test]
    fn broken_notes_have_no_build_id() {
        let mut note = Vec::new();
        for word in [4_u32, 3, NT_GNU_BUILD_ID] {
            note.extend(word.to_ne_bytes());
        }
        note.extend(b"GNU\0abc\0");

        assert_eq!(find_build_id(&note, 4), Some(&b"abc"[..]));
        for len in 0..note.len() - 1 {
            assert_eq!(find_build_id(&note[..len], 4), None, "{len} bytes");
        }
        note[0] = 0xff;
        assert_eq!(find_build_id(&note, 4), None);
    }

    #[test]
    fn without_a_build_id_the_file_is_the_identity() {
        assert_eq!(executable_identity().len(), 40);
    }
}
