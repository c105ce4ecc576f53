//! Tables of upstream's behaviour, and laws that hold for all objects.

use api_types::{ApiError, schema};
use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    Applied, ApplyError, Node, Ownable, Owners, Set, Subject, Writer, apply, compare, known,
    typed::{self, merge},
    update,
};

const NOW: &str = "2026-01-01T00:00:01Z";

fn root(api_version: &str, kind: &str) -> Node<'static> {
    let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
    Node::root(Some(schema::of(group, version, kind).expect("a built-in kind")))
}

fn with_subject<R>(api_version: &str, kind: &str, ask: impl FnOnce(&Subject) -> R) -> R {
    let ownable = Ownable::Except(Set::fields(&["status"]));
    ask(&Subject { api_version, kind, root: root(api_version, kind), ownable: &ownable, convert: &|_, _| None })
}

fn writer(manager: &str) -> Writer<'_> {
    Writer { manager, subresource: "", now: NOW }
}

/// An object and who owns what of it, as a sequence of writes leaves them.
#[derive(Clone, Debug, Default)]
struct World {
    object: Value,
    owners: Owners,
}

impl World {
    fn apply(&mut self, manager: &str, config: Value, force: bool) -> Result<bool, ApplyError> {
        let (version, kind) = (text(&config, "apiVersion"), text(&config, "kind"));
        let empty = json!({"metadata": {}});
        let live = if self.object.is_null() { empty.clone() } else { self.object.clone() };
        let Applied { object, owners } = with_subject(&version, &kind, |subject| {
            apply(subject, writer(manager), &empty, &live, &config, self.owners.clone(), force)
        })?;
        self.owners = owners;
        let is_changed = object.is_some();
        self.object = object.unwrap_or(live);
        self.object["metadata"]["uid"] = json!("u");
        Ok(is_changed)
    }

    fn update(&mut self, manager: &str, new: Value) {
        let (version, kind) = (text(&new, "apiVersion"), text(&new, "kind"));
        let live = if self.object.is_null() { json!({"metadata": {}}) } else { self.object.clone() };
        self.owners = with_subject(&version, &kind, |subject| {
            update(subject, writer(manager), &live, &new, std::mem::take(&mut self.owners))
        });
        self.object = new;
        self.object["metadata"]["uid"] = json!("u");
    }

    /// manager/operation -> fields
    fn owned(&self) -> Value {
        let entries = self.owners.clone().into_managed_fields();
        let entries = entries.as_array().into_iter().flatten().map(|entry| {
            let mut name = format!("{}/{}", text(entry, "manager"), text(entry, "operation"));
            if entry["subresource"].is_string() {
                name.push_str(&format!("/{}", text(entry, "subresource")));
            }
            (name, entry["fieldsV1"].clone())
        });
        Value::Object(entries.collect())
    }
}

fn text(value: &Value, name: &str) -> String {
    value[name].as_str().unwrap_or_default().to_owned()
}

fn config_map(data: Value) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "namespace": "n"}, "data": data})
}

fn deployment(containers: Value) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d", "namespace": "n"},
        "spec": {"template": {"spec": {"containers": containers}}}})
}

