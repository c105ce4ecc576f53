//! The attack table's rows about the API server (design/reliability.md 4.1, by their numbers there),
//! and the front's rows of the bad-input matrix: each fails if the door is open.

use serde_json::{Value, json};
use tests::{Cluster, Component, control_plane, eventually};

const CONFIG_MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Code and reason of a refusal, which is a Status whatever was asked.
#[track_caller]
fn refused(cluster: &Cluster, method: &str, path: &str, headers: &[&str], body: &[u8]) -> (u16, String, String) {
    cluster.http("admin", method, path, headers, body).refusal()
}

fn node(cluster: &Cluster, name: &str, address: &str, port: u16) {
    let node = json!({"apiVersion":"v1","kind":"Node","metadata":{"name":name}});
    cluster.post("/api/v1/nodes", &node).expect(201);
    let status = json!({"status":{"addresses":[{"type":"InternalIP","address":address}],
        "daemonEndpoints":{"kubeletEndpoint":{"Port":port}}}});
    let path = format!("/api/v1/nodes/{name}/status");
    cluster.patch(&path, "strategic-merge-patch+json", &status).expect(200);
}

/// Rows 4, 1 and 2: what a node says of itself leads our credentials nowhere they do not belong.
#[test]
fn a_node_cannot_point_the_proxy_at_the_control_plane() {
    let cluster = control_plane!();
    let port: u16 = cluster.server().rsplit(':').next().expect("a port").parse().expect("a number");
    for (number, address) in
        ["127.0.0.1", "169.254.169.254", "::1", "fe80::1", "::ffff:127.0.0.1", "0.0.0.0", "224.0.0.1"]
            .iter()
            .enumerate()
    {
        let name = format!("n{number}");
        node(&cluster, &name, address, port);
        for path in ["proxy/metrics", "proxy/"] {
            let (code, _, message) = refused(&cluster, "GET", &format!("/api/v1/nodes/{name}/{path}"), &[], b"");
            assert_eq!((code, message.as_str()), (400, "address not allowed"), "{address}");
        }
        let proxied = format!("/api/v1/nodes/https:{name}:{port}/proxy/api/v1/secrets");
        assert_eq!(refused(&cluster, "GET", &proxied, &[], b"").0, 400, "{address}");
    }
}

/// Row 20 (CVE-2019-11247): rights in a namespace are none outside it, by whatever path.
#[test]
fn what_lies_in_no_namespace_is_not_reached_through_one() {
    let cluster = control_plane!();
    node(&cluster, "default", "192.0.2.7", 10250);
    cluster.kubectl(&["create", "role", "all", "--verb=*", "--resource=*.*,nodes,namespaces"]);
    cluster.kubectl(&["create", "rolebinding", "all", "--role=all", "--user=tenant"]);
    let tenant = ["Impersonate-User: tenant"];
    let ask = |method: &str, path: &str| cluster.http("admin", method, path, &tenant, b"");
    eventually("the binding is seen", || (ask("GET", CONFIG_MAPS).code == 200).then_some(()));
    assert_eq!(ask("GET", "/api/v1/nodes/default").code, 403);
    for path in ["nodes/default", "nodes", "persistentvolumes", "namespaces/default", "nodes/default/status"] {
        let reply = ask("GET", &format!("/api/v1/namespaces/default/{path}"));
        assert_eq!(reply.code, 404, "{path}: {}", reply.text());
    }
    assert_eq!(ask("DELETE", "/api/v1/namespaces/default/nodes/default").code, 404);
    let roles = ask("GET", "/apis/rbac.authorization.k8s.io/v1/namespaces/default/clusterroles");
    assert_eq!(roles.code, 404, "{}", roles.text());
    cluster.get("/api/v1/nodes/default").expect(200);
}

/// Row 8: no endpoint of a Service lies on a node's own loopback or link.
#[test]
fn endpoints_are_addresses_of_others() {
    let cluster = control_plane!();
    for address in
        ["127.0.0.1", "169.254.169.254", "224.0.0.1", "0.0.0.0", "::1", "fe80::1", "ff02::1", "::ffff:127.0.0.1"]
    {
        let family = if address.contains(':') { "IPv6" } else { "IPv4" };
        let slice = json!({"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{"name":"s"},
            "addressType":family,"endpoints":[{"addresses":[address]}]});
        let reply = cluster.post("/apis/discovery.k8s.io/v1/namespaces/default/endpointslices", &slice);
        assert_eq!(reply.refusal().0, 422, "{address}");
        let endpoints = json!({"apiVersion":"v1","kind":"Endpoints","metadata":{"name":"e"},
            "subsets":[{"addresses":[{"ip":address}]}]});
        let reply = cluster.post("/api/v1/namespaces/default/endpoints", &endpoints);
        assert_eq!(reply.refusal().0, 422, "{address}");
    }
}

