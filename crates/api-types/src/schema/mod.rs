//! What the API's types look like, as data: fields with their types, how lists and maps are
//! merged, and which kind has which type. Built-in types come from a derived table; a
//! type made at run time takes the same code path.

use std::{
    borrow::Cow,
    collections::HashMap,
    sync::{Arc, LazyLock},
};

use crate::resources::{Resource, Text};

pub mod decode;
pub mod descriptions;
pub mod parse;
mod table;

pub use decode::{DecodeError, Decoded, Problem, decode};
pub use parse::{Parsed, parse};

/// A struct of the API.
#[derive(Clone, Debug, PartialEq)]
pub struct Type {
    /// The definition's name in the OpenAPI documents, such as `io.k8s.api.core.v1.Pod`.
    pub name: Text,
    /// Sorted by name; see [`Type::field`].
    pub fields: Vec<Field>,
    pub kinds: Vec<GroupVersionKind>,
    /// A value of this type is replaced as a whole.
    pub atomic: bool,
    pub unknown: Unknown,
}

/// What becomes of fields that a type does not name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// They are dropped and reported.
    Dropped,
    Kept,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GroupVersionKind {
    pub group: Text,
    pub version: Text,
    pub kind: Text,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Field {
    pub name: Text,
    pub shape: Shape,
    pub required: bool,
    pub presence: Presence,
    pub list: Option<ListType>,
    /// For server-side apply, where the list is a map.
    pub list_map_keys: Vec<Text>,
    /// What an item means that leaves the field out, where the field is one of the list-map-keys.
    pub key_default: Option<Text>,
    /// The map is replaced as a whole.
    pub atomic_map: bool,
    pub patch: PatchStrategy,
    /// For strategic merge; not always the same as the list-map-keys.
    pub patch_merge_key: Option<Text>,
}

/// What a field's value is.
#[derive(Clone, Debug, PartialEq)]
pub enum Shape {
    String,
    Int32,
    Int64,
    Double,
    Bool,
    /// Text in base64.
    Bytes,
    Quantity,
    IntOrString,
    /// RFC 3339 in whole seconds.
    Time,
    /// RFC 3339 in microseconds.
    MicroTime,
    /// An object that is kept as it came.
    Raw,
    /// Any value, kept as it came.
    Any,
    Struct(TypeRef),
    List(Box<Shape>),
    Map(Box<Shape>),
}

/// Types refer to each other, also in circles, so built-in ones are numbers in the table.
#[derive(Clone, Debug, PartialEq)]
pub enum TypeRef {
    BuiltIn(usize),
    Own(Arc<Type>),
}

impl TypeRef {
    pub fn get(&self) -> &Type {
        match self {
            TypeRef::BuiltIn(number) => &BUILT_IN.types[*number],
            TypeRef::Own(own) => own,
        }
    }
}

/// What an empty value of a field means when the object is written out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Presence {
    /// Empty is the same as absent, and is not written.
    OmitEmpty,
    /// Empty differs from absent, and is kept.
    Optional,
    /// Written even if absent, as the type's empty value.
    Always,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListType {
    Atomic,
    Set,
    Map,
}

/// How a strategic merge patch treats a field.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct PatchStrategy {
    /// Lists are merged by item.
    pub merge: bool,
    /// Union fields: the patch lists the keys that stay.
    pub retain_keys: bool,
    pub replace: bool,
}

impl Type {
    /// A field by its JSON name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        let i = self.fields.binary_search_by(|field| field.name.as_ref().cmp(name)).ok()?;
        Some(&self.fields[i])
    }
}

impl Shape {
    /// The struct in question, looking through lists and maps.
    pub fn innermost(&self) -> &Shape {
        match self {
            Shape::List(inner) | Shape::Map(inner) => inner.innermost(),
            leaf => leaf,
        }
    }
    pub fn as_struct(&self) -> Option<&Type> {
        match self {
            Shape::Struct(of) => Some(of.get()),
            _ => None,
        }
    }
}

/// All built-in types.
struct Types {
    types: Vec<Type>,
    by_name: HashMap<Text, usize>,
    by_kind: HashMap<GroupVersionKind, usize>,
}

static BUILT_IN: LazyLock<Types> = LazyLock::new(|| {
    let types = table::read();
    let by_name = types.iter().enumerate().map(|(i, of)| (of.name.clone(), i)).collect();
    let kinds = |(i, of): (usize, &Type)| of.kinds.clone().into_iter().map(move |kind| (kind, i)).collect::<Vec<_>>();
    let by_kind = types.iter().enumerate().flat_map(kinds).collect();
    Types { types, by_name, by_kind }
});

/// The type of a built-in kind.
pub fn of(group: &str, version: &str, kind: &str) -> Option<&'static Type> {
    let text = |text: &str| Cow::Owned(text.to_owned());
    let kind = GroupVersionKind { group: text(group), version: text(version), kind: text(kind) };
    BUILT_IN.by_kind.get(&kind).map(|i| &BUILT_IN.types[*i])
}

/// The type of a row's kind, if it is built in.
pub fn of_resource(resource: &Resource) -> Option<&'static Type> {
    of(&resource.group, &resource.version, &resource.kind)
}

/// A built-in type by its name in the OpenAPI documents.
pub fn named(name: &str) -> Option<&'static Type> {
    BUILT_IN.by_name.get(name).map(|i| &BUILT_IN.types[*i])
}

/// Every built-in type, sorted by name.
pub fn types() -> &'static [Type] {
    &BUILT_IN.types
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::resources::BUILT_IN;

    #[test]
    fn every_row_has_a_type() {
        for resource in BUILT_IN {
            let of = of_resource(resource).unwrap_or_else(|| panic!("no type for {}", resource.kind));
            assert!(of.field("metadata").is_some(), "{}", of.name);
        }
    }

    #[test]
    fn knows_how_pods_are_merged() {
        let pod = of("", "v1", "Pod").unwrap();
        assert_eq!(pod.name, "io.k8s.api.core.v1.Pod");
        let spec = pod.field("spec").unwrap().shape.as_struct().unwrap();
        let containers = spec.field("containers").unwrap();
        assert!(containers.required && containers.patch.merge);
        assert_eq!(containers.list, Some(ListType::Map));
        let container = containers.shape.innermost().as_struct().unwrap();
        let ports = container.field("ports").unwrap();
        assert_eq!(ports.patch_merge_key.as_deref(), Some("containerPort"));
        assert_eq!(ports.list_map_keys, ["containerPort", "protocol"]);
        assert!(spec.field("volumes").unwrap().patch.retain_keys);
        assert_eq!(spec.field("tolerations").unwrap().list, Some(ListType::Atomic));
        assert!(pod.field("imagee").is_none());
    }
}
