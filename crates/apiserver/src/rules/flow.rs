//! Flow schemas and priority levels.
//!
//! Source: pkg/apis/flowcontrol/{v1/defaults.go,validation/validation.go}.

use std::sync::LazyLock;

use api_types::{FieldError, names};
use serde_json::Value;

use super::{
    PLAIN, Rules,
    edit::{child, field, fill, list, set, text, text_at},
    facts::{Fact, Must, check},
    path::{Errors, Path},
    take_status_alone, workload,
};
use crate::bootstrap::objects::FLOW;

/// Precedence of a schema that names none.
const MATCHING_PRECEDENCE: i64 = 1000;
const MATCHING_PRECEDENCE_MAX: i64 = 10_000;
const QUEUES_MAX: i64 = 10_000_000;
/// Bits of a flow's hash, from which its hand of queues is dealt.
const HASH_BITS_MAX: i64 = 60;
const VERBS: [&str; 9] = ["create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"];
const SPEC: Path = Path::root("spec");

pub const FLOW_SCHEMA: Rules = Rules {
    default: |schema| {
        child(schema, "status");
        let spec = child(schema, "spec");
        if spec.get("matchingPrecedence").and_then(Value::as_i64).unwrap_or(0) == 0 {
            set(spec, "matchingPrecedence", MATCHING_PRECEDENCE);
        }
    },
    prepare_create: workload::prepare_create,
    prepare_update: workload::prepare_update,
    prepare_status_update: take_status_alone,
    validate: validate_schema,
    validate_update: |schema, _| validate_schema(schema),
    validate_status_update: |schema, _| check(schema, STATUS),
    ..PLAIN
};

pub const PRIORITY_LEVEL: Rules = Rules {
    default: |level| {
        child(level, "status");
        let spec = child(level, "spec");
        if let Some(limited) = field(spec, "limited") {
            fill(limited, "nominalConcurrencyShares", 30);
            fill(limited, "lendablePercent", 0);
            let response = child(limited, "limitResponse");
            if let Some(queuing) = field(response, "queuing") {
                for (name, default) in [("handSize", 8), ("queues", 64), ("queueLengthLimit", 50)] {
                    fill(queuing, name, default);
                }
            }
        }
        if let Some(exempt) = field(spec, "exempt") {
            fill(exempt, "nominalConcurrencyShares", 0);
            fill(exempt, "lendablePercent", 0);
        }
    },
    prepare_create: workload::prepare_create,
    prepare_update: workload::prepare_update,
    prepare_status_update: take_status_alone,
    validate: validate_level,
    validate_update: |level, _| validate_level(level),
    validate_status_update: |level, _| check(level, STATUS),
    ..PLAIN
};

const STATUS: &[Fact] = &[
    Fact("status.conditions", Must::HoldUnique("type")),
    Fact("status.conditions[].type", Must::Exist("must not be empty")),
];

const SCHEMA: &[Fact] = &[
    Fact("spec.matchingPrecedence", Must::BePositive("must be a positive value")),
    Fact(
        "spec.matchingPrecedence",
        Must::LieWithin(i64::MIN, MATCHING_PRECEDENCE_MAX, "must not be greater than 10000"),
    ),
    Fact("spec.distinguisherMethod", Must::Hold(&[Fact("type", Must::BeOneOf(&["ByNamespace", "ByUser"]))])),
    Fact("spec.priorityLevelConfiguration.name", Must::Exist("must reference a priority level")),
    Fact("spec.priorityLevelConfiguration.name", Must::BeNamed(names::dns1123_subdomain)),
    Fact(
        "spec.rules[]",
        Must::Hold(&[
            Fact("subjects", Must::Exist("subjects must contain at least one value")),
            Fact("subjects[]", Must::Pass(subject)),
        ]),
    ),
    Fact("spec.rules[]", Must::Pass(rule)),
];

const LEVEL: &[Fact] = &[
    Fact("spec.type", Must::Pass(|kind, path, errors| errors.one_of(path, as_text(kind), &["Exempt", "Limited"]))),
    Fact(
        "spec.exempt",
        Must::Hold(&[
            Fact("nominalConcurrencyShares", Must::LieWithin(0, i64::MAX, "must be a non-negative integer")),
            Fact("lendablePercent", Must::LieWithin(0, 100, "must be between 0 and 100, inclusive")),
        ]),
    ),
    Fact(
        "spec.limited",
        Must::Hold(&[
            Fact("nominalConcurrencyShares", Must::LieWithin(0, i64::MAX, "must be a non-negative integer")),
            Fact("limitResponse", Must::Pass(limit_response)),
            Fact("lendablePercent", Must::LieWithin(0, 100, "must be between 0 and 100, inclusive")),
            Fact("borrowingLimitPercent", Must::LieWithin(0, i64::MAX, "if specified, must be a non-negative integer")),
        ]),
    ),
];