/// Semantics line 49.
#[test]
fn fields_are_told_as_upstream_tells_them() {
    let config = deployment(json!([{"name": "c<1>", "image": "i", "args": ["x"],
        "env": [{"name": "A", "value": "1"}], "ports": [{"containerPort": 80}],
        "resources": {"limits": {"cpu": 1}}, "securityContext": {}}]));
    let mut config = config;
    config["metadata"]["finalizers"] = json!(["a.b/c"]);
    config["metadata"]["labels"] = json!({"app": "x"});
    config["spec"]["selector"] = json!({"matchLabels": {"app": "x"}});
    let fields = typed::fields(root("apps/v1", "Deployment"), &config).into_fields();
    assert_eq!(
        fields,
        json!({"f:apiVersion": {}, "f:kind": {},
            "f:metadata": {"f:finalizers": {"v:\"a.b/c\"": {}}, "f:labels": {"f:app": {}}, "f:name": {}, "f:namespace": {}},
            "f:spec": {"f:selector": {}, "f:template": {"f:spec": {"f:containers": {
                "k:{\"name\":\"c\\u003c1\\u003e\"}": {".": {}, "f:args": {}, "f:image": {}, "f:name": {},
                    "f:env": {"k:{\"name\":\"A\"}": {".": {}, "f:name": {}, "f:value": {}}},
                    "f:ports": {"k:{\"containerPort\":80,\"protocol\":\"TCP\"}": {".": {}, "f:containerPort": {}}},
                    "f:resources": {"f:limits": {"f:cpu": {}}}, "f:securityContext": {}}}}}}})
    );
}

#[test]
fn changes_are_told_apart() {
    let old = deployment(json!([{"name": "a", "image": "1", "env": [{"name": "A"}]}, {"name": "b"}]));
    let new = deployment(json!([{"name": "a", "image": "2", "tty": true}, {"name": "c"}]));
    let changes = compare(root("apps/v1", "Deployment"), &old, &new);
    let containers = |value: Value| json!({"f:spec": {"f:template": {"f:spec": {"f:containers": value}}}});
    assert_eq!(changes.modified.into_fields(), containers(json!({"k:{\"name\":\"a\"}": {"f:image": {}}})));
    assert_eq!(
        changes.added.into_fields(),
        containers(json!({"k:{\"name\":\"a\"}": {"f:tty": {}}, "k:{\"name\":\"c\"}": {".": {}, "f:name": {}}}))
    );
    assert_eq!(
        changes.removed.into_fields(),
        containers(json!({
            "k:{\"name\":\"a\"}": {"f:env": {".": {}, "k:{\"name\":\"A\"}": {".": {}, "f:name": {}}}},
            "k:{\"name\":\"b\"}": {".": {}, "f:name": {}}}))
    );
}

/// Each row: what two managers apply in turn, and what comes of it.
#[test]
fn an_applier_takes_away_only_its_own() {
    for (first, other, then, left) in [
        (json!({"a": "1", "b": "2"}), json!({}), json!({"a": "1"}), json!({"a": "1"})),
        (json!({"a": "1", "b": "2"}), json!({"b": "2"}), json!({"a": "1"}), json!({"a": "1", "b": "2"})),
        (json!({"a": "1"}), json!({"b": "2"}), json!({"a": "3"}), json!({"a": "3", "b": "2"})),
        (json!({"a": "1"}), json!({"b": "2"}), json!({}), json!({"b": "2"})),
    ] {
        let mut world = World::default();
        world.apply("one", config_map(first), false).unwrap();
        world.apply("two", config_map(other), false).unwrap();
        world.apply("one", config_map(then.clone()), false).unwrap();
        assert_eq!(world.object["data"], left, "{then}");
    }
    let mut world = World::default();
    world.apply("one", deployment(json!([{"name": "a", "env": [{"name": "A"}, {"name": "B"}]}])), false).unwrap();
    world.apply("two", deployment(json!([{"name": "a", "image": "i"}])), false).unwrap();
    world.apply("one", deployment(json!([{"name": "a", "env": [{"name": "B"}]}])), false).unwrap();
    let containers = |world: &World| world.object["spec"]["template"]["spec"]["containers"].clone();
    assert_eq!(containers(&world), json!([{"name": "a", "env": [{"name": "B"}], "image": "i"}]));
    world.apply("one", deployment(json!([{"name": "b"}])), false).unwrap();
    assert_eq!(containers(&world), json!([{"name": "a", "image": "i"}, {"name": "b"}]));
}

