//! One turn: events of the epoll set are taken in, and what follows from them is done.

use std::time::Instant;

use crate::engine::state::Engine;
use crate::engine::watch::Source;

impl Engine {
    /// Takes in what has happened and does what follows from it.
    pub(crate) fn turn(&mut self, sources: &[Source]) {
        if !self.is_watched() {
            // Another thread has joined the pool while this one slept: nothing is left that could happen.
            return;
        }
        for &source in sources {
            match source {
                Source::Doorbell => self.watch().quiet(),
                Source::Link(worker) => self.on_link(worker),
                Source::Control(worker) => {
                    self.on_control(worker);
                    // What it has sent may have made answers be taken in.
                    self.schedule.after_settled(Instant::now());
                }
                Source::End(worker) => self.on_exit(worker),
                Source::Status(worker) => self.on_status(worker),
            }
            // At once: what has been decided must be on its link before anything is taken back from the link, or the
            // count of what is unread would be of the wrong frames.
            self.carry_out();
        }
        self.on_timers();
        self.carry_out();
    }
}
