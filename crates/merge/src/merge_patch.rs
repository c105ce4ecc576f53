//! JSON merge patch (RFC 7396).

use api_types::ApiError;
use serde_json::Value;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum MergePatchError {
    /// A patch that is no object would replace the whole object.
    #[error("error decoding patch: a merge patch must be an object")]
    NotAnObject,
}

/// Objects are merged, null deletes, everything else replaces.
pub fn apply(mut document: Value, patch: &Value) -> Result<Value, MergePatchError> {
    if !patch.is_object() {
        return Err(MergePatchError::NotAnObject);
    }
    json_patch::merge(&mut document, patch);
    Ok(document)
}

impl From<MergePatchError> for ApiError {
    fn from(error: MergePatchError) -> Self {
        ApiError::bad_request(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn merges() {
        for (document, patch, expected) in [
            (json!({"a": "b"}), json!({"a": "c"}), json!({"a": "c"})),
            (json!({"a": {"b": 1, "c": 2}}), json!({"a": {"b": null}}), json!({"a": {"c": 2}})),
            (json!({"a": [1, 2]}), json!({"a": [3]}), json!({"a": [3]})),
            (json!({}), json!({"a": {"b": {"c": null}}}), json!({"a": {"b": {}}})),
            (json!({"a": 1}), json!({}), json!({"a": 1})),
        ] {
            assert_eq!(apply(document, &patch), Ok(expected));
        }
        assert_eq!(apply(json!({}), &json!([])), Err(MergePatchError::NotAnObject));
    }
}
