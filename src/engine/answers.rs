//! What workers answer, by their road.

use std::time::Instant;

use log::Level;
use nix::errno::Errno;
use start_methods::PrivateFd;

use super::Engine;
use super::Phase;
use super::Ringers;
use super::hear::panic_of;
use crate::engine::watch::Source;
use crate::engine::worker_handle::WorkerHandle;
use crate::error::Failure;
use crate::error::Panic;
use crate::error::PoolError;
use crate::error::Side;
use crate::error::TaskError;
use crate::schedule::WorkerId;
use crate::schedule::load::FinishedFrame;
use crate::schedule::load::ItemOf;
use crate::sys::processor::Place;
use crate::transport::Road;
use crate::transport::Sent;
use crate::transport::frame;
use crate::transport::frame::AnswerKind;
use crate::transport::frame::Body;
use crate::transport::panic_record::PanicRecord;
use crate::transport::ring;
use crate::transport::ring::parent::Arrivals;
use crate::transport::ring::parent::Broken;
use crate::transport::ring::parent::Lookout;
use crate::transport::ring::parent::Run;
use crate::values::blob::Blob;
use crate::values::codec;
use crate::work::batch::JobId;
use crate::work::function::Verdict;
use crate::work::jobs::Settled;

/// Answers taken from one worker's socket before the others are looked at.
const ANSWERS_MAX: usize = 512;
/// Error texts are cut at this length.
const TEXT_MAX: usize = 64 * 1024;

impl Engine {
    /// The road has answers, or room, or both.
    pub(super) fn on_link(&mut self, worker: WorkerId) {
        let Some(member) = self.members.get_mut(&worker) else { return };
        match &member.road {
            Road::Ring(..) => {
                self.on_rings(worker, Instant::now());
                if let Some(member) = self.members.get_mut(&worker)
                    && let Road::Ring(rings, _) = &mut member.road
                    && let Err(Broken(message)) = rings.rung()
                {
                    self.distrust(worker, message);
                }
            }
            Road::Socket(_) => {
                if member.wants_room {
                    self.on_room(worker);
                }
                self.on_socket(worker, ANSWERS_MAX);
                self.kill_if_idle(worker);
            }
        }
        self.schedule.after_settled(Instant::now());
    }

    fn on_room(&mut self, worker: WorkerId) {
        let Some(member) = self.members.get_mut(&worker) else { return };
        match member.flush() {
            Ok(Sent::Taken) => {
                member.wants_room = false;
                self.watch_for_room(worker, false);
                self.schedule.road_has_room(worker, Instant::now());
            }
            sent => self.after_send(worker, sent),
        }
    }

    /// Takes in what busy workers have left in their rings; says when that was, if there was anything.
    pub(crate) fn poll(&mut self) -> Option<Instant> {
        if matches!(self.phase, Phase::Ended(_)) {
            return None;
        }
        let has_news = |member: &WorkerHandle| member.trust.is_trusted() && member.has_news();
        let mut news = std::mem::take(&mut self.news);
        news.extend(self.members.iter().filter(|(_, member)| has_news(member)).map(|(&worker, _)| worker));
        let now = (!news.is_empty()).then(Instant::now);
        for worker in news.drain(..) {
            let now = now.expect("there is news");
            self.on_rings(worker, now);
            self.schedule.after_settled(now);
            self.carry_out();
        }
        self.news = news;
        now
    }

    /// Asks every busy worker to ring when it has an answer.
    pub(crate) fn ask_to_ring(&self) -> Ringers {
        let mut ringers = Ringers::None;
        for rings in self.busy_rings() {
            if !rings.ask_to_ring() {
                return Ringers::Late;
            }
            ringers = Ringers::Some;
        }
        ringers
    }

    /// Adds where answers may come soon: nothing, if the workers need every processor, or this very one.
    pub(crate) fn lookouts(&self, lookouts: &mut Vec<Lookout>) {
        let here = Place::here();
        if self.has_processor_to_spare() {
            lookouts.extend(self.busy_rings().filter(|rings| !rings.is_at(here)).map(ring::parent::Road::lookout));
        }
    }

