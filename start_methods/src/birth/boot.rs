//! What a process is born with: what the parent asks for ([`Boot`]) and what the child finds ([`Birth`]).
//!
//! # Invariants
//!
//! - A [`Boot`] that was accepted fits one message, whatever its name and entry are; and so does the answer that one
//!   of its settings cannot be had.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::io::IoSlice;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

use crate::child::lifeline::Lifeline;
use crate::child::lifeline::MAKING;
use crate::error::StartError;
use crate::message;
use crate::message::BootMessage;
use crate::method::StartMethod;
use crate::settings::Environment;
use crate::settings::Limit;
use crate::settings::Resource;
use crate::settings::Settings;
use crate::sys::fd::PrivateFd;
use crate::sys::image;
use crate::sys::socket::Socket;

/// How many bytes [`Boot::payload`] may have.
pub const PAYLOAD_MAX: usize = 48 * 1024;

/// How many descriptors [`Boot::fds`] may have.
pub const BOOT_FDS_MAX: usize = 8;

/// How many bytes the settings of a [`Boot`] may have: names and values of its variables and 16 for each variable, the
/// path of its directory, and 128 for all else.
pub const SETTINGS_MAX: usize = 32 * 1024;

/// How many generations of processes there may be below the first one.
pub const DEPTH_MAX: u32 = 10;

/// The generation of this process; a child learns it from its boot message.
static DEPTH: AtomicU32 = AtomicU32::new(0);

/// What a new process runs: its exit code is what this returns.
///
/// A panic ends the process with exit code 101, as it would in `main`.
pub type Entry = fn(Birth) -> u8;

/// What a new process finds when its [`Entry`] is called.
#[derive(Debug)]
pub struct Birth {
    /// The child's end of the socket whose other end is [`Child::control`](crate::Child::control).
    pub control: Socket,
    /// What the parent gave to [`Boot::payload`].
    pub payload: Vec<u8>,
    /// Copies of the descriptors that the parent gave to [`Boot::fds`], in order.
    pub fds: Vec<PrivateFd>,
    /// How this process was started.
    pub method: StartMethod,
}

/// How many starts lie between the first process and this one; 0 in the first.
#[must_use]
pub fn depth() -> u32 {
    DEPTH.load(Ordering::Relaxed)
}

pub(crate) fn set_depth(depth: u32) {
    DEPTH.store(depth, Ordering::Relaxed);
}

/// What a new process is to be: the entry it runs, and what it is given.
///
/// # Examples
///
/// ```
/// use start_methods::{Birth, Boot};
///
/// fn answer(birth: Birth) -> u8 {
///     birth.payload[0]
/// }
///
/// let boot = Boot::new(answer).name("oracle").payload(&[42]).env("DELPHI", "1").current_dir("/");
/// # let _ = boot;
/// ```
///
/// # Settings
///
/// [`env`](Self::env) and its neighbours, [`current_dir`](Self::current_dir) and [`rlimit`](Self::rlimit) say what is
/// to be different in the new process. All else is as it would be without them, which is not the same for every method:
/// a forked child and a spawned one have the environment, directory and limits of this process as they are when it
/// starts, and a child of a fork server, or of a template, those that the server had when *it* started.
///
/// They are in force before the entry runs, and touch neither this process nor a server. When one cannot be had, the
/// child says so in the place of its hello, and ends: [`Child::wait_hello`](crate::Child::wait_hello) and
/// [`Child::try_hello`](crate::Child::try_hello) have the error, whatever the start method.
#[derive(Clone)]
pub struct Boot<'a> {
    entry: Entry,
    name: &'a str,
    payload: &'a [u8],
    fds: &'a [BorrowedFd<'a>],
    settings: Settings,
}

impl<'a> Boot<'a> {
    /// A process that runs `entry`, is named "child", and is given nothing.
    #[must_use]
    pub fn new(entry: Entry) -> Self {
        Self { entry, name: "child", payload: &[], fds: &[], settings: Settings::default() }
    }

    /// Runs `entry` instead: a boot may be kept as a model, and be cloned for processes that differ in this.
    #[must_use]
    pub fn entry(mut self, entry: Entry) -> Self {
        self.entry = entry;
        self
    }

    /// What `ps` and `top` call it. The kernel keeps the first 15 bytes.
    #[must_use]
    pub fn name(mut self, name: &'a str) -> Self {
        self.name = name;
        self
    }

    /// Bytes for the entry, at most [`PAYLOAD_MAX`].
    #[must_use]
    pub fn payload(mut self, payload: &'a [u8]) -> Self {
        self.payload = payload;
        self
    }

