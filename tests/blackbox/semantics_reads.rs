//! What the API's semantics promise of reads, line by line, where no other test proves it.

use serde_json::{Value, json};
use tests::{Cluster, control_plane};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";
const PODS: &str = "/api/v1/namespaces/default/pods";

fn revision(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|text| text.parse().ok()).expect("a revision")
}

fn config_map(cluster: &Cluster, name: &str) -> Value {
    let object = json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":name,"labels":{"made":"here"}}});
    cluster.post(CONFIG_MAPS, &object).expect(201)
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().expect("a list").iter().filter_map(|item| item["metadata"]["name"].as_str()).collect()
}

fn frames(cluster: &Cluster, path: &str) -> Vec<Value> {
    let reply = cluster.get(path);
    assert_eq!(reply.code, 200, "{}", reply.text());
    reply.text().lines().map(|line| serde_json::from_str(line).expect("each frame is a line of JSON")).collect()
}

/// Lines 1 and 2: an object's revision is that of its last change, a list's that of the state it shows.
#[test]
fn revisions_say_how_fresh() {
    let cluster = control_plane!();
    let first = config_map(&cluster, "a");
    let second = config_map(&cluster, "b");
    assert!(revision(&second) > revision(&first));
    let list = cluster.get(CONFIG_MAPS).expect(200);
    assert!(revision(&list) >= revision(&second));
    let before = revision(&first);
    let at_first =
        cluster.get(&format!("{CONFIG_MAPS}?labelSelector=made&resourceVersion={before}&resourceVersionMatch=Exact"));
    assert_eq!(names(&at_first.expect(200)), ["a"], "exactly as it was");
    assert_eq!(revision(&at_first.json()), before);
    let legacy = cluster.get(&format!("{CONFIG_MAPS}?labelSelector=made&resourceVersion={before}&limit=5"));
    assert_eq!(names(&legacy.expect(200)), ["a"], "a limit makes a revision exact");
    let fresh = cluster.get(&format!(
        "{CONFIG_MAPS}?labelSelector=made&resourceVersion={before}&resourceVersionMatch=NotOlderThan&limit=5"
    ));
    assert_eq!(names(&fresh.expect(200)), ["a", "b"]);
    for version in ["", "0", &before.to_string()] {
        let read = cluster.get(&format!("{CONFIG_MAPS}/b?resourceVersion={version}")).expect(200);
        assert_eq!(revision(&read), revision(&second), "get at {version:?}");
    }
}

/// Lines 3, 6, 9 and 12: what options do not go together.
#[test]
fn options_that_contradict_each_other() {
    let cluster = control_plane!();
    for name in ["a", "b"] {
        config_map(&cluster, name);
    }
    let page = cluster.get(&format!("{CONFIG_MAPS}?limit=1")).expect(200);
    let token = page["metadata"]["continue"].as_str().expect("a token");
    for (query, code, part) in [
        ("resourceVersionMatch=Exact", 422, "resourceVersionMatch is forbidden unless resourceVersion is provided"),
        (
            "resourceVersionMatch=Exact&resourceVersion=0",
            422,
            "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"",
        ),
        ("resourceVersionMatch=Nearly&resourceVersion=1", 422, "Nearly"),
        (
            &format!("continue={token}&resourceVersionMatch=NotOlderThan&resourceVersion=0"),
            422,
            "resourceVersionMatch is forbidden when continue is provided",
        ),
        (&format!("continue={token}&resourceVersion=1"), 400, "resource version is not allowed when using continue"),
        ("resourceVersion=abc", 400, "invalid"),
        ("watch=1&resourceVersion=abc", 400, "invalid"),
        ("sendInitialEvents=true", 422, "sendInitialEvents is forbidden for list"),
        ("watch=1&sendInitialEvents=true", 422, "sendInitialEvents"),
        ("watch=1&resourceVersionMatch=Exact&resourceVersion=1", 422, "resourceVersionMatch"),
        ("limit=x", 400, ""),
        ("labelSelector=a+in+x", 400, "unable to parse requirement"),
        ("fieldSelector=spec.foo%3Dbar", 400, "field label not supported: spec.foo"),
    ] {
        let reply = cluster.get(&format!("{CONFIG_MAPS}?{query}"));
        let (found, _, message) = reply.refusal();
        assert!(found == code && message.contains(part), "{query}: {found} {message}");
    }
    let all = cluster.get(&format!("{CONFIG_MAPS}?limit=0&labelSelector=made")).expect(200);
    assert_eq!(names(&all).len(), 2, "no limit");
    let selected = cluster.get(&format!("{CONFIG_MAPS}?limit=1&labelSelector=made")).expect(200);
    assert!(selected["metadata"]["remainingItemCount"].is_null(), "unknown where something selects");
}

