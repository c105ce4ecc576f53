//! Health, version, metrics, headers.

use tests::control_plane;

/// Semantics lines 58 and 83.
#[test]
fn health_version_metrics_and_headers() {
    let cluster = control_plane!();
    for path in ["/livez", "/readyz", "/healthz", "/readyz/etcd"] {
        let reply = cluster.get(path);
        assert_eq!((reply.code, reply.text().trim()), (200, "ok"), "{path}");
    }
    let verbose = cluster.get("/readyz?verbose").text();
    assert!(verbose.contains("[+]etcd ok") && verbose.contains("readyz check passed"), "{verbose}");
    assert_eq!(cluster.get("/version").expect(200)["minor"], "36");
    let reply = cluster.get("/api/v1/namespaces/default");
    assert!(reply.header("audit-id").is_some_and(|id| id.len() == 36));
    assert_eq!(reply.header("cache-control"), Some("no-cache, private"));
    let metrics = cluster.get("/metrics").text();
    for name in ["apiserver_request_total", "apiserver_request_duration_seconds", "apiserver_current_inflight_requests"]
    {
        assert!(metrics.contains(name), "no {name}");
    }
    let keys = cluster.get("/openid/v1/jwks").expect(200);
    assert!(keys["keys"].as_array().is_some_and(|keys| !keys.is_empty()));
}
