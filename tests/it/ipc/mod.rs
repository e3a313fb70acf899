//! Processes that talk: channels between processes, and what a death costs.

pub(crate) mod peers;

crate::harness::modules![
    channels,
    #[cfg(debug_assertions)]
    last_words,
    torture,
];
