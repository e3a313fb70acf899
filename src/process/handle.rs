//! [`Process`]: the handle of a started process.

use std::fmt;
use std::io;
use std::marker::PhantomData;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;
use std::time::Instant;

use start_methods::Exit;

use super::error::ProcessError;
use super::message::Settled;
use super::registry;
use super::running::Running;
use crate::error::Side;
use crate::ipc::wait::Bell;
use crate::ipc::wait::Turn;
use crate::ipc::wait::Waitable;
use crate::values::attach::Source;
use crate::values::codec;
use crate::work::task::Args;
use crate::work::task::Data;
use crate::work::task::Outcome;

/// What becomes of a process whose handle is dropped before it has ended.
///
/// Whatever is chosen, the process ends with the process that started it.
///
/// # Examples
///
/// ```
/// use procpool::process::{self, OnDrop, Process};
///
/// fn main() -> anyhow::Result<()> {
///     procpool::init();
///     let park = || std::thread::park();
///     drop(Process::spawn((), park)?);
///     assert!(process::active().is_empty(), "by default it is terminated");
///     drop(Process::builder().on_drop(OnDrop::Detach).spawn((), park)?);
///     assert_eq!(process::active().len(), 1);
///     Ok(())
/// }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnDrop {
    /// It is terminated: SIGTERM to its process group, SIGKILL half a second later, and a second at most until it is
    /// reaped. As the workers of a pool that is dropped.
    #[default]
    Terminate,
    /// The drop waits until it has ended, however long that takes. As CPython's processes that are not daemons, for which
    /// the program's end waits.
    Join,
    /// It goes on, and the drop does not wait. It is reaped by the next start or drop of a process, or call of
    /// [`active`](super::active), after its end.
    Detach,
}

/// A process that runs one function.
///
/// It is `Send` and `Sync`; any number of threads may wait for one process. Its descriptor (`AsFd`) becomes readable when
/// the process has ended, for poll(2), epoll(7) or the reactor of an async runtime; [`join`](Self::join) then returns in
/// a moment.
///
/// Dropping it before the process has ended terminates the process, unless [`OnDrop`] says otherwise.
///
/// # Examples
///
/// ```
/// use procpool::process::Process;
///
/// fn count_words(text: String) -> usize {
///     text.split_whitespace().count()
/// }
///
/// fn main() -> anyhow::Result<()> {
///     procpool::init();
///     let process = Process::spawn(("to be or not to be".to_owned(),), count_words)?;
///     println!("{} is process {}", process.name(), process.pid());
///     assert_eq!(process.join()?, 6);
///     assert!(process.exit_status()?.is_some_and(|exit| exit.success()));
///     Ok(())
/// }
/// ```
///
/// A closure that captures something is no function, and the compiler says which variable it captures. What the function
/// needs is an argument:
///
/// ```compile_fail,E0308
/// use procpool::process::Process;
///
/// let greeting = "hello".to_owned();
/// let process = Process::spawn((), || println!("{greeting}"));
/// ```
#[must_use = "dropping it terminates the process"]
pub struct Process<V> {
    running: Arc<Running>,
    on_drop: OnDrop,
    value: PhantomData<fn() -> V>,
}

impl<V: Data> Process<V> {
    /// Starts a process that calls `f` with `args`, a tuple. Does not wait until it has begun.
    ///
    /// `f` is a function, a method, or a closure that captures nothing. What it takes and returns is
    /// [`Data`]; or it returns an `anyhow::Result`. Values may be large, and may carry files, sockets and
    /// [shared slices](crate::SharedSlice). The arguments are encoded and then dropped, so what they hold open is held by
    /// the new process alone.
    ///
    /// Named `Process(target=f, args=args).start()` in CPython.
    ///
    /// # Errors
    ///
    /// Nothing is left behind by any of them:
    ///
    /// - [`ProcessError::Encode`]: the arguments do not serialize.
    /// - [`ProcessError::FunctionNotFound`]: the function is in no loaded image of this program.
    /// - [`ProcessError::Start`]: the process cannot be started: `main` did not call [`init`](crate::init) first, this
    ///   process is the child of a child and so on, a fork is refused because this process has other threads, or the
    ///   system has no room.
    /// - [`ProcessError::System`]: the arguments could not be sent.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::process::Process;
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let process = Process::spawn((2u64, 10), u64::pow)?;
    ///     assert_eq!(process.join()?, 1024);
    ///     Ok(())
    /// }
    /// ```
    pub fn spawn<T, O, M>(args: T, f: T::Fp<O>) -> Result<Self, ProcessError>
    where
        T: Args + Data,
        O: Outcome<M, Value = V>,
        M: 'static,
    {
        Process::builder().spawn(args, f)
    }

