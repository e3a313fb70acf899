//! The command line of a program with options: `--name VALUE`, `--name=VALUE`, and `--flag`.

use std::env;
use std::process::ExitCode;
use std::slice;

use anyhow::Context;
use procpool::StartMethod;

/// What this program was called with, understood by `parse`. If that is all: the help or the error has been printed.
///
/// # Errors
///
/// How the program must end.
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
            eprintln!("{program}: {error:#}; --help shows what there is");
            Err(ExitCode::from(2))
        }
    }
}

/// The options, one after the other.
pub(crate) struct Arguments<'a>(slice::Iter<'a, String>);

/// One option.
pub(crate) struct Argument<'a> {
    /// As it was given, with its value if that stands behind a `=`.
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

    /// The value of the option that came last.
    pub(crate) fn value(&mut self, of: &Argument<'a>) -> anyhow::Result<&'a str> {
        match of.value {
            Some(value) => Ok(value),
            None => self.0.next().map(String::as_str).with_context(|| format!("{} needs a value", of.name)),
        }
    }

    /// As [`value`](Self::value), added to the start methods that are asked for.
    pub(crate) fn methods(&mut self, of: &Argument<'a>, methods: &mut Vec<StartMethod>) -> anyhow::Result<()> {
        match self.value(of)? {
            "all" => methods.extend(StartMethod::ALL),
            method => methods.push(method.parse()?),
        }
        Ok(())
    }
}
