//! The road through shared memory: two rings of bytes, and one word that both sides agree on. See `README.md` beside
//! this file for the protocol and why it holds.

pub(crate) mod arrivals;
pub(crate) mod ledger;
pub(crate) mod memory;
pub(crate) mod parent;
pub(crate) mod parent_link;
pub(crate) mod record;
pub(crate) mod worker;

#[cfg(test)]
mod stress;