    /// Descriptors for the entry, at most [`BOOT_FDS_MAX`]. The parent keeps its own.
    #[must_use]
    pub fn fds(mut self, fds: &'a [BorrowedFd<'a>]) -> Self {
        self.fds = fds;
        self
    }

    /// Sets a variable of the child's environment.
    ///
    /// By spawn, the program is executed with it, so that the dynamic linker and whatever else runs before `main` see
    /// it too. By the other two it is set while the child has its one thread, before the entry runs; what the parent
    /// or the server has already read from its environment (its allocator, the C library) is not read again.
    ///
    /// A name that is empty or has a `=` in it, or a zero byte in either, is [`StartError::Environment`] at the start.
    ///
    /// # Examples
    ///
    /// ```
    /// use start_methods::{Birth, Boot, StartMethod};
    ///
    /// fn look(_: Birth) -> u8 {
    ///     let language = std::env::var("LANG").unwrap();
    ///     u8::from(language != "C" || std::env::var_os("HOME").is_some())
    /// }
    ///
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     start_methods::init();
    ///     let boot = Boot::new(look).env("LANG", "C").env_remove("HOME");
    ///     assert!(start_methods::start(StartMethod::Spawn, &boot)?.wait()?.success());
    ///     Ok(())
    /// }
    /// ```
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.settings.environment.set(name.as_ref(), value.as_ref());
        self
    }

    /// Removes a variable from the child's environment, whether it would be inherited or was [set](Self::env) before.
    ///
    /// For its errors and for what sees it see [`env`](Self::env).
    #[must_use]
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.settings.environment.remove(name.as_ref());
        self
    }

    /// Empties the child's environment; what is [set](Self::env) after this is all there is.
    ///
    /// What it would inherit is gone, and so is what was set before.
    #[must_use]
    pub fn env_clear(mut self) -> Self {
        self.settings.environment.clear();
        self
    }

    /// The directory in which the child begins.
    ///
    /// A relative path is resolved at once, against the directory of this process. By spawn, the program is executed
    /// in the directory of this process, and `main` changes to the new one in [`init`](crate::init).
    ///
    /// A directory that the child cannot enter is [`StartError::Directory`], instead of its hello.
    #[must_use]
    pub fn current_dir(mut self, path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        // It fails for an empty path, and when this process is in a directory that is gone; then `prepare` will say so.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        self.settings.directory = Some(path.into_os_string());
        self
    }

    /// Limits what the child may use of `resource`, to `soft`; with `hard`, also how far it may raise that itself.
    ///
    /// `None` leaves the hard limit as the child has it by itself. [`Resource::UNLIMITED`] is no limit. What the child
    /// starts inherits its limits, but has its own count.
    ///
    /// A limit that the child may not have is [`StartError::Limit`], instead of its hello: a soft one above the hard
    /// one, or a hard one above what the child has by itself, for which it needs a privilege.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use start_methods::{Birth, Boot, Resource, StartError, StartMethod};
    ///
    /// fn hungry(_: Birth) -> u8 {
    ///     u8::from(Vec::<u8>::new().try_reserve(4 << 30).is_err())
    /// }
    ///
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     start_methods::init();
    ///     let boot = Boot::new(hungry).rlimit(Resource::AddressSpace, 1 << 30, None);
    ///     let child = start_methods::start(StartMethod::Forkserver, &boot)?;
    ///     assert_eq!(child.wait()?.status().and_then(|status| status.code()), Some(1));
    ///
    ///     let boot = Boot::new(hungry).rlimit(Resource::OpenFiles, 20, Some(10));
    ///     let child = start_methods::start(StartMethod::Forkserver, &boot)?;
    ///     let error = child.wait_hello(Duration::from_secs(10)).unwrap_err();
    ///     assert!(matches!(error, StartError::Limit { resource: Resource::OpenFiles, .. }));
    ///     Ok(())
    /// }
    /// ```
    #[must_use]
    pub fn rlimit(mut self, resource: Resource, soft: u64, hard: Option<u64>) -> Self {
        self.settings.limits.insert(resource, Limit { soft, hard });
        self
    }

    /// What the environment of the child is to be like.
    pub(crate) fn environment(&self) -> &Environment {
        &self.settings.environment
    }

    /// The message to be sent, once all that can be refused has been looked at.
    pub(crate) fn prepare(&self, method: StartMethod) -> Result<Parcel<'a>, StartError> {
        let too_large = |len, limit| Err(StartError::BootTooLarge { len, limit });
        if self.payload.len() > PAYLOAD_MAX {
            return too_large(self.payload.len(), PAYLOAD_MAX);
        }
        if self.fds.len() > BOOT_FDS_MAX {
            return too_large(self.fds.len(), BOOT_FDS_MAX);
        }
        self.check_settings()?;
        let depth = depth() + 1;
        if depth > DEPTH_MAX {
            return Err(StartError::NestedTooDeep { depth, limit: DEPTH_MAX });
        }
        let address = self.entry as usize;
        let entry = image::locate(address).ok_or(StartError::FunctionNotFound { address })?;
        let mut settings = self.settings.clone();
        if method == StartMethod::Spawn {
            // It is executed with it.
            settings.environment = Environment::default();
        }
        let bytes = message::encode(&BootMessage {
            pointer_width: usize::BITS,
            build_id: image::build_id(),
            entry,
            method,
            name: cut(self.name, 15).to_owned(),
            depth,
            settings,
            payload: self.payload.to_vec(),
        });
        let lifeline = Lifeline::get().map_err(StartError::system(MAKING))?;
        Ok(Parcel { bytes, lifeline, fds: self.fds })
    }

    /// What can be known of the settings without asking the child.
    fn check_settings(&self) -> Result<(), StartError> {
        let size = self.settings.size();
        if size > SETTINGS_MAX {
            return Err(StartError::BootTooLarge { len: size, limit: SETTINGS_MAX });
        }
        if let Some(name) = self.settings.environment.invalid_variable() {
            return Err(StartError::Environment { name: name.to_owned() });
        }
        if let Some(path) = self.settings.directory.as_ref().map(Path::new) {
            let refused = |errno| Err(StartError::Directory { path: path.to_owned(), errno });
            if path.is_relative() {
                return refused(libc::ENOENT);
            }
            if path.as_os_str().len() > PATH_LEN_MAX {
                return refused(libc::ENAMETOOLONG);
            }
        }
        Ok(())
    }
}

