//! Kubernetes' protobuf form of objects, read into the same JSON values as the other
//! formats: driven by a table of field numbers, so there is no second universe of structs.
//!
//! Source: apimachinery/pkg/runtime/serializer/protobuf and the `Marshal` methods of the special types.

use std::{collections::HashMap, sync::LazyLock};

use api_types::{jiff::Timestamp, schema};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Map, Value, json};

use self::wire::{Field as WireField, Fields, WireError};

mod wire;

pub const MEDIA_TYPE: &str = "application/vnd.kubernetes.protobuf";
/// Every body begins with it; a `runtime.Unknown` follows.
const MAGIC: &[u8] = b"k8s\0";
/// As deep as JSON may nest.
const DEPTH_MAX: usize = 128;

#[derive(Debug, thiserror::Error)]
pub enum ProtobufError {
    #[error("the body does not begin with the protobuf prefix of Kubernetes")]
    NoMagic,
    #[error("the body is truncated or no protobuf: {0}")]
    Wire(#[from] WireError),
    #[error("the content encoding {0:?} is not supported")]
    Encoding(String),
    #[error("{0} has no protobuf form here")]
    UnknownType(String),
    #[error("the nested JSON cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    #[error("messages are nested too deep")]
    Depth,
    #[error("a text is no UTF-8")]
    Text,
}

/// Reads a body that holds an object of this kind.
pub fn decode(body: &[u8], (group, version, kind): (&str, &str, &str)) -> Result<Value, ProtobufError> {
    let unknown = body.strip_prefix(MAGIC).ok_or(ProtobufError::NoMagic)?;
    let (mut raw, mut of) = (&[][..], &[][..]);
    for field in Fields::new(unknown) {
        match field? {
            (1, WireField::Bytes(bytes)) => of = bytes,
            (2, WireField::Bytes(bytes)) => raw = bytes,
            (3, WireField::Bytes(encoding)) if !encoding.is_empty() => {
                return Err(ProtobufError::Encoding(text(encoding)?));
            }
            _ => {}
        }
    }
    let type_ = schema::of(group, version, kind).ok_or_else(|| ProtobufError::UnknownType(kind.to_owned()))?;
    let name = type_.name.trim_start_matches("io.k8s.").replace('-', "_");
    let message = TABLE.by_name.get(name.as_str()).ok_or_else(|| ProtobufError::UnknownType(kind.to_owned()))?;
    let mut object = message_value(*message, raw, 0)?;
    // What the client says it is goes before what it should be, so that a difference is refused.
    for field in Fields::new(of) {
        match field? {
            (1, WireField::Bytes(api_version)) => object["apiVersion"] = text(api_version)?.into(),
            (2, WireField::Bytes(kind)) => object["kind"] = text(kind)?.into(),
            _ => {}
        }
    }
    Ok(object)
}

/// The derived table, parsed when the first protobuf body comes.
static TABLE: LazyLock<Table> = LazyLock::new(|| Table::parse(include_str!("fields.txt")));

#[derive(Debug, Default)]
struct Table {
    messages: Vec<Message>,
    by_name: HashMap<&'static str, usize>,
}

#[derive(Debug)]
struct Message {
    name: &'static str,
    special: Option<Special>,
    fields: HashMap<u32, Field>,
}

#[derive(Debug)]
struct Field {
    name: &'static str,
    repeated: Repeated,
    type_: Type,
    /// The message's fields stand among those of the one around it.
    is_inline: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Repeated {
    No,
    List,
    Map,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Type {
    String,
    Bool,
    Bytes,
    /// Of any width; signed ones are sign-extended to 64 bits on the wire.
    Integer,
    Double,
    Message(usize),
}

/// Messages whose JSON is not an object of their fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Special {
    Quantity,
    Time,
    MicroTime,
    Duration,
    IntOrString,
    /// JSON text in field 1.
    Raw,
    /// A list in field 1.
    Items,
    SchemaOrArray,
    SchemaOrBool,
    SchemaOrTexts,
}

impl Special {
    fn of(message: &str) -> Option<Self> {
        Some(match message {
            "apimachinery.pkg.api.resource.Quantity" => Self::Quantity,
            "apimachinery.pkg.apis.meta.v1.Time" | "apimachinery.pkg.apis.meta.v1.Timestamp" => Self::Time,
            "apimachinery.pkg.apis.meta.v1.MicroTime" => Self::MicroTime,
            "apimachinery.pkg.apis.meta.v1.Duration" => Self::Duration,
            "apimachinery.pkg.util.intstr.IntOrString" => Self::IntOrString,
            "apimachinery.pkg.runtime.RawExtension"
            | "apimachinery.pkg.apis.meta.v1.FieldsV1"
            | "apiextensions_apiserver.pkg.apis.apiextensions.v1.JSON" => Self::Raw,
            "apiextensions_apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray" => Self::SchemaOrArray,
            "apiextensions_apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool" => Self::SchemaOrBool,
            "apiextensions_apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray" => Self::SchemaOrTexts,
            name if name.ends_with(".ExtraValue") || name.ends_with(".Verbs") => Self::Items,
            _ => return None,
        })
    }
}

/// Go structs that are embedded without a name of their own in JSON.
const INLINE: [&str; 9] = [
    "volumeSource",
    "handler",
    "localObjectReference",
    "persistentVolumeSource",
    "ephemeralContainerCommon",
    "rule",
    "ruleWithOperations",
    "ingressRuleValue",
    "deviceConfiguration",
];

/// Fields whose names in JSON are no names in protobuf.
fn json_name(message: &str, name: &'static str) -> &'static str {
    let is_schema = message.ends_with(".JSONSchemaProps");
    match name {
        "schema" if is_schema => "$schema",
        "ref" if is_schema => "$ref",
        "Webhooks" => "webhooks",
        "Expression" => "expression",
        "Name" => "name",
        "uID" => "uid",
        "aPIGroup" => "apiGroup",
        "xKubernetesPreserveUnknownFields" => "x-kubernetes-preserve-unknown-fields",
        "xKubernetesEmbeddedResource" => "x-kubernetes-embedded-resource",
        "xKubernetesIntOrString" => "x-kubernetes-int-or-string",
        "xKubernetesListMapKeys" => "x-kubernetes-list-map-keys",
        "xKubernetesListType" => "x-kubernetes-list-type",
        "xKubernetesMapType" => "x-kubernetes-map-type",
        "xKubernetesValidations" => "x-kubernetes-validations",
        name => name,
    }
}

impl Table {
    /// The table's own tests show that it parses, so lines that do not are left out.
    fn parse(text: &'static str) -> Self {
        let lines = || text.lines().filter(|line| !line.starts_with('#'));
        let mut table = Self::default();
        for name in lines().filter(|line| !line.starts_with(' ')) {
            table.by_name.insert(name, table.messages.len());
            table.messages.push(Message { name, special: Special::of(name), fields: HashMap::new() });
        }
        let mut message = 0;
        for line in lines() {
            match line.strip_prefix(' ') {
                None => message = table.by_name[line],
                Some(field) => {
                    if let Some((number, field)) = table.field(table.messages[message].name, field) {
                        table.messages[message].fields.insert(number, field);
                    }
                }
            }
        }
        table
    }

    fn field(&self, message: &str, line: &'static str) -> Option<(u32, Field)> {
        let mut parts = line.split(' ');
        let (number, name, type_) = (parts.next()?.parse().ok()?, parts.next()?, parts.next()?);
        let (repeated, type_) = match (type_.strip_prefix("[]"), type_.strip_prefix("{}")) {
            (Some(item), _) => (Repeated::List, item),
            (_, Some(value)) => (Repeated::Map, value),
            _ => (Repeated::No, type_),
        };
        let type_ = match type_ {
            "string" => Type::String,
            "bool" => Type::Bool,
            "bytes" => Type::Bytes,
            "int32" | "int64" | "uint32" => Type::Integer,
            "double" => Type::Double,
            name => Type::Message(*self.by_name.get(name)?),
        };
        let is_inline = matches!(type_, Type::Message(_)) && repeated == Repeated::No && INLINE.contains(&name);
        Some((number, Field { name: json_name(message, name), repeated, type_, is_inline }))
    }
}

fn message_value(message: usize, bytes: &[u8], depth: usize) -> Result<Value, ProtobufError> {
    if depth > DEPTH_MAX {
        return Err(ProtobufError::Depth);
    }
    let message = &TABLE.messages[message];
    let fields = fields_value(message, bytes, depth)?;
    match message.special {
        None => Ok(Value::Object(fields)),
        Some(special) => special_value(special, fields),
    }
}

fn fields_value(message: &Message, bytes: &[u8], depth: usize) -> Result<Map<String, Value>, ProtobufError> {
    let mut object = Map::new();
    for field in Fields::new(bytes) {
        let (number, wire) = field?;
        let Some(field) = message.fields.get(&number) else { continue };
        if field.repeated == Repeated::Map {
            let WireField::Bytes(entry) = wire else { return Err(WireError::Type.into()) };
            let (key, value) = entry_value(field.type_, entry, depth)?;
            let map = object.entry(field.name).or_insert_with(|| json!({}));
            map.as_object_mut().expect("only this line makes it").insert(key, value);
            continue;
        }
        let value = value(field.type_, wire, depth)?;
        match (field.repeated, value) {
            // An unset time.
            (Repeated::No, Value::Null) => {}
            (Repeated::No, Value::Object(fields)) if field.is_inline => object.extend(fields),
            (Repeated::No, value) => {
                object.insert(field.name.to_owned(), value);
            }
            (Repeated::List, value) => {
                let list = object.entry(field.name).or_insert_with(|| json!([]));
                list.as_array_mut().expect("only this line makes it").push(value);
            }
            (Repeated::Map, _) => unreachable!("handled above"),
        }
    }
    Ok(object)
}

fn entry_value(type_: Type, entry: &[u8], depth: usize) -> Result<(String, Value), ProtobufError> {
    let mut key = String::new();
    let mut found = match type_ {
        Type::Message(message) => message_value(message, &[], depth + 1)?,
        _ => json!(""),
    };
    for field in Fields::new(entry) {
        match field? {
            (1, WireField::Bytes(bytes)) => key = text(bytes)?,
            (2, wire) => found = value(type_, wire, depth)?,
            _ => {}
        }
    }
    Ok((key, found))
}

fn value(type_: Type, wire: WireField<'_>, depth: usize) -> Result<Value, ProtobufError> {
    Ok(match (type_, wire) {
        (Type::String, WireField::Bytes(bytes)) => text(bytes)?.into(),
        (Type::Bytes, WireField::Bytes(bytes)) => BASE64_STANDARD.encode(bytes).into(),
        (Type::Message(message), WireField::Bytes(bytes)) => message_value(message, bytes, depth + 1)?,
        (Type::Bool, WireField::Varint(number)) => (number != 0).into(),
        (Type::Integer, WireField::Varint(number)) => number.cast_signed().into(),
        (Type::Double, WireField::Fixed64(bits)) => {
            let number = f64::from_bits(bits);
            // JSON writes whole numbers without a point, and Go does so too.
            if number.fract() == 0.0 && number.abs() < 1e15 { json!(number as i64) } else { json!(number) }
        }
        _ => return Err(WireError::Type.into()),
    })
}

fn special_value(special: Special, mut fields: Map<String, Value>) -> Result<Value, ProtobufError> {
    let number = |fields: &Map<String, Value>, name: &str| fields.get(name).and_then(Value::as_i64).unwrap_or(0);
    Ok(match special {
        Special::Quantity => fields.remove("string").unwrap_or_else(|| "0".into()),
        Special::Time | Special::MicroTime => {
            let (seconds, nanos) = (number(&fields, "seconds"), number(&fields, "nanos"));
            let nanos = i32::try_from(nanos).unwrap_or(0);
            let format = if special == Special::Time { "%Y-%m-%dT%H:%M:%SZ" } else { "%Y-%m-%dT%H:%M:%S.%6fZ" };
            match Timestamp::new(seconds, nanos) {
                Ok(at) if (seconds, nanos) != (0, 0) => at.strftime(format).to_string().into(),
                _ => Value::Null,
            }
        }
        Special::Duration => {
            let nanos = number(&fields, "duration");
            format!("{}s", json!(nanos as f64 / 1e9)).into()
        }
        Special::IntOrString if number(&fields, "type") == 0 => number(&fields, "intVal").into(),
        Special::IntOrString => fields.remove("strVal").unwrap_or_else(|| "".into()),
        Special::Raw => {
            let base64 = fields.into_iter().next().map(|(_, value)| value);
            let text = base64.as_ref().and_then(Value::as_str).unwrap_or_default();
            match BASE64_STANDARD.decode(text) {
                Ok(bytes) if !bytes.is_empty() => serde_json::from_slice(&bytes)?,
                _ => Value::Null,
            }
        }
        Special::Items => fields.remove("items").unwrap_or_else(|| json!([])),
        Special::SchemaOrArray => either(&mut fields, "schema", "jSONSchemas"),
        Special::SchemaOrBool => either(&mut fields, "schema", "allows"),
        Special::SchemaOrTexts => either(&mut fields, "schema", "property"),
    })
}

fn either(fields: &mut Map<String, Value>, first: &str, second: &str) -> Value {
    fields.remove(first).or_else(|| fields.remove(second)).unwrap_or_default()
}

fn text(bytes: &[u8]) -> Result<String, ProtobufError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| ProtobufError::Text)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A length-delimited field with a number below 16.
    fn bytes(number: u8, content: &[u8]) -> Vec<u8> {
        let mut field = vec![number << 3 | 2, u8::try_from(content.len()).unwrap()];
        field.extend_from_slice(content);
        field
    }

