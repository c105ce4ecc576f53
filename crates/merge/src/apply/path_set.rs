//! A set of fields, kept in the form in which managedFields bear it (`fieldsV1`): an object
//! whose names are path elements (`f:` a field, `k:` a list's item by its keys, `v:` by its
//! value, `i:` by its index), and where "." says that an inner node itself is in the set.
//! What is stored is what is calculated with, so a write that changes nobody's fields parses
//! and prints nothing.
//!
//! Source: fieldpath/{set,serialize}.go in sigs.k8s.io/structured-merge-diff.

use serde_json::{Map, Value};

pub(super) type Nodes = Map<String, Value>;

/// Stands in an inner node that is itself in the set.
const ITSELF: &str = ".";

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Set(Nodes);

/// Why a `fieldsV1` cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    #[error("a set of fields must be an object")]
    NotAnObject,
    #[error("{0:?} is no path element")]
    Element(String),
}

impl Set {
    /// What this server (or upstream's) has written.
    pub fn stored(fields: Value) -> Self {
        match fields {
            Value::Object(nodes) => Self(nodes),
            _ => Self::default(),
        }
    }

    /// What a client has sent: checked, and brought to the spelling that equal elements share.
    pub fn parse(fields: &Value) -> Result<Self, SetError> {
        match fields {
            Value::Null => Ok(Self::default()),
            Value::Object(nodes) => {
                let mut nodes = parse(nodes)?;
                nodes.remove(ITSELF);
                Ok(Self(nodes))
            }
            _ => Err(SetError::NotAnObject),
        }
    }

    pub(super) fn of(nodes: Nodes) -> Self {
        Self(nodes)
    }
    pub(super) fn nodes(&self) -> &Nodes {
        &self.0
    }
    pub(super) fn into_nodes(self) -> Nodes {
        self.0
    }
    pub(super) fn nodes_mut(&mut self) -> &mut Nodes {
        &mut self.0
    }

    /// The set of the fields at these paths: names with dots between.
    pub fn fields(paths: &[&str]) -> Self {
        let mut set = Self::default();
        for path in paths {
            let mut one = Nodes::new();
            for (depth, name) in path.rsplit('.').enumerate() {
                let below = std::mem::take(&mut one);
                attach(&mut one, format!("f:{name}"), depth == 0, below);
            }
            set.unite(Self(one));
        }
        set
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn into_fields(self) -> Value {
        Value::Object(self.0)
    }

    pub fn unite(&mut self, other: Self) {
        unite(&mut self.0, other.0);
    }

    /// Takes out what is in `other`; what lies below a field of `other` stays.
    pub fn subtract(&mut self, other: &Self) {
        subtract(&mut self.0, &other.0);
    }

    /// Takes out what is in `other`, and all below it.
    pub fn subtract_trees(&mut self, other: &Self) {
        subtract_trees(&mut self.0, &other.0);
    }

    pub fn intersection(&self, other: &Self) -> Self {
        Self(intersection(&self.0, &other.0))
    }

    /// Keeps what lies on or below one of these paths: names with dots between, `*` for any element.
    pub fn keep(&mut self, patterns: &[&str]) {
        let patterns: Vec<Vec<&str>> = patterns.iter().map(|pattern| pattern.split('.').collect()).collect();
        let patterns: Vec<&[&str]> = patterns.iter().map(Vec::as_slice).collect();
        keep(&mut self.0, &patterns);
    }

    /// The paths in the set as messages name them: `.spec.containers[name="a"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        collect_paths(&self.0, "", &mut paths);
        paths
    }
}

/// Whether the node is itself in the set.
pub(super) fn is_member(node: &Nodes) -> bool {
    node.is_empty() || node.contains_key(ITSELF)
}

/// The elements below a node.
pub(super) fn below(node: &Nodes) -> impl Iterator<Item = (&String, &Nodes)> {
    node.iter().filter(|(name, _)| *name != ITSELF).filter_map(|(name, node)| Some((name, node.as_object()?)))
}

/// Adds a node, unless it is neither in the set nor has something below.
pub(super) fn attach(set: &mut Nodes, name: String, is_member: bool, mut below: Nodes) {
    if !is_member && below.is_empty() {
        return;
    }
    mark(&mut below, is_member);
    set.insert(name, Value::Object(below));
}

/// Says whether the node is itself in the set; an empty one always is.
fn mark(node: &mut Nodes, is_member: bool) {
    if !is_member {
        node.remove(ITSELF);
    } else if !node.is_empty() {
        node.insert(ITSELF.to_owned(), Value::Object(Nodes::new()));
    }
}

fn unite(set: &mut Nodes, other: Nodes) {
    for (name, other) in other {
        let Value::Object(other) = other else { continue };
        if name == ITSELF {
            continue;
        }
        match set.get_mut(&name).and_then(Value::as_object_mut) {
            Some(node) => {
                let either = is_member(node) || is_member(&other);
                unite(node, other);
                mark(node, either);
            }
            None => {
                set.insert(name, Value::Object(other));
            }
        }
    }
}