/// Row 10 (CVE-2019-1002100): neither many operations nor copies of copies.
#[test]
fn a_json_patch_does_not_grow() {
    let cluster = control_plane!();
    let server = cluster.restart_apiserver(&[]);
    let map = json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"p"},"data":{"a":"x"}});
    cluster.post(CONFIG_MAPS, &map).expect(201);
    let path = format!("{CONFIG_MAPS}/p");
    let many: Vec<Value> = (0..10_001).map(|_| json!({"op":"test","path":"/data/a","value":"x"})).collect();
    assert_eq!(cluster.patch(&path, "json-patch+json", &json!(many)).refusal().0, 413);
    let mut copies = vec![json!({"op":"add","path":"/data/b0","value":"y".repeat(1 << 10)})];
    for number in 0..40 {
        copies.push(json!({"op":"add","path":format!("/data/d{number}"),"value":{}}));
        copies.push(json!({"op":"copy","from":"/data","path":format!("/data/d{number}/all")}));
    }
    let (code, _, message) = cluster.patch(&path, "json-patch+json", &json!(copies)).refusal();
    assert!(matches!(code, 400 | 413 | 422), "{code} {message}");
    assert_eq!(cluster.get(&path).expect(200)["data"], json!({"a":"x"}), "untouched");
    assert!(server.resident_bytes() < 300 << 20, "{} bytes are resident", server.resident_bytes());
}

/// Row 11: paths, user agents, verbs, dry runs that somebody makes up cost nothing that stays.
#[test]
fn strangers_fill_no_memory() {
    let cluster = control_plane!();
    cluster.http("", "GET", "/api/v1/pods/p/s0?dryRun=d0", &[], b"");
    let series = || cluster.get("/metrics").text().lines().count();
    cluster.get("/metrics");
    let before = series();
    for number in 1..60 {
        let path = format!("/apis/g{number}/v1/namespaces/n{number}/r{number}/o/s{number}?dryRun=d{number}");
        let agent = format!("User-Agent: a{number}");
        for path in [path, format!("/api/v1/namespaces/n/pods/p/s{number}?dryRun=d{number}")] {
            assert_eq!(cluster.http("", &format!("V{number}"), &path, &[&agent], b"").code, 401);
        }
    }
    let grown = series() - before;
    // One for each new combination of the few words that are labels, with its buckets.
    assert!(grown < 200, "{grown} lines more");
}

/// Row 21: nothing for debugging is open to anybody, or at all.
#[test]
fn no_debugging_ports() {
    let cluster = control_plane!();
    for path in
        ["/debug/pprof/", "/debug/pprof/profile", "/debug/flags/v", "/debug/api_priority_and_fairness/dump_queues"]
    {
        assert_eq!(cluster.http("", "GET", path, &[], b"").code, 401, "{path}");
    }
    for path in ["/debug/pprof/", "/healthz/debug/pprof", "/livez/../debug/pprof"] {
        assert_eq!(cluster.get(path).code, 404, "{path}");
    }
}

