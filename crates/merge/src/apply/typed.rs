//! Objects seen through their type: which fields a value holds, what differs between two
//! values, what a configuration makes of a value, and what is left when fields are taken out.
//! Each is one walk over value and type together.
//!
//! Source: typed/{compare,merge,remove,tofieldset,validate}.go in sigs.k8s.io/structured-merge-diff.

use std::collections::{HashMap, HashSet};

use api_types::schema::{Field, ListType, Shape, Type, Unknown};
use serde_json::{Map, Value};

use super::path_set::{Nodes, Set, attach, below, is_member, key_element, shown, value_element};

/// What lies at a place of an object, as far as ownership goes.
#[derive(Clone, Copy)]
pub enum Node<'a> {
    /// Fields of their own types.
    Struct(&'a Type),
    /// Entries of one type, each owned for itself.
    Map(&'a Shape),
    /// A list whose items are told by some of their fields.
    Keyed(&'a Shape, Keys<'a>),
    /// A list whose items are told by their values.
    Values,
    /// One value, or a map or list that is owned as a whole.
    Leaf(Option<&'a Shape>),
    /// Nothing is known: objects are maps, all else is a leaf.
    Deduced,
}

/// The fields that tell the items of a list.
#[derive(Clone, Copy)]
pub enum Keys<'a> {
    Many(&'a [std::borrow::Cow<'static, str>]),
    One(&'a str),
}

impl<'a> Node<'a> {
    /// The type of a whole object; without one, what is owned is deduced from the values.
    pub fn root(of: Option<&'a Type>) -> Self {
        of.map_or(Node::Deduced, Node::Struct)
    }

    fn field(field: &'a Field) -> Self {
        match &field.shape {
            Shape::List(item) => match (field.list, field.patch.merge, field.patch_merge_key.as_deref()) {
                (Some(ListType::Map), ..) => Node::Keyed(item, Keys::Many(&field.list_map_keys)),
                (Some(ListType::Set), ..) | (None, true, None) => Node::Values,
                (None, true, Some(key)) => Node::Keyed(item, Keys::One(key)),
                (Some(ListType::Atomic), ..) | (None, false, _) => Node::Leaf(Some(&field.shape)),
            },
            Shape::Map(_) | Shape::Struct(_) | Shape::Raw if field.atomic_map => Node::Leaf(Some(&field.shape)),
            shape => Node::shape(shape),
        }
    }

    fn shape(shape: &'a Shape) -> Self {
        match shape {
            Shape::Struct(of) if !of.get().atomic => Node::Struct(of.get()),
            Shape::Map(inner) => Node::Map(inner),
            Shape::Raw | Shape::Any => Node::Deduced,
            shape => Node::Leaf(Some(shape)),
        }
    }

    /// The node of a field or entry; `None` if the type has no such field.
    fn child(self, name: &str) -> Option<Node<'a>> {
        match self {
            Node::Struct(of) => match of.field(name) {
                Some(field) => Some(Node::field(field)),
                None if of.unknown == Unknown::Kept => Some(Node::Deduced),
                None => None,
            },
            Node::Map(inner) => Some(Node::shape(inner)),
            _ => Some(Node::Deduced),
        }
    }

    fn has_field(self, name: &str) -> bool {
        matches!(self, Node::Struct(of) if of.field(name).is_some())
    }

    /// The node of a list's items.
    fn item(self) -> Node<'a> {
        match self {
            Node::Keyed(item, _) => Node::shape(item),
            _ => Node::Leaf(None),
        }
    }

    /// The node below an element of a set.
    fn below(self, element: &str) -> Option<Node<'a>> {
        match element.strip_prefix("f:") {
            Some(name) => self.child(name),
            None => Some(self.item()),
        }
    }

    /// The element of a list's item.
    fn element(self, item: &Value) -> Result<String, String> {
        let (shape, keys) = match self {
            Node::Keyed(shape, keys) => (shape, keys),
            _ => return value_item(item),
        };
        let Some(fields) = item.as_object() else {
            let why = if item.is_null() { "a null element" } else { "non-map elements" };
            return Err(format!("associative list with keys may not have {why}"));
        };
        let mut values = Nodes::new();
        let mut add = |key: &str| {
            let declared = || shape.as_struct()?.field(key)?.key_default.as_deref().map(Value::from);
            match fields.get(key).cloned().or_else(declared) {
                Some(value) => {
                    values.insert(key.to_owned(), value);
                    Ok(())
                }
                None => Err(format!(
                    "associative list with keys has an element that omits key field {key:?} (and doesn't have \
                     default value)"
                )),
            }
        };
        match keys {
            Keys::One(key) => add(key)?,
            Keys::Many(keys) => keys.iter().try_for_each(|key| add(key))?,
        }
        Ok(key_element(values))
    }
}