/// Semantics line 48.
#[test]
fn conflicts_name_owner_and_field() {
    let mut world = World::default();
    world.update("kubectl-edit", config_map(json!({"a": "1", "b": "1"})));
    let refused = |world: &mut World, config| ApiError::from(world.apply("me", config, false).unwrap_err());
    let one = refused(&mut world, config_map(json!({"a": "2"})));
    assert_eq!((one.code(), one.reason()), (409, "Conflict"));
    assert_eq!(one.message(), "Apply failed with 1 conflict: conflict with \"kubectl-edit\" using v1: .data.a");
    let cause = serde_json::to_value(&one.0).unwrap()["details"]["causes"][0].clone();
    assert_eq!(
        cause,
        json!({"reason": "FieldManagerConflict", "message": "conflict with \"kubectl-edit\" using v1", "field": ".data.a"})
    );
    assert_eq!(
        refused(&mut world, config_map(json!({"a": "2", "b": "2"}))).message(),
        "Apply failed with 2 conflicts: conflicts with \"kubectl-edit\" using v1:\n- .data.a\n- .data.b"
    );
    // The same value makes a second owner.
    world.apply("me", config_map(json!({"a": "1"})), false).unwrap();
    assert_eq!(
        world.owned(),
        json!({"kubectl-edit/Update": {"f:data": {".": {}, "f:a": {}, "f:b": {}}}, "me/Apply": {"f:data": {"f:a": {}}}})
    );
    world.apply("me", config_map(json!({"a": "2"})), true).unwrap();
    assert_eq!(
        world.owned(),
        json!({"kubectl-edit/Update": {"f:data": {".": {}, "f:b": {}}}, "me/Apply": {"f:data": {"f:a": {}}}})
    );
    let mut world = World::default();
    world.apply("one", deployment(json!([{"name": "a", "image": "1"}])), false).unwrap();
    let refused = world.apply("two", deployment(json!([{"name": "a", "image": "2"}])), false).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "Apply failed with 1 conflict: conflict with \"one\": .spec.template.spec.containers[name=\"a\"].image"
    );
}

/// Semantics line 50.
#[test]
fn owners_are_recorded_pooled_and_reset() {
    let mut world = World::default();
    for i in 0..15 {
        let data = (0..=i).map(|n| (format!("k{n}"), json!("v"))).collect();
        world.update(&format!("m{i:02}"), config_map(Value::Object(data)));
    }
    let owned = world.owned();
    assert_eq!(owned.as_object().unwrap().len(), super::UPDATERS_MAX);
    let pooled = json!({"f:data": {".": {}, "f:k0": {}, "f:k1": {}, "f:k2": {}, "f:k3": {}, "f:k4": {}, "f:k5": {}}});
    assert_eq!(owned["ancient-changes/Update"], pooled);

    let mut world = World { object: config_map(json!({"a": "1"})), owners: Owners::default() };
    world.object["metadata"]["uid"] = json!("u");
    world.update("me", config_map(json!({"a": "2"})));
    assert_eq!(world.owned(), json!({}), "nobody is recorded until the first apply");
    world.apply("me", config_map(json!({"b": "1"})), false).unwrap();
    assert_eq!(
        world.owned(),
        json!({"before-first-apply/Update": {"f:data": {".": {}, "f:a": {}}}, "me/Apply": {"f:data": {"f:b": {}}}})
    );
}

#[test]
fn owners_can_be_sent_but_not_forged() {
    let stored = json!([{"manager": "m", "operation": "Update", "apiVersion": "v1", "fieldsType": "FieldsV1",
        "fieldsV1": {"f:data": {}}}]);
    let with = |field: &str, value: Value| {
        let mut sent = stored.clone();
        sent[0][field] = value;
        sent
    };
    let kept = Owners::stored(stored.clone());
    for (sent, expected) in [
        (Value::Null, kept.clone()),
        (json!([]), Owners::default()),
        (json!([{}]), Owners::default()),
        (with("operation", json!("Steal")), kept.clone()),
        (with("apiVersion", json!("")), kept.clone()),
        (with("fieldsType", json!("FieldsV2")), kept.clone()),
        (with("fieldsV1", json!({"f:a": 1})), kept.clone()),
        (with("fieldsV1", json!({"data": {}})), kept.clone()),
        (with("manager", json!("other")), Owners::stored(with("manager", json!("other")))),
    ] {
        assert_eq!(known(stored.clone(), &sent, writer("w")), expected, "{sent}");
    }
    let other = with("manager", json!("other"));
    let through_status = Writer { subresource: "status", ..writer("w") };
    assert_eq!(known(stored.clone(), &other, through_status), kept);
}

