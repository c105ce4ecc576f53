//! Kinds that bring further kinds: custom resource definitions and aggregated APIs.
//!
//! Source: apiextensions-apiserver/pkg/apis/apiextensions/{v1/defaults.go,validation/validation.go},
//! kube-aggregator/pkg/apis/apiregistration/{v1/defaults.go,validation/validation.go}.

use api_types::{FieldError, names};
use serde_json::{Value, json};

use super::{
    PLAIN, Rules,
    edit::{child, copy, field, fill, fill_text, first_generation, is_present, list, set, text, text_at},
    facts::{Fact, Must, check, frozen, hold},
    networking::count_specs,
    path::{Errors, Path},
    take_status_alone,
    webhook::{client, mixed_case_label},
};

const SPEC: Path = Path::root("spec");
const STATUS: Path = Path::root("status");
const DEPRECATION_MAX: usize = 256;
const SELECTABLE_MAX: usize = 8;
const APPROVAL: &str = "api-approved.kubernetes.io";
const COLUMN_TYPES: [&str; 5] = ["boolean", "date", "integer", "number", "string"];
const COLUMN_FORMATS: [&str; 9] =
    ["byte", "date", "date-time", "double", "float", "int32", "int64", "password", "time"];

/// Custom resource definitions: names that follow from others, and a status that shows its parts.
pub const CUSTOM_RESOURCE_DEFINITION: Rules = Rules {
    default: |definition| {
        let spec = child(definition, "spec");
        fill_text(child(spec, "conversion"), "strategy", "None");
        if let Some(service) = spec.pointer_mut("/conversion/webhook/clientConfig/service") {
            fill(service, "port", 443);
        }
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
        keep_storage_version(new);
    },
    prepare_status_update: take_status_alone,
    validate: validate_definition,
    validate_update: |new, old| {
        let mut errors = validate_definition(new);
        // What has objects keeps its scope and kind; what has a path in the store keeps it.
        if is_established(old) {
            errors.extend(frozen(new, old, &["spec.scope", "spec.names.kind"]));
        }
        errors.extend(frozen(new, old, &["spec.group", "spec.names.plural"]));
        errors
    },
    validate_status_update: |new, _| {
        let mut errors = Errors::default();
        if let Some(status) = new.get("status") {
            hold(status, Some(&STATUS), &[Fact("acceptedNames", Must::Hold(NAMES))], &mut errors);
        }
        stored_versions(new, &mut errors);
        errors.0
    },
    unconditional_update: false,
    ..PLAIN
};

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
    prepare_status_update: take_status_alone,
    validate: validate_service,
    validate_update: |new, _| validate_service(new),
    validate_status_update: |new, _| {
        check(new, &[Fact("status.conditions[].status", Must::BeOneOf(&["True", "False", "Unknown"]))])
    },
    unconditional_update: false,
    ..PLAIN
};

/// A version that becomes the stored one is remembered as such.
fn keep_storage_version(definition: &mut Value) {
    let stored = list(&definition["spec"], "versions")
        .iter()
        .find(|version| version.get("storage") == Some(&true.into()))
        .map(|version| text(version, "name").to_owned());
    let status = child(definition, "status");
    let mut versions = list(status, "storedVersions").to_vec();
    if let Some(stored) = stored.filter(|stored| !versions.iter().any(|version| version == stored.as_str())) {
        versions.push(stored.into());
        set(status, "storedVersions", versions);
    }
}

fn is_established(definition: &Value) -> bool {
    let conditions = definition.get("status").map(|status| list(status, "conditions")).unwrap_or_default();
    conditions.iter().any(|condition| text(condition, "type") == "Established" && text(condition, "status") == "True")
}

fn label(name: &str) -> Vec<String> {
    let wrong = names::dns1035_label(name);
    if wrong.is_empty() { wrong } else { vec![wrong.join(",")] }
}

fn dotted(group: &str) -> Vec<String> {
    match names::dns1123_subdomain(group) {
        wrong if !wrong.is_empty() => vec![wrong.join(",")],
        _ if !group.contains('.') => vec!["should be a domain with at least one dot".to_owned()],
        _ => Vec::new(),
    }
}

