//! What the API's own documentation says of types and fields, for `kubectl explain` and the
//! columns of tables. It comes with the structs; the field tables have no prose.

use std::{collections::HashMap, sync::LazyLock};

use schemars::SchemaGenerator;
use serde_json::Value;

use crate::{k8s, resources};

/// The documentation of one type.
#[derive(Debug, Default)]
pub struct Description {
    pub text: String,
    fields: HashMap<String, String>,
}

impl Description {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }
}

/// By the type's name in the OpenAPI documents. Made when first asked for: it is a megabyte of text.
pub fn of(type_name: &str) -> Option<&'static Description> {
    static DESCRIPTIONS: LazyLock<HashMap<String, Description>> = LazyLock::new(read);
    DESCRIPTIONS.get(type_name)
}

fn read() -> HashMap<String, Description> {
    let mut generator = SchemaGenerator::default();
    resources::add_schemas(&mut generator);
    // Kinds that have no row: what subresources and every request speak.
    generator.subschema_for::<k8s::autoscaling::Scale>();
    generator.subschema_for::<k8s::policy::Eviction>();
    generator.subschema_for::<k8s::authentication::TokenRequest>();
    generator.subschema_for::<k8s::meta::DeleteOptions>();
    generator.subschema_for::<k8s::meta::ListMeta>();
    generator.subschema_for::<k8s::meta::Status>();
    let definitions = generator.take_definitions(false).into_iter();
    definitions.map(|(name, schema)| (name, description(&schema))).collect()
}

fn description(schema: &Value) -> Description {
    let text = |schema: &Value| schema.get("description").and_then(Value::as_str).unwrap_or_default().to_owned();
    let fields = schema.get("properties").and_then(Value::as_object).into_iter().flatten();
    Description { text: text(schema), fields: fields.map(|(name, field)| (name.clone(), text(field))).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema;

    #[test]
    fn every_kind_and_its_fields_are_described() {
        for resource in resources::BUILT_IN {
            let of_type = schema::of_resource(resource).expect("every row has a type");
            let description = of(&of_type.name).unwrap_or_else(|| panic!("{} is not described", of_type.name));
            assert!(!description.text.is_empty(), "{}", of_type.name);
            for field in &of_type.fields {
                assert!(description.field(&field.name).is_some(), "{}.{}", of_type.name, field.name);
            }
        }
        assert!(of("io.k8s.api.core.v1.PodSpec").unwrap().field("nodeName").unwrap().contains("node"));
        assert!(of("nope").is_none());
    }
}