#[test]
fn configurations_must_fit_their_type() {
    let bad = |change: fn(&mut Value)| {
        let mut config = deployment(json!([{"name": "a"}]));
        change(&mut config);
        let refused = World::default().apply_as("apps/v1", "Deployment", config).unwrap_err();
        let error = ApiError::from(refused);
        (error.code(), error.message().to_owned())
    };
    let untyped =
        |why: &str| (500, format!("failed to create typed patch object (n/d; apps/v1, Kind=Deployment): {why}"));
    assert_eq!(bad(|config| config["kind"] = json!("Pod")), (400, "invalid object type: apps/v1, Kind=Pod".to_owned()));
    assert_eq!(
        bad(|config| config["metadata"]["managedFields"] = json!([])),
        (400, "metadata.managedFields must be nil".to_owned())
    );
    assert_eq!(bad(|config| config["spec"]["x"] = json!(1)), untyped(".spec.x: field not declared in schema"));
    assert_eq!(
        bad(|config| config["spec"]["replicas"] = json!("1")),
        untyped(".spec.replicas: expected numeric (int or float), got \"1\"")
    );
    assert_eq!(
        bad(|config| config["spec"]["template"]["spec"]["containers"] = json!([{"name": "a"}, {"name": "a"}])),
        untyped(".spec.template.spec.containers: duplicate entries for key [name=\"a\"]")
    );
    assert_eq!(
        bad(|config| config["spec"]["template"]["spec"]["containers"] = json!([{"image": "a"}])),
        untyped(
            ".spec.template.spec.containers: element 0: associative list with keys has an element that omits key field \
             \"name\" (and doesn't have default value)"
        )
    );
}

impl World {
    fn apply_as(&self, version: &str, kind: &str, config: Value) -> Result<Applied, ApplyError> {
        let empty = json!({"metadata": {}});
        with_subject(version, kind, |subject| {
            apply(subject, writer("me"), &empty, &empty, &config, Owners::default(), false)
        })
    }
}

/// What client-side apply has set, `kubectl` may change by server-side apply; what others changed since, it may not.
#[test]
fn kubectl_takes_over_what_client_side_apply_set() {
    let mut object = config_map(json!({"a": "1", "b": "1"}));
    object["metadata"]["annotations"] = json!({"kubectl.kubernetes.io/last-applied-configuration": config_map(json!({"a": "1", "b": "1"})).to_string()});
    let mut world = World::default();
    world.update("kubectl-client-side-apply", object.clone());
    assert!(world.clone().apply("other", config_map(json!({"a": "2"})), false).is_err());
    let mut taken = world.clone();
    taken.apply("kubectl", config_map(json!({"a": "2"})), false).unwrap();
    assert_eq!(taken.object["data"], json!({"a": "2", "b": "1"}));
    let annotation = &taken.object["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"];
    assert_eq!(annotation, &json!(format!("{}\n", config_map(json!({"a": "2"})))));
    let mut changed = world.object.clone();
    changed["data"]["a"] = json!("3");
    world.update("somebody", changed);
    let refused = world.apply("kubectl", config_map(json!({"a": "2", "b": "2"})), false).unwrap_err().to_string();
    assert_eq!(refused, "Apply failed with 1 conflict: conflict with \"somebody\" using v1: .data.a");
}

