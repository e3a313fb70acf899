//! The command line.

use std::time::Duration;

use anyhow::Context;
use anyhow::bail;
use procpool::StartMethod;

use crate::calls::Kind;
use crate::command_line::Arguments;
use crate::injector::Fault;
use crate::ledger;

pub(crate) const HELP: &str = "\
Kills workers at random while every kind of call runs, and accounts for every item.

usage: soak [options]

  --method METHOD           fork, spawn, forkserver or all; may be given again (default: all)
  --tasks N                 items for each method (default: 100000)
  --kill-every-ms X         a SIGKILL every X milliseconds on average (default: 2); 0: only those before
                            the first item
  --max-tasks-per-child K   replace a worker after K items; 0: never (default: 100)
  --processes P             workers (default: 4)
  --seed S                  seed for the calls, the items and the kills (default: 1)
  --mix KINDS               kinds of calls, by comma: imap_unordered, imap, map, with, apply_async (default: all)
  --inject FAULTS           what else happens, by comma, or none (default: all): stops (of workers), servers (the
                            process that forks workers is killed), descriptors (none to be had for a moment)
  --quick                   10000 items for each method, unless --tasks says otherwise
  --help                    show this

One line for each method. Exit status: 0 if every count that must be zero is zero, 1 if not, 2 for a wrong command line.";

/// `--here=METHOD`, used by the program itself: soak this one method, in this process.
pub(crate) const HERE: &str = "--here";

/// Shorter than the time that counts as a hang, as the end of a soak waits for the killer to wake up.
const KILL_EVERY_MS_MAX: f64 = 10_000.0;
const TASKS: u32 = 100_000;
const TASKS_QUICK: u32 = 10_000;

/// What to do for each method.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) methods: Vec<StartMethod>,
    pub(crate) tasks: u32,
    pub(crate) kill_every: Duration,
    pub(crate) tasks_max: Option<usize>,
    pub(crate) processes: usize,
    pub(crate) seed: u64,
    pub(crate) mix: Vec<Kind>,
    pub(crate) faults: Vec<Fault>,
    /// Soak this method in this process, instead of starting another process for each method.
    pub(crate) is_here: bool,
    pub(crate) help: bool,
}

/// Parses the command line.
pub(crate) fn parse(arguments: &[String]) -> anyhow::Result<Options> {
    let mut options = Options {
        methods: Vec::new(),
        tasks: TASKS,
        kill_every: Duration::from_millis(2),
        tasks_max: Some(100),
        processes: 4,
        seed: 1,
        mix: Kind::ALL.to_vec(),
        faults: Fault::ALL.to_vec(),
        is_here: false,
        help: false,
    };
    let (mut tasks, mut quick, mut only) = (None, false, None);
    let mut arguments = Arguments::new(arguments);
    while let Some(argument) = arguments.next() {
        let name = argument.name;
        let mut value = || arguments.value(&argument);
        match name {
            "--method" => arguments.methods(&argument, &mut options.methods)?,
            "--tasks" => tasks = Some(number(name, value()?, 1)?),
            "--kill-every-ms" => options.kill_every = milliseconds(name, value()?)?,
            "--max-tasks-per-child" => options.tasks_max = Some(number(name, value()?, 0)? as usize),
            "--processes" => options.processes = number(name, value()?, 1)? as usize,
            "--seed" => options.seed = value()?.parse().with_context(|| name.to_owned())?,
            "--mix" => options.mix = value()?.split(',').map(str::parse).collect::<anyhow::Result<_>>()?,
            "--inject" => options.faults = faults(value()?)?,
            "--quick" if argument.whole == name => quick = true,
            HERE => only = Some(value()?.parse()?),
            "--help" | "-h" if argument.whole == name => options.help = true,
            _ => bail!("unknown option {}", argument.whole),
        }
    }
    options.tasks = tasks.unwrap_or(if quick { TASKS_QUICK } else { TASKS });
    options.tasks_max = options.tasks_max.filter(|&items| items > 0);
    if let Some(method) = only {
        (options.methods, options.is_here) = (vec![method], true);
    } else if options.methods.is_empty() {
        options.methods = StartMethod::ALL.to_vec();
    }
    Ok(options)
}

fn faults(text: &str) -> anyhow::Result<Vec<Fault>> {
    match text {
        "none" => Ok(Vec::new()),
        text => text.split(',').map(str::parse).collect(),
    }
}

fn number(name: &str, text: &str, min: u32) -> anyhow::Result<u32> {
    let digits = text.replace('_', "");
    let number = digits.parse().ok().filter(|&number: &u32| number >= min && number <= ledger::INDEX_MAX);
    number.with_context(|| format!("{name} takes a number from {min} to {}, not {text:?}", ledger::INDEX_MAX))
}

fn milliseconds(name: &str, text: &str) -> anyhow::Result<Duration> {
    let number: Option<f64> = text.parse().ok();
    let number = number.filter(|number| (0.0..=KILL_EVERY_MS_MAX).contains(number));
    let number =
        number.with_context(|| format!("{name} takes milliseconds up to {KILL_EVERY_MS_MAX}, not {text:?}"))?;
    Ok(Duration::from_secs_f64(number / 1000.0))
}
