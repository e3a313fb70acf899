//! The messages of a control socket before it is handed to the user: Boot, Hello, Refused, and the fork server's Ready,
//! Request and Reply.
//!
//! ```text
//!  magic u32 | protocol version u16 | kind u16 | postcard
//! ```
//!
//! All integers are little-endian. The decoders are pure functions from bytes to values.
//!
//! # Invariants
//!
//! - The eight bytes of the header mean the same in every version of the protocol, so that two programs with different
//!   versions can at least report that.
//! - No input makes a decoder panic, or reserve more memory than the input is long.

use std::ffi::OsString;
use std::fmt;

use serde::Deserialize;
use serde::Serialize;

use crate::method::StartMethod;
use crate::settings::Limit;
use crate::settings::Resource;
use crate::settings::Settings;
use crate::sys::image::ImageRef;

/// The protocol version of this build. Processes with different versions cannot communicate.
pub(crate) const PROTOCOL: u16 = 1;

/// Maximum length of a message.
pub(crate) const MESSAGE_MAX: usize = 96 * 1024;

const MAGIC: u32 = 0x424d_5453;
const HEADER_LEN: usize = 8;

/// A message type and its kind number.
pub(crate) trait Message: Serialize + for<'de> Deserialize<'de> {
    const KIND: u16;
}

/// Parent to child, the first message: what the new process is and runs.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(crate) struct BootMessage {
    pub(crate) pointer_width: u32,
    pub(crate) build_id: Vec<u8>,
    pub(crate) entry: ImageRef,
    pub(crate) method: StartMethod,
    pub(crate) name: String,
    pub(crate) depth: u32,
    pub(crate) settings: Settings,
    pub(crate) payload: Vec<u8>,
}

/// Child to parent: the process is set up, and its entry is about to run.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) build_id: Vec<u8>,
}

/// Child to parent: the process will not run its entry, and ends.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) reason: Refusal,
}

/// Why a process does not run its entry.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It cannot enter its directory.
    Directory { path: OsString, errno: i32 },
    /// It cannot set a limit.
    Limit { resource: Resource, limit: Limit, errno: i32 },
    /// Any other reason, as text.
    Other(String),
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Self::Other(reason)
    }
}

/// Fork server to parent, after its hello: whether it can fork, and the preloads have run.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ready {
    pub(crate) outcome: Result<(), NotReady>,
}

/// Why a fork server cannot serve.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(crate) enum NotReady {
    /// It has threads that were there before the first preload ran.
    Threads { count: usize, names: Vec<String> },
    /// A preload failed, or left threads.
    Preload(String),
}

/// Parent to fork server: fork one child. Carries one descriptor, the child's end of the lifeline.
///
/// Requests are numbered from 1.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) id: u64,
}

/// Fork server to parent, one for every request: the child's process id, with three descriptors (the parent's end of
/// its control socket, its pidfd, the read end of its status pipe; in place of the pidfd a pipe that hangs up at its end,
/// where there are no pidfds); or why there is no child.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) id: u64,
    pub(crate) outcome: Result<u32, ForkFailure>,
}

/// Why the fork server could not fork a child.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(crate) enum ForkFailure {
    /// A system call failed.
    System { stage: Stage, errno: i32 },
    /// Threads have been started in it since it was ready.
    Threads { count: usize, names: Vec<String> },
}

/// The step at which the fork server failed.
#[derive(Serialize, Deserialize, Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Socket,
    Pipe,
    Request,
    Lifeline,
    Threads,
    Fork,
    Pidfd,
    Reply,
}

impl Stage {
    pub(crate) fn doing(self) -> &'static str {
        match self {
            Self::Socket => "making a control socket in the fork server",
            Self::Pipe => "making a status pipe in the fork server",
            Self::Request => "receiving a lifeline in the fork server",
            Self::Lifeline => "arming a lifeline in the fork server",
            Self::Threads => "counting the threads of the fork server in /proc",
            Self::Fork => "fork in the fork server",
            Self::Pidfd => "opening a pidfd in the fork server",
            Self::Reply => "passing descriptors from the fork server",
        }
    }
}

/// Assigns the kind numbers.
macro_rules! kinds {
    ($($message:ty = $kind:literal,)+) => {
        $(impl Message for $message {
            const KIND: u16 = $kind;
        })+
    };
}

kinds! {
    BootMessage = 1,
    Hello = 2,
    Refused = 3,
    Ready = 4,
    Request = 5,
    Reply = 6,
}

/// Why bytes are not the expected message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DecodeError {
    Foreign,
    OtherVersion(u16),
    OtherKind(u16),
    Malformed,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => f.write_str("not a message of this protocol"),
            Self::OtherVersion(version) => write!(
                f,
                "the sender has version {version} of the protocol and this process version {PROTOCOL}: \
                 both must be built with the same version of start_methods"
            ),
            Self::OtherKind(kind) => write!(f, "a message of the unexpected kind {kind}"),
            Self::Malformed => f.write_str("a malformed message"),
        }
    }
}

