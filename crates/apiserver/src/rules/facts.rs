//! Checks as data. A line of a table names a field by its path and says what must hold there; `[]` behind a name
//! stands for each item of a list. All that is wrong is found, in the order of the table. What needs more than one
//! field is a function at the node that holds them.

use api_types::{FieldError, k8s::meta::LabelSelector};
use serde::Deserialize;
use serde_json::Value;

use super::{
    edit::{list, text},
    meta::NameRule,
    path::{Errors, IMMUTABLE, Path},
    selector::label_selector,
};

/// A field, and what must hold of it.
pub struct Fact(pub &'static str, pub Must);

/// As in Go, what is empty counts as absent, and an absent number as zero.
pub enum Must {
    /// Is there; the refusal's detail.
    Exist(&'static str),
    /// Is not there; the refusal's detail.
    NotExist(&'static str),
    /// Is one of these if it is there.
    BeOneOf(&'static [&'static str]),
    /// Is there, and one of these.
    ExistAsOneOf(&'static [&'static str]),
    /// Is a legal name if it is there.
    BeNamed(NameRule),
    /// Is there, and a legal name.
    ExistAs(NameRule),
    NotBeNegative,
    /// Is a number above zero; the refusal's detail.
    BePositive(&'static str),
    /// Lies between these if it is there; the refusal's detail.
    LieWithin(i64, i64, &'static str),
    /// At most so many items.
    HoldAtMost(usize),
    /// At most so many bytes.
    BeShorterThan(usize),
    /// Each item once, as told by this field of it, or by the whole of it where the field is `""`.
    HoldUnique(&'static str),
    /// Is a label selector that makes sense.
    Select,
    /// These hold of its own fields if it is there.
    Hold(&'static [Fact]),
    /// Finds nothing wrong with it if it is there.
    Pass(fn(&Value, &Path, &mut Errors)),
}

/// Source: `ValidateConditions` in apimachinery/pkg/apis/meta/v1/validation.
pub const CONDITIONS: &[Fact] = &[
    Fact("conditions", Must::HoldUnique("type")),
    Fact(
        "conditions[]",
        Must::Hold(&[
            Fact("type", Must::ExistAs(api_types::names::qualified_name)),
            Fact("status", Must::ExistAsOneOf(&["False", "True", "Unknown"])),
            Fact("observedGeneration", Must::LieWithin(0, i64::MAX, "must be greater than or equal to zero")),
            Fact("lastTransitionTime", Must::Exist("must be set")),
            Fact("reason", Must::Exist("")),
            Fact("reason", Must::BeShorterThan(1024)),
            Fact("message", Must::BeShorterThan(32 * 1024)),
        ]),
    ),
];

/// What is wrong with a whole object.
pub fn check(object: &Value, facts: &[Fact]) -> Vec<FieldError> {
    let mut errors = Errors::default();
    hold(object, None, facts, &mut errors);
    errors.0
}

/// Refuses changes of these fields, which are named as in a [`Fact`], without lists.
pub fn frozen(new: &Value, old: &Value, fields: &[&'static str]) -> Vec<FieldError> {
    let at = |object: &'_ Value, field: &str| object.pointer(&format!("/{}", field.replace('.', "/"))).cloned();
    let changed = fields.iter().filter(|field| absent_if_empty(at(new, field)) != absent_if_empty(at(old, field)));
    changed.map(|field| FieldError::invalid(*field, at(new, field), IMMUTABLE)).collect()
}

fn absent_if_empty(value: Option<Value>) -> Option<Value> {
    value.filter(|value| !is_empty(value))
}

/// What is wrong with the fields of `object`, which lies at `path` (`None`: it is the whole object).
pub fn hold(object: &Value, path: Option<&Path>, facts: &[Fact], errors: &mut Errors) {
    facts.iter().for_each(|Fact(field, must)| walk(object, path, field, must, errors));
}

fn walk(object: &Value, path: Option<&Path>, fields: &'static str, must: &Must, errors: &mut Errors) {
    let (step, rest) = fields.split_once('.').map_or((fields, None), |(step, rest)| (step, Some(rest)));
    let name = step.trim_end_matches("[]");
    let path = path.map_or(Path::root(name), |path| path.field(name));
    let value = object.get(name).unwrap_or(&Value::Null);
    let mut go_on = |value: &Value, path: &Path| match rest {
        Some(rest) => walk(value, Some(path), rest, must, errors),
        None => judge(value, path, must, errors),
    };
    match name.len() == step.len() {
        true => go_on(value, &path),
        false => list(object, name).iter().enumerate().for_each(|(i, item)| go_on(item, &path.index(i))),
    }
}

fn is_empty(value: &Value) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.is_empty(),
        Value::Bool(_) | Value::Number(_) => false,
    }
}

fn judge(value: &Value, path: &Path, must: &Must, errors: &mut Errors) {
    let (empty, number) = (is_empty(value), value.as_i64().unwrap_or(0));
    let words = value.as_str().unwrap_or_default();
    match must {
        Must::Exist(detail) if empty => errors.required(path, detail),
        Must::NotExist(detail) if !value.is_null() => errors.forbidden(path, *detail),
        Must::BeOneOf(supported) if !value.is_null() => errors.one_of(path, words, supported),
        Must::ExistAsOneOf(supported) => errors.required_one_of(path, words, supported),
        Must::ExistAs(_) if empty => errors.required(path, ""),
        Must::BeNamed(rule) | Must::ExistAs(rule) if !empty => errors.invalid_all(path, words, rule(words)),
        Must::NotBeNegative => errors.non_negative(path, number),
        Must::BePositive(detail) if number <= 0 => errors.invalid(path, number, *detail),
        Must::LieWithin(min, max, detail) if !value.is_null() && !(*min..=*max).contains(&number) => {
            errors.invalid(path, number, *detail);
        }
        Must::HoldAtMost(max) => {
            let count = value.as_array().map_or(0, Vec::len);
            if count > *max {
                errors.too_many(path, count, *max);
            }
        }
        Must::BeShorterThan(max) if words.len() > *max => errors.too_long(path, *max),
        Must::HoldUnique(field) => unique(value, field, path, errors),
        Must::Select if !value.is_null() => {
            label_selector(LabelSelector::deserialize(value).ok().as_ref(), path, errors);
        }
        Must::Hold(facts) if !value.is_null() => hold(value, Some(path), facts, errors),
        Must::Pass(find) if !value.is_null() => find(value, path, errors),
        _ => {}
    }
}

fn unique(items: &Value, field: &str, path: &Path, errors: &mut Errors) {
    let items = items.as_array().map(Vec::as_slice).unwrap_or_default();
    let key = |item: &Value| if field.is_empty() { item.clone() } else { text(item, field).into() };
    for (i, item) in items.iter().enumerate() {
        let key_of_item = key(item);
        if !is_empty(&key_of_item) && items[..i].iter().any(|before| key(before) == key_of_item) {
            let path = path.index(i);
            match field {
                "" => errors.duplicate(&path, key_of_item),
                field => errors.duplicate(&path.field(field), key_of_item),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::rules::texts;

    const FACTS: &[Fact] = &[
        Fact("spec.name", Must::ExistAs(api_types::names::dns1123_label)),
        Fact("spec.kind", Must::BeOneOf(&["A", "B"])),
        Fact("spec.rules", Must::HoldAtMost(2)),
        Fact("spec.rules", Must::HoldUnique("id")),
        Fact("spec.rules[]", Must::Hold(&[Fact("id", Must::Exist("why")), Fact("weight", Must::BePositive("more"))])),
        Fact("spec.limit", Must::NotBeNegative),
    ];

    #[test]
    fn every_line_is_judged_everywhere() {
        assert_eq!(texts(check(&json!({"spec": {"name": "a", "kind": "B"}}), FACTS)), [""; 0]);
        assert_eq!(texts(check(&json!({}), FACTS)), ["spec.name: Required value"]);
        let object = json!({"spec": {"name": "-", "kind": "", "limit": -1,
            "rules": [{"id": "x", "weight": 1}, {"id": "x", "weight": 0}, {"weight": 2}]}});
        let found = texts(check(&object, FACTS));
        let starts: Vec<&str> = found.iter().map(|text| text.get(..38).unwrap_or(text)).collect();
        assert_eq!(
            starts,
            [
                "spec.name: Invalid value: \"-\": a lower",
                "spec.kind: Unsupported value: \"\": supp",
                "spec.rules: Too many: 3: must have at ",
                "spec.rules[1].id: Duplicate value: \"x\"",
                "spec.rules[1].weight: Invalid value: 0",
                "spec.rules[2].id: Required value: why",
                "spec.limit: Invalid value: -1: must be",
            ]
        );
    }

    #[test]
    fn frozen_fields_do_not_change() {
        let (new, old) = (json!({"spec": {"a": 1, "b": []}}), json!({"spec": {"a": 2}}));
        assert_eq!(texts(frozen(&new, &old, &["spec.a", "spec.b"])), ["spec.a: Invalid value: 1: field is immutable"]);
    }
}
