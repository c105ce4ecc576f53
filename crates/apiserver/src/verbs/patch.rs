//! Patch: the formats that change an object by what they say, applied to the latest state
//! inside the update's loop; an apply also creates what is not there.

use api_types::{
    ApiError, FieldError, Key,
    options::{FieldValidation, PatchKind, PatchOptions},
    schema,
};
use bytes::Bytes;
use http::Response;
use serde_json::Value;

use super::{
    Ask,
    create::{Owned, Written},
    meta, owners,
    update::Changed,
};
use crate::{
    audit,
    authz::Attributes,
    codec::{
        accept::Shapes,
        body::Body,
        decode::{self, Decoded},
    },
};

/// A patch, read as far as that can be done without the object.
#[derive(Debug)]
pub(super) enum Patch {
    Edit(Edit),
    Apply(Config),
}

/// What is to be changed, whoever owns it.
#[derive(Debug)]
pub(super) enum Edit {
    Json(Bytes),
    Merge(Value),
    Strategic(Value),
}

/// What an apply wants, and what strict decoding has against its text.
#[derive(Debug)]
pub(super) struct Config {
    pub(super) value: Value,
    duplicates: Vec<String>,
}

const JSON: &str = "application/json-patch+json";
const MERGE: &str = "application/merge-patch+json";
const STRATEGIC: &str = "application/strategic-merge-patch+json";
const APPLY: &str = "application/apply-patch+yaml";
/// Tries of an apply between whose looks at an object others create or delete it.
const APPLY_TRIES: u32 = 5;

type GroupVersionKind<'a> = (&'a str, &'a str, &'a str);

impl Patch {
    /// `kind` is what is patched.
    pub(super) fn parse(media_type: &str, body: Bytes, kind: GroupVersionKind) -> Result<Self, ApiError> {
        let value = || {
            serde_json::from_slice(&body)
                .map_err(|error| ApiError::bad_request(format!("error decoding patch: {error}")))
        };
        let has_fields = schema::of(kind.0, kind.1, kind.2).is_some();
        match media_type {
            JSON => Ok(Self::Edit(Edit::Json(body))),
            MERGE => Ok(Self::Edit(Edit::Merge(value()?))),
            STRATEGIC if has_fields => Ok(Self::Edit(Edit::Strategic(value()?))),
            STRATEGIC => Err(decode::unknown_format(&[JSON, MERGE, APPLY])),
            APPLY => Config::parse(&body).map(Self::Apply),
            _ => Err(ApiError::unsupported_media_type("415: Unsupported Media Type").with_object("", "", "")),
        }
    }

    pub(super) fn options(&self, query: &api_types::options::Query) -> Result<PatchOptions, ApiError> {
        let kind = if matches!(self, Self::Apply(_)) { PatchKind::Apply } else { PatchKind::Other };
        PatchOptions::from_query(query, kind)
    }
}