    fn body(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let of = [bytes(1, api_version.as_bytes()), bytes(2, kind.as_bytes())].concat();
        [MAGIC.to_vec(), bytes(1, &of), bytes(2, raw)].concat()
    }

    #[test]
    fn every_line_of_the_table_is_understood() {
        let fields: usize = TABLE.messages.iter().map(|message| message.fields.len()).sum();
        let lines = include_str!("fields.txt").lines().filter(|line| line.starts_with(' '));
        let lists = lines.clone().filter(|line| line.ends_with("List")).count();
        assert_eq!(fields, lines.count() - lists);
    }

    /// The protobuf names one field that the API has dropped since.
    #[test]
    fn every_field_has_a_place_in_json() {
        const GONE: [&str; 1] = ["workloadRef"];
        let mut lost = Vec::new();
        for type_ in schema::types() {
            let name = type_.name.trim_start_matches("io.k8s.").replace('-', "_");
            let Some(message) = TABLE.by_name.get(name.as_str()).map(|at| &TABLE.messages[*at]) else { continue };
            let fields = message.fields.values().filter(|field| !field.is_inline && !GONE.contains(&field.name));
            lost.extend(
                fields.filter(|field| type_.field(field.name).is_none()).map(|field| (message.name, field.name)),
            );
        }
        assert!(lost.is_empty(), "{lost:?}");
    }

