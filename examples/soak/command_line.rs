//! The command line of a program with options: `--name VALUE`, `--name=VALUE`, and `--flag`.

use std::env;
use std::process::ExitCode;
use std::slice;

use anyhow::Context;
use procpool::StartMethod;

/// Parses the arguments of this program with `parse`.
///
/// # Errors
///
/// The exit code of the program, after it has printed the help or an error.
pub(crate) fn read<O>(
    program: &str,
    help: &str,
    parse: impl FnOnce(&[String]) -> anyhow::Result<O>,
    wants_help: impl FnOnce(&O) -> bool,
) -> Result<(Vec<String>, O), ExitCode> {
    let arguments: Vec<String> =
        env::args_os().skip(1).map(|argument| argument.to_string_lossy().into_owned()).collect();
    match parse(&arguments) {
        Ok(options) if wants_help(&options) => {
            println!("{help}");
            Err(ExitCode::SUCCESS)
        }
        Ok(options) => Ok((arguments, options)),
        Err(error) => {
            eprintln!("{program}: {error:#}; see --help");
            Err(ExitCode::from(2))
        }
    }
}

/// The arguments that have not been parsed yet.
pub(crate) struct Arguments<'a>(slice::Iter<'a, String>);

/// One option.
pub(crate) struct Argument<'a> {
    /// As given, with the value after `=` if there is one.
    pub(crate) whole: &'a str,
    pub(crate) name: &'a str,
    value: Option<&'a str>,
}

impl<'a> Arguments<'a> {
    pub(crate) fn new(arguments: &'a [String]) -> Self {
        Self(arguments.iter())
    }

    pub(crate) fn next(&mut self) -> Option<Argument<'a>> {
        let whole = self.0.next()?;
        Some(match whole.split_once('=') {
            Some((name, value)) => Argument { whole, name, value: Some(value) },
            None => Argument { whole, name: whole, value: None },
        })
    }

    /// The value of the option `of`, which was returned last.
    pub(crate) fn value(&mut self, of: &Argument<'a>) -> anyhow::Result<&'a str> {
        match of.value {
            Some(value) => Ok(value),
            None => self.0.next().map(String::as_str).with_context(|| format!("{} needs a value", of.name)),
        }
    }

    /// As [`value`](Self::value), appended to the start methods that are requested.
    pub(crate) fn methods(&mut self, of: &Argument<'a>, methods: &mut Vec<StartMethod>) -> anyhow::Result<()> {
        match self.value(of)? {
            "all" => methods.extend(StartMethod::ALL),
            method => methods.push(method.parse()?),
        }
        Ok(())
    }
}
