//! Admission webhooks, and policies in their stead.
//!
//! Source: pkg/apis/admissionregistration/{v1/defaults.go,validation/validation.go}.

use std::collections::BTreeSet;

use api_types::{
    FieldError,
    k8s::admissionregistration::{RuleWithOperations, WebhookClientConfig},
    names,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    PLAIN, Rules,
    device::COUNTED,
    edit::{child, each, field, fill, fill_text, first_generation, list, next_generation, text},
    path::{Errors, Path, items},
    selector::label_selector,
    workload,
};

const WEBHOOK_TIMEOUT_S: i64 = 10;
const WEBHOOK_TIMEOUT_MAX_S: i64 = 30;
const CONDITIONS_MAX: usize = 64;
const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const SCOPES: [&str; 3] = ["*", "Cluster", "Namespaced"];

pub const VALIDATING_WEBHOOKS: Rules = Rules {
    default: |configuration| each(configuration, "webhooks").for_each(default_webhook),
    prepare_create: first_generation,
    prepare_update: count_webhooks,
    validate: validate_webhooks,
    validate_update: |configuration, _| validate_webhooks(configuration),
    unconditional_update: false,
    ..PLAIN
};

pub const MUTATING_WEBHOOKS: Rules = Rules {
    default: |configuration| {
        for webhook in each(configuration, "webhooks") {
            default_webhook(webhook);
            fill_text(webhook, "reinvocationPolicy", "Never");
        }
    },
    ..VALIDATING_WEBHOOKS
};

fn count_webhooks(new: &mut Value, old: &Value) {
    let changed = new.get("webhooks") != old.get("webhooks");
    next_generation(new, old, changed);
}

fn default_webhook(webhook: &mut Value) {
    fill_text(webhook, "failurePolicy", "Fail");
    fill_text(webhook, "matchPolicy", "Equivalent");
    fill(webhook, "namespaceSelector", json!({}));
    fill(webhook, "objectSelector", json!({}));
    fill(webhook, "timeoutSeconds", WEBHOOK_TIMEOUT_S);
    if let Some(service) = field(child(webhook, "clientConfig"), "service") {
        fill(service, "port", 443);
    }
    each(webhook, "rules").for_each(|rule| fill_text(rule, "scope", "*"));
}

fn validate_webhooks(configuration: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let mut seen = BTreeSet::new();
    for (i, webhook) in list(configuration, "webhooks").iter().enumerate() {
        let path = Path::root("webhooks");
        let path = path.index(i);
        let name = text(webhook, "name");
        errors.invalid_all(&path.field("name"), name, names::dns1123_subdomain(name));
        if names::dns1123_subdomain(name).is_empty() && name.split('.').count() < 3 {
            errors.invalid(
                &path.field("name"),
                name,
                "should be a domain with at least three segments separated by dots",
            );
        }
        if !seen.insert(name) {
            errors.duplicate(&path.field("name"), name);
        }
        validate_webhook(webhook, &path, &mut errors);
    }
    errors.0
}

fn validate_webhook(webhook: &Value, path: &Path, errors: &mut Errors) {
    for (i, rule) in list(webhook, "rules").iter().enumerate() {
        let rule = RuleWithOperations::deserialize(rule).unwrap_or_default();
        validate_rule(&rule, &path.field("rules").index(i), errors);
    }
    errors.one_of(&path.field("failurePolicy"), text(webhook, "failurePolicy"), &["Fail", "Ignore"]);
    errors.one_of(&path.field("matchPolicy"), text(webhook, "matchPolicy"), &["Equivalent", "Exact"]);
    match text(webhook, "sideEffects") {
        "" => errors.required(&path.field("sideEffects"), "must specify one of None, NoneOnDryRun"),
        side_effects => errors.one_of(&path.field("sideEffects"), side_effects, &["None", "NoneOnDryRun"]),
    }
    let timeout_s = webhook.get("timeoutSeconds").and_then(Value::as_i64).unwrap_or(WEBHOOK_TIMEOUT_S);
    if !(1..=WEBHOOK_TIMEOUT_MAX_S).contains(&timeout_s) {
        errors.invalid(&path.field("timeoutSeconds"), timeout_s, "the timeout value must be between 1 and 30 seconds");
    }
    let versions = list(webhook, "admissionReviewVersions");
    if versions.is_empty() {
        errors.required(&path.field("admissionReviewVersions"), "must specify one of v1, v1beta1");
    } else if !versions.iter().any(|version| version == "v1" || version == "v1beta1") {
        let detail = "must include at least one of v1, v1beta1";
        errors.invalid(&path.field("admissionReviewVersions"), versions, detail);
    }
    for selector in ["namespaceSelector", "objectSelector"] {
        let parsed = webhook.get(selector).and_then(|value| serde::Deserialize::deserialize(value).ok());
        label_selector(parsed.as_ref(), &path.field(selector), errors);
    }
    let conditions = list(webhook, "matchConditions");
    if conditions.len() > CONDITIONS_MAX {
        errors.too_many(&path.field("matchConditions"), conditions.len(), CONDITIONS_MAX);
    }
    for (i, condition) in conditions.iter().enumerate() {
        let path = path.field("matchConditions");
        let path = path.index(i);
        match text(condition, "name") {
            "" => errors.required(&path.field("name"), ""),
            name => errors.invalid_all(&path.field("name"), name, names::qualified_name(name)),
        }
        if text(condition, "expression").trim().is_empty() {
            errors.required(&path.field("expression"), "");
        }
    }
    let config = webhook.get("clientConfig").and_then(|config| WebhookClientConfig::deserialize(config).ok());
    validate_client(&config.unwrap_or_default(), &path.field("clientConfig"), errors);
}

