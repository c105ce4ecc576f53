//! Create, update and delete as a client observes them.

use serde_json::{Value, json};
use tests::{Reply, control_plane};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn config_map(name: &str, value: &str) -> Value {
    json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":name},"data":{"k":value}})
}

fn pod(name: &str) -> Value {
    json!({"apiVersion":"v1","kind":"Pod","metadata":{"name":name},"spec":{"containers":[{"name":"a","image":"i:1"}]}})
}

#[track_caller]
fn refused(reply: &Reply, code: u16, reason: &str, part: &str) {
    let (found, why, message) = reply.refusal();
    assert_eq!((found, why.as_str()), (code, reason), "{message}");
    assert!(message.contains(part), "{message}");
}

/// Semantics lines 18, 21, 22.
#[test]
fn the_server_fills_metadata_and_refuses_duplicates() {
    let cluster = control_plane!();
    let mut object = config_map("one", "1");
    object["metadata"]["uid"] = "mine".into();
    object["metadata"]["creationTimestamp"] = "2001-01-01T00:00:00Z".into();
    let created = cluster.post(CONFIG_MAPS, &object).expect(201);
    let metadata = &created["metadata"];
    assert_ne!(metadata["uid"], "mine");
    assert_ne!(metadata["creationTimestamp"], "2001-01-01T00:00:00Z");
    assert!(metadata["resourceVersion"].as_str().is_some_and(|revision| revision.parse::<u64>().is_ok()));
    assert!(metadata["generation"].is_null(), "a ConfigMap never gets one (line 27)");

    let again = cluster.post(CONFIG_MAPS, &object);
    refused(&again, 409, "AlreadyExists", "configmaps \"one\" already exists");
    assert_eq!(again.json()["details"], json!({"name": "one", "kind": "configmaps"}));
    refused(&cluster.get(&format!("{CONFIG_MAPS}/absent")), 404, "NotFound", "configmaps \"absent\" not found");
    refused(
        &cluster.get("/api/v1/namespaces/default/nonsense"),
        404,
        "NotFound",
        "the server could not find the requested resource",
    );
    let unknown = cluster.get("/nonsense");
    assert_eq!((unknown.code, unknown.text().trim()), (404, "404 page not found"));
}

/// Semantics line 20.
#[test]
fn generated_names_have_five_characters_of_upstreams_alphabet() {
    let cluster = control_plane!();
    let object = json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"generateName":"made-"}});
    let created = cluster.post(CONFIG_MAPS, &object).expect(201);
    let suffix = created["metadata"]["name"].as_str().and_then(|name| name.strip_prefix("made-")).expect("the prefix");
    assert!(suffix.len() == 5 && suffix.chars().all(|c| "bcdfghjklmnpqrstvwxz2456789".contains(c)), "{suffix}");
}

