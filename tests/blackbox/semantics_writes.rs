//! What the API's semantics promise of writes, line by line, where no other test proves it.

use serde_json::{Value, json};
use tests::{Cluster, Reply, control_plane};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/default/leases";
const JSON: &str = "Content-Type: application/json";

fn config_map(name: &str) -> Value {
    json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":name},"data":{"k":"v"}})
}

fn pod(name: &str, node: &str) -> Value {
    json!({"apiVersion":"v1","kind":"Pod","metadata":{"name":name,"labels":{"app":"a"}},
        "spec":{"nodeName":node,"containers":[{"name":"c","image":"i:1"}]}})
}

fn delete(cluster: &Cluster, path: &str, options: Value) -> Reply {
    cluster.http("admin", "DELETE", path, &[JSON], options.to_string().as_bytes())
}

#[track_caller]
fn refused(reply: &Reply, code: u16, reason: &str, part: &str) {
    let (found, why, message) = reply.refusal();
    assert_eq!((found, why.as_str()), (code, reason), "{message}");
    assert!(message.contains(part), "{message}");
}

/// Lines 18 and 37: what a client cannot write.
#[test]
fn system_fields_are_the_servers() {
    let cluster = control_plane!();
    let mut object = config_map("a");
    object["metadata"]["deletionTimestamp"] = "2001-01-01T00:00:00Z".into();
    object["metadata"]["deletionGracePeriodSeconds"] = 5.into();
    object["metadata"]["generation"] = 7.into();
    let created = cluster.post(CONFIG_MAPS, &object).expect(201);
    assert!(
        created["metadata"]["deletionTimestamp"].is_null()
            && created["metadata"]["deletionGracePeriodSeconds"].is_null()
    );
    let mut versioned = config_map("b");
    versioned["metadata"]["resourceVersion"] = "1".into();
    refused(
        &cluster.post(CONFIG_MAPS, &versioned),
        500,
        "",
        "resourceVersion should not be set on objects to be created",
    );

    let mut held = config_map("held");
    held["metadata"]["finalizers"] = json!(["example.com/a"]);
    cluster.post(CONFIG_MAPS, &held).expect(201);
    let path = format!("{CONFIG_MAPS}/held");
    let marked = cluster.delete(&path).expect(200);
    let at = &marked["metadata"]["deletionTimestamp"];
    let undone = json!({"metadata":{"deletionTimestamp":null},"data":{"k":"changed"}});
    let patched = cluster.patch(&path, "merge-patch+json", &undone).expect(200);
    assert_eq!((&patched["metadata"]["deletionTimestamp"], &patched["data"]["k"]), (at, &json!("changed")));
    let again = cluster.delete(&path).expect(200);
    assert_eq!(again["metadata"]["resourceVersion"], patched["metadata"]["resourceVersion"], "nothing more to mark");
}

