//! What happens in a new process until its entry runs, and the description of it that the parent sends.

pub(crate) mod boot;
pub(crate) mod born;
pub(crate) mod entry;
pub(crate) mod function;
pub(crate) mod leave;
pub(crate) mod signals;
