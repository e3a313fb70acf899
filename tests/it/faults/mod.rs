//! Faults: workers and servers that die, fail or hang, and exhausted system resources.

crate::harness::modules![
    deaths,
    errors,
    exhaustion,
    #[cfg(debug_assertions)]
    failpoints,
    pressure,
    races,
    reports,
    shortage,
    stalled,
    #[cfg(debug_assertions)]
    startup,
    #[cfg(debug_assertions)]
    sweep,
];
