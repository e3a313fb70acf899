//! The verdict: what the workers recorded, compared with what the pool answered.

use std::collections::HashMap;
use std::fmt;
use std::mem;
use std::time::Duration;

use crate::killer::Blow;
use crate::ledger::Event;
use crate::ledger::Ledger;
use crate::ledger::Record;
use crate::options::Options;
use crate::pool_log::PoolLog;
use crate::tally::Anonymous;
use crate::tally::Fate;
use crate::tally::Tally;

/// How much this process and its helpers may grow between the two quiet points. It is not zero, because heaps keep
/// memory that threads once needed; it does not depend on the number of items.
const GROWTH_KIB_MAX: i64 = 4096;
/// The files that a pool keeps for later large values, one descriptor each.
pub(crate) const KEPT_MAX: usize = 16;

/// What is left over, or has grown.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Left {
    /// How many more descriptors a running pool has than at first.
    pub(crate) descriptors_in_use: i64,
    /// How many more descriptors this process has after the pool than before it.
    pub(crate) descriptors_at_end: i64,
    pub(crate) zombies: usize,
    pub(crate) processes: usize,
    pub(crate) resident_kib: i64,
}

/// The results of one soak.
#[derive(Debug, Default)]
pub(crate) struct Verdict {
    tasks: u32,
    kills: u64,
    harmless_kills: u64,
    deaths: u64,
    early_deaths: u64,
    recycled: u64,

    lost: u64,
    duplicated: u64,
    started_twice: u64,
    false_losses: u64,
    values_wrong: u64,
    other_errors: u64,
    callbacks_wrong: u64,
    overworked: u64,
    warnings: u64,
    /// The difference between the most and the fewest descriptors that workers had at birth.
    pub(crate) kept_by_workers: u32,
    pub(crate) left: Left,
    /// How many faults of each kind were injected.
    pub(crate) injected: [u64; 3],

    /// Items whose worker died in the middle of them.
    died_in_task: u64,
    /// Items whose worker died between reading and beginning them.
    died_before: u64,
    /// Items whose worker died between finishing them and sending the answer.
    died_after: u64,
    pub(crate) took: Duration,
    pub(crate) complaints: Vec<String>,
}

/// The life of one worker, according to its own records.
#[derive(Debug, Default)]
struct Life {
    /// How many tasks count for its share.
    started: u64,
    /// The item that it began last.
    last: Option<u32>,
}

/// The contents of the ledger.
#[derive(Debug)]
struct Account {
    items: Vec<ItemAccount>,
    /// By process id: the life that is not known to be over.
    lives: HashMap<u32, Life>,
    over: Vec<Life>,
    descriptors: Option<(u32, u32)>,
}

#[derive(Clone, Copy, Debug, Default)]
struct ItemAccount {
    started: u32,
    finished: u32,
    /// The worker that began it last.
    worker: u32,
    /// That worker began another item afterwards, so it had sent the answer to this one.
    followed: bool,
}

impl Account {
    fn new(tasks: u32) -> Self {
        let items = vec![ItemAccount::default(); tasks as usize];
        Self { items, lives: HashMap::new(), over: Vec::new(), descriptors: None }
    }

    fn read(&mut self, Record { pid, event }: Record) {
        match event {
            Event::Born { descriptors } => {
                self.over.extend(self.lives.insert(pid, Life::default()));
                let (min, max) = self.descriptors.unwrap_or((descriptors, descriptors));
                self.descriptors = Some((min.min(descriptors), max.max(descriptors)));
            }
            Event::Started(index) => {
                self.begin(pid, Some(index));
                let item = &mut self.items[index as usize];
                *item =
                    ItemAccount { started: item.started + 1, finished: item.finished, worker: pid, followed: false };
            }
            Event::Aside => self.begin(pid, None),
            Event::Finished(index) => self.items[index as usize].finished += 1,
        }
    }

