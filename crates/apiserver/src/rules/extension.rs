//! Kinds that bring further kinds: custom resource definitions and aggregated APIs.

use api_types::names;
use serde_json::{Value, json};

use super::{
    PLAIN, Rules,
    edit::{child, copy, field, fill, fill_text, first_generation, list, set, text},
    networking::count_specs,
};

/// Custom resource definitions: names that follow from others, and a status that shows its parts.
///
/// Source: apiextensions-apiserver/pkg/apis/apiextensions/v1/defaults.go.
pub const CUSTOM_RESOURCE_DEFINITION: Rules = Rules {
    default: |definition| {
        let spec = child(definition, "spec");
        fill_text(child(spec, "conversion"), "strategy", "None");
        let names = child(spec, "names");
        let kind = text(names, "kind").to_owned();
        if !kind.is_empty() {
            fill_text(names, "singular", &kind.to_lowercase());
            fill_text(names, "listKind", &format!("{kind}List"));
        }
    },
    prepare_create: |definition| {
        first_generation(definition);
        let stored: Vec<String> = list(&definition["spec"], "versions")
            .iter()
            .filter(|version| version.get("storage").and_then(Value::as_bool) == Some(true))
            .map(|version| text(version, "name").to_owned())
            .collect();
        let accepted = json!({ "plural": "", "kind": "" });
        set(definition, "status", json!({ "conditions": null, "acceptedNames": accepted, "storedVersions": stored }));
    },
    prepare_update: |new, old| {
        copy(new, old, "status");
        count_specs(new, old);
    },
    unconditional_update: false,
    ..PLAIN
};

/// Source: kube-aggregator/pkg/apis/apiregistration/v1/defaults.go.
pub const API_SERVICE: Rules = Rules {
    // The core group's is "v1.".
    name: names::path_segment,
    default: |service| {
        if let Some(reference) = field(child(service, "spec"), "service") {
            fill(reference, "port", 443);
        }
        child(service, "status");
    },
    prepare_create: |service| set(service, "status", json!({})),
    prepare_update: |new, old| copy(new, old, "status"),
    unconditional_update: false,
    ..PLAIN
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn definitions_are_named() {
        let mut definition = json!({"spec": {"names": {"kind": "Foo", "plural": "foos"}, "versions": [{"name": "v1", "storage": true}]}});
        (CUSTOM_RESOURCE_DEFINITION.default)(&mut definition);
        (CUSTOM_RESOURCE_DEFINITION.prepare_create)(&mut definition);
        assert_eq!(definition["spec"]["names"]["listKind"], "FooList");
        assert_eq!(definition["status"]["storedVersions"], json!(["v1"]));
    }
}
