//! A parsed document into the canonical form of its type: unknown fields dropped and
//! reported, null taken for absent, quantities and times respelled, types checked.

use std::fmt;

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Map, Value};

use super::{Field, Presence, Shape, Type, Unknown, parse::Path};
use crate::{
    jiff::{self, Timestamp},
    quantity::{self, Quantity},
};

const NANOS_PER_SECOND: i128 = 1_000_000_000;

/// A document as its type has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Decoded {
    pub value: Value,
    /// Paths of fields that the type does not have, such as `spec.containers[0].imagee`.
    pub unknown: Vec<String>,
}

/// A value that its field cannot hold.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct DecodeError {
    pub path: String,
    pub problem: Problem,
}

impl fmt::Display for DecodeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.problem {
            // Upstream's words, which clients know, have no path.
            Problem::Quantity(_) => write!(f, "{}", self.problem),
            problem => write!(f, "{}: {problem}", self.path),
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    #[error("must be {expected}, not {found}")]
    Type { expected: &'static str, found: &'static str },
    #[error("{0} is out of range")]
    Range(String),
    #[error(transparent)]
    Quantity(#[from] quantity::ParseError),
    #[error("{0:?} is not a time in RFC 3339")]
    Time(String),
    #[error("not base64: {0}")]
    Base64(#[from] base64::DecodeError),
}

/// Brings `value` into the canonical form of `of`. Stops at the first value of a wrong type.
///
/// As with upstream's decoder an absent field stays absent unless its type is written out always; in maps
/// and lists null stands for the empty value.
pub fn decode(of: &Type, mut value: Value) -> Result<Decoded, DecodeError> {
    let mut unknown = Vec::new();
    let Value::Object(fields) = &mut value else {
        return Err(wrong(&Path::Root, "an object", &value));
    };
    decode_struct(of, fields, &Path::Root, &mut unknown)?;
    Ok(Decoded { value, unknown })
}

fn decode_struct(
    of: &Type,
    fields: &mut Map<String, Value>,
    path: &Path,
    unknown: &mut Vec<String>,
) -> Result<(), DecodeError> {
    let mut failure = None;
    fields.retain(|name, value| {
        if failure.is_some() {
            return true;
        }
        let path = Path::Field(path, name);
        match of.field(name) {
            Some(field) => keep_field(field, value, &path, unknown).unwrap_or_else(|error| {
                failure = Some(error);
                true
            }),
            None if of.unknown == Unknown::Kept => true,
            None => {
                unknown.push(path.to_string());
                false
            }
        }
    });
    if let Some(error) = failure {
        return Err(error);
    }
    for field in of.fields.iter().filter(|field| field.presence == Presence::Always) {
        if !fields.contains_key(field.name.as_ref()) {
            fields.insert(field.name.to_string(), unset(&field.shape));
        }
    }
    Ok(())
}

/// Whether the field is written out after all.
fn keep_field(field: &Field, value: &mut Value, path: &Path, unknown: &mut Vec<String>) -> Result<bool, DecodeError> {
    if value.is_null() {
        return Ok(false);
    }
    decode_value(&field.shape, value, path, unknown)?;
    let is_empty_map = || matches!(field.shape, Shape::Map(_)) && value.as_object().is_some_and(Map::is_empty);
    Ok(field.presence != Presence::OmitEmpty || !(is_empty(value) || is_empty_map()))
}

/// Go's idea of empty; a struct is never empty.
fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_i64() == Some(0) || number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(_) => false,
    }
}

