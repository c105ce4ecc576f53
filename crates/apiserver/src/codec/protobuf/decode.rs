//! Protobuf -> the same JSON values as the other formats give.

use api_types::{jiff::Timestamp, schema};
use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Map, Value, json};

use super::{
    ProtobufError,
    table::{Message, Repeated, Special, TABLE, Type},
    wire::{Field as WireField, Fields, WireError},
};

/// As deep as JSON may nest.
const DEPTH_MAX: usize = 128;

/// Reads one message as the object that its JSON would be.
pub fn message(message: usize, bytes: &[u8]) -> Result<Value, ProtobufError> {
    message_value(message, bytes, 0)
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
                // The zero time is a message without fields.
                Ok(at) if !fields.is_empty() => at.strftime(format).to_string().into(),
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
    match fields.remove(first) {
        Some(schema) => canonical_schema(schema),
        None => match fields.remove(second) {
            Some(Value::Array(items)) => items.into_iter().map(canonical_schema).collect(),
            other => other.unwrap_or_default(),
        },
    }
}

/// The field tables take such a value as it is, so what upstream writes for unset fields has to go here.
fn canonical_schema(value: Value) -> Value {
    match schema::named("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps") {
        Some(of) if value.is_object() => schema::decode(of, value.clone()).map_or(value, |decoded| decoded.value),
        _ => value,
    }
}

pub fn text(bytes: &[u8]) -> Result<String, ProtobufError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| ProtobufError::Text)
}