fn as_text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn validate_schema(schema: &Value) -> Vec<FieldError> {
    let mut errors = Errors(check(schema, SCHEMA));
    let name = text_at(schema, "/metadata/name");
    if name != "exempt" && schema.pointer("/spec/matchingPrecedence") == Some(&1.into()) {
        let detail = "only the schema named 'exempt' may have matchingPrecedence 1";
        errors.invalid(&SPEC.field("matchingPrecedence"), 1, detail);
    }
    fixed("FlowSchema", schema, "", &mut errors);
    errors.0.extend(check(schema, STATUS));
    errors.0
}

fn validate_level(level: &Value) -> Vec<FieldError> {
    let mut errors = Errors::default();
    let (name, kind) = (text_at(level, "/metadata/name"), text_at(level, "/spec/type"));
    if (name == "exempt") != (kind == "Exempt") {
        errors.invalid(&SPEC.field("type"), kind, "type must be 'Exempt' if and only if name is 'exempt'");
    }
    let has = |part: &str| level.get("spec").is_some_and(|spec| super::edit::is_present(spec, part));
    match kind {
        "Exempt" if has("limited") => {
            errors.forbidden(&SPEC.field("limited"), "must be nil if the type is not Limited");
        }
        "Limited" => {
            if has("exempt") {
                errors.forbidden(&SPEC.field("exempt"), "must be nil if the type is Limited");
            }
            if !has("limited") {
                errors.required(&SPEC.field("limited"), "must not be empty when type is Limited");
            }
        }
        _ => {}
    }
    errors.0.extend(check(level, LEVEL));
    fixed("PriorityLevelConfiguration", level, "exempt", &mut errors);
    errors.0.extend(check(level, STATUS));
    errors.0
}

/// Two of each kind keep every cluster alive, and cannot be changed but for `tunable`.
fn fixed(kind: &str, object: &Value, tunable: &str, errors: &mut Errors) {
    static DEFAULTS: LazyLock<Vec<Value>> =
        LazyLock::new(|| serde_json::from_str(FLOW).expect("a file of this program"));
    let name = text_at(object, "/metadata/name");
    if !matches!(name, "exempt" | "catch-all") {
        return;
    }
    let is_it = |default: &&Value| text(default, "kind") == kind && text(default, "name") == name;
    let without = |spec: Option<&Value>| {
        let mut spec = spec.cloned().unwrap_or_default();
        super::edit::remove(&mut spec, tunable);
        spec
    };
    let wanted = DEFAULTS.iter().find(is_it).map(|default| without(default.get("spec")));
    if wanted.is_some_and(|wanted| wanted != without(object.get("spec"))) {
        errors.invalid(&SPEC, object.get("spec"), format!("spec of '{name}' must equal the fixed value"));
    }
}

/// A subject's kind names the one field that it has.
fn subject(subject: &Value, path: &Path, errors: &mut Errors) {
    const PARTS: [(&str, &str); 3] = [("ServiceAccount", "serviceAccount"), ("User", "user"), ("Group", "group")];
    let kind = text(subject, "kind");
    if !PARTS.iter().any(|(known, _)| *known == kind) {
        return errors.not_supported(&path.field("kind"), kind, &["Group", "ServiceAccount", "User"]);
    }
    for (known, part) in PARTS {
        let path = path.field(part);
        match subject.get(part).filter(|value| !value.is_null()) {
            None if known == kind => {
                errors.required(&path, &format!("{part} is required when subject kind is '{known}'"));
            }
            Some(_) if known != kind => {
                errors.forbidden(&path, format!("{part} is forbidden when subject kind is not '{known}'"));
            }
            None => {}
            Some(who) => {
                let name = text(who, "name");
                if name.is_empty() {
                    errors.required(&path.field("name"), "");
                }
                if known == "ServiceAccount" {
                    if !name.is_empty() && name != "*" {
                        errors.invalid_all(&path.field("name"), name, names::dns1123_subdomain(name));
                    }
                    match text(who, "namespace") {
                        "" => errors.required(&path.field("namespace"), "must specify namespace for service account"),
                        name => errors.invalid_all(&path.field("namespace"), name, names::dns1123_label(name)),
                    }
                }
            }
        }
    }
}