/// Lines 24 and 25: which kinds a PUT without a revision replaces, and which it makes.
#[test]
fn puts_without_a_revision_or_an_object() {
    let cluster = control_plane!();
    let lease = json!({"apiVersion":"coordination.k8s.io/v1","kind":"Lease","metadata":{"name":"x"},"spec":{"holderIdentity":"h"}});
    let role = json!({"apiVersion":"rbac.authorization.k8s.io/v1","kind":"Role","metadata":{"name":"x"},"rules":[]});
    let cluster_role =
        json!({"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRole","metadata":{"name":"x"},"rules":[]});
    let class = json!({"apiVersion":"node.k8s.io/v1","kind":"RuntimeClass","metadata":{"name":"x"},"handler":"h"});
    let driver = json!({"apiVersion":"storage.k8s.io/v1","kind":"CSIDriver","metadata":{"name":"x"},"spec":{}});
    let csi_node =
        json!({"apiVersion":"storage.k8s.io/v1","kind":"CSINode","metadata":{"name":"x"},"spec":{"drivers":[]}});
    let capacity = json!({"apiVersion":"storage.k8s.io/v1","kind":"CSIStorageCapacity","metadata":{"name":"x"},"storageClassName":"c"});
    let budget = json!({"apiVersion":"policy/v1","kind":"PodDisruptionBudget","metadata":{"name":"x"},"spec":{"minAvailable":1}});
    let service = json!({"apiVersion":"v1","kind":"Service","metadata":{"name":"x"},"spec":{"ports":[{"port":80}]}});
    let endpoints = json!({"apiVersion":"v1","kind":"Endpoints","metadata":{"name":"x"}});
    let range = json!({"apiVersion":"v1","kind":"LimitRange","metadata":{"name":"x"},"spec":{"limits":[]}});
    let rbac = "/apis/rbac.authorization.k8s.io/v1";
    let storage = "/apis/storage.k8s.io/v1";
    // (collection, object, is made by PUT, is replaced without a revision)
    for (collection, object, makes, replaces) in [
        (LEASES.to_owned(), lease, true, false),
        (format!("{rbac}/namespaces/default/roles"), role, true, true),
        (format!("{rbac}/clusterroles"), cluster_role, true, true),
        ("/apis/node.k8s.io/v1/runtimeclasses".to_owned(), class, true, false),
        (format!("{storage}/csidrivers"), driver, false, false),
        (format!("{storage}/csinodes"), csi_node, false, false),
        (format!("{storage}/namespaces/default/csistoragecapacities"), capacity, false, false),
        ("/apis/policy/v1/namespaces/default/poddisruptionbudgets".to_owned(), budget, false, false),
        ("/api/v1/namespaces/default/services".to_owned(), service, true, true),
        ("/api/v1/namespaces/default/endpoints".to_owned(), endpoints, true, true),
        ("/api/v1/namespaces/default/limitranges".to_owned(), range, true, true),
        (CONFIG_MAPS.to_owned(), config_map("x"), false, true),
    ] {
        let path = format!("{collection}/x");
        let made = cluster.put(&path, &object);
        assert_eq!(made.code, if makes { 201 } else { 404 }, "{path}: {}", made.text());
        if !makes {
            cluster.post(&collection, &object).expect(201);
        }
        let replaced = cluster.put(&path, &object);
        assert_eq!(replaced.code, if replaces { 200 } else { 422 }, "{path}: {}", replaced.text());
        if !replaces {
            refused(&replaced, 422, "Invalid", "metadata.resourceVersion: Invalid value");
        }
    }
}

/// Line 27: a pod's generation counts its wishes, also the wish that it go.
#[test]
fn generations_of_pods() {
    let cluster = control_plane!();
    assert_eq!(cluster.post(PODS, &pod("p", "n")).expect(201)["metadata"]["generation"], 1);
    let path = format!("{PODS}/p");
    let labelled = cluster.patch(&path, "merge-patch+json", &json!({"metadata":{"labels":{"x":"y"}}})).expect(200);
    assert_eq!(labelled["metadata"]["generation"], 1);
    let image = json!({"spec":{"containers":[{"name":"c","image":"i:2"}]}});
    assert_eq!(cluster.patch(&path, "strategic-merge-patch+json", &image).expect(200)["metadata"]["generation"], 2);
    assert_eq!(cluster.delete(&path).expect(200)["metadata"]["generation"], 3);
}

