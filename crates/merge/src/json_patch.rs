//! JSON patch (RFC 6902), bounded.

use api_types::ApiError;
use json_patch::{Patch, PatchError, PatchOperation};
use serde_json::Value;

use crate::rejected;

/// Operations in one patch.
pub const OPERATIONS_MAX: usize = 10_000;
/// What all `copy` operations of one patch may add, in bytes of JSON: a few of them can double a document
/// again and again.
pub const COPY_MAX_BYTES: usize = 3 * 1024 * 1024;

#[derive(Debug, thiserror::Error)]
pub enum JsonPatchError {
    #[error("error decoding patch: {0}")]
    Malformed(#[source] serde_json::Error),
    #[error("The allowed maximum operations in a JSON patch is {OPERATIONS_MAX}, got {0}")]
    TooManyOperations(usize),
    #[error("the copy operations of the patch add {0} bytes; at most {COPY_MAX_BYTES} are allowed")]
    CopiesTooMuch(usize),
    /// A test that failed, or a path that is not there.
    #[error(transparent)]
    Failed(PatchError),
}

/// Carries out every operation on `document`, or none.
pub fn apply(mut document: Value, patch: &[u8]) -> Result<Value, JsonPatchError> {
    let Patch(operations) = serde_json::from_slice(patch).map_err(JsonPatchError::Malformed)?;
    if operations.len() > OPERATIONS_MAX {
        return Err(JsonPatchError::TooManyOperations(operations.len()));
    }
    let mut copied = 0;
    for (i, operation) in operations.iter().enumerate() {
        if let PatchOperation::Copy(copy) = operation {
            copied += document.pointer(copy.from.as_str()).map_or(0, |source| source.to_string().len());
            if copied > COPY_MAX_BYTES {
                return Err(JsonPatchError::CopiesTooMuch(copied));
            }
        }
        let one = std::slice::from_ref(operation);
        json_patch::patch_unsafe(&mut document, one).map_err(|mut error| {
            error.operation = i;
            JsonPatchError::Failed(error)
        })?;
    }
    Ok(document)
}

impl From<JsonPatchError> for ApiError {
    fn from(error: JsonPatchError) -> Self {
        match &error {
            JsonPatchError::Malformed(_) => ApiError::bad_request(error.to_string()),
            JsonPatchError::TooManyOperations(_) | JsonPatchError::CopiesTooMuch(_) => {
                ApiError::new(413, "RequestEntityTooLarge", format!("Request entity too large: {error}"))
            }
            JsonPatchError::Failed(_) => rejected(),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn carries_out_operations_in_order() {
        for (patch, expected) in [
            (json!([{"op": "add", "path": "/a/-", "value": 3}]), json!({"a": [1, 2, 3], "b": {"c": "d"}})),
            (json!([{"op": "replace", "path": "/b/c", "value": null}]), json!({"a": [1, 2], "b": {"c": null}})),
            (json!([{"op": "move", "from": "/b/c", "path": "/x"}]), json!({"a": [1, 2], "b": {}, "x": "d"})),
            (
                json!([{"op": "copy", "from": "/a", "path": "/x"}, {"op": "remove", "path": "/x/0"}]),
                json!({"a": [1, 2], "b": {"c": "d"}, "x": [2]}),
            ),
            (json!([{"op": "test", "path": "/b", "value": {"c": "d"}}]), json!({"a": [1, 2], "b": {"c": "d"}})),
        ] {
            let document = json!({"a": [1, 2], "b": {"c": "d"}});
            assert_eq!(apply(document, patch.to_string().as_bytes()).unwrap(), expected);
        }
    }

    #[test]
    fn refuses_with_upstreams_codes() {
        let many = Value::Array(vec![json!({"op": "test", "path": "", "value": {}}); OPERATIONS_MAX + 1]);
        let mut doubling = vec![json!({"op": "add", "path": "/a", "value": ["x".repeat(1000)]})];
        doubling.extend(std::iter::repeat_n(json!({"op": "copy", "from": "/a", "path": "/a/0"}), 30));
        for (patch, code, reason) in [
            (json!({"op": "x"}), 400, "BadRequest"),
            (json!([{"op": "x"}]), 400, "BadRequest"),
            (json!([{"op": "test", "path": "/a", "value": 1}]), 422, "Invalid"),
            (json!([{"op": "remove", "path": "/nope"}]), 422, "Invalid"),
            (many, 413, "RequestEntityTooLarge"),
            (Value::Array(doubling), 413, "RequestEntityTooLarge"),
        ] {
            let error = ApiError::from(apply(json!({}), patch.to_string().as_bytes()).unwrap_err());
            assert_eq!((error.code(), error.reason()), (code, reason), "{error}");
        }
    }
}
