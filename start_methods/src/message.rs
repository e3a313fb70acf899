//! What is said over a control socket before it is the user's: Boot, Hello, Refused, and the fork
//! server's Ready, Request and Reply.
//!
//! ```text
//!  magic u32 | protocol version u16 | kind u16 | postcard
//! ```
//!
//! All of it little-endian. The decoders are pure functions from bytes to values.
//!
//! # Invariants
//!
//! - The eight bytes of the header mean the same in every version of the protocol, so that two
//!   programs with different versions can at least tell each other so.
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

/// The version spoken here. Different versions do not talk to each other.
pub(crate) const PROTOCOL: u16 = 1;

/// No message is longer.
pub(crate) const MESSAGE_MAX: usize = 96 * 1024;

const MAGIC: u32 = 0x424d_5453;
const HEADER_LEN: usize = 8;

/// A message, which knows its kind.
pub(crate) trait Message: Serialize + for<'de> Deserialize<'de> {
    const KIND: u16;
}

/// From the parent, the first message: what the new process is and does.
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

/// From the child: it is in order, and its entry is about to run.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Hello {
    pub(crate) build_id: Vec<u8>,
}

/// From the child: it will not run, and ends.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refused {
    pub(crate) reason: Refusal,
}

/// Why a process will not run.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// It cannot enter its directory.
    Directory { path: OsString, errno: i32 },
    /// It cannot have a limit.
    Limit { resource: Resource, limit: Limit, errno: i32 },
    /// Anything else, in its own words.
    Other(String),
}

impl From<String> for Refusal {
    fn from(reason: String) -> Self {
        Self::Other(reason)
    }
}

/// From the fork server, after its hello: the preloads have run, or why they have not.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ready {
    pub(crate) outcome: Result<(), String>,
}

/// To the fork server: fork one child, which is born with the one descriptor beside this (its end of the lifeline).
///
/// Requests are numbered from 1.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) id: u64,
}

/// From the fork server, to every request: the child's process id, with three descriptors (the
/// parent's end of its control socket, its pidfd, the read end of its status pipe); or no child.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reply {
    pub(crate) id: u64,
    pub(crate) outcome: Result<u32, ForkFailure>,
}

/// Why the fork server has no child for us.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub(crate) struct ForkFailure {
    pub(crate) stage: Stage,
    pub(crate) errno: i32,
}

/// What the fork server was doing when it failed.
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
            Self::Threads => "counting the threads of the fork server",
            Self::Fork => "fork in the fork server",
            Self::Pidfd => "opening a pidfd in the fork server",
            Self::Reply => "passing descriptors from the fork server",
        }
    }
}

/// Gives every message its kind.
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

/// Why bytes are not the message that was expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DecodeError {
    Foreign,
    OtherVersion(u16),
    OtherKind(u16),
    Garbled,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => f.write_str("a message that is none of ours"),
            Self::OtherVersion(version) => write!(
                f,
                "it speaks version {version} of the protocol and this process version {PROTOCOL}: \
                 both must be built with the same version of start_methods"
            ),
            Self::OtherKind(kind) => write!(f, "a message of the unexpected kind {kind}"),
            Self::Garbled => f.write_str("a garbled message"),
        }
    }
}

/// The bytes of a message.
pub(crate) fn encode<M: Message>(message: &M) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(MAGIC.to_le_bytes());
    bytes.extend(PROTOCOL.to_le_bytes());
    bytes.extend(M::KIND.to_le_bytes());
    postcard::to_extend(message, bytes).expect("our messages have no value that cannot be encoded")
}

/// The message in these bytes.
pub(crate) fn decode<M: Message>(bytes: &[u8]) -> Result<M, DecodeError> {
    match kind_of(bytes)? {
        kind if kind == M::KIND => {}
        kind => return Err(DecodeError::OtherKind(kind)),
    }
    match postcard::take_from_bytes(&bytes[HEADER_LEN..]) {
        Ok((message, [])) => Ok(message),
        Ok(_) | Err(_) => Err(DecodeError::Garbled),
    }
}

/// The kind of message in these bytes, whether or not the rest of it is in order.
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

    /// What must hold for every kind of message.
    fn survives_the_road_and_nothing_less_does<M: Message + PartialEq + fmt::Debug>(message: &M) {
        let bytes = encode(message);

        assert_eq!(decode::<M>(&bytes).as_ref(), Ok(message));
        for len in 0..bytes.len() {
            assert!(decode::<M>(&bytes[..len]).is_err(), "{len} of {} bytes", bytes.len());
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(decode::<M>(&longer), Err(DecodeError::Garbled));
    }

    #[test]
    fn every_message_is_decoded_whole_or_not_at_all() {
        survives_the_road_and_nothing_less_does(&boot());
        survives_the_road_and_nothing_less_does(&Hello { build_id: vec![9; 20] });
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
            survives_the_road_and_nothing_less_does(&Refused { reason });
        }
        survives_the_road_and_nothing_less_does(&Ready { outcome: Err("no table".to_owned()) });
        survives_the_road_and_nothing_less_does(&Request { id: u64::MAX });
        survives_the_road_and_nothing_less_does(&Reply { id: 1, outcome: Ok(4711) });
        let failure = ForkFailure { stage: Stage::Fork, errno: libc::EAGAIN };
        survives_the_road_and_nothing_less_does(&Reply { id: 2, outcome: Err(failure) });
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

    /// A length that promises the whole address space must not be believed.
    #[test]
    fn a_huge_length_is_garbled_and_reserves_nothing() {
        let mut bytes = encode(&Hello { build_id: Vec::new() });
        bytes.truncate(HEADER_LEN);
        bytes.extend([0xff; 9]);
        bytes.push(1);

        assert_eq!(decode::<Hello>(&bytes), Err(DecodeError::Garbled));
    }
}
