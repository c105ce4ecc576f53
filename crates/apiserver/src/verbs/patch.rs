//! Patch: the three formats that change an object by what they say, applied to the latest
//! state inside the update's loop.

use api_types::{
    ApiError,
    options::{PatchKind, PatchOptions},
    schema,
};
use bytes::Bytes;
use http::Response;
use serde_json::Value;

use super::{Ask, update::Changed};
use crate::{
    audit,
    codec::{
        accept::Shapes,
        body::Body,
        decode::{self, Decoded},
    },
};

/// A patch, read as far as that can be done without the object.
#[derive(Debug)]
pub(super) enum Patch {
    Json(Bytes),
    Merge(Value),
    Strategic(Value),
}

const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";

impl Patch {
    /// `kind` is (group, version, kind) of what is patched.
    pub(super) fn parse(media_type: &str, body: Bytes, kind: (&str, &str, &str)) -> Result<Self, ApiError> {
        let value = || {
            serde_json::from_slice(&body)
                .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))
        };
        let has_fields = schema::of(kind.0, kind.1, kind.2).is_some();
        match media_type {
            JSON => Ok(Self::Json(body)),
            MERGE => Ok(Self::Merge(value()?)),
            STRATEGIC if has_fields => Ok(Self::Strategic(value()?)),
            STRATEGIC => Err(decode::unknown_format(&[JSON, MERGE])),
            _ => Err(ApiError::unsupported_media_type("415: Unsupported Media Type").with_object("", "", "")),
        }
    }

    /// What the patch makes of `old`.
    pub(super) fn apply(&self, old: &Value, (group, version, kind): (&str, &str, &str)) -> Result<Value, ApiError> {
        Ok(match self {
            Self::Json(patch) => merge::json_patch(old.clone(), patch)?,
            Self::Merge(patch) => merge::merge_patch(old.clone(), patch)?,
            Self::Strategic(patch) => {
                let fields = schema::of(group, version, kind).expect("checked when the patch was parsed");
                merge::strategic_merge(fields, old.clone(), patch.clone())?
            }
        })
    }
}

impl Ask {
    pub(super) async fn patch(&self, body: Bytes) -> Result<Response<Body>, ApiError> {
        let view = self.view(Shapes::ObjectOnly)?;
        let resource = &self.kind.resource;
        let kind = (resource.group.as_ref(), resource.version.as_ref(), resource.kind.as_ref());
        audit::note(|notes| notes.patch(&body));
        let patch = Patch::parse(decode::media_type(&self.headers), body, kind)?;
        let options = PatchOptions::from_query(&self.query, PatchKind::Other)?.write;
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