/// Encodes a message.
pub(crate) fn encode<M: Message>(message: &M) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(MAGIC.to_le_bytes());
    bytes.extend(PROTOCOL.to_le_bytes());
    bytes.extend(M::KIND.to_le_bytes());
    postcard::to_extend(message, bytes).expect("every value of these message types can be encoded")
}

/// Decodes the message in `bytes`.
pub(crate) fn decode<M: Message>(bytes: &[u8]) -> Result<M, DecodeError> {
    match kind_of(bytes)? {
        kind if kind == M::KIND => {}
        kind => return Err(DecodeError::OtherKind(kind)),
    }
    match postcard::take_from_bytes(&bytes[HEADER_LEN..]) {
        Ok((message, [])) => Ok(message),
        Ok(_) | Err(_) => Err(DecodeError::Malformed),
    }
}

/// The kind of the message in `bytes`. Does not check the rest of it.
pub(crate) fn kind_of(bytes: &[u8]) -> Result<u16, DecodeError> {
    let header: &[u8; HEADER_LEN] = bytes.first_chunk().ok_or(DecodeError::Foreign)?;
    let [m0, m1, m2, m3, v0, v1, k0, k1] = *header;
    if u32::from_le_bytes([m0, m1, m2, m3]) != MAGIC {
        return Err(DecodeError::Foreign);
    }
    match u16::from_le_bytes([v0, v1]) {
        PROTOCOL => Ok(u16::from_le_bytes([k0, k1])),
        version => Err(DecodeError::OtherVersion(version)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        let mut settings = Settings { directory: Some("/".into()), ..Settings::default() };
        settings.environment.clear();
        settings.environment.set("NAME".as_ref(), "value".as_ref());
        settings.environment.remove("OTHER".as_ref());
        settings.limits.insert(Resource::CpuTime, Limit { soft: 1, hard: None });
        settings
    }

    fn boot() -> BootMessage {
        BootMessage {
            pointer_width: usize::BITS,
            build_id: crate::sys::image::build_id(),
            entry: crate::sys::image::locate(boot as *const () as usize).unwrap(),
            method: StartMethod::Spawn,
            name: "worker".to_owned(),
            depth: 1,
            settings: settings(),
            payload: vec![1, 2, 3],
        }
    }

    /// Checks what must hold for every kind of message: only the whole encoding decodes.
    fn round_trips_whole_only<M: Message + PartialEq + fmt::Debug>(message: &M) {
        let bytes = encode(message);

        assert_eq!(decode::<M>(&bytes).as_ref(), Ok(message));
        for len in 0..bytes.len() {
            assert!(decode::<M>(&bytes[..len]).is_err(), "{len} of {} bytes", bytes.len());
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(decode::<M>(&longer), Err(DecodeError::Malformed));
    }

    #[test]
    fn every_message_is_decoded_whole_or_not_at_all() {
        round_trips_whole_only(&boot());
        round_trips_whole_only(&Hello { build_id: vec![9; 20] });
        let refusals = [
            Refusal::Directory { path: "/nowhere".into(), errno: libc::ENOENT },
            Refusal::Limit {
                resource: Resource::OpenFiles,
                limit: Limit { soft: 1, hard: Some(u64::MAX) },
                errno: libc::EPERM,
            },
            Refusal::Other("no".to_owned()),
        ];
        for reason in refusals {
            round_trips_whole_only(&Refused { reason });
        }
        let threads = NotReady::Threads { count: 17, names: vec!["blas".to_owned()] };
        for outcome in [Ok(()), Err(NotReady::Preload("no table".to_owned())), Err(threads)] {
            round_trips_whole_only(&Ready { outcome });
        }
        round_trips_whole_only(&Request { id: u64::MAX });
        round_trips_whole_only(&Reply { id: 1, outcome: Ok(4711) });
        let failures = [
            ForkFailure::System { stage: Stage::Fork, errno: libc::EAGAIN },
            ForkFailure::Threads { count: 1, names: vec!["jemalloc_bg_thd".to_owned()] },
        ];
        for failure in failures {
            round_trips_whole_only(&Reply { id: 2, outcome: Err(failure) });
        }
    }

    #[test]
    fn a_wrong_header_is_named_for_what_it_is() {
        let hello = encode(&Hello { build_id: Vec::new() });
        let with = |index: usize, value: u8| {
            let mut bytes = hello.clone();
            bytes[index] = value;
            decode::<Hello>(&bytes)
        };

        assert_eq!(with(0, 0), Err(DecodeError::Foreign));
        assert_eq!(with(4, 2), Err(DecodeError::OtherVersion(2)));
        assert_eq!(with(6, 3), Err(DecodeError::OtherKind(3)));
    }

    /// A length as large as the address space must not be trusted.
    #[test]
    fn a_huge_length_is_garbled_and_reserves_nothing() {
        let mut bytes = encode(&Hello { build_id: Vec::new() });
        bytes.truncate(HEADER_LEN);
        bytes.extend([0xff; 9]);
        bytes.push(1);

        assert_eq!(decode::<Hello>(&bytes), Err(DecodeError::Malformed));
    }
}