fn subtract(set: &mut Nodes, other: &Nodes) {
    for (name, other) in below(other) {
        let Some(node) = set.get_mut(name).and_then(Value::as_object_mut) else { continue };
        let stays = is_member(node) && !is_member(other);
        node.remove(ITSELF);
        subtract(node, other);
        restore(set, name, stays);
    }
}

fn subtract_trees(set: &mut Nodes, other: &Nodes) {
    for (name, other) in below(other) {
        if is_member(other) {
            set.remove(name);
            continue;
        }
        let Some(node) = set.get_mut(name).and_then(Value::as_object_mut) else { continue };
        let is_member = is_member(node);
        node.remove(ITSELF);
        subtract_trees(node, other);
        restore(set, name, is_member);
    }
}

/// Marks a node whose mark was taken away, or takes it out if nothing is left of it.
fn restore(set: &mut Nodes, name: &str, is_member: bool) {
    let Some(node) = set.get_mut(name).and_then(Value::as_object_mut) else { return };
    if is_member {
        mark(node, true);
    } else if node.is_empty() {
        set.remove(name);
    }
}

fn intersection(set: &Nodes, other: &Nodes) -> Nodes {
    let mut both = Nodes::new();
    for (name, other) in below(other) {
        let Some(node) = set.get(name).and_then(Value::as_object) else { continue };
        attach(&mut both, name.clone(), is_member(node) && is_member(other), intersection(node, other));
    }
    both
}

fn keep(set: &mut Nodes, patterns: &[&[&str]]) {
    set.retain(|name, node| {
        if name == ITSELF {
            return true;
        }
        let matches = |wanted: &str| wanted == "*" || name.strip_prefix("f:") == Some(wanted);
        let rest: Vec<&[&str]> = patterns
            .iter()
            .filter_map(|pattern| pattern.split_first().filter(|(first, _)| matches(first)).map(|(_, rest)| rest))
            .collect();
        let Value::Object(node) = node else { return false };
        if rest.is_empty() || rest.iter().any(|rest| rest.is_empty()) {
            return !rest.is_empty();
        }
        let is_member = is_member(node);
        node.remove(ITSELF);
        keep(node, &rest);
        let stays = is_member || !node.is_empty();
        mark(node, is_member);
        stays
    });
}

fn collect_paths(set: &Nodes, above: &str, paths: &mut Vec<String>) {
    let named: Vec<(String, &Nodes)> =
        below(set).map(|(name, node)| (format!("{above}{}", shown(name)), node)).collect();
    paths.extend(named.iter().filter(|(_, node)| is_member(node)).map(|(path, _)| path.clone()));
    for (path, node) in named {
        collect_paths(node, &path, paths);
    }
}

/// An element as a path shows it.
pub(super) fn shown(element: &str) -> String {
    let (kind, rest) = element.split_at_checked(2).unwrap_or((element, ""));
    match kind {
        "f:" => format!(".{rest}"),
        "k:" => {
            let keys: Nodes = serde_json::from_str(rest).unwrap_or_default();
            let keys: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
            format!("[{}]", keys.join(","))
        }
        "v:" => format!("[={rest}]"),
        _ => format!("[{rest}]"),
    }
}

/// The element of a list's item that is told by its keys.
pub(super) fn key_element(keys: Nodes) -> String {
    format!("k:{}", json(&Value::Object(keys)))
}

/// The element of a list's item that is told by its value.
pub(super) fn value_element(value: &Value) -> String {
    format!("v:{}", json(value))
}

/// JSON in upstream's spelling, which escapes what HTML would take for markup: equal elements are equal texts.
fn json(value: &Value) -> String {
    let text = value.to_string();
    if !text.contains(['<', '>', '&', '\u{2028}', '\u{2029}']) {
        return text;
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => escaped.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => escaped.push(c),
        }
    }
    escaped
}

fn parse(nodes: &Nodes) -> Result<Nodes, SetError> {
    let mut parsed = Nodes::new();
    for (name, node) in nodes {
        if name == ITSELF {
            parsed.insert(name.clone(), Value::Object(Nodes::new()));
            continue;
        }
        let bad = || SetError::Element(name.clone());
        let node = match node {
            Value::Object(node) => parse(node)?,
            Value::Null => Nodes::new(),
            _ => return Err(bad()),
        };
        let rest = name.get(2..).filter(|_| name.as_bytes()[1] == b':').ok_or_else(bad)?;
        let element = match name.as_bytes()[0] {
            b'f' => name.clone(),
            b'k' => key_element(serde_json::from_str(rest).map_err(|_| bad())?),
            b'v' => value_element(&serde_json::from_str(rest).map_err(|_| bad())?),
            b'i' => format!("i:{}", rest.parse::<i64>().map_err(|_| bad())?),
            // A later version may know these.
            _ => continue,
        };
        parsed.insert(element, Value::Object(node));
    }
    Ok(parsed)
}