/// Lines 33, 34 and 38: how a deletion goes and what it answers.
#[test]
fn deletions_by_grace_and_policy() {
    let cluster = control_plane!();
    cluster.post(PODS, &pod("p", "n")).expect(201);
    let path = format!("{PODS}/p");
    let grace = |reply: Reply| reply.expect(200)["metadata"]["deletionGracePeriodSeconds"].clone();
    assert_eq!(grace(delete(&cluster, &path, json!({"gracePeriodSeconds": 20}))), 20);
    assert_eq!(grace(delete(&cluster, &path, json!({"gracePeriodSeconds": 25}))), 20, "never longer");
    assert_eq!(grace(delete(&cluster, &path, json!({"gracePeriodSeconds": 5}))), 5);
    assert_eq!(grace(delete(&cluster, &path, json!({"gracePeriodSeconds": -3}))), 1, "a negative grace is one second");
    assert_eq!(delete(&cluster, &path, json!({"gracePeriodSeconds": 0})).code, 200);
    assert_eq!(cluster.get(&path).code, 404);

    let finalizers = |object: &Value| object["metadata"]["finalizers"].clone();
    for (policy, code, expected) in [
        (json!({"propagationPolicy": "Foreground"}), 200, json!(["foregroundDeletion"])),
        (json!({"propagationPolicy": "Orphan"}), 200, json!(["orphan"])),
        (json!({"orphanDependents": true}), 200, json!(["orphan"])),
    ] {
        cluster.post(CONFIG_MAPS, &config_map("c")).expect(201);
        let path = format!("{CONFIG_MAPS}/c");
        let lingering = delete(&cluster, &path, policy.clone()).expect(code);
        assert_eq!(finalizers(&lingering), expected, "{policy}");
        cluster.patch(&path, "merge-patch+json", &json!({"metadata":{"finalizers":null}})).expect(200);
        assert_eq!(cluster.get(&path).code, 404);
    }
    let mut held = config_map("held");
    held["metadata"]["finalizers"] = json!(["example.com/a"]);
    cluster.post(CONFIG_MAPS, &held).expect(201);
    assert_eq!(delete(&cluster, &format!("{CONFIG_MAPS}/held"), json!({"orphanDependents": false})).code, 202);
    let both = delete(
        &cluster,
        &format!("{CONFIG_MAPS}/held"),
        json!({"orphanDependents": true, "propagationPolicy": "Orphan"}),
    );
    refused(&both, 422, "Invalid", "orphanDependents and deletionPropagation cannot be both set");

    let controller = json!({"apiVersion":"v1","kind":"ReplicationController","metadata":{"name":"rc"},"spec":{"selector":{"a":"b"},
        "template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i:1"}]}}}});
    let controllers = "/api/v1/namespaces/default/replicationcontrollers";
    cluster.post(controllers, &controller).expect(201);
    assert_eq!(finalizers(&cluster.delete(&format!("{controllers}/rc")).expect(200)), json!(["orphan"]), "its default");
}

/// Line 39: owners are named completely, and one of them controls.
#[test]
fn owners_are_complete() {
    let cluster = control_plane!();
    let owner = |name: &str| json!({"apiVersion":"v1","kind":"Pod","name":name,"uid":"1","controller":true});
    let send = |owners: Value| {
        let mut object = config_map("a");
        object["metadata"]["ownerReferences"] = owners;
        cluster.post(&format!("{CONFIG_MAPS}?dryRun=All"), &object)
    };
    send(json!([owner("a")])).expect(201);
    refused(
        &send(json!([owner("a"), owner("b")])),
        422,
        "Invalid",
        "Only one reference can have Controller set to true",
    );
    let empty = send(json!([{"apiVersion":"","kind":"","name":"","uid":""}])).expect(422);
    let causes = empty["details"]["causes"].as_array().expect("causes");
    assert_eq!(causes.len(), 4, "{causes:?}");
}

/// Line 40: a collection's deletion honours its options and answers with what it deleted.
#[test]
fn collections_are_deleted_by_options() {
    let cluster = control_plane!();
    for name in ["a", "b"] {
        let mut object = config_map(name);
        object["metadata"]["labels"] = json!({"team": "x"});
        cluster.post(CONFIG_MAPS, &object).expect(201);
    }
    let path = format!("{CONFIG_MAPS}?labelSelector=team%3Dx");
    let left = || cluster.get(&path).expect(200)["items"].as_array().map_or(0, Vec::len);
    delete(&cluster, &path, json!({"dryRun": ["All"]})).expect(200);
    assert_eq!(left(), 2);
    let list = cluster.delete(&path).expect(200);
    assert_eq!((list["kind"].as_str(), list["items"].as_array().map_or(0, Vec::len)), (Some("ConfigMapList"), 2));
    assert_eq!(left(), 0);
}

