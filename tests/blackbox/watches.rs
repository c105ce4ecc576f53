//! WATCH: nothing lost, nothing twice, the borders of selectors, bookmarks.

use serde_json::{Value, json};
use tests::{Cluster, control_plane};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn write(cluster: &Cluster, name: &str, team: &str) {
    let object = json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":name,"labels":{"team":team}}});
    let reply = cluster.post(CONFIG_MAPS, &object);
    if reply.code == 409 {
        cluster.put(&format!("{CONFIG_MAPS}/{name}"), &object).expect(200);
    }
}

/// The frames of a watch that the server ends after a second: (type, name).
fn events(cluster: &Cluster, query: &str) -> Vec<Value> {
    let reply = cluster.get(&format!("{CONFIG_MAPS}?watch=true&timeoutSeconds=1&{query}"));
    assert_eq!(reply.code, 200, "{}", reply.text());
    reply.text().lines().map(|line| serde_json::from_str(line).expect("a frame")).collect()
}

fn brief(events: &[Value]) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    events.iter().map(|event| (text(&event["type"]), text(&event["object"]["metadata"]["name"]))).collect()
}

fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(kind, name)| ((*kind).to_owned(), (*name).to_owned())).collect()
}

/// Semantics lines 6, 13 and 15.
#[test]
fn a_watch_continues_from_its_revision_and_selectors_have_borders() {
    let cluster = control_plane!();
    let list = cluster.get(CONFIG_MAPS).expect(200);
    let from = list["metadata"]["resourceVersion"].as_str().expect("a revision");
    write(&cluster, "a", "x");
    write(&cluster, "b", "y");
    write(&cluster, "a", "y");
    write(&cluster, "a", "x");
    cluster.delete(&format!("{CONFIG_MAPS}/a"));
    let all = events(&cluster, &format!("resourceVersion={from}"));
    assert_eq!(
        brief(&all),
        pairs(&[("ADDED", "a"), ("ADDED", "b"), ("MODIFIED", "a"), ("MODIFIED", "a"), ("DELETED", "a")])
    );
    let x = events(&cluster, &format!("resourceVersion={from}&labelSelector=team%3Dx"));
    assert_eq!(brief(&x), pairs(&[("ADDED", "a"), ("DELETED", "a"), ("ADDED", "a"), ("DELETED", "a")]));
    assert_eq!(x[1]["object"]["metadata"]["labels"]["team"], "x", "the last state that matched");
    let revision =
        |event: &Value| event["object"]["metadata"]["resourceVersion"].as_str().and_then(|it| it.parse::<u64>().ok());
    assert_eq!(revision(&x[1]), revision(&all[2]), "with the revision of the change");
    assert!(revision(&all[4]) > revision(&all[3]), "a delete has a revision of its own");
    let later = revision(&all[3]).expect("a number");
    assert_eq!(brief(&events(&cluster, &format!("resourceVersion={later}"))), pairs(&[("DELETED", "a")]));
    let from_now = events(&cluster, "resourceVersion=0&labelSelector=team");
    assert_eq!(brief(&from_now), pairs(&[("ADDED", "b")]), "line 6: what exists, as ADDED");
}

/// Semantics line 12.
#[test]
fn a_streaming_list_ends_with_its_bookmark() {
    let cluster = control_plane!();
    write(&cluster, "a", "x");
    let query = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&labelSelector=team";
    let events = events(&cluster, query);
    assert_eq!(events[0]["type"], "ADDED");
    let end = &events[1];
    assert_eq!(end["type"], "BOOKMARK");
    assert_eq!(end["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"], "true");
    let without = cluster.get(&format!("{CONFIG_MAPS}?watch=true&sendInitialEvents=true"));
    assert_eq!(without.code, 422, "{}", without.text());
}

/// Semantics line 54.
#[test]
fn a_watch_of_tables_defines_its_columns_once() {
    let cluster = control_plane!();
    write(&cluster, "a", "x");
    write(&cluster, "b", "x");
    let accept = "Accept: application/json;as=Table;v=v1;g=meta.k8s.io";
    let path = format!("{CONFIG_MAPS}?watch=true&timeoutSeconds=1&labelSelector=team");
    let reply = cluster.http("admin", "GET", &path, &[accept], b"");
    let text = reply.text();
    let frames: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).expect("a frame")).collect();
    assert_eq!(frames.len(), 2, "{text}");
    assert!(frames[0]["object"]["columnDefinitions"].as_array().is_some_and(|them| !them.is_empty()));
    assert!(frames[1]["object"]["columnDefinitions"].as_array().is_none_or(|them| them.is_empty()));
    assert_eq!(frames[1]["object"]["rows"][0]["cells"][0], "b");
}
