//! Where a write passes admission: before it is validated, to be changed, and after, to
//! be refused.

use api_types::{ApiError, Key, names};
use serde_json::Value;

use super::Ask;
pub use crate::admission::Operation;
use crate::admission::{self, Attributes};

impl Ask {
    pub(super) async fn mutate(
        &self,
        operation: Operation,
        key: &Key,
        object: &mut Value,
        old: Option<&Value>,
        _dry_run: bool,
    ) -> Result<Vec<String>, ApiError> {
        let suffix = names::generated("", rand::random());
        let attributes = self.attributes(operation, key, old, &suffix);
        let untouched = object.clone();
        let Err(refusal) = admission::mutate(&attributes, object, &*self.server.cache) else { return Ok(Vec::new()) };
        // What is refused for something that is missing may be there by now.
        self.catch_up().await?;
        *object = untouched;
        admission::mutate(&attributes, object, &*self.server.cache).map_err(|_| refusal)?;
        Ok(Vec::new())
    }

    pub(super) async fn validate(
        &self,
        operation: Operation,
        key: &Key,
        object: Option<&Value>,
        old: Option<&Value>,
        _dry_run: bool,
    ) -> Result<Vec<String>, ApiError> {
        let attributes = self.attributes(operation, key, old, "");
        admission::validate(&attributes, object, &*self.server.cache)?;
        Ok(Vec::new())
    }

    fn attributes<'a>(
        &'a self,
        operation: Operation,
        key: &'a Key,
        old: Option<&'a Value>,
        suffix: &'a str,
    ) -> Attributes<'a> {
        let (user, resource, subresource) = (&self.user, &self.kind.resource, self.subresource.as_str());
        Attributes { user, resource, subresource, operation, key, old, suffix }
    }
}