    /// Waits until the process has ended, and returns what its function returned.
    ///
    /// It may be called again, and by several threads: the value is decoded anew for each call. What a value carries stays
    /// open until this handle is dropped.
    ///
    /// If the process has returned from its function and does not end, because a destructor of a static waits, say, the
    /// value is returned after five seconds; [`is_alive`](Self::is_alive) tells.
    ///
    /// Named `join` in CPython, where it returns nothing.
    ///
    /// # Errors
    ///
    /// The function failed, panicked, or did not return; see [`ProcessError`]. The error is the same for each call, but for
    /// [`ProcessError::Decode`] because this process has no descriptor for the result: that is not lost, and can be asked
    /// for again.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::process::{Process, ProcessError};
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let third: fn(Vec<u8>) -> u8 = |items| items[2];
    ///     let process = Process::spawn((vec![1, 2],), third)?;
    ///     match process.join() {
    ///         Err(ProcessError::Panicked(panic)) => {
    ///             assert_eq!(panic.message, "index out of bounds: the len is 2 but the index is 2");
    ///         }
    ///         other => panic!("{other:?}"),
    ///     }
    ///     Ok(())
    /// }
    /// ```
    pub fn join(&self) -> Result<V, ProcessError> {
        loop {
            if let Some(settled) = self.running.wait(None)? {
                return Self::read(&settled);
            }
        }
    }

    /// As [`join`](Self::join), for at most `timeout`; `None` if the process has not ended by then.
    ///
    /// With a timeout of zero it does not wait. Named `join(timeout)` in CPython.
    ///
    /// # Errors
    ///
    /// As for [`join`](Self::join).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::time::Duration;
    ///
    /// use procpool::process::Process;
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let process = Process::spawn((Duration::from_secs(1000),), std::thread::sleep)?;
    ///     assert!(process.join_timeout(Duration::from_millis(20))?.is_none());
    ///     Ok(())
    /// }
    /// ```
    pub fn join_timeout(&self, timeout: Duration) -> Result<Option<V>, ProcessError> {
        // A timeout beyond the clock's range means no timeout.
        let settled = self.running.wait(Instant::now().checked_add(timeout))?;
        settled.as_deref().map(Self::read).transpose()
    }

    fn read(settled: &Settled) -> Result<V, ProcessError> {
        let parcel = settled.as_ref().map_err(Clone::clone)?;
        let value = codec::decode_parcel(parcel, Source::Other);
        value.map_err(|message| ProcessError::Decode { side: Side::Result, message })
    }
}

impl<V> Process<V> {
    pub(super) fn new(running: Arc<Running>, on_drop: OnDrop) -> Self {
        Self { running, on_drop, value: PhantomData }
    }

