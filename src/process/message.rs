//! The messages of a process: its boot message down; its last words and its one outcome up.
//!
//! The outcome is an answer, as a worker's, and the last words are a worker's report. Both go over the control socket, so
//! what was sent before a death is read after it. The parent's bytes are trusted (same build, checked at the hello); those
//! of the process are not.

use std::io;
use std::io::IoSlice;
use std::sync::Arc;

use serde::Deserialize;
use serde::Serialize;
use start_methods::PrivateFd;
use start_methods::Socket;

use super::error::ProcessError;
use crate::error::Panic;
use crate::sys::identity::Born;
use crate::transport::answer;
use crate::transport::control;
use crate::transport::control::Report;
use crate::transport::first_call::BootCall;
use crate::transport::frame;
use crate::transport::frame::Answer;
use crate::transport::frame::AnswerKind;
use crate::transport::frame::Body;
use crate::transport::frame::Head;
use crate::transport::frame::Placement;
use crate::values::attach::Carried;
use crate::values::blob::BlobCache;
use crate::values::output::Output;
use crate::values::output::no_room;
use crate::values::parcel::Arrived;
use crate::values::parcel::BodyPlace;
use crate::values::parcel::Parcel;
use crate::values::parcel::ReceivedFds;
use crate::work::function::Completion;

/// The payload of the boot message.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Setup {
    pub(super) call: BootCall,
    pub(super) born: Born,
}

/// The result of a process: its value, which is decoded by each that asks for it.
pub(super) type Settled = Result<Parcel, ProcessError>;

/// What a process has sent.
#[derive(Debug)]
pub(super) enum Message {
    Outcome(Settled),
    /// It is about to abort because of this panic.
    LastWords(Panic),
}

/// The outcome of a process, before it is sent.
#[derive(Debug)]
pub(super) struct Outcome {
    kind: AnswerKind,
    parcel: Parcel,
}

impl Outcome {
    /// The last value of `out`, or the text of an error.
    pub(super) fn new(kind: AnswerKind, out: &mut Output) -> Self {
        out.take_parcel().map_or_else(Self::not_encoded, |parcel| Self { kind, parcel })
    }

    fn not_encoded(text: String) -> Self {
        let kind = AnswerKind::Completion(Completion::NotEncoded);
        Self { kind, parcel: Parcel::inline(text.into_bytes(), Carried::default()) }
    }

    pub(super) fn kind(&self) -> AnswerKind {
        self.kind
    }

    /// The error, if it is one and can be read.
    pub(super) fn error(&self) -> Option<ProcessError> {
        let settled = answer::settle(self.kind, self.parcel.clone(), std::process::id());
        settled.ok()?.err().map(ProcessError::of_answer)
    }

    /// Sends it. Returns the kind of what was sent: another, if no file can be made for the value.
    ///
    /// # Errors
    ///
    /// The parent is gone.
    pub(super) fn send(self, control: &Socket) -> io::Result<AnswerKind> {
        let Self { kind, parcel } = self;
        match parcel.fds() {
            Ok(fds) => {
                let head = Head::answer(kind, 0, Placement::of(&parcel));
                let parts = [IoSlice::new(head.as_bytes()), IoSlice::new(parcel.frame_bytes())];
                control.send(&parts, &fds.borrowed()).map(|()| kind)
            }
            // This one needs no file.
            Err(error) => Self::not_encoded(no_room(&error)).send(control),
        }
    }
}

