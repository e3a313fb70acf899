//! Files and sockets inside values.

use std::fmt;
use std::ops::Deref;
use std::ops::DerefMut;
use std::os::fd::AsFd;
use std::os::fd::BorrowedFd;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use serde::Deserialize;
use serde::Deserializer;
use serde::Serialize;
use serde::Serializer;
use serde::de::Error as _;
use serde::ser::Error as _;
use start_methods::PrivateFd;

use crate::values::attach;

/// A file, a socket, or anything else with a descriptor, that travels inside any value.
///
/// The other process gets a descriptor of the same open file: offset, locks and options are shared, as after dup(2) and
/// fork(2). It may stand anywhere inside an argument, a result, a [context](crate::Pool::with) or an argument of an
/// [initializer](crate::PoolBuilder::initializer), at any depth, at most 253 in one value. `F` is any type that can be
/// borrowed as a descriptor and made from one: [`File`](std::fs::File), [`OwnedFd`], `TcpListener`, `TcpStream`,
/// `UdpSocket`, `UnixStream`, `UnixListener`, `PipeReader`, `PipeWriter`, pidfds, eventfds.
///
/// For a field of a type of your own that should stay a plain `File`, there is [`fd`](crate::fd).
///
/// # Lifetimes
///
/// Sending duplicates the descriptor; this one stays open until it is dropped. What the pool has is closed
///
/// - for an argument: when its item is answered, or has failed for good; what the task got, when the task drops it;
/// - for a context: when the call is over, and each worker has gone on to its next order;
/// - for an argument of the initializer: with the pool, because later workers need it too;
/// - for a result: with its [`AsyncResult`](crate::AsyncResult), from which it can be read again; at once after
///   [`into_value`](crate::AsyncResult::into_value), and for calls that return the value themselves.
///
/// So drop your own end of a pipe before you wait for the other end to report the end.
///
/// # Errors
///
/// To encode one outside a value that the pool sends, or to decode it elsewhere, is an error of the serializer. Without a
/// free descriptor in either process, the value does not travel: [`TaskError::Encode`](crate::TaskError::Encode) or
/// [`TaskError::Decode`](crate::TaskError::Decode), of this item only.
///
/// Named `multiprocessing.reduction.DupFd` in CPython, whose sockets and connections are pickled by it.
///
/// # Examples
///
/// One listening socket for all workers:
///
/// ```
/// use std::io::{Read, Write};
/// use std::net::{TcpListener, TcpStream};
///
/// use procpool::{Fd, Pool};
///
/// fn serve_one(listener: &Fd<TcpListener>, greeting: String) -> anyhow::Result<()> {
///     let (mut client, _) = listener.accept()?;
///     Ok(client.write_all(greeting.as_bytes())?)
/// }
///
/// fn main() -> anyhow::Result<()> {
///     procpool::init();
///     let pool = Pool::new(2)?;
///     let listener = TcpListener::bind("127.0.0.1:0")?;
///     let address = listener.local_addr()?;
///     let served = pool.with(&Fd::new(listener)).apply_async(("hello".to_owned(),), serve_one);
///     let mut text = String::new();
///     TcpStream::connect(address)?.read_to_string(&mut text)?;
///     assert_eq!(text, "hello");
///     served.get()?;
///     Ok(())
/// }
/// ```
#[doc(alias = "DupFd")]
pub struct Fd<F>(F);

impl<F> Fd<F> {
    /// Makes `file` one that travels.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::fs::File;
    ///
    /// use procpool::Fd;
    ///
    /// let null = Fd::new(File::open("/dev/null")?);
    /// assert_eq!(null.metadata()?.len(), 0);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn new(file: F) -> Self {
        Self(file)
    }

    /// The file itself.
    ///
    /// # Examples
    ///
    /// ```
    /// use std::fs::File;
    ///
    /// use procpool::Fd;
    ///
    /// let null: File = Fd::new(File::open("/dev/null")?).into_inner();
    /// # drop(null);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn into_inner(self) -> F {
        self.0
    }
}