impl Edit {
    /// What the patch makes of `old`.
    pub(super) fn apply(&self, old: &Value, (group, version, kind): GroupVersionKind) -> Result<Value, ApiError> {
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

impl Config {
    /// YAML, or JSON, which is YAML.
    fn parse(body: &[u8]) -> Result<Self, ApiError> {
        if let Ok(schema::Parsed { value, duplicates }) = schema::parse::parse(body)
            && value.is_object()
        {
            return Ok(Self { value, duplicates });
        }
        let refuse = |why: &dyn std::fmt::Display| ApiError::bad_request(format!("error decoding YAML: {why}"));
        match decode::yaml(body).map_err(|error| refuse(&error))? {
            value @ Value::Object(_) => Ok(Self { value, duplicates: Vec::new() }),
            _ => Err(refuse(&"the configuration is no object")),
        }
    }

    /// What a client is to be warned of; refused where it asked for that.
    pub(super) fn warnings(&self, validation: FieldValidation) -> Result<Vec<String>, ApiError> {
        let problems: Vec<String> = self.duplicates.iter().map(|path| format!("duplicate field \"{path}\"")).collect();
        match validation {
            FieldValidation::Ignore => Ok(Vec::new()),
            FieldValidation::Strict if !problems.is_empty() => {
                Err(ApiError::bad_request(format!("error strict decoding YAML: {}", problems.join(", "))))
            }
            FieldValidation::Warn | FieldValidation::Strict => Ok(problems),
        }
    }
}

/// A patched object that does not fit its kind is the patch's fault. Upstream quotes the object, which may be a secret.
fn unfit(error: ApiError) -> ApiError {
    match error.code() {
        400 => ApiError::invalid("", "", "", &[FieldError::invalid("patch", "", error.message())]),
        _ => error,
    }
}

impl Ask {
    pub(super) async fn patch(&self, body: Bytes) -> Result<Response<Body>, ApiError> {
        let view = self.view(Shapes::ObjectOnly)?;
        let resource = &self.kind.resource;
        let kind = (resource.group.as_ref(), resource.version.as_ref(), resource.kind.as_ref());
        audit::note(|notes| notes.patch(&body));
        let patch = Patch::parse(decode::media_type(&self.headers), body, kind)?;
        let options = patch.options(&self.query)?;
        let written = match &patch {
            Patch::Apply(config) => self.apply(config, &options).await?,
            Patch::Edit(edit) => {
                let change = |old: &Value| {
                    let object = edit.apply(old, kind)?;
                    let Decoded { object, warnings } =
                        decode::checked(object, Vec::new(), kind, options.write.field_validation).map_err(unfit)?;
                    self.check_identity(&object)?;
                    Ok(Changed { warnings, ..Changed::new(object) })
                };
                self.update(&change, &options.write).await?
            }
        };
        self.written(view, &written)
    }

    /// A patch may not rename an object.
    pub(super) fn check_identity(&self, object: &Value) -> Result<(), ApiError> {
        let key = Key::new(meta::text(object, "namespace"), meta::text(object, "name"));
        if key == self.key {
            return Ok(());
        }
        let mut object = object.clone();
        meta::place(&mut object, &self.kind.resource, &self.key)?;
        meta::name(&mut object, &self.key)
    }

    /// Server-side apply.
    async fn apply(&self, config: &Config, options: &PatchOptions) -> Result<Written, ApiError> {
        let mut tries = APPLY_TRIES;
        loop {
            tries -= 1;
            let change = |old: &Value| self.applied_to(old.clone(), config, options);
            let outcome = match self.update(&change, &options.write).await {
                Err(error) if error.is_not_found() && self.subresource.is_empty() => {
                    self.create_applied(config, options).await
                }
                outcome => return outcome,
            };
            match outcome {
                // Somebody else has created it meanwhile.
                Err(error) if error.is_already_exists() && !options.write.dry_run && tries > 0 => {}
                outcome => return outcome,
            }
        }
    }

    fn applied_to(&self, live: Value, config: &Config, options: &PatchOptions) -> Result<Changed, ApiError> {
        let resource = &self.kind.resource;
        let kind = (resource.group.as_ref(), resource.version.as_ref(), resource.kind.as_ref());
        let (object, owners) = self.applied(live, &config.value, options.force == Some(true))?;
        let mut warnings = config.warnings(options.write.field_validation)?;
        let decoded = decode::checked(object, Vec::new(), kind, options.write.field_validation)?;
        warnings.extend(decoded.warnings);
        self.check_identity(&decoded.object)?;
        Ok(Changed { object: decoded.object, warnings, owners: Some(owners) })
    }

    async fn create_applied(&self, config: &Config, options: &PatchOptions) -> Result<Written, ApiError> {
        let resource = &self.kind.resource;
        let Changed { object, warnings, owners } = self.applied_to(owners::empty(resource), config, options)?;
        let (name, uid) = (&self.key.name, meta::text(&object, "uid"));
        if !uid.is_empty() {
            let why =
                format!("uid mismatch: the provided object specified uid {uid}, and no existing object was found");
            return Err(ApiError::conflict(resource, name, why));
        }
        if !meta::text(&object, "resourceVersion").is_empty() {
            return Err(ApiError::modified(resource, name));
        }
        if meta::text(&object, "name").is_empty() {
            let why = format!("the name of the object ({name} based on URL) was undeterminable: name must be provided");
            return Err(ApiError::bad_request(why));
        }
        self.may_create().await?;
        let owned = Owned::Known(owners.unwrap_or_default());
        let mut written = self.create_owned(object, owned, &options.write).await?;
        written.warnings.splice(..0, warnings);
        Ok(written)
    }

    /// Who creates by another verb needs the right to create, too.
    pub(super) async fn may_create(&self) -> Result<(), ApiError> {
        let resource = &self.kind.resource;
        let asked = Attributes {
            verb: "create",
            group: &resource.group,
            version: &resource.version,
            resource: &resource.plural,
            subresource: &self.subresource,
            namespace: &self.key.namespace,
            name: &self.key.name,
            resource_request: true,
            ..Attributes::default()
        };
        self.server.authorizer.check(&self.user, &asked).await
    }
}