    fn begin(&mut self, pid: u32, index: Option<u32>) {
        let life = self.lives.entry(pid).or_default();
        life.started += 1;
        if let Some(last) = mem::replace(&mut life.last, index) {
            self.items[last as usize].followed = true;
        }
    }

    fn all_lives(&self) -> impl Iterator<Item = &Life> {
        self.lives.values().chain(&self.over)
    }
}

impl Verdict {
    /// Compares the ledger with the tally. All calls must have ended.
    pub(crate) fn judge(
        ledger: &Ledger,
        tally: &Tally,
        kills: &[(u32, Blow)],
        options: &Options,
    ) -> anyhow::Result<Self> {
        let mut account = Account::new(options.tasks);
        ledger.replay(|record| account.read(record))?;
        let share = options.tasks_max.map(|items| items as u64);
        let recycled = account.all_lives().filter(|life| Some(life.started) == share).count() as u64;
        let lives = account.all_lives().count() as u64;
        let mut verdict = Self {
            tasks: options.tasks,
            kills: kills.len() as u64,
            harmless_kills: kills.iter().filter(|(_, blow)| *blow == Blow::Harmless).count() as u64,
            // All others lived until the pool was closed.
            deaths: lives.saturating_sub(recycled + options.processes as u64),
            recycled,
            overworked: account.all_lives().filter(|life| share.is_some_and(|share| life.started > share)).count()
                as u64,
            kept_by_workers: account.descriptors.map_or(0, |(min, max)| max - min),
            ..Self::default()
        };
        for job in tally.take_anonymous() {
            name_the_dead(&job, tally, &account);
        }
        verdict.judge_items(tally, &account);
        verdict.judge_deaths(tally, &account, kills);
        verdict.duplicated = tally.duplicated();
        verdict.values_wrong += tally.values_wrong();
        verdict.other_errors = tally.other_errors();
        verdict.complaints = tally.take_complaints();
        Ok(verdict)
    }

    fn judge_items(&mut self, tally: &Tally, account: &Account) {
        for (index, item) in (0..).zip(&account.items) {
            if item.started > 1 {
                self.started_twice += 1;
                tally.complain(|| format!("item {index} was begun {} times", item.started));
            }
            if !tally.callback_is_right(index) {
                self.callbacks_wrong += 1;
                tally.complain(|| format!("item {index} has the wrong callbacks: {:?}", tally.fate(index)));
            }
            match tally.fate(index) {
                Fate::None => {
                    self.lost += 1;
                    tally.complain(|| format!("item {index} has no outcome: {item:?}"));
                }
                Fate::Answered if item.started == 0 || item.finished == 0 => {
                    self.values_wrong += 1;
                    tally.complain(|| format!("item {index} was answered but did not run: {item:?}"));
                }
                Fate::Answered | Fate::Other => {}
                Fate::Died(_) if item.started == 0 => self.died_before += 1,
                Fate::Died(pid) if pid != item.worker || (item.finished > 0 && item.followed) => {
                    self.false_losses += 1;
                    tally.complain(|| format!("item {index} was not lost with worker {pid}: {item:?}"));
                }
                Fate::Died(_) if item.finished > 0 => self.died_after += 1,
                Fate::Died(_) => self.died_in_task += 1,
            }
        }
    }

    /// A death costs one item at most, a harmless one none, and only workers that were killed die.
    fn judge_deaths(&mut self, tally: &Tally, account: &Account, kills: &[(u32, Blow)]) {
        let count = |wanted: Blow| {
            let mut counts: HashMap<u32, i64> = HashMap::new();
            kills.iter().filter(|(_, blow)| *blow == wanted).for_each(|(pid, _)| *counts.entry(*pid).or_default() -= 1);
            counts
        };
        let (mut unpaid, mut unpaid_contexts) = (count(Blow::Harmful), count(Blow::Harmless));
        for index in 0..tally.tasks() {
            if let Fate::Died(pid) = tally.fate(index) {
                let mut unpaid = unpaid.entry(pid).or_default();
                // A worker that waits for orders may have read a context, and not yet the item that came behind it.
                if *unpaid >= 0 && tally.has_context(index) && account.items[index as usize].started == 0 {
                    unpaid = unpaid_contexts.entry(pid).or_default();
                }
                *unpaid += 1;
                if *unpaid > 0 {
                    self.false_losses += 1;
                    tally.complain(|| {
                        let blows: Vec<Blow> =
                            kills.iter().filter(|(victim, _)| *victim == pid).map(|(_, blow)| *blow).collect();
                        let item = &account.items[index as usize];
                        format!("no kill of worker {pid} explains the loss of item {index}: {item:?}; kills: {blows:?}")
                    });
                }
            }
        }
    }

