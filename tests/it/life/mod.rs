//! The life of pools and workers: start, settings, resizing, recycling and end; and uses that a pool refuses.

crate::harness::modules![
    compare,
    early,
    elastic,
    finalizer,
    initializer,
    inside,
    lifecycle,
    limits,
    nested,
    parent,
    recycle,
    servers,
    settings,
    starts,
    terminate,
];
