//! `metav1.Status` as an error: what the server answers when it refuses, and what a
//! client gets back. Messages are the ones that clients match on.

use crate::{
    k8s::meta::{ListMeta, Status, StatusCause, StatusDetails},
    resources::Resource,
};

/// A refusal with its HTTP code, reason and causes.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{}", .0.message.as_deref().unwrap_or("unknown error"))]
pub struct ApiError(pub Box<Status>);

/// One thing wrong with one field of an object.
///
/// Source: `field.Error` in apimachinery/pkg/util/validation/field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Path such as `spec.containers[0].name`.
    pub field: String,
    pub cause: Cause,
    /// What is wrong, without the path; see [`FieldError::message`] for the whole.
    pub detail: String,
    /// The offending value as JSON text; empty where it is not shown.
    pub value: String,
}

/// The kinds of [`FieldError`], named as in `details.causes[].reason`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    Required,
    Invalid,
    NotSupported,
    Duplicate,
    Forbidden,
    TooLong,
    TooMany,
    NotFound,
    TypeInvalid,
    Internal,
}

impl Cause {
    pub const fn reason(self) -> &'static str {
        match self {
            Cause::Required => "FieldValueRequired",
            Cause::Invalid => "FieldValueInvalid",
            Cause::NotSupported => "FieldValueNotSupported",
            Cause::Duplicate => "FieldValueDuplicate",
            Cause::Forbidden => "FieldValueForbidden",
            Cause::TooLong => "FieldValueTooLong",
            Cause::TooMany => "FieldValueTooMany",
            Cause::NotFound => "FieldValueNotFound",
            Cause::TypeInvalid => "FieldValueTypeInvalid",
            Cause::Internal => "InternalError",
        }
    }
    const fn words(self) -> &'static str {
        match self {
            Cause::Required => "Required value",
            Cause::Invalid => "Invalid value",
            Cause::NotSupported => "Unsupported value",
            Cause::Duplicate => "Duplicate value",
            Cause::Forbidden => "Forbidden",
            Cause::TooLong => "Too long",
            Cause::TooMany => "Too many",
            Cause::NotFound => "Not found",
            Cause::TypeInvalid => "Invalid value",
            Cause::Internal => "Internal error",
        }
    }
}

impl FieldError {
    fn new(cause: Cause, field: impl Into<String>, value: String, detail: impl Into<String>) -> Self {
        Self { field: field.into(), cause, detail: detail.into(), value }
    }
    pub fn required(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(Cause::Required, field, String::new(), detail)
    }
    /// `value` is anything that has a JSON form; text is quoted.
    pub fn invalid(field: impl Into<String>, value: impl serde::Serialize, detail: impl Into<String>) -> Self {
        Self::new(Cause::Invalid, field, json(&value), detail)
    }
    /// Lists the supported values, quoted and in the order given.
    pub fn not_supported(field: impl Into<String>, value: impl serde::Serialize, supported: &[&str]) -> Self {
        let supported: Vec<String> = supported.iter().map(|value| format!("{value:?}")).collect();
        let detail = format!("supported values: {}", supported.join(", "));
        Self::new(Cause::NotSupported, field, json(&value), detail)
    }
    pub fn duplicate(field: impl Into<String>, value: impl serde::Serialize) -> Self {
        Self::new(Cause::Duplicate, field, json(&value), "")
    }
    pub fn forbidden(field: impl Into<String>, detail: impl Into<String>) -> Self {
        Self::new(Cause::Forbidden, field, String::new(), detail)
    }
    /// `max` in bytes.
    pub fn too_long(field: impl Into<String>, max: usize) -> Self {
        Self::new(Cause::TooLong, field, String::new(), format!("may not be more than {max} bytes"))
    }
    pub fn too_many(field: impl Into<String>, count: usize, max: usize) -> Self {
        Self::new(Cause::TooMany, field, count.to_string(), format!("must have at most {max} items"))
    }
    pub fn not_found(field: impl Into<String>, value: impl serde::Serialize) -> Self {
        Self::new(Cause::NotFound, field, json(&value), "")
    }
    pub fn type_invalid(field: impl Into<String>, value: impl serde::Serialize, detail: impl Into<String>) -> Self {
        Self::new(Cause::TypeInvalid, field, json(&value), detail)
    }

    /// The cause's message: everything but the path.
    pub fn message(&self) -> String {
        let mut text = self.cause.words().to_owned();
        for part in [&self.value, &self.detail] {
            if !part.is_empty() {
                text.push_str(": ");
                text.push_str(part);
            }
        }
        text
    }
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

impl ApiError {
    /// Any refusal; the constructors below cover what upstream sends.
    pub fn new(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self(Box::new(Status {
            code: Some(i32::from(code)),
            reason: (!reason.is_empty()).then(|| reason.to_owned()),
            message: Some(message.into()),
            status: Some("Failure".to_owned()),
            metadata: ListMeta::default(),
            details: None,
        }))
    }
    pub fn code(&self) -> u16 {
        self.0.code.and_then(|code| u16::try_from(code).ok()).unwrap_or(500)
    }
    /// The machine-readable reason, or `""`.
    pub fn reason(&self) -> &str {
        self.0.reason.as_deref().unwrap_or_default()
    }
    pub fn message(&self) -> &str {
        self.0.message.as_deref().unwrap_or_default()
    }

