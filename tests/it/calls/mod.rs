//! The calls of a pool, as their callers see them: results, errors, options, and the order of things.

crate::harness::modules![
    apply, callbacks, cancel, context, imap, map, python, results, retries, starmap, timeouts, waits,
];