    fn busy_rings(&self) -> impl Iterator<Item = &ring::parent::Road> {
        let is_over = matches!(self.phase, Phase::Ended(_));
        self.members.values().filter_map(move |member| match &member.road {
            Road::Ring(rings, _) if !is_over && !rings.is_idle() && member.trust.is_trusted() => Some(rings.as_ref()),
            _ => None,
        })
    }

    /// Whether somebody may look for work or for answers without taking a processor from whoever works.
    pub(super) fn has_processor_to_spare(&self) -> bool {
        self.schedule.busy() < self.processors
    }

    /// All that a worker has answered so far; of a dead one, the last.
    pub(super) fn receive_all(&mut self, worker: WorkerId) {
        match self.members.get(&worker).map(|member| &member.road) {
            Some(Road::Ring(..)) => self.on_rings(worker, Instant::now()),
            Some(Road::Socket(_)) => self.on_socket(worker, usize::MAX),
            None => {}
        }
    }

    /// Whether nothing that the worker says counts any more. What a worker answered before it is killed for another
    /// reason counts like any answer.
    fn is_ignored(&self, worker: WorkerId) -> bool {
        matches!(self.phase, Phase::Ended(_))
            || self.members.get(&worker).is_none_or(|member| !member.trust.is_trusted())
    }

    /// The worker left on its road what no worker of ours does.
    pub(super) fn distrust(&mut self, worker: WorkerId, message: impl Into<String>) {
        if let Some(member) = self.members.get_mut(&worker) {
            member.trust.distrust(PoolError::Protocol { message: message.into() });
        }
        self.kill(worker);
    }

    // ---- rings ---------------------------------------------------------------------------------------------------

    fn on_rings(&mut self, worker: WorkerId, now: Instant) {
        let mut arrivals = std::mem::take(&mut self.arrivals);
        if let Err(Broken(message)) = self.receive(worker, &mut arrivals, now) {
            self.distrust(worker, message);
        }
        self.arrivals = arrivals;
    }

    fn receive(&mut self, worker: WorkerId, arrivals: &mut Arrivals, now: Instant) -> Result<(), Broken> {
        if self.is_ignored(worker) {
            return Ok(());
        }
        let Some(Road::Ring(rings, _)) = self.members.get_mut(&worker).map(|member| &mut member.road) else {
            return Ok(());
        };
        rings.receive(arrivals)?;
        let obeyed = rings.obeyed();
        let mut heard = None;
        while !self.is_ignored(worker) {
            let Some(Road::Ring(rings, _)) = self.members.get_mut(&worker).map(|member| &mut member.road) else {
                break;
            };
            let Some(run) = rings.next_run(arrivals)? else { break };
            let item = self.schedule.running(worker).expect("rings and schedule count the same items");
            heard = Some(item.job);
            let items = match run {
                Run::Values { items, bytes } => {
                    self.job(item.job).settle_values(item.index, items, bytes);
                    self.progress(item.job);
                    items
                }
                Run::Answer { kind, bytes } => {
                    self.settle_answer(worker, item, kind, Body::Inline(bytes), None);
                    1
                }
                Run::Attached { kind, number } => {
                    let attached = self.attachment(worker, number);
                    self.settle_answer(worker, item, kind, Body::Attached, attached);
                    1
                }
            };
            // What it says of its speed is better than what could be measured here.
            let finished = self.schedule.settled(worker, items, now);
            if let Some(blob) = finished.and_then(|finished| finished.blob) {
                self.effects.release(blob);
            }
        }
        self.received(worker, arrivals, heard);
        if let Some(Road::Ring(rings, _)) = self.members.get(&worker).map(|member| &member.road)
            && rings.obeyed() != obeyed
        {
            self.schedule.is_prepared(worker, now);
        }
        self.check_rss(worker, now);
        Ok(())
    }