/// Lines 10, 11 and 14: frames are lines, bookmarks are asked for, and the end is clean.
#[test]
fn bookmarks_come_only_if_asked_for() {
    let cluster = control_plane!();
    let object = config_map(&cluster, "a");
    let watch = format!("{CONFIG_MAPS}?watch=true&timeoutSeconds=3&labelSelector=made&resourceVersion=0");
    let plain = frames(&cluster, &watch);
    assert_eq!(plain.iter().map(|frame| frame["type"].as_str()).collect::<Vec<_>>(), [Some("ADDED")]);
    let marked = frames(&cluster, &format!("{watch}&allowWatchBookmarks=true"));
    let bookmark = marked.last().expect("frames");
    assert_eq!(bookmark["type"], "BOOKMARK", "shortly before the end: {marked:?}");
    assert!(revision(&bookmark["object"]) >= revision(&object));
    assert_eq!((&bookmark["object"]["kind"], &bookmark["object"]["apiVersion"]), (&json!("ConfigMap"), &json!("v1")));
    let metadata = bookmark["object"]["metadata"].as_object().expect("metadata");
    assert!(metadata.iter().all(|(name, value)| name == "resourceVersion" || value.is_null()), "{metadata:?}");
}

/// Line 16: what of pods can be selected.
#[test]
fn pods_are_selected_by_their_fields() {
    let cluster = control_plane!();
    for (name, node) in [("one", ""), ("two", "n")] {
        let pod = json!({"apiVersion":"v1","kind":"Pod","metadata":{"name":name},
            "spec":{"nodeName":node,"restartPolicy":if node.is_empty() { "Never" } else { "Always" },"hostNetwork":node == "n",
                "containers":[{"name":"c","image":"i:1"}]}});
        cluster.post(PODS, &pod).expect(201);
    }
    let status =
        json!({"status":{"phase":"Running","podIP":"10.1.2.3","podIPs":[{"ip":"10.1.2.3"}],"nominatedNodeName":"m"}});
    cluster.patch(&format!("{PODS}/two/status"), "merge-patch+json", &status).expect(200);
    for (selector, expected) in [
        ("metadata.name=one", &["one"][..]),
        ("metadata.namespace=default", &["one", "two"]),
        ("metadata.namespace!=default", &[]),
        ("spec.nodeName=n", &["two"]),
        ("spec.nodeName=", &["one"]),
        ("spec.nodeName!=n", &["one"]),
        ("spec.restartPolicy=Never", &["one"]),
        ("spec.schedulerName==default-scheduler", &["one", "two"]),
        ("spec.serviceAccountName=default", &["one", "two"]),
        ("spec.hostNetwork=true", &["two"]),
        ("status.phase=Running", &["two"]),
        ("status.phase!=Running,spec.nodeName=", &["one"]),
        ("status.podIP=10.1.2.3", &["two"]),
        ("status.podIPs=10.1.2.3", &["two"]),
        ("status.nominatedNodeName=m", &["two"]),
    ] {
        let encoded = selector.replace('=', "%3D").replace('!', "%21");
        for path in [PODS, "/api/v1/pods"] {
            let list = cluster.get(&format!("{path}?fieldSelector={encoded}")).expect(200);
            assert_eq!(names(&list), expected, "{path} {selector}");
        }
    }
}

/// Line 80: events are one object seen twice.
#[test]
fn events_are_seen_in_two_groups() {
    let cluster = control_plane!();
    let event = json!({"apiVersion":"v1","kind":"Event","metadata":{"name":"e.1"},"involvedObject":{"kind":"Pod","name":"p","namespace":"default"},
        "reason":"R","message":"m","type":"Normal","source":{"component":"c"},"count":2});
    cluster.post("/api/v1/namespaces/default/events", &event).expect(201);
    let newer = "/apis/events.k8s.io/v1/namespaces/default/events";
    let seen = cluster.get(&format!("{newer}/e.1")).expect(200);
    assert_eq!((&seen["note"], &seen["regarding"]["name"]), (&json!("m"), &json!("p")));
    assert_eq!((&seen["deprecatedSource"]["component"], &seen["deprecatedCount"]), (&json!("c"), &json!(2)));
    let by_field = |path: &str, selector: &str| {
        let list = cluster.get(&format!("{path}?fieldSelector={selector}")).expect(200);
        list["items"].as_array().map_or(0, Vec::len)
    };
    let core = "/api/v1/namespaces/default/events";
    assert_eq!(by_field(core, "involvedObject.name%3Dp,reason%3DR,type%3DNormal,source%3Dc"), 1);
    assert_eq!(by_field(core, "involvedObject.name%3Dq"), 0);
    assert_eq!(by_field(newer, "regarding.name%3Dp,reason%3DR"), 1);
}

/// The deprecation of a whole kind is said in every answer about it.
#[test]
fn deprecated_kinds_say_so() {
    let cluster = control_plane!();
    let warning = |path: &str| cluster.get(path).header("warning").map(str::to_owned);
    let words = "299 - \"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice\"";
    assert_eq!(warning("/api/v1/namespaces/default/endpoints").as_deref(), Some(words));
    assert_eq!(warning("/api/v1/namespaces/default/endpoints/kubernetes").as_deref(), Some(words));
    assert_eq!(warning(CONFIG_MAPS), None);
}
