//! How a change that a client describes is worked into an object: the three patch formats.
//! Everything is a function from (type, old, patch) to new.

pub mod apply;
mod json_patch;
mod merge_patch;
mod strategic;

pub use json_patch::{COPY_MAX_BYTES, JsonPatchError, OPERATIONS_MAX, apply as json_patch};
pub use merge_patch::{MergePatchError, apply as merge_patch};
pub use strategic::{StrategicError, apply as strategic_merge};

use api_types::ApiError;

/// Upstream's refusal of a patch that can be read but not carried out; why is not told.
fn rejected() -> ApiError {
    ApiError::new(422, "Invalid", "the server rejected our request due to an error in our request")
        .with_object("", "", "")
}