const NAMES: &[Fact] = &[
    Fact("plural", Must::BeNamed(label)),
    Fact("singular", Must::BeNamed(label)),
    Fact("kind", Must::BeNamed(mixed_case_label)),
    Fact("listKind", Must::BeNamed(mixed_case_label)),
    Fact("shortNames[]", Must::BeNamed(label)),
    Fact("categories[]", Must::BeNamed(label)),
];
const DEFINITION: &[Fact] = &[
    Fact("spec.group", Must::ExistAs(dotted)),
    Fact("spec.scope", Must::ExistAsOneOf(&["Cluster", "Namespaced"])),
    Fact(
        "spec.versions[].name",
        Must::Pass(|name, path, errors| {
            let name = name.as_str().unwrap_or_default();
            errors.invalid_all(path, name, label(name));
        }),
    ),
    Fact("spec.versions[]", Must::Pass(deprecation)),
    Fact("spec.names.plural", Must::Exist("")),
    Fact("spec.names.singular", Must::Exist("")),
    Fact("spec.names.kind", Must::Exist("")),
    Fact("spec.names.listKind", Must::Exist("")),
    Fact("spec.names", Must::Hold(NAMES)),
    Fact("spec.conversion", Must::Pass(conversion)),
];
/// Of what every version has, under the names of upstream's internal form.
const PER_VERSION: [(&str, &str); 3] = [
    ("schema", "validation"),
    ("subresources", "subresources"),
    ("additionalPrinterColumns", "additionalPrinterColumns"),
];

fn validate_definition(definition: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let spec = &definition["spec"];
    let (name, group) = (text_at(definition, "/metadata/name"), text(spec, "group"));
    if name != format!("{}.{group}", text(&spec["names"], "plural")) {
        errors.invalid(&Path::root("metadata.name"), name, "must be spec.names.plural+\".\"+spec.group");
    }
    errors.0.extend(check(definition, DEFINITION));
    let (kind, list_kind) = (text(&spec["names"], "kind"), text(&spec["names"], "listKind"));
    if !kind.is_empty() && kind == list_kind {
        errors.invalid(&SPEC.field("names.listKind"), list_kind, "kind and listKind may not be the same");
    }
    versions(list(spec, "versions"), &mut errors);
    stored_versions(definition, &mut errors);
    let is_protected =
        ["k8s.io", "kubernetes.io"].iter().any(|domain| group == *domain || group.ends_with(&format!(".{domain}")));
    let annotations = &definition["metadata"]["annotations"];
    if is_protected && text(annotations, APPROVAL).is_empty() {
        let detail = "protected groups must have approval annotation \"api-approved.kubernetes.io\", see \
                      https://github.com/kubernetes/enhancements/pull/1111";
        errors.required(&Path::root("metadata.annotations").key(APPROVAL), detail);
    }
    if spec.get("preserveUnknownFields") == Some(&true.into()) {
        let detail = "cannot set to true, set x-kubernetes-preserve-unknown-fields to true in \
                      spec.versions[*].schema instead";
        errors.invalid(&SPEC.field("preserveUnknownFields"), true, detail);
    }
    errors.0
}

fn versions(versions: &[Value], errors: &mut Errors) {
    let path = SPEC.field("versions");
    for (i, version) in versions.iter().enumerate() {
        if version.pointer("/schema/openAPIV3Schema").is_none_or(Value::is_null) {
            errors.required(&path.index(i).field("schema.openAPIV3Schema"), "");
        }
    }
    // What all versions have alike is, inside upstream, said once and for all; errors name it so.
    for (field, whole) in PER_VERSION {
        let first = versions.first().and_then(|version| version.get(field)).filter(|part| !part.is_null());
        if let Some(first) = first.filter(|first| versions.iter().all(|version| version.get(field) == Some(first))) {
            part(field, first, &SPEC.field(whole), errors);
        } else {
            for (i, version) in versions.iter().enumerate().filter(|(_, version)| is_present(version, field)) {
                part(field, &version[field], &path.index(i).field(field), errors);
            }
        }
    }
    let names: Vec<&str> = versions.iter().map(|version| text(version, "name")).collect();
    if (1..names.len()).any(|i| names[..i].contains(&names[i])) {
        errors.invalid(&path, versions, "must contain unique version names");
    }
    if versions.iter().filter(|version| version.get("storage") == Some(&true.into())).count() != 1 {
        errors.invalid(&path, versions, "must have exactly one version marked as storage version");
    }
    for (i, version) in versions.iter().enumerate() {
        let fields = list(version, "selectableFields");
        let path = path.index(i);
        if fields.len() > SELECTABLE_MAX {
            errors.too_many(&path.field("selectableFields"), fields.len(), SELECTABLE_MAX);
        }
    }
}