    fn details(&mut self) -> &mut StatusDetails {
        self.0.details.get_or_insert_default()
    }
    /// Names the object. `kind` holds the *resource* in every refusal but Invalid, as upstream has it.
    pub fn with_object(mut self, group: &str, kind: &str, name: &str) -> Self {
        let details = self.details();
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        (details.group, details.kind, details.name) = (some(group), some(kind), some(name));
        self
    }
    pub fn with_cause(mut self, reason: &str, message: impl Into<String>, field: &str) -> Self {
        let cause = StatusCause {
            reason: (!reason.is_empty()).then(|| reason.to_owned()),
            message: Some(message.into()),
            field: (!field.is_empty()).then(|| field.to_owned()),
        };
        self.details().causes.get_or_insert_default().push(cause);
        self
    }
    pub fn with_retry_after(mut self, seconds: i32) -> Self {
        self.details().retry_after_seconds = Some(seconds);
        self
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }
    /// `pods "x" is forbidden: why`
    pub fn forbidden(resource: &Resource, name: &str, why: impl std::fmt::Display) -> Self {
        let subject = resource.group_resource();
        let message = match name {
            "" => format!("{subject} is forbidden: {why}"),
            name => format!("{subject} \"{name}\" is forbidden: {why}"),
        };
        Self::new(403, "Forbidden", message).with_object(&resource.group, &resource.plural, name)
    }
    pub fn not_found(resource: &Resource, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{} \"{name}\" not found", resource.group_resource())).with_object(
            &resource.group,
            &resource.plural,
            name,
        )
    }
    /// A resource, version or subresource that is not served.
    pub fn unknown_resource() -> Self {
        Self::new(404, "NotFound", "the server could not find the requested resource").with_object("", "", "")
    }
    pub fn method_not_allowed() -> Self {
        Self::new(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
            .with_object("", "", "")
    }
    pub fn already_exists(resource: &Resource, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{} \"{name}\" already exists", resource.group_resource())).with_object(
            &resource.group,
            &resource.plural,
            name,
        )
    }
    pub fn conflict(resource: &Resource, name: &str, why: impl std::fmt::Display) -> Self {
        let message = format!("Operation cannot be fulfilled on {} \"{name}\": {why}", resource.group_resource());
        Self::new(409, "Conflict", message).with_object(&resource.group, &resource.plural, name)
    }
    /// A compare-and-swap that lost.
    pub fn modified(resource: &Resource, name: &str) -> Self {
        Self::conflict(
            resource,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }
    /// 422 with every error at once: `Pod "x" is invalid: [a, b]`, brackets only for several.
    pub fn invalid(group: &str, kind: &str, name: &str, errors: &[FieldError]) -> Self {
        let texts: Vec<String> = errors.iter().map(|error| format!("{}: {}", error.field, error.message())).collect();
        let subject = if group.is_empty() { kind.to_owned() } else { format!("{kind}.{group}") };
        let message = match texts.as_slice() {
            [one] => format!("{subject} \"{name}\" is invalid: {one}"),
            many => format!("{subject} \"{name}\" is invalid: [{}]", many.join(", ")),
        };
        let mut refusal = Self::new(422, "Invalid", message).with_object(group, kind, name);
        for error in errors {
            refusal = refusal.with_cause(error.cause.reason(), error.message(), &error.field);
        }
        refusal
    }
    pub fn gone(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }
    pub fn too_large(limit_bytes: usize) -> Self {
        Self::new(413, "RequestEntityTooLarge", format!("Request entity too large: limit is {limit_bytes}"))
    }
    pub fn unsupported_media_type(message: impl Into<String>) -> Self {
        Self::new(415, "UnsupportedMediaType", message)
    }
    pub fn not_acceptable(message: impl Into<String>) -> Self {
        Self::new(406, "NotAcceptable", message)
    }
    pub fn too_many_requests(message: impl Into<String>, retry_after_s: i32) -> Self {
        Self::new(429, "TooManyRequests", message).with_retry_after(retry_after_s)
    }
    pub fn internal(message: impl std::fmt::Display) -> Self {
        let message = message.to_string();
        Self::new(500, "InternalError", format!("Internal error occurred: {message}")).with_cause("", message, "")
    }
    pub fn unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }
    pub fn timeout(message: impl Into<String>, retry_after_s: i32) -> Self {
        Self::new(504, "Timeout", message).with_retry_after(retry_after_s)
    }

    pub fn is_not_found(&self) -> bool {
        self.code() == 404
    }
    pub fn is_already_exists(&self) -> bool {
        self.reason() == "AlreadyExists"
    }
    pub fn is_conflict(&self) -> bool {
        self.reason() == "Conflict"
    }
    pub fn is_expired(&self) -> bool {
        self.code() == 410
    }
}
