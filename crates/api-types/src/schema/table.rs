//! Reads the derived tables: `types.txt` has the fields, `presence.txt` says which empty
//! values matter.

use std::{borrow::Cow, collections::HashMap};

use super::{Field, GroupVersionKind, ListType, PatchStrategy, Presence, Shape, Type, TypeRef, Unknown};

/// A line per type, then an indented one per field; made by `cargo xtask schema`.
const TYPES: &str = include_str!("types.txt");
/// `type *field +field field=value`: `*` marks what is kept when empty, `+` what is always written, `=` what
/// an absent field means that tells the items of a list.
const PRESENCE: &str = include_str!("presence.txt");
/// Stands before every name in the tables that does not start with `io.`.
const COMMON_PREFIX: &str = "io.k8s.api.";

/// All types, sorted by name. Panics on a malformed table: it is part of the program.
pub(super) fn read() -> Vec<Type> {
    let blocks = blocks();
    let mut names: Vec<String> = blocks.iter().map(|(head, _)| full_name(word(head))).collect();
    names.sort_unstable();
    let numbers: HashMap<&str, usize> = names.iter().enumerate().map(|(i, name)| (name.as_str(), i)).collect();
    let presence = presence();
    let mut types: Vec<Type> =
        blocks.iter().map(|(head, fields)| read_type(head, fields, &numbers, &presence)).collect();
    types.sort_by(|a, b| a.name.cmp(&b.name));
    types
}

fn lines(table: &'static str) -> impl Iterator<Item = &'static str> {
    table.lines().filter(|line| !line.starts_with('#') && !line.is_empty())
}

/// Each type's line with the lines of its fields.
fn blocks() -> Vec<(&'static str, Vec<&'static str>)> {
    let mut blocks: Vec<(&str, Vec<&str>)> = Vec::new();
    for line in lines(TYPES) {
        match line.strip_prefix(' ') {
            Some(field) => blocks.last_mut().expect("types.txt starts with a type").1.push(field),
            None => blocks.push((line, vec![])),
        }
    }
    blocks
}

/// What `presence.txt` says of a field.
enum Mark {
    Presence(Presence),
    KeyDefault(&'static str),
}

/// (type, field) -> its mark, where it is not the rule.
fn presence() -> HashMap<(&'static str, &'static str), Mark> {
    let mut presence = HashMap::new();
    for line in lines(PRESENCE) {
        let of = word(line);
        for mark in line.split(' ').skip(1) {
            let (field, mark) = match (mark.split_once('='), mark.split_at(1)) {
                (Some((field, value)), _) => (field, Mark::KeyDefault(value)),
                (None, ("+", field)) => (field, Mark::Presence(Presence::Always)),
                (None, (_, field)) => (field, Mark::Presence(Presence::Optional)),
            };
            presence.insert((of, field), mark);
        }
    }
    presence
}

fn word(line: &'static str) -> &'static str {
    line.split(' ').next().unwrap_or(line)
}

fn full_name(name: &str) -> String {
    if name.starts_with("io.") { name.to_owned() } else { format!("{COMMON_PREFIX}{name}") }
}

fn read_type(
    head: &'static str,
    fields: &[&'static str],
    numbers: &HashMap<&str, usize>,
    presence: &HashMap<(&'static str, &'static str), Mark>,
) -> Type {
    let name = word(head);
    let mut fields: Vec<Field> = fields
        .iter()
        .map(|line| {
            let mut field = read_field(line, numbers);
            match presence.get(&(name, word(line).trim_end_matches('!'))) {
                Some(Mark::Presence(kept)) => field.presence = *kept,
                Some(Mark::KeyDefault(value)) => field.key_default = Some(Cow::Borrowed(value)),
                None => {}
            }
            field
        })
        .collect();
    fields.sort_by(|a, b| a.name.cmp(&b.name));
    let mut atomic = false;
    let mut kinds = Vec::new();
    for word in head.split(' ').skip(1) {
        let mut parts = word.split('/').map(Cow::Borrowed);
        match (parts.next(), parts.next(), parts.next()) {
            (Some(group), Some(version), Some(kind)) => kinds.push(GroupVersionKind { group, version, kind }),
            _ => atomic = true,
        }
    }
    Type { name: Cow::Owned(full_name(name)), fields, kinds, atomic, unknown: Unknown::Dropped }
}

fn read_field(line: &'static str, numbers: &HashMap<&str, usize>) -> Field {
    let mut words = line.split(' ');
    let name = words.next().expect("a line has a first word");
    let shape = read_shape(words.next().unwrap_or_else(|| panic!("{name} has no type")), numbers);
    let required = name.ends_with('!');
    let mut field = Field {
        name: Cow::Borrowed(name.trim_end_matches('!')),
        shape,
        required,
        presence: if required { Presence::Optional } else { Presence::OmitEmpty },
        list: None,
        list_map_keys: vec![],
        key_default: None,
        atomic_map: false,
        patch: PatchStrategy::default(),
        patch_merge_key: None,
    };
    for (word, value) in words.filter_map(|word| word.split_once('=')) {
        match word {
            "list" => {
                field.list = match value {
                    "atomic" => Some(ListType::Atomic),
                    "set" => Some(ListType::Set),
                    "map" => Some(ListType::Map),
                    other => panic!("{name}: unknown list type {other}"),
                }
            }
            "keys" => field.list_map_keys = value.split(',').map(Cow::Borrowed).collect(),
            "map" => field.atomic_map = value == "atomic",
            "merge" => field.patch_merge_key = Some(Cow::Borrowed(value)),
            "patch" => {
                field.patch = PatchStrategy {
                    merge: value.contains("merge"),
                    retain_keys: value.contains("retainKeys"),
                    replace: value.contains("replace"),
                }
            }
            other => panic!("{name}: unknown word {other}"),
        }
    }
    field
}

fn read_shape(text: &'static str, numbers: &HashMap<&str, usize>) -> Shape {
    if let Some(inner) = text.strip_prefix("[]") {
        return Shape::List(Box::new(read_shape(inner, numbers)));
    }
    if let Some(inner) = text.strip_prefix("{}") {
        return Shape::Map(Box::new(read_shape(inner, numbers)));
    }
    if let Some(name) = text.strip_prefix('@') {
        let number = numbers.get(full_name(name).as_str());
        return Shape::Struct(TypeRef::BuiltIn(*number.unwrap_or_else(|| panic!("{name} is not in types.txt"))));
    }
    match text {
        "string" => Shape::String,
        "int32" => Shape::Int32,
        "int64" => Shape::Int64,
        "double" => Shape::Double,
        "bool" => Shape::Bool,
        "bytes" => Shape::Bytes,
        "quantity" => Shape::Quantity,
        "int-or-string" => Shape::IntOrString,
        "time" => Shape::Time,
        "micro-time" => Shape::MicroTime,
        "raw" => Shape::Raw,
        "any" => Shape::Any,
        other => panic!("unknown type {other}"),
    }
}