fn part(field: &str, value: &Value, path: &Path, errors: &mut Errors) {
    match field {
        "schema" => {
            if let Some(schema) = value.get("openAPIV3Schema").filter(|schema| schema.is_object()) {
                let path = path.field("openAPIV3Schema");
                match text(schema, "type") {
                    "" => errors.required(&path.field("type"), "must not be empty at the root"),
                    "object" => {}
                    kind => errors.invalid(&path.field("type"), kind, "must be object at the root"),
                }
                typed(schema, &path, errors);
            }
        }
        "subresources" => {
            if let Some(scale) = value.get("scale").filter(|scale| !scale.is_null()) {
                let path = path.field("scale");
                for (field, start) in [("specReplicasPath", ".spec."), ("statusReplicasPath", ".status.")] {
                    match text(scale, field) {
                        "" => errors.required(&path.field(field), ""),
                        value if !value.starts_with(start) => {
                            let detail = format!("should be a json path under {}", start.trim_end_matches('.'));
                            errors.invalid(&path.field(field), value, detail);
                        }
                        _ => {}
                    }
                }
            }
        }
        _ => {
            for (i, column) in value.as_array().into_iter().flatten().enumerate() {
                printer_column(column, &path.index(i), errors);
            }
        }
    }
}

/// A structural schema says of every field what type it has.
///
/// Source: `ValidateStructural` in apiextensions-apiserver/pkg/apiserver/schema.
fn typed(schema: &Value, path: &Path, errors: &mut Errors) {
    let is_free = |schema: &Value| {
        ["x-kubernetes-int-or-string", "x-kubernetes-preserve-unknown-fields"]
            .iter()
            .any(|extension| schema.get(extension) == Some(&true.into()))
    };
    let mut descend = |schema: &Value, path: &Path, what: &str| {
        if schema.is_object() {
            if text(schema, "type").is_empty() && !is_free(schema) {
                errors.required(&path.field("type"), &format!("must not be empty for specified {what}"));
            }
            typed(schema, path, errors);
        }
    };
    for (name, property) in super::edit::map(schema, "properties") {
        descend(property, &path.field("properties").key(name), "object fields");
    }
    if let Some(items) = schema.get("items") {
        descend(items, &path.field("items"), "array items");
    }
    if let Some(values) = schema.get("additionalProperties") {
        descend(values, &path.field("additionalProperties"), "object fields");
    }
}

fn printer_column(column: &Value, path: &Path, errors: &mut Errors) {
    if text(column, "name").is_empty() {
        errors.required(&path.field("name"), "");
    }
    let must = format!("must be one of {}", COLUMN_TYPES.join(","));
    match text(column, "type") {
        "" => errors.required(&path.field("type"), &must),
        kind if !COLUMN_TYPES.contains(&kind) => errors.invalid(&path.field("type"), kind, must),
        _ => {}
    }
    let format = text(column, "format");
    if !format.is_empty() && !COLUMN_FORMATS.contains(&format) {
        errors.invalid(&path.field("format"), format, format!("must be one of {}", COLUMN_FORMATS.join(",")));
    }
    if text(column, "jsonPath").is_empty() {
        errors.required(&path.field("JSONPath"), "");
    }
}

fn deprecation(version: &Value, path: &Path, errors: &mut Errors) {
    let Some(warning) = version.get("deprecationWarning").and_then(Value::as_str) else { return };
    let path = path.field("deprecationWarning");
    for (is_wrong, detail) in [
        (version.get("deprecated") != Some(&true.into()), "can only be set for deprecated versions"),
        (warning.len() > DEPRECATION_MAX, "must be <= 256 characters long"),
        (warning.is_empty(), "must not be an empty string"),
        (warning.contains(char::is_control), "must only contain printable UTF-8 characters"),
    ] {
        if is_wrong {
            errors.invalid(&path, warning, detail);
        }
    }
}

