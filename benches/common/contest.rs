//! The harness of the benches: procpool and its peers, measured in turns.
//!
//! ```text
//!  round 1   procpool  rayon  procspawn  limit
//!  round 2   rayon  procspawn  limit  procpool      the first moves to the end, so that none always follows the same one
//!  round 3   …
//! ```
//!
//! On a shared machine two figures are comparable only if they were measured side by side. So every contestant has one
//! turn in each round, and ratios are computed within rounds: the table shows the median of the rounds' ratios, which is
//! not the ratio of the medians. The first turn of each contestant is a warm-up and is not counted.
//!
//! A contestant that fails has no figure; its error is printed under the table. Nothing is asserted about speed.
//!
//! Every bench begins with `procpool::init()`, followed by `procspawn::init()` if that takes part. Both execute this
//! program again for a worker, and recognize a worker by an environment variable of their own. `procpool::init()` is
//! first because nothing may run before it, and because procpool's workers then never reach the other.

#![expect(clippy::print_stdout, reason = "a bench prints its table")]

use std::fs;
use std::time::Duration;
use std::time::Instant;

use super::quick::is_quick;
use super::quick::sized;
use super::table::print_aligned;

const ROUNDS_MAX: usize = 15;

/// Suffix of the name of a bare mechanism: an upper limit for any pool, to judge the others by.
const LIMIT: &str = " (limit)";

/// One figure for each row of the table; NaN where there is none.
pub(crate) type Figures<const ROWS: usize> = [f64; ROWS];

struct Contestant<'a, const ROWS: usize> {
    name: &'static str,
    turn: Box<dyn FnMut() -> anyhow::Result<Figures<ROWS>> + 'a>,
    figures: Vec<Figures<ROWS>>,
    failure: Option<String>,
}

/// The table to measure: rows are workloads, columns are contestants, procpool first.
pub(crate) struct Contest<'a, const ROWS: usize> {
    title: String,
    rows: [String; ROWS],
    contestants: Vec<Contestant<'a, ROWS>>,
}

impl<'a, const ROWS: usize> Contest<'a, ROWS> {
    /// The title names the unit, and says whether more or less is better.
    pub(crate) fn new(title: impl Into<String>, rows: [impl Into<String>; ROWS]) -> Self {
        Self { title: title.into(), rows: rows.map(Into::into), contestants: Vec::new() }
    }

    /// Adds a contestant. A turn should take a quarter of a second at most.
    pub(crate) fn add(mut self, name: &'static str, turn: impl FnMut() -> anyhow::Result<Figures<ROWS>> + 'a) -> Self {
        self.contestants.push(Contestant { name, turn: Box::new(turn), figures: Vec::new(), failure: None });
        self
    }

    /// Runs all rounds, prints the table, and returns procpool's medians, row by row.
    pub(crate) fn run(mut self) -> Figures<ROWS> {
        for contestant in &mut self.contestants {
            contestant.take_turn();
        }
        let (budget, rounds_min) = sized((Duration::from_secs(15), 3), (Duration::ZERO, 1));
        let began = Instant::now();
        let mut rounds = 0;
        while rounds < rounds_min || (rounds < ROUNDS_MAX && began.elapsed() < budget) {
            for turn in 0..self.contestants.len() {
                let index = (turn + rounds) % self.contestants.len();
                let figures = self.contestants[index].take_turn();
                self.contestants[index].figures.push(figures);
            }
            rounds += 1;
        }
        self.print(rounds);
        std::array::from_fn(|row| Spread::of(self.samples(0, row)).median)
    }

    fn samples(&self, column: usize, row: usize) -> impl Iterator<Item = f64> {
        self.contestants[column].figures.iter().map(move |figures| figures[row])
    }

    fn print(&self, rounds: usize) {
        let rounds = if is_quick() { "quick: no figures".to_owned() } else { format!("medians of {rounds} rounds") };
        println!("{}; {rounds}; {}", self.title, machine());
        let (ours, others) = self.contestants.split_first().expect("at least one contestant");
        let names = self.contestants.iter().map(|contestant| contestant.name.to_owned());
        let versus = others.iter().map(|other| format!("ours/{}", other.name.trim_end_matches(LIMIT)));
        let mut lines = vec![["workload".to_owned()].into_iter().chain(names).chain(versus).collect()];
        for (row, name) in self.rows.iter().enumerate() {
            let cells = (0..self.contestants.len()).map(|column| Spread::of(self.samples(column, row)).to_string());
            let ratios = (1..=others.len()).map(|column| {
                let ratio = Spread::of(self.samples(0, row).zip(self.samples(column, row)).map(|(ours, it)| ours / it));
                if ratio.median.is_nan() { "-".to_owned() } else { short(ratio.median) }
            });
            lines.push([name.clone()].into_iter().chain(cells).chain(ratios).collect());
        }
        print_aligned(&lines);
        for (name, failure) in [ours].into_iter().chain(others).filter_map(|it| Some((it.name, it.failure.as_ref()?))) {
            println!("{name} failed: {failure}");
        }
    }
}

impl<const ROWS: usize> Contestant<'_, ROWS> {
    fn take_turn(&mut self) -> Figures<ROWS> {
        (self.turn)().unwrap_or_else(|error| {
            self.failure.get_or_insert(format!("{error:#}"));
            [f64::NAN; ROWS]
        })
    }
}

/// What a reader must know of the machine to judge the figures.
fn machine() -> String {
    let processors = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    format!("{processors} processors, load {}", load.split(' ').next().unwrap_or("unknown"))
}

/// Median and dispersion of some figures.
struct Spread {
    median: f64,
    /// Half the interquartile range, relative to the median.
    deviation: f64,
}

impl Spread {
    fn of(figures: impl Iterator<Item = f64>) -> Self {
        let mut sorted: Vec<f64> = figures.filter(|figure| !figure.is_nan()).collect();
        sorted.sort_by(f64::total_cmp);
        let quarter = |quarters: usize| sorted.get(sorted.len() * quarters / 4).copied().unwrap_or(f64::NAN);
        let median = quarter(2);
        Self { median, deviation: (quarter(3) - quarter(1)) / 2.0 / median }
    }
}

impl std::fmt::Display for Spread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.median.is_nan(), is_quick()) {
            (true, _) => f.write_str("-"),
            (false, true) => f.write_str(&short(self.median)),
            (false, false) => write!(f, "{} ±{:.0}%", short(self.median), self.deviation * 100.0),
        }
    }
}

/// Formats with three significant digits and k, M or G.
fn short(figure: f64) -> String {
    let (scaled, suffix) = match figure {
        1e9.. => (figure / 1e9, "G"),
        1e6.. => (figure / 1e6, "M"),
        1e4.. => (figure / 1e3, "k"),
        _ => (figure, ""),
    };
    let decimals = match scaled {
        100.0.. => 0,
        10.0.. => 1,
        1.0.. => 2,
        _ => 3,
    };
    format!("{scaled:.decimals$}{suffix}")
}
