//! Strategic merge patch: a merge patch that knows the object's type, so that lists merge
//! item by item, and that carries directives (`$patch`, `$retainKeys`, `$setElementOrder/x`,
//! `$deleteFromPrimitiveList/x`).
//!
//! Source: apimachinery/pkg/util/strategicpatch.

use std::collections::{HashMap, HashSet};

use api_types::{
    ApiError,
    schema::{PatchStrategy, Shape, Type},
};
use serde_json::{Map, Value};

use crate::rejected;

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder/";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";

type Object = Map<String, Value>;

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StrategicError {
    #[error("invalid JSON document")]
    NotAnObject,
    #[error("invalid patch format of {0} list")]
    BadDirective(&'static str),
    #[error("lists of lists are not supported")]
    ListOfLists,
    #[error("list element types are not identical")]
    MixedList,
    #[error("map does not contain declared merge key: {0}")]
    NoMergeKey(String),
    #[error("cannot merge lists without merge key for {0}")]
    NoMergeKeyDeclared(String),
    #[error("unknown patch type: {0}")]
    UnknownDirective(String),
    #[error("merging lists cannot yet be specified in the patch")]
    MergeInList,
    #[error("the order in the patch list of {0} does not match its $setElementOrder list")]
    Order(String),
    #[error("patch content does not match the retainKeys list")]
    NotRetained,
    #[error("unable to find api field in struct {of} for the json field {field:?}")]
    UnknownField { field: String, of: String },
    #[error("{0} must be a list")]
    NotAList(String),
}

impl From<StrategicError> for ApiError {
    fn from(error: StrategicError) -> Self {
        match &error {
            StrategicError::NotAnObject | StrategicError::BadDirective(_) => ApiError::bad_request(error.to_string()),
            StrategicError::ListOfLists | StrategicError::NotRetained => rejected(),
            // The fault is in the request, but this is what clients of upstream's know.
            StrategicError::MixedList
            | StrategicError::NoMergeKey(_)
            | StrategicError::NoMergeKeyDeclared(_)
            | StrategicError::UnknownDirective(_)
            | StrategicError::MergeInList
            | StrategicError::Order(_)
            | StrategicError::UnknownField { .. }
            | StrategicError::NotAList(_) => ApiError::new(500, "", error.to_string()),
        }
    }
}

/// Works `patch` into `original`, an object of type `of`.
pub fn apply(of: &Type, original: Value, patch: Value) -> Result<Value, StrategicError> {
    match (original, patch) {
        (Value::Object(original), Value::Object(patch)) => {
            merge_map(Node::Struct(of), original, patch).map(Value::Object)
        }
        _ => Err(StrategicError::NotAnObject),
    }
}

/// Where we are in the object's type.
#[derive(Clone, Copy)]
enum Node<'a> {
    Struct(&'a Type),
    Map(&'a Shape),
    /// Nothing is known below: lists are replaced.
    Free,
}

/// How a field is merged.
#[derive(Clone, Copy, Default)]
struct Strategy<'a> {
    patch: PatchStrategy,
    merge_key: Option<&'a str>,
}

impl<'a> Node<'a> {
    fn of(shape: &'a Shape) -> Self {
        match shape {
            Shape::Struct(of) => Node::Struct(of.get()),
            Shape::Map(inner) => Node::Map(inner),
            Shape::List(inner) => Node::of(inner),
            _ => Node::Free,
        }
    }

    fn child(self, name: &str) -> Result<(Node<'a>, Strategy<'a>), StrategicError> {
        match self {
            Node::Struct(of) => {
                let unknown = || StrategicError::UnknownField { field: name.to_owned(), of: last_part(&of.name) };
                let field = of.field(name).ok_or_else(unknown)?;
                let strategy = Strategy { patch: field.patch, merge_key: field.patch_merge_key.as_deref() };
                Ok((Node::of(&field.shape), strategy))
            }
            Node::Map(inner) => Ok((Node::of(inner), Strategy::default())),
            Node::Free => Ok((Node::Free, Strategy::default())),
        }
    }

    fn name(self) -> String {
        match self {
            Node::Struct(of) => of.name.to_string(),
            Node::Map(_) | Node::Free => "map".to_owned(),
        }
    }
}

/// The struct's name without its package.
fn last_part(name: &str) -> String {
    name.rsplit('.').next().unwrap_or(name).to_owned()
}

fn merge_map(node: Node, mut original: Object, mut patch: Object) -> Result<Object, StrategicError> {
    if let Some(directive) = patch.remove(PATCH) {
        return match directive.as_str() {
            Some("replace") => Ok(patch),
            Some("delete") => Ok(Object::new()),
            _ => Err(StrategicError::UnknownDirective(directive.to_string())),
        };
    }
    if let Some(keys) = patch.remove(RETAIN_KEYS) {
        retain_keys(&mut original, &patch, &keys)?;
    }
    set_element_orders(node, &mut original, &mut patch)?;
    for (name, value) in patch {
        match name.strip_prefix(DELETE_FROM) {
            Some(list) => delete_from_list(&mut original, list, value)?,
            None => merge_field(node, &mut original, name, value)?,
        }
    }
    Ok(original)
}

fn merge_field(node: Node, original: &mut Object, name: String, patch: Value) -> Result<(), StrategicError> {
    if patch.is_null() {
        original.remove(&name);
        return Ok(());
    }
    let merged = match (original.get_mut(&name), patch) {
        (Some(Value::Object(old)), Value::Object(new)) => {
            let (child, strategy) = node.child(&name)?;
            match strategy.patch.replace {
                true => Some(Value::Object(new)),
                false => Some(Value::Object(merge_map(child, std::mem::take(old), new)?)),
            }
        }
        (Some(Value::Array(old)), Value::Array(new)) => {
            let (child, strategy) = node.child(&name)?;
            match strategy.patch.merge {
                true => Some(Value::Array(merge_list(child, strategy.merge_key, std::mem::take(old), new)?)),
                false => Some(Value::Array(new)),
            }
        }
        (_, new) => without_directives(without_nulls(new)),
    };
    match merged {
        Some(merged) => original.insert(name, merged),
        None => original.remove(&name),
    };
    Ok(())
}

/// Clears what the patch does not list; all that it sets must be listed.
fn retain_keys(original: &mut Object, patch: &Object, keys: &Value) -> Result<(), StrategicError> {
    let bad = || StrategicError::BadDirective("retainKeys");
    let keys: HashSet<&str> = keys.as_array().ok_or_else(bad)?.iter().filter_map(Value::as_str).collect();
    let is_set =
        |name: &str, value: &Value| !value.is_null() && !name.starts_with(DELETE_FROM) && !name.starts_with(SET_ORDER);
    if patch.iter().any(|(name, value)| is_set(name, value) && !keys.contains(name.as_str())) {
        return Err(StrategicError::NotRetained);
    }
    original.retain(|name, _| keys.contains(name.as_str()));
    Ok(())
}

fn delete_from_list(original: &mut Object, name: &str, items: Value) -> Result<(), StrategicError> {
    let Value::Array(items) = items else { return Err(StrategicError::BadDirective("primitive")) };
    if let Some(Value::Array(list)) = original.get_mut(name) {
        let deleted: HashSet<String> = items.iter().map(Value::to_string).collect();
        list.retain(|item| !deleted.contains(&item.to_string()));
    }
    Ok(())
}

/// Merges the lists that have a `$setElementOrder`, and takes them out of the patch.
fn set_element_orders(node: Node, original: &mut Object, patch: &mut Object) -> Result<(), StrategicError> {
    let names: Vec<String> = patch.keys().filter_map(|key| Some(key.strip_prefix(SET_ORDER)?.to_owned())).collect();
    for name in names {
        let Some(Value::Array(order)) = patch.remove(&format!("{SET_ORDER}{name}")) else {
            return Err(StrategicError::BadDirective("setElementOrder"));
        };
        let old = list(original.get_mut(&name), &name)?;
        // A null in the patch is left for the merge, which deletes the list.
        if patch.get(&name).is_some_and(Value::is_null) {
            continue;
        }
        let new = list(patch.get_mut(&name), &name)?;
        let (child, strategy) = node.child(&name)?;
        if let Some(new) = &new {
            check_order(&name, new, &order, strategy.merge_key)?;
        }
        let server_order = keys(old.as_deref().unwrap_or_default(), strategy.merge_key)?;
        patch.remove(&name);
        let merged = match (old, new) {
            (None, None) => continue,
            (Some(old), None) => old,
            (None, Some(new)) => new.into_iter().map(without_nulls).filter_map(without_directives).collect(),
            (Some(old), Some(new)) if strategy.patch.merge => merge_list(child, strategy.merge_key, old, new)?,
            (Some(_), Some(new)) => new,
        };
        let order = keys(&order, strategy.merge_key)?;
        original.insert(name, Value::Array(ordered(merged, &order, &server_order, strategy.merge_key)?));
    }
    Ok(())
}

/// Takes the list out; null is absent.
fn list(value: Option<&mut Value>, name: &str) -> Result<Option<Vec<Value>>, StrategicError> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Array(items)) => Ok(Some(std::mem::take(items))),
        Some(_) => Err(StrategicError::NotAList(name.to_owned())),
    }
}

