//! Request bodies: bytes of a declared format -> JSON values. Pure, but for reading the
//! body off the wire.

use std::time::Duration;

use api_types::{ApiError, options::FieldValidation, schema};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body::Body as _;
use http_body_util::BodyExt;
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

/// What is read and thrown away of a body that is refused.
const DRAINED_BYTES_MAX: usize = 16 << 20;
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);

/// Reads a whole body, up to the limit.
pub async fn body(mut incoming: Incoming) -> Result<Bytes, ApiError> {
    let mut body = BytesMut::new();
    while let Some(frame) = incoming.frame().await {
        let frame = frame.map_err(|error| ApiError::bad_request(format!("the body could not be read: {error}")))?;
        let Ok(data) = frame.into_data() else { continue };
        if body.len() + data.len() > BODY_BYTES_MAX {
            drain(incoming);
            return Err(ApiError::too_large(BODY_BYTES_MAX));
        }
        body.extend_from_slice(&data);
    }
    Ok(body.freeze())
}

/// Keeps the client's stream open until it has sent its body, while it is answered already. Dropping the body
/// instead would reset an HTTP/2 stream, and the client might never see why it was refused.
pub fn drain(mut incoming: Incoming) {
    if incoming.is_end_stream() {
        return;
    }
    let drained = async move {
        let mut read = 0;
        while let Some(Ok(frame)) = incoming.frame().await {
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > DRAINED_BYTES_MAX {
                return;
            }
        }
    };
    // Nobody awaits it: it ends with the connection, or by its own limits.
    tokio::spawn(tokio::time::timeout(DRAIN_TIMEOUT, drained));
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
        BodyFormat::Protobuf => match protobuf::decode(bytes, (group, version, kind)) {
            Ok(object) => (object, Vec::new()),
            Err(protobuf::ProtobufError::UnknownType(_)) => {
                return Err(unknown_format(&["application/json", "application/yaml"]));
            }
            Err(error) => return Err(unrecognized(&error)),
        },
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