fn decode_value(shape: &Shape, value: &mut Value, path: &Path, unknown: &mut Vec<String>) -> Result<(), DecodeError> {
    match (shape, &mut *value) {
        (Shape::Struct(of), Value::Object(fields)) => decode_struct(of.get(), fields, path, unknown),
        (Shape::List(inner), Value::Array(items)) => {
            for (i, item) in items.iter_mut().enumerate() {
                decode_item(inner, item, &Path::Index(path, i), unknown)?;
            }
            Ok(())
        }
        (Shape::Map(inner), Value::Object(entries)) => {
            for (name, entry) in entries.iter_mut() {
                decode_item(inner, entry, &Path::Field(path, name), unknown)?;
                if **inner == Shape::Quantity {
                    round_to_milli(entry);
                }
            }
            Ok(())
        }
        (Shape::String, Value::String(_)) | (Shape::Bool, Value::Bool(_)) | (Shape::Double, Value::Number(_)) => Ok(()),
        (Shape::IntOrString, Value::String(_)) | (Shape::Any, _) | (Shape::Raw, Value::Object(_)) => Ok(()),
        (Shape::Int32 | Shape::IntOrString, Value::Number(number)) => {
            let fits = number.as_i64().is_some_and(|number| i32::try_from(number).is_ok());
            integer(fits, value, path)
        }
        (Shape::Int64, Value::Number(number)) => {
            let fits = number.as_i64().is_some();
            integer(fits, value, path)
        }
        (Shape::Quantity, Value::Number(number)) => {
            let text = number.to_string();
            respell(value, path, canonical_quantity(&text))
        }
        (Shape::Quantity, Value::String(text)) => {
            let canonical = canonical_quantity(text.trim());
            respell(value, path, canonical)
        }
        (Shape::Time, Value::String(text)) => {
            let canonical = canonical_time(text, 0);
            respell(value, path, canonical)
        }
        (Shape::MicroTime, Value::String(text)) => {
            let canonical = canonical_time(text, 6);
            respell(value, path, canonical)
        }
        (Shape::Bytes, Value::String(text)) => {
            let canonical = canonical_base64(text);
            respell(value, path, canonical)
        }
        (shape, _) => Err(wrong(path, name_of(shape), value)),
    }
}

/// A member of a list or map, where null is the empty value.
fn decode_item(shape: &Shape, value: &mut Value, path: &Path, unknown: &mut Vec<String>) -> Result<(), DecodeError> {
    if value.is_null() {
        *value = empty(shape);
        return Ok(());
    }
    decode_value(shape, value, path, unknown)
}

/// The empty value of a type, with what its structs always hold.
fn empty(shape: &Shape) -> Value {
    match shape {
        Shape::String | Shape::Bytes => Value::from(""),
        Shape::Int32 | Shape::Int64 | Shape::IntOrString | Shape::Double => Value::from(0),
        Shape::Bool => Value::Bool(false),
        Shape::Quantity => Value::from("0"),
        Shape::Time | Shape::MicroTime | Shape::Raw | Shape::Any => Value::Null,
        Shape::List(_) => Value::Array(vec![]),
        Shape::Map(_) => Value::Object(Map::new()),
        Shape::Struct(of) => {
            let always = of.get().fields.iter().filter(|field| field.presence == Presence::Always);
            always.map(|field| (field.name.to_string(), unset(&field.shape))).collect::<Map<_, _>>().into()
        }
    }
}

/// What is written for a field that must be written but is absent: null for lists and maps.
fn unset(shape: &Shape) -> Value {
    match shape {
        Shape::List(_) | Shape::Map(_) => Value::Null,
        shape => empty(shape),
    }
}

/// Resource lists hold no less than a thousandth of a unit.
///
/// Source: `SetDefaults_ResourceList` in pkg/apis/core/v1/defaults.go.
fn round_to_milli(value: &mut Value) {
    let parsed = value.as_str().and_then(|text| Quantity::parse(text).ok());
    if let Some(quantity) = parsed {
        *value = Value::from(quantity.rounded_to_milli().to_string());
    }
}

fn integer(fits: bool, value: &Value, path: &Path) -> Result<(), DecodeError> {
    match value.as_number().is_some_and(|number| number.is_f64()) {
        _ if fits => Ok(()),
        true => Err(wrong(path, "an integer", value)),
        false => Err(DecodeError { path: path.to_string(), problem: Problem::Range(value.to_string()) }),
    }
}

