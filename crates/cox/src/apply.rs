//! The three-way merge of `apply`: what was applied last, what is wanted, what is there.
//! Pure; the same annotation as kubectl's, so that both can take turns.

use api_types::schema::{self, Field, Type};
use serde_json::{Map, Value};

pub const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// What the object should become: `live` with everything that `wanted` says, without what
/// `last` said and `wanted` does not. Equal to `live` if there is nothing to do.
pub fn merge(last: &Value, wanted: &Value, live: &Value) -> Value {
    let kind = |value: &Value| value["kind"].as_str().unwrap_or_default().to_owned();
    let api_version = wanted["apiVersion"].as_str().unwrap_or_default();
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    value(schema::of(group, version, &kind(wanted)), last, wanted, live)
}

fn value(of: Option<&'static Type>, last: &Value, wanted: &Value, live: &Value) -> Value {
    match (wanted, live) {
        (Value::Object(wanted), Value::Object(live)) => Value::Object(map(of, last, wanted, live)),
        _ => wanted.clone(),
    }
}

fn map(
    of: Option<&'static Type>,
    last: &Value,
    wanted: &Map<String, Value>,
    live: &Map<String, Value>,
) -> Map<String, Value> {
    let mut target = live.clone();
    if let Some(last) = last.as_object() {
        target.retain(|key, _| wanted.contains_key(key) || !last.contains_key(key));
    }
    for (key, want) in wanted {
        let field = of.and_then(|of| of.field(key));
        let (before, have) = (last.get(key).unwrap_or(&Value::Null), live.get(key).unwrap_or(&Value::Null));
        if want.is_null() {
            target.remove(key);
            continue;
        }
        let inner = field.and_then(|field| field.shape.innermost().as_struct());
        let merged = match (want, have, field.and_then(merge_key)) {
            (Value::Array(want), Value::Array(have), Some(merge_key)) => {
                Value::Array(list(inner, merge_key, before, want, have))
            }
            _ => value(inner, before, want, have),
        };
        target.insert(key.clone(), merged);
    }
    target
}

fn merge_key(field: &'static Field) -> Option<&'static str> {
    field.patch_merge_key.as_deref().filter(|_| field.patch.merge)
}

/// Items are the same where their merge key is; the wanted order comes first.
fn list(of: Option<&'static Type>, merge_key: &str, last: &Value, wanted: &[Value], live: &[Value]) -> Vec<Value> {
    let find = |items: &[Value], key: &Value| items.iter().find(|item| &item[merge_key] == key).cloned();
    let last = last.as_array().map(Vec::as_slice).unwrap_or_default();
    let mut target: Vec<Value> = wanted
        .iter()
        .map(|want| {
            let before = find(last, &want[merge_key]).unwrap_or(Value::Null);
            let have = find(live, &want[merge_key]).unwrap_or(Value::Null);
            value(of, &before, want, &have)
        })
        .collect();
    let ours = |item: &&Value| find(wanted, &item[merge_key]).is_none() && find(last, &item[merge_key]).is_none();
    target.extend(live.iter().filter(ours).cloned());
    target
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(spec: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "Pod", "spec": spec})
    }

    /// (last, wanted, live) -> target, each a pod's spec.
    fn check(last: Value, wanted: Value, live: Value, target: Value) {
        assert_eq!(merge(&pod(last), &pod(wanted), &pod(live)), pod(target));
    }

    #[test]
    fn defaults_of_the_server_stay() {
        check(json!({"a": 1}), json!({"a": 1}), json!({"a": 1, "b": 2}), json!({"a": 1, "b": 2}));
    }

    #[test]
    fn what_is_no_longer_wanted_goes_and_what_others_set_stays() {
        check(json!({"a": 1, "b": 1}), json!({"a": 2}), json!({"a": 1, "b": 1, "c": 3}), json!({"a": 2, "c": 3}));
    }

    #[test]
    fn containers_merge_by_name() {
        check(
            json!({"containers": [{"name": "a"}, {"name": "b"}]}),
            json!({"containers": [{"name": "a", "image": "2"}]}),
            json!({"containers": [{"name": "a", "image": "1", "tty": false}, {"name": "b"}, {"name": "injected"}]}),
            json!({"containers": [{"name": "a", "image": "2", "tty": false}, {"name": "injected"}]}),
        );
    }

    #[test]
    fn lists_without_a_key_are_replaced() {
        let spec = |args: Value| json!({"containers": [{"name": "a", "args": args}]});
        check(spec(json!(["1"])), spec(json!(["2"])), spec(json!(["1"])), spec(json!(["2"])));
    }
}
