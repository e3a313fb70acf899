//! The calls of a pool, as their callers see them: results, errors, options, and the order of things.

crate::harness::modules![
    apply, callbacks, cancel, context, futures, imap, inputs, map, pending, python, reductions, results, retries,
    reusable, starmap, streams, threads, timeouts, waits, wakers,
];
