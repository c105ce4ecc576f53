//! Server-side apply: every field of an object has owners, an apply sets and owns what its
//! configuration says, and two appliers that want different values are told.

mod ownership;
mod path_set;
mod typed;

pub use ownership::{
    Applied, ApplyError, Conflict, Convert, Operation, Ownable, Owner, Owners, OwnersError, Subject, UPDATERS_MAX,
    Writer, apply, known, update,
};
pub use path_set::{Set, SetError};
pub use typed::{Comparison, Keys, Node, compare};

#[cfg(test)]
mod tests;
