use api_types::schema;
use proptest::prelude::*;
use serde_json::json;

use super::*;

fn pod_spec(original: Value, patch: Value) -> Result<Value, StrategicError> {
    let of = schema::of("", "v1", "Pod").unwrap();
    Ok(apply(of, json!({"spec": original}), json!({"spec": patch}))?["spec"].take())
}

/// `a=1 b` is a list of containers, named and with an image.
fn containers(text: &str) -> Value {
    let container = |word: &str| match word.split_once('=') {
        Some((name, image)) => json!({"name": name, "image": image}),
        None => json!({"name": word}),
    };
    json!({"containers": text.split_whitespace().map(container).collect::<Vec<_>>()})
}

#[test]
fn lists_merge_by_key() {
    for (original, patch, expected) in [
        ("a=1 b=2", "b=3", "a=1 b=3"),
        ("a=1", "b=2", "b=2 a=1"),
        ("a=1 b=2", "", "a=1 b=2"),
        ("a=1 b=2 c=3", "c=4 a=5", "b=2 c=4 a=5"),
        ("", "a=1", "a=1"),
        ("a=1", "a", "a=1"),
    ] {
        assert_eq!(
            pod_spec(containers(original), containers(patch)).unwrap(),
            containers(expected),
            "{original} + {patch}"
        );
    }
}

#[test]
fn set_element_order_rules() {
    for (original, patch, order, expected) in [
        ("a=1 b=2", "", "b a", "b=2 a=1"),
        ("a=1 b=2 s=0", "b=3", "b a", "b=3 a=1 s=0"),
        ("a=1 s=0 b=2", "c=3", "b c a", "s=0 b=2 c=3 a=1"),
        ("", "a=1 b=2", "a b", "a=1 b=2"),
    ] {
        let mut patch = containers(patch);
        patch["$setElementOrder/containers"] = containers(order)["containers"].take();
        assert_eq!(pod_spec(containers(original), patch).unwrap(), containers(expected), "{original} in {order}");
    }
    let mut patch = containers("b=1 a=2");
    patch["$setElementOrder/containers"] = containers("a b")["containers"].take();
    assert_eq!(pod_spec(containers("a=1"), patch), Err(StrategicError::Order("containers".into())));
}

#[test]
fn directives() {
    for (original, patch, expected) in [
        // Items of a list.
        (containers("a=1 b=2"), json!({"containers": [{"name": "a", "$patch": "delete"}]}), containers("b=2")),
        (containers("a=1 b=2"), json!({"containers": [{"$patch": "replace"}, {"name": "c"}]}), containers("c")),
        (json!({}), json!({"containers": [{"name": "a", "$patch": "delete"}, {"name": "b"}]}), containers("b")),
        // Maps.
        (
            json!({"nodeSelector": {"a": "1"}}),
            json!({"nodeSelector": {"$patch": "replace", "b": "2"}}),
            json!({"nodeSelector": {"b": "2"}}),
        ),
        (
            json!({"nodeSelector": {"a": "1"}}),
            json!({"nodeSelector": {"$patch": "delete"}}),
            json!({"nodeSelector": {}}),
        ),
        (
            json!({"nodeSelector": {"a": "1", "b": "2"}}),
            json!({"nodeSelector": {"a": null}}),
            json!({"nodeSelector": {"b": "2"}}),
        ),
        (json!({"nodeSelector": {"a": "1"}}), json!({"nodeSelector": null}), json!({})),
        (json!({}), json!({"nodeSelector": {"a": null, "b": "1"}}), json!({"nodeSelector": {"b": "1"}})),
        // Unions.
        (
            json!({"volumes": [{"name": "v", "emptyDir": {}}]}),
            json!({"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}]}),
            json!({"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}),
        ),
        // Lists without a merge strategy.
        (
            json!({"tolerations": [{"key": "a"}]}),
            json!({"tolerations": [{"key": "b"}]}),
            json!({"tolerations": [{"key": "b"}]}),
        ),
        // Nested lists; ports merge by containerPort alone.
        (
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "protocol": "TCP"}]}]}),
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "name": "x"}]}]}),
            json!({"containers": [{"name": "a", "ports": [{"containerPort": 80, "protocol": "TCP", "name": "x"}]}]}),
        ),
        // A type that changes.
        (json!({"nodeSelector": null}), json!({"nodeSelector": {"a": "1"}}), json!({"nodeSelector": {"a": "1"}})),
    ] {
        assert_eq!(pod_spec(original.clone(), patch.clone()), Ok(expected), "{original} + {patch}");
    }
}

