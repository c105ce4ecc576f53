//! Server-side apply: every field of an object has owners, an apply sets and owns what its
//! configuration says, and two appliers that want different values are told.

mod owners;
mod ownership;
mod path_set;
mod typed;

pub use owners::{Operation, Owner, Owners, OwnersError, UPDATERS_MAX};
pub use ownership::{Applied, ApplyError, Conflict, Convert, Ownable, Subject, Writer, apply, known, update};
pub use path_set::{Set, SetError};
pub use typed::{Comparison, Keys, Node, compare};

#[cfg(test)]
mod tests;