fn conversion(conversion: &Value, path: &Path, errors: &mut Errors) {
    let webhook = conversion.get("webhook").filter(|webhook| !webhook.is_null());
    let strategy = text(conversion, "strategy");
    errors.required_one_of(&path.field("strategy"), strategy, &["None", "Webhook"]);
    let client_path = path.field("webhookClientConfig");
    if strategy != "Webhook" {
        if webhook.is_some() {
            errors.forbidden(&client_path, "should not be set when strategy is not set to Webhook");
        }
        return;
    }
    match webhook.and_then(|webhook| webhook.get("clientConfig")).filter(|config| !config.is_null()) {
        None => errors.required(&client_path, "required when strategy is set to Webhook"),
        Some(config) => client(config, &client_path, errors),
    }
    let versions = webhook.map(|webhook| list(webhook, "conversionReviewVersions")).unwrap_or_default();
    let path = path.field("conversionReviewVersions");
    if versions.is_empty() {
        errors.required(&path, "");
    } else if !versions.iter().any(|version| version == "v1" || version == "v1beta1") {
        errors.invalid(&path, versions, "must include at least one of v1, v1beta1");
    }
}

/// Versions in which objects may still be stored stay in the spec.
fn stored_versions(definition: &Value, errors: &mut Errors) {
    let path = STATUS.field("storedVersions");
    let stored = definition.get("status").map(|status| list(status, "storedVersions")).unwrap_or_default();
    if stored.is_empty() {
        return errors.invalid(&path, stored, "must have at least one stored version");
    }
    let versions = definition.get("spec").map(|spec| list(spec, "versions")).unwrap_or_default();
    for version in versions.iter().filter(|version| version.get("storage") == Some(&true.into())) {
        let name = text(version, "name");
        if !stored.iter().any(|stored| stored == name) {
            errors.invalid(&path, stored, format!("must have the storage version {name}"));
        }
    }
    for (i, stored) in stored.iter().enumerate() {
        if !versions.iter().any(|version| version.get("name") == Some(stored)) {
            let name = stored.as_str().unwrap_or_default();
            let detail = format!(
                "missing from spec.versions; {name} was previously a storage version, and must remain in spec.versions \
                 until a storage migration ensures no data remains persisted in {name} and removes {name} from \
                 status.storedVersions"
            );
            errors.invalid(&path.index(i), name, detail);
        }
    }
}