/// The message in these bytes, of the process `pid`.
///
/// # Errors
///
/// The text says why they are none.
pub(super) fn parse(bytes: &[u8], fds: Vec<PrivateFd>, pid: u32) -> Result<Message, String> {
    if let Ok(Report::LastWords(record)) = control::parse_report(bytes)
        && fds.is_empty()
    {
        return Ok(Message::LastWords(answer::panic_of(record, pid)));
    }
    let Answer { kind, sequence, body } = frame::parse_answer(bytes).map_err(|error| error.0.to_owned())?;
    if sequence != 0 {
        return Err("a second answer".to_owned());
    }
    let parcel = match body {
        Body::Inline(bytes) if fds.is_empty() => Parcel::inline(bytes, Carried::default()),
        Body::Inline(_) => return Err("descriptors beside an answer that says it has none".to_owned()),
        Body::Carrying(bytes) => receive(fds, BodyPlace::Frame)?.into_parcel(bytes)?,
        Body::Attached => receive(fds, BodyPlace::File)?.into_parcel(&[])?,
    };
    let settled = answer::settle(kind, parcel, pid)?;
    Ok(Message::Outcome(settled.map_err(ProcessError::of_answer)))
}

fn receive(fds: Vec<PrivateFd>, place: BodyPlace) -> Result<Arrived, String> {
    let fds = ReceivedFds::split(fds, place).ok_or("an answer without what belongs to it")?;
    let cache: Arc<BlobCache> = BlobCache::of_receiver();
    Arrived::receive(fds, &cache).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use start_methods::Received;

    use super::*;
    use crate::values::attach::Source;
    use crate::values::codec;

    const VALUE: AnswerKind = AnswerKind::Completion(Completion::Value);

    fn passed(kind: AnswerKind, fill: impl FnOnce(&mut Output)) -> Result<Message, String> {
        let (ours, theirs) = Socket::pair().unwrap();
        let mut out = Output::default();
        fill(&mut out);
        assert_eq!(Outcome::new(kind, &mut out).send(&theirs).unwrap(), kind);
        let (mut bytes, mut fds) = (vec![0; frame::FRAME_MAX], Vec::new());
        let Received::Message(len) = ours.recv(&mut bytes, &mut fds).unwrap() else { panic!("it is there") };
        parse(&bytes[..len], fds, 7)
    }

    fn nonsense(bytes: &[u8], fds: Vec<PrivateFd>) -> String {
        parse(bytes, fds, 7).unwrap_err()
    }

    fn some_fd() -> PrivateFd {
        PrivateFd::adopt(File::open("/dev/null").unwrap().into()).unwrap()
    }

    #[test]
    fn values_of_every_length_come_back() {
        for len in [0, 1, 60 << 10, 61 << 10, 1 << 20] {
            let text = "x".repeat(len);
            let message = passed(VALUE, |out| codec::encode(&text, out).unwrap()).unwrap();
            let Message::Outcome(Ok(parcel)) = message else { panic!("{message:?}") };
            assert!(codec::decode_parcel::<String>(&parcel, Source::Other).unwrap() == text, "{len} bytes");
        }
    }

    #[test]
    fn errors_come_back_and_long_texts_are_cut() {
        for len in [1, 1 << 20] {
            let failed = AnswerKind::Completion(Completion::Failed);
            let message = passed(failed, |out| out.append_encoded("x".repeat(len).as_bytes())).unwrap();
            let Message::Outcome(Err(ProcessError::Failed(failure))) = message else { panic!("{message:?}") };
            assert!(failure.pid == 7 && failure.message.starts_with('x') && failure.message.len() <= 64 << 10);
        }
    }

    #[test]
    fn noise_is_no_message() {
        let head = |placement| Head::answer(VALUE, 0, placement).as_bytes().to_vec();
        nonsense(&[], Vec::new());
        nonsense(&[255; 100], Vec::new());
        nonsense(Head::answer(VALUE, 1, Placement::Inline).as_bytes(), Vec::new());
        nonsense(&head(Placement::Inline), vec![some_fd()]);
        nonsense(&head(Placement::Attached), Vec::new());
        nonsense(&head(Placement::Carrying), Vec::new());
        assert!(nonsense(&head(Placement::Attached), vec![some_fd()]).contains("not a file in memory"));
        nonsense(&control::encode(&Report::Ready), Vec::new());
        let report = Report::InitializerFailed { message: "no".to_owned() };
        nonsense(&control::encode(&report), Vec::new());
    }
}