    /// Its process id, for messages. To address the process use the methods of this handle: the system gives the id to
    /// another process some time after the end of this one.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::process::Process;
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let process = Process::spawn((), std::process::id)?;
    ///     assert_eq!(process.join()?, process.pid());
    ///     Ok(())
    /// }
    /// ```
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.running.child().pid()
    }

    /// Its name: the one that was chosen, or `Process-1` and so on; see [`current`](super::current).
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::process::Process;
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let first = Process::spawn((), || ())?;
    ///     let second = Process::builder().name("logger").spawn((), || ())?;
    ///     assert_eq!((first.name(), second.name()), ("Process-1", "logger"));
    ///     Ok(())
    /// }
    /// ```
    #[must_use]
    pub fn name(&self) -> &str {
        self.running.name()
    }

    /// Whether the process has not ended. Does not wait.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::process::Process;
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let process = Process::spawn((), || std::thread::park())?;
    ///     assert!(process.is_alive());
    ///     process.kill()?;
    ///     process.join().unwrap_err();
    ///     assert!(!process.is_alive());
    ///     Ok(())
    /// }
    /// ```
    #[must_use]
    pub fn is_alive(&self) -> bool {
        self.running.is_here() && !self.running.has_ended()
    }

    /// How the process ended; `None` while it runs. Does not wait.
    ///
    /// Named `exitcode` in CPython.
    ///
    /// # Errors
    ///
    /// This is a forked copy of the process that started it. When waitid(2) fails (never observed).
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::process::Process;
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let process = Process::spawn((3,), |code: i32| -> () { std::process::exit(code) })?;
    ///     process.join().unwrap_err();
    ///     let exit = process.exit_status()?.expect("it has ended");
    ///     assert_eq!(exit.status().and_then(|status| status.code()), Some(3));
    ///     Ok(())
    /// }
    /// ```
    #[doc(alias = "exitcode")]
    pub fn exit_status(&self) -> io::Result<Option<Exit>> {
        self.check_here()?;
        self.running.child().try_wait()
    }

    /// Sends SIGTERM to the process group that the process leads: to it, and to the programs that it has started. Does
    /// not wait, and does nothing if the process has ended.
    ///
    /// The signal ends a process that does not handle it, and [`join`](Self::join) returns [`ProcessError::Died`]. Named
    /// `terminate` in CPython, where it goes to the process alone.
    ///
    /// # Errors
    ///
    /// This is a forked copy of the process that started it. EPERM if the process has changed its user.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::process::{Process, ProcessError};
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let process = Process::spawn((), || std::thread::park())?;
    ///     process.terminate()?;
    ///     let error = process.join().unwrap_err();
    ///     assert!(error.to_string().contains("SIGTERM"));
    ///     Ok(())
    /// }
    /// ```
    pub fn terminate(&self) -> io::Result<()> {
        self.check_here()?;
        self.running.terminate()
    }

    /// As [`terminate`](Self::terminate), with SIGINT, as Ctrl-C in a terminal sends it.
    ///
    /// A process that has just been started is waited for until it can be interrupted: a few milliseconds.
    ///
    /// # Errors
    ///
    /// As for [`terminate`](Self::terminate).
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::process::Process;
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let process = Process::spawn((), || std::thread::park())?;
    ///     process.interrupt()?;
    ///     assert!(process.join().unwrap_err().to_string().contains("SIGINT"));
    ///     Ok(())
    /// }
    /// ```
    pub fn interrupt(&self) -> io::Result<()> {
        self.check_here()?;
        self.running.interrupt()
    }

    /// Kills the process and its process group: SIGKILL. Does not wait, and does nothing if the process has ended.
    ///
    /// It always works, also on a process that has changed its user.
    ///
    /// # Errors
    ///
    /// This is a forked copy of the process that started it.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::process::Process;
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let process = Process::spawn((), || std::thread::park())?;
    ///     process.kill()?;
    ///     assert!(process.join().unwrap_err().to_string().contains("SIGKILL"));
    ///     Ok(())
    /// }
    /// ```
    pub fn kill(&self) -> io::Result<()> {
        self.check_here()?;
        self.running.child().kill()
    }

    /// Kills the process and all its descendants, whatever groups and sessions they have created. Does not wait.
    ///
    /// Out of reach are daemons: processes whose own parent had ended before. Not in CPython; loky's `kill_process_tree`.
    ///
    /// # Errors
    ///
    /// As for [`kill`](Self::kill).
    ///
    /// # Examples
    ///
    /// ```
    /// use std::process::Command;
    ///
    /// use procpool::process::Process;
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     let run: fn() -> anyhow::Result<bool> = || Ok(Command::new("setsid").args(["sleep", "1000"]).status()?.success());
    ///     let process = Process::spawn((), run)?;
    ///     process.kill_tree()?;
    ///     process.join().unwrap_err();
    ///     Ok(())
    /// }
    /// ```
    pub fn kill_tree(&self) -> io::Result<()> {
        self.check_here()?;
        self.running.child().kill_tree()
    }

    /// Lets the process go on without this handle, until it ends or this process does; see [`OnDrop::Detach`].
    ///
    /// Its result is lost. Its errors are on standard error.
    ///
    /// # Examples
    ///
    /// ```
    /// use procpool::process::{self, Process};
    ///
    /// fn main() -> anyhow::Result<()> {
    ///     procpool::init();
    ///     Process::spawn((), || std::thread::park())?.detach();
    ///     assert_eq!(process::active().len(), 1);
    ///     Ok(()) // Here it ends.
    /// }
    /// ```
    pub fn detach(mut self) {
        self.on_drop = OnDrop::Detach;
    }

    /// A descriptor of this process is another one, or none, in a forked copy.
    fn check_here(&self) -> io::Result<()> {
        if self.running.is_here() { Ok(()) } else { Err(io::Error::other(ProcessError::ForkedCopy)) }
    }
}

/// A pidfd: readable once the process has ended. In a forked copy of the process that started it, another descriptor may
/// have its number.
impl<V> AsFd for Process<V> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.running.as_fd()
    }
}

/// Its turn has come when it has ended.
impl<V> Waitable for Process<V> {
    fn turn<'a>(&'a self, _: &Bell) -> io::Result<Turn<'a>> {
        self.check_here()?;
        Ok(Turn::WhenReadable(self.as_fd()))
    }
}

impl<V> Drop for Process<V> {
    fn drop(&mut self) {
        if !self.running.is_here() {
            return;
        }
        match self.on_drop {
            OnDrop::Terminate => self.running.end(),
            OnDrop::Join => self.running.wait_for_end(),
            OnDrop::Detach => return registry::detach(Arc::clone(&self.running)),
        }
        registry::sweep();
    }
}

impl<V> fmt::Debug for Process<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = f.debug_struct("Process");
        text.field("name", &self.name()).field("pid", &self.pid());
        match self.exit_status() {
            Ok(Some(exit)) => text.field("exit", &exit).finish(),
            Ok(None) | Err(_) => text.finish_non_exhaustive(),
        }
    }
}

const _: () = {
    const fn is_shareable<T: Send + Sync>() {}
    is_shareable::<Process<std::cell::Cell<u8>>>();
};
