//! Patch: the three formats that change an object by what they say, applied to the latest
//! state inside the update's loop.

use api_types::{
    ApiError,
    options::{PatchKind, PatchOptions},
};
use bytes::Bytes;
use http::Response;
use serde_json::Value;

use super::{Ask, update::Changed};
use crate::codec::{
    accept::Shapes,
    body::Body,
    decode::{self, Decoded},
};

/// Upstream's limit.
const JSON_PATCH_OPERATIONS_MAX: usize = 10_000;

/// A patch, parsed.
#[derive(Debug)]
pub(super) enum Patch {
    Json(json_patch::Patch),
    Merge(Value),
    Strategic(Value),
}

const ACCEPTED: [&str; 3] =
    ["application/json-patch+json", "application/merge-patch+json", "application/strategic-merge-patch+json"];

impl Patch {
    pub(super) fn parse(media_type: &str, body: &[u8]) -> Result<Self, ApiError> {
        let refuse = |error: serde_json::Error| ApiError::bad_request(format!("error decoding patch: {error}"));
        let object = || {
            let patch: Value = serde_json::from_slice(body).map_err(refuse)?;
            if patch.is_object() { Ok(patch) } else { Err(ApiError::bad_request("the patch is no JSON object")) }
        };
        match media_type {
            "application/json-patch+json" => {
                let patch: json_patch::Patch = serde_json::from_slice(body).map_err(refuse)?;
                if patch.0.len() > JSON_PATCH_OPERATIONS_MAX {
                    let why = format!(
                        "The allowed maximum operations in a JSON patch is {JSON_PATCH_OPERATIONS_MAX}, got {}",
                        patch.0.len()
                    );
                    return Err(ApiError::new(413, "RequestEntityTooLarge", why));
                }
                Ok(Self::Json(patch))
            }
            "application/merge-patch+json" => Ok(Self::Merge(object()?)),
            "application/strategic-merge-patch+json" => Ok(Self::Strategic(object()?)),
            _ => Err(decode::unknown_format(&ACCEPTED)),
        }
    }

    /// What the patch makes of `old`, an object of the kind (group, version, kind).
    pub(super) fn apply(&self, old: &Value, kind: (&str, &str, &str)) -> Result<Value, ApiError> {
        let mut object = old.clone();
        match self {
            Self::Json(patch) => json_patch::patch(&mut object, patch).map_err(|error| unprocessable(&error))?,
            Self::Merge(patch) => json_patch::merge(&mut object, patch),
            Self::Strategic(patch) => object = strategic(&object, patch, kind)?,
        }
        Ok(object)
    }
}

fn strategic(_: &Value, _: &Value, _: (&str, &str, &str)) -> Result<Value, ApiError> {
    Err(decode::unknown_format(&ACCEPTED[..2]))
}

fn unprocessable(error: &dyn std::fmt::Display) -> ApiError {
    ApiError::new(422, "Invalid", format!("the server rejected our request due to an error in our request: {error}"))
}

impl Ask {
    pub(super) async fn patch(&self, body: Bytes) -> Result<Response<Body>, ApiError> {
        let view = self.view(Shapes::ObjectOnly)?;
        let patch = Patch::parse(decode::media_type(&self.headers), &body)?;
        let options = PatchOptions::from_query(&self.query, PatchKind::Other)?.write;
        let resource = &self.kind.resource;
        let kind = (resource.group.as_ref(), resource.version.as_ref(), resource.kind.as_ref());
        let change = |old: &Value| {
            let object = patch.apply(old, kind)?;
            let Decoded { object, warnings } = decode::checked(object, Vec::new(), kind, options.field_validation)?;
            self.check_identity(&object)?;
            Ok(Changed { object, warnings })
        };
        let written = self.update(&change, &options).await?;
        self.written(view, &written)
    }

    /// A patch may not rename an object.
    pub(super) fn check_identity(&self, object: &Value) -> Result<(), ApiError> {
        let mut object = object.clone();
        super::meta::place(&mut object, &self.kind.resource, &self.key)?;
        super::meta::name(&mut object, &self.key)
    }
}
