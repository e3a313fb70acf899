//! The command line.

use anyhow::Context;
use anyhow::bail;
use procpool::StartMethod;

use crate::command_line::Arguments;

pub(crate) const HELP: &str = "\
Kills the parents of pools at random moments, and looks for processes of theirs that survive.

usage: orphans [options]

  --method METHOD   fork, spawn, forkserver or all; may be given again (default: all)
  --kills N         parents to kill for each method (default: 1000)
  --seed S          seed for what the parents do and when they are killed (default: 1)
  --quick           40 kills for each method, unless --kills says otherwise
  --help            show this

One line for each method. Exit status: 0 if there was no orphan, 1 if there was one, 2 for a wrong command line.";

/// `--victim=METHOD,SEED`, used by the program itself: be the parent that will be killed.
pub(crate) const VICTIM: &str = "--victim";

const KILLS: u64 = 1000;
const KILLS_QUICK: u64 = 40;

/// What to do for each method.
#[derive(Debug)]
pub(crate) struct Options {
    pub(crate) methods: Vec<StartMethod>,
    pub(crate) kills: u64,
    pub(crate) seed: u64,
    /// Set in a victim: its method and its seed.
    pub(crate) victim: Option<(StartMethod, u64)>,
    pub(crate) help: bool,
}

/// Parses the command line.
pub(crate) fn parse(arguments: &[String]) -> anyhow::Result<Options> {
    let mut options = Options { methods: Vec::new(), kills: KILLS, seed: 1, victim: None, help: false };
    let (mut kills, mut quick) = (None, false);
    let mut arguments = Arguments::new(arguments);
    while let Some(argument) = arguments.next() {
        let name = argument.name;
        let mut value = || arguments.value(&argument);
        match name {
            "--method" => arguments.methods(&argument, &mut options.methods)?,
            "--kills" => kills = Some(value()?.parse().with_context(|| name.to_owned())?),
            "--seed" => options.seed = value()?.parse().with_context(|| name.to_owned())?,
            "--quick" if argument.whole == name => quick = true,
            VICTIM => {
                let value = value()?;
                let (method, seed) = value.split_once(',').context("a victim has a method and a seed")?;
                options.victim = Some((method.parse()?, seed.parse()?));
            }
            "--help" | "-h" if argument.whole == name => options.help = true,
            _ => bail!("unknown option {}", argument.whole),
        }
    }
    options.kills = kills.unwrap_or(if quick { KILLS_QUICK } else { KILLS });
    if options.methods.is_empty() {
        options.methods = StartMethod::ALL.to_vec();
    }
    Ok(options)
}