    /// Adds what the pool logged.
    pub(crate) fn add_log(&mut self, log: PoolLog) {
        self.early_deaths = log.early_deaths;
        self.warnings = log.warnings;
        self.complaints.extend(log.lines);
    }

    /// The counts that must be zero, by the names under which they are printed.
    fn counts(&self) -> [(&'static str, u64); 9] {
        [
            ("lost", self.lost),
            ("duplicated", self.duplicated),
            ("started twice", self.started_twice),
            ("false losses", self.false_losses),
            ("values wrong", self.values_wrong),
            ("other errors", self.other_errors),
            ("callbacks wrong", self.callbacks_wrong),
            ("overworked", self.overworked),
            ("warnings", self.warnings),
        ]
    }

    /// Whether all counts that must be zero are zero.
    pub(crate) fn is_clean(&self) -> bool {
        let Left { descriptors_in_use, descriptors_at_end, zombies, processes, resident_kib } = self.left;
        self.counts().into_iter().all(|(_, count)| count == 0)
            && self.kept_by_workers == 0
            && descriptors_in_use <= KEPT_MAX as i64
            && (descriptors_at_end, zombies, processes) == (0, 0, 0)
            && resident_kib <= GROWTH_KIB_MAX
    }
}

/// Attributes the deaths in an unordered job to items. Pairs that fit are matched first; if the rest does not fit,
/// the check of the items reports it.
fn name_the_dead(job: &Anonymous, tally: &Tally, account: &Account) {
    let mut pids = job.pids.clone();
    let fits: [fn(&ItemAccount, u32) -> bool; 3] =
        [|item, pid| item.started > 0 && item.worker == pid, |item, _| item.started == 0, |_, _| true];
    for fits in fits {
        pids.retain(|&pid| {
            let is_it = |index: &u32| tally.fate(*index) == Fate::None && fits(&account.items[*index as usize], pid);
            let found = job.indices.clone().find(is_it);
            match found {
                Some(index) => tally.assign(index, pid),
                None => return true,
            }
            false
        });
    }
    for pid in pids {
        tally.count_duplicate(|| format!("a job has one death too many: worker {pid}"));
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Left { descriptors_in_use, descriptors_at_end, zombies, processes, resident_kib } = self.left;
        write!(
            f,
            "tasks {}, kills {} (harmless {}), deaths seen {} (and early {}), recycles {}",
            self.tasks, self.kills, self.harmless_kills, self.deaths, self.early_deaths, self.recycled
        )?;
        let [stops, servers, bursts] = self.injected;
        write!(f, ", stops {stops}, servers killed {servers}, bursts without descriptors {bursts}")?;
        let counts = self.counts().map(|(name, count)| format!("{name} {count}")).join(", ");
        write!(f, " | {counts}, hangs 0")?;
        write!(
            f,
            " | descriptors {descriptors_in_use:+} (at most +{KEPT_MAX}; at the end {descriptors_at_end:+}, in workers {:+}), zombies \
             {zombies}, processes left {processes}, memory {resident_kib:+} KiB (at most {GROWTH_KIB_MAX:+})",
            self.kept_by_workers
        )?;
        write!(
            f,
            " | died in the task {}, before it {}, after it {} | {:.1} s",
            self.died_in_task,
            self.died_before,
            self.died_after,
            self.took.as_secs_f64()
        )
    }
}
