//! Where a write passes admission: before it is validated, to be changed, and after, to
//! be refused.

use api_types::{ApiError, Key};
use serde_json::Value;

use super::Ask;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
}

impl Ask {
    pub(super) async fn mutate(
        &self,
        _operation: Operation,
        _key: &Key,
        _object: &mut Value,
        _old: Option<&Value>,
        _dry_run: bool,
    ) -> Result<Vec<String>, ApiError> {
        Ok(Vec::new())
    }

    pub(super) async fn validate(
        &self,
        _operation: Operation,
        _key: &Key,
        _object: Option<&Value>,
        _old: Option<&Value>,
        _dry_run: bool,
    ) -> Result<Vec<String>, ApiError> {
        Ok(Vec::new())
    }
}