/// Semantics lines 19, 23, 26.
#[test]
fn updates_compare_the_revision_and_an_equal_one_writes_nothing() {
    let cluster = control_plane!();
    let first = cluster.post(CONFIG_MAPS, &config_map("c", "1")).expect(201);
    let path = format!("{CONFIG_MAPS}/c");
    let mut second = first.clone();
    second["data"]["k"] = "2".into();
    let second = cluster.put(&path, &second).expect(200);
    let mut stale = first.clone();
    stale["data"]["k"] = "3".into();
    refused(
        &cluster.put(&path, &stale),
        409,
        "Conflict",
        "Operation cannot be fulfilled on configmaps \"c\": the object has been modified; please apply your changes to the latest version and try again",
    );
    let same = cluster.put(&path, &second).expect(200);
    assert_eq!(same["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]);
    let unconditional = cluster.put(&path, &config_map("c", "4")).expect(200);
    assert_eq!(unconditional["metadata"]["uid"], first["metadata"]["uid"]);
    refused(&cluster.put(&path, &config_map("other", "1")), 400, "BadRequest", "does not match the name on the URL");
    let mut other = config_map("c", "5");
    other["metadata"]["uid"] = "11111111-1111-1111-1111-111111111111".into();
    refused(&cluster.put(&path, &other), 409, "Conflict", "Precondition failed: UID in precondition");
}

/// Semantics lines 27, 28, 29.
#[test]
fn defaults_generation_and_status_separation() {
    let cluster = control_plane!();
    let created = cluster.post(PODS, &pod("p")).expect(201);
    let spec = &created["spec"];
    assert_eq!(spec["terminationGracePeriodSeconds"], 30);
    assert_eq!(spec["dnsPolicy"], "ClusterFirst");
    assert_eq!(spec["restartPolicy"], "Always");
    assert_eq!(spec["containers"][0]["imagePullPolicy"], "IfNotPresent");
    assert_eq!(created["status"]["phase"], "Pending");
    assert_eq!(created["metadata"]["generation"], 1);

    let deployments = "/apis/apps/v1/namespaces/default/deployments";
    let object = json!({"apiVersion":"apps/v1","kind":"Deployment","metadata":{"name":"d"},"spec":{
        "selector":{"matchLabels":{"a":"b"}},
        "template":{"metadata":{"labels":{"a":"b"}},"spec":{"containers":[{"name":"c","image":"i:1"}]}}},
        "status":{"replicas":9}});
    let created = cluster.post(deployments, &object).expect(201);
    assert_eq!(created["metadata"]["generation"], 1);
    assert_eq!(created["spec"]["replicas"], 1);
    assert_eq!(created["spec"]["strategy"]["rollingUpdate"]["maxSurge"], "25%");
    assert_ne!(created["status"]["replicas"], 9);

    let path = format!("{deployments}/d");
    let status = json!({"spec":{"replicas":5},"status":{"replicas":2,"observedGeneration":1}});
    let updated = cluster.patch(&format!("{path}/status"), "merge-patch+json", &status).expect(200);
    assert_eq!((&updated["spec"]["replicas"], &updated["status"]["replicas"]), (&json!(1), &json!(2)));
    assert_eq!(updated["metadata"]["generation"], 1);
    let both = json!({"spec":{"replicas":3},"status":{"replicas":7}});
    let updated = cluster.patch(&path, "merge-patch+json", &both).expect(200);
    assert_eq!((&updated["spec"]["replicas"], &updated["status"]["replicas"]), (&json!(3), &json!(2)));
    assert_eq!(updated["metadata"]["generation"], 2);

    let scale = cluster.get(&format!("{path}/scale")).expect(200);
    assert_eq!((&scale["kind"], &scale["spec"]["replicas"]), (&json!("Scale"), &json!(3)));
    let immutable = json!({"spec":{"selector":{"matchLabels":{"a":"c"}},"template":{"metadata":{"labels":{"a":"c"}}}}});
    refused(&cluster.patch(&path, "merge-patch+json", &immutable), 422, "Invalid", "field is immutable");
}

/// Semantics lines 33, 34, 35, 36.
#[test]
fn deletion_with_grace_finalizers_and_preconditions() {
    let cluster = control_plane!();
    cluster.post(CONFIG_MAPS, &config_map("c", "1")).expect(201);
    let wrong = json!({"kind":"DeleteOptions","apiVersion":"v1","preconditions":{"uid":"nobody"}}).to_string();
    let headers = ["Content-Type: application/json"];
    let reply = cluster.http("admin", "DELETE", &format!("{CONFIG_MAPS}/c"), &headers, wrong.as_bytes());
    refused(&reply, 409, "Conflict", "the UID in the precondition (nobody) does not match the UID in record");
    let gone = cluster.delete(&format!("{CONFIG_MAPS}/c")).expect(200);
    assert_eq!((&gone["status"], &gone["details"]["kind"]), (&json!("Success"), &json!("configmaps")));

    let mut held = config_map("held", "1");
    held["metadata"]["finalizers"] = json!(["example.com/hold"]);
    cluster.post(CONFIG_MAPS, &held).expect(201);
    let path = format!("{CONFIG_MAPS}/held");
    let lingering = cluster.delete(&path).expect(200);
    assert!(lingering["metadata"]["deletionTimestamp"].is_string());
    let add = json!({"metadata":{"finalizers":["example.com/hold","example.com/more"]}});
    refused(&cluster.patch(&path, "merge-patch+json", &add), 422, "Invalid", "no new finalizers can be added");
    cluster.patch(&path, "merge-patch+json", &json!({"metadata":{"finalizers":null}})).expect(200);
    assert_eq!(cluster.get(&path).code, 404);

    let mut bound = pod("bound");
    bound["spec"]["nodeName"] = "n1".into();
    cluster.post(PODS, &bound).expect(201);
    let path = format!("{PODS}/bound");
    let lingering = cluster.delete(&path).expect(200);
    assert_eq!(lingering["metadata"]["deletionGracePeriodSeconds"], 30);
    let now = json!({"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":0}).to_string();
    assert_eq!(cluster.http("admin", "DELETE", &path, &headers, now.as_bytes()).code, 200);
    assert_eq!(cluster.get(&path).code, 404);
    cluster.post(PODS, &pod("pending")).expect(201);
    cluster.delete(&format!("{PODS}/pending"));
    assert_eq!(cluster.get(&format!("{PODS}/pending")).code, 404, "an unscheduled pod goes at once");
}

/// Semantics line 43: admission and validation run, nothing is stored.
#[test]
fn a_dry_run_writes_nothing() {
    let cluster = control_plane!();
    let reply = cluster.post(&format!("{CONFIG_MAPS}?dryRun=All"), &config_map("dry", "1")).expect(201);
    assert!(reply["metadata"]["resourceVersion"].is_null());
    assert_eq!(cluster.get(&format!("{CONFIG_MAPS}/dry")).code, 404);
}

/// Semantics line 40.
#[test]
fn deletecollection_honours_selectors() {
    let cluster = control_plane!();
    for (name, team) in [("a", "x"), ("b", "x"), ("c", "y")] {
        let mut object = config_map(name, "1");
        object["metadata"]["labels"] = json!({"team": team});
        cluster.post(CONFIG_MAPS, &object).expect(201);
    }
    cluster.delete(&format!("{CONFIG_MAPS}?labelSelector=team%3Dx"));
    let codes = ["a", "b", "c"].map(|name| cluster.get(&format!("{CONFIG_MAPS}/{name}")).code);
    assert_eq!(codes, [404, 404, 200]);
}

/// Semantics lines 78 and 79.
#[test]
fn services_get_addresses_and_secrets_their_data() {
    let cluster = control_plane!();
    let services = "/api/v1/namespaces/default/services";
    let service =
        |name: &str, spec: Value| json!({"apiVersion":"v1","kind":"Service","metadata":{"name":name},"spec":spec});
    let created = cluster.post(services, &service("a", json!({"ports":[{"port":80}],"type":"NodePort"}))).expect(201);
    let address = created["spec"]["clusterIP"].as_str().expect("an address").to_owned();
    assert_eq!(created["spec"]["clusterIPs"], json!([address]));
    assert_eq!(created["spec"]["ipFamilies"], json!(["IPv4"]));
    assert_eq!(created["spec"]["ports"][0]["targetPort"], 80);
    let port = created["spec"]["ports"][0]["nodePort"].as_u64().expect("a node port");
    assert!((30000..=32767).contains(&port));
    let taken = service("b", json!({"type":"NodePort","ports":[{"port":80,"nodePort":port}]}));
    refused(&cluster.post(services, &taken), 422, "Invalid", "provided port is already allocated");
    let same = service("c", json!({"clusterIP":address,"ports":[{"port":80}]}));
    refused(&cluster.post(services, &same), 422, "Invalid", "provided IP is already allocated");
    cluster.delete(&format!("{services}/a"));
    cluster.post(services, &same).expect(201);
    let headless = cluster.post(services, &service("d", json!({"clusterIP":"None","ports":[{"port":80}]}))).expect(201);
    assert_eq!(headless["spec"]["clusterIP"], "None");

    let secret = json!({"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"},"stringData":{"k":"v"}});
    let created = cluster.post("/api/v1/namespaces/default/secrets", &secret).expect(201);
    assert_eq!((&created["data"]["k"], &created["type"]), (&json!("dg=="), &json!("Opaque")));
    assert!(created["stringData"].is_null());
}
