//! Priority and fairness: who floods waits behind itself, and nobody else notices.

use serde_json::{Value, json};
use tests::{
    Cluster, control_plane, eventually,
    raw::{Dialer, Raw},
};

const SCHEMAS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/flowschemas";
const LEVELS: &str = "/apis/flowcontrol.apiserver.k8s.io/v1/prioritylevelconfigurations";

/// A user of a namespace of its own, who may do everything there; returns the Authorization header.
fn tenant(cluster: &Cluster, name: &str) -> String {
    cluster.post("/api/v1/namespaces", &json!({"metadata": {"name": name}})).expect(201);
    let accounts = format!("/api/v1/namespaces/{name}/serviceaccounts");
    cluster.post(&accounts, &json!({"metadata": {"name": "robot"}})).expect(201);
    let binding = json!({"metadata": {"name": "robot"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "admin"},
        "subjects": [{"kind": "ServiceAccount", "name": "robot", "namespace": name}]});
    let bindings = format!("/apis/rbac.authorization.k8s.io/v1/namespaces/{name}/rolebindings");
    cluster.post(&bindings, &binding).expect(201);
    let request = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}});
    let token = cluster.post(&format!("{accounts}/robot/token"), &request).expect(201);
    let bearer = format!("Authorization: Bearer {}", token["status"]["token"].as_str().expect("a token"));
    let list = format!("/api/v1/namespaces/{name}/configmaps");
    eventually("the tenant's rights are seen", || {
        (cluster.http("", "GET", &list, &[&bearer], b"").code == 200).then_some(())
    });
    bearer
}

fn schema(name: &str, level: &str, namespace: &str) -> Value {
    json!({"metadata": {"name": name}, "spec": {"matchingPrecedence": 50,
        "priorityLevelConfiguration": {"name": level}, "distinguisherMethod": {"type": "ByUser"},
        "rules": [{
            "subjects": [{"kind": "ServiceAccount", "serviceAccount": {"name": "*", "namespace": namespace}}],
            "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"]}]}]}})
}

/// A create whose body does not come: it sits on its seat.
fn slow_create(dialer: &Dialer, bearer: &str, name: &str) -> (Raw, String) {
    let body = json!({"metadata": {"name": name}}).to_string();
    let mut raw = dialer.dial();
    raw.send(
        format!(
            "POST /api/v1/namespaces/flood/configmaps HTTP/1.1\r\nHost: a\r\n{bearer}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n",
            body.len()
        )
        .as_bytes(),
    );
    (raw, body)
}

