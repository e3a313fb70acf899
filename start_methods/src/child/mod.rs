//! A started process as its parent sees it: signal it, wait for it, kill its descendants, and die with it.

#[expect(clippy::module_inception, reason = "the file holds `Child`, after which the folder is named as well")]
pub(crate) mod child;
pub(crate) mod handle;
pub(crate) mod lifeline;
pub(crate) mod proc_info;
pub(crate) mod tree;
pub(crate) mod unreaped;
