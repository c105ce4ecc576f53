//! Health, version, metrics, headers, deadlines, and the orderly end.

use std::{collections::BTreeSet, path::PathBuf};

use serde_json::Value;
use tests::{
    Cluster, Component, control_plane, eventually,
    raw::{self, Dialer},
};

/// What upstream recorded, or `None` where that is not at hand.
fn recorded(file: &str) -> Option<String> {
    let shared = std::env::var_os("COXSWAIN_SHARED").map(PathBuf::from)?;
    let text = std::fs::read_to_string(shared.join("golden").join(file)).ok();
    if text.is_none() {
        eprintln!("skipped: no recorded {file}");
    }
    text
}

/// Semantics lines 58 and 83.
#[test]
fn health_version_metrics_and_headers() {
    let cluster = control_plane!();
    for path in ["/livez", "/readyz", "/healthz", "/readyz/etcd", "/readyz/poststarthook/rbac/bootstrap-roles"] {
        let reply = cluster.get(path);
        assert_eq!((reply.code, reply.text().trim()), (200, "ok"), "{path}");
    }
    assert_eq!(cluster.get("/version").expect(200)["minor"], "36");
    let reply = cluster.get("/api/v1/namespaces/default");
    assert!(reply.header("audit-id").is_some_and(|id| id.len() == 36));
    assert_eq!(reply.header("cache-control"), Some("no-cache, private"));
    let named = cluster.http("admin", "GET", "/api/v1/pods", &["Audit-ID: of-the-client"], b"");
    assert_eq!(named.header("audit-id"), Some("of-the-client"));
    let keys = cluster.get("/openid/v1/jwks").expect(200);
    assert!(keys["keys"].as_array().is_some_and(|keys| !keys.is_empty()));
}

/// The checks have upstream's names, and each can be asked for or left out.
#[test]
fn health_checks_are_upstreams() {
    let cluster = control_plane!("--storage=etcd");
    let checks = |text: &str| -> BTreeSet<String> {
        text.lines().filter_map(|line| Some(line.strip_prefix("[+]")?.strip_suffix(" ok")?.to_owned())).collect()
    };
    let verbose = cluster.get("/readyz?verbose").text();
    assert!(verbose.starts_with("[+]ping ok\n") && verbose.ends_with("[+]shutdown ok\nreadyz check passed\n"));
    if let (Some(readyz), Some(livez)) = (recorded("readyz.txt"), recorded("livez.txt")) {
        assert_eq!(checks(&readyz).difference(&checks(&verbose)).count(), 0, "{verbose}");
        // All that may be asked of this one, as liveness depends on nothing else.
        let healthz = checks(&cluster.get("/healthz?verbose").text());
        assert_eq!(checks(&livez).difference(&healthz).collect::<Vec<_>>(), Vec::<&String>::new());
        assert!(checks(&cluster.get("/livez?verbose").text()).is_subset(&checks(&livez)));
    }
    let excluded = cluster.get("/readyz?verbose&exclude=etcd&exclude=b&exclude=a").text();
    assert!(excluded.contains("[+]etcd excluded: ok\n"), "{excluded}");
    let unknown = "warn: some health checks cannot be excluded: no matches for \"a\",\"b\"\nreadyz check passed\n";
    assert!(excluded.ends_with(unknown), "{excluded}");
    assert_eq!(cluster.get("/readyz/no-such-check").code, 404);
    assert_eq!(cluster.get("/livez/etcd").code, 404, "liveness does not depend on the store");

    cluster.kill(Component::Etcd);
    let down = cluster.get("/readyz?exclude=ping");
    assert_eq!(down.code, 500);
    for line in ["[+]ping excluded: ok\n", "[-]etcd failed: reason withheld\n", "readyz check failed\n"] {
        assert!(down.text().contains(line), "{}", down.text());
    }
    let etcd = cluster.get("/readyz/etcd");
    assert!(etcd.code == 500 && etcd.text().starts_with("internal server error: "), "{}", etcd.text());
    let rest = ["etcd", "etcd-readiness", "poststarthook/storage-readiness"].map(|name| format!("exclude={name}"));
    assert_eq!(cluster.get(&format!("/readyz?{}", rest.join("&"))).code, 200);
    assert_eq!(cluster.get("/livez").code, 200);
}

/// Of upstream's metrics these are here, with upstream's type and labels. What is not: those of parts that this
/// server does not have (aggregator, Go's runtime, CEL, gRPC of etcd's client, its own requests), and those that
/// the parts of authentication, authorisation, admission, audit and fairness bring with them.
const METRICS: [&str; 25] = [
    "apiserver_cache_list_fetched_objects_total",
    "apiserver_cache_list_returned_objects_total",
    "apiserver_cache_list_total",
    "apiserver_current_inflight_requests",
    "apiserver_longrunning_requests",
    "apiserver_request_duration_seconds",
    "apiserver_request_sli_duration_seconds",
    "apiserver_request_total",
    "apiserver_resource_objects",
    "apiserver_response_sizes",
    "apiserver_storage_objects",
    "apiserver_tls_handshake_errors_total",
    "apiserver_watch_cache_events_received_total",
    "apiserver_watch_cache_resource_version",
    "apiserver_watch_events_total",
    "etcd_request_duration_seconds",
    "etcd_requests_total",
    "kubernetes_build_info",
    "process_cpu_seconds_total",
    "process_max_fds",
    "process_open_fds",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_virtual_memory_bytes",
    "process_virtual_memory_max_bytes",
];
/// Of the build that upstream's metrics were recorded from, or of its toolchain.
const FOREIGN_LABELS: [&str; 5] = ["system_client", "go_version", "build_date", "git_commit", "git_tree_state"];

