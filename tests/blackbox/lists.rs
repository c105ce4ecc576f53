//! LIST: pages, revisions, selectors, tables.

use serde_json::{Value, json};
use tests::{Cluster, control_plane};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn seed(cluster: &Cluster, count: usize) {
    for index in 0..count {
        let parity = if index % 2 == 0 { "even" } else { "odd" };
        let object = json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":format!("c{index:02}"),"labels":{"parity":parity}}});
        cluster.post(CONFIG_MAPS, &object).expect(201);
    }
}

fn names(list: &Value) -> Vec<&str> {
    let items = list["items"].as_array().expect("a list");
    items.iter().filter_map(|item| item["metadata"]["name"].as_str()).filter(|name| name.starts_with('c')).collect()
}

/// Semantics lines 7 and 9.
#[test]
fn pages_come_from_one_snapshot() {
    let cluster = control_plane!();
    seed(&cluster, 7);
    let first = cluster.get(&format!("{CONFIG_MAPS}?limit=3")).expect(200);
    assert_eq!(names(&first), ["c00", "c01", "c02"]);
    assert_eq!(first["metadata"]["remainingItemCount"], 4);
    let token = first["metadata"]["continue"].as_str().expect("a token").to_owned();
    cluster.delete(&format!("{CONFIG_MAPS}/c05"));
    let late = json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"c99"}});
    cluster.post(CONFIG_MAPS, &late).expect(201);
    let second = cluster.get(&format!("{CONFIG_MAPS}?limit=100&continue={token}")).expect(200);
    assert_eq!(names(&second), ["c03", "c04", "c05", "c06"], "as it was when the first page was read");
    assert_eq!(first["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]);
    assert!(second["metadata"]["remainingItemCount"].is_null() && second["metadata"]["continue"].is_null());
    assert_eq!(cluster.get(&format!("{CONFIG_MAPS}?continue=nonsense")).code, 400);
    let mixed = cluster.get(&format!("{CONFIG_MAPS}?continue={token}&resourceVersion=5"));
    assert_eq!(mixed.code, 400, "line 9: {}", mixed.text());
}

/// Semantics lines 16 and 17.
#[test]
fn selectors() {
    let cluster = control_plane!();
    seed(&cluster, 4);
    let selected = |query: &str| {
        let list = cluster.get(&format!("{CONFIG_MAPS}?{query}")).expect(200);
        names(&list).into_iter().map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(selected("labelSelector=parity%3Dodd"), ["c01", "c03"]);
    assert_eq!(selected("labelSelector=parity+in+(even)"), ["c00", "c02"]);
    assert_eq!(selected("labelSelector=parity!%3Dodd"), ["c00", "c02"]);
    assert_eq!(selected("fieldSelector=metadata.name%3Dc02"), ["c02"]);
    let unknown = cluster.get(&format!("{CONFIG_MAPS}?fieldSelector=spec.foo%3Dx"));
    assert_eq!(unknown.code, 400);
    assert!(unknown.refusal().2.contains("field label not supported: spec.foo"), "{}", unknown.text());
    assert_eq!(cluster.get(&format!("{CONFIG_MAPS}?labelSelector=a+in+x")).code, 400);
}

/// Semantics lines 2, 3 and 4.
#[test]
fn revisions_and_their_match_rules() {
    let cluster = control_plane!();
    seed(&cluster, 2);
    let list = cluster.get(CONFIG_MAPS).expect(200);
    let revision = list["metadata"]["resourceVersion"].as_str().expect("a revision");
    for query in [
        "resourceVersion=0".to_owned(),
        format!("resourceVersion={revision}"),
        format!("resourceVersion={revision}&resourceVersionMatch=Exact"),
    ] {
        assert_eq!(names(&cluster.get(&format!("{CONFIG_MAPS}?{query}")).expect(200)).len(), 2, "{query}");
    }
    let alone = cluster.get(&format!("{CONFIG_MAPS}?resourceVersionMatch=Exact"));
    assert_eq!(alone.code, 422);
    assert!(alone.refusal().2.contains("resourceVersionMatch is forbidden unless resourceVersion is provided"));
    let garbage = cluster.get(&format!("{CONFIG_MAPS}?resourceVersion=abc"));
    assert!([400, 422].contains(&garbage.code), "{}", garbage.text());
    let future = cluster.get(&format!("{CONFIG_MAPS}?resourceVersion=99999999"));
    let (code, reason, message) = future.refusal();
    assert_eq!((code, reason.as_str()), (504, "Timeout"));
    assert!(message.contains("Too large resource version: 99999999"), "{message}");
}

/// Semantics lines 52 and 53.
#[test]
fn tables_and_partial_metadata() {
    let cluster = control_plane!();
    seed(&cluster, 1);
    let accept = |accept: &str| {
        cluster.http(
            "admin",
            "GET",
            &format!("{CONFIG_MAPS}?labelSelector=parity"),
            &[&format!("Accept: {accept}")],
            b"",
        )
    };
    let table = accept("application/json;as=Table;v=v1;g=meta.k8s.io,application/json").expect(200);
    assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
    assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    assert_eq!(table["rows"][0]["cells"][0], "c00");
    assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
    let partial = accept("application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io").expect(200);
    assert_eq!(partial["kind"], "PartialObjectMetadataList");
    assert_eq!(accept("image/png").code, 406);
    let protobuf_first = accept("application/vnd.kubernetes.protobuf,application/json");
    assert_eq!(protobuf_first.code, 200);
}