    /// Gives the worker its room back, and learns what it says of its speed.
    fn received(&mut self, worker: WorkerId, arrivals: &Arrivals, heard: Option<JobId>) {
        let Some(member) = self.members.get_mut(&worker) else { return };
        let Road::Ring(rings, _) = &mut member.road else { return };
        rings.taken(arrivals);
        let busy = rings.busy();
        if member.has_notes() {
            let sent = member.flush();
            self.after_send(worker, sent);
        }
        self.kill_if_idle(worker);
        // What filled the rings may have been orders, which nobody answers. Whoever called goes on from there.
        self.schedule.note_room(worker);
        if let Some(job) = heard
            && busy.records > 0
        {
            let records = u32::try_from(busy.records).unwrap_or(u32::MAX);
            self.schedule.measure(job, busy.ns, records);
        }
    }

    /// What the worker has sent beside the rings by this number.
    fn attachment(&mut self, worker: WorkerId, number: u32) -> Option<PrivateFd> {
        // It was sent before the answer was shown, so it is there now.
        self.on_control(worker);
        let member = self.members.get_mut(&worker)?;
        member.take_attachment(number)
    }

    // ---- socket --------------------------------------------------------------------------------------------------

    /// Takes up to `answers_max` answers.
    fn on_socket(&mut self, worker: WorkerId, answers_max: usize) {
        let mut buffer = std::mem::take(&mut self.buffer);
        for _ in 0..answers_max {
            let Some(member) = self.members.get(&worker) else { break };
            let Road::Socket(road) = &member.road else { break };
            if !member.trust.is_trusted() && answers_max == usize::MAX {
                // Whoever else writes to its road must not hold up its burial.
                break;
            }
            match road.recv(&mut buffer) {
                Ok(Some(received)) => self.on_answer(worker, &buffer[..received.len], received.attached),
                Ok(None) => break,
                Err(error) if error.raw_os_error() == Some(Errno::EMFILE as i32) => self.on_loss(worker),
                Err(_) => {
                    // A task has shut it down. The worker ends at its next answer, which it cannot give.
                    self.watch().remove(member.road.fd());
                    self.dismiss(worker);
                    break;
                }
            }
        }
        self.buffer = buffer;
    }

    fn on_answer(&mut self, worker: WorkerId, bytes: &[u8], attached: Option<PrivateFd>) {
        if self.is_ignored(worker) {
            return;
        }
        let answer = match frame::parse_answer(bytes) {
            Ok(answer) => answer,
            // Written there by a task; the answers of its worker come all the same, and are counted.
            Err(error) => return self.on_nonsense(worker, format!("an answer {}", error.0)),
        };
        let Some(member) = self.members.get_mut(&worker) else { return };
        let running = self.schedule.running(worker);
        let (Some(item), true) = (running, answer.sequence == member.answers) else {
            return self.distrust(worker, format!("answer {} out of turn", answer.sequence));
        };
        member.answered();
        if attached.is_some() && answer.body != Body::Attached {
            return self.distrust(worker, "an attachment that was not announced");
        }
        self.settle_answer(worker, item, answer.kind, answer.body, attached);
        self.settled_one(worker);
    }

    /// The worker has answered its next item. Without rings, only the time between answers tells of its speed.
    fn settled_one(&mut self, worker: WorkerId) {
        let finished = self.schedule.settled(worker, 1, Instant::now());
        if let Some(FinishedFrame { job, items, elapsed_ns, blob }) = finished {
            if let Some(blob) = blob {
                self.effects.release(blob);
            }
            self.schedule.measure(job, elapsed_ns, items);
        }
        self.check_rss(worker, Instant::now());
    }

    /// An answer came whose attached bytes found no room in our descriptor table. Only a result, or a very long error
    /// text, is attached; which of them is lost with the message.
    fn on_loss(&mut self, worker: WorkerId) {
        if self.is_ignored(worker) {
            return;
        }
        let Some(item) = self.schedule.running(worker) else {
            return self.distrust(worker, "an answer for nothing");
        };
        if let Some(member) = self.members.get_mut(&worker) {
            member.answered();
        }
        self.settle_error(item.job, item.index, no_descriptor());
        self.settled_one(worker);
    }

