//! The field tables as OpenAPI schemas.

use std::collections::BTreeMap;

use api_types::{
    Resource,
    schema::{self, Field, ListType, Presence, Shape, Type, descriptions},
};
use serde_json::{Map, Value, json};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const QUANTITY: &str = "io.k8s.apimachinery.pkg.api.resource.Quantity";
const INT_OR_STRING: &str = "io.k8s.apimachinery.pkg.util.intstr.IntOrString";

/// Which version of OpenAPI is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    V2,
    V3,
}

/// The schemas that a document refers to, collected as it is written.
pub struct Components {
    pub style: Style,
    done: BTreeMap<String, Value>,
}

impl Components {
    pub fn new(style: Style) -> Self {
        Self { style, done: BTreeMap::new() }
    }

    pub fn finish(self) -> Map<String, Value> {
        self.done.into_iter().collect()
    }

    /// A reference to the schema of `name`, which is added with all that it needs.
    pub fn refer(&mut self, name: &str) -> Value {
        self.add(name);
        self.reference(name)
    }

    /// A reference to the schema of a row's kind. Kinds without a field table are objects of any form.
    pub fn refer_to_kind(&mut self, resource: &Resource) -> Value {
        if let Some(of) = schema::of_resource(resource) {
            return self.refer(&of.name);
        }
        let reversed: Vec<&str> = resource.group.rsplit('.').collect();
        let name = format!("{}.{}.{}", reversed.join("."), resource.version, resource.kind);
        let free = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true,
            "x-kubernetes-group-version-kind": [gvk(&resource.group, &resource.version, &resource.kind)]});
        self.done.entry(name.clone()).or_insert(free);
        self.reference(&name)
    }

    fn reference(&self, name: &str) -> Value {
        let prefix = match self.style {
            Style::V2 => "#/definitions",
            Style::V3 => "#/components/schemas",
        };
        json!({"$ref": format!("{prefix}/{name}")})
    }

    fn add(&mut self, name: &str) {
        if self.done.contains_key(name) {
            return;
        }
        // Stands in while the type's fields are added: types refer to themselves.
        self.done.insert(name.to_owned(), Value::Null);
        let schema = match schema::named(name) {
            Some(of) => self.object(of),
            None => leaf(name, self.style),
        };
        self.done.insert(name.to_owned(), schema);
    }

    fn object(&mut self, of: &Type) -> Value {
        let description = descriptions::of(&of.name);
        let mut schema = Map::new();
        if let Some(description) = description {
            schema.insert("description".to_owned(), json!(description.text));
        }
        schema.insert("type".to_owned(), json!("object"));
        let mut properties = Map::new();
        for field in &of.fields {
            let text = description.and_then(|description| description.field(&field.name)).unwrap_or_default();
            properties.insert(field.name.to_string(), self.property(field, text));
        }
        if !properties.is_empty() {
            schema.insert("properties".to_owned(), Value::Object(properties));
        }
        let required: Vec<&str> = of.fields.iter().filter(|field| field.required).map(|field| &*field.name).collect();
        if !required.is_empty() {
            schema.insert("required".to_owned(), json!(required));
        }
        if of.atomic {
            schema.insert("x-kubernetes-map-type".to_owned(), json!("atomic"));
        }
        let kinds: Vec<Value> = of.kinds.iter().map(|kind| gvk(&kind.group, &kind.version, &kind.kind)).collect();
        if !kinds.is_empty() {
            schema.insert("x-kubernetes-group-version-kind".to_owned(), json!(kinds));
        }
        Value::Object(schema)
    }

    fn property(&mut self, field: &Field, description: &str) -> Value {
        let mut schema = self.shape(&field.shape);
        let is_reference = schema.get("$ref").is_some();
        // In v3 nothing may stand beside a reference.
        if is_reference && self.style == Style::V3 {
            schema = json!({"allOf": [schema]});
            if field.presence == Presence::Always {
                schema["default"] = json!({});
            }
        }
        if !description.is_empty() {
            schema["description"] = json!(description);
        }
        if let Some(list) = field.list {
            schema["x-kubernetes-list-type"] = json!(match list {
                ListType::Atomic => "atomic",
                ListType::Set => "set",
                ListType::Map => "map",
            });
        }
        if !field.list_map_keys.is_empty() {
            schema["x-kubernetes-list-map-keys"] = json!(field.list_map_keys);
        }
        if field.atomic_map {
            schema["x-kubernetes-map-type"] = json!("atomic");
        }
        if let Some(key) = &field.patch_merge_key {
            schema["x-kubernetes-patch-merge-key"] = json!(key);
        }
        let strategy = &field.patch;
        let words: Vec<&str> =
            [(strategy.merge, "merge"), (strategy.retain_keys, "retainKeys"), (strategy.replace, "replace")]
                .into_iter()
                .filter_map(|(on, word)| on.then_some(word))
                .collect();
        if !words.is_empty() {
            schema["x-kubernetes-patch-strategy"] = json!(words.join(","));
        }
        schema
    }

    fn shape(&mut self, shape: &Shape) -> Value {
        match shape {
            Shape::String => json!({"type": "string"}),
            Shape::Int32 => json!({"type": "integer", "format": "int32"}),
            Shape::Int64 => json!({"type": "integer", "format": "int64"}),
            Shape::Double => json!({"type": "number", "format": "double"}),
            Shape::Bool => json!({"type": "boolean"}),
            Shape::Bytes => json!({"type": "string", "format": "byte"}),
            Shape::Quantity => self.refer(QUANTITY),
            Shape::IntOrString => self.refer(INT_OR_STRING),
            Shape::Time => self.refer(&format!("{META}.Time")),
            Shape::MicroTime => self.refer(&format!("{META}.MicroTime")),
            Shape::Raw => json!({"type": "object"}),
            Shape::Any => json!({}),
            Shape::Struct(of) => self.refer(&of.get().name),
            Shape::List(inner) => json!({"type": "array", "items": self.inner(inner)}),
            Shape::Map(inner) => json!({"type": "object", "additionalProperties": self.inner(inner)}),
        }
    }

    fn inner(&mut self, shape: &Shape) -> Value {
        let schema = self.shape(shape);
        match (self.style, schema.get("$ref").is_some()) {
            (Style::V3, true) => json!({"allOf": [schema], "default": {}}),
            _ => schema,
        }
    }
}

/// Types that are spelled as text or numbers.
fn leaf(name: &str, style: Style) -> Value {
    let kind = name.rsplit('.').next().unwrap_or(name);
    let mut schema = match kind {
        "Time" | "MicroTime" => json!({"type": "string", "format": "date-time"}),
        // v2 has no alternatives.
        "Quantity" if style == Style::V2 => json!({"type": "string"}),
        "IntOrString" if style == Style::V2 => json!({"type": "string", "format": "int-or-string"}),
        "Quantity" => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        "IntOrString" => json!({"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"}),
        _ => json!({"type": "object"}),
    };
    if let Some(description) = descriptions::of(name) {
        schema["description"] = json!(description.text);
    }
    schema
}

pub fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({"group": group, "version": version, "kind": kind})
}