fn validate_service(service: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let spec = &service["spec"];
    let (group, version) = (text(spec, "group"), text(spec, "version"));
    let (name, wanted) = (text_at(service, "/metadata/name"), format!("{version}.{group}"));
    if name != wanted {
        let detail = format!("must be `spec.version+\".\"+spec.group`: {wanted:?}");
        errors.invalid(&Path::root("metadata.name"), name, detail);
    }
    match group {
        "" if version != "v1" => {
            errors.required(&SPEC.field("group"), "only v1 may have an empty group and it better be legacy kube");
        }
        "" => {}
        group => errors.invalid_all(&SPEC.field("group"), group, names::dns1123_subdomain(group)),
    }
    errors.invalid_all(&SPEC.field("version"), version, names::dns1035_label(version));
    for (field, max) in [("groupPriorityMinimum", 20_000), ("versionPriority", 1000)] {
        let priority = spec.get(field).and_then(Value::as_i64).unwrap_or(0);
        if !(1..=max).contains(&priority) {
            errors.invalid(&SPEC.field(field), priority, format!("must be positive and less than {max}"));
        }
    }
    let is_insecure = spec.get("insecureSkipTLSVerify") == Some(&true.into());
    let bundle_bytes = text(spec, "caBundle").len() / 4 * 3;
    match spec.get("service").filter(|service| !service.is_null()) {
        None => {
            if bundle_bytes > 0 {
                let detail = "local APIServices may not have a caBundle";
                errors.invalid(&SPEC.field("caBundle"), format!("{bundle_bytes} bytes"), detail);
            }
            if is_insecure {
                let detail = "local APIServices may not have insecureSkipTLSVerify";
                errors.invalid(&SPEC.field("insecureSkipTLSVerify"), true, detail);
            }
        }
        Some(reference) => {
            let path = SPEC.field("service");
            for field in ["namespace", "name"] {
                if text(reference, field).is_empty() {
                    errors.required(&path.field(field), "");
                }
            }
            let port = reference.get("port").and_then(Value::as_i64).unwrap_or(0);
            for why in names::port_number(port) {
                errors.invalid(&path.field("port"), port, format!("port is not valid: {why}"));
            }
            if is_insecure && bundle_bytes > 0 {
                errors.invalid(&SPEC.field("insecureSkipTLSVerify"), true, "may not be true if caBundle is present");
            }
        }
    }
    errors.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::texts;

    fn definition() -> Value {
        let mut definition = json!({"metadata": {"name": "foos.example.com"}, "spec": {"group": "example.com",
            "scope": "Namespaced", "names": {"kind": "Foo", "plural": "foos"},
            "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": {"type": "object"}}}]}});
        (CUSTOM_RESOURCE_DEFINITION.default)(&mut definition);
        (CUSTOM_RESOURCE_DEFINITION.prepare_create)(&mut definition);
        definition
    }

    #[test]
    fn definitions_are_named() {
        let definition = definition();
        assert_eq!(definition["spec"]["names"]["listKind"], "FooList");
        assert_eq!(definition["status"]["storedVersions"], json!(["v1"]));
        assert_eq!(texts(validate_definition(&definition)), [""; 0]);
    }

    #[test]
    fn definitions_make_sense() {
        let found = |change: fn(&mut Value)| {
            let mut definition = definition();
            change(&mut definition);
            texts(validate_definition(&definition))
        };
        assert_eq!(
            found(|definition| definition["metadata"]["name"] = json!("bars.example.com")),
            ["metadata.name: Invalid value: \"bars.example.com\": must be spec.names.plural+\".\"+spec.group"]
        );
        assert_eq!(
            found(|definition| definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"] =
                json!({"properties": {"a": {}, "b": {"type": "array", "items": {}}}})),
            [
                "spec.validation.openAPIV3Schema.type: Required value: must not be empty at the root",
                "spec.validation.openAPIV3Schema.properties[a].type: Required value: must not be empty for specified object fields",
                "spec.validation.openAPIV3Schema.properties[b].items.type: Required value: must not be empty for specified array items",
            ]
        );
        assert_eq!(
            found(|definition| definition["spec"]["versions"][0]["name"] = json!("v2")),
            [
                "status.storedVersions: Invalid value: [\"v1\"]: must have the storage version v2",
                "status.storedVersions[0]: Invalid value: \"v1\": missing from spec.versions; v1 was previously a storage version, and must remain in spec.versions until a storage migration ensures no data remains persisted in v1 and removes v1 from status.storedVersions",
            ]
        );
        let mut renamed = definition();
        renamed["spec"]["names"]["kind"] = json!("Bar");
        assert_eq!(texts((CUSTOM_RESOURCE_DEFINITION.validate_update)(&renamed, &definition())), [""; 0]);
        let mut established = definition();
        established["status"]["conditions"] = json!([{"type": "Established", "status": "True"}]);
        assert_eq!(
            texts((CUSTOM_RESOURCE_DEFINITION.validate_update)(&renamed, &established)),
            ["spec.names.kind: Invalid value: \"Bar\": field is immutable"]
        );
    }

    #[test]
    fn services() {
        let service =
            |name: &str, spec: Value| texts(validate_service(&json!({"metadata": {"name": name}, "spec": spec})));
        assert_eq!(
            service("v1.", json!({"version": "v1", "groupPriorityMinimum": 18000, "versionPriority": 1})),
            [""; 0]
        );
        assert_eq!(
            service(
                "v1.a",
                json!({"version": "v1", "group": "a.example", "groupPriorityMinimum": 1, "service": {"name": "s"}})
            ),
            [
                "metadata.name: Invalid value: \"v1.a\": must be `spec.version+\".\"+spec.group`: \"v1.a.example\"",
                "spec.versionPriority: Invalid value: 0: must be positive and less than 1000",
                "spec.service.namespace: Required value",
                "spec.service.port: Invalid value: 0: port is not valid: must be between 1 and 65535, inclusive",
            ]
        );
    }
}