impl<F> From<F> for Fd<F> {
    fn from(file: F) -> Self {
        Self(file)
    }
}

impl<F> Deref for Fd<F> {
    type Target = F;

    fn deref(&self) -> &F {
        &self.0
    }
}

impl<F> DerefMut for Fd<F> {
    fn deref_mut(&mut self) -> &mut F {
        &mut self.0
    }
}

impl<F: AsFd> AsFd for Fd<F> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

impl<F: fmt::Debug> fmt::Debug for Fd<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Fd").field(&self.0).finish()
    }
}

impl<F: AsFd> Serialize for Fd<F> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serialize(&self.0, serializer)
    }
}

impl<'de, F: From<OwnedFd>> Deserialize<'de> for Fd<F> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserialize(deserializer).map(Self)
    }
}

/// The place of a descriptor in the table of its value.
#[derive(Serialize, Deserialize)]
#[serde(rename = "Fd")]
struct Place(u32);

/// Serializes a file or a socket as one that travels; for `#[serde(with = "procpool::fd")]`.
///
/// # Errors
///
/// See [`Fd`].
///
/// # Examples
///
/// See the [module](crate::fd).
pub fn serialize<F: AsFd, S: Serializer>(file: &F, serializer: S) -> Result<S::Ok, S::Error> {
    let copy = duplicate(file.as_fd()).map_err(|error| S::Error::custom(no_descriptor(&error)))?;
    let place = attach::attach(&copy).map_err(S::Error::custom)?;
    Place(place).serialize(serializer)
}

/// Deserializes a file or a socket that has travelled; for `#[serde(with = "procpool::fd")]`.
///
/// # Errors
///
/// See [`Fd`].
///
/// # Examples
///
/// See the [module](crate::fd).
pub fn deserialize<'de, F: From<OwnedFd>, D: Deserializer<'de>>(deserializer: D) -> Result<F, D::Error> {
    let Place(place) = Place::deserialize(deserializer)?;
    let (fd, _) = attach::arrived(place).map_err(D::Error::custom)?;
    // A copy: the same value may be decoded again.
    let copy = fd.as_fd().try_clone_to_owned().map_err(|error| D::Error::custom(no_descriptor(&error)))?;
    Ok(F::from(copy))
}

/// A copy that no forked worker inherits, and that may be dropped anywhere.
fn duplicate(fd: BorrowedFd<'_>) -> std::io::Result<attach::SharedFd> {
    let mut copy = PrivateFd::adopt(fd.try_clone_to_owned()?)?;
    copy.close_apart();
    Ok(Arc::new(copy))
}

fn no_descriptor(error: &std::io::Error) -> String {
    format!("its descriptor cannot be duplicated: {error}; raise the limit of open files (ulimit -n)")
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;
    use crate::values::codec;
    use crate::values::output::Output;

    #[test]
    fn outside_a_value_that_is_sent_it_says_what_to_do() {
        let null = Fd::new(File::open("/dev/null").unwrap());
        let error = serde_json::to_string(&null).unwrap_err().to_string();
        assert!(error.contains("pass the handle itself"), "{error}");
    }

    #[test]
    fn a_value_that_does_not_serialize_keeps_no_descriptor() {
        let file = Arc::new(File::open("/dev/null").unwrap());
        struct Bad(attach::SharedFd);
        impl Serialize for Bad {
            fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
                attach::attach(&self.0).map_err(S::Error::custom)?;
                Err(S::Error::custom("half way"))
            }
        }
        let shared: attach::SharedFd = Arc::clone(&file) as attach::SharedFd;
        let mut output = Output::default();
        codec::encode(&Bad(Arc::clone(&shared)), &mut output).unwrap_err();
        assert!(!output.carries());
        drop(shared);
        assert_eq!(Arc::strong_count(&file), 1);
    }
}