fn rule(rule: &Value, path: &Path, errors: &mut Errors) {
    if list(rule, "resourceRules").is_empty() && list(rule, "nonResourceRules").is_empty() {
        errors.required(path, "at least one of resourceRules and nonResourceRules has to be non-empty");
    }
    for (i, rule) in list(rule, "resourceRules").iter().enumerate() {
        let path = path.field("resourceRules");
        let path = path.index(i);
        verbs(rule, &path, errors);
        all_or_some(
            rule,
            "apiGroups",
            "resource rules must supply at least one api group",
            "api groups",
            &path,
            errors,
        );
        all_or_some(rule, "resources", "resource rules must supply at least one resource", "resources", &path, errors);
        if rule.get("clusterScope") != Some(&true.into()) || !list(rule, "namespaces").is_empty() {
            let missing = "resource rules that are not cluster scoped must supply at least one namespace";
            all_or_some(rule, "namespaces", missing, "namespaces", &path, errors);
        }
        for (i, namespace) in list(rule, "namespaces").iter().map(as_text).enumerate().filter(|(_, name)| *name != "*")
        {
            for why in names::dns1123_label(namespace) {
                let detail = format!("each member of this list must be '*' or a DNS-1123 label; {why}");
                errors.invalid(&path.field("namespaces").index(i), namespace, detail);
            }
        }
    }
    for (i, rule) in list(rule, "nonResourceRules").iter().enumerate() {
        let path = path.field("nonResourceRules");
        let path = path.index(i);
        verbs(rule, &path, errors);
        let missing = "nonResourceURLs must contain at least one value";
        all_or_some(rule, "nonResourceURLs", missing, "non-resource URLs", &path, errors);
        for (i, url) in list(rule, "nonResourceURLs").iter().map(as_text).enumerate().filter(|(_, url)| *url != "*") {
            if let Some(why) = wrong_url(url) {
                errors.invalid(&path.field("nonResourceURLs").index(i), url, why);
            }
        }
    }
}

fn verbs(rule: &Value, path: &Path, errors: &mut Errors) {
    all_or_some(rule, "verbs", "verbs must contain at least one value", "verbs", path, errors);
    let verbs = list(rule, "verbs");
    if !verbs.iter().any(|verb| verb == "*") && !verbs.iter().all(|verb| VERBS.contains(&as_text(verb))) {
        errors.not_supported(&path.field("verbs"), verbs, &VERBS);
    }
}

/// A list that is not empty, and holds nothing beside `*` if it holds that.
fn all_or_some(rule: &Value, field: &str, missing: &str, others: &str, path: &Path, errors: &mut Errors) {
    let values = list(rule, field);
    if values.is_empty() {
        errors.required(&path.field(field), missing);
    } else if values.len() > 1 && values.iter().any(|value| value == "*") {
        errors.invalid(&path.field(field), values, format!("if '*' is present, must not specify other {others}"));
    }
}

fn wrong_url(url: &str) -> Option<&'static str> {
    match url {
        "" => Some("must not be empty"),
        "/" => None,
        url if !url.starts_with('/') => Some("must start with slash"),
        url if url.contains(' ') => Some("must not contain white-space"),
        url if url.contains("//") => Some("must not contain double slash"),
        url => url.strip_suffix("/*").unwrap_or(url).contains('*').then_some("wildcard can only do suffix matching"),
    }
}

fn limit_response(response: &Value, path: &Path, errors: &mut Errors) {
    let queuing = response.get("queuing").filter(|queuing| !queuing.is_null());
    let path_to_queuing = path.field("queuing");
    match (text(response, "type"), queuing) {
        ("Reject", Some(_)) => {
            errors.forbidden(&path_to_queuing, "must be nil if limited.limitResponse.type is not Limited");
        }
        ("Queue", None) => {
            errors.required(&path_to_queuing, "must not be empty if limited.limitResponse.type is Limited");
        }
        ("Queue", Some(queuing)) => queues(queuing, &path_to_queuing, errors),
        ("Reject", None) => {}
        (kind, _) => errors.not_supported(&path.field("type"), kind, &["Queue", "Reject"]),
    }
}

fn queues(queuing: &Value, path: &Path, errors: &mut Errors) {
    let number = |field: &str| queuing.get(field).and_then(Value::as_i64).unwrap_or(0);
    let (queues, hand) = (number("queues"), number("handSize"));
    for field in ["queueLengthLimit", "queues", "handSize"] {
        if number(field) <= 0 {
            errors.invalid(&path.field(field), number(field), "must be positive");
        }
    }
    if queues > QUEUES_MAX {
        errors.invalid(&path.field("queues"), queues, format!("must not be greater than {QUEUES_MAX}"));
    }
    let hand_path = path.field("handSize");
    if hand > queues {
        errors.invalid(&hand_path, hand, format!("should not be greater than queues ({queues})"));
    } else if hand > 0 && bits_to_deal(queues, hand) > HASH_BITS_MAX {
        let what = format!("deckSize {queues} and handSize {hand}");
        let detail = format!("required entropy bits of {what} should not be greater than {HASH_BITS_MAX}");
        errors.invalid(&hand_path, hand, detail);
    }
}

