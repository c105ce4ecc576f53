//! Admission webhooks, and policies in their stead.
//!
//! Source: pkg/apis/admissionregistration/{v1/defaults.go,validation/validation.go}.

use api_types::{FieldError, names};
use serde_json::{Value, json};

use super::{
    PLAIN, Rules,
    device::COUNTED,
    edit::{child, each, field, fill, fill_text, first_generation, list, next_generation, text, text_at},
    facts::{self, CONDITIONS, Fact, Must, check},
    path::{Errors, Path},
    take_status_alone, workload,
};

const WEBHOOK_TIMEOUT_S: i64 = 10;
const CONDITIONS_MAX: usize = 64;
const AUDIT_ANNOTATIONS_MAX: usize = 20;
const AUDIT_EXPRESSION_MAX: usize = 5 * 1024;
const POLICIES: [&str; 2] = ["Fail", "Ignore"];
const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const REASONS: [&str; 3] = ["Forbidden", "Invalid", "RequestEntityTooLarge"];
const SPEC: Path = Path::root("spec");

pub const VALIDATING_WEBHOOKS: Rules = Rules {
    default: |configuration| each(configuration, "webhooks").for_each(default_webhook),
    prepare_create: first_generation,
    prepare_update: |new, old| {
        let changed = new.get("webhooks") != old.get("webhooks");
        next_generation(new, old, changed);
    },
    validate: |configuration| check(configuration, WEBHOOKS),
    validate_update: |configuration, _| check(configuration, WEBHOOKS),
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

pub const ADMISSION_POLICY: Rules = Rules {
    default: |policy| {
        child(policy, "status");
        default_policy(policy);
    },
    prepare_create: workload::prepare_create,
    prepare_update: workload::prepare_update,
    prepare_status_update: take_status_alone,
    validate: validate_policy,
    validate_update: |policy, _| validate_policy(policy),
    validate_status_update: |policy, _| check(policy, POLICY_STATUS),
    unconditional_update: false,
    ..PLAIN
};

pub const MUTATING_POLICY: Rules = Rules {
    default: default_policy,
    validate: |policy| check(policy, MUTATING),
    validate_update: |policy, _| check(policy, MUTATING),
    unconditional_update: false,
    ..COUNTED
};

pub const ADMISSION_POLICY_BINDING: Rules = Rules {
    default: |binding| {
        let spec = child(binding, "spec");
        if let Some(resources) = field(spec, "matchResources") {
            default_match(resources);
        }
    },
    validate: |binding| check(binding, BINDING),
    validate_update: |binding, _| check(binding, BINDING),
    unconditional_update: false,
    ..COUNTED
};

pub const MUTATING_POLICY_BINDING: Rules = Rules {
    validate: |binding| check(binding, MUTATING_BINDING),
    validate_update: |binding, _| check(binding, MUTATING_BINDING),
    ..ADMISSION_POLICY_BINDING
};

fn default_webhook(webhook: &mut Value) {
    fill_text(webhook, "failurePolicy", "Fail");
    fill(webhook, "timeoutSeconds", WEBHOOK_TIMEOUT_S);
    if let Some(service) = field(child(webhook, "clientConfig"), "service") {
        fill(service, "port", 443);
    }
    default_match(webhook);
    each(webhook, "rules").for_each(|rule| fill_text(rule, "scope", "*"));
}

fn default_policy(policy: &mut Value) {
    let spec = child(policy, "spec");
    fill_text(spec, "failurePolicy", "Fail");
    if let Some(constraints) = field(spec, "matchConstraints") {
        default_match(constraints);
    }
}

fn default_match(resources: &mut Value) {
    fill_text(resources, "matchPolicy", "Equivalent");
    fill(resources, "namespaceSelector", json!({}));
    fill(resources, "objectSelector", json!({}));
    for rules in ["resourceRules", "excludeResourceRules"] {
        each(resources, rules).for_each(|rule| fill_text(rule, "scope", "*"));
    }
}

const WEBHOOKS: &[Fact] = &[Fact("webhooks[]", Must::Hold(WEBHOOK)), Fact("webhooks", Must::HoldUnique("name"))];
const WEBHOOK: &[Fact] = &[
    Fact("name", Must::ExistAs(three_segments)),
    Fact("rules[]", Must::Pass(rule)),
    Fact("failurePolicy", Must::BeOneOf(&POLICIES)),
    Fact("matchPolicy", Must::BeOneOf(&["Equivalent", "Exact"])),
    Fact("sideEffects", Must::Exist("must specify one of None, NoneOnDryRun")),
    Fact("sideEffects", Must::BeOneOf(&["None", "NoneOnDryRun"])),
    Fact("timeoutSeconds", Must::LieWithin(1, 30, "the timeout value must be between 1 and 30 seconds")),
    Fact("namespaceSelector", Must::Select),
    Fact("objectSelector", Must::Select),
    Fact("reinvocationPolicy", Must::BeOneOf(&["IfNeeded", "Never"])),
    Fact("admissionReviewVersions", Must::Exist("must specify one of v1, v1beta1")),
    Fact("admissionReviewVersions", Must::Pass(review_versions)),
    Fact("clientConfig", Must::Pass(client)),
    Fact("matchConditions", Must::Pass(match_conditions)),
];

const MATCH: &[Fact] = &[
    Fact("matchPolicy", Must::ExistAsOneOf(&["Equivalent", "Exact"])),
    Fact("namespaceSelector", Must::Select),
    Fact("objectSelector", Must::Select),
    Fact("resourceRules[]", Must::Hold(NAMED_RULE)),
    Fact("excludeResourceRules[]", Must::Hold(NAMED_RULE)),
    Fact("resourceRules[]", Must::Pass(rule)),
    Fact("excludeResourceRules[]", Must::Pass(rule)),
];
const NAMED_RULE: &[Fact] =
    &[Fact("resourceNames[]", Must::BeNamed(names::path_segment)), Fact("resourceNames", Must::HoldUnique(""))];
const PARAM_KIND: &[Fact] =
    &[Fact("apiVersion", Must::ExistAs(group_version)), Fact("kind", Must::ExistAs(mixed_case_label))];
const VARIABLE: &[Fact] = &[
    Fact("name", Must::Exist("name is not specified")),
    Fact("name", Must::BeNamed(cel_identifier)),
    Fact("expression", Must::Pass(not_blank)),
    Fact("expression", Must::Exist("expression is not specified")),
];
/// What both sorts of policies say.
const POLICY: &[Fact] = &[
    Fact("failurePolicy", Must::ExistAsOneOf(&POLICIES)),
    Fact("paramKind", Must::Hold(PARAM_KIND)),
    Fact("matchConstraints", Must::Exist("")),
    Fact("matchConstraints", Must::Hold(MATCH)),
    Fact("matchConstraints", Must::Hold(&[Fact("resourceRules", Must::Exist(""))])),
    Fact("matchConditions", Must::Pass(match_conditions)),
    Fact("variables[]", Must::Hold(VARIABLE)),
];
const VALIDATING: &[Fact] = &[
    Fact("spec", Must::Hold(POLICY)),
    Fact(
        "spec.validations[]",
        Must::Hold(&[
            Fact("expression", Must::Exist("expression is not specified")),
            Fact("expression", Must::Pass(not_blank)),
            Fact("message", Must::Pass(one_line)),
            Fact("reason", Must::BeOneOf(&REASONS)),
        ]),
    ),
    Fact("spec.auditAnnotations", Must::HoldUnique("key")),
];
const POLICY_STATUS: &[Fact] = &[
    Fact("status", Must::Hold(CONDITIONS)),
    Fact(
        "status.typeChecking.expressionWarnings[]",
        Must::Hold(&[Fact("fieldRef", Must::Exist("")), Fact("warning", Must::Exist(""))]),
    ),
];
const MUTATING: &[Fact] = &[
    Fact("spec", Must::Hold(POLICY)),
    Fact("spec.mutations", Must::Exist("mutations must contain at least one item")),
    Fact(
        "spec.mutations[]",
        Must::Hold(&[Fact("patchType", Must::ExistAsOneOf(&["ApplyConfiguration", "JSONPatch"]))]),
    ),
    Fact("spec.mutations[]", Must::Pass(mutation)),
    Fact("spec.reinvocationPolicy", Must::ExistAsOneOf(&["IfNeeded", "Never"])),
];
const MUTATING_BINDING: &[Fact] = &[
    Fact("spec.policyName", Must::ExistAs(names::dns1123_subdomain)),
    Fact("spec.paramRef", Must::Pass(param_ref)),
    Fact("spec.matchResources", Must::Hold(MATCH)),
];
const BINDING: &[Fact] = &[
    Fact("spec.policyName", Must::ExistAs(names::dns1123_subdomain)),
    Fact("spec.paramRef", Must::Pass(param_ref)),
    Fact("spec.matchResources", Must::Hold(MATCH)),
    Fact("spec.validationActions", Must::Exist("at least one validation action is required")),
    Fact("spec.validationActions[]", Must::BeOneOf(&["Audit", "Deny", "Warn"])),
    Fact("spec.validationActions", Must::HoldUnique("")),
    Fact("spec.validationActions", Must::Pass(actions)),
];

fn as_text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn validate_policy(policy: &Value) -> Vec<FieldError> {
    let mut errors = Errors(check(policy, VALIDATING));
    let spec = &policy["spec"];
    let annotations = list(spec, "auditAnnotations");
    if annotations.is_empty() && list(spec, "validations").is_empty() {
        for field in ["validations", "auditAnnotations"] {
            let detail = "validations or auditAnnotations must contain at least one item";
            errors.required(&SPEC.field(field), detail);
        }
    }
    let path = SPEC.field("auditAnnotations");
    if annotations.len() > AUDIT_ANNOTATIONS_MAX {
        let detail = format!("must not have more than {AUDIT_ANNOTATIONS_MAX} auditAnnotations");
        errors.invalid(&path, annotations, detail);
    }
    for (i, annotation) in annotations.iter().enumerate() {
        let path = path.index(i);
        // What is written to the audit log bears the policy's name.
        let key = format!("{}/{}", text_at(policy, "/metadata/name"), text(annotation, "key"));
        errors.invalid_all(&path.field("key"), key.as_str(), names::qualified_name(&key));
        let expression = text(annotation, "valueExpression").trim();
        if expression.is_empty() {
            errors.required(&path.field("valueExpression"), "valueExpression is not specified");
        } else if expression.len() > AUDIT_EXPRESSION_MAX {
            errors.required(&path.field("valueExpression"), "must not exceed 5kb in length");
        }
    }
    errors.0
}

fn three_segments(name: &str) -> Vec<String> {
    match names::dns1123_subdomain(name) {
        wrong if !wrong.is_empty() => vec![wrong.join(",")],
        _ if name.split('.').count() < 3 => {
            vec!["should be a domain with at least three segments separated by dots".to_owned()]
        }
        _ => Vec::new(),
    }
}

/// Also the kinds that a custom resource definition names.
pub fn mixed_case_label(kind: &str) -> Vec<String> {
    let wrong = names::dns1035_label(&kind.to_lowercase()).join(",");
    let words = format!("may have mixed case, but should otherwise match: {wrong}");
    if wrong.is_empty() { Vec::new() } else { vec![words] }
}

fn group_version(api_version: &str) -> Vec<String> {
    let (group, version) = match api_version.split('/').collect::<Vec<_>>()[..] {
        [version] => ("", version),
        [group, version] => (group, version),
        _ => return vec![format!("unexpected GroupVersion string: {api_version}")],
    };
    let mut errors = if group.is_empty() { Vec::new() } else { names::dns1123_subdomain(group) };
    match version {
        "" => errors.push("version must be specified".to_owned()),
        version => errors.extend(names::dns1035_label(version)),
    }
    errors
}

fn cel_identifier(name: &str) -> Vec<String> {
    let is_plain = name.bytes().all(|byte| byte == b'_' || byte.is_ascii_alphanumeric());
    if is_plain && !name.starts_with(|first: char| first.is_ascii_digit()) {
        return Vec::new();
    }
    vec!["name is not a valid CEL identifier".to_owned()]
}

fn not_blank(expression: &Value, path: &Path, errors: &mut Errors) {
    let expression = as_text(expression);
    if !expression.is_empty() && expression.trim().is_empty() {
        errors.required(path, "expression is not specified");
    }
}

fn one_line(message: &Value, path: &Path, errors: &mut Errors) {
    let message = as_text(message);
    if !message.is_empty() && message.trim().is_empty() {
        errors.invalid(path, message, "message must be non-empty if specified");
    } else if message.trim().contains(['\n', '\r']) {
        errors.invalid(path, message, "message must not contain line breaks");
    }
}

fn review_versions(versions: &Value, path: &Path, errors: &mut Errors) {
    let all = versions.as_array().map(Vec::as_slice).unwrap_or_default();
    for (i, version) in all.iter().enumerate() {
        errors.invalid_all(&path.index(i), as_text(version), names::dns1035_label(as_text(version)));
        if all[..i].contains(version) {
            errors.invalid(&path.index(i), version, "duplicate version");
        }
    }
    if !all.is_empty() && !all.iter().any(|version| version == "v1" || version == "v1beta1") {
        errors.invalid(path, all, "must include at least one of v1, v1beta1");
    }
}

fn match_conditions(conditions: &Value, path: &Path, errors: &mut Errors) {
    let all = conditions.as_array().map(Vec::as_slice).unwrap_or_default();
    if all.len() > CONDITIONS_MAX {
        errors.too_many(path, all.len(), CONDITIONS_MAX);
    }
    for (i, condition) in all.iter().enumerate() {
        let path = path.index(i);
        if text(condition, "expression").trim().is_empty() {
            errors.required(&path.field("expression"), "");
        }
        match text(condition, "name") {
            "" => errors.required(&path.field("name"), ""),
            name => {
                errors.invalid_all(&path.field("name"), name, names::qualified_name(name));
                if all[..i].iter().any(|before| text(before, "name") == name) {
                    errors.duplicate(&path.field("name"), name);
                }
            }
        }
    }
}

fn rule(rule: &Value, path: &Path, errors: &mut Errors) {
    for (field, others) in
        [("operations", "operations"), ("apiGroups", "API groups"), ("apiVersions", "API versions"), ("resources", "")]
    {
        let path = path.field(field);
        let values = list(rule, field);
        if values.is_empty() {
            errors.required(&path, "");
        }
        if values.len() > 1 && !others.is_empty() && values.iter().any(|value| value == "*") {
            errors.invalid(&path, values, format!("if '*' is present, must not specify other {others}"));
        }
        for (i, value) in values.iter().map(as_text).enumerate() {
            match field {
                "operations" => errors.one_of(&path.index(i), value, &OPERATIONS),
                "apiVersions" | "resources" if value.is_empty() => errors.required(&path.index(i), ""),
                _ => {}
            }
        }
    }
    resources(list(rule, "resources"), &path.field("resources"), errors);
    if let Some(scope) = rule.get("scope").and_then(Value::as_str) {
        errors.one_of(&path.field("scope"), scope, &["*", "Cluster", "Namespaced"]);
    }
}

/// What a wildcard says already must not be said again.
fn resources(resources: &[Value], path: &Path, errors: &mut Errors) {
    let names: Vec<&str> = resources.iter().map(as_text).collect();
    for (i, name) in names.iter().enumerate() {
        let Some((resource, subresource)) = name.split_once('/') else { continue };
        for wider in [format!("{resource}/*"), format!("*/{subresource}")] {
            if names[..i].contains(&wider.as_str()) {
                errors.invalid(&path.index(i), name, format!("if '{wider}' is present, must not specify {name}"));
            }
        }
    }
    if names.len() > 1 && names.contains(&"*/*") {
        errors.invalid(path, &names, "if '*/*' is present, must not specify other resources");
    }
    if names.contains(&"*") && names.iter().any(|name| *name != "*" && !name.contains('/')) {
        let detail = "if '*' is present, must not specify other resources without subresources";
        errors.invalid(path, &names, detail);
    }
}

/// Where a webhook is asked: of admission or of conversion.
///
/// Source: apiserver/pkg/util/webhook/validation.go.
pub fn client(config: &Value, path: &Path, errors: &mut Errors) {
    let part = |name: &str| config.get(name).filter(|part| !part.is_null());
    match (part("url"), part("service")) {
        (None, None) | (Some(_), Some(_)) => errors.required(path, "exactly one of url or service is required"),
        (Some(url), None) => client_url(as_text(url), &path.field("url"), errors),
        (None, Some(service)) => client_service(service, &path.field("service"), errors),
    }
}

fn client_url(url: &str, path: &Path, errors: &mut Errors) {
    let form = "; desired format: https://host[/path]";
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    if scheme != "https" {
        errors.invalid(path, scheme, format!("'https' is the only allowed URL scheme{form}"));
    }
    let (rest, fragment) = rest.split_once('#').unwrap_or((rest, ""));
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = rest.split('/').next().unwrap_or_default();
    let (user, host) = authority.rsplit_once('@').unwrap_or(("", authority));
    for (is_wrong, value, what) in [
        (host.is_empty() || scheme.is_empty(), "", "host must be specified"),
        (!user.is_empty(), user, "user information is not permitted in the URL"),
        (!fragment.is_empty(), fragment, "fragments are not permitted in the URL"),
        (!query.is_empty(), query, "query parameters are not permitted in the URL"),
    ] {
        if is_wrong {
            errors.invalid(path, value, format!("{what}{form}"));
        }
    }
}

fn client_service(service: &Value, path: &Path, errors: &mut Errors) {
    for field in ["name", "namespace"] {
        if text(service, field).is_empty() {
            errors.required(&path.field(field), &format!("service {field} is required"));
        }
    }
    if let Some(port) = service.get("port").and_then(Value::as_i64) {
        for message in names::port_number(port) {
            errors.invalid(&path.field("port"), port, format!("port is not valid: {message}"));
        }
    }
    let Some(url_path) = service.get("path").and_then(Value::as_str).filter(|path| *path != "/") else { return };
    let path = path.field("path");
    let Some(steps) = url_path.strip_prefix('/') else {
        return errors.invalid(&path, url_path, "must start with a '/'");
    };
    for (i, step) in steps.strip_suffix('/').unwrap_or(steps).split('/').enumerate() {
        match step {
            "" => errors.invalid(&path, url_path, format!("segment[{i}] may not be empty")),
            step => names::dns1123_subdomain(step)
                .into_iter()
                .for_each(|why| errors.invalid(&path, url_path, format!("segment[{i}]: {why}"))),
        }
    }
}

fn param_ref(reference: &Value, path: &Path, errors: &mut Errors) {
    let (name, selector) = (text(reference, "name"), reference.get("selector").filter(|value| !value.is_null()));
    if name.is_empty() && selector.is_none() {
        errors.required(path, "one of name or selector must be specified");
    }
    if !name.is_empty() {
        errors.invalid_all(&path.field("name"), name, names::path_segment(name));
        if selector.is_some() {
            errors.forbidden(&path.field("name"), "name and selector are mutually exclusive");
        }
    }
    facts::hold(
        reference,
        Some(path),
        &[Fact("selector", Must::Select), Fact("parameterNotFoundAction", Must::ExistAsOneOf(&["Allow", "Deny"]))],
        errors,
    );
}

fn actions(actions: &Value, path: &Path, errors: &mut Errors) {
    let has = |action: &str| actions.as_array().is_some_and(|all| all.iter().any(|one| one == action));
    if has("Deny") && has("Warn") {
        let detail = "must not contain both Deny and Warn (repeating the same validation failure information in the \
                      API response and headers serves no purpose)";
        errors.invalid(path, actions, detail);
    }
}

/// A mutation's type names the one field that it has.
fn mutation(mutation: &Value, path: &Path, errors: &mut Errors) {
    let kind = text(mutation, "patchType");
    for (known, field) in [("ApplyConfiguration", "applyConfiguration"), ("JSONPatch", "jsonPatch")] {
        let path = path.field(field);
        match mutation.get(field).filter(|value| !value.is_null()) {
            None if known == kind => errors.required(&path, &format!("must be specified when patchType is {known}")),
            Some(_) if known != kind => {
                errors.forbidden(&path, format!("must not be specified when patchType is {kind}"));
            }
            Some(part) if text(part, "expression").trim().is_empty() => {
                errors.required(&path.field("expression"), "expression is not specified");
            }
            Some(_) | None => {}
        }
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
        assert_eq!(texts(check(&configuration, WEBHOOKS)), [""; 0]);
        configuration["webhooks"][0]["name"] = json!("a");
        configuration["webhooks"][0]["timeoutSeconds"] = json!(31);
        assert_eq!(
            texts(check(&configuration, WEBHOOKS)),
            [
                "webhooks[0].name: Invalid value: \"a\": should be a domain with at least three segments separated by dots",
                "webhooks[0].timeoutSeconds: Invalid value: 31: the timeout value must be between 1 and 30 seconds",
            ]
        );
    }

    #[test]
    fn what_a_webhook_must_not_say() {
        let webhook = |change: Value| {
            let mut webhook = json!({"name": "a.b.c", "clientConfig": {"url": "https://h/p"}, "sideEffects": "None",
                "admissionReviewVersions": ["v1"]});
            webhook.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
            texts(check(&json!({"webhooks": [webhook]}), WEBHOOKS))
        };
        let rule = |resources: Value| json!({"rules": [{"operations": ["*"], "apiGroups": ["*"], "apiVersions": ["v1"], "resources": resources}]});
        for (change, errors) in [
            (json!({}), &[][..]),
            (
                rule(json!(["pods/*", "pods/log"])),
                &[
                    "webhooks[0].rules[0].resources[1]: Invalid value: \"pods/log\": if 'pods/*' is present, must not specify pods/log",
                ],
            ),
            (
                json!({"clientConfig": {"service": {"name": "s", "path": "/a//b"}}}),
                &[
                    "webhooks[0].clientConfig.service.namespace: Required value: service namespace is required",
                    "webhooks[0].clientConfig.service.path: Invalid value: \"/a//b\": segment[1] may not be empty",
                ],
            ),
            (
                json!({"clientConfig": {"url": "http://u@h?q"}, "sideEffects": "Some"}),
                &[
                    "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
                    "webhooks[0].clientConfig.url: Invalid value: \"http\": 'https' is the only allowed URL scheme; desired format: https://host[/path]",
                    "webhooks[0].clientConfig.url: Invalid value: \"u\": user information is not permitted in the URL; desired format: https://host[/path]",
                    "webhooks[0].clientConfig.url: Invalid value: \"q\": query parameters are not permitted in the URL; desired format: https://host[/path]",
                ],
            ),
        ] {
            assert_eq!(webhook(change), errors);
        }
    }

    #[test]
    fn policies() {
        let mut policy = json!({"metadata": {"name": "p"}, "spec": {"matchConstraints": {"resourceRules": [
            {"operations": ["CREATE"], "apiGroups": ["apps"], "apiVersions": ["v1"], "resources": ["deployments"]}]},
            "validations": [{"expression": "true"}]}});
        (ADMISSION_POLICY.default)(&mut policy);
        assert_eq!(texts(validate_policy(&policy)), [""; 0]);
        assert_eq!(policy["spec"]["matchConstraints"]["resourceRules"][0]["scope"], "*");
        policy["spec"] = json!({"failurePolicy": "Fail", "variables": [{"name": "1"}], "paramKind": {"kind": "K_"}});
        let found = texts(validate_policy(&policy));
        let fields: Vec<&str> = found.iter().map(|text| text.split(": ").next().unwrap_or(text)).collect();
        assert_eq!(
            fields,
            [
                "spec.paramKind.apiVersion",
                "spec.paramKind.kind",
                "spec.matchConstraints",
                "spec.variables[0].name",
                "spec.variables[0].expression",
                "spec.validations",
                "spec.auditAnnotations",
            ]
        );
        let binding = json!({"spec": {"validationActions": ["Deny", "Warn", "Deny"], "paramRef": {}}});
        let found = texts(check(&binding, BINDING));
        let fields: Vec<&str> = found.iter().map(|text| text.split(": ").next().unwrap_or(text)).collect();
        assert_eq!(
            fields,
            [
                "spec.policyName",
                "spec.paramRef",
                "spec.paramRef.parameterNotFoundAction",
                "spec.validationActions[2]",
                "spec.validationActions",
            ]
        );
    }
}
