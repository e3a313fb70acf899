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
    logs,
    nested,
    parent,
    pinned,
    recycle,
    servers,
    settings,
    starts,
    terminate,
];