fn respell(value: &mut Value, path: &Path, canonical: Result<String, Problem>) -> Result<(), DecodeError> {
    let canonical = canonical.map_err(|problem| DecodeError { path: path.to_string(), problem })?;
    if value.as_str() != Some(canonical.as_str()) {
        *value = Value::String(canonical);
    }
    Ok(())
}

fn canonical_quantity(text: &str) -> Result<String, Problem> {
    Ok(Quantity::parse(text)?.to_string())
}

fn canonical_time(text: &str, places: u8) -> Result<String, Problem> {
    let bad = || Problem::Time(text.to_owned());
    let time: Timestamp = text.parse().map_err(|_| bad())?;
    if places == 0 {
        // A fraction is cut off, not rounded.
        let nanos = time.as_nanosecond().div_euclid(NANOS_PER_SECOND) * NANOS_PER_SECOND;
        return Ok(Timestamp::from_nanosecond(nanos).map_err(|_| bad())?.to_string());
    }
    let printer = jiff::fmt::temporal::DateTimePrinter::new().precision(Some(places));
    Ok(printer.timestamp_to_string(&time))
}

/// Line breaks are allowed in what comes in.
fn canonical_base64(text: &str) -> Result<String, Problem> {
    let joined: String = text.chars().filter(|c| !matches!(c, '\r' | '\n')).collect();
    BASE64_STANDARD.decode(&joined)?;
    Ok(joined)
}

fn wrong(path: &Path, expected: &'static str, found: &Value) -> DecodeError {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    };
    DecodeError { path: path.to_string(), problem: Problem::Type { expected, found } }
}