#[test]
fn who_owned_a_part_owns_the_whole_that_it_became() {
    let mut set =
        Set::stored(json!({"f:spec": {"f:selector": {"f:matchLabels": {".": {}, "f:a": {}}}, "f:replicas": {}}}));
    typed::reconcile(root("apps/v1", "Deployment"), &mut set);
    assert_eq!(set.into_fields(), json!({"f:spec": {"f:selector": {}, "f:replicas": {}}}));
}

#[test]
fn items_keep_the_order_that_was_applied_last() {
    let list = |names: &str| {
        deployment(names.split(' ').filter(|name| !name.is_empty()).map(|name| json!({"name": name})).collect())
    };
    for (live, config, merged) in [
        ("a b c", "b", "a b c"),
        ("a b c", "c a", "b c a"),
        ("a b c", "d", "a b c d"),
        ("a b c", "d a", "d a b c"),
        ("a b c", "c d b", "a c d b"),
        ("", "b a", "b a"),
    ] {
        let found = merge(root("apps/v1", "Deployment"), list(live), &list(config));
        assert_eq!(found, list(merged), "{live} and {config}");
    }
}

#[test]
fn without_a_type_ownership_is_deduced() {
    let fields = typed::fields(Node::root(None), &json!({"spec": {"list": [{"a": 1}], "map": {"b": 1}}}));
    assert_eq!(fields.into_fields(), json!({"f:spec": {".": {}, "f:list": {}, "f:map": {".": {}, "f:b": {}}}}));
}

fn set() -> impl Strategy<Value = Set> {
    let leaf = Just(json!({}));
    let node = leaf.prop_recursive(3, 24, 4, |inner| {
        let name = prop_oneof!["f:[a-c]", "k:\\{\"n\":\"[a-b]\"\\}", "v:[0-2]", "i:[0-2]"];
        (prop::collection::btree_map(name, inner, 1..4), any::<bool>()).prop_map(|(nodes, itself)| {
            let mut node: serde_json::Map<String, Value> = nodes.into_iter().collect();
            if itself {
                node.insert(".".to_owned(), json!({}));
            }
            Value::Object(node)
        })
    });
    node.prop_map(|node| Set::parse(&node).expect("made of path elements"))
}

/// Configurations of a Deployment with few names, so that they meet.
fn config() -> impl Strategy<Value = Value> {
    let value = "[1-3]";
    let map = prop::collection::btree_map("[a-c]", value, 0..3);
    let env = prop::collection::btree_map("[A-C]", value, 0..3);
    let container = (env, prop::option::of(value), prop::option::of(prop::collection::vec(value, 0..2)));
    let containers = prop::collection::btree_map("[a-c]", container, 1..3);
    (map.clone(), map, prop::option::of(1..4), containers, prop::collection::btree_set("[x-z]", 0..3)).prop_map(
        |(labels, annotations, replicas, containers, finalizers)| {
            let containers: Vec<Value> = containers
                .into_iter()
                .map(|(name, (env, image, args))| {
                    let env: Vec<Value> =
                        env.iter().map(|(name, value)| json!({"name": name, "value": value})).collect();
                    let mut container = json!({"name": name, "env": env});
                    if let Some(image) = image {
                        container["image"] = json!(image);
                    }
                    if let Some(args) = args {
                        container["args"] = json!(args);
                    }
                    container
                })
                .collect();
            let mut config = deployment(json!(containers));
            config["metadata"]["labels"] = json!(labels);
            config["metadata"]["annotations"] = json!(annotations);
            config["metadata"]["finalizers"] = json!(finalizers);
            if let Some(replicas) = replicas {
                config["spec"]["replicas"] = json!(replicas);
            }
            config
        },
    )
}

/// With those that hold others.
fn all_fields(object: &Value) -> Set {
    let node = root("apps/v1", "Deployment");
    typed::with_named_fields(node, &typed::fields(node, object))
}