    #[test]
    fn an_object_is_what_its_json_would_be() {
        let metadata = [bytes(1, b"a"), bytes(8, &[]), bytes(11, &[bytes(1, b"k"), bytes(2, b"v")].concat())].concat();
        let raw = [bytes(1, &metadata), bytes(2, &[bytes(1, b"x"), bytes(2, b"y")].concat())].concat();
        let object = decode(&body("v1", "ConfigMap", &raw), ("", "v1", "ConfigMap")).unwrap();
        assert_eq!(
            object,
            json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "labels": {"k": "v"}},
                "data": {"x": "y"}})
        );
    }

    #[test]
    fn embedded_structs_have_no_name() {
        let volume = [bytes(1, b"v"), bytes(2, &bytes(2, &bytes(1, b"")))].concat();
        let spec = bytes(1, &volume);
        let object = decode(&body("v1", "Pod", &bytes(2, &spec)), ("", "v1", "Pod")).unwrap();
        assert_eq!(object["spec"]["volumes"], json!([{"name": "v", "emptyDir": {"medium": ""}}]));
    }

    #[test]
    fn special_types_are_written_as_json_writes_them() {
        let time = |nanos: i64| Map::from_iter([("seconds".to_owned(), json!(60)), ("nanos".to_owned(), json!(nanos))]);
        let int = Map::from_iter([("type".to_owned(), json!(0)), ("intVal".to_owned(), json!(80))]);
        let string = Map::from_iter([("type".to_owned(), json!(1)), ("strVal".to_owned(), json!("http"))]);
        let raw = Map::from_iter([("raw".to_owned(), json!(BASE64_STANDARD.encode("{\"a\":1}")))]);
        for (special, fields, expected) in [
            (Special::Time, time(0), json!("1970-01-01T00:01:00Z")),
            (Special::MicroTime, time(5000), json!("1970-01-01T00:01:00.000005Z")),
            (Special::Time, Map::new(), Value::Null),
            (Special::IntOrString, int, json!(80)),
            (Special::IntOrString, string, json!("http")),
            (Special::Raw, raw, json!({"a": 1})),
        ] {
            assert_eq!(special_value(special, fields).unwrap(), expected, "{special:?}");
        }
    }

    #[test]
    fn bad_bodies_are_refused() {
        for bad in [&b""[..], b"k8s", b"{}", b"k8s\0\x0a\xff", b"k8s\0\x12\x02\x0a\x09", b"k8s\0\x12\x01\x80"] {
            assert!(decode(bad, ("", "v1", "Pod")).is_err(), "{bad:?}");
        }
        assert!(decode(b"k8s\0", ("", "v1", "None")).is_err());
    }
}