fn name_of(shape: &Shape) -> &'static str {
    match shape {
        Shape::String | Shape::Time | Shape::MicroTime => "a string",
        Shape::Bytes => "a string in base64",
        Shape::Int32 | Shape::Int64 => "an integer",
        Shape::Double => "a number",
        Shape::Bool => "a boolean",
        Shape::Quantity => "a quantity (a string or number)",
        Shape::IntOrString => "an integer or a string",
        Shape::List(_) => "a list",
        Shape::Raw | Shape::Struct(_) | Shape::Map(_) => "an object",
        Shape::Any => "a value",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema;

    fn pod(spec: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": spec})
    }

    fn decode_pod(spec: Value) -> Result<Decoded, DecodeError> {
        decode(schema::of("", "v1", "Pod").unwrap(), pod(spec))
    }

    #[test]
    fn drops_and_reports_unknown_fields() {
        let decoded = decode_pod(json!({"foo": 1, "containers": [{"name": "c", "imagee": "x"}]})).unwrap();
        assert_eq!(decoded.unknown, ["spec.containers[0].imagee", "spec.foo"]);
        assert_eq!(decoded.value["spec"]["containers"][0].get("imagee"), None);
    }

    #[test]
    fn respells_values() {
        for (given, canonical) in [
            (
                json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": "1000m", "memory": 1024}}}]}),
                json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": "1", "memory": "1024"}}}]}),
            ),
            (
                json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": 0.5, "memory": "0.5Gi"}}}]}),
                json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": "500m", "memory": "512Mi"}}}]}),
            ),
            (
                json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": "1u"}}}]}),
                json!({"containers": [{"name": "c", "resources": {"limits": {"cpu": "1m"}}}]}),
            ),
            (
                json!({"nodeSelector": {"a": null}, "hostname": null, "priority": null, "containers": []}),
                json!({"nodeSelector": {"a": ""}, "containers": []}),
            ),
            (
                json!({"containers": [], "nodeName": "", "hostNetwork": false, "tolerations": [], "nodeSelector": {}}),
                json!({"containers": []}),
            ),
            (
                json!({"containers": [], "automountServiceAccountToken": false}),
                json!({"containers": [], "automountServiceAccountToken": false}),
            ),
        ] {
            assert_eq!(
                decode_pod(given).unwrap().value["spec"],
                *decode_pod(canonical.clone()).unwrap().value.get("spec").unwrap()
            );
            assert!(contains(&decode_pod(canonical.clone()).unwrap().value["spec"], &canonical), "{canonical}");
        }
    }

    /// What a real server answered is in canonical form already.
    #[test]
    fn leaves_recorded_answers_as_they_are() {
        let shared = std::env::var("COXSWAIN_SHARED");
        let shared = shared.unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared").to_owned());
        let Ok(recorded) = std::fs::read_to_string(format!("{shared}/golden/exchanges.jsonl")) else {
            eprintln!("skipped: no recorded exchanges in {shared}");
            return;
        };
        let mut compared = 0;
        for line in recorded.lines() {
            let exchange: Value = serde_json::from_str(line).unwrap();
            let body = &exchange["response"]["body"];
            let (group, version) = match body["apiVersion"].as_str() {
                Some(text) => text.split_once('/').unwrap_or(("", text)),
                None => continue,
            };
            let Some(of) = schema::of(group, version, body["kind"].as_str().unwrap()) else { continue };
            let decoded = decode(of, body.clone()).unwrap();
            assert_eq!(decoded.value, *body, "{}", exchange["title"]);
            compared += 1;
        }
        assert!(compared > 50);
    }

    /// All that `part` says is in `whole`, too.
    fn contains(whole: &Value, part: &Value) -> bool {
        match (whole, part) {
            (Value::Object(whole), Value::Object(part)) => {
                part.iter().all(|(name, value)| whole.get(name).is_some_and(|whole| contains(whole, value)))
            }
            (Value::Array(whole), Value::Array(part)) => {
                whole.len() == part.len() && whole.iter().zip(part).all(|(whole, part)| contains(whole, part))
            }
            (whole, part) => whole == part,
        }
    }

    #[test]
    fn respells_times() {
        for (text, places, canonical) in [
            ("2026-01-02T03:04:05Z", 0, "2026-01-02T03:04:05Z"),
            ("2026-01-02T03:04:05.999Z", 0, "2026-01-02T03:04:05Z"),
            ("2026-01-02T03:04:05+02:00", 0, "2026-01-02T01:04:05Z"),
            ("2026-01-02T03:04:05Z", 6, "2026-01-02T03:04:05.000000Z"),
            ("2026-01-02T03:04:05.123456789Z", 6, "2026-01-02T03:04:05.123456Z"),
        ] {
            assert_eq!(canonical_time(text, places).unwrap(), canonical);
        }
        assert!(canonical_time("yesterday", 0).is_err());
    }

    #[test]
    fn refuses_wrong_types_with_their_path() {
        for (spec, message) in [
            (json!({"containers": {}}), "spec.containers: must be a list, not an object"),
            (json!({"containers": ["a"]}), "spec.containers[0]: must be an object, not a string"),
            (json!({"priority": "high"}), "spec.priority: must be an integer, not a string"),
            (json!({"priority": 1.5}), "spec.priority: must be an integer, not a number"),
            (json!({"priority": 5_000_000_000_i64}), "spec.priority: 5000000000 is out of range"),
            (json!({"nodeSelector": {"a": 1}}), "spec.nodeSelector.a: must be a string, not a number"),
            (json!({"hostNetwork": "true"}), "spec.hostNetwork: must be a boolean, not a string"),
            (json!({"overhead": {"cpu": "1i"}}), "unable to parse quantity's suffix"),
        ] {
            assert_eq!(decode_pod(spec).unwrap_err().to_string(), message);
        }
        let secret = schema::of("", "v1", "Secret").unwrap();
        let refused = decode(secret, json!({"data": {"a": "not base64!"}})).unwrap_err();
        assert!(refused.to_string().starts_with("data.a: not base64: "));
        assert_eq!(
            decode(secret, json!([])).unwrap_err().problem,
            Problem::Type { expected: "an object", found: "a list" }
        );
    }
}
