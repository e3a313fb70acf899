//! [`Boot`], the parent's description of a new process, and [`Birth`], what its entry receives.
//!
//! # Invariants
//!
//! - A [`Boot`] that is accepted fits into one message, whatever its name and entry are. So does the refusal of any of
//!   its settings.

use std::ffi::OsStr;
use std::fmt;
use std::io;
use std::io::IoSlice;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::sync::atomic::AtomicU32;
use std::sync::atomic::Ordering;

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

/// Maximum bytes of [`Boot::payload`].
///
/// # Examples
///
/// ```
/// use start_methods::{Birth, Boot, PAYLOAD_MAX, StartError, StartMethod};
///
/// # fn run(_: Birth) -> u8 { 0 }
/// # start_methods::init();
/// let payload = vec![0; PAYLOAD_MAX + 1];
/// let error = start_methods::start(StartMethod::Spawn, &Boot::new(run).payload(&payload)).unwrap_err();
/// assert!(matches!(error, StartError::BootTooLarge { limit: PAYLOAD_MAX, .. }));
/// ```
pub const PAYLOAD_MAX: usize = 48 * 1024;

/// Maximum descriptors of [`Boot::fds`].
///
/// # Examples
///
/// ```
/// use std::os::fd::AsFd;
///
/// use start_methods::{BOOT_FDS_MAX, Birth, Boot, StartError, StartMethod};
///
/// # fn run(_: Birth) -> u8 { 0 }
/// # start_methods::init();
/// let output = std::io::stdout();
/// let fds = [output.as_fd(); BOOT_FDS_MAX + 1];
/// let error = start_methods::start(StartMethod::Spawn, &Boot::new(run).fds(&fds)).unwrap_err();
/// assert!(matches!(error, StartError::BootTooLarge { limit: BOOT_FDS_MAX, .. }));
/// ```
pub const BOOT_FDS_MAX: usize = 8;

/// Maximum bytes of the settings of a [`Boot`]: the names and values of its variables and 16 for each variable, the
/// path of its directory, and 128 for everything else.
///
/// # Examples
///
/// ```
/// use start_methods::{Birth, Boot, SETTINGS_MAX, StartError, StartMethod};
///
/// # fn run(_: Birth) -> u8 { 0 }
/// # start_methods::init();
/// let boot = Boot::new(run).env("LONG", "x".repeat(SETTINGS_MAX));
/// let error = start_methods::start(StartMethod::Spawn, &boot).unwrap_err();
/// assert!(matches!(error, StartError::BootTooLarge { limit: SETTINGS_MAX, .. }));
/// ```
pub const SETTINGS_MAX: usize = 32 * 1024;

/// Maximum generations of processes below the first one.
///
/// # Examples
///
/// ```
/// assert!(start_methods::depth() <= start_methods::DEPTH_MAX);
/// ```
pub const DEPTH_MAX: u32 = 10;

/// The generation of this process. A child learns it from its boot message.
// Relaxed everywhere: it is set while the process has one thread.
static DEPTH: AtomicU32 = AtomicU32::new(0);

/// The function that a new process runs. Its result is the exit code of the process.
///
/// A panic ends the process with exit code 101, as in `main`.
///
/// # Examples
///
/// ```
/// use start_methods::{Birth, Boot, Entry};
///
/// fn worker(_: Birth) -> u8 {
///     0
/// }
///
/// fn logger(_: Birth) -> u8 {
///     0
/// }
///
/// let entries: [Entry; 2] = [worker, logger];
/// let boots = entries.map(Boot::new);
/// # let _ = boots;
/// ```
pub type Entry = fn(Birth) -> u8;

/// What the [`Entry`] of a new process receives.
///
/// # Examples
///
/// ```
/// use std::io::IoSlice;
///
/// use start_methods::Birth;
///
/// fn echo(birth: Birth) -> u8 {
///     let sent = birth.control.send(&[IoSlice::new(&birth.payload)], &[]);
///     u8::from(sent.is_err())
/// }
/// # let _ = echo;
/// ```
#[derive(Debug)]
pub struct Birth {
    /// The child's end of the socket whose other end is [`Child::control`](crate::Child::control).
    pub control: Socket,
    /// The bytes that the parent gave to [`Boot::payload`].
    pub payload: Vec<u8>,
    /// Copies of the descriptors that the parent gave to [`Boot::fds`], in order.
    pub fds: Vec<PrivateFd>,
    /// How this process was started.
    pub method: StartMethod,
}