/// What the patch keeps must appear in `order`, and in that order.
fn check_order(name: &str, patch: &[Value], order: &[Value], merge_key: Option<&str>) -> Result<(), StrategicError> {
    if order.is_empty() {
        return Ok(());
    }
    let mut order = order.iter();
    for item in patch.iter().filter(|item| item.get(PATCH).is_none()) {
        let key = key_of(item, merge_key)?;
        loop {
            let next = order.next().ok_or_else(|| StrategicError::Order(name.to_owned()))?;
            if key_of(next, merge_key)? == key {
                break;
            }
        }
    }
    Ok(())
}

fn merge_list(
    node: Node,
    merge_key: Option<&str>,
    mut original: Vec<Value>,
    patch: Vec<Value>,
) -> Result<Vec<Value>, StrategicError> {
    let objects = holds_objects(original.iter().chain(&patch))?;
    if !objects {
        let server_order = keys(&original, None)?;
        let patch_order = keys(&patch, None)?;
        let mut seen = HashSet::new();
        let mut merged: Vec<Value> = original.into_iter().chain(patch).collect();
        merged.retain(|item| seen.insert(item.to_string()));
        return ordered(merged, &patch_order, &server_order, None);
    }
    let Some(merge_key) = merge_key else { return Err(StrategicError::NoMergeKeyDeclared(node.name())) };
    let mut replace = false;
    let mut plain = Vec::with_capacity(patch.len());
    for item in patch {
        match item.get(PATCH) {
            None => plain.push(item),
            Some(Value::String(directive)) if directive == "delete" => {
                let key = key_of(&item, Some(merge_key))?;
                original.retain(|old| old.get(merge_key).map(Value::to_string).as_ref() != Some(&key));
            }
            Some(Value::String(directive)) if directive == "replace" => replace = true,
            Some(Value::String(directive)) if directive == "merge" => return Err(StrategicError::MergeInList),
            Some(other) => return Err(StrategicError::UnknownDirective(other.to_string())),
        }
    }
    if replace {
        return Ok(plain);
    }
    let server_order = keys(&original, Some(merge_key))?;
    let patch_order = keys(&plain, Some(merge_key))?;
    let mut merged = original;
    let mut positions: HashMap<String, usize> = HashMap::new();
    for (i, key) in server_order.iter().enumerate() {
        positions.entry(key.clone()).or_insert(i);
    }
    for (item, key) in plain.into_iter().zip(&patch_order) {
        match positions.get(key) {
            Some(position) => {
                let (Value::Object(old), Value::Object(new)) = (merged[*position].take(), item) else {
                    return Err(StrategicError::MixedList);
                };
                merged[*position] = Value::Object(merge_map(node, old, new)?);
            }
            None => {
                positions.insert(key.clone(), merged.len());
                merged.push(without_directives(without_nulls(item)).unwrap_or_default());
            }
        }
    }
    ordered(merged, &patch_order, &server_order, Some(merge_key))
}