#[test]
fn lists_of_primitives() {
    let of = schema::of("", "v1", "Pod").unwrap();
    for (patch, expected) in [
        (json!({"finalizers": ["c", "a"]}), json!(["c", "a", "b"])),
        (json!({"$deleteFromPrimitiveList/finalizers": ["a"]}), json!(["b"])),
        (
            json!({"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"], "$setElementOrder/finalizers": ["c", "b"]}),
            json!(["c", "b"]),
        ),
        (json!({"$setElementOrder/finalizers": ["b", "a"]}), json!(["b", "a"])),
    ] {
        let original = json!({"metadata": {"finalizers": ["a", "b"]}});
        let patched = apply(of, original, json!({"metadata": patch.clone()})).unwrap();
        assert_eq!(patched["metadata"]["finalizers"], expected, "{patch}");
    }
}

#[test]
fn refuses() {
    for (original, patch, error) in [
        (json!({}), json!({"$patch": "merge"}), StrategicError::UnknownDirective("\"merge\"".into())),
        (containers("a"), json!({"containers": [{"image": "x"}]}), StrategicError::NoMergeKey("name".into())),
        (containers("a"), json!({"containers": ["x"]}), StrategicError::MixedList),
        (containers("a"), json!({"containers": [["x"]]}), StrategicError::ListOfLists),
        (containers("a"), json!({"containers": [{"name": "a", "$patch": "merge"}]}), StrategicError::MergeInList),
        (json!({"a": {}}), json!({"$retainKeys": ["a"], "b": 1}), StrategicError::NotRetained),
        (json!({}), json!({"$setElementOrder/containers": 1}), StrategicError::BadDirective("setElementOrder")),
        (
            json!({"nope": {}}),
            json!({"nope": {}}),
            StrategicError::UnknownField { field: "nope".into(), of: "PodSpec".into() },
        ),
    ] {
        assert_eq!(pod_spec(original, patch), Err(error));
    }
}

/// Upstream's codes: 500 is its answer to what it does not foresee.
#[test]
fn refuses_with_upstreams_codes() {
    let code = |error: StrategicError| ApiError::from(error).code();
    assert_eq!(code(StrategicError::BadDirective("retainKeys")), 400);
    assert_eq!(code(StrategicError::NotRetained), 422);
    assert_eq!(code(StrategicError::ListOfLists), 422);
    assert_eq!(code(StrategicError::NoMergeKey("name".into())), 500);
    assert_eq!(code(StrategicError::UnknownDirective("x".into())), 500);
}

fn a_spec() -> impl Strategy_<Value = Value> {
    let container = (0..6u8, 0..4u8).prop_map(|(name, image)| (name, image));
    proptest::collection::vec(container, 0..6).prop_map(|list| {
        let mut seen = HashSet::new();
        let unique = list.into_iter().filter(|(name, _)| seen.insert(*name));
        json!({"containers": unique.map(|(n, i)| json!({"name": n.to_string(), "image": i.to_string()})).collect::<Vec<_>>()})
    })
}
use proptest::strategy::Strategy as Strategy_;

proptest! {
    #[test]
    fn an_empty_patch_changes_nothing(original in a_spec()) {
        prop_assert_eq!(pod_spec(original.clone(), json!({})).unwrap(), original);
    }

    #[test]
    fn patching_twice_is_patching_once(original in a_spec(), patch in a_spec()) {
        let once = pod_spec(original, patch.clone()).unwrap();
        prop_assert_eq!(pod_spec(once.clone(), patch).unwrap(), once);
    }

    #[test]
    fn what_the_patch_says_holds_after_it(original in a_spec(), patch in a_spec()) {
        let patched = pod_spec(original, patch.clone()).unwrap();
        for container in patch["containers"].as_array().unwrap() {
            prop_assert!(patched["containers"].as_array().unwrap().contains(container));
        }
    }
}