/// Line 41: what names look like, by kind.
#[test]
fn names_by_kind() {
    let cluster = control_plane!();
    let rbac = "/apis/rbac.authorization.k8s.io/v1/clusterroles";
    let role = |name: &str| json!({"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRole","metadata":{"name":name},"rules":[]});
    let namespace = |name: &str| json!({"apiVersion":"v1","kind":"Namespace","metadata":{"name":name}});
    let service = |name: &str| json!({"apiVersion":"v1","kind":"Service","metadata":{"name":name},"spec":{"ports":[{"port":80}]}});
    let services = "/api/v1/namespaces/default/services";
    let long = "x".repeat(254);
    for (collection, object, code) in [
        (CONFIG_MAPS, config_map("a.b-c"), 201),
        (CONFIG_MAPS, config_map("A"), 422),
        (CONFIG_MAPS, config_map(&long), 422),
        (CONFIG_MAPS, config_map(&long[..253]), 201),
        ("/api/v1/namespaces", namespace("a-b"), 201),
        ("/api/v1/namespaces", namespace("a.b"), 422),
        ("/api/v1/namespaces", namespace(&long[..64]), 422),
        (services, service("a-1"), 201),
        (services, service("a.b"), 422),
        (rbac, role("system:walk:Er"), 201),
        (rbac, role("a/b"), 422),
        (rbac, role("a%b"), 422),
        (rbac, role(".."), 422),
    ] {
        let reply = cluster.post(&format!("{collection}?dryRun=All"), &object);
        assert_eq!(reply.code, code, "{}: {}", object["metadata"]["name"], reply.text());
    }
    let mut labelled = config_map("l");
    labelled["metadata"]["labels"] = json!({"a": "x".repeat(64)});
    refused(&cluster.post(CONFIG_MAPS, &labelled), 422, "Invalid", "must be no more than 63");
    let mut annotated = config_map("n");
    annotated["metadata"]["annotations"] = json!({"a": "x".repeat(256 * 1024)});
    refused(&cluster.post(CONFIG_MAPS, &annotated), 422, "Invalid", "metadata.annotations: Too long");
}

/// Line 42: a patch of too many steps.
#[test]
fn patches_have_an_end() {
    let cluster = control_plane!();
    cluster.post(CONFIG_MAPS, &config_map("a")).expect(201);
    let step = json!({"op":"add","path":"/data/k","value":"w"});
    let patch = |steps: usize| {
        cluster.patch(&format!("{CONFIG_MAPS}/a"), "json-patch+json", &Value::from(vec![step.clone(); steps]))
    };
    assert_eq!(patch(10_000).code, 200);
    assert_eq!(patch(10_001).code, 413);
}

/// Line 43: a dry run of any write leaves no trace.
#[test]
fn dry_runs_of_every_write() {
    let cluster = control_plane!();
    let before = cluster.post(CONFIG_MAPS, &config_map("a")).expect(201);
    let path = format!("{CONFIG_MAPS}/a?dryRun=All");
    let mut changed = before.clone();
    changed["data"]["k"] = "w".into();
    assert_eq!(cluster.put(&path, &changed).expect(200)["data"]["k"], "w");
    assert_eq!(cluster.patch(&path, "merge-patch+json", &json!({"data":{"k":"w"}})).expect(200)["data"]["k"], "w");
    assert_eq!(cluster.delete(&path).code, 200);
    assert_eq!(cluster.get(&format!("{CONFIG_MAPS}/a")).expect(200), before);
    assert_eq!(cluster.post(&format!("{CONFIG_MAPS}?dryRun=All"), &config_map("a")).code, 409);
    refused(&cluster.put(&format!("{CONFIG_MAPS}/a?dryRun=Some"), &changed), 422, "Invalid", "dryRun");
}

/// Lines 29 and 30: null means absent, and what was made is what is read.
#[test]
fn nulls_are_defaulted() {
    let cluster = control_plane!();
    let mut object = pod("p", "");
    object["spec"]["restartPolicy"] = Value::Null;
    object["spec"]["tolerations"] = Value::Null;
    object["spec"]["containers"][0]["ports"] = json!([{"containerPort": 80, "protocol": null}]);
    let created = cluster.post(PODS, &object);
    let spec = created.expect(201)["spec"].clone();
    assert_eq!(
        (&spec["restartPolicy"], &spec["containers"][0]["ports"][0]["protocol"]),
        (&json!("Always"), &json!("TCP"))
    );
    assert_eq!(cluster.get(&format!("{PODS}/p")).body, created.body, "the same bytes");
}

