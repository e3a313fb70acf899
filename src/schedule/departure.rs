//! The end of a worker, and what is lost with it.

use crate::schedule::load::ItemId;
use crate::schedule::restarts::Ending;
use crate::work::unbegun::UnbegunWork;

/// How a worker ended.
#[derive(Clone, Debug)]
pub(crate) struct Departure {
    /// The work that it had not begun.
    pub(crate) unbegun: UnbegunWork,
    pub(crate) first: FirstItem,
    /// Whether its answers can be trusted. If not, everything that it held may have begun.
    pub(crate) is_coherent: bool,
    /// Whether items that are lost with it may be run again, if their calls ask for that.
    pub(crate) may_retry: bool,
    pub(crate) ending: Ending,
}

/// What became of the first item that a worker held when it ended: the only one that may have been the cause.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FirstItem {
    /// It has begun, or not, as the link reports.
    AsReported,
    /// It counts as begun: the worker was killed on its account.
    Blamed,
}

/// An item that was lost with its worker and is not run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lost {
    pub(crate) item: ItemId,
    /// How many workers it was lost with.
    pub(crate) workers: u32,
}