fn value_item(item: &Value) -> Result<String, String> {
    match item {
        Value::Object(_) => Err("associative list without keys has an element that's a map type".to_owned()),
        Value::Array(_) => Err("not supported: associative list with lists as elements".to_owned()),
        Value::Null => Err("associative list without keys has an element that's an explicit null".to_owned()),
        item => Ok(value_element(item)),
    }
}

/// What differs between an old and a new value; no field is in two of the sets.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Comparison {
    pub removed: Set,
    pub modified: Set,
    pub added: Set,
}

impl Comparison {
    /// Takes out fields and all below them.
    pub fn exclude(&mut self, fields: &Set) {
        self.each(|set| set.subtract_trees(fields));
    }

    pub fn each(&mut self, mut change: impl FnMut(&mut Set)) {
        change(&mut self.removed);
        change(&mut self.modified);
        change(&mut self.added);
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Change {
    None,
    Removed,
    Modified,
    Added,
}

/// Compares two objects of a type.
pub fn compare(node: Node, old: &Value, new: &Value) -> Comparison {
    let mut comparison = Comparison::default();
    compare_below(node, Some(old), Some(new), &mut comparison);
    comparison
}

fn compare_node(
    node: Node,
    name: impl FnOnce() -> String,
    old: Option<&Value>,
    new: Option<&Value>,
    above: &mut Comparison,
) {
    let mut comparison = Comparison::default();
    let is_leaf = compare_below(node, old, new, &mut comparison);
    let change = match (old, new) {
        (None, _) => Change::Added,
        (_, None) => Change::Removed,
        (old, new) if is_leaf && old != new => Change::Modified,
        _ => Change::None,
    };
    let Comparison { removed, modified, added } = comparison;
    if change == Change::None && removed.is_empty() && modified.is_empty() && added.is_empty() {
        return;
    }
    let name = name();
    attach(above.removed.nodes_mut(), name.clone(), change == Change::Removed, removed.into_nodes());
    attach(above.modified.nodes_mut(), name.clone(), change == Change::Modified, modified.into_nodes());
    attach(above.added.nodes_mut(), name, change == Change::Added, added.into_nodes());
}

/// Compares what lies below; true if the node is to be taken as one value.
fn compare_below(node: Node, old: Option<&Value>, new: Option<&Value>, out: &mut Comparison) -> bool {
    match node {
        Node::Leaf(_) => true,
        Node::Struct(_) | Node::Map(_) | Node::Deduced => {
            let [old_map, new_map] = [old, new].map(|value| value.and_then(Value::as_object));
            if [old_map, new_map].iter().all(|map| map.is_none_or(Map::is_empty)) {
                return true;
            }
            zip(old_map, new_map, |name, old, new| {
                let child = node.child(name).unwrap_or(Node::Deduced);
                compare_node(child, || format!("f:{name}"), old, new, out);
            });
            let is_other = |value: Option<&Value>| value.is_some_and(|value| !value.is_null() && !value.is_object());
            is_other(old) || is_other(new)
        }
        Node::Keyed(..) | Node::Values => {
            let [old, new] = [old, new].map(|value| value.and_then(Value::as_array).map_or(&[][..], Vec::as_slice));
            if old.is_empty() && new.is_empty() {
                return true;
            }
            if old != new {
                compare_items(node, old, new, out);
            }
            false
        }
    }
}

/// Walks two maps side by side.
fn zip<'v>(
    old: Option<&'v Nodes>,
    new: Option<&'v Nodes>,
    mut visit: impl FnMut(&'v str, Option<&'v Value>, Option<&'v Value>),
) {
    let mut old = old.into_iter().flatten().peekable();
    let mut new = new.into_iter().flatten().peekable();
    loop {
        let order = match (old.peek(), new.peek()) {
            (None, None) => return,
            (Some(_), None) => std::cmp::Ordering::Less,
            (None, Some(_)) => std::cmp::Ordering::Greater,
            (Some((old, _)), Some((new, _))) => old.cmp(new),
        };
        let left = if order.is_le() { old.next() } else { None };
        let right = if order.is_ge() { new.next() } else { None };
        if let Some((name, _)) = left.or(right) {
            visit(name, left.map(|(_, value)| value), right.map(|(_, value)| value));
        }
    }
}

/// Items that are there twice are compared as one value; items that cannot be told are passed over.
fn compare_items(node: Node, old: &[Value], new: &[Value], out: &mut Comparison) {
    let mut order: Vec<String> = Vec::new();
    let mut items: HashMap<String, [Vec<&Value>; 2]> = HashMap::new();
    for (side, list) in [old, new].into_iter().enumerate() {
        for item in list {
            let Ok(element) = node.element(item) else { continue };
            if !items.contains_key(&element) {
                order.push(element.clone());
            }
            items.entry(element).or_default()[side].push(item);
        }
    }
    for element in order {
        let [old, new] = &items[&element];
        let mut only = |old: Option<&Value>, new: Option<&Value>| {
            compare_node(node.item(), || element.clone(), old, new, out);
        };
        match (old.as_slice(), new.as_slice()) {
            ([] | [_], [] | [_]) => only(old.first().copied(), new.first().copied()),
            ([_, _, ..], [_, _, ..]) => {
                if old != new {
                    attach(out.modified.nodes_mut(), element, true, Nodes::new());
                }
            }
            ([_, _, ..], _) => {
                if let Some(new) = new.first() {
                    only(None, Some(new));
                }
                attach(out.removed.nodes_mut(), element, true, Nodes::new());
            }
            (_, [_, _, ..]) => {
                if let Some(old) = old.first() {
                    only(Some(old), None);
                }
                attach(out.added.nodes_mut(), element, true, Nodes::new());
            }
        }
    }
}

/// Every field that a value mentions.
pub fn fields(node: Node, value: &Value) -> Set {
    let mut set = Nodes::new();
    fields_below(node, value, &mut set);
    Set::of(set)
}

/// True if the node itself is owned.
fn fields_below(node: Node, value: &Value, out: &mut Nodes) -> bool {
    match (node, value) {
        (Node::Struct(_) | Node::Map(_) | Node::Deduced, Value::Object(map)) => {
            for (name, value) in map {
                let child = node.child(name).unwrap_or(Node::Deduced);
                let mut below = Nodes::new();
                let is_owned = fields_below(child, value, &mut below);
                let is_empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
                attach(out, format!("f:{name}"), is_owned || is_empty || !node.has_field(name), below);
            }
            false
        }
        (Node::Keyed(..) | Node::Values, Value::Array(items)) => {
            for item in items {
                let Ok(element) = node.element(item) else { continue };
                let mut below = Nodes::new();
                if out.contains_key(&element) {
                    // There twice: owned as a whole.
                    out.remove(&element);
                } else {
                    fields_below(node.item(), item, &mut below);
                }
                attach(out, element, true, below);
            }
            false
        }
        (Node::Struct(_) | Node::Map(_) | Node::Keyed(..) | Node::Values, _) => false,
        (Node::Leaf(_) | Node::Deduced, _) => true,
    }
}

/// What `config` makes of `live`: its values win, and nothing is taken away.
pub fn merge(node: Node, live: Value, config: &Value) -> Value {
    match (node, live, config) {
        (Node::Struct(_) | Node::Map(_) | Node::Deduced, Value::Object(mut live), Value::Object(config)) => {
            for (name, value) in config {
                let merged = match live.get_mut(name) {
                    Some(old) => merge(node.child(name).unwrap_or(Node::Deduced), old.take(), value),
                    None => value.clone(),
                };
                live.insert(name.clone(), merged);
            }
            Value::Object(live)
        }
        (Node::Keyed(..) | Node::Values, Value::Array(live), Value::Array(config)) => merge_items(node, live, config),
        (Node::Struct(_) | Node::Map(_) | Node::Deduced, live @ Value::Object(_), Value::Null)
        | (Node::Keyed(..) | Node::Values, live @ Value::Array(_), Value::Null) => live,
        (_, _, config) => config.clone(),
    }
}

/// Items in the order of the configuration, with those that it does not name where they stood.
fn merge_items(node: Node, live: Vec<Value>, config: &[Value]) -> Value {
    let element = |item: &Value| node.element(item).unwrap_or_default();
    let wanted: Vec<String> = config.iter().map(element).collect();
    let found: Vec<String> = live.iter().map(element).collect();
    let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
    for (place, name) in found.iter().enumerate() {
        places.entry(name).or_default().push(place);
    }
    let is_wanted: HashSet<&str> = wanted.iter().map(String::as_str).collect();
    let mut live: Vec<Option<Value>> = live.into_iter().map(Some).collect();
    // An item that is there twice is replaced, not merged.
    let merged = |live: &mut Vec<Option<Value>>, at: usize| {
        let old = match places.get(wanted[at].as_str()).map(Vec::as_slice) {
            Some([place]) => live[*place].take(),
            _ => None,
        };
        old.map_or_else(|| config[at].clone(), |old| merge(node.item(), old, &config[at]))
    };
    let mut shared = wanted.iter().filter(|name| places.contains_key(name.as_str())).peekable();
    let mut done = HashSet::new();
    let mut out = Vec::new();
    let (mut l, mut c) = (0, 0);
    while l < found.len() || c < wanted.len() {
        if l < found.len() && c < wanted.len() && found[l] != wanted[c] {
            // Shared, but another one is next in the configuration's order.
            if is_wanted.contains(found[l].as_str()) && shared.peek().is_some_and(|next| **next != found[l]) {
                l += 1;
                continue;
            }
        }
        if l < found.len() && !is_wanted.contains(found[l].as_str()) {
            out.extend(live[l].take());
            l += 1;
            continue;
        }
        if l < found.len() && (done.contains(found[l].as_str()) || c < wanted.len() && found[l] == wanted[c]) {
            l += 1;
        }
        if c < wanted.len() && done.insert(wanted[c].as_str()) {
            out.push(merged(&mut live, c));
            shared.next_if(|next| **next == wanted[c]);
        }
        c += usize::from(c < wanted.len());
    }
    Value::Array(out)
}

/// Takes the fields of a set out of a value.
pub fn remove(node: Node, value: &mut Value, set: &Set) {
    remove_below(node, value, set.nodes());
}

fn remove_below(node: Node, value: &mut Value, set: &Nodes) {
    let is_left = match (node, &mut *value) {
        (Node::Struct(_) | Node::Map(_) | Node::Deduced, Value::Object(map)) => {
            map.retain(|name, value| {
                let Some(taken) = set.get(&format!("f:{name}")).and_then(Value::as_object) else { return true };
                if is_member(taken) {
                    return false;
                }
                remove_below(node.child(name).unwrap_or(Node::Deduced), value, taken);
                true
            });
            !map.is_empty()
        }
        (Node::Keyed(..) | Node::Values, Value::Array(items)) => {
            items.retain_mut(|item| {
                let Some(taken) = node.element(item).ok().and_then(|element| set.get(&element)?.as_object()) else {
                    return true;
                };
                if is_member(taken) {
                    return false;
                }
                remove_below(node.item(), item, taken);
                true
            });
            !items.is_empty()
        }
        (Node::Leaf(_), Value::Object(_) | Value::Array(_)) => false,
        _ => true,
    };
    if !is_left {
        *value = Value::Null;
    }
}

/// The set with every named field that has something in the set below it.
pub fn with_named_fields(node: Node, set: &Set) -> Set {
    Set::of(named(Some(node), set.nodes()))
}

fn named(node: Option<Node>, set: &Nodes) -> Nodes {
    let mut out = Nodes::new();
    for (element, inner) in below(set) {
        let is_named = || element.strip_prefix("f:").is_some_and(|name| node.is_some_and(|node| node.has_field(name)));
        let child = node.and_then(|node| node.below(element));
        attach(&mut out, element.clone(), is_member(inner) || is_named(), named(child, inner));
    }
    out
}

/// Whoever owned something below what is now owned as a whole, owns that.
pub fn reconcile(node: Node, set: &mut Set) {
    reconcile_below(node, set.nodes_mut());
}

fn reconcile_below(node: Node, set: &mut Nodes) {
    for (element, inner) in set.iter_mut() {
        let Value::Object(inner) = inner else { continue };
        if inner.is_empty() {
            continue;
        }
        match node.below(element) {
            Some(Node::Leaf(_)) => inner.clear(),
            Some(Node::Deduced) | None => {}
            Some(child) => reconcile_below(child, inner),
        }
    }
}

/// What a configuration has against its type, with paths; empty if all is well.
pub fn problems(node: Node, value: &Value) -> Vec<String> {
    let mut found = Vec::new();
    check(node, value, "", &mut found);
    found
}

fn check(node: Node, value: &Value, path: &str, found: &mut Vec<String>) {
    let mut refuse = |why: String| found.push(if path.is_empty() { why } else { format!("{path}: {why}") });
    match (node, value) {
        (_, Value::Null) | (Node::Deduced, _) | (Node::Leaf(None), _) => {}
        (Node::Struct(_) | Node::Map(_), Value::Object(map)) => {
            for (name, value) in map {
                let path = format!("{path}.{name}");
                match node.child(name) {
                    Some(child) => check(child, value, &path, found),
                    None => found.push(format!("{path}: field not declared in schema")),
                }
            }
        }
        (Node::Keyed(..) | Node::Values, Value::Array(items)) => {
            let mut seen = HashSet::new();
            for (at, item) in items.iter().enumerate() {
                match node.element(item) {
                    Err(why) => return found.push(format!("{path}: element {at}: {why}")),
                    Ok(element) => {
                        let shown = shown(&element);
                        check(node.item(), item, &format!("{path}{shown}"), found);
                        if !seen.insert(element) {
                            found.push(format!("{path}: duplicate entries for key {shown}"));
                        }
                    }
                }
            }
        }
        (Node::Struct(_) | Node::Map(_), value) => refuse(format!("expected map, got {value}")),
        (Node::Keyed(..) | Node::Values, value) => refuse(format!("expected list, got {value}")),
        (Node::Leaf(Some(shape)), value) => check_leaf(shape, value, path, found),
    }
}

/// A single value, or what is owned as a whole: it is checked all the same.
fn check_leaf(shape: &Shape, value: &Value, path: &str, found: &mut Vec<String>) {
    let is_scalar = !value.is_object() && !value.is_array();
    let expected = match (shape, value) {
        (_, Value::Null) | (Shape::Raw | Shape::Any, _) => return,
        (Shape::List(inner), Value::Array(items)) => {
            for (at, item) in items.iter().enumerate() {
                check(Node::shape(inner), item, &format!("{path}[{at}]"), found);
            }
            return;
        }
        (Shape::Struct(of), Value::Object(_)) => return check(Node::Struct(of.get()), value, path, found),
        (Shape::Map(inner), Value::Object(_)) => return check(Node::Map(inner), value, path, found),
        (Shape::String | Shape::Bytes, Value::String(_)) | (Shape::Bool, Value::Bool(_)) => return,
        (Shape::Int32 | Shape::Int64 | Shape::Double, Value::Number(_)) => return,
        (Shape::Quantity | Shape::IntOrString | Shape::Time | Shape::MicroTime, _) if is_scalar => return,
        (Shape::Quantity | Shape::IntOrString | Shape::Time | Shape::MicroTime, _) => "any scalar",
        (Shape::String | Shape::Bytes, _) => "string",
        (Shape::Bool, _) => "boolean",
        (Shape::Int32 | Shape::Int64 | Shape::Double, _) => "numeric (int or float)",
        (Shape::List(_), _) => "list",
        (Shape::Struct(_) | Shape::Map(_), _) => "map",
    };
    found.push(format!("{path}: expected {expected}, got {value}"));
}
