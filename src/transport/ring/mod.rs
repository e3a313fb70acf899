//! The ring link: two rings of bytes in shared memory, and one word on which both sides agree. `README.md` beside this file
//! has the protocol and why it holds.

pub(crate) mod arrivals;
pub(crate) mod ledger;
pub(crate) mod memory;
pub(crate) mod parent;
pub(crate) mod parent_link;
pub(crate) mod record;
pub(crate) mod worker;

#[cfg(test)]
mod measuring;
#[cfg(test)]
mod stress;
