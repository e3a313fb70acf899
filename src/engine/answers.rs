//! Answers of workers: taken out of their links, and settled.

use std::time::Instant;

use crate::engine::reports::Purpose;
use crate::engine::state::Engine;
use crate::engine::state::Phase;
use crate::engine::timeline::outcome_of;
use crate::engine::worker_handle::Leisure;
use crate::engine::workers::Descriptor;
use crate::error::Origin;
use crate::error::Side;
use crate::error::TaskError;
use crate::schedule::WorkerId;
use crate::schedule::load::ItemId;
use crate::transport::answer;
use crate::transport::answer::NO_DESCRIPTOR;
use crate::transport::arrival::Arrival;
use crate::transport::arrival::LinkError;
use crate::transport::attachments::Received;
use crate::transport::frame::AnswerKind;
use crate::transport::link::Inbox;
use crate::transport::link::Share;
use crate::transport::note::Sent;
use crate::values::parcel::Parcel;
use crate::work::batch::JobId;
use crate::work::function::Completion;
use crate::work::jobs::Settled;

impl Engine {
    /// The link of the worker has answers, or room, or both.
    pub(super) fn on_link(&mut self, worker: WorkerId) {
        let Some(handle) = self.workers.get(worker) else { return };
        if handle.link.waits_for_room() {
            self.on_room(worker);
        }
        self.receive(worker, Share::Fair, Instant::now());
        // After the answers: a worker may ring once for each.
        if let Some(handle) = self.workers.get_mut(worker)
            && let Err(error) = handle.link.rung()
        {
            self.on_link_error(worker, error);
        }
        self.schedule.after_settled(Instant::now());
    }

    /// Sends again what was refused because too many descriptors were on their way.
    pub(super) fn send_again(&mut self, worker: WorkerId) {
        match self.workers.flush(worker) {
            Some(Ok(Sent::Taken)) => self.schedule.clear_link_full(worker),
            Some(sent) => self.after_send(worker, sent),
            None => {}
        }
    }

    fn on_room(&mut self, worker: WorkerId) {
        let Some(sent) = self.workers.flush(worker) else { return };
        match sent {
            Ok(Sent::Taken) => {
                self.workers.has_room_again(worker, &mut self.effects);
                self.schedule.clear_link_full(worker);
            }
            sent => self.after_send(worker, sent),
        }
    }

    /// Takes in the answers that workers have given without telling the kernel; says when that was, if there were any.
    pub(crate) fn poll(&mut self) -> Option<Instant> {
        if matches!(self.phase, Phase::Ended(_)) {
            return None;
        }
        let mut news = std::mem::take(&mut self.news);
        self.workers.with_news(&mut news);
        let now = (!news.is_empty()).then(Instant::now);
        for worker in news.drain(..) {
            let now = now.expect("there is news");
            self.receive(worker, Share::Fair, now);
            self.schedule.after_settled(now);
            self.carry_out();
        }
        self.news = news;
        now
    }

    /// Takes in all that a worker has answered so far. Of a dead one, that is all that it will ever have answered.
    pub(super) fn receive_all(&mut self, worker: WorkerId) {
        self.receive(worker, Share::All, Instant::now());
    }

    fn receive(&mut self, worker: WorkerId, share: Share, now: Instant) {
        if self.workers.is_ignored(worker) {
            return;
        }
        let mut inbox = std::mem::take(&mut self.inbox);
        if let Err(error) = self.receive_into(worker, &mut inbox, share, now) {
            self.on_link_error(worker, error);
        }
        self.inbox = inbox;
    }