    pub(super) fn watch_for_room(&mut self, worker: WorkerId, wants_room: bool) {
        let Some(member) = self.members.get(&worker) else { return };
        if let Err(error) = self.watch().set_wants_room(member.road.fd(), Source::Road(worker), wants_room) {
            self.effects.log(Level::Error, format!("epoll_ctl(EPOLL_CTL_MOD): {error}: a bug in procpool"));
        }
    }

    /// Replaces a worker that has grown too large.
    fn check_rss(&mut self, worker: WorkerId, now: Instant) {
        let Some(rss_max) = self.rss_max else { return };
        let at_leisure = self.schedule.running(worker).is_none();
        let Some(member) = self.members.get_mut(&worker) else { return };
        if member.check_rss(at_leisure, now).is_some_and(|rss| rss > rss_max) {
            self.schedule.dismiss(worker, now);
        }
    }

    // ---- both ----------------------------------------------------------------------------------------------------

    /// One answer, whatever it is; silences a worker that answers as no worker of ours does.
    fn settle_answer(
        &mut self,
        worker: WorkerId,
        item: ItemOf,
        kind: AnswerKind,
        body: Body<'_>,
        attached: Option<PrivateFd>,
    ) {
        let ItemOf { job, index } = item;
        let Some(member) = self.members.get_mut(&worker) else { return };
        let pid = member.child.pid();
        let is_value = kind == AnswerKind::Verdict(Verdict::Value);
        let error = match (body, attached) {
            (Body::Inline(bytes), _) if is_value => {
                self.job(job).settle_value(index, bytes);
                return self.progress(job);
            }
            (Body::Inline(bytes), _) => error_of(kind, bytes, pid),
            (Body::Attached, Some(fd)) if is_value => match Blob::receive(fd, &self.cache) {
                Ok(blob) => {
                    self.job(job).settle(index, Settled::Blob(blob));
                    return self.progress(job);
                }
                Err(error) => self.distrust_for_answer(worker, error.to_string()),
            },
            (Body::Attached, Some(fd)) => {
                match Blob::receive(fd, &self.cache).and_then(|blob| blob.read_start(TEXT_MAX)) {
                    Ok(text) => error_of(kind, &text, pid),
                    Err(error) => self.distrust_for_answer(worker, error.to_string()),
                }
            }
            (Body::Attached, None) if member.take_loss() => no_descriptor(),
            (Body::Attached, None) => {
                self.distrust_for_answer(worker, "an answer whose attachment is missing".to_owned())
            }
        };
        self.settle_error(job, index, error);
    }

    /// Silences a worker for an answer that cannot be read; what the item's caller is told.
    fn distrust_for_answer(&mut self, worker: WorkerId, message: String) -> TaskError {
        self.distrust(worker, message.clone());
        TaskError::Decode { side: Side::Result, message }
    }
}

fn no_descriptor() -> TaskError {
    let message = "its bytes found no free descriptor in this process; raise the limit of open files".to_owned();
    TaskError::Decode { side: Side::Result, message }
}

fn error_of(kind: AnswerKind, bytes: &[u8], pid: u32) -> TaskError {
    let message = || String::from_utf8_lossy(bytes).into_owned();
    match kind {
        AnswerKind::Verdict(Verdict::Value) => unreachable!("a value is no error"),
        AnswerKind::Verdict(Verdict::Failed) => TaskError::Failed(Failure { message: message(), pid }),
        AnswerKind::Verdict(Verdict::NotDecoded(side)) => TaskError::Decode { side, message: message() },
        AnswerKind::Verdict(Verdict::NotEncoded) => TaskError::Encode { side: Side::Result, message: message() },
        AnswerKind::FunctionNotFound => TaskError::FunctionNotFound { message: message() },
        AnswerKind::Panicked => TaskError::Panicked(match codec::parse_serialized::<PanicRecord>(bytes) {
            Ok(record) => panic_of(record, pid),
            Err(error) => {
                let message = format!("the report of this panic is not readable: {error}");
                Panic { message, location: None, thread: None, backtrace: None, pid }
            }
        }),
    }
}