/// Line 72: evictions ask the budget.
#[test]
fn evictions_ask_the_budget() {
    let cluster = control_plane!();
    let budgets = "/apis/policy/v1/namespaces/default/poddisruptionbudgets";
    let budget = |name: &str| {
        json!({"apiVersion":"policy/v1","kind":"PodDisruptionBudget","metadata":{"name":name},
        "spec":{"minAvailable":1,"selector":{"matchLabels":{"app":"a"}}}})
    };
    cluster.post(PODS, &pod("p", "n")).expect(201);
    let running = json!({"status":{"phase":"Running","conditions":[{"type":"Ready","status":"True"}]}});
    cluster.patch(&format!("{PODS}/p/status"), "merge-patch+json", &running).expect(200);
    cluster.post(budgets, &budget("b")).expect(201);
    let evict = |query: &str| {
        let eviction = json!({"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"p"}});
        cluster.post(&format!("{PODS}/p/eviction{query}"), &eviction)
    };
    let words = "Cannot evict pod as it would violate the pod's disruption budget.";
    refused(&evict(""), 429, "TooManyRequests", words);
    assert_eq!(evict("").json()["details"]["causes"][0]["reason"], "DisruptionBudget");
    let status = |allowed: i64| json!({"status":{"observedGeneration":1,"disruptionsAllowed":allowed,"desiredHealthy":1,"currentHealthy":2,"expectedPods":2}});
    cluster.patch(&format!("{budgets}/b/status"), "merge-patch+json", &status(0)).expect(200);
    let blocked = evict("").expect(429);
    let cause = &blocked["details"]["causes"][0];
    assert_eq!(cause["message"], "The disruption budget b needs 1 healthy pods and has 2 currently");
    cluster.patch(&format!("{budgets}/b/status"), "merge-patch+json", &status(1)).expect(200);
    cluster.post(budgets, &budget("second")).expect(201);
    assert_eq!(evict("").code, 500, "two budgets are one too many");
    cluster.delete(&format!("{budgets}/second"));
    evict("?dryRun=All").expect(201);
    assert!(cluster.get(&format!("{PODS}/p")).expect(200)["metadata"]["deletionTimestamp"].is_null());
    evict("").expect(201);
    assert!(cluster.get(&format!("{PODS}/p")).expect(200)["metadata"]["deletionTimestamp"].is_string());
    let after = cluster.get(&format!("{budgets}/b")).expect(200);
    assert_eq!(after["status"]["disruptionsAllowed"], 0);
    assert!(after["status"]["disruptedPods"]["p"].is_string());
}

/// Line 73: a pod is bound once, and not while it waits at a gate.
#[test]
fn pods_are_bound_once() {
    let cluster = control_plane!();
    let bind = |name: &str, node: &str| {
        let binding = json!({"apiVersion":"v1","kind":"Binding","metadata":{"name":name,"annotations":{"a":"b"}},
            "target":{"apiVersion":"v1","kind":"Node","name":node}});
        cluster.post(&format!("{PODS}/{name}/binding"), &binding)
    };
    cluster.post(PODS, &pod("p", "")).expect(201);
    bind("p", "n").expect(201);
    let bound = cluster.get(&format!("{PODS}/p")).expect(200);
    assert_eq!((&bound["spec"]["nodeName"], &bound["metadata"]["annotations"]["a"]), (&json!("n"), &json!("b")));
    let conditions = bound["status"]["conditions"].as_array().expect("conditions");
    assert!(conditions.iter().any(|one| one["type"] == "PodScheduled" && one["status"] == "True"));
    refused(&bind("p", "m"), 409, "Conflict", "pod p is already assigned to node \"n\"");
    let mut gated = pod("gated", "");
    gated["spec"]["schedulingGates"] = json!([{"name": "example.com/g"}]);
    cluster.post(PODS, &gated).expect(201);
    assert!(bind("gated", "n").code >= 400);
}

/// Lines 27 and 28 for statuses: a status that makes no sense is refused.
#[test]
fn statuses_make_sense() {
    let cluster = control_plane!();
    let deployment = json!({"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d"},"spec":{"selector":{"matchLabels":{"a":"b"}},
        "template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i:1"}]}}}});
    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    cluster.post(deployments, &deployment).expect(201);
    let status = |status: Value| {
        cluster.patch(&format!("{deployments}/d/status"), "merge-patch+json", &json!({ "status": status }))
    };
    refused(&status(json!({"replicas": -1})), 422, "Invalid", "status.replicas: Invalid value: -1");
    refused(&status(json!({"readyReplicas": 1})), 422, "Invalid", "cannot be greater than status.replicas");
    status(json!({"replicas": 1, "readyReplicas": 1})).expect(200);
}