fn validate_rule(rule: &RuleWithOperations, path: &Path, errors: &mut Errors) {
    let lists = [
        ("operations", items(&rule.operations)),
        ("apiGroups", items(&rule.api_groups)),
        ("apiVersions", items(&rule.api_versions)),
        ("resources", items(&rule.resources)),
    ];
    for (field, values) in lists {
        let path = path.field(field);
        if values.is_empty() {
            errors.required(&path, "");
        }
        if values.len() > 1 && values.iter().any(|value| value == "*") && field != "resources" {
            errors.invalid(&path, values, format!("if '*' is present, must not specify other {}", field_words(field)));
        }
        for (i, value) in values.iter().enumerate() {
            match field {
                "operations" => errors.one_of(&path.index(i), value, &OPERATIONS),
                "apiVersions" | "resources" if value.is_empty() => errors.required(&path.index(i), ""),
                _ => {}
            }
        }
    }
    if let Some(scope) = &rule.scope {
        errors.one_of(&path.field("scope"), scope, &SCOPES);
    }
}

fn field_words(field: &str) -> &str {
    match field {
        "apiGroups" => "API groups",
        "apiVersions" => "API versions",
        other => other,
    }
}

fn validate_client(config: &WebhookClientConfig, path: &Path, errors: &mut Errors) {
    match (&config.url, &config.service) {
        (None, None) | (Some(_), Some(_)) => {
            errors.required(path, "exactly one of url or service is required");
        }
        (Some(url), None) => {
            if !url.starts_with("https://") {
                let detail = "'https' is the only allowed URL scheme; desired format: https://host[/path]";
                errors.invalid(&path.field("url"), url, detail);
            }
        }
        (None, Some(service)) => {
            let path = path.field("service");
            for (field, value) in [("name", &service.name), ("namespace", &service.namespace)] {
                if value.is_empty() {
                    errors.required(&path.field(field), &format!("service {field} is required"));
                }
            }
            if let Some(port) = service.port {
                for message in names::port_number(i64::from(port)) {
                    errors.invalid(&path.field("port"), port, format!("port is not valid: {message}"));
                }
            }
            if service.path.as_ref().is_some_and(|value| !value.starts_with('/')) {
                errors.invalid(&path.field("path"), &service.path, "must start with a '/'");
            }
        }
    }
}

pub const ADMISSION_POLICY: Rules = Rules {
    default: |policy| {
        child(policy, "status");
        let spec = child(policy, "spec");
        fill_text(spec, "failurePolicy", "Fail");
        if let Some(constraints) = field(spec, "matchConstraints") {
            default_match(constraints);
        }
    },
    prepare_create: workload::prepare_create,
    prepare_update: workload::prepare_update,
    unconditional_update: false,
    ..PLAIN
};

pub const ADMISSION_POLICY_BINDING: Rules = Rules {
    default: |binding| {
        if let Some(resources) = field(child(binding, "spec"), "matchResources") {
            default_match(resources);
        }
    },
    unconditional_update: false,
    ..COUNTED
};

fn default_match(resources: &mut Value) {
    fill_text(resources, "matchPolicy", "Equivalent");
    fill(resources, "namespaceSelector", json!({}));
    fill(resources, "objectSelector", json!({}));
    for rules in ["resourceRules", "excludeResourceRules"] {
        each(resources, rules).for_each(|rule| fill_text(rule, "scope", "*"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::texts;

    #[test]
    fn webhooks() {
        let mut configuration = json!({"webhooks": [{"name": "a.b.c", "clientConfig": {"service": {"name": "s", "namespace": "n"}},
            "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}],
            "sideEffects": "None", "admissionReviewVersions": ["v1"]}]});
        (VALIDATING_WEBHOOKS.default)(&mut configuration);
        assert_eq!(configuration["webhooks"][0]["timeoutSeconds"], 10);
        assert_eq!(configuration["webhooks"][0]["rules"][0]["scope"], "*");
        assert_eq!(texts(validate_webhooks(&configuration)), [""; 0]);
        configuration["webhooks"][0]["name"] = json!("a");
        configuration["webhooks"][0]["timeoutSeconds"] = json!(31);
        assert_eq!(
            texts(validate_webhooks(&configuration)),
            [
                "webhooks[0].name: Invalid value: \"a\": should be a domain with at least three segments separated by dots",
                "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
            ]
        );
    }
}