/// Source: `RequiredEntropyBits` in apiserver/pkg/util/shufflesharding.
fn bits_to_deal(deck: i64, hand: i64) -> i64 {
    (0..hand).map(|dealt| ((deck - dealt) as f64).log2()).sum::<f64>().ceil() as i64
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rules::texts;

    #[test]
    fn schemas() {
        let schema = |name: &str, spec: Value| {
            let mut schema = json!({"metadata": {"name": name}, "spec": spec});
            (FLOW_SCHEMA.default)(&mut schema);
            texts(validate_schema(&schema))
        };
        let rule = |subject: Value| {
            json!({"priorityLevelConfiguration": {"name": "a"}, "rules": [{"subjects": [subject],
            "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/a", "/b/*"]}]}]})
        };
        assert_eq!(schema("a", rule(json!({"kind": "Group", "group": {"name": "g"}}))), [""; 0]);
        assert_eq!(
            schema("a", rule(json!({"kind": "User", "group": {"name": "g"}}))),
            [
                "spec.rules[0].subjects[0].user: Required value: user is required when subject kind is 'User'",
                "spec.rules[0].subjects[0].group: Forbidden: group is forbidden when subject kind is not 'Group'",
            ]
        );
        let found = schema(
            "a",
            json!({"matchingPrecedence": 1, "rules": [{"resourceRules": [{"verbs": ["*", "x"], "apiGroups": [],
                "resources": ["a"], "namespaces": ["A"]}], "nonResourceRules": [{"verbs": ["x"], "nonResourceURLs": ["a"]}]}]}),
        );
        let fields: Vec<&str> = found.iter().map(|text| text.split(": ").next().unwrap_or(text)).collect();
        assert_eq!(
            fields,
            [
                "spec.priorityLevelConfiguration.name",
                "spec.rules[0].subjects",
                "spec.rules[0].resourceRules[0].verbs",
                "spec.rules[0].resourceRules[0].apiGroups",
                "spec.rules[0].resourceRules[0].namespaces[0]",
                "spec.rules[0].nonResourceRules[0].verbs",
                "spec.rules[0].nonResourceRules[0].nonResourceURLs[0]",
                "spec.matchingPrecedence",
            ]
        );
    }

    #[test]
    fn the_fixed_ones_stay() {
        let defaults: Vec<Value> = serde_json::from_str(FLOW).unwrap();
        for default in &defaults {
            let name = text(default, "name");
            let mut object = json!({"metadata": {"name": name}, "spec": default["spec"]});
            let rules = if text(default, "kind") == "FlowSchema" { FLOW_SCHEMA } else { PRIORITY_LEVEL };
            (rules.default)(&mut object);
            assert_eq!(texts((rules.validate)(&object)), [""; 0], "{name}");
            object["spec"]["matchingPrecedence"] = json!(7);
            object["spec"]["limited"]["nominalConcurrencyShares"] = json!(7);
            let found = texts((rules.validate)(&object));
            let is_fixed = matches!(name, "exempt" | "catch-all");
            assert_eq!(
                found.iter().any(|text| text.ends_with("must equal the fixed value")),
                is_fixed,
                "{name}: {found:?}"
            );
        }
    }

    #[test]
    fn levels() {
        let level = |spec: Value| {
            let mut level = json!({"metadata": {"name": "a"}, "spec": spec});
            (PRIORITY_LEVEL.default)(&mut level);
            texts(validate_level(&level))
        };
        assert_eq!(level(json!({"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}})), [""; 0]);
        assert_eq!(
            level(json!({"type": "Limited"})),
            ["spec.limited: Required value: must not be empty when type is Limited"]
        );
        assert_eq!(
            level(
                json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {"queues": 64, "handSize": 65}}}})
            ),
            ["spec.limited.limitResponse.queuing.handSize: Invalid value: 65: should not be greater than queues (64)"]
        );
        assert_eq!(
            level(
                json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {"queues": 10000, "handSize": 8}}}})
            ),
            [
                "spec.limited.limitResponse.queuing.handSize: Invalid value: 8: required entropy bits of deckSize 10000 and handSize 8 should not be greater than 60"
            ]
        );
        assert_eq!(
            level(json!({"type": "Exempt"})),
            ["spec.type: Invalid value: \"Exempt\": type must be 'Exempt' if and only if name is 'exempt'"]
        );
    }
}