    fn receive_into(
        &mut self,
        worker: WorkerId,
        inbox: &mut Inbox,
        share: Share,
        now: Instant,
    ) -> Result<(), LinkError> {
        self.workers.receive(worker, inbox, share)?;
        let Some(handle) = self.workers.get(worker) else { return Ok(()) };
        let executed = handle.link.orders_executed();
        let measures_itself = handle.link.measures_itself();
        let mut answered = None;
        // Asked anew for each arrival: an answer that makes no sense ends the trust in all that follow it.
        while !self.workers.is_ignored(worker) {
            let Some(handle) = self.workers.get_mut(worker) else { break };
            let arrival = match handle.link.next(inbox) {
                Ok(Some(arrival)) => arrival,
                Ok(None) => break,
                // A task wrote it. The answers of its worker come all the same.
                Err(LinkError::Nonsense(message)) => {
                    self.on_nonsense(worker, message);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let Some(item) = self.schedule.running(worker) else {
                return Err(LinkError::Broken("an answer for nothing".to_owned()));
            };
            answered = Some(item.job);
            let (items, outcome) = (arrival.items(), outcome_of(&arrival));
            handle.link.answered(item.job, items);
            handle.items_done += u64::from(items);
            self.record_answers(worker, item, items, outcome);
            self.settle_arrival(worker, item, arrival);
            let Some(finished) = self.schedule.settled(worker, items, now) else { continue };
            if let Some(parcel) = finished.parcel {
                self.keep_memory(now);
                self.effects.release(parcel);
            }
            if !measures_itself {
                if let Some(handle) = self.workers.get_mut(worker) {
                    handle.busy_ns = handle.busy_ns.saturating_add(finished.elapsed_ns);
                }
                self.schedule.measure(finished.job, finished.elapsed_ns, finished.items);
            }
        }
        self.after_receive(worker, inbox, answered);
        if let Some(handle) = self.workers.get(worker)
            && handle.link.orders_executed() != executed
        {
            self.schedule.is_prepared(worker, now);
        }
        self.record_times(worker);
        self.check_rss(worker, now);
        Ok(())
    }

    /// Gives the worker its room back, and learns how long its items took.
    fn after_receive(&mut self, worker: WorkerId, inbox: &Inbox, answered: Option<JobId>) {
        let Some(handle) = self.workers.get_mut(worker) else { return };
        handle.link.received(inbox);
        let service_time = handle.link.take_service_time();
        if handle.link.has_notes()
            && let Some(sent) = self.workers.flush(worker)
        {
            self.after_send(worker, sent);
        }
        self.kill_if_idle(worker);
        // What filled the link may have been orders, which have no answer. The caller makes the schedule go on.
        self.schedule.clear_link_full(worker);
        if let (Some(job), Some(time)) = (answered, service_time) {
            self.schedule.measure(job, time.ns, time.items);
        }
    }

    /// The link yields no answer, for this reason.
    fn on_link_error(&mut self, worker: WorkerId, error: LinkError) {
        match error {
            LinkError::Broken(message) => self.distrust(worker, message),
            LinkError::Nonsense(message) => self.on_nonsense(worker, message),
            LinkError::Closed => {
                // The worker ends at its next answer, which it cannot send.
                self.workers.unwatch(worker, Descriptor::Link);
                self.dismiss(worker);
            }
        }
    }

    /// Settles the items that were answered.
    fn settle_arrival(&mut self, worker: WorkerId, item: ItemId, arrival: Arrival<'_>) {
        match arrival {
            Arrival::Values { items, bytes } => {
                self.observer.values(items);
                self.job(item.job).settle_values(item.index, items, bytes);
                self.progress(item.job);
            }
            Arrival::Answer { kind: AnswerKind::Completion(Completion::Value), bytes } => {
                self.observer.values(1);
                self.job(item.job).settle_value(item.index, bytes);
                self.progress(item.job);
            }
            Arrival::Answer { kind, bytes } => {
                let pid = self.pid(worker);
                self.settle_error(item.job, item.index, answer::error_of(kind, bytes, pid));
            }
            Arrival::Attached { kind, number, bytes } => match self.attached_answer(worker, kind, number, bytes) {
                Ok(parcel) => {
                    self.keep_memory(Instant::now());
                    self.observer.values(1);
                    self.effects.excess.extend(parcel.is_excess().then(|| parcel.clone()));
                    self.job(item.job).settle(item.index, Settled::Parcel(Box::new(parcel)));
                    self.progress(item.job);
                }
                Err(error) => self.settle_error(item.job, item.index, error),
            },
        }
    }

    /// The value with the attachment of this number, or the error.
    fn attached_answer(
        &mut self,
        worker: WorkerId,
        kind: AnswerKind,
        number: u32,
        bytes: &[u8],
    ) -> Result<Parcel, TaskError> {
        let Some(received) = self.attachment(worker, number) else {
            let is_lost = self.workers.get_mut(worker).is_some_and(|handle| handle.link.attachments.take_loss());
            return Err(match is_lost {
                true => TaskError::Decode {
                    side: Side::Result,
                    message: NO_DESCRIPTOR.to_owned(),
                    origin: Origin::default(),
                },
                false => self.distrust_answer(worker, "an answer whose attachment is missing".to_owned()),
            });
        };
        let pid = self.pid(worker);
        let settled = received.and_then(|arrived| answer::settle(kind, arrived.into_parcel(bytes)?, pid));
        settled.unwrap_or_else(|message| Err(self.distrust_answer(worker, message)))
    }

    /// What the worker has sent on its control socket for this answer.
    fn attachment(&mut self, worker: WorkerId, number: u32) -> Option<Received> {
        if let Some(received) = self.workers.get_mut(worker)?.link.attachments.take(number) {
            return Some(received);
        }
        // The worker sends it before it shows the answer, so it is on the control socket now.
        self.read_control(worker, Purpose::Answer);
        self.workers.get_mut(worker)?.link.attachments.take(number)
    }

    /// Distrusts a worker whose answer cannot be read. What the caller of the item is told.
    fn distrust_answer(&mut self, worker: WorkerId, message: String) -> TaskError {
        self.distrust(worker, message.clone());
        TaskError::Decode { side: Side::Result, message, origin: Origin::default() }
    }

    fn pid(&self, worker: WorkerId) -> u32 {
        self.workers.get(worker).map_or(0, |handle| handle.pid())
    }

    /// Replaces a worker that has grown too large.
    fn check_rss(&mut self, worker: WorkerId, now: Instant) {
        let Some(rss_max) = self.rss_max else { return };
        let leisure = match self.schedule.running(worker) {
            None => Leisure::Idle,
            Some(_) => Leisure::Busy,
        };
        let Some(handle) = self.workers.get_mut(worker) else { return };
        if handle.rss(leisure, now).is_some_and(|rss| rss > rss_max) {
            self.schedule.replace(worker, now);
        }
    }
}
