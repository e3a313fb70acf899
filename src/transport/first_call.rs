//! The call with which a new process begins: the initializer of a worker, or the function of a process.
//!
//! Small arguments are in the boot message. Others follow as the first message on the control socket: behind a head, their
//! bytes or the file that has them, and what they carry.

use std::fmt;
use std::io;
use std::io::IoSlice;

use serde::Deserialize;
use serde::Serialize;
use start_methods::Offered;
use start_methods::Received;
use start_methods::Socket;

use crate::transport::frame::FRAME_MAX;
use crate::values::attach::Carried;
use crate::values::blob::BlobCache;
use crate::values::codec;
use crate::values::output::Output;
use crate::values::parcel;
use crate::values::parcel::BodyPlace;
use crate::values::parcel::Parcel;
use crate::values::parcel::ParcelBytes;
use crate::values::parcel::ReceivedFds;
use crate::work::function::Definition;
use crate::work::function::LocalFunction;

/// Arguments of more bytes than this are not in the boot message.
const BOOT_ARGS_MAX: u64 = 16 * 1024;

/// A call, encoded.
#[derive(Clone, Debug)]
pub(crate) struct FirstCall {
    definition: Definition,
    args: Arguments,
}

#[derive(Clone, Debug)]
enum Arguments {
    InBoot(Vec<u8>),
    Behind(Parcel),
}

/// Why a call cannot be sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unsendable {
    Function(String),
    Arguments(String),
}

impl fmt::Display for Unsendable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unsendable::Function(message) => f.write_str(message),
            Unsendable::Arguments(message) => write!(f, "its arguments do not serialize: {message}"),
        }
    }
}

impl FirstCall {
    /// The call of this function with these arguments, a tuple.
    ///
    /// # Errors
    ///
    /// See [`Unsendable`].
    pub(crate) fn new<T: Serialize + 'static>(function: LocalFunction, args: &T) -> Result<Self, Unsendable> {
        let definition = function.definition().map_err(Unsendable::Function)?;
        let mut output = Output::default();
        codec::encode(args, &mut output).map_err(Unsendable::Arguments)?;
        let args = match output.len() {
            0..=BOOT_ARGS_MAX if !output.carries() => Arguments::InBoot(output.into_bytes()),
            _ => Arguments::Behind(output.take_parcel().map_err(Unsendable::Arguments)?),
        };
        Ok(Self { definition, args })
    }

    /// What the boot message says of it.
    pub(crate) fn in_boot(&self) -> BootCall {
        let args = match &self.args {
            Arguments::InBoot(bytes) => Some(bytes.clone()),
            Arguments::Behind(_) => None,
        };
        BootCall { definition: self.definition.clone(), args }
    }

    /// Sends what the boot message does not say, to a process that has been started. Does not wait.
    ///
    /// # Errors
    ///
    /// No file can be made, or (`ETOOMANYREFS`) too many descriptors are on their way.
    pub(crate) fn send_rest(&self, control: &Socket) -> io::Result<()> {
        let Arguments::Behind(args) = &self.args else { return Ok(()) };
        let fds = args.fds()?;
        let fds = fds.borrowed();
        let head = [args.place().code(), u8::try_from(fds.len()).expect("a message carries few descriptors")];
        match control.offer(&[IoSlice::new(&head), IoSlice::new(args.frame_bytes())], &fds) {
            Ok(Offered::Taken) => Ok(()),
            Ok(Offered::Full) => Err(io::Error::from_raw_os_error(libc::EAGAIN)),
            Ok(Offered::TooManyInFlight) => Err(io::Error::from_raw_os_error(libc::ETOOMANYREFS)),
            // It has ended, as its pidfd will tell.
            Err(error) if matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Whether it does the same in another process.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        self.definition == other.definition && self.args.is_like(&other.args)
    }
}

#[cfg(feature = "threads")]
impl FirstCall {
    /// The function.
    pub(crate) fn definition(&self) -> &Definition {
        &self.definition
    }

    /// Calls `f` with the encoded arguments.
    ///
    /// # Errors
    ///
    /// The file that has them cannot be read.
    pub(crate) fn with_args<R>(&self, f: impl FnOnce(&[u8]) -> R) -> io::Result<R> {
        match &self.args {
            Arguments::InBoot(args) => Ok(f(args)),
            Arguments::Behind(parcel) => Ok(f(&parcel.read()?)),
        }
    }
}

impl Arguments {
    fn is_like(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::InBoot(ours), Self::InBoot(theirs)) => ours == theirs,
            // Arguments that carry descriptors, or cannot be read, are like no others.
            (Self::Behind(ours), Self::Behind(theirs)) if ours.carried().is_empty() && theirs.carried().is_empty() => {
                match (ours.read(), theirs.read()) {
                    (Ok(ours), Ok(theirs)) => *ours == *theirs,
                    _ => false,
                }
            }
            _ => false,
        }
    }
}

/// A call as the boot message has it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct BootCall {
    pub(crate) definition: Definition,
    /// `None`: in the first message on the control socket.
    pub(crate) args: Option<Vec<u8>>,
}

impl BootCall {
    /// In the new process: the arguments, and what they carry.
    ///
    /// # Errors
    ///
    /// They did not arrive, or cannot be read.
    pub(crate) fn receive_args(&mut self, control: &Socket) -> Result<(ParcelBytes, Carried), String> {
        match self.args.take() {
            Some(bytes) => Ok((ParcelBytes::Inline(bytes.into()), Carried::default())),
            None => receive(control),
        }
    }
}

fn receive(control: &Socket) -> Result<(ParcelBytes, Carried), String> {
    let (mut bytes, mut fds) = (vec![0; FRAME_MAX], Vec::new());
    let received = control.recv_or_drop_fds(&mut bytes, &mut fds).map_err(|error| error.to_string())?;
    let Received::Message(len) = received else { return Err("the parent is gone".to_owned()) };
    let Some(([place, count], bytes)) = bytes[..len].split_first_chunk() else {
        return Err("the message of the arguments is too short".to_owned());
    };
    let place = BodyPlace::from_code(*place).ok_or("the message of the arguments does not say where they are")?;
    if fds.len() != usize::from(*count) {
        return Err(parcel::MISSING.to_owned());
    }
    if fds.is_empty() {
        return Ok((ParcelBytes::Inline(bytes.into()), Carried::default()));
    }
    parcel::open_received(bytes, ReceivedFds::split(fds, place), &BlobCache::of_worker())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::work::shape::Map;
    use crate::work::task::Plain;

    #[test]
    fn arguments_of_every_length_arrive() {
        for len in [0, 1, 16 << 10, 17 << 10, 60 << 10, 61 << 10, 1 << 20] {
            let (ours, theirs) = Socket::pair().unwrap();
            let text = "x".repeat(len);
            let call = FirstCall::new(LocalFunction::task::<Map<String, u8>, Plain>(|_| 0), &text).unwrap();
            call.send_rest(&ours).unwrap();
            let (bytes, carried) = call.in_boot().receive_args(&theirs).unwrap();
            assert!(codec::decode::<String>(&bytes).unwrap() == text && carried.is_empty(), "{len} bytes");
        }
    }

    #[test]
    fn noise_is_an_error() {
        for noise in [&[0][..], &[9, 0], &[0, 1, 7], &[1, 1]] {
            let (ours, theirs) = Socket::pair().unwrap();
            ours.send(&[IoSlice::new(noise)], &[]).unwrap();
            receive(&theirs).unwrap_err();
        }
        let (ours, theirs) = Socket::pair().unwrap();
        drop(ours);
        receive(&theirs).unwrap_err();
    }
}