/// Whether all items are objects; none may be a list, and all must be of one kind.
fn holds_objects<'a>(items: impl Iterator<Item = &'a Value>) -> Result<bool, StrategicError> {
    let mut first: Option<&Value> = None;
    for item in items {
        if item.is_array() {
            return Err(StrategicError::ListOfLists);
        }
        match first {
            None => first = Some(item),
            Some(first) if std::mem::discriminant(first) != std::mem::discriminant(item) => {
                return Err(StrategicError::MixedList);
            }
            Some(_) => {}
        }
    }
    Ok(first.is_some_and(Value::is_object))
}

/// The order that the patch gives, with the items that only the server has put in where they stood.
fn ordered(
    items: Vec<Value>,
    patch_order: &[String],
    server_order: &[String],
    merge_key: Option<&str>,
) -> Result<Vec<Value>, StrategicError> {
    let positions = |order: &[String]| -> HashMap<String, usize> {
        order.iter().enumerate().rev().map(|(i, key)| (key.clone(), i)).collect()
    };
    let (in_patch, on_server) = (positions(patch_order), positions(server_order));
    let mut from_patch = Vec::new();
    let mut server_only = Vec::new();
    for item in items {
        let key = key_of(&item, merge_key)?;
        match in_patch.get(&key) {
            Some(position) => from_patch.push((*position, on_server.get(&key).copied(), item)),
            None => server_only.push((on_server.get(&key).copied(), item)),
        }
    }
    from_patch.sort_by_key(|(position, ..)| *position);
    server_only.sort_by_key(|(position, _)| *position);
    let mut merged = Vec::with_capacity(from_patch.len() + server_only.len());
    let mut server_only = server_only.into_iter().peekable();
    for (_, patch_position, item) in from_patch {
        while let Some((Some(_), server_item)) =
            server_only.next_if(|(server, _)| matches!((server, patch_position), (Some(s), Some(p)) if *s < p))
        {
            merged.push(server_item);
        }
        merged.push(item);
    }
    merged.extend(server_only.map(|(_, item)| item));
    Ok(merged)
}