fn gauge(cluster: &Cluster, name: &str) -> i64 {
    let text = cluster.get("/metrics").text();
    let name = format!("apiserver_flowcontrol_{name}");
    let line = text.lines().find(|line| line.starts_with(&name) && line.contains(r#"flow_schema="flood""#));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or_default()
}

/// Semantics line 58: every reply says which schema and level it went by.
#[test]
fn replies_name_schema_and_level() {
    let cluster = control_plane!();
    let uid = |path: String| cluster.get(&path).expect(200)["metadata"]["uid"].as_str().expect("a uid").to_owned();
    for (user, path, schema, level) in [
        ("admin", "/api/v1/pods", "exempt", "exempt"),
        ("scheduler", "/api/v1/pods", "kube-scheduler", "workload-high"),
        ("scheduler", "/api/v1/secrets", "kube-scheduler", "workload-high"),
        ("proxy", "/api/v1/services", "global-default", "global-default"),
        ("proxy", "/api/v1/services?watch=1&timeoutSeconds=1", "global-default", "global-default"),
        ("", "/livez", "probes", "exempt"),
    ] {
        let reply = cluster.http(user, "GET", path, &[], b"");
        let found =
            ["x-kubernetes-pf-flowschema-uid", "x-kubernetes-pf-prioritylevel-uid"].map(|name| reply.header(name));
        let (schema, level) = (uid(format!("{SCHEMAS}/{schema}")), uid(format!("{LEVELS}/{level}")));
        assert_eq!(found, [Some(schema.as_str()), Some(level.as_str())], "{user} {path}");
    }
}

/// The objects that the server cannot be without come back, and a schema says whether its level exists.
#[test]
fn objects_are_kept_and_judged() {
    let cluster = control_plane!();
    let uid = |path: &str| cluster.get(path).json()["metadata"]["uid"].as_str().map(str::to_owned);
    for path in [format!("{SCHEMAS}/catch-all"), format!("{LEVELS}/exempt"), format!("{LEVELS}/workload-low")] {
        let before = uid(&path);
        assert_eq!(cluster.delete(&path).code, 200);
        eventually("it is made again", || uid(&path).filter(|after| Some(after) != before.as_ref()));
    }
    let shares = |level: &str| {
        cluster.get(&format!("{LEVELS}/{level}")).json()["spec"]["limited"]["nominalConcurrencyShares"].clone()
    };
    let change = json!({"spec": {"limited": {"nominalConcurrencyShares": 7}}});
    cluster.patch(&format!("{LEVELS}/workload-low"), "merge-patch+json", &change).expect(200);
    eventually("the server's own figure is back", || (shares("workload-low") == 100).then_some(()));
    let mut kept = change;
    kept["metadata"]["annotations"]["apf.kubernetes.io/autoupdate-spec"] = json!("false");
    cluster.patch(&format!("{LEVELS}/workload-high"), "merge-patch+json", &kept).expect(200);

    cluster.post(SCHEMAS, &schema("s", "nowhere", "x")).expect(201);
    let dangling = |expected: &str| {
        let condition = cluster.get(&format!("{SCHEMAS}/s")).json()["status"]["conditions"][0].clone();
        (condition["type"] == "Dangling" && condition["status"] == expected).then_some(())
    };
    eventually("it dangles", || dangling("True"));
    let level = json!({"metadata": {"name": "nowhere"},
        "spec": {"type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}}});
    cluster.post(LEVELS, &level).expect(201);
    eventually("it dangles no more", || dangling("False"));
    assert_eq!(shares("workload-high"), 7, "an administrator's own figure stays");
}

/// One client floods: its requests wait and are refused, those of others, leases, nodes and health get through.
// long: what is occupied at the beginning is set free at the end
#[test]
fn a_flood_drowns_only_itself() {
    let cluster = control_plane!();
    let (flooder, other) = (tenant(&cluster, "flood"), tenant(&cluster, "other"));
    // Of 600 seats 600/246 rounded up, and none borrowed: three, and one queue of two.
    let level = json!({"metadata": {"name": "flood"}, "spec": {"type": "Limited", "limited": {
        "nominalConcurrencyShares": 1, "borrowingLimitPercent": 0,
        "limitResponse": {"type": "Queue", "queuing": {"queues": 1, "handSize": 1, "queueLengthLimit": 2}}}}});
    cluster.post(LEVELS, &level).expect(201);
    cluster.post(SCHEMAS, &schema("flood", "flood", "flood")).expect(201);
    let uid = cluster.get(&format!("{SCHEMAS}/flood")).json()["metadata"]["uid"].clone();
    let get = || cluster.http("", "GET", "/api/v1/namespaces/flood/configmaps", &[&flooder], b"");
    eventually("the schema is in force", || {
        (get().header("x-kubernetes-pf-flowschema-uid") == uid.as_str()).then_some(())
    });

    // A watch takes a seat only until it has sent what is there.
    let dialer = Dialer::new(&cluster, "", "http/1.1");
    let mut watches: Vec<Raw> = (0..8).map(|_| dialer.dial()).collect();
    for watch in &mut watches {
        let path = "/api/v1/namespaces/flood/configmaps?watch=1&timeoutSeconds=120";
        watch.send(format!("GET {path} HTTP/1.1\r\nHost: a\r\n{flooder}\r\n\r\n").as_bytes());
        assert!(watch.read_until("\r\n\r\n").starts_with("HTTP/1.1 200"));
    }
    eventually("watches have given their seats back", || {
        (gauge(&cluster, "current_executing_seats") == 0).then_some(())
    });
    assert_eq!(get().code, 200);

    let mut creates: Vec<(Raw, String)> =
        (0..5).map(|number| slow_create(&dialer, &flooder, &format!("c{number}"))).collect();
    eventually("three sit and two wait", || {
        let seen = (gauge(&cluster, "current_executing_requests"), gauge(&cluster, "current_inqueue_requests"));
        (seen == (3, 2)).then_some(())
    });
    for _ in 0..20 {
        let reply = get();
        assert_eq!((reply.code, reply.header("retry-after")), (429, Some("1")), "{}", reply.text());
        assert_eq!(reply.refusal().1, "TooManyRequests");
    }
    let lease = json!({"metadata": {"name": "l"}, "spec": {"holderIdentity": "x"}}).to_string();
    let leases = "/apis/coordination.k8s.io/v1/namespaces/kube-system/leases";
    for number in 0..20 {
        for path in ["/livez", "/readyz"] {
            assert_eq!(cluster.http("", "GET", path, &[], b"").code, 200);
        }
        assert_eq!(cluster.get("/api/v1/pods").code, 200, "exempt");
        let taken =
            cluster.http("controller-manager", "POST", leases, &["Content-Type: application/json"], lease.as_bytes());
        assert_eq!(taken.code, if number == 0 { 201 } else { 409 }, "{}", taken.text());
        let group = ["Impersonate-User: system:node:n", "Impersonate-Group: system:nodes"];
        assert_eq!(cluster.http("admin", "GET", "/api/v1/services", &group, b"").code, 200, "a node");
        assert_eq!(cluster.http("admin", "GET", "/api/v1/nodes/n", &group, b"").code, 404, "a node's own");
        let reply = cluster.http("", "GET", "/api/v1/namespaces/other/configmaps", &[&other], b"");
        assert_eq!(reply.code, 200, "another tenant");
    }
    for (raw, body) in &mut creates {
        raw.send(body.as_bytes());
        assert!(raw.read_to_end().starts_with("HTTP/1.1 201"), "whoever sat or waited is served");
    }
    assert_eq!(get().code, 200);
    let refused = cluster.get("/metrics").text();
    let refused = refused
        .lines()
        .find(|line| line.contains("rejected_requests_total") && line.contains(r#"reason="queue-full""#));
    assert!(refused.is_some_and(|line| line.ends_with(" 20")), "{refused:?}");
}