/// The number of starts between the first process and this one; 0 in the first.
///
/// # Examples
///
/// ```
/// use start_methods::{Birth, Boot, StartMethod};
///
/// fn own_depth(_: Birth) -> u8 {
///     start_methods::depth() as u8
/// }
///
/// fn main() -> Result<(), Box<dyn std::error::Error>> {
///     start_methods::init();
///     assert_eq!(start_methods::depth(), 0);
///     let child = start_methods::start(StartMethod::Spawn, &Boot::new(own_depth))?;
///     assert_eq!(child.wait()?.status().and_then(|status| status.code()), Some(1));
///     Ok(())
/// }
/// ```
#[must_use]
pub fn depth() -> u32 {
    DEPTH.load(Ordering::Relaxed)
}

pub(crate) fn set_depth(depth: u32) {
    DEPTH.store(depth, Ordering::Relaxed);
}

/// The description of a new process: the entry that it runs, its arguments and its settings.
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
/// [`env`](Self::env), [`env_remove`](Self::env_remove) and [`env_clear`](Self::env_clear),
/// [`current_dir`](Self::current_dir) and [`rlimit`](Self::rlimit) change the settings of the new process. Without them
/// the settings depend on the start method: a forked or spawned child has the environment, directory and limits of this
/// process at the time of the start; a child of a fork server, or of a template, has those of the server at the time at
/// which *the server* was started.
///
/// They are in force before the entry runs, and affect neither this process nor a server. If a setting fails, the child
/// reports that in place of its hello, and ends: [`Child::wait_hello`](crate::Child::wait_hello) and
/// [`Child::try_hello`](crate::Child::try_hello) return the error, whatever the start method.
#[derive(Clone)]
pub struct Boot<'a> {
    entry: Entry,
    name: &'a str,
    payload: &'a [u8],
    fds: &'a [BorrowedFd<'a>],
    settings: Settings,
}

impl<'a> Boot<'a> {
    /// A process that runs `entry` and is named "child", without payload, descriptors or settings.
    ///
    /// # Examples
    ///
    /// ```
    /// use start_methods::{Birth, Boot};
    ///
    /// fn run(_: Birth) -> u8 {
    ///     0
    /// }
    ///
    /// let boot = Boot::new(run);
    /// # let _ = boot;
    /// ```
    #[must_use]
    pub fn new(entry: Entry) -> Self {
        Self { entry, name: "child", payload: &[], fds: &[], settings: Settings::default() }
    }

    /// Replaces the entry: a boot can be a template that is cloned for processes that differ in their entry.
    ///
    /// # Examples
    ///
    /// ```
    /// use start_methods::{Birth, Boot};
    ///
    /// # fn worker(_: Birth) -> u8 { 0 }
    /// # fn logger(_: Birth) -> u8 { 0 }
    /// let boot = Boot::new(worker).env("LANG", "C");
    /// let other = boot.clone().entry(logger);
    /// # let _ = (boot, other);
    /// ```
    #[must_use]
    pub fn entry(mut self, entry: Entry) -> Self {
        self.entry = entry;
        self
    }