/// Names and labels of the samples of an exposition; histograms by their own name.
fn labels(text: &str, metric: &str) -> Option<BTreeSet<String>> {
    let ends = ["", "_bucket", "_sum", "_count"].map(|end| format!("{metric}{end}"));
    let mut found = None;
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        let name = line.split(['{', ' ']).next().unwrap_or_default();
        if ends.iter().any(|end| end == name) {
            let labels =
                line.split_once('{').and_then(|(_, rest)| rest.rsplit_once('}')).map_or("", |(labels, _)| labels);
            let names = labels.split("\",").filter_map(|pair| Some(pair.split_once("=\"")?.0.to_owned()));
            found.get_or_insert_with(BTreeSet::new).extend(names.filter(|name| name != "le"));
        }
    }
    found
}

#[test]
fn metrics_are_upstreams() {
    let cluster = control_plane!();
    cluster.get("/api/v1/namespaces/default/serviceaccounts").expect(200);
    cluster.get("/api/v1/namespaces/default/serviceaccounts?watch=1&resourceVersion=0&timeoutSeconds=1");
    let text = cluster.get("/metrics").text();
    let Some(golden) = recorded("metrics-names.json") else { return };
    let golden: Value = serde_json::from_str(&golden).expect("JSON");
    for name in METRICS {
        let found = labels(&text, name).unwrap_or_else(|| panic!("no {name} in {text}"));
        let expected: BTreeSet<String> = golden[name]["labels"]
            .as_array()
            .unwrap_or_else(|| panic!("upstream has no {name}"))
            .iter()
            .filter_map(|label| label.as_str())
            .filter(|label| !FOREIGN_LABELS.contains(label))
            .map(str::to_owned)
            .collect();
        assert_eq!(found, expected, "{name}");
        let family = name.strip_suffix("_total").unwrap_or(name);
        let kind = golden[name]["type"].as_str().unwrap_or_default();
        assert!(text.contains(&format!("# TYPE {family} {kind}\n")), "{name} is a {kind}");
    }
    let watched = text.lines().find(|line| line.starts_with("apiserver_longrunning_requests{verb=\"WATCH\""));
    assert!(watched.is_some_and(|line| line.ends_with(" 0")), "the watch has ended: {watched:?}");
}

/// A client may be less patient than the server, whose time is then over: 504 with upstream's text.
#[test]
fn requests_have_a_deadline() {
    let cluster = control_plane!();
    let (code, reason, message) = cluster.get("/api/v1/pods?timeout=soon").refusal();
    assert_eq!((code, reason.as_str()), (400, "BadRequest"));
    assert!(message.starts_with("invalid timeout specified in the request URL"), "{message}");
    cluster.get("/api/v1/pods?timeout=0s").expect(200);
    let mut raw = Dialer::new(&cluster, "admin", "http/1.1").dial();
    raw.send(
        b"POST /api/v1/namespaces/default/configmaps?timeout=1s HTTP/1.1\r\nHost: a\r\n\
          Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{",
    );
    let answer = raw.read_until("\"Failure\"}");
    assert!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    for part in ["\"reason\":\"Timeout\"", "Timeout: request did not complete within the allotted timeout"] {
        assert!(answer.contains(part), "{answer}");
    }
}

const CONFIG_MAP: &str = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"NAME"}}"#;

/// A POST of which the last byte is missing.
fn begin_post(raw: &mut raw::Raw, name: &str) -> Vec<u8> {
    let mut body = CONFIG_MAP.replace("NAME", name).into_bytes();
    let head = format!(
        "POST /api/v1/namespaces/default/configmaps HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n",
        body.len()
    );
    let rest = body.split_off(body.len() - 1);
    raw.send(head.as_bytes());
    raw.send(&body);
    rest
}

fn readyz(cluster: &Cluster) -> String {
    cluster.get("/readyz").text()
}

/// R23: readyz fails first, then new requests are refused and old ones answered; watches end cleanly.
#[test]
fn the_server_drains() {
    let cluster = control_plane!();
    let mut server = cluster.restart_apiserver(&["--shutdown-delay-duration=3s"]);
    let (h1, h2) = (Dialer::new(&cluster, "admin", "http/1.1"), Dialer::new(&cluster, "admin", "h2"));
    let mut posting = h1.dial();
    let rest = begin_post(&mut posting, "slow");
    let mut watching = h2.dial_http2();
    watching.ask(1, "/api/v1/namespaces/default/configmaps?watch=1&allowWatchBookmarks=true");
    watching.find_frame(|frame| frame.kind == raw::HEADERS && frame.stream == 1);
    let mut old = h1.dial();
    old.send(b"GET /api/v1/namespaces/default/configmaps?watch=1 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(old.read_until("\r\n\r\n").starts_with("HTTP/1.1 200 "));

    server.terminate();
    eventually("readyz fails while all else goes on", || readyz(&cluster).contains("[-]shutdown failed").then_some(()));
    assert_eq!(cluster.get("/livez").code, 200);
    cluster.get("/api/v1/namespaces/default/configmaps").expect(200);

    watching.find_frame(|frame| frame.kind == raw::GOAWAY);
    watching.find_frame(|frame| frame.stream == 1 && frame.flags & raw::END_STREAM != 0);
    assert!(old.read_to_end().ends_with("0\r\n\r\n"), "a watch over HTTP/1.1 ends by its last chunk");
    eventually("nobody listens any more", || cluster.try_get("/livez").is_none().then_some(()));
    posting.send(&rest);
    let answer = posting.read_to_end();
    assert!(answer.starts_with("HTTP/1.1 201 "), "a request under way is answered: {answer}");
    assert!(server.wait().success());
    cluster.up();
    cluster.get("/api/v1/namespaces/default/configmaps/slow").expect(200);
}
