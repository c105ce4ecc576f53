//! Steps of defaulting and preparing: small edits of an object's JSON. An explicit
//! `null` counts as absent everywhere.

use api_types::Quantity;
use serde_json::{Map, Value, json};

/// Sets a field that is absent.
pub fn fill(object: &mut Value, field: &str, default: impl Into<Value>) {
    if let Some(object) = object.as_object_mut()
        && object.get(field).is_none_or(Value::is_null)
    {
        object.insert(field.to_owned(), default.into());
    }
}

/// Sets a text that is absent or empty.
pub fn fill_text(object: &mut Value, field: &str, default: &str) {
    if text(object, field).is_empty() {
        set(object, field, default);
    }
}

pub fn set(object: &mut Value, field: &str, value: impl Into<Value>) {
    if let Some(object) = object.as_object_mut() {
        object.insert(field.to_owned(), value.into());
    }
}

pub fn remove(object: &mut Value, field: &str) -> Option<Value> {
    object.as_object_mut()?.remove(field).filter(|value| !value.is_null())
}

/// Takes a field over from `source`, absence included.
pub fn copy(object: &mut Value, source: &Value, field: &str) {
    match source.get(field).filter(|value| !value.is_null()) {
        Some(value) => set(object, field, value.clone()),
        None => {
            remove(object, field);
        }
    }
}

/// A field that is there and not `null`.
pub fn field<'a>(object: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    object.get_mut(name).filter(|value| !value.is_null())
}

/// A child object, made if absent.
pub fn child<'a>(object: &'a mut Value, name: &str) -> &'a mut Value {
    if !object.is_object() {
        *object = json!({});
    }
    let value = object.as_object_mut().expect("made an object just now").entry(name).or_insert_with(|| json!({}));
    if value.is_null() {
        *value = json!({});
    }
    value
}

/// The items of a list, none if it is absent.
pub fn each<'a>(object: &'a mut Value, list: &str) -> impl Iterator<Item = &'a mut Value> {
    object.get_mut(list).and_then(Value::as_array_mut).into_iter().flatten()
}

/// The items of a list, none if it is absent.
pub fn list<'a>(object: &'a Value, field: &str) -> &'a [Value] {
    object.get(field).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

/// A field's text, or `""`.
pub fn text<'a>(object: &'a Value, field: &str) -> &'a str {
    object.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// The text at a JSON pointer, or `""`.
pub fn text_at<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

pub fn is_present(object: &Value, field: &str) -> bool {
    object.get(field).is_some_and(|value| !value.is_null())
}

pub fn map<'a>(object: &'a Value, field: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    object.get(field).and_then(Value::as_object).into_iter().flatten()
}

pub fn entries<'a>(object: &'a mut Value, field: &str) -> Option<&'a mut Map<String, Value>> {
    object.get_mut(field)?.as_object_mut()
}

/// A field that was single before dual stack, and the list whose first item it now is: each follows from the other.
pub fn pair(object: &mut Value, single: &str, several: &str, item: fn(&str) -> Value) {
    let first = list(object, several).first().cloned();
    match (text(object, single).to_owned(), first) {
        (one, _) if !one.is_empty() => {
            let one = item(&one);
            if list(object, several).first() != Some(&one) {
                set(object, several, vec![one]);
            }
        }
        (_, Some(first)) => {
            let first = first.as_str().map(str::to_owned).or_else(|| Some(first.get("ip")?.as_str()?.to_owned()));
            if let Some(first) = first {
                set(object, single, first);
            }
        }
        (_, None) => {}
    }
}

/// Brings every amount of a resource list to its canonical form, fractions of a thousandth rounded up.
pub fn canonical_amounts(object: &mut Value, field: &str) {
    for amount in entries(object, field).into_iter().flat_map(|map| map.values_mut()) {
        canonical_amount(amount);
    }
}

/// A number is a legal way to write an amount; it is kept as text.
pub fn canonical_amount(amount: &mut Value) {
    let written = match amount {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        _ => return,
    };
    if let Ok(quantity) = Quantity::parse(&written) {
        *amount = quantity.rounded_to_milli().to_string().into();
    }
}

/// Starts the count of an object's generations.
pub fn first_generation(object: &mut Value) {
    set(child(object, "metadata"), "generation", 1);
}

/// Keeps the generation, and counts up if `changed`.
pub fn next_generation(new: &mut Value, old: &Value, changed: bool) {
    let generation = old.pointer("/metadata/generation").and_then(Value::as_i64).unwrap_or(0);
    let generation = if changed { generation + 1 } else { generation };
    let metadata = child(new, "metadata");
    match generation {
        0 => {
            remove(metadata, "generation");
        }
        generation => set(metadata, "generation", generation),
    }
}