fn keys(items: &[Value], merge_key: Option<&str>) -> Result<Vec<String>, StrategicError> {
    items.iter().map(|item| key_of(item, merge_key)).collect()
}

/// What tells items of a list apart: the merge key's value, or the item itself.
fn key_of(item: &Value, merge_key: Option<&str>) -> Result<String, StrategicError> {
    match merge_key {
        None => Ok(item.to_string()),
        Some(key) => {
            let value = item.get(key).ok_or_else(|| StrategicError::NoMergeKey(key.to_owned()))?;
            Ok(value.to_string())
        }
    }
}

/// Nulls delete; where there was nothing they have no effect.
fn without_nulls(value: Value) -> Value {
    match value {
        Value::Object(fields) => {
            let kept = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Object(kept.map(|(name, value)| (name, without_nulls(value))).collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(without_nulls).collect()),
        scalar => scalar,
    }
}

/// The value that a patch means where there was none before; `None` if it only holds a directive.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(fields) if fields.contains_key(PATCH) => None,
        Value::Object(fields) => {
            let is_plain =
                |name: &String| !(name == RETAIN_KEYS || name.starts_with(SET_ORDER) || name.starts_with(DELETE_FROM));
            let plain = fields.into_iter().filter(|(name, _)| is_plain(name));
            Some(Value::Object(plain.filter_map(|(name, value)| Some((name, without_directives(value)?))).collect()))
        }
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(without_directives).collect())),
        scalar => Some(scalar),
    }
}

#[cfg(test)]
#[path = "strategic_tests.rs"]
mod tests;