fn minus(a: &Set, b: &Set) -> Set {
    let mut out = a.clone();
    out.subtract(b);
    out
}

fn plus(a: &Set, b: &Set) -> Set {
    let mut out = a.clone();
    out.unite(b.clone());
    out
}

proptest! {
    #[test]
    fn sets_obey_algebra(a in set(), b in set(), c in set()) {
        prop_assert_eq!(plus(&a, &b), plus(&b, &a));
        prop_assert_eq!(plus(&plus(&a, &b), &c), plus(&a, &plus(&b, &c)));
        prop_assert_eq!(plus(&a, &a), a.clone());
        prop_assert_eq!(a.intersection(&b), b.intersection(&a));
        prop_assert_eq!(a.intersection(&b), minus(&a, &minus(&a, &b)));
        prop_assert_eq!(plus(&minus(&a, &b), &a.intersection(&b)), a.clone());
        prop_assert!(minus(&a, &a).is_empty());
        prop_assert_eq!(a.intersection(&plus(&b, &c)), plus(&a.intersection(&b), &a.intersection(&c)));
        prop_assert_eq!(minus(&a, &plus(&b, &c)), minus(&minus(&a, &b), &c));
    }

    #[test]
    fn sets_survive_the_way_through_text(a in set()) {
        let text = a.clone().into_fields().to_string();
        let read: Value = serde_json::from_str(&text).unwrap();
        prop_assert_eq!(Set::parse(&read).unwrap(), a.clone());
        prop_assert_eq!(Set::stored(read), a);
    }

    #[test]
    fn to_apply_again_changes_nothing(a in config(), b in config()) {
        let mut world = World::default();
        world.apply("one", a, true).unwrap();
        world.apply("two", b.clone(), true).unwrap();
        let before = world.clone();
        prop_assert!(!world.apply("two", b, false).unwrap());
        prop_assert_eq!(&world.object, &before.object);
        prop_assert_eq!(&world.owners, &before.owners);
    }

    /// All that was applied is there, and owned.
    #[test]
    fn what_is_applied_is_there(a in config(), b in config(), c in config()) {
        let mut world = World::default();
        world.apply("one", a, true).unwrap();
        world.update("two", { let mut b = b; b["metadata"]["uid"] = json!("u"); b });
        world.apply("one", c.clone(), true).unwrap();
        let node = root("apps/v1", "Deployment");
        prop_assert!(minus(&typed::fields(node, &c), &all_fields(&world.object)).is_empty());
        // An empty list is as good as none.
        let of = schema::of("apps", "v1", "Deployment").expect("a built-in kind");
        let canonical = |object: Value| schema::decode(of, object).expect("of its type").value;
        prop_assert_eq!(canonical(merge(node, world.object.clone(), &c)), canonical(world.object));
    }

    /// An applier that lets go of everything leaves what others own.
    #[test]
    fn letting_go_leaves_what_others_own(a in config(), b in config()) {
        let node = root("apps/v1", "Deployment");
        let mut world = World::default();
        world.apply("one", a, true).unwrap();
        world.apply("two", b.clone(), true).unwrap();
        let nothing = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "d"}});
        world.apply("one", nothing, false).unwrap();
        prop_assert!(minus(&typed::fields(node, &b), &all_fields(&world.object)).is_empty());
    }

    /// A comparison's sets are apart, and nothing differs from itself.
    #[test]
    fn comparisons_part_the_fields(a in config(), b in config()) {
        let node = root("apps/v1", "Deployment");
        let changes = compare(node, &a, &b);
        prop_assert!(changes.added.intersection(&changes.removed).is_empty());
        prop_assert!(changes.added.intersection(&changes.modified).is_empty());
        prop_assert!(changes.removed.intersection(&changes.modified).is_empty());
        let same = compare(node, &a, &a);
        prop_assert!(same.added.is_empty() && same.modified.is_empty() && same.removed.is_empty());
    }
}
