//! Issue 3: several apiservers on one etcd are one API.

use std::{
    collections::HashSet,
    io::{BufRead, BufReader},
    thread,
};

use serde_json::{Value, json};
use tests::{Cluster, Reply, Second, eventually};

const SECOND_ADDRESS: &str = "192.0.2.2";

/// A control plane over etcd, and a second apiserver with its address.
macro_rules! two_servers {
    () => {{
        let Some(cluster) = Cluster::control_plane_with(&["--storage=etcd"]) else {
            return eprintln!("skipped: no release binaries; run `cargo xtask test`");
        };
        let second = second(&cluster);
        (cluster, (second.process, second.server))
    }};
}

fn second(cluster: &Cluster) -> Second {
    cluster.second_apiserver(&[&format!("--advertise-address={SECOND_ADDRESS}")])
}

/// Sends to each server in turn, all at once.
fn at_once(cluster: &Cluster, second: &str, count: usize, path: &str, object: impl Fn(usize) -> Value) -> Vec<Reply> {
    let servers = [cluster.server(), second.to_owned()];
    thread::scope(|scope| {
        let send = |at: usize| {
            let (server, body) = (&servers[at % 2], object(at).to_string());
            scope.spawn(move || cluster.http_to(server, "POST", path, body.as_bytes()))
        };
        let sent: Vec<_> = (0..count).map(send).collect();
        sent.into_iter().map(|it| it.join().expect("an answer")).collect()
    })
}

#[test]
fn a_quota_is_never_exceeded() {
    let (cluster, (_process, second)) = two_servers!();
    let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "full"}});
    cluster.post("/api/v1/namespaces", &namespace).expect(201);
    let quotas = "/api/v1/namespaces/full/resourcequotas";
    let hard = json!({"hard": {"configmaps": "30"}});
    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": hard});
    cluster.post(quotas, &quota).expect(201);
    // The controller's part: it binds from now on.
    cluster.patch(&format!("{quotas}/q/status"), "merge-patch+json", &json!({"status": hard})).expect(200);
    cluster.http_to(&second, "GET", &format!("{quotas}/q"), b"").expect(200);
    let maps = "/api/v1/namespaces/full/configmaps";
    let replies = at_once(
        &cluster,
        &second,
        100,
        maps,
        |at| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("c{at}")}}),
    );
    let created = replies.iter().filter(|reply| reply.code == 201).count();
    let refused = replies.iter().filter(|reply| reply.code == 403 && reply.text().contains("exceeded quota")).count();
    let stored = cluster.get(maps).expect(200)["items"].as_array().expect("a list").len();
    assert_eq!((created, refused, stored), (30, 70, 30), "no more and no less");
}

#[test]
fn no_number_is_given_twice() {
    let (cluster, (_process, second)) = two_servers!();
    let services = "/api/v1/namespaces/default/services";
    let replies = at_once(&cluster, &second, 60, services, |at| {
        let spec = json!({"type": "NodePort", "ports": [{"port": 80}]});
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("s{at}")}, "spec": spec})
    });
    let field = |pointer: &str| -> HashSet<Value> {
        replies.iter().map(|reply| reply.expect(201).pointer(pointer).expect("given").clone()).collect()
    };
    assert_eq!((field("/spec/ports/0/nodePort").len(), field("/spec/clusterIP").len()), (60, 60));
    // One that all of them choose is one's.
    let chosen = at_once(&cluster, &second, 20, services, |at| {
        let spec = json!({"type": "NodePort", "ports": [{"port": 80, "nodePort": 30007}]});
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": format!("t{at}")}, "spec": spec})
    });
    let (won, lost): (Vec<&Reply>, Vec<&Reply>) = chosen.iter().partition(|reply| reply.code == 201);
    assert_eq!((won.len(), lost.len()), (1, 19));
    assert!(lost.iter().all(|reply| reply.text().contains("provided port is already allocated")));
    // Given back, it can be had again, from either.
    let name = won[0].json()["metadata"]["name"].as_str().expect("a name").to_owned();
    cluster.delete(&format!("{services}/{name}")).expect(200);
    let again = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "again"},
        "spec": {"type": "NodePort", "ports": [{"port": 80, "nodePort": 30007}]},
    });
    eventually("the port is free again", || {
        (cluster.http_to(&second, "POST", services, again.to_string().as_bytes()).code == 201).then_some(())
    });
}

#[test]
fn both_show_the_same() {
    let (cluster, (_process, second)) = two_servers!();
    let maps = "/api/v1/namespaces/default/configmaps";
    let begin = cluster.get(maps).expect(200)["metadata"]["resourceVersion"].as_str().expect("a revision").to_owned();
    let servers = [cluster.server(), second.clone()];
    let mut last = String::new();
    for at in 0..20 {
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": format!("c{at}")}});
        let created = cluster.http_to(&servers[at % 2], "POST", maps, object.to_string().as_bytes()).expect(201);
        last = created["metadata"]["resourceVersion"].as_str().expect("a revision").to_owned();
        // What one has acknowledged the other shows at once.
        let listed = cluster.http_to(&servers[(at + 1) % 2], "GET", maps, b"").expect(200);
        assert_eq!(listed["items"].as_array().expect("a list").len(), at + 1);
    }
    let events = servers.map(|server| {
        let path = format!("{maps}?watch=1&resourceVersion={begin}");
        let mut stream = cluster.http_stream_from(&server, &path);
        let mut events = Vec::new();
        for line in BufReader::new(stream.stdout.take().expect("piped")).lines() {
            let event: Value = serde_json::from_str(&line.expect("a line")).expect("a frame");
            let is_last = event["object"]["metadata"]["resourceVersion"] == *last;
            events.push(event);
            if is_last {
                break;
            }
        }
        let _ = stream.kill(); // it goes on otherwise
        stream.wait().expect("curl ends");
        events
    });
    assert_eq!(events[0].len(), 20);
    assert_eq!(events[0], events[1]);
}

/// Upstream's master leases: the Service `kubernetes` leads to those that live.
#[test]
fn the_endpoints_are_those_that_live() {
    let (cluster, (mut process, _second)) = two_servers!();
    let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices/kubernetes";
    let leads_there = || {
        let slice = cluster.get(path).json();
        slice["endpoints"].as_array().is_some_and(|all| all.iter().any(|it| it["addresses"][0] == SECOND_ADDRESS))
    };
    eventually("the second is known", || leads_there().then_some(()));
    process.terminate();
    assert!(process.wait().success());
    assert!(!leads_there(), "it took itself out before it ended");
    let process = second(&cluster).process;
    eventually("the second is known again", || leads_there().then_some(()));
    drop(process); // killed: its lease runs out
    eventually("the dead one is gone", || (!leads_there()).then_some(()));
}