    /// The process name that `ps` and `top` show. The kernel keeps the first 15 bytes.
    ///
    /// # Examples
    ///
    /// ```
    /// use start_methods::{Birth, Boot, StartMethod};
    ///
    /// fn check_name(_: Birth) -> u8 {
    ///     let name = std::fs::read_to_string("/proc/self/comm").unwrap();
    ///     u8::from(name != "worker\n")
    /// }
    ///
    /// # start_methods::init();
    /// let child = start_methods::start(StartMethod::Spawn, &Boot::new(check_name).name("worker"))?;
    /// assert!(child.wait()?.success());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn name(mut self, name: &'a str) -> Self {
        self.name = name;
        self
    }

    /// Bytes for the entry, at most [`PAYLOAD_MAX`].
    ///
    /// # Examples
    ///
    /// ```
    /// use start_methods::{Birth, Boot, StartMethod};
    ///
    /// fn first_byte(birth: Birth) -> u8 {
    ///     birth.payload[0]
    /// }
    ///
    /// # start_methods::init();
    /// let child = start_methods::start(StartMethod::Spawn, &Boot::new(first_byte).payload(&[42]))?;
    /// assert_eq!(child.wait()?.status().and_then(|status| status.code()), Some(42));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn payload(mut self, payload: &'a [u8]) -> Self {
        self.payload = payload;
        self
    }

    /// Descriptors for the entry, at most [`BOOT_FDS_MAX`]. The child gets duplicates; the parent keeps its own.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::io::Read;
    /// use std::os::fd::AsFd;
    ///
    /// use start_methods::{Birth, Boot, StartMethod};
    ///
    /// fn write(birth: Birth) -> u8 {
    ///     nix::unistd::write(&birth.fds[0], b"hello").map_or(1, |_| 0)
    /// }
    ///
    /// # start_methods::init();
    /// let (mut reader, writer) = std::io::pipe()?;
    /// let child = start_methods::start(StartMethod::Spawn, &Boot::new(write).fds(&[writer.as_fd()]))?;
    /// drop(writer);
    /// let mut text = String::new();
    /// reader.read_to_string(&mut text)?;
    /// assert_eq!(text, "hello");
    /// # child.wait()?;
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn fds(mut self, fds: &'a [BorrowedFd<'a>]) -> Self {
        self.fds = fds;
        self
    }

    /// Whether `other` gives a child the same environment, directory and limits.
    ///
    /// Entries, names, payloads and descriptors are not compared.
    ///
    /// # Examples
    ///
    /// ```
    /// use start_methods::{Birth, Boot};
    ///
    /// # fn worker(_: Birth) -> u8 { 0 }
    /// # fn logger(_: Birth) -> u8 { 0 }
    /// let boot = Boot::new(worker).env("LANG", "C");
    /// assert!(boot.has_settings_of(&Boot::new(logger).env("LANG", "C")));
    /// assert!(!boot.has_settings_of(&Boot::new(worker)));
    /// ```
    #[must_use]
    pub fn has_settings_of(&self, other: &Boot<'_>) -> bool {
        self.settings == other.settings
    }

    /// Sets a variable of the child's environment.
    ///
    /// With spawn, the program is executed with the variable, so that the dynamic linker and other code that runs
    /// before `main` see it too. With fork and forkserver, it is set before the entry runs, while the child has one
    /// thread; what the parent or the server has already read from its environment (its allocator, the C library) is
    /// not read again.
    ///
    /// A name that is empty or contains `=`, or a zero byte in either, makes the start fail with
    /// [`StartError::Environment`].
    ///
    /// # Examples
    ///
    /// ```
    /// use start_methods::{Birth, Boot, StartMethod};
    ///
    /// fn check(_: Birth) -> u8 {
    ///     let language = std::env::var("LANG").unwrap();
    ///     u8::from(language != "C" || std::env::var_os("HOME").is_some())
    /// }
    ///
    /// fn main() -> Result<(), Box<dyn std::error::Error>> {
    ///     start_methods::init();
    ///     let boot = Boot::new(check).env("LANG", "C").env_remove("HOME");
    ///     assert!(start_methods::start(StartMethod::Spawn, &boot)?.wait()?.success());
    ///     Ok(())
    /// }
    /// ```
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.settings.environment.set(name.as_ref(), value.as_ref());
        self
    }

    /// Removes a variable from the child's environment, inherited or [set](Self::env) before.
    ///
    /// See [`env`](Self::env) for errors, and for the code that observes the change.
    ///
    /// # Examples
    ///
    /// ```
    /// use start_methods::{Birth, Boot, StartMethod};
    ///
    /// fn check(_: Birth) -> u8 {
    ///     u8::from(std::env::var_os("PATH").is_some())
    /// }
    ///
    /// # start_methods::init();
    /// let child = start_methods::start(StartMethod::Spawn, &Boot::new(check).env_remove("PATH"))?;
    /// assert!(child.wait()?.success());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn env_remove(mut self, name: impl AsRef<OsStr>) -> Self {
        self.settings.environment.remove(name.as_ref());
        self
    }

    /// Empties the child's environment: it has only variables that are [set](Self::env) after this call.
    ///
    /// Discards inherited variables and those set before.
    ///
    /// # Examples
    ///
    /// ```standalone_crate
    /// use start_methods::{Birth, Boot, StartMethod};
    ///
    /// fn count_variables(_: Birth) -> u8 {
    ///     std::env::vars_os().count() as u8
    /// }
    ///
    /// # start_methods::init();
    /// let boot = Boot::new(count_variables).env("LOST", "1").env_clear().env("LANG", "C");
    /// let child = start_methods::start(StartMethod::Spawn, &boot)?;
    /// assert_eq!(child.wait()?.status().and_then(|status| status.code()), Some(1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn env_clear(mut self) -> Self {
        self.settings.environment.clear();
        self
    }

    /// The child's working directory.
    ///
    /// A relative path is resolved at once, against the directory of this process. With spawn, the program is executed
    /// in the directory of this process, and changes to the new one in [`init`](crate::init).
    ///
    /// If the child cannot enter the directory, it reports [`StartError::Directory`] in place of its hello.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::path::Path;
    ///
    /// use start_methods::{Birth, Boot, StartMethod};
    ///
    /// fn check(_: Birth) -> u8 {
    ///     u8::from(std::env::current_dir().unwrap() != Path::new("/"))
    /// }
    ///
    /// # start_methods::init();
    /// let child = start_methods::start(StartMethod::Spawn, &Boot::new(check).current_dir("/"))?;
    /// assert!(child.wait()?.success());
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    #[must_use]
    pub fn current_dir(mut self, path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        // Fails for an empty path, and if the directory of this process was removed. Then `prepare` reports the error.
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        self.settings.directory = Some(path.into_os_string());
        self
    }

    /// Limits the child's use of `resource` to `soft`; `hard` is the maximum to which it may raise that itself.
    ///
    /// With `None`, the hard limit stays as it is. [`Resource::UNLIMITED`] means no limit. Processes that the child
    /// starts inherit its limits, but are counted separately.
    ///
    /// If the child may not set a limit, it reports [`StartError::Limit`] in place of its hello: a soft limit above the
    /// hard one, or a hard limit above the present one, which needs a privilege.
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

    /// The changes to the child's environment.
    pub(crate) fn environment(&self) -> &Environment {
        &self.settings.environment
    }

    /// Encodes the boot message, after all checks that the parent can make.
    pub(crate) fn prepare(&self, method: StartMethod) -> Result<PreparedBoot<'a>, StartError> {
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
            // The program is executed with its environment.
            settings.environment = Environment::default();
        }
        let bytes = message::encode(&BootMessage {
            pointer_width: usize::BITS,
            build_id: image::build_id(),
            entry,
            method,
            name: truncate(self.name, 15).to_owned(),
            depth,
            settings,
            payload: self.payload.to_vec(),
        });
        Ok(PreparedBoot { bytes, fds: self.fds })
    }

    /// The checks of the settings that the parent can make.
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

/// The longest path that the kernel accepts.
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

/// An encoded boot message, ready to be sent.
pub(crate) struct PreparedBoot<'a> {
    bytes: Vec<u8>,
    fds: &'a [BorrowedFd<'a>],
}

impl PreparedBoot<'_> {
    /// Sends it. Does not block: the socket is new and has room.
    ///
    /// A child that has ended already is not an error here: [`Child::try_hello`](crate::Child::try_hello) reports what
    /// it sent and how it ended.
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

/// The longest prefix of `text` with at most `bytes_max` bytes.
fn truncate(text: &str, bytes_max: usize) -> &str {
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
        assert_eq!(truncate("worker", 15), "worker");
        assert_eq!(truncate("a-rather-long-name", 15), "a-rather-long-n");
        assert_eq!(truncate("ééééééééé", 15), "ééééééé");
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

        let prepared = largest(value_len).prepare(StartMethod::Fork).unwrap();

        assert!(prepared.bytes.len() > PAYLOAD_MAX + value_len && prepared.bytes.len() <= message::MESSAGE_MAX);
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