/// The kernel takes no longer path.
const PATH_LEN_MAX: usize = 4095;

impl fmt::Debug for Boot<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Boot")
            .field("name", &self.name)
            .field("payload_len", &self.payload.len())
            .field("fds", &self.fds)
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

/// A boot message, ready to be sent.
pub(crate) struct Parcel<'a> {
    bytes: Vec<u8>,
    pub(crate) lifeline: Arc<Lifeline>,
    fds: &'a [BorrowedFd<'a>],
}

impl Parcel<'_> {
    /// Sends it. The socket is new, so that it has room.
    ///
    /// A child that is gone already is no error: what it said, and how it ended, is for
    /// [`Child::try_hello`](crate::Child::try_hello) to tell.
    pub(crate) fn send(&self, control: &Socket) -> Result<(), StartError> {
        let sent = match control.try_send(&[IoSlice::new(&self.bytes)], self.fds) {
            Ok(true) => Ok(()),
            Ok(false) => Err(io::Error::from_raw_os_error(libc::ENOBUFS)),
            Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => Ok(()),
            Err(error) => Err(error),
        };
        sent.map_err(StartError::system("sending the boot message"))
    }
}

/// The longest beginning of `text` with at most `bytes_max` bytes.
fn cut(text: &str, bytes_max: usize) -> &str {
    let mut end = text.len().min(bytes_max);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    &text[..end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_cut_between_characters() {
        assert_eq!(cut("worker", 15), "worker");
        assert_eq!(cut("a-rather-long-name", 15), "a-rather-long-n");
        assert_eq!(cut("ééééééééé", 15), "ééééééé");
    }

    #[test]
    fn the_largest_boot_fits_a_message() {
        fn entry(_: Birth) -> u8 {
            0
        }
        let payload = vec![0xff; PAYLOAD_MAX];
        let boot = Boot::new(entry).payload(&payload);
        let largest = |value_len| boot.clone().env("A", "x".repeat(value_len));
        let value_len = SETTINGS_MAX - largest(0).settings.size();

        let parcel = largest(value_len).prepare(StartMethod::Fork).unwrap();

        assert!(parcel.bytes.len() > PAYLOAD_MAX + value_len && parcel.bytes.len() <= message::MESSAGE_MAX);
        assert!(matches!(
            largest(value_len + 1).prepare(StartMethod::Fork),
            Err(StartError::BootTooLarge { limit: SETTINGS_MAX, .. })
        ));
        let payload = vec![0xff; PAYLOAD_MAX + 1];
        assert!(matches!(
            Boot::new(entry).payload(&payload).prepare(StartMethod::Spawn),
            Err(StartError::BootTooLarge { .. })
        ));
    }
}