/// Row 22: at the highest verbosity the log shows neither credentials nor secrets.
#[test]
fn the_log_keeps_secrets() {
    const CANARY: &str = "canary-7f3a9c";
    let cluster = control_plane!();
    let server = cluster.restart_apiserver(&["--v=9"]);
    let token = format!("Authorization: Bearer {CANARY}-token");
    assert_eq!(cluster.http("", "GET", "/api/v1/pods", &[&token], b"").code, 401);
    let basic = format!("Authorization: Basic {CANARY}-basic");
    assert_eq!(cluster.http("", "GET", "/api/v1/pods", &[&basic, "Cookie: canary-7f3a9c-cookie"], b"").code, 401);
    let secrets = "/api/v1/namespaces/default/secrets";
    let secret = json!({"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"},"stringData":{"a":CANARY}});
    cluster.post(secrets, &secret).expect(201);
    let wrong = json!({"apiVersion":"v1","kind":"Secret","metadata":{"name":"w"},"data":{"a":format!("!{CANARY}")}});
    let (code, _, message) = cluster.post(secrets, &wrong).refusal();
    assert!(code == 400 && !message.contains(CANARY), "{message}");
    let docker = json!({"apiVersion":"v1","kind":"Secret","metadata":{"name":"d"},
        "type":"kubernetes.io/dockerconfigjson","stringData":{".dockerconfigjson":format!("{{{CANARY}")}});
    let (code, _, message) = cluster.post(secrets, &docker).refusal();
    assert!(code == 422 && !message.contains(CANARY), "{message}");
    cluster.patch(&format!("{secrets}/s"), "merge-patch+json", &json!({"stringData":{"b":CANARY}})).expect(200);
    cluster.get(&format!("{secrets}/s")).expect(200);
    cluster.get(secrets).expect(200);
    cluster.get(&format!("{secrets}?watch=1&resourceVersion=0&timeoutSeconds=1"));
    let account = json!({"apiVersion":"authentication.k8s.io/v1","kind":"TokenRequest","spec":{}});
    let issued = cluster.post("/api/v1/namespaces/default/serviceaccounts/default/token", &account).expect(201);
    let issued = issued["status"]["token"].as_str().expect("a token").to_owned();
    cluster.http("", "GET", "/api/v1/pods", &[&format!("Authorization: Bearer {issued}")], b"");
    let review = json!({"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"token":issued}});
    cluster.post("/apis/authentication.k8s.io/v1/tokenreviews", &review).expect(201);
    drop(server);
    let log = std::fs::read_to_string(cluster.dir().join("log").join("kube-apiserver.log")).expect("the log");
    assert!(log.contains("answered"), "the log is verbose");
    // In base64, as it is stored.
    let signature = issued.rsplit('.').next().expect("a signature");
    for canary in [CANARY, "Y2FuYXJ5LTdmM2E5Y", signature] {
        let line = log.lines().find(|line| line.contains(canary));
        assert!(line.is_none(), "{canary}: {line:?}");
    }
}

/// Row 26: names lead nowhere, and admission sees what a patch makes of an object.
#[test]
fn names_are_no_paths() {
    let cluster = control_plane!();
    let secret = json!({"apiVersion":"v1","kind":"Secret","metadata":{"name":"s"}});
    cluster.post("/api/v1/namespaces/default/secrets", &secret).expect(201);
    for name in [".", "..", "a/b", "a%b", "../secrets/s", "A", "a b", "", "\0", "é", &"a".repeat(254)] {
        let map = json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":name}});
        assert_eq!(cluster.post(CONFIG_MAPS, &map).refusal().0, 422, "{name:?}");
        let role = json!({"apiVersion":"rbac.authorization.k8s.io/v1","kind":"ClusterRole","metadata":{"name":name}});
        if name.contains(['/', '%']) || matches!(name, "." | ".." | "") {
            assert_eq!(
                cluster.post("/apis/rbac.authorization.k8s.io/v1/clusterroles", &role).refusal().0,
                422,
                "{name:?}"
            );
        }
    }
    for path in [
        "/api/v1/namespaces/default/configmaps/..%2Fsecrets%2Fs",
        "/api/v1/namespaces/default/configmaps/%2e%2e/secrets/s",
        "/api/v1/namespaces/default%2Fsecrets/configmaps/s",
        "/api/v1/namespaces/default/configmaps/../secrets/s",
        "/api/v1/configmaps/default%2Fs",
        "/api/v1/namespaces/default%00/secrets/s",
    ] {
        let reply = cluster.get(path);
        assert!(matches!(reply.code, 301 | 400 | 404), "{path}: {} {}", reply.code, reply.text());
    }
    let immutable =
        json!({"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"i"},"data":{"a":"b"},"immutable":true});
    let stored = cluster.post(CONFIG_MAPS, &immutable).expect(201);
    for (kind, patch) in [
        ("merge-patch+json", json!({"data":{"a":"c"}})),
        ("strategic-merge-patch+json", json!({"data":{"a":"c"}})),
        ("json-patch+json", json!([{"op":"replace","path":"/data/a","value":"c"}])),
        ("json-patch+json", json!([{"op":"replace","path":"/metadata/name","value":"j"}])),
        ("merge-patch+json", json!({"metadata":{"namespace":"kube-system"}})),
        ("merge-patch+json", json!({"metadata":{"uid":"00000000-0000-0000-0000-000000000000"}})),
    ] {
        let (code, _, _) = cluster.patch(&format!("{CONFIG_MAPS}/i"), kind, &patch).refusal();
        assert!(matches!(code, 400 | 409 | 422), "{kind} {patch}: {code}");
    }
    assert_eq!(cluster.get(&format!("{CONFIG_MAPS}/i")).expect(200), stored);
}

/// Row 30: an address that two parsers read differently is no address.
#[test]
fn addresses_have_one_reading() {
    let cluster = control_plane!();
    for address in ["010.0.0.1", "10.0.0.01", "0x0a.0.0.1", "167772161", "10.1"] {
        let service = json!({"apiVersion":"v1","kind":"Service","metadata":{"name":"s"},
            "spec":{"ports":[{"port":80}],"externalIPs":[address]}});
        assert_eq!(cluster.post("/api/v1/namespaces/default/services", &service).refusal().0, 422, "{address}");
        let policy = json!({"apiVersion":"networking.k8s.io/v1","kind":"NetworkPolicy","metadata":{"name":"n"},
            "spec":{"podSelector":{},"egress":[{"to":[{"ipBlock":{"cidr":format!("{address}/32")}}]}]}});
        let path = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies";
        assert_eq!(cluster.post(path, &policy).refusal().0, 422, "{address}");
        let slice = json!({"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","metadata":{"name":"s"},
            "addressType":"IPv4","endpoints":[{"addresses":[address]}]});
        let path = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices";
        assert_eq!(cluster.post(path, &slice).refusal().0, 422, "{address}");
    }
}

/// The matrix's rows of URL, headers, continue tokens, watch parameters and selectors.
#[test]
fn odd_requests_are_refused_by_a_status() {
    let cluster = control_plane!();
    let pid = cluster.pid(Component::Apiserver);
    let token = |json: &str| {
        // base64 of the URL's kind, by hand: the token is the client's to make up.
        const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
        let mut text = String::new();
        for bytes in json.as_bytes().chunks(3) {
            let group =
                bytes.iter().fold(0_u32, |group, byte| group << 8 | u32::from(*byte)) << (8 * (3 - bytes.len()));
            let digit = |at: usize| char::from(DIGITS[(group >> (18 - 6 * at) & 63) as usize]);
            text.extend((0..=bytes.len()).map(digit));
        }
        text
    };
    let list = |query: &str| format!("{CONFIG_MAPS}?{query}");
    let traversal = token(r#"{"v":"meta.k8s.io/v1","rv":5,"start":"../../secrets/"}"#);
    let zero = token(r#"{"v":"meta.k8s.io/v1","rv":0,"start":"a"}"#);
    let future = token(r#"{"v":"meta.k8s.io/v1","rv":9223372036854775807,"start":"a"}"#);
    let long = "a".repeat(300);
    for (path, expected) in [
        (list("continue=!"), &[400][..]),
        (list("continue=e30"), &[400]),
        (list(&format!("continue={traversal}")), &[400]),
        (list(&format!("continue={zero}")), &[400]),
        (list(&format!("continue={future}")), &[400, 410, 504]),
        (list(&format!("continue={}", "A".repeat(30_000))), &[400]),
        (list("resourceVersion=abc"), &[400]),
        (list("resourceVersion=-1"), &[400]),
        (list("resourceVersion=18446744073709551616"), &[400]),
        (list("resourceVersionMatch=Exact"), &[422]),
        (list("watch=1&resourceVersion=abc"), &[400]),
        (list("watch=1&sendInitialEvents=true"), &[422]),
        (list("watch=1&timeoutSeconds=x"), &[400]),
        (list("limit=x"), &[400]),
        (list("labelSelector=a%20in%20()%2C%2C"), &[400]),
        (list("labelSelector=!"), &[400]),
        (list(&format!("labelSelector={long}%3D1")), &[400]),
        (list(&format!("labelSelector=a%3D{long}")), &[400]),
        (list("labelSelector=a%3E1e99"), &[400]),
        (list("fieldSelector=no.such%3Dx"), &[400]),
        (list("fieldSelector=a"), &[400]),
        (format!("{CONFIG_MAPS}/a/no-such-subresource"), &[404]),
        ("/api/v1/namespaces/default/no-such-things".to_owned(), &[404]),
    ] {
        let (code, _, message) = refused(&cluster, "GET", &path, &[], b"");
        assert!(expected.contains(&code), "{}: {code} {message}", &path[..path.len().min(120)]);
    }
    for headers in [&["Impersonate-Group: g"][..], &["Impersonate-Uid: u"], &["Impersonate-Extra-a: b"]] {
        assert_eq!(refused(&cluster, "GET", CONFIG_MAPS, headers, b"").0, 400, "{headers:?}");
    }
    // Who is not the front proxy names nobody.
    let stranger =
        cluster.http("", "GET", CONFIG_MAPS, &["X-Remote-User: admin", "X-Remote-Group: system:masters"], b"");
    assert_eq!(stranger.code, 401);
    assert_eq!(refused(&cluster, "GET", CONFIG_MAPS, &["Accept: text/html"], b"").0, 406);
    for method in ["TRACE", "CONNECTS", "FOO", "POST"] {
        let code = cluster.http("admin", method, &format!("{CONFIG_MAPS}/x"), &[], b"").code;
        assert_eq!(code, 405, "{method}");
    }
    // What is odd but harmless is served: the same as without it.
    for path in [list(&vec!["a=b"; 5_000].join("&")), list("watch=false&limit=-5"), format!("{CONFIG_MAPS}/")] {
        cluster.get(&path).expect(200);
    }
    assert_eq!(cluster.pid(Component::Apiserver), pid, "nothing died");
}
