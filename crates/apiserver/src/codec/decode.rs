//! Request bodies: bytes of a declared format -> JSON values. Pure, but for reading the
//! body off the wire.

use api_types::{ApiError, options::FieldValidation, schema};
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::body::Incoming;
use serde_json::Value;

use super::protobuf;
use crate::kinds::Kind;

/// Upstream's limit.
pub const BODY_BYTES_MAX: usize = 3 << 20;

/// The formats in which an object may come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyFormat {
    Json,
    Yaml,
    Protobuf,
}

/// Reads a whole body, up to the limit.
pub async fn body(incoming: Incoming) -> Result<Bytes, ApiError> {
    match Limited::new(incoming, BODY_BYTES_MAX).collect().await {
        Ok(body) => Ok(body.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => Err(ApiError::too_large(BODY_BYTES_MAX)),
        Err(error) => Err(ApiError::bad_request(format!("the body could not be read: {error}"))),
    }
}

/// The declared media type, without parameters.
pub fn media_type(headers: &HeaderMap) -> &str {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim()
}

pub fn format(headers: &HeaderMap) -> Result<BodyFormat, ApiError> {
    match media_type(headers) {
        "" | "application/json" => Ok(BodyFormat::Json),
        "application/yaml" => Ok(BodyFormat::Yaml),
        protobuf::MEDIA_TYPE => Ok(BodyFormat::Protobuf),
        _ => Err(unknown_format(&["application/json", "application/yaml", protobuf::MEDIA_TYPE])),
    }
}

pub fn unknown_format(accepted: &[&str]) -> ApiError {
    ApiError::unsupported_media_type(format!(
        "the body of the request was in an unknown format - accepted media types include: {}",
        accepted.join(", ")
    ))
}

/// A decoded object, and what the client is to be warned of.
#[derive(Debug)]
pub struct Decoded {
    pub object: Value,
    pub warnings: Vec<String>,
}

/// An object of `kind`, with the kind's fields only. A missing apiVersion or kind is filled in.
pub fn object(bytes: &[u8], format: BodyFormat, kind: &Kind, validation: FieldValidation) -> Result<Decoded, ApiError> {
    let resource = &kind.resource;
    typed(bytes, format, (&resource.group, &resource.version, &resource.kind), validation)
}

/// As [`object`], for a kind without a row: the object that a subresource speaks.
pub fn typed(
    bytes: &[u8],
    format: BodyFormat,
    (group, version, kind): (&str, &str, &str),
    validation: FieldValidation,
) -> Result<Decoded, ApiError> {
    let unrecognized = |why: &dyn std::fmt::Display| {
        ApiError::bad_request(format!("the object provided is unrecognized (must be of type {kind}): {why}"))
    };
    if bytes.is_empty() {
        return Err(unrecognized(&"the body is empty"));
    }
    let (object, duplicates) = match format {
        BodyFormat::Json => {
            let parsed = schema::parse::parse(bytes).map_err(|error| unrecognized(&error))?;
            (parsed.value, parsed.duplicates)
        }
        BodyFormat::Yaml => (yaml(bytes).map_err(|error| unrecognized(&error))?, Vec::new()),
        BodyFormat::Protobuf => {
            let object = protobuf::decode(bytes, (group, version, kind)).map_err(|error| unrecognized(&error))?;
            (object, Vec::new())
        }
    };
    checked(object, duplicates, (group, version, kind), validation)
}

/// Checks a value against the fields of its kind, and drops what the kind does not have.
pub fn checked(
    mut object: Value,
    duplicates: Vec<String>,
    (group, version, kind): (&str, &str, &str),
    validation: FieldValidation,
) -> Result<Decoded, ApiError> {
    let api_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let Some(fields) = object.as_object_mut() else {
        return Err(ApiError::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): it is no JSON object"
        )));
    };
    for (name, expected) in [("apiVersion", api_version.as_str()), ("kind", kind)] {
        match fields.get(name).and_then(Value::as_str) {
            None | Some("") => {
                fields.insert(name.to_owned(), expected.into());
            }
            Some(found) if found == expected => {}
            Some(found) => return Err(wrong_type(fields, name, found, &api_version, kind)),
        }
    }
    let refuse = |why: &dyn std::fmt::Display| {
        ApiError::bad_request(format!("{kind} in version \"{version}\" cannot be handled as a {kind}: {why}"))
    };
    let mut problems: Vec<String> = duplicates.iter().map(|path| format!("duplicate field \"{path}\"")).collect();
    if let Some(fields) = schema::of(group, version, kind) {
        let decoded = schema::decode::decode(fields, object).map_err(|error| refuse(&error))?;
        object = decoded.value;
        problems.extend(decoded.unknown.iter().map(|path| format!("unknown field \"{path}\"")));
    }
    match validation {
        FieldValidation::Strict if !problems.is_empty() => {
            Err(refuse(&format!("strict decoding error: {}", problems.join(", "))))
        }
        FieldValidation::Strict | FieldValidation::Ignore => Ok(Decoded { object, warnings: Vec::new() }),
        FieldValidation::Warn => Ok(Decoded { object, warnings: problems }),
    }
}

fn wrong_type(
    fields: &serde_json::Map<String, Value>,
    name: &str,
    found: &str,
    api_version: &str,
    kind: &str,
) -> ApiError {
    let version = fields.get("apiVersion").and_then(Value::as_str).unwrap_or(api_version);
    match name {
        "apiVersion" => ApiError::bad_request(format!(
            "the API version in the data ({found}) does not match the expected API version ({api_version})"
        )),
        _ => ApiError::bad_request(format!(
            "{found} in version \"{version}\" cannot be handled as a {kind}: the kinds differ"
        )),
    }
}

/// One YAML document (or JSON, which is YAML).
pub fn yaml(bytes: &[u8]) -> Result<Value, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    serde_saphyr::from_str(text).map_err(|error| format!("yaml: {error}"))
}
