//! Watches across restarts of apiserver and etcd: no gap, no repeat, no reordering.

use std::collections::BTreeMap;

use serde_json::{Value, json};
use tests::{Cluster, Component, control_plane};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Issue 2, "Shown by" 3: no acknowledged write is lost, every watch continues. Semantics lines 6 and 15.
#[test]
fn acknowledged_writes_and_watches_survive_kills() {
    let cluster = control_plane!();
    let begin =
        cluster.get(CONFIG_MAPS).expect(200)["metadata"]["resourceVersion"].as_str().expect("a revision").to_owned();
    let mut acknowledged: BTreeMap<String, String> = BTreeMap::new();
    let mut history = Vec::new();
    let mut from = begin.clone();
    for round in 0..4 {
        write(&cluster, round, &mut acknowledged);
        let events = watch(&cluster, &from, &acknowledged);
        from = revision(events.last().expect("each round writes"));
        history.extend(events);
        cluster.kill(if round % 2 == 0 { Component::Apiserver } else { Component::Etcd });
        cluster.up();
    }
    let revisions: Vec<u64> = history.iter().map(|event| revision(event).parse().expect("a number")).collect();
    assert!(revisions.windows(2).all(|pair| pair[0] < pair[1]), "ordered, without repeat: {revisions:?}");
    assert_eq!(watch(&cluster, &begin, &acknowledged), history, "the whole history, read again");

    let stored = cluster.get(CONFIG_MAPS).expect(200);
    for (name, value) in &acknowledged {
        let found = stored["items"].as_array().expect("a list").iter().find(|item| item["metadata"]["name"] == **name);
        assert_eq!(found.unwrap_or_else(|| panic!("{name} is lost"))["data"]["value"], **value);
    }
}

fn write(cluster: &Cluster, round: usize, acknowledged: &mut BTreeMap<String, String>) {
    for index in 0..8 {
        let name = format!("c{index}");
        let value = format!("{round}-{index}");
        let object = json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":name},"data":{"value":value}});
        let reply = match acknowledged.contains_key(&name) {
            false => cluster.post(CONFIG_MAPS, &object),
            true => cluster.put(&format!("{CONFIG_MAPS}/{name}"), &object),
        };
        assert!(reply.code < 300, "{}", reply.text());
        acknowledged.insert(name, value);
    }
}

/// Events after `from` until every acknowledged value was seen as the last of its object; the
/// server closes the watch after a second.
fn watch(cluster: &Cluster, from: &str, acknowledged: &BTreeMap<String, String>) -> Vec<Value> {
    let path = format!(
        "{CONFIG_MAPS}?watch=1&resourceVersion={from}&timeoutSeconds=1&fieldSelector=metadata.name!=kube-root-ca.crt"
    );
    let reply = cluster.get(&path);
    assert_eq!(reply.code, 200, "{}", reply.text());
    let events: Vec<Value> =
        reply.text().lines().map(|line| serde_json::from_str(line).expect("a frame of JSON")).collect();
    for (name, value) in acknowledged {
        let last = events.iter().rev().find(|event| event["object"]["metadata"]["name"] == **name);
        assert_eq!(last.unwrap_or_else(|| panic!("no event of {name}"))["object"]["data"]["value"], **value);
    }
    events
}

fn revision(event: &Value) -> String {
    event["object"]["metadata"]["resourceVersion"].as_str().expect("a revision").to_owned()
}
